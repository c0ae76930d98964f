"""A head's own hair, eyes and clothes in the colours that a prompt names, before what it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from deca.prompt_colors import CLOTH
from deca.prompt_wish import Wish
from deca.synth_backdrop import draw_backdrop
from deca.synth_portrait import striped
from deca.synth_sitter import settle
from flame.hair_texture import hair_material
from flame.material import Material
from flame.paint_cloth import paint_shirt
from flame.paint_eye import paint_eye
from flame.srgb import srgb_to_linear

_LUMA = (0.2126, 0.7152, 0.0722)
_THIN = 0.5  # alpha of hair that hardly counts
_DARKEST = 1e-3


def recoloured(materials: Sequence[Material], wish: Wish) -> tuple[Material, ...]:
    """The materials with those that the wish names a colour for in it; locks and stitches stay."""
    made = {material.name: material for material in materials}
    if wish.hair_color is not None and "hair" in made:
        made["hair"] = hair_material(_shades(made["hair"].base_color), wish.hair_color)
    if wish.eyes is not None and "eyes" in made:
        iris = paint_eye(wish.eyes, generator=torch.Generator().manual_seed(0))
        made["eyes"] = replace(made["eyes"], base_color=iris)
    if wish.clothes_color is not None and "shirt" in made:
        red, green, blue = (value / 255 for value in CLOTH[wish.clothes_color])
        cloth, knit = paint_shirt((red, green, blue))
        made["shirt"] = replace(made["shirt"], base_color=cloth, normal=knit)
        if wish.stripes:
            made["shirt"] = striped(made["shirt"], CLOTH[wish.stripes])
    return tuple(made.values())


def place_of(wish: Wish, size: int) -> Float[Tensor, "3 S S"] | None:
    """The background that the wish names, sRGB; None where it names none."""
    if wish.background is None and wish.background_color is None:
        return None
    rng = np.random.default_rng(0)
    return draw_backdrop(settle(wish, rng), size, rng)


def _shades(base_color: Float[Tensor, "4 H W"]) -> Float[Tensor, "2 H W"]:
    """Shade and alpha of dyed hair: 0.5 is the colour itself, in linear light."""
    light = torch.tensordot(torch.tensor(_LUMA), srgb_to_linear(base_color[:3]), dims=1)
    alpha = base_color[3]
    hair = light[alpha > _THIN]
    usual = hair.mean() if len(hair) else light.mean()
    return torch.stack([(0.5 * light / usual.clamp(min=_DARKEST)).clamp(0, 1), alpha])
