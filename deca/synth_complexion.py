"""Skin of made-up sitters: brows and beards in the hair's colour, and the wrinkles of an age."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.ndimage import gaussian_filter
from torch import Tensor

from deca.shipped_detail import normal_map, prepared
from deca.synth_sitter import Sitter
from flame.albedo import AlbedoModel
from flame.hair_texture import HAIR_COLORS
from flame.material import Material
from flame.model import Flame
from flame.srgb import linear_to_srgb, srgb_to_linear
from flame.wrinkle_lines import GROUPS
from flame.wrinkle_map import joined_normals
from flame.wrinkles import wrinkles

BEARD = ("beard shadow", "moustache shadow")
HAIRS = ("brow density", "brow thickness", *BEARD)  # of the face
_SMOOTH = 0.1  # creases that nobody sees
_CREASE_SIDE = 512  # texels
_GRIZZLE = 0.12  # linear light that grey hairs add to old brows and beards
_DIM = 0.9  # ln of what light loses in a crease of a millimetre


def dyed(
    sitter: Sitter,
    model: AlbedoModel,
    names: Sequence[str],
    decode: Callable[[Float[Tensor, "1 A"]], Float[Tensor, "3 K K"]],
) -> tuple[Float[Tensor, "3 K K"], Float[Tensor, "3 K K"]]:
    """The skin with the named hairs in the colour of the head's, and without them; sRGB.

    `decode` makes the model's codes an image.
    """
    codes = sitter.albedo
    skin, bald = decode(codes), codes.clone()
    for name in names:
        index = model.names.index(name)
        # without its average amount too
        bald[:, index] = -model.offsets[index]
    smooth = decode(bald)
    drop = (srgb_to_linear(smooth) / srgb_to_linear(skin).clamp(min=1e-3)).mean(0).log()
    share = (1 - torch.exp(-1.6 * drop.clamp(min=0)))[None] * _strands(skin.shape[-1])
    color = torch.tensor(HAIR_COLORS[str(sitter.wish.hair_color)])[:, None, None]
    old = sitter.wish.age == "old"
    # brows are darker than hair, but for those that age has bleached
    dye = srgb_to_linear(color) * (0.7 if old else 0.5) + (_GRIZZLE if old else 0.0)
    mixed = srgb_to_linear(skin) * (1 - share) + dye * share
    return linear_to_srgb(mixed).clamp(0, 1), smooth


def creased(
    skin: Material, sitter: Sitter, flame: Flame, *, generator: torch.Generator
) -> Material:
    """The skin, which has a normal map, with the wrinkles of the sitter's age, in motion too."""
    if sitter.creases <= _SMOOTH:
        return skin
    assert skin.normal is not None
    person = wrinkles(
        flame,
        prepared(flame, _CREASE_SIDE),
        torch.full((len(GROUPS),), sitter.creases),
        sitter.shape,
        generator=generator,
    )
    height = person.at(sitter.weights)
    bumps = _resized(normal_map(height, flame), skin.normal)
    # light hardly reaches the bottom of a crease
    dim = torch.exp(_DIM * _resized(1000 * height[None], skin.base_color)[0].clamp(max=0))
    return dataclasses.replace(
        skin,
        base_color=skin.base_color * dim,
        normal=joined_normals(skin.normal[None], bumps)[0],
    )


def _resized(image: Float[Tensor, "1 C K K"], like: Tensor) -> Tensor:
    return F.interpolate(image, like.shape[-2:], mode="bilinear", align_corners=False)


@lru_cache(maxsize=2)
def _strands(side: int) -> Float[Tensor, "1 K K"]:
    """How far brows and beards take the hair's colour: streaks along v, 0..1."""
    noise = np.random.default_rng(7).standard_normal((side, side))
    streaks = gaussian_filter(noise, (side / 170, side / 900), mode="wrap")
    share = 0.50 + 0.34 * streaks / streaks.std()
    return torch.from_numpy(share.clip(0, 0.95).astype(np.float32))[None]
