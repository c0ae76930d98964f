"""A head in the style of its portrait: the same filter over skin, hair, eyes and clothes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from deca.reconstruct import Reconstruction
from deca.synth_styles import blur, stylize
from deca.texture import TextureConfig, skin_texture
from flame.material import Material
from flame.model import Flame
from flame.outfit import Outfit

_BROAD = 1 / 24  # of the texture's side: tones broader than this are the filtered texture's
# the picture is taken as it is: strokes are no skin, and no outliers
_TRUSTING = TextureConfig(detail=1.0, outlier=30.0, one_sided=1.0)
_ROUGHNESS = {"anime": 0.95, "oil": 0.55, "pencil": 1.0, "watercolour": 1.0, "clay": 0.85,
              "neon": 0.9}  # fmt: skip
_LASHES = {"neon": (1.0, 0.35, 0.85), "clay": (0.55, 0.36, 0.27)}


@torch.no_grad()
def painted_skin(
    found: Reconstruction,
    picture: Float[Tensor, "1 3 H W"],
    style: str,
    flame: Flame,
    outfit: Outfit,
) -> Float[Tensor, "3 K K"]:
    """The skin's base colour in a style.

    All of it is the fitted texture, filtered; where the picture shows skin, strokes and lines are
    those of `picture`, which is the portrait in that style.
    """
    whole = stylize(found.texture.base_color[None], style)
    size = int(min(max(found.located.side, 256), 1024))  # as the picture's own, about
    fine = found.located.closer(picture, size)
    seen = skin_texture(flame, outfit.albedo, found.codes, fine.image, _TRUSTING)
    sigma = _BROAD * whole.shape[-1]
    front, base = (image.clamp(min=0.01).log() for image in (seen.base_color[None], whole))
    traced = blur(base, sigma) + (front - blur(front, sigma))
    share = found.texture.coverage[None] * seen.coverage[None]
    return (share * traced + (1 - share) * base).exp().clamp(0, 1)[0]


@torch.no_grad()
def painted(materials: Sequence[Material], style: str) -> tuple[Material, ...]:
    """Everything but the skin in a style too; relief that would break flat colours is left out."""
    return tuple(_painted(material, style) for material in materials)


def _painted(material: Material, style: str) -> Material:
    rough = _ROUGHNESS[style] if material.name != "eyes" else min(_ROUGHNESS[style], 0.3)
    # clay is modelled: it keeps its pores
    normal = material.normal if style == "clay" else None
    color = material.base_color
    if material.name == "lashes":
        if style in _LASHES:
            tint = color.new_tensor(_LASHES[style])[:, None, None].expand_as(color[:3])
            color = torch.cat([tint, color[3:]])
        return dataclasses.replace(material, base_color=color)
    if material.name != "skin" and min(color.shape[-2:]) >= 16:
        color = torch.cat([stylize(color[None, :3], style)[0], color[3:]])
    return dataclasses.replace(material, base_color=color, normal=normal, roughness=rough)
