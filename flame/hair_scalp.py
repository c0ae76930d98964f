"""The scalp laid flat about the crown: the hairline on it, and the cap that lies on the skin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from flame import hair_texture
from flame.hair_ground import Array, Indices, strew, unit, vertex_normals

Flow = Callable[[Array], Array]  # points of the scalp map [N, 2] -> directions [N, 2]
Zone = Literal["scalp", "hairline", "parting", "fringe"]

# Millimetres on a head whose outer eye corners are 89.18 mm apart, midway between them the point
# (0, 34.3, 86.0).
_CENTRE, _RADIUS = np.array([0.0, 45.0, 10.0]), 88.0
_POLE = np.array([0.0, np.cos(np.pi / 6), -np.sin(np.pi / 6)])
_FRONT = np.array([0.0, np.sin(np.pi / 6), np.cos(np.pi / 6)])
# the left half, from the forehead over temple, sideburn and ear to the nape
_HAIRLINE = np.array(
    [
        (0, 107, 88), (14, 109, 85), (28, 110, 76), (42, 108, 66), (52, 101, 58), (59, 91, 55),
        (64, 79, 54), (68, 66, 52), (71, 53, 47), (73, 40, 42), (74, 26, 38), (74, 12, 34),
        (74, 4, 29), (74, 4, 21), (75, 20, 18), (77, 36, 18), (79, 49, 14), (79, 54, 3),
        (78, 50, -10), (75, 40, -20), (71, 22, -26), (66, 5, -28), (60, -12, -30), (53, -28, -32),
        (44, -39, -38), (32, -44, -46), (15, -43, -55), (0, -41, -58),
    ],
    dtype=np.float64,
)  # fmt: skip


def to_map(points: Array) -> Array:
    """Azimuthal map of the scalp about the crown: x to the subject's left, y to the front, mm."""
    direction = unit(points - _CENTRE)
    flat = np.stack([direction[:, 0], direction @ _FRONT], 1)
    angle = np.arccos(np.clip(direction @ _POLE, -1, 1))
    shown: Array = flat * (_RADIUS * angle / np.maximum(np.sin(angle), 1e-9))[:, None]
    return shown


def from_map(flat: Array) -> Array:
    """The directions from the head's centre that `to_map` shows at these points."""
    angle = np.linalg.norm(flat, axis=1, keepdims=True) / _RADIUS
    across = np.stack([flat[:, 0], np.zeros(len(flat)), np.zeros(len(flat))], 1)
    across += flat[:, 1:] * _FRONT
    direction: Array = np.cos(angle) * _POLE + np.sinc(angle / np.pi) * across / _RADIUS
    return direction


def tangents(points: Array, flow: Flow) -> Array:
    """The map's flow as unit directions in space."""
    flat = to_map(points)
    return unit(from_map(flat + flow(flat)) - from_map(flat - flow(flat)))


def hairline() -> Array:
    """The hairline as a closed polygon on the map [N, 2]."""
    half = to_map(_HAIRLINE)
    return np.concatenate([half, half[-2:0:-1] * [-1, 1]])


def inside_hairline(flat: Array) -> Array:
    """Signed distance on the map to the hairline, mm, positive where hair grows."""
    loop = hairline()
    ends = np.roll(loop, -1, 0)
    (x0, y0), (ex, ey) = loop.T, (ends - loop).T
    x, y = flat[:, :1], flat[:, 1:]
    tx, ty = x - x0, y - y0  # [N, E]
    share = np.clip((tx * ex + ty * ey) / (ex**2 + ey**2), 0, 1)
    distance = np.sqrt(((tx - share * ex) ** 2 + (ty - share * ey) ** 2).min(1))
    spans = (y0 <= y) != (ends[:, 1] <= y)
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = x0 + ty * ex / ey
    odd = (spans & (x < cross)).sum(1) % 2 == 1
    signed: Array = np.where(odd, distance, -distance)
    return signed


def nearest_on(segment: Array, flat: Array) -> tuple[Array, Array]:
    """The point of a segment that is nearest to each point, and its share of the way."""
    along = segment[1] - segment[0]
    share = np.clip((flat - segment[0]) @ along / (along @ along), 0, 1)[:, None]
    return segment[0] + share * along, share


def _sticks_out(head: Array, flat: Array, inside: Array) -> npt.NDArray[np.bool_]:
    """Vertices on the ears: on the map they lie over others that are nearer to the centre."""
    from scipy.spatial import cKDTree

    out = np.zeros(len(head), dtype=bool)
    some = np.flatnonzero(inside > -20)
    radius = np.linalg.norm(head[some] - _CENTRE, axis=1)
    around = cKDTree(flat[some]).query_ball_point(flat[some], 9.0)
    out[some] = radius > [radius[near].min() + 7 for near in around]
    return out


class Cap:
    """The head's own triangles under the hair, lifted a little, seen through the scalp map."""

    def __init__(self, head: Array, skin: Indices) -> None:
        flat = to_map(head)
        inside = inside_hairline(flat)
        near = (inside > -7) & ~_sticks_out(head, flat, inside)
        chosen = skin[near[skin].all(1) & (inside[skin] > -2).any(1)]
        self.sources, faces = np.unique(chosen, return_inverse=True)
        self.faces = faces.reshape(-1, 3).astype(np.int64)
        normals = vertex_normals(head, skin)[self.sources]
        self.inside = inside[self.sources]
        self.height = 0.35 + 1.0 * np.clip(self.inside / 14, 0, 1)
        self.verts = head[self.sources] + self.height[:, None] * normals
        self.reach = np.abs(flat[self.sources]).max() + 1
        square = 0.5 + 0.5 * flat[self.sources] / self.reach
        strip = hair_texture.SCALP
        low, high = np.array([strip.u0, strip.v0]), np.array([strip.u1, strip.v1])
        self.uv = low + square * (high - low)
        self._corners = head[self.sources][self.faces]

    def roots(
        self,
        count: int,
        zone: Zone,
        margin: float,
        parting: Array | None,
        rng: np.random.Generator,
    ) -> Array:
        """Evenly strewn points of the scalp in a zone, `margin` mm inside the hairline."""
        from scipy.spatial import cKDTree

        points, _ = strew(self._corners, 16_000 + 16 * count, rng)
        flat = to_map(points)
        inside = inside_hairline(flat)
        fits = inside > margin
        if zone == "hairline":
            fits &= inside < margin + 8
        elif zone == "parting" and parting is not None:
            away = np.linalg.norm(flat - nearest_on(parting, flat)[0], axis=1)
            fits &= (away > 1.5) & (away < 9)
        elif zone == "fringe":
            fits &= (points[:, 2] > 42) & (points[:, 1] > 76) & (inside < 34)
        points = points[fits]
        # best candidate: drop the most crowded until the number is right
        while len(points) > count:
            tree = cKDTree(points, balanced_tree=False, compact_nodes=False)
            gap = tree.query(points, k=2)[0][:, 1]
            surplus = len(points) - count
            order = np.argsort(gap + rng.uniform(0, 1e-6, len(gap)))
            points = np.delete(points, order[: max(1, min(surplus, len(points) // 12))], 0)
        return points

    def paint(self, size: int, flow: Flow, rng: np.random.Generator) -> tuple[Array, Array]:
        """Shade and alpha [size, size] of the scalp as the map shows it, hair combed by `flow`."""
        from scipy.ndimage import zoom

        pixel = 2 * self.reach / size  # mm
        centre = (np.arange(size // 4) + 0.5) * 4 * pixel - self.reach
        x, y = np.meshgrid(centre, -centre)
        coarse = np.stack([x.ravel(), y.ravel()], 1)
        inside = zoom(inside_hairline(coarse).reshape(size // 4, -1), 4, order=1)
        roots = rng.uniform(-self.reach, self.reach, (60_000, 2))
        depth = inside_hairline(roots)
        roots = roots[depth > 2.6 * rng.random(len(roots)) ** 0.6 + 0.2]
        turn = rng.normal(0, 0.25, len(roots))
        along = flow(roots)
        along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        along = np.stack(
            [
                np.cos(turn) * along[:, 0] - np.sin(turn) * along[:, 1],
                np.sin(turn) * along[:, 0] + np.cos(turn) * along[:, 1],
            ],
            1,
        )
        length = rng.uniform(4.5, 8, len(roots)) / pixel
        pixels = (roots * [1, -1] + self.reach) / pixel
        opaque = np.clip((inside - 5) / 2, 0, 1)
        return hair_texture.paint_scalp(size, pixels, along * [1, -1], length, opaque, rng)
