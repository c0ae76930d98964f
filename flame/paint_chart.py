"""The face laid flat for painting: canonical millimetres, a cylinder chart, landmark curves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter
from scipy.spatial import cKDTree

from flame.hair_scalp import hairline, to_map
from flame.paint_noise import Array, Number, smoothstep

# Canonical frame: eyes 62.06 mm apart, midway between them (0, 36.04, 78.79); x to the subject's
# left, y up, z out of the face. Constants of the layers are lengths in this frame.
EYE_DISTANCE = 62.06
EYE_MIDDLE = np.array([0.0, 36.04, 78.79])
AXIS_Z, RADIUS = 20.0, 85.0  # of the chart's cylinder, mm

RIGHT_BROW, LEFT_BROW = (21, 20, 19, 18, 17), (22, 23, 24, 25, 26)  # from the nose outward
UPPER_LIP, LOWER_LIP = (48, 49, 50, 51, 52, 53, 54), (54, 55, 56, 57, 58, 59, 48)
UPPER_INNER, LOWER_INNER = (60, 61, 62, 63, 64), (64, 65, 66, 67, 60)
# inner corner first
UPPER_LIDS = ((39, 38, 37, 36), (42, 43, 44, 45))
LOWER_LIDS = ((39, 40, 41, 36), (42, 47, 46, 45))


def spline(points: Array, count: int = 120) -> Array:
    """Points of a smooth curve through the given ones, even in chord length."""
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    curve = CubicSpline(length, points, bc_type="natural")
    return np.asarray(curve(np.linspace(0, length[-1], count)))


def inside(points: Array, loop: Array) -> Array:
    """Which points lie in a closed polygon (even-odd rule)."""
    hit = np.zeros(len(points), bool)
    x, y = points.T
    for a, b in zip(loop, np.roll(loop, -1, axis=0), strict=True):
        if a[1] != b[1]:
            spans = (a[1] <= y) != (b[1] <= y)
            hit ^= spans & (x < a[0] + (y - a[1]) * (b[0] - a[0]) / (b[1] - a[1]))
    return hit


@dataclass(frozen=True, eq=False)
class Face:
    """Every painted texel of a neutral head, with its landmarks, ready for the layers."""

    points: Array  # [M, 3] canonical mm
    normals: Array  # [M, 3]
    area: Array  # [M] mm² of a texel
    flat: Array  # [M, 2] chart: arc length round the cylinder, height; mm
    depth: Array  # [M] mm behind the outermost surface at the same place of the chart
    landmarks: Array  # [68, 2] chart
    corners: Array  # [68, 3] canonical mm
    eyes: Array  # [2, 3] canonical mm: right (x < 0), left
    lid_radius: float  # mm from an eye's centre to the lid margin
    texel: float  # mm, typical on the face

    def distance(self, curve: Array, limit: Number) -> Array:
        """Chart distance of every texel to a densely sampled curve, `limit` where farther."""
        near = self._within(curve.min(axis=0) - limit, curve.max(axis=0) + limit)
        out = np.full(len(self.flat), limit, np.float32)
        found, _ = cKDTree(curve).query(self.flat[near], distance_upper_bound=limit)
        out[near] = np.minimum(found, limit)
        return out

    def signed(self, loop: Array, limit: Number) -> Array:
        """As `distance`, negative inside the loop."""
        out = self.distance(loop, limit)
        near = self._within(loop.min(axis=0), loop.max(axis=0))
        out[near[inside(self.flat[near], loop)]] *= -1
        return out

    def blob(self, place: Array, sigma: tuple[Number, Number]) -> Array:
        """A soft spot on the chart, on the outer surface of the front only."""
        across = (self.flat[:, 0] - np.float32(place[0])) / np.float32(sigma[0])
        up = (self.flat[:, 1] - np.float32(place[1])) / np.float32(sigma[1])
        return np.asarray(np.exp(-0.5 * (across**2 + up**2)) * self.front, np.float32)

    def blobs(self, place: Array, sigma: tuple[Number, Number]) -> Array:
        """The same spot on both sides."""
        return np.maximum(self.blob(place, sigma), self.blob(place * [-1, 1], sigma))

    @cached_property
    def front(self) -> Array:
        """Texels whose place on the chart is unambiguous: not behind the head."""
        return np.asarray(self.points[:, 2] > AXIS_Z - 60)

    @cached_property
    def eye_distance(self) -> Array:
        """Distance of every texel to the nearer eye's centre, mm."""
        away = [self.points - eye for eye in self.eyes]
        squared = [np.einsum("ij,ij->i", offset, offset) for offset in away]
        return np.asarray(np.sqrt(np.minimum(*squared)))

    def _within(self, low: Array, high: Array) -> Array:
        x, y = self.flat.T
        return np.flatnonzero(
            (x > low[0]) & (x < high[0]) & (y > low[1]) & (y < high[1]) & self.front
        )

    def sample(self, image: Array, origin: Array, step: float) -> Array:
        """A chart image (first row lowest y) at every texel, zero outside it."""
        near = self._within(origin, origin + np.array(image.shape[::-1]) * step)
        place = (self.flat[near] - origin) / step - 0.5
        out = np.zeros(len(self.flat), np.float32)
        softened = gaussian_filter(image, 0.4 * self.texel / step)
        out[near] = map_coordinates(softened, place[:, ::-1].T, order=1, mode="constant")
        return out


def to_chart(points: Array) -> Array:
    """Arc length round the cylinder and height of canonical points."""
    around = RADIUS * np.arctan2(points[:, 0], points[:, 2] - AXIS_Z)
    return np.stack([around, points[:, 1]], axis=1)


def lay_flat(
    position_map: Array, normal_map: Array, valid: Array, landmarks: Array, eyes: Array
) -> Face:
    """The valid texels of a head in metres as a Face."""
    eyes = eyes[np.argsort(eyes[:, 0])]
    apart = float(np.linalg.norm(eyes[1] - eyes[0]))
    if not apart > 0:
        raise ValueError(
            f"the eye centres coincide at {eyes[0].tolist()}; pass the right and the left one"
        )
    scale = EYE_DISTANCE / apart

    def canonical(points: Array) -> Array:
        return np.asarray((points - eyes.mean(axis=0)) * scale + EYE_MIDDLE, np.float32)

    points = canonical(position_map[valid])
    corners = canonical(landmarks)
    area = scale**2 * _texel_area(position_map, valid)[valid]
    flat = to_chart(points)
    on_face = np.abs(flat).max(axis=1) < 60
    margin = corners[36:48].reshape(2, 6, 3) - canonical(eyes)[:, None]
    return Face(
        points=points,
        normals=np.asarray(normal_map[valid], np.float32),
        area=area,
        flat=flat,
        depth=_depth(points, flat),
        landmarks=to_chart(corners),
        corners=corners,
        eyes=canonical(eyes),
        lid_radius=float(np.linalg.norm(margin, axis=-1).min()),
        texel=float(np.sqrt(np.median(area[on_face]) if on_face.any() else np.median(area))),
    )


def _texel_area(position_map: Array, valid: Array) -> Array:
    """Surface area of each texel, from differences to whichever neighbours are valid."""
    steps = []
    for axis in (0, 1):
        total = np.zeros_like(position_map)
        count = np.zeros(valid.shape, np.float32)
        ahead = np.diff(position_map, axis=axis)
        first = [slice(None), slice(None)]
        second = [slice(None), slice(None)]
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        both = valid[tuple(first)] & valid[tuple(second)]
        ahead[~both] = 0
        for side in (tuple(first), tuple(second)):
            total[side] += ahead
            count[side] += both
        steps.append(total / np.maximum(count, 1)[..., None])
    return np.asarray(np.linalg.norm(np.cross(steps[0], steps[1]), axis=-1))


def _depth(points: Array, flat: Array) -> Array:
    """How far each point lies behind the outermost surface at its place of the chart."""
    reach = np.hypot(points[:, 0], points[:, 2] - AXIS_Z)
    low = flat.min(axis=0)
    place = (flat - low) / 1.5
    cell = place.astype(int)
    surface = np.zeros(cell.max(axis=0) + 1, np.float32)
    np.maximum.at(surface, (cell[:, 0], cell[:, 1]), reach)
    closed = -maximum_filter(-maximum_filter(surface, 3), 3)
    outer = map_coordinates(gaussian_filter(closed, 0.7), place.T - 0.5, order=1, mode="nearest")
    return np.asarray(np.clip(outer - reach, 0, None), np.float32)


def lip_loop(face: Face) -> Array:
    """Outline of the lips on the chart: two curves that meet in sharp corners."""
    upper, lower = (spline(face.landmarks[list(i)]) for i in (UPPER_LIP, LOWER_LIP))
    return np.concatenate([upper, lower[1:-1]])


def eye_loop(face: Face, side: int) -> Array:
    """Outline of one eye opening on the chart; side 0 is the subject's right."""
    upper, lower = (spline(face.landmarks[list(i[side])]) for i in (UPPER_LIDS, LOWER_LIDS))
    return np.concatenate([upper, lower[-2:0:-1]])


def inside_hairline(points: Array) -> Array:
    """Distance in mm on the scalp map to the hairline of the hairdos, positive where hair grows."""
    loop = hairline()
    ring = np.concatenate([loop, loop[:1]])
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(ring, axis=0), axis=1))])
    even = np.linspace(0, length[-1], 1000)
    dense = np.stack([np.interp(even, length, ring[:, axis]) for axis in (0, 1)], axis=1)
    flat = to_map(points.astype(np.float64))
    distance, _ = cKDTree(dense).query(flat)
    return np.asarray(np.where(inside(flat, loop), distance, -distance), np.float32)


def ear_mask(face: Face) -> Array:
    """Soft mask of both ears."""
    offset = (np.abs(face.points) * [1, 0, 0] + face.points * [0, 1, 1] - [84, 9, 1]) / [
        13.0,
        33.0,
        21.0,
    ]
    return smoothstep(1.25, 0.85, np.linalg.norm(offset, axis=1))
