"""Between linear light and the values that sRGB files store (IEC 61966-2-1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def srgb_to_linear(colour: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Linear light of sRGB values 0..1; differentiable everywhere."""
    curve = ((colour.clamp(min=0.04) + 0.055) / 1.055) ** 2.4
    return torch.where(colour <= 0.04045, colour / 12.92, curve)


def linear_to_srgb(light: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """sRGB values of linear light 0..1; differentiable everywhere."""
    curve = 1.055 * light.clamp(min=0.003) ** (1 / 2.4) - 0.055
    return torch.where(light <= 0.0031308, light * 12.92, curve)
