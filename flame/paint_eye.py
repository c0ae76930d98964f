"""Eyeball texture: sclera with veins, iris with fibres and collarette, pupil."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor

from flame.paint_noise import Array, bell, smoothstep

IRIS_DEG = 21.5  # from the optical axis to the limbus

# sRGB of the middle of the iris
IRIS_COLORS: dict[str, tuple[float, float, float]] = {
    "dark brown": (0.23, 0.13, 0.08),
    "brown": (0.37, 0.22, 0.12),
    "hazel": (0.44, 0.34, 0.18),
    "amber": (0.60, 0.39, 0.15),
    "green": (0.38, 0.45, 0.29),
    "blue": (0.38, 0.52, 0.64),
    "light blue": (0.55, 0.67, 0.75),
    "grey": (0.47, 0.51, 0.54),
    "violet": (0.44, 0.38, 0.60),
    "black": (0.13, 0.08, 0.06),
}
_SCLERA = (0.79, 0.76, 0.74)
_PINK = (0.70, 0.47, 0.44)


def iris_rgb(color: str | tuple[float, float, float]) -> tuple[float, float, float]:
    """sRGB 0..1 of a named iris colour; a triple is checked and returned."""
    if isinstance(color, str):
        if color not in IRIS_COLORS:
            raise ValueError(
                f"iris colour {color!r} is not known; choose one of {', '.join(IRIS_COLORS)}, "
                "or give red, green and blue from 0 to 1"
            )
        return IRIS_COLORS[color]
    if len(color) != 3 or not all(0 <= value <= 1 for value in color):
        raise ValueError(f"iris colour {color} must be red, green and blue from 0 to 1")
    return color


def paint_eye(
    color: str | tuple[float, float, float],
    *,
    pupil_deg: float = 8.0,
    size: int = 512,
    generator: torch.Generator,
) -> Float[Tensor, "3 K K"]:
    """Base colour of one eyeball, sRGB; up in the image is up on the eye.

    The layout is azimuthal about the optical axis: a point `theta` away from it lies at
    uv = 0.5 + 0.5 sqrt(theta / pi) (cos phi, sin phi).
    """
    if not 4.0 <= pupil_deg <= 14.0:
        raise ValueError(f"pupil_deg={pupil_deg} is outside 4..14; 7 to 9 is usual in room light")
    middle = np.array(iris_rgb(color))
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    center = (np.arange(size) + 0.5) / size - 0.5
    x, y = center[None, :], -center[:, None]
    theta = np.degrees(np.pi * np.minimum(4 * (x**2 + y**2), 1.0))  # 2r = sqrt(theta / pi)
    phi = np.arctan2(y, x)
    sclera = _sclera(theta, y / np.maximum(np.hypot(x, y), 1e-9), rng)
    iris = _iris(theta, phi, middle, pupil_deg, rng)
    edge = smoothstep(IRIS_DEG + 0.9, IRIS_DEG - 0.7, theta + 0.25 * _ring_noise(phi, 5, rng))
    hole = smoothstep(pupil_deg + 0.35, pupil_deg - 0.35, theta + 0.12 * _ring_noise(phi, 9, rng))
    image = sclera * (1 - edge[..., None]) + iris * edge[..., None]
    image = image * (1 - hole[..., None]) + np.array([0.012, 0.010, 0.010]) * hole[..., None]
    return torch.from_numpy(np.clip(image, 0, 1).transpose(2, 0, 1).astype(np.float32).copy())


def _polar_noise(
    theta: Array, phi: Array, turns: int, rings: float, rng: np.random.Generator
) -> Array:
    """Noise with `turns` features round the eye and one every `rings` degrees outward."""
    table = rng.standard_normal((max(int(190 / rings), 4) + 4, turns))
    table /= 0.62  # what interpolation takes from the deviation
    at = np.stack([theta / rings + 1, (phi / (2 * np.pi)) % 1 * turns])
    return np.asarray(map_coordinates(table, at, order=2, prefilter=False, mode="grid-wrap"))


def _ring_noise(phi: Array, turns: int, rng: np.random.Generator) -> Array:
    return _polar_noise(np.zeros_like(phi), phi, turns, 90.0, rng)


def _iris(
    theta: Array, phi: Array, middle: Array, pupil_deg: float, rng: np.random.Generator
) -> Array:
    """Stroma: wavy radial fibres, a lighter or browner inner zone, crypts, a dark limbus."""
    share = np.clip((theta - pupil_deg) / (IRIS_DEG - pupil_deg), 0, 1)
    bent = phi + 0.025 * _polar_noise(theta, phi, 24, 3.0, rng)
    fibres = (
        0.55 * _polar_noise(theta, bent, 150, 6.0, rng)
        + 0.40 * _polar_noise(theta, bent, 70, 5.0, rng)
        + 0.30 * _polar_noise(theta, bent, 28, 4.0, rng)
    )
    lightness = float(middle @ [0.3, 0.6, 0.1])
    # the collarette's height wanders round the pupil
    collarette = 0.30 + 0.05 * _ring_noise(phi, 14, rng) + 0.03 * _ring_noise(phi, 40, rng)
    inner = smoothstep(0.08, -0.08, share - collarette)
    ruff = bell((share - collarette) ** 2, 0.06)
    glow = 1 + 0.26 * fibres * (0.45 + 0.55 * smoothstep(0.0, 0.3, share)) + 0.20 * ruff
    glow *= 1 - 0.22 * smoothstep(0.55, 1.0, share) + 0.12 * bell((share - 0.55) ** 2, 0.18)
    crypts = smoothstep(0.9, 1.9, _polar_noise(theta, phi, 34, 2.6, rng))
    glow *= 1 - 0.30 * crypts * smoothstep(0.12, 0.35, share) * smoothstep(0.95, 0.7, share)
    # brown melanin gathers round the pupil; light eyes show it as a warm inner zone
    warm = np.array([0.50, 0.34, 0.16]) * np.clip(0.45 + lightness, 0.4, 1.0)
    amount = 0.45 * inner * smoothstep(0.20, 0.45, lightness)
    color = middle * (1 - amount[..., None]) + warm * amount[..., None]
    tint = 1 + 0.05 * _polar_noise(theta, phi, 9, 8.0, rng)[..., None] * np.array([1.0, 0.2, -0.9])
    color = color * tint * np.clip(glow, 0.25, 1.9)[..., None]
    limbus = smoothstep(0.80, 1.0, share) * 0.68
    pupil_edge = bell(share**2, 0.05) * 0.45
    dark = middle * 0.30
    for weight in (limbus, pupil_edge):
        color = color * (1 - weight[..., None]) + dark * weight[..., None]
    return np.asarray(color)


def _sclera(theta: Array, up: Array, rng: np.random.Generator) -> Array:
    """Off-white, pinker and darker toward the back and under the upper lid, with faint veins."""
    size = len(theta)
    back = smoothstep(38, 95, theta)
    mottle = gaussian_filter(rng.standard_normal((size, size)), size / 40)
    mottle /= max(float(mottle.std()), 1e-9)
    pink = np.clip(0.05 + 0.85 * back + 0.035 * mottle, 0, 1)[..., None]
    color = np.array(_SCLERA) * (1 - pink) + np.array(_PINK) * pink
    lid = 1 - 0.18 * smoothstep(0.1, 1.0, up) * smoothstep(20, 45, theta)
    lid *= 1 - 0.16 * smoothstep(45, 85, theta)
    color = color * lid[..., None]
    veins = _veins(size, rng) * smoothstep(24, 60, theta)
    return np.asarray(color * (1 - veins[..., None] * np.array([0.10, 0.42, 0.40])))


def _veins(size: int, rng: np.random.Generator) -> Array:
    """Branching threads that wander from the back toward the limbus."""
    image = np.zeros((size, size))
    for _ in range(46):
        angle, theta = rng.uniform(0, 2 * np.pi), rng.uniform(75, 110)
        stop, drift = rng.uniform(28, 60), 0.0
        strength = rng.uniform(0.25, 0.9)
        while theta > stop:
            drift = 0.93 * drift + rng.normal(0, 0.0042)
            angle += drift
            theta -= 0.22
            radius = 0.5 * np.sqrt(theta / 180)
            x = int((0.5 + radius * np.cos(angle)) * size)
            y = int((0.5 - radius * np.sin(angle)) * size)
            fade = min(1.0, (theta - stop) / 15)
            image[y % size, x % size] = max(image[y % size, x % size], strength * fade)
            if rng.random() < 0.006:
                angle += rng.choice([-1, 1]) * 0.02
    scale = size / 512
    soft = gaussian_filter(image, 0.7 * scale) * 1.5 + gaussian_filter(image, 2.0 * scale) * 1.2
    return np.asarray(np.clip(soft, 0, 1))
