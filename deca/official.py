"""The published encoders: told apart by content, loaded whole, and mixed on one portrait."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.weights import read_tensors
from deca.codes import Crop
from deca.emoca import Emoca, deca_part
from deca.mica import Mica
from deca.official_codes import CROP_OF, CodeParts, Mix, OfficialCodes, mixed
from deca.official_crop import CropConfig, official_crop
from deca.official_deca import Deca, DecaConfig
from deca.official_encoder import OfficialEncoder
from deca.smirk import PREFIX, Smirk


@dataclass(frozen=True, eq=False)
class OfficialReconstruction:
    """Codes of one portrait, and the crop that their camera belongs to."""

    codes: OfficialCodes
    crop: Crop


def load_encoder(path: Path, config: DecaConfig | None = None) -> OfficialEncoder:
    """The published encoder in a file: Deca, Emoca, Mica or Smirk, told by its tensors' names.

    The settings hold for DECA and EMOCA. A network goes in whole or not at all: AssetError lists
    every missing, unexpected and misshapen key, or says what the file holds instead.
    """
    return encoder_of(read_tensors(path), str(path), config)


def encoder_of(
    tensors: Mapping[str, Tensor], described: str, config: DecaConfig | None = None
) -> OfficialEncoder:
    """What `load_encoder` returns, of tensors already read."""

    def some(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in tensors)

    if some("arcface.") and some("flameModel."):
        return Mica.of_tensors(tensors, described)
    if some(PREFIX):
        return Smirk.of_tensors(tensors, described)
    if inner := deca_part(tensors):
        if any(name.startswith("E_expression.") for name in inner):
            return Emoca.of_tensors(tensors, described, config)
        return Deca.of_tensors(inner, described, config)
    if some("E_flame."):
        return Deca.of_tensors(tensors, described, config)
    groups = sorted({name.split(".")[0] for name in tensors})
    shown = ", ".join(groups[:8]) + (", ..." if len(groups) > 8 else "")
    raise AssetError(
        f"{described} holds none of the known encoders (DECA, EMOCA, MICA, SMIRK) but {shown}; "
        "check which file it is"
    )


def encode_portrait(
    encoders: Iterable[OfficialEncoder],
    mix: Mix,
    image: Float[Tensor, "1 3 H W"],
    points68: Float[Tensor, "68 2"],
    config: CropConfig | None = None,
) -> OfficialReconstruction:
    """Codes of the face whose 68 points are given in pixels, each group from the mix's encoder.

    Every encoder sees the crop that it was trained on; the camera holds for the returned crop.
    """
    named = {encoder.name: encoder for encoder in encoders}
    crops: dict[str, Crop] = {}
    parts: dict[str, CodeParts] = {}
    for name in mix.encoders():
        if name not in named:
            raise ValueError(f"the mix needs {name}; load it with load_encoder")
        kind = CROP_OF[name]
        if kind not in crops:
            crops[kind] = official_crop(image, points68, kind, config)
        parts[name] = named[name].encode(crops[kind].image)
    assert mix.camera is not None
    return OfficialReconstruction(mixed(mix, parts), crops[CROP_OF[mix.camera]])
