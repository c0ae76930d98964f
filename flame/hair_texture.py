"""Pictures of hair: an atlas of strand strips beside a picture of the scalp, and its material."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from flame.material import Material

Array = npt.NDArray[np.float64]

# sRGB as a colour picker shows it
HAIR_COLORS: dict[str, tuple[float, float, float]] = {
    "black": (0.120, 0.105, 0.100),
    "dark brown": (0.190, 0.130, 0.100),
    "brown": (0.330, 0.220, 0.150),
    "light brown": (0.470, 0.340, 0.230),
    "auburn": (0.430, 0.165, 0.090),
    "red": (0.580, 0.240, 0.110),
    "strawberry": (0.740, 0.470, 0.310),
    "dark blonde": (0.620, 0.490, 0.310),
    "blonde": (0.780, 0.640, 0.430),
    "platinum": (0.900, 0.820, 0.650),
    "grey": (0.460, 0.450, 0.440),
    "silver": (0.690, 0.695, 0.705),
    "white": (0.900, 0.895, 0.880),
    "blue": (0.150, 0.290, 0.620),
    "teal": (0.090, 0.440, 0.450),
    "green": (0.200, 0.450, 0.220),
    "purple": (0.380, 0.200, 0.560),
    "pink": (0.860, 0.450, 0.600),
}
ALPHA_CUTOFF = 0.4


@dataclass(frozen=True)
class Strip:
    """One card's rectangle of the atlas, in UV; the root is at v1, the tip at v0."""

    u0: float
    u1: float
    v0: float
    v1: float


# The scalp fills the lower left quarter. Four kinds of strips fill the rest: full locks, short
# tufts with ragged ends, opaque and dark ones for the layer underneath, thin wisps for the outside.
SCALP = Strip(0.0, 0.5, 0.0, 0.5)
LOCKS = tuple(Strip(k / 16, (k + 1) / 16, 0.5, 1.0) for k in range(10))
TUFTS = tuple(Strip(k / 16, (k + 1) / 16, 0.5, 1.0) for k in range(10, 16))
UNDER = tuple(Strip(0.5 + k / 16, 0.5 + (k + 1) / 16, 0.0, 0.5) for k in range(4))
WISPS = tuple(Strip(0.75 + k / 16, 0.75 + (k + 1) / 16, 0.0, 0.5) for k in range(4))


def paint_strands(size: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Shade and alpha [size, size] of every strip; the scalp's quarter stays empty."""
    shade, alpha = np.full((size, size), 0.3), np.zeros((size, size))
    kinds = [
        (LOCKS, 17, 0.066, 0.50, 0.82),
        (TUFTS, 15, 0.062, 0.47, 0.42),
        (UNDER, 20, 0.080, 0.36, 0.84),
        (WISPS, 7, 0.046, 0.52, 0.60),
    ]
    for strips, n_strands, width, tone, shortest in kinds:
        for strip in strips:
            rows = slice(round((1 - strip.v1) * size), round((1 - strip.v0) * size))
            columns = slice(round(strip.u0 * size), round(strip.u1 * size))
            height, breadth = rows.stop - rows.start, columns.stop - columns.start
            strip_tone = tone * rng.uniform(0.86, 1.16)
            shade[rows, columns], alpha[rows, columns] = _paint_strip(
                height, breadth, n_strands, width, strip_tone, shortest, rng
            )
    return shade, alpha


def _paint_strip(
    height: int,
    breadth: int,
    n_strands: int,
    width: float,
    tone: float,
    shortest: float,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    along = ((np.arange(height) + 0.5) / height)[:, None]  # 0 at the root, 1 at the tip
    across = ((np.arange(breadth) + 0.5) / breadth)[None]
    # dark roots stand in for the shadow of the hair above
    gradient = 0.68 + 0.34 * np.clip(along / 0.20, 0, 1) - 0.10 * along
    shade = np.repeat(0.62 * tone * gradient, breadth, axis=1)
    alpha = np.zeros((height, breadth))
    tip_centre = rng.uniform(0.4, 0.6)
    for strand in range(n_strands):
        root = 0.06 + 0.88 * (strand + rng.uniform(0.2, 0.8)) / n_strands
        # strands of a clump run together towards its tip
        tip = tip_centre + (root - 0.5) * rng.uniform(0.15, 0.75)
        end = rng.uniform(shortest, 1.0) - 0.22 * abs(root - 0.5)
        start = rng.uniform(0.0, 0.07)
        wave = 0.018 * np.sin(rng.uniform(4, 9) * along + rng.uniform(0, 6.3)) * along
        centre = root + (tip - root) * along**1.6 + wave
        left = np.clip((end - along) / end, 0, 1)
        radius = width * rng.uniform(0.7, 1.2) * left**0.55 * np.clip((along - start) / 0.02, 0, 1)
        radius = np.minimum(radius, np.clip(0.5 - np.abs(centre - 0.5) - 1.0 / breadth, 0, 1))
        away = (across - centre) / np.maximum(radius, 1e-6)
        cover = np.clip((radius - np.abs(across - centre)) * breadth + 0.5, 0, 1)
        cover = cover * (radius > 0.3 / breadth)
        round_ = 0.72 + 0.36 * np.sqrt(np.clip(1 - (away * 0.9) ** 2, 0, 1))
        colour = tone * rng.uniform(0.78, 1.24) * round_ * gradient
        shade = shade * (1 - cover) + colour * cover
        alpha = np.maximum(alpha, cover)
    return shade, alpha


def paint_scalp(
    size: int,
    roots: Array,
    directions: Array,
    lengths: Array,
    opaque: Array,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Shade and alpha [size, size] of the scalp: a dark ground where `opaque`, and short strokes.

    `roots` [N, 2] are in pixels (x to the right, y down), `directions` [N, 2] of unit length,
    `lengths` [N] in pixels; `opaque` [size, size] is 0..1.
    """
    shade = np.full((size, size), 0.30)
    alpha = opaque.copy()
    half = int(np.ceil(lengths.max() / 2)) + 2
    window = np.stack(np.meshgrid(*[np.arange(-half, half + 1)] * 2), -1)  # [w, w, 2]
    tones = 0.34 * rng.uniform(0.72, 1.3, len(roots))
    for batch in np.array_split(np.arange(len(roots)), 60):  # later batches lie on top
        root, direction, length = roots[batch], directions[batch], lengths[batch][:, None, None]
        centre = np.floor(root + direction * lengths[batch][:, None] / 2).astype(int)
        pixels = centre[:, None, None] + window  # [n, w, w, 2]
        away = pixels + 0.5 - root[:, None, None]
        along = (away * direction[:, None, None]).sum(-1) / length
        away = (
            away[..., 0] * direction[:, 1, None, None] - away[..., 1] * direction[:, 0, None, None]
        )
        radius = 0.8 * (1 - 0.75 * np.clip(along, 0, 1))
        cover = np.clip(radius - np.abs(away) + 0.5, 0, 1) * ((along > 0) & (along < 1))
        x, y = pixels[..., 0], pixels[..., 1]
        drawn = (cover > 0) & (np.minimum(x, y) >= 0) & (np.maximum(x, y) < size)
        tone = np.broadcast_to(tones[batch][:, None, None], cover.shape)[drawn]
        y, x, cover = y[drawn], x[drawn], cover[drawn]
        shade[y, x] = shade[y, x] * (1 - cover) + tone * cover
        np.maximum.at(alpha, (y, x), cover)
    return shade, alpha


def hair_material(
    texture: Float[Tensor, "2 H W"], color: tuple[float, float, float] | str
) -> Material:
    """The material of a hair texture (shade, alpha) dyed in an sRGB colour or one of HAIR_COLORS.

    Shade 0.5 shows the colour itself; shades multiply in linear light.
    """
    if isinstance(color, str):
        if color not in HAIR_COLORS:
            raise ValueError(
                f"hair colour {color!r} is unknown; pass red, green, blue in 0..1 or one of: "
                + ", ".join(HAIR_COLORS)
            )
        color = HAIR_COLORS[color]
    if len(color) != 3 or not all(0 <= channel <= 1 for channel in color):
        raise ValueError(f"hair colour {color} is not three numbers in 0..1; mend the values")
    shade, alpha = texture[:1], texture[1:]
    dye = texture.new_tensor(color)[:, None, None]
    dyed = (_linear(dye) * (2 * shade)).clamp(0, 1)
    return Material(
        name="hair",
        base_color=torch.cat([_display(dyed), alpha]),
        normal=strand_normals(shade),
        roughness=0.58,
        alpha_mode="MASK",
        alpha_cutoff=ALPHA_CUTOFF,
        double_sided=True,
    )


def strand_normals(shade: Float[Tensor, "1 H W"]) -> Float[Tensor, "3 H W"]:
    """Tangent-space normals, 0..1, of the relief whose bright parts are high."""
    width = shade.shape[2]
    strength = 0.0022 * width  # the same slope whatever the resolution
    right = torch.roll(shade, -1, 2) - torch.roll(shade, 1, 2)
    up = torch.roll(shade, 1, 1) - torch.roll(shade, -1, 1)
    slope = torch.cat([-strength * right, -0.2 * strength * up, torch.ones_like(shade)])
    unit: Tensor = slope / slope.norm(dim=0, keepdim=True)
    return 0.5 + 0.5 * unit


def _linear(srgb: Tensor) -> Tensor:
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _display(linear: Tensor) -> Tensor:
    bent = 1.055 * linear.clamp(min=1e-9) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, bent)
