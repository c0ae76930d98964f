"""Everything that decides what a generated picture looks like, in one record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeAlias, TypeVar

from diffusion.prompt import read_prompt

LONGEST = 20_000  # characters of a prompt
KINDS = (
    "txt2img",
    "img2img",
    "inpaint",
    "outpaint",
    "upscale",
    "variation",
    "interpolate",
    "fuse",
    "regional",
    "unconditional",
    "class",
    "reimagine",
    "restore",
)

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom, 0..1 of the picture


@dataclass(frozen=True)
class Extra:
    """Something besides the model that went into a picture, such as an adapter or a condition."""

    kind: str  # what it is, and the option that gives it
    name: str
    sha256: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Toward:
    """The recipe at the other end of a way, and how far toward it a picture lies, 0..1."""

    prompt: str
    share: float
    negative: str = ""
    seed: int = 0
    cfg: float = 7.0


@dataclass(frozen=True)
class Recipe:
    """The settings of a picture, named as in the web UI; with the model they give it again.

    Picture k of a batch starts from the noise of `seed` + k, drawn on the CPU. What else went in
    (pictures, masks) is named by its checksum.
    """

    prompt: str
    negative: str = ""
    sampler: str = "DPM++ 2M Karras"
    steps: int = 25
    cfg: float = 7.0
    rescale: float = 0.0  # 0..1, Lin et al. 2023, section 3.4
    clip_skip: int = 1  # 1 is the last layer of the text encoder, 2 the one before
    seed: int = 0
    size: tuple[int, int] | None = None  # width, height; None is the model's own
    batch: int = 1
    strength: float = 0.75  # how much of a given picture is made anew, 0..1
    threshold: float | None = None  # dynamic thresholding's percentile
    loras: tuple[tuple[str, float], ...] = ()  # besides those in the prompt
    hires: float = 1.0  # the second pass draws this many times larger
    hires_strength: float = 0.5
    regions: tuple[tuple[str, Box], ...] = ()  # what is drawn where
    variation: float = 0.0  # 0..1, how far the noise lies toward that of `variation_seed`
    variation_seed: int = 1
    safety_checker: bool = True
    kind: str = "txt2img"
    model: str = ""
    model_hash: str = ""
    image_sha256: str = ""
    mask_sha256: str = ""
    margins: tuple[int, int, int, int] | None = None  # left, right, top, bottom, px added
    toward: Toward | None = None
    extras: tuple[Extra, ...] = ()

    def __post_init__(self) -> None:
        for name in ("prompt", "negative"):
            text = getattr(self, name)
            if len(text) > LONGEST:
                raise ValueError(
                    f"the {name} has {len(text)} characters, more than the {LONGEST} that are "
                    "read; shorten it"
                )
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise ValueError(f"the {name} holds half a character; type it again in UTF-8")
        read_prompt(self.prompt)
        whole = (("steps", 1, 1000), ("batch", 1, 256), ("clip_skip", 1, 12), ("seed", 0, 2**63))
        shares = (("rescale", 0, 1), ("strength", 0, 1), ("hires_strength", 0, 1),
                  ("variation", 0, 1), ("hires", 1, 8), ("cfg", 0, 100))  # fmt: skip
        for name, low, high in (*whole, *shares):
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ValueError(f"{name}={value} must be from {low} to {high}")
        for name, side in zip(("width", "height"), self.size or (), strict=False):
            if side < 8 or side % 8 or side > 8192:
                raise ValueError(f"{name}={side} must be a multiple of 8, from 8 to 8192")
        for words, (left, top, right, bottom) in self.regions:
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ValueError(
                    f"the box of {words!r} is {(left, top, right, bottom)}; give left, top, right, "
                    "bottom as shares of the picture from 0 to 1"
                )
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} is none of {', '.join(KINDS)}")
        if self.toward is not None:
            if not 0 <= self.toward.share <= 1:
                raise ValueError(f"share={self.toward.share} of the way must be from 0 to 1")
            self.other_end()

    def needs_words(self) -> Recipe:
        """Itself, for what cannot be made without a prompt."""
        if not self.prompt.strip():
            raise ValueError("the prompt is empty; say what the picture shows")
        return self

    def change(self, **changes: Any) -> Recipe:
        """A copy with some settings changed."""
        return replace(self, **changes)

    def other_end(self) -> Recipe:
        """The recipe that `toward` names; itself where it names none."""
        if self.toward is None:
            return self
        end = self.toward
        return self.change(
            prompt=end.prompt, negative=end.negative, seed=end.seed, cfg=end.cfg, toward=None
        )

    def all_loras(self) -> tuple[tuple[str, float], ...]:
        """The LoRAs given beside the prompt and in it."""
        tags = ((tag.name, tag.weight) for tag in read_prompt(self.prompt).loras)
        return (*self.loras, *tags)


_Part = TypeVar("_Part", Extra, Toward)


def to_json(recipe: Recipe) -> dict[str, Any]:
    """The settings as plain values, by name."""
    return asdict(recipe)


def from_json(stored: Mapping[str, Any]) -> Recipe:
    """The recipe of `to_json`'s values; an unknown or misshapen one is a ValueError naming it."""
    known = {each.name: each for each in fields(Recipe)}
    unknown = sorted(set(stored) - set(known))
    if unknown:
        raise ValueError(
            f"the recipe has {unknown[0]!r}, which this version does not know; it knows "
            f"{', '.join(known)}"
        )
    values: dict[str, Any] = {}
    for name, value in stored.items():
        wanted = str(known[name].type)
        if name == "size" and value is not None:
            values[name] = _pair(value)
        elif name == "loras":
            values[name] = tuple(_lora(one) for one in value)
        elif name == "regions":
            values[name] = tuple(_region(one) for one in value)
        elif name == "margins" and value is not None:
            values[name] = _four(value)
        elif name == "toward" and value is not None:
            values[name] = _part(Toward, value, "other end")
        elif name == "extras":
            values[name] = tuple(_part(Extra, one, "extra") for one in value)
        elif _fits(value, wanted):
            is_number = wanted.startswith("float") and value is not None
            values[name] = float(value) if is_number else value
        else:
            raise ValueError(f"the recipe's {name} is {value!r}, which is no {wanted}")
    if "prompt" not in values:
        raise ValueError("the recipe has no prompt; give a picture that was generated")
    return Recipe(**values)


def _fits(value: object, wanted: str) -> bool:
    if wanted == "bool":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if wanted.startswith("float"):
        return isinstance(value, (int, float)) or (value is None and "None" in wanted)
    if wanted == "int":
        return isinstance(value, int)
    return isinstance(value, str) if wanted == "str" else value is None


def _pair(value: object) -> tuple[int, int]:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        width, height = value
        if _fits(width, "int") and _fits(height, "int"):
            return width, height
    raise ValueError(f"the recipe's size is {value!r}, which is not width and height")


def _lora(value: object) -> tuple[str, float]:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        name, weight = value
        if isinstance(name, str) and _fits(weight, "float"):
            return name, float(weight)
    raise ValueError(f"the recipe's LoRA {value!r} is not a name and a weight")


def _four(value: object) -> tuple[int, int, int, int]:
    if isinstance(value, (list, tuple)) and len(value) == 4:
        left, right, top, bottom = value
        if all(_fits(side, "int") for side in value):
            return left, right, top, bottom
    raise ValueError(f"the recipe's margins are {value!r}, which are not four whole numbers")


def _part(kind: type[_Part], value: object, called: str) -> _Part:
    """One of the records inside a recipe, of its fields by name."""
    known = {each.name: str(each.type) for each in fields(kind)}
    if (
        not isinstance(value, Mapping)
        or set(value) - set(known)
        or not all(_fits(one, known[name]) for name, one in value.items())
    ):
        raise ValueError(f"the recipe's {called} is {value!r}, which is none")
    try:
        return kind(**value)
    except TypeError as error:
        raise ValueError(f"the recipe's {called} is {value!r}, which lacks something") from error


def _region(value: object) -> tuple[str, Box]:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        words, box = value
        if isinstance(words, str) and len(box) == 4 and all(_fits(side, "float") for side in box):
            left, top, right, bottom = (float(side) for side in box)
            return words, (left, top, right, bottom)
    raise ValueError(f"the recipe's region {value!r} is not words and a box")
