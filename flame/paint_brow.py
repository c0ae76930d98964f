"""Eyebrows and lashes drawn hair by hair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from flame.paint_chart import LEFT_BROW, RIGHT_BROW, Face, spline
from flame.paint_noise import Array, smoothstep

STEP = 0.06  # mm a pixel of the drawings
LOWERED = 2.2  # mm from the landmarks, which follow the brow's upper half, to its middle


@dataclass(frozen=True)
class Brows:
    """Hair cover of both brows: 0 bare, about 1 covered by hair."""

    main: Array
    rim: Array  # the hairs that a thick brow has beyond an average one
    raised: Array  # upper minus lower rim
    soft: Array  # shade of the brow as a whole


def paint_brows(face: Face, rng: np.random.Generator) -> Brows:
    """Fine strokes along both brow curves, fanning up at the nose and lying flat at the tail."""
    layers = [np.zeros(len(face.flat), np.float32) for _ in range(4)]
    for marks in (RIGHT_BROW, LEFT_BROW):
        curve = spline(face.landmarks[list(marks)], 240) - [0, LOWERED]
        origin = curve.min(axis=0) - 14
        width_px, height_px = np.ceil((np.ptp(curve, axis=0) + 28) / STEP).astype(int).tolist()
        shape = (height_px, width_px)
        scale = np.linalg.norm(curve[-1] - curve[0]) / 45
        width = _half_width(np.linspace(0, 1, 240)) * scale
        core = _strokes(curve, width, 430, (-0.95, 0.95), rng)
        upper = _strokes(curve, width, 130, (0.9, 1.55), rng)
        lower = _strokes(curve, width, 150, (-1.6, -0.9), rng)
        drawn = [_draw(strokes, origin, shape) for strokes in (core, upper, lower)]
        body = _cover(gaussian_filter(drawn[0], 1.0 / STEP) * 1.3)
        layers[0] += face.sample(_cover(drawn[0]), origin, STEP)
        layers[1] += face.sample(_cover(drawn[1] + drawn[2]), origin, STEP)
        layers[2] += face.sample(_cover(drawn[1]) - _cover(drawn[2]), origin, STEP)
        layers[3] += face.sample(body, origin, STEP)
    return Brows(*layers)


def _half_width(s: Array) -> Array:
    """Half the height of an average brow at s from the nose (0) to the tail (1), mm."""
    at = (0.0, 0.08, 0.25, 0.55, 0.75, 0.9, 1.0)
    return np.asarray(np.interp(s, at, (2.4, 3.3, 3.7, 3.2, 2.2, 1.2, 0.5)))


def _strokes(
    curve: Array, width: Array, count: int, band: tuple[float, float], rng: np.random.Generator
) -> Array:
    """Hairs as points [count, 90, 3]: place and weight; roots lie in `band` half widths."""
    s = rng.beta(0.95, 1.05, count) * 0.985
    across = rng.uniform(*band, count)
    index = (s * (len(curve) - 1)).astype(int)
    along = np.gradient(curve, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    up = np.stack([-along[:, 1], along[:, 0]], axis=1)
    up *= np.sign(up[:, 1:])
    root = curve[index] + up[index] * (across * width[index])[:, None]
    # at the nose hairs stand up; farther out the lower ones still rise, the upper ones turn down
    standing = np.radians(78) * smoothstep(0.3, 0.0, s)
    leaning = np.radians(np.where(across > 0.15, -14.0, 30.0) - 8 * across)
    turn = standing + leaning * (1 - 0.6 * smoothstep(0.3, 0.0, s)) + rng.normal(0, 0.13, count)
    length = (8.0 - 3.2 * s) * rng.uniform(0.6, 1.1, count) * np.interp(s, (0, 0.06), (0.6, 1))
    # hairs end at the band's edge, or the brow would have no outline
    rise = np.sin(turn) * length
    room = (1.25 * width[index] - across * width[index]).clip(0.8)
    length *= np.clip(room / np.maximum(rise, 1e-6), 0.35, 1) ** (rise > 0)
    t = np.linspace(0, 1, 90)
    angle = turn[:, None] * (1 - 0.5 * t) - 0.10 * t
    move = np.cos(angle)[..., None] * along[index][:, None]
    move = move + np.sin(angle)[..., None] * up[index][:, None]
    path = root[:, None] + np.cumsum(move, axis=1) * (length / 90)[:, None, None]
    thickness = 0.15 * rng.uniform(0.7, 1.2, count)[:, None]
    taper = thickness * np.clip(1.05 - t, 0, 1) ** 0.7 * np.clip(t * 12 + 0.3, 0, 1)
    weight = taper * (length / 90)[:, None]
    return np.concatenate([path, weight[..., None]], axis=-1)


def _draw(strokes: Array, origin: Array, shape: tuple[int, int]) -> Array:
    """Covered area per pixel area, spread over a hair's width."""
    place = (strokes[..., :2].reshape(-1, 2) - origin) / STEP - 0.5
    weight = strokes[..., 2].reshape(-1) / STEP**2
    first = np.floor(place).astype(int)
    share = place - first
    image = np.zeros(shape, np.float32)
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = first[:, 0] + dx, first[:, 1] + dy
            part = np.abs(1 - dx - share[:, 0]) * np.abs(1 - dy - share[:, 1]) * weight
            ok = (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
            np.add.at(image, (y[ok], x[ok]), part[ok])
    return np.asarray(gaussian_filter(image, 0.9))


def _cover(density: Array) -> Array:
    return np.asarray(1 - np.exp(-density), np.float32)
