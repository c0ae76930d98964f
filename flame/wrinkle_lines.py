"""Where skin folds: lines of a person's wrinkles on the chart of the face, and their relief.

The places follow anatomy: forehead lines lie across frontalis, frown lines between the brows
across corrugator, crow's feet and nasolabial folds round orbicularis and zygomaticus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from flame.paint_chart import LOWER_LIDS, spline
from flame.paint_noise import Array, Number, bell, smoothstep

GROUPS = (
    "forehead", "frown", "nose root", "crow's feet", "under eyes",
    "nasolabial", "mouth corners", "upper lip", "chin", "neck",
)  # fmt: skip
# the chart's images: first row lowest y, as Face.sample takes them
ORIGIN, STEP, SHAPE = np.array([-78.0, -136.0]), 0.4, (640, 390)  # mm, mm, rows x columns
_SPACING = 0.35  # mm between the points of a drawn line


@dataclass(frozen=True, eq=False)
class Line:
    """One crease: its course on the chart, half width and share of the group's depth."""

    group: int
    course: Array  # [N, 2] chart, mm
    sigma: float  # mm
    weight: float


def wrinkle_lines(marks: Array, rng: np.random.Generator, *, spread: float = 1.0) -> list[Line]:
    """The creases of one person whose 68 landmarks lie at `marks` on the chart.

    `spread` 0 draws the typical ones, none of them left out; 1 is as people differ.
    """
    return [*_upper(marks, rng, spread), *_eyes(marks, rng, spread), *_lower(marks, rng, spread)]


def _line(
    name: str,
    points: Sequence[tuple[Number, Number]],
    sigma: float,
    weight: float,
    rng: np.random.Generator,
    spread: float,
    jitter: float = 1.0,
) -> Line:
    """A line through points, each off by some tenths of a millimetre, not quite even."""
    moved = np.array(points, float)
    moved += (
        spread * jitter * (0.6 * rng.standard_normal(2) + 0.5 * rng.standard_normal(moved.shape))
    )
    scale = np.exp(spread * 0.22 * rng.standard_normal())
    share = weight * np.exp(spread * 0.4 * rng.standard_normal())
    length = np.linalg.norm(np.diff(moved, axis=0), axis=1).sum()
    course = spline(moved, max(int(length / _SPACING), 6))
    return Line(GROUPS.index(name), course, sigma * scale, float(np.clip(share, 0.1, 1.2)))


def _upper(marks: Array, rng: np.random.Generator, spread: float) -> list[Line]:
    """Forehead, frown lines and the root of the nose."""
    found = []
    brow = (marks[19, 1] + marks[24, 1]) / 2
    gull = 1.2 + spread * 1.6 * rng.standard_normal()  # lines dip or rise in the middle
    count = 4 if spread == 0 else int(rng.integers(3, 6))
    pitch = 9.0 * np.exp(spread * 0.12 * rng.standard_normal())
    for row in range(count):
        y = brow + 8.5 + pitch * row + spread * 1.3 * rng.standard_normal()
        reach = 44 - 2.5 * row
        ends = np.array([-reach, reach]) + spread * 7 * rng.standard_normal(2)
        # shorter lines are as common as whole ones
        if spread and rng.random() < 0.35:
            ends[int(rng.integers(2))] = rng.uniform(-8, 8)
        places = np.linspace(ends[0], ends[1], 7)
        wave = -gull * np.cos(places / 13) - 0.0022 * places**2
        weight = 1.0 - 0.12 * abs(row - 1)
        course = list(zip(places, y + wave, strict=True))
        found.append(_line("forehead", course, 1.2, weight, rng, spread, 0.9))
        if spread and rng.random() < 0.5:
            low, high = np.sort(rng.uniform(ends.min(), ends.max(), 2))
            part = np.linspace(low, high, 5)
            faint = [(a, y + 0.45 * pitch - gull * np.cos(a / 13) - 0.0022 * a**2) for a in part]
            found.append(_line("forehead", faint, 0.75, 0.3, rng, spread, 0.9))
    low = marks[21, 1]
    for side in (-1, 1):
        lean = spread * 1.2 * rng.standard_normal()
        x = 8.0 + spread * 1.3 * rng.standard_normal()
        tall = 9 + spread * 2.5 * rng.standard_normal()
        course = [
            (side * (x - 1.5), low - 15),
            (side * x, low - 5),
            (side * (x + lean + 1), low + tall - 4),
        ]
        found.append(_line("frown", course, 1.0, 1.0, rng, spread, 0.7))
        outer = [(side * (x + 5), low - 4), (side * (x + 6.5), low + 3), (side * (x + 7), low + 9)]
        if spread == 0 or rng.random() < 0.5:
            found.append(_line("frown", outer, 0.9, 0.35, rng, spread))
    if spread and rng.random() < 0.4:
        x = 2 * rng.standard_normal()
        found.append(_line("frown", [(x, low - 12), (x, low + 5)], 0.8, 0.4, rng, spread))
    root = marks[27, 1]
    for y, weight in ((root + 3.5, 0.9), (root - 1.5, 0.6)):
        course = [(-8.5, y - 1.0), (0.0, y + 0.8), (8.5, y - 1.0)]
        found.append(_line("nose root", course, 0.9, weight, rng, spread, 0.7))
    for side in (-1, 1):
        for at in (0.0, 4.0, 8.0):
            course = [
                (side * 4.5, root - 5 - at),
                (side * 9.0, root - 9 - at),
                (side * 12.5, root - 15 - at),
            ]
            found.append(_line("nose root", course, 0.8, 0.5, rng, spread, 0.7))
    return found


def _eyes(marks: Array, rng: np.random.Generator, spread: float) -> list[Line]:
    """Crow's feet and the folds under the eyes."""
    found = []
    for side, corner, lids in ((-1, 36, LOWER_LIDS[0]), (1, 45, LOWER_LIDS[1])):
        place = marks[corner]
        count = 4 if spread == 0 else int(rng.integers(3, 6))
        turn = spread * 6 * rng.standard_normal()
        for angle in np.linspace(30, -40, count) + turn:
            heading = np.deg2rad(angle + spread * 3 * rng.standard_normal())
            bend = 0.35 * np.sign(heading) * min(abs(heading), 0.6)
            first = 6.5 + spread * abs(1.5 * rng.standard_normal())
            length = (19 if angle > -20 else 15) * np.exp(spread * 0.25 * rng.standard_normal())
            course = []
            for at in np.linspace(0, 1, 4):
                reach, now = first + at * length, heading + bend * at
                course.append(
                    (place[0] + side * reach * np.cos(now), place[1] + reach * np.sin(now))
                )
            found.append(
                _line("crow's feet", course, 0.9, 0.9 if angle > -20 else 0.6, rng, spread, 0.5)
            )
        rim = marks[list(lids)]  # from the nose outward
        for below, sigma, weight in ((5.5, 0.75, 0.45), (8.5, 0.7, 0.35), (11.5, 1.6, 0.9)):
            droop = np.array([0.55, 1.0, 1.0, 0.75]) * below
            course = [(x, y - down) for (x, y), down in zip(rim, droop, strict=True)]
            if below > 10:  # the trough that runs from the inner corner onto the cheek
                course = course[:3]
            found.append(_line("under eyes", course, sigma, weight, rng, spread, 0.8))
    return found


def _lower(marks: Array, rng: np.random.Generator, spread: float) -> list[Line]:
    """Folds round nose, mouth and chin, and the rings of the neck."""
    found = []
    for side, wing, corner in ((-1, marks[31], marks[48]), (1, marks[35], marks[54])):
        out = spread * 1.2 * rng.standard_normal()

        def at(
            point: Array, across: Number, up: Number, side: int = side, out: Number = out
        ) -> tuple[float, float]:
            return float(point[0] + side * (across + out)), float(point[1] + up)

        fold = [at(wing, 5.5, 8), at(wing, 11, 1), at(corner, 5.5, 12), at(corner, 9.5, 1)]
        if spread == 0 or rng.random() < 0.5:
            fold.append(at(corner, 10.5, -7))
        found.append(_line("nasolabial", fold, 2.0, 1.1, rng, spread, 0.7))
        second = [at(corner, 12.5, 13), at(corner, 16, 2), at(corner, 15.5, -10)]
        found.append(_line("mouth corners", second, 1.3, 0.4, rng, spread))
        down = [at(corner, 2, -3), at(corner, 4.5, -10), at(corner, 4.5, -19)]
        found.append(_line("mouth corners", down, 1.4, 0.9, rng, spread))
        dimple = [at(corner, 5, 4), at(corner, 6.5, -1), at(corner, 5, -6)]
        found.append(_line("mouth corners", dimple, 1.1, 0.5, rng, spread, 0.6))
    x = -17.0
    while x < 17.5:
        high = 4.0 + spread * 1.5 * rng.random()
        top = marks[51, 1] + 1.5 - 0.012 * x * x
        course = [(x, top), (x * 0.97, top + high * 0.6), (x * 0.95, top + high * 1.5)]
        found.append(_line("upper lip", course, 0.65, 0.6, rng, spread, 0.5))
        if abs(x) < 12 and (spread == 0 or rng.random() < 0.5):
            low = marks[57, 1] - 1.5 + 0.012 * x * x
            course = [(x, low), (x * 1.03, low - 3), (x * 1.05, low - 5.5)]
            found.append(_line("upper lip", course, 0.65, 0.3, rng, spread, 0.5))
        x += 3.9 * (1 if spread == 0 else float(rng.uniform(0.7, 1.5)))
    crease = marks[57, 1] - 8.5
    course = [(-15.0, crease + 1.5), (-8.0, crease - 0.8), (0.0, crease - 1.5)]
    course += [(8.0, crease - 0.8), (15.0, crease + 1.5)]
    found.append(_line("chin", course, 1.9, 1.0, rng, spread, 0.7))
    chin = marks[8, 1]
    for below, weight in ((27.0, 0.9), (40.0, 0.7), (50.0, 0.5)):
        across = np.linspace(-48, 48, 7)
        course = [(a, chin - below - 0.0012 * a * a) for a in across]
        found.append(_line("neck", course, 1.5, weight, rng, spread))
    return found


def relief(lines: list[Line], rng: np.random.Generator, *, spread: float = 1.0) -> Array:
    """Height of each group's creases on the chart [G, rows, columns], the deepest about -1.

    Valleys between low shoulders that hold as much as the valley: skin is pushed aside, not lost.
    """
    image = np.zeros((len(GROUPS), *SHAPE), np.float32)
    for line in lines:
        window, place = _window(line.course, 6 * line.sigma + 1)
        away, nearest = cKDTree(line.course).query(place, distance_upper_bound=6 * line.sigma)
        near = np.isfinite(away)
        along = nearest[near] / (len(line.course) - 1)
        ends = smoothstep(0, 0.28, along) * smoothstep(1, 0.72, along)
        uneven = 1 + spread * 0.25 * np.sin(2 * np.pi * (along * rng.uniform(1, 3) + rng.random()))
        squared = np.square(away[near])
        profile = 1.3 * (0.5 * bell(squared, 2 * line.sigma) - bell(squared, line.sigma))
        patch = np.zeros(len(place), np.float32)
        patch[near] = line.weight * ends * uneven * profile
        image[line.group][window] += patch.reshape(image[line.group][window].shape)
    return np.clip(image, -1.15, 0.5)


def directions(lines: list[Line]) -> tuple[Array, Array]:
    """Where each group folds [G, rows, columns], 0..1, and the unit normal of its creases there.

    The normal [G, 2, rows, columns] is known up to its sign.
    """
    share = np.zeros((len(GROUPS), *SHAPE), np.float32)
    tensor = np.zeros((len(GROUPS), 3, *SHAPE), np.float32)  # aa, ab, bb
    for line in lines:
        step = np.gradient(line.course, axis=0)
        step /= np.linalg.norm(step, axis=1, keepdims=True)
        normal = np.stack([-step[:, 1], step[:, 0]], axis=1)
        window, place = _window(line.course, 24)
        away, nearest = cKDTree(line.course).query(place)
        a, b = normal[nearest].T
        region = (slice(None), *window)
        weight = bell(away**2, 6.0)
        shape = share[line.group][window].shape
        parts = np.stack([a * a, a * b, b * b]).astype(np.float32) * weight
        tensor[line.group][region] += parts.reshape(3, *shape)
        share[line.group][window] = np.maximum(
            share[line.group][window], bell(away**2, 4.5).reshape(shape)
        )
    tensor = gaussian_filter(tensor, (0, 0, 3 / STEP, 3 / STEP))
    angle = 0.5 * np.arctan2(2 * tensor[:, 1], tensor[:, 0] - tensor[:, 2])
    across = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.clip(1.6 * share, 0, 1), across.astype(np.float32)


def _window(course: Array, margin: Number) -> tuple[tuple[slice, slice], Array]:
    """Rows and columns of the chart's images round a course, and their places [N, 2]."""
    low = np.floor((course.min(0) - margin - ORIGIN) / STEP).astype(int).clip(0)
    high = np.ceil((course.max(0) + margin - ORIGIN) / STEP).astype(int)
    high = np.maximum(np.minimum(high, SHAPE[::-1]), low)
    x, y = (ORIGIN[k] + (np.arange(low[k], high[k]) + 0.5) * STEP for k in (0, 1))
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return (slice(low[1], high[1]), slice(low[0], high[0])), grid
