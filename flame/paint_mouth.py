"""Base colour and roughness of what the lips hide: teeth, gums, tongue, the mouth's bag."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from torch import Tensor

from flame.paint_noise import Array, bell, marks, scatter, smoothstep, value_noise

MOUTH_PARTS = ("teeth", "gums", "tongue", "bag")  # label of a texel; -1 where there is none

_ENAMEL = np.array([0.90, 0.865, 0.79])
_DENTINE = np.array([0.80, 0.70, 0.52])
_GUM = np.array([0.74, 0.42, 0.41])
_TONGUE = np.array([0.72, 0.40, 0.40])
_BAG = np.array([0.42, 0.15, 0.15])


def paint_mouth(
    position_map: Float[Tensor, "K K 3"],
    labels: Int[Tensor, "K K"],
    *,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "3 K K"], Float[Tensor, "1 K K"]]:
    """Base colour (sRGB) and roughness; positions in metres, labels index MOUTH_PARTS or are -1."""
    if int(labels.max()) >= len(MOUTH_PARTS):
        raise ValueError(
            f"label {int(labels.max())} names no part of the mouth; use 0 to "
            f"{len(MOUTH_PARTS) - 1} for {', '.join(MOUTH_PARTS)} and -1 for empty texels"
        )
    mask = labels.numpy() >= 0
    if not mask.any():
        raise ValueError("every mouth texel is labelled -1; bake the labels from the head's UV")
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    points = position_map.numpy()[mask].astype(np.float32) * 1000  # mm
    parts = labels.numpy()[mask]
    color = np.zeros((len(points), 3))
    rough = np.zeros(len(points))
    gums = points[parts == 1]
    painters = (_teeth, _gums, _tongue, _bag)
    for label, painter in enumerate(painters):
        chosen = parts == label
        if chosen.any():
            color[chosen], rough[chosen] = painter(points[chosen], gums, rng)
    source = distance_transform_edt(~mask, return_distances=False, return_indices=True)
    order = np.zeros(mask.shape, np.int64)
    order[mask] = np.arange(len(points))
    filled = order[source[0], source[1]]
    image = np.clip(color, 0, 1).astype(np.float32)[filled].transpose(2, 0, 1)
    return (
        torch.from_numpy(np.ascontiguousarray(image)),
        torch.from_numpy(rough.astype(np.float32)[filled][None]),
    )


def _mixed(first: Array, second: Array, share: Array) -> Array:
    return np.asarray(first * (1 - share[:, None]) + second * share[:, None])


def _nearest(points: Array, others: Array, limit: float) -> Array:
    """Distance to the nearest of `others`, `limit` where there is none within it."""
    if len(others) == 0:
        return np.full(len(points), limit)
    distance, _ = cKDTree(others).query(points, distance_upper_bound=limit)
    return np.asarray(np.minimum(distance, limit))


def _teeth(points: Array, gums: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    # hollows between neighbours: the surface around lies farther out than the point itself
    sparse = points[rng.permutation(len(points))[: min(len(points), 20_000)]]
    _, near = cKDTree(sparse).query(points, k=min(24, len(sparse)), distance_upper_bound=2.5)
    near = near.reshape(len(points), -1)
    known = near < len(sparse)
    around = (sparse[np.minimum(near, len(sparse) - 1)] * known[..., None]).sum(axis=1)
    around /= np.maximum(known.sum(axis=1), 1)[:, None]
    middle = np.array([0.0, 0.0, points[:, 2].min()])
    outward = (points - middle) * [1, 0, 1]
    outward /= np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-9)
    hollow = smoothstep(0.05, 0.5, ((around - points) * outward).sum(axis=1))
    neck = smoothstep(3.2, 0.2, _nearest(points, gums, 5.0))
    # molars are yellower and lie in the dark
    behind = smoothstep(points[:, 2].max() - 6, points[:, 2].max() - 32, points[:, 2])
    color = _mixed(_ENAMEL, _DENTINE, np.clip(0.40 * neck + 0.30 * behind + 0.25 * hollow, 0, 1))
    color = color * (1 + 0.012 * value_noise(points, 3.0, rng))[:, None]
    color *= (1 - 0.22 * hollow - 0.10 * neck - 0.28 * behind)[:, None]
    return color, 0.20 + 0.10 * neck + 0.05 * hollow


def _gums(points: Array, gums: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    del gums
    vessels = 0.5 * value_noise(points, 5.0, rng) + 0.5 * value_noise(points, 1.4, rng)
    behind = smoothstep(points[:, 2].max() - 6, points[:, 2].max() - 34, points[:, 2])
    color = _GUM * (1 + 0.05 * vessels[:, None] * np.array([0.5, 1.2, 1.1]))
    return color * (1 - 0.45 * behind)[:, None], np.full(len(points), 0.36)


def _tongue(points: Array, gums: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    del gums
    top = smoothstep(-1.5, 2.0, points[:, 1] - np.median(points[:, 1]))
    span = max(float(np.ptp(points[:, 2])), 1e-6)
    forward = (points[:, 2] - points[:, 2].min()) / span
    places, _ = scatter(points, 0.6 * top, np.full(len(points), _typical_area(points)), rng)
    papillae = marks(points, places, rng.uniform(0.25, 0.5, len(places)), softness=0.8)
    groove = bell(points[:, 0] ** 2, 1.6) * top * smoothstep(1.0, 0.75, forward)
    coat = top * smoothstep(0.95, 0.45, forward) * (0.8 + 0.3 * value_noise(points, 5.0, rng))
    color = _mixed(_TONGUE, np.array([0.78, 0.55, 0.53]), np.clip(0.5 * coat, 0, 1))
    color *= (1 + 0.05 * papillae - 0.16 * groove + 0.03 * value_noise(points, 1.2, rng))[:, None]
    color *= (0.55 + 0.45 * smoothstep(0.0, 0.6, forward))[:, None]
    return color, 0.36 + 0.10 * papillae


def _typical_area(points: Array) -> float:
    """Surface that one texel stands for, mm², from distances to the nearest neighbours."""
    some = points[:: max(len(points) // 2000, 1)]
    distance, _ = cKDTree(points).query(some, k=2)
    return float(np.median(distance[:, 1]) ** 2)


def _bag(points: Array, gums: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    del gums
    behind = smoothstep(points[:, 2].max() - 4, points[:, 2].max() - 40, points[:, 2])
    color = _BAG * (1 + 0.05 * value_noise(points, 4.0, rng))[:, None]
    return color * (1 - 0.65 * behind)[:, None], np.full(len(points), 0.5)
