"""A mesh of FLAME's counts: an open dome of 3931 vertices and two spheres of 546."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from assets.arrays import Array

N_HEAD = 3931
_RING, _RINGS = 60, 65  # of the dome, below a cap of an apex and a ring of half as many
_EYE_RING, _EYE_RINGS = 34, 16
_EXTRA_UV = 95  # vertices of FLAME that have two texture coordinates
_EYES = ((0.032, 0.028, 0.055), (-0.032, 0.028, 0.055))
_EYE_RADIUS = 0.0125
_RADII = np.array([0.105, 0.13, 0.1])


@dataclass(frozen=True)
class SyntheticMesh:
    """Geometry, skeleton and landmarks; metres, y up, z out of the face."""

    verts: Array  # [5023, 3]
    faces: Array  # [9976, 3], counter-clockwise from outside
    uv: Array  # [5118, 2]
    uv_faces: Array
    joint_regressor: Array  # [5, 5023]
    lbs_weights: Array  # [5023, 5]
    landmark_faces: Array  # [68]
    landmark_bary: Array
    contour_faces: Array  # [79, 17]
    contour_bary: Array
    mediapipe_faces: Array  # [105]
    mediapipe_bary: Array

    @property
    def eye_centers(self) -> Array:
        return np.array(_EYES)


def synthetic_mesh() -> SyntheticMesh:
    """The same mesh at every call."""
    head_verts, head_faces = _dome()
    eyes = [_sphere(np.array(centre)) for centre in _EYES]
    verts = np.concatenate([head_verts, *(eye[0] for eye in eyes)])
    offsets = (N_HEAD, N_HEAD + len(eyes[0][0]))
    moved = [eye[1] + offset for eye, offset in zip(eyes, offsets, strict=True)]
    faces = np.concatenate([head_faces, *moved])
    uv, uv_faces = _layout(verts, faces)
    weights = _weights(verts)
    points = _goals()
    marks = _embed(verts, head_faces, points)
    contours = [_embed(verts, head_faces, _turned_jaw(points[:17], d)) for d in _yaws()]
    spread = np.stack([np.linspace(-0.05, 0.05, 105), 0.05 * np.sin(np.arange(105.0))], axis=1)
    mediapipe = _embed(verts, head_faces, np.column_stack([spread, np.full(105, 0.2)]))
    return SyntheticMesh(
        verts,
        faces,
        uv,
        uv_faces,
        _regressor(verts),
        weights,
        *marks,
        np.stack([faces for faces, _ in contours]),
        np.stack([bary for _, bary in contours]),
        *mediapipe,
    )


def _dome() -> tuple[Array, Array]:
    """An ellipsoid from the crown down to an open neck."""
    heights = [0.02, *np.linspace(0.05, 1.0, _RINGS)]
    counts = [_RING // 2, *[_RING] * _RINGS]
    verts = [np.array([[0.0, _RADII[1], 0.0]])]
    for share, count in zip(heights, counts, strict=True):
        polar = share * np.radians(150)
        turn = 2 * np.pi * np.arange(count) / count
        ring = [
            np.sin(polar) * np.sin(turn),
            np.full(count, np.cos(polar)),
            np.sin(polar) * np.cos(turn),
        ]
        verts.append(np.stack(ring, axis=1) * _RADII)
    faces = [_fan(0, 1, counts[0])]
    start = 1
    for upper, lower in pairwise(counts):
        faces.append(_band(start, upper, start + upper, lower))
        start += upper
    return np.concatenate(verts), np.concatenate(faces)


def _sphere(centre: Array) -> tuple[Array, Array]:
    polar = np.pi * np.arange(1, _EYE_RINGS + 1) / (_EYE_RINGS + 1)
    turn = 2 * np.pi * np.arange(_EYE_RING) / _EYE_RING
    p, t = (grid.ravel() for grid in np.meshgrid(polar, turn, indexing="ij"))
    rings = np.stack([np.sin(p) * np.sin(t), np.cos(p), np.sin(p) * np.cos(t)], axis=1)
    verts = np.concatenate([[[0.0, 1.0, 0.0]], rings, [[0.0, -1.0, 0.0]]])
    faces = [_fan(0, 1, _EYE_RING)]
    starts = [1 + _EYE_RING * ring for ring in range(_EYE_RINGS)]
    faces += [_band(s, _EYE_RING, s + _EYE_RING, _EYE_RING) for s in starts[:-1]]
    faces.append(_fan(len(verts) - 1, starts[-1], _EYE_RING)[:, ::-1])
    return centre + _EYE_RADIUS * verts, np.concatenate(faces)


def _fan(apex: int, start: int, count: int) -> Array:
    here = np.arange(count)
    return np.stack([np.full(count, apex), start + here, start + (here + 1) % count], axis=1)


def _band(upper: int, n_upper: int, lower: int, n_lower: int) -> Array:
    """Triangles between two rings, the lower of which has as many vertices or twice as many."""
    faces = []
    step = n_lower // n_upper
    for i in range(n_upper):
        above, after = upper + i, upper + (i + 1) % n_upper
        below = [lower + (i * step + k) % n_lower for k in range(step + 1)]
        faces += [[above, a, b] for a, b in pairwise(below)]
        faces.append([above, below[-1], after])
    return np.array(faces)


def _layout(verts: Array, faces: Array) -> tuple[Array, Array]:
    """The head seen from above and unrolled, the eyes as discs; some vertices have two points."""
    uv = np.zeros((len(verts), 2))
    head = verts[:N_HEAD] / _RADII
    polar = np.arccos(np.clip(head[:, 1], -1, 1)) / np.radians(150)
    turn = np.arctan2(head[:, 0], head[:, 2])
    uv[:N_HEAD] = 0.5 + 0.45 * (polar * np.stack([np.sin(turn), -np.cos(turn)])).T
    for number, centre in enumerate(_EYES):
        here = slice(N_HEAD + 546 * number, N_HEAD + 546 * (number + 1))
        ball = (verts[here] - centre) / _EYE_RADIUS
        out = np.arccos(np.clip(ball[:, 2], -1, 1)) / np.pi
        around = np.arctan2(ball[:, 1], ball[:, 0])
        disc = 0.04 * (out * np.stack([np.cos(around), np.sin(around)])).T
        uv[here] = disc + np.array([0.05 + 0.9 * number, 0.95])
    doubled = np.arange(200, 200 + _EXTRA_UV)
    uv_faces = faces.copy()
    own = np.isin(uv_faces, doubled) & (np.arange(len(faces)) % 2 == 0)[:, None]
    uv_faces[own] += len(verts) - doubled[0]
    return np.concatenate([uv, uv[doubled] + 1e-3]), uv_faces


def _weights(verts: Array) -> Array:
    neck = _step(-0.11, -0.06, verts[:, 1])
    jaw = neck * _step(0.0, 0.03, -verts[:, 1] - 0.02) * _step(0.0, 0.03, verts[:, 2])
    weights = np.zeros((len(verts), 5))
    weights[:, 0], weights[:, 1], weights[:, 2] = 1 - neck, neck - jaw, jaw
    weights[N_HEAD:] = 0
    weights[N_HEAD : N_HEAD + 546, 3] = 1
    weights[N_HEAD + 546 :, 4] = 1
    return weights


def _regressor(verts: Array) -> Array:
    """Joints as means of a few vertices."""
    low = np.argsort(verts[:N_HEAD, 1], kind="stable")
    jaw = np.argsort(np.abs(verts[:N_HEAD] * [0, 1, 1] - [0, -0.02, -0.01]).sum(1), kind="stable")
    rings = [low[:60], low[300:360], jaw[:20], *(N_HEAD + 546 * k + np.arange(546) for k in (0, 1))]
    regressor = np.zeros((5, len(verts)))
    for row, ring in zip(regressor, rings, strict=True):
        row[ring] = 1 / len(ring)
    return regressor


def _goals() -> Array:
    """Rough places of iBUG's 68 points before the face; x, y and the dome's front give z."""
    turn = np.linspace(-1, 1, 17) * np.radians(80)
    points = [(0.07 * np.sin(t), -0.07 * np.cos(t) + 0.02) for t in turn]
    points += [(x, 0.05) for x in (*np.linspace(-0.05, -0.015, 5), *np.linspace(0.015, 0.05, 5))]
    points += [(0.0, y) for y in np.linspace(0.03, 0.0, 4)]
    points += [(x, -0.01) for x in np.linspace(-0.015, 0.015, 5)]
    for centre in (-0.032, 0.032):
        ring = np.radians((180, 120, 60, 0, -60, -120))
        points += [(centre + 0.014 * np.cos(t), 0.028 + 0.007 * np.sin(t)) for t in ring]
    for wide, count in ((0.025, 12), (0.018, 8)):
        ring = np.pi - 2 * np.pi * np.arange(count) / count
        points += [(wide * np.cos(t), -0.04 + 0.4 * wide * np.sin(t)) for t in ring]
    return np.array([(x, y, 0.2) for x, y in points])


def _turned_jaw(jaw: Array, degrees: int) -> Array:
    """The jaw line moved toward the nose on the side that turns away."""
    moved = jaw.copy()
    side = moved[:, 0] * np.sign(degrees) > 0
    moved[side, 0] *= 1 - abs(degrees) / 120
    return moved


def _yaws() -> list[int]:
    return [*range(40), *range(-1, -40, -1)]


def _embed(verts: Array, faces: Array, goals: Array) -> tuple[Array, Array]:
    """For each point the triangle of the front that is met along z, and its barycentrics there."""
    corners = verts[faces]  # [F, 3, 3]
    a, b, c = (corners[:, k, :2] for k in range(3))
    ab, ac = b - a, c - a
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    front = area > 1e-12
    found, weights = [], []
    for goal in goals:
        ap = goal[:2] - a
        with np.errstate(divide="ignore", invalid="ignore"):
            v = (ap[:, 0] * ac[:, 1] - ap[:, 1] * ac[:, 0]) / area
            w = (ab[:, 0] * ap[:, 1] - ab[:, 1] * ap[:, 0]) / area
        bary = np.stack([1 - v - w, v, w], axis=1)
        inside = np.where(front, bary.min(1), -np.inf)
        best = int(inside.argmax())
        clipped = np.clip(bary[best], 0, 1)
        found.append(best)
        weights.append(clipped / clipped.sum())
    return np.array(found), np.array(weights)


def _step(low: float, high: float, x: Array) -> Array:
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))
