"""Colours that the face model does not carry, read off the portrait: those of the irises."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from deca.codes import Codes
from deca.landmark_points import pupil_verts
from flame.light import sh_shading
from flame.model import Flame
from flame.srgb import linear_to_srgb, srgb_to_linear

Rgb = tuple[float, float, float]

IRIS_RADIUS = 0.0055  # metres, on the shipped head's eyes
_DEFAULT_IRIS: Rgb = (0.30, 0.20, 0.12)


@torch.no_grad()
def iris_color(flame: Flame, codes: Codes, crop: Float[Tensor, "1 3 H W"]) -> Rgb:
    """Median colour of both irises with the light taken out; brown where they are too small."""
    size = (crop.shape[-2], crop.shape[-1])
    verts = flame(codes.params).verts
    centers = codes.camera.project(verts[:, pupil_verts(flame)], size)[0, :, :2]
    radius = float(codes.camera.scale[0]) * IRIS_RADIUS * size[0] / 2
    if radius < 2.5:
        return _DEFAULT_IRIS
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    rings = []
    for center in centers:
        distance = ((x - center[0]) ** 2 + (y - center[1]) ** 2).sqrt() / radius
        # the lid shades the upper half
        rings.append((distance > 0.5) & (distance < 0.85) & (y > center[1] - 0.25 * radius))
    pixels = srgb_to_linear(crop[0].movedim(0, -1)[rings[0] | rings[1]])
    if len(pixels) < 8:
        return _DEFAULT_IRIS
    front = torch.tensor([[[0.0, 0.0, 1.0]]])
    light = sh_shading(front, codes.light)[0, 0].clamp(min=0.1)
    # lids and lashes keep some of that light from the iris
    return bounded_rgb(pixels.median(0).values / (0.75 * light), 0.03, 0.55)


def bounded_rgb(linear: Float[Tensor, 3], low: float, high: float) -> Rgb:
    """The sRGB colour of a linear one, whose parts are first brought within bounds."""
    red, green, blue = linear_to_srgb(linear.clamp(low, high)).tolist()
    return red, green, blue
