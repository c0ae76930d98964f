"""Noise and scattered marks on a surface, from 3D position: the same on any UV layout."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

Array: TypeAlias = NDArray[Any]
Number: TypeAlias = float | int | np.floating[Any]

_PERIOD = 64  # cells after which the noise repeats: far enough on a curved surface


def smoothstep(low: Number, high: Number, x: Array | Number) -> Array:
    """0 below `low`, 1 above `high`, smooth between; `low` may exceed `high` for a falling step."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def bell(squared: Array, sigma: Number) -> Array:
    """Gaussian of a squared distance, 1 at zero."""
    return np.asarray(np.exp(squared * (-0.5 / sigma**2)), dtype=np.float32)


def value_noise(points: Array, cell: float, rng: np.random.Generator) -> Array:
    """Quadratic B-spline lattice noise, features about `cell` wide, mean 0, deviation 1."""
    lattice = rng.standard_normal((_PERIOD, _PERIOD, _PERIOD), dtype=np.float32)
    values = map_coordinates(
        lattice, points.T / np.float32(cell), order=2, prefilter=False, mode="grid-wrap"
    )
    values = values - values.mean()
    return np.asarray(values / max(float(values.std()), 1e-9), dtype=np.float32)


def scatter(
    points: Array, density: Array, area: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Random places, `density` of them per unit area, and the texel that each one came from."""
    expected = np.clip(density * area, 0, None)
    texels = np.repeat(np.arange(len(points)), rng.poisson(expected))
    spread = np.sqrt(area[texels])[:, None]
    return points[texels] + spread * (rng.random((len(texels), 3)) - 0.5), texels


def thinned(places: Array, spacing: float, rng: np.random.Generator) -> Array:
    """Indices of places of which no two are closer than `spacing`: first come, first served."""
    order = rng.permutation(len(places))
    tree = cKDTree(places)
    gone = np.zeros(len(places), bool)
    near = tree.query_ball_point(places, spacing)
    for index in order:
        if not gone[index]:
            others = np.asarray(near[index])
            gone[others[others != index]] = True
    return np.flatnonzero(~gone)


def marks(
    points: Array, places: Array, radius: Array, softness: float = 0.35, reach: int = 3
) -> Array:
    """Round marks at `places`: 1 inside the radius, gone at (1 + softness) of it."""
    out = np.zeros(len(points), np.float32)
    if len(places) == 0:
        return out
    widest = float(radius.max()) * (1 + softness)
    tree = cKDTree(places)
    distance, index = tree.query(
        points, k=min(reach, len(places)), distance_upper_bound=widest, workers=1
    )
    distance, index = distance.reshape(len(points), -1), index.reshape(len(points), -1)
    for column in range(distance.shape[1]):
        hit = np.flatnonzero(np.isfinite(distance[:, column]))
        size = radius[index[hit, column]]
        value = smoothstep(1 + softness, 1 - softness, distance[hit, column] / size)
        np.maximum.at(out, hit, value)
    return out
