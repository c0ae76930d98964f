"""What random people wear: the shipped outfit with eyes and lashes of many kinds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flame.albedo import AlbedoModel
from flame.hair import HairStyle
from flame.outfit import Outfit, to_floats
from flame.paint_cloth import paint_lashes
from flame.paint_eye import IRIS_COLORS, paint_eye

_HAIR_SIDE = 256  # texels; pictures are small, and each person's hair is dyed anew
_MOUTH_SIDE = 256
_PUPILS_DEG = (6.5, 9.0)


@dataclass(frozen=True, eq=False)
class Wardrobe:
    """Everything that can be put on a bare head; textures are sRGB 0..1."""

    albedo: AlbedoModel
    eyes: dict[str, list[Tensor]]  # by colour word, [3, K, K] each
    mouth: Float[Tensor, "3 K K"]
    lashes: list[Tensor]  # [4, H, W] each, the last without hairs
    hair: dict[str, HairStyle]


def make_wardrobe(outfit: Outfit, *, generator: torch.Generator) -> Wardrobe:
    """The outfit in small textures, with painted eyes of every colour; takes seconds."""
    eyes = {
        word: [
            paint_eye(word, pupil_deg=pupil, size=192, generator=generator) for pupil in _PUPILS_DEG
        ]
        for word in IRIS_COLORS
    }
    lashes = [
        paint_lashes(count=count, size=(64, 128), generator=generator) for count in (40, 70, 110)
    ]
    lashes.append(torch.zeros_like(lashes[0]))
    hair = {
        name: dataclasses.replace(style, texture=_small(style.texture, _HAIR_SIDE))
        for name, style in outfit.hair.items()
    }
    mouth = _small(to_floats(outfit.mouth), _MOUTH_SIDE)
    return Wardrobe(outfit.albedo, eyes, mouth, lashes, hair)


def _small(image: Float[Tensor, "C K K"], side: int) -> Tensor:
    return F.interpolate(image[None], size=(side, side), mode="area")[0]
