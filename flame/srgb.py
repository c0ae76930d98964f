"""Between linear light, what sRGB files store (IEC 61966-2-1), and CIELAB."""

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


def srgb_to_lab(image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
    """CIELAB (D65) of an sRGB image."""
    matrix = image.new_tensor(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    white = image.new_tensor([0.9505, 1.0, 1.089])[:, None, None]
    xyz = torch.einsum("ij,jhw->ihw", matrix, srgb_to_linear(image)) / white
    curve = torch.where(xyz > 0.008856, xyz.clamp(min=1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = curve
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])
