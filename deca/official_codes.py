"""Codes of the published encoders, all in FLAME 2020's bases, and recipes that mix them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from flame.camera import Camera
from flame.light import sh_constant
from flame.params import Params
from flame.records import TensorRecord

GROUPS = (
    "shape",
    "expression",
    "jaw",
    "root",
    "camera",
    "albedo",
    "light",
    "detail",
    "eyelids",
)
_DECA_GROUPS = frozenset(GROUPS) - {"eyelids"}
# what each published encoder can give
GIVES: dict[str, frozenset[str]] = {
    "deca": _DECA_GROUPS,
    "emoca": _DECA_GROUPS,
    "mica": frozenset({"shape"}),
    "smirk": frozenset({"shape", "expression", "jaw", "root", "camera", "eyelids"}),
}
# encoders that see the same crop; a camera and a root rotation hold for one crop only
CROP_OF = {"deca": "deca", "emoca": "deca", "mica": "arcface", "smirk": "smirk"}
_WIDTHS = {"shape": 100, "expression": 50, "jaw": 3, "root": 3, "albedo": 50, "eyelids": 2}


@dataclass(frozen=True, eq=False)
class CodeParts(TensorRecord):
    """What one encoder says of B crops; None where it says nothing. Units as in OfficialCodes."""

    shape: Float[Tensor, "B S"] | None = None
    expression: Float[Tensor, "B E"] | None = None
    jaw: Float[Tensor, "B 3"] | None = None
    root: Float[Tensor, "B 3"] | None = None
    camera: Float[Tensor, "B 3"] | None = None
    albedo: Float[Tensor, "B A"] | None = None
    light: Float[Tensor, "B 9 3"] | None = None
    detail: Float[Tensor, "B 128"] | None = None
    eyelids: Float[Tensor, "B 2"] | None = None

    def given(self) -> tuple[str, ...]:
        """The names of the groups that are there."""
        return tuple(name for name in GROUPS if getattr(self, name) is not None)


@dataclass(frozen=True, eq=False)
class OfficialCodes(TensorRecord):
    """Complete codes of B portraits (Feng et al. 2021, section 3); rotations are axis-angle."""

    shape: Float[Tensor, "B S"]  # standard deviations; 100 of DECA, 300 of MICA and SMIRK
    expression: Float[Tensor, "B E"]
    jaw: Float[Tensor, "B 3"]
    root: Float[Tensor, "B 3"]
    camera: Float[Tensor, "B 3"]  # scale, shift x, shift y of the crop; see `crop_camera`
    albedo: Float[Tensor, "B A"]  # standard deviations of the texture space
    light: Float[Tensor, "B 9 3"]  # multiplies the albedo as stored, sRGB
    detail: Float[Tensor, "B 128"]
    eyelids: Float[Tensor, "B 2"]  # left, right, 0..1

    def to_params(self) -> Params:
        """FLAME parameters; neck and eyes are at rest, as no published encoder gives them."""
        batch = len(self.shape)
        return Params(
            shape=self.shape,
            expression=self.expression,
            root=self.root,
            neck=self.root.new_zeros(batch, 3),
            jaw=self.jaw,
            eyes=self.root.new_zeros(batch, 2, 3),
        )

    def crop_camera(self) -> Camera:
        """The weak-perspective camera of the crop: x to the right, y up, half a crop is 1."""
        zero = torch.zeros_like(self.camera[:, 0])
        return Camera(scale=self.camera[:, 0], shift=self.camera[:, 1:], fov_deg=zero)


def transfer(identity: OfficialCodes, source: OfficialCodes) -> OfficialCodes:
    """The identity with the source's expression, jaw and eyelids; head pose stays its own."""
    return replace(identity, expression=source.expression, jaw=source.jaw, eyelids=source.eyelids)


@dataclass(frozen=True)
class Mix:
    """Which encoder gives each group of codes: deca, emoca, mica or smirk; None leaves it neutral.

    Neutral is zero, and for the light an even white that shows the albedo unchanged.
    """

    shape: str | None = "deca"
    expression: str | None = "deca"
    jaw: str | None = "deca"
    root: str | None = "deca"
    camera: str | None = "deca"
    albedo: str | None = "deca"
    light: str | None = "deca"
    detail: str | None = "deca"
    eyelids: str | None = None

    def __post_init__(self) -> None:
        for group, giver in self.givers().items():
            if giver not in GIVES:
                raise ValueError(
                    f"{group} is to come from {giver!r}; known encoders are {', '.join(GIVES)}"
                )
            if group not in GIVES[giver]:
                able = ", ".join(name for name in GIVES if group in GIVES[name])
                raise ValueError(f"{giver} does not give {group}; these do: {able}")
        if self.camera is None or self.root is None:
            raise ValueError("a mix needs root and camera; take both from deca, emoca or smirk")
        if CROP_OF[self.camera] != CROP_OF[self.root]:
            raise ValueError(
                f"root from {self.root} and camera from {self.camera} belong to different crops; "
                "take both from one encoder"
            )

    def givers(self) -> dict[str, str]:
        """The encoder of each group that has one."""
        named = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {group: giver for group, giver in named.items() if giver is not None}

    def encoders(self) -> tuple[str, ...]:
        """The encoders that the recipe needs."""
        return tuple(name for name in GIVES if name in self.givers().values())

    @staticmethod
    def read(recipe: str) -> Mix:
        """The mix that a text names, in any case of letters.

        "MICA shape + EMOCA expression + DECA albedo, light, detail": after each encoder's name the
        groups that it gives, or nothing for all that no other is named for. What remains comes from
        the last encoder that can give it; eyelids are never taken unasked.
        """
        chosen: dict[str, str | None] = {}
        names, whole = [], []
        for clause in recipe.split("+"):
            name, *groups = re.split(r"[\s,]+", clause.strip().lower().rstrip(","))
            if name not in GIVES:
                raise ValueError(
                    f"{clause.strip()!r} does not begin with an encoder ({', '.join(GIVES)})"
                )
            if unknown := set(groups) - set(GROUPS):
                raise ValueError(
                    f"{', '.join(sorted(unknown))} in {recipe!r}: groups are {', '.join(GROUPS)}"
                )
            names.append(name)
            if not groups:
                whole.append(name)
            for group in groups:
                if chosen.setdefault(group, name) != name:
                    raise ValueError(f"{recipe!r} takes {group} from {chosen[group]} and {name}")
        for group in GROUPS:
            rest = whole if group == "eyelids" else [*whole, *reversed(names)]
            able = (name for name in rest if group in GIVES[name])
            chosen.setdefault(group, next(able, None))
        return Mix(**chosen)


BEST_OF = Mix(shape="mica", expression="emoca", jaw="emoca")


def mixed(mix: Mix, parts: Mapping[str, CodeParts]) -> OfficialCodes:
    """The codes that the recipe makes of each encoder's answer for the same portraits."""
    if missing := [name for name in mix.encoders() if name not in parts]:
        raise ValueError(f"the mix needs {', '.join(missing)}; load them with load_encoder")
    chosen: dict[str, Tensor] = {}
    for group, giver in mix.givers().items():
        value = getattr(parts[giver], group)
        if value is None:
            raise ValueError(
                f"{giver} gave no {group}; its file or its settings leave it out, "
                "take it from another encoder or from none"
            )
        chosen[group] = value
    camera = chosen["camera"]
    batch = len(camera)
    for group, width in _WIDTHS.items():
        if group not in chosen:
            chosen[group] = camera.new_zeros(batch, width)
    if "detail" not in chosen:
        chosen["detail"] = camera.new_zeros(batch, 128)
    if "light" not in chosen:
        chosen["light"] = sh_constant(camera.new_ones(batch, 3))
    return OfficialCodes(**chosen)
