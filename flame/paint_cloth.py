"""Lash hairs and shirt cloth: textures that do not depend on the head's layout."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter
from torch import Tensor


def paint_lashes(
    *,
    count: int = 90,
    size: tuple[int, int] = (256, 512),
    generator: torch.Generator,
) -> Float[Tensor, "4 H W"]:
    """Dark brown lashes with alpha on a strip: u from the nose outward, v from root to tip.

    The colour runs on under the transparent texels, so filtering leaves no pale fringe.
    """
    if count < 1:
        raise ValueError(f"count={count} lashes; draw at least one")
    height, width = size
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    root = (np.arange(count) + rng.uniform(-0.6, 0.6, count)) / count
    # longest two thirds outward; lashes lean away from the middle and gather in small groups
    long = np.interp(root, (0, 0.1, 0.35, 0.7, 0.93, 1), (0.35, 0.55, 0.8, 0.95, 0.75, 0.5))
    long = np.clip(long * rng.uniform(0.72, 1.05, count), 0.1, 0.97)
    lean = 0.10 * (root - 0.30) + 0.015 * np.sin(root * 75) + rng.normal(0, 0.006, count)
    t = np.linspace(0, 1, 3 * height)
    x = (root[:, None] + lean[:, None] * t**1.7) * width
    y = long[:, None] * t * height
    radius = 2.1 * width / 512 * rng.uniform(0.8, 1.15, count)[:, None] * (1 - t) ** 0.65
    alpha = np.zeros((height, width))
    columns = np.arange(width) + 0.5
    for hair in range(count):
        # each hair is a function x(y): draw it row by row
        rows = (np.arange(height) + 0.5).clip(0, y[hair, -1])
        along = rows / max(y[hair, -1], 1e-9)
        middle = np.interp(along, t, x[hair])
        half = np.interp(along, t, radius[hair])
        cover = np.clip(half[:, None] + 0.5 - np.abs(columns - middle[:, None]), 0, 1)
        cover *= np.clip(2 * half[:, None], 0, 1)
        cover *= ((np.arange(height) + 0.5) <= y[hair, -1])[:, None]
        alpha = np.maximum(alpha, cover)
    alpha *= np.clip((np.arange(height) + 1.5) / (0.03 * height), 0, 1)[:, None]
    image = np.empty((4, height, width), np.float32)
    image[:3] = np.array([0.070, 0.050, 0.042])[:, None, None]
    image[3] = alpha[::-1]
    return torch.from_numpy(image)


def paint_shirt(
    color: tuple[float, float, float], *, wales: int = 48, size: int = 512
) -> tuple[Float[Tensor, "3 K K"], Float[Tensor, "3 K K"]]:
    """Base colour (sRGB) and tangent-space normals of plain knit; tiles in both directions."""
    if len(color) != 3 or not all(0 <= value <= 1 for value in color):
        raise ValueError(f"shirt colour {color} must be red, green and blue from 0 to 1")
    place = (np.arange(size) + 0.5) / size
    u, v = place[None, :] * wales, place[::-1, None] * wales * 1.25
    across = u % 1 - 0.5
    # a wale is two columns of slanted yarn that meet in a V
    slanted = (v + 0.9 * np.abs(across) * 2) % 1 - 0.5
    leg = np.abs(np.abs(across) - 0.25) / 0.25
    height = np.sqrt(np.clip(1 - leg**2, 0, 1)) * np.sqrt(np.clip(1 - (1.7 * slanted) ** 2, 0, 1))
    height = gaussian_filter(height, 0.5 * size / 512, mode="wrap")
    shade = 0.80 + 0.20 * height / max(float(height.max()), 1e-9)
    base = np.asarray(color)[:, None, None] * shade
    # bumps about a third as high as a stitch is wide
    scale = size / wales * 0.22
    slope_u = (np.roll(height, -1, 1) - np.roll(height, 1, 1)) / 2 * scale
    slope_v = -(np.roll(height, -1, 0) - np.roll(height, 1, 0)) / 2 * scale
    normal = np.stack([-slope_u, -slope_v, np.ones_like(slope_u)])
    normal /= np.linalg.norm(normal, axis=0)
    return (
        torch.from_numpy(np.clip(base, 0, 1).astype(np.float32)),
        torch.from_numpy((normal * 0.5 + 0.5).astype(np.float32)),
    )
