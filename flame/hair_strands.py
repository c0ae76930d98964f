"""How strands of hair run over the head, and the ribbons of triangles that show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flame import hair_texture
from flame.hair_ground import Array, Ground, Indices, unit
from flame.hair_scalp import Flow, Zone, inside_hairline, tangents, to_map


@dataclass(frozen=True)
class Layer:
    """Cards of one kind; lengths in mm."""

    strips: tuple[hair_texture.Strip, ...]
    share: float  # of the triangles left for cards
    width: float
    columns: int
    segments: int
    depth: float  # 0 on the skin, 1 at the full volume
    margin: float  # roots keep this far inside the hairline
    zone: Zone = "scalp"


Growth = Callable[[Ground, Array, Flow, Layer, np.random.Generator], Array]

# half the face's width that stays free of hair, by height
_FREE_Y = np.array([-200.0, -105, -78, -40, 55, 78, 92, 103, 112])
_FREE_X = np.array([40.0, 46, 54, 61, 61, 55, 42, 22, 0])


def falling(
    *, end: float, spread: float, volume: float, parting: float, wave: float, tuck: float = 0.0
) -> Growth:
    """Strands that follow the parting over the skull and then hang to the height `end`."""

    def run(
        ground: Ground, roots: Array, flow: Flow, layer: Layer, rng: np.random.Generator
    ) -> Array:
        n = len(roots)
        side = np.where(roots[:, 0] >= parting, 1.0, -1.0)
        behind = np.where(roots[:, 2] < -14 + 7 * rng.normal(size=n), -1.0, 1.0)
        stop = end + spread * rng.normal(size=n) + (1 - layer.depth) * 10
        depth = layer.depth * rng.uniform(0.7, 1.15, n)
        point = roots + ground.up(roots)
        heading = unit(tangents(roots, flow) + 0.7 * ground.up(roots))
        path, travelled = [point], 0.0
        step = 4.0
        alive = np.ones(n, bool)
        for _ in range(110):
            height, up, hull = ground.probe(point)
            skull = np.clip((point[:, 1] - 35) / 45, 0, 1)[:, None]
            target = 2.0 + depth * volume * (1 - np.exp(-travelled / 26))
            gravity = np.array([0.0, -1, 0]) - np.minimum(-up[:, 1:2], 0) * up
            turn = 0.9 * heading + 0.45 * skull * tangents(point, flow)
            turn += (0.08 + 0.52 * (1 - skull)) * gravity
            rise = np.clip((target - hull) / 14, -0.35 * skull[:, 0] - 0.02, 0.9)
            turn += rise[:, None] * up
            # in towards the neck, then out over the shoulders to the side where it began
            inward = (point - [0, 0, -12]) * [-1, 0, -1]
            below = np.clip((0 - point[:, 1:2]) / 60, 0, 1)
            wide = np.clip((np.abs(point[:, :1]) - 58) / 30, 0, 1)
            turn += 0.14 * below * wide * unit(inward) * (height > target + 4)[:, None]
            # off the forehead, back into the hair
            high = np.flatnonzero(point[:, 1] > 80)
            edge = np.clip((6 - inside_hairline(to_map(point[high]))) / 6, 0, 1)
            turn[high] += 0.9 * edge[:, None] * tangents(point[high], np.negative)
            low = np.clip((-20 - point[:, 1:2]) / 70, 0, 1)
            aside = np.zeros((n, 3))
            here = np.clip(0.5 - behind * (point[:, 2] + 12) / 60, 0, 1)
            aside[:, 2] = 0.55 * behind * here
            aside[:, 0] = (
                -0.5 * np.sign(point[:, 0]) * np.clip((np.abs(point[:, 0]) - 62) / 30, 0, 1)
            )
            turn += low * (aside - (aside * up).sum(1, keepdims=True) * up)
            lack = np.interp(point[:, 1], _FREE_Y, _FREE_X) + 4 * depth - side * point[:, 0]
            front = np.clip((point[:, 2] - 38) / 18, 0, 1)
            turn[:, 0] += side * front * np.clip(lack / 14, 0, 1.1)
            back = tuck * np.clip((90 - point[:, 1]) / 40, 0, 1) * (point[:, 1] > -20)
            turn[:, 2] -= back * np.clip((point[:, 2] - 5) / 40, 0, 1)
            heading = unit(turn)
            moved = ground.lift(point + step * heading, 2.0 + 0.25 * (target - 2.0))
            heading = unit(moved - point)
            alive &= point[:, 1] > stop
            point = np.where(alive[:, None], moved, point)
            path.append(point)
            travelled += step
            if not alive.any():
                break
        paths = _resample(np.stack(path, 1), 48)
        return ground.lift(_waved(ground, _smoothed(paths), wave, roots, rng), 1.6)

    return run


def _waved(
    ground: Ground, paths: Array, size: float, roots: Array, rng: np.random.Generator
) -> Array:
    """Waves that neighbours share, growing towards the tips."""
    along = unit(np.gradient(paths, axis=1))
    right = unit(np.cross(ground.up(paths), along))
    step = np.linalg.norm(np.diff(paths, axis=1), axis=2)
    travelled = np.concatenate([np.zeros((len(paths), 1)), step.cumsum(1)], 1)
    phase = 0.05 * roots[:, 0] + 0.04 * roots[:, 2] + rng.normal(0, 0.5, len(roots))
    swing = np.sin(travelled / 17 + phase[:, None]) * rng.uniform(0.4, 1.2, (len(roots), 1))
    swing += rng.normal(0, 0.7, (len(roots), 1)) * np.linspace(0, 1, paths.shape[1])
    grown = np.clip(travelled / 140, 0, 1)
    return paths + (size * grown * swing)[..., None] * right


def _smoothed(paths: Array) -> Array:
    paths = paths.copy()
    for _ in range(14):
        paths[:, 1:-1] = 0.25 * paths[:, :-2] + 0.5 * paths[:, 1:-1] + 0.25 * paths[:, 2:]
    return paths


def short(
    ground: Ground, roots: Array, flow: Flow, layer: Layer, rng: np.random.Generator
) -> Array:
    """Locks that rise from the scalp and lie over in the flow; long on top, faded below."""
    n = len(roots)
    inside = inside_hairline(to_map(roots))
    top = np.clip((roots[:, 1] - 62) / 55, 0, 1) ** 1.2
    length = (24 + 29 * top) * rng.uniform(0.75, 1.25, n)
    length = np.minimum(length, 10 + 1.0 * inside + 22 * top)
    volume = (3.0 + 10 * top) * layer.depth * rng.uniform(0.7, 1.25, n)
    front = np.clip((to_map(roots)[:, 1] - 60) / 40, 0, 1) * top
    volume = volume * (1 + 0.35 * front)
    up = ground.up(roots)
    point = roots + 0.4 * up
    sway = rng.normal(0, 0.15, (n, 1))
    flow_at = tangents(roots, flow)
    flow_at = unit(flow_at + sway * np.cross(up, flow_at))
    lift = (0.35 + 0.5 * top * layer.depth)[:, None]
    heading = unit(flow_at + lift * up)
    path = [point]
    n_steps = 14
    step = (length / n_steps)[:, None]
    for k in range(n_steps):
        height, up, _ = ground.probe(point)
        along = tangents(point, flow)
        along = unit(along + sway * np.cross(up, along))
        target = 1.0 + volume * np.sin(np.pi * min(1.0, 0.25 + 0.62 * k / n_steps))
        rise = np.clip((target - height) / 8, -0.5, 0.9)
        gravity = np.array([0.0, -0.25, 0]) - np.minimum(-0.25 * up[:, 1:2], 0) * up
        heading = unit(0.8 * heading + 0.5 * along + rise[:, None] * up + gravity)
        point = ground.lift(point + step * heading, 0.9)
        path.append(point)
    return np.stack(path, 1)


def fringe(
    ground: Ground, roots: Array, flow: Flow, layer: Layer, rng: np.random.Generator
) -> Array:
    """Locks combed straight forward that end above the eyes."""
    n = len(roots)
    stop = 66 + 2 * rng.normal(size=n)
    target = 3 + 5 * layer.depth * rng.uniform(0.7, 1.2, n)
    point = roots + ground.up(roots)
    heading = unit(tangents(roots, _forward) + 0.7 * ground.up(roots))
    path, alive = [point], np.ones(n, bool)
    for _ in range(60):
        height, up, _ = ground.probe(point)
        gravity = np.array([0.0, -1, 0]) - np.minimum(-up[:, 1:2], 0) * up
        rise = np.clip((target - height) / 10, -0.5, 0.8)[:, None]
        turn = 0.9 * heading + 0.3 * tangents(point, _forward) + 0.3 * gravity + rise * up
        heading = unit(turn)
        moved = ground.lift(point + 3.0 * heading, 2.0)
        # longer beside the eyes, to meet the curtain at the temples
        beside = np.clip((np.abs(point[:, 0]) - 46) / 8, 0, 1)
        alive &= point[:, 1] > stop - 55 * beside
        point = np.where(alive[:, None], moved, point)
        path.append(point)
    return _smoothed(_resample(np.stack(path, 1), 32))


def _forward(flat: Array) -> Array:
    return np.stack([0.009 * flat[:, 0], np.ones(len(flat))], 1)


def cards(
    ground: Ground, paths: Array, layer: Layer, rng: np.random.Generator
) -> tuple[Array, Array, Indices]:
    """Ribbons along paths [N, T, 3]: vertices, UV and faces."""
    paths = _resample(paths, layer.segments + 1)
    n, rows = paths.shape[:2]
    along = unit(np.gradient(paths, axis=1))
    out = ground.up(paths)
    out = unit(out - (out * along).sum(2, keepdims=True) * along)
    for _ in range(2):
        out[:, 1:-1] = unit(out[:, :-2] + 2 * out[:, 1:-1] + out[:, 2:])
    right = unit(np.cross(out, along))
    roll = rng.normal(0, 0.07, (n, 1, 1))
    right, out = (
        np.cos(roll) * right + np.sin(roll) * out,
        np.cos(roll) * out - np.sin(roll) * right,
    )
    t = np.linspace(0, 1, rows)
    profile = np.interp(t, [0, 0.25, 0.6, 1], [0.72, 1.0, 1.0, 0.72])
    width = layer.width * rng.uniform(0.75, 1.25, (n, 1)) * profile
    across = np.linspace(-1, 1, layer.columns)
    verts = (
        paths[:, :, None]
        + 0.5 * width[:, :, None, None] * across[:, None] * right[:, :, None]
        + 0.13 * width[:, :, None, None] * (1 - across**2)[:, None] * out[:, :, None]
    )  # [N, T, columns, 3]
    verts = ground.lift(verts, 1.3)
    strips = np.array([(s.u0, s.u1, s.v0, s.v1) for s in layer.strips])
    u0, u1, v0, v1 = strips[rng.integers(len(strips), size=n)].T[:, :, None, None]
    side = np.where(rng.random((n, 1, 1)) < 0.5, across, -across)
    u = (u0 + u1) / 2 + 0.485 * (u1 - u0) * side + 0 * t[:, None]
    v = v1 + (v0 - v1) * (0.004 + 0.992 * t[:, None]) + 0 * side
    index = np.arange(n * rows * layer.columns).reshape(n, rows, layer.columns)
    a, b = index[:, :-1, :-1], index[:, 1:, :-1]
    c, d = index[:, 1:, 1:], index[:, :-1, 1:]
    faces = np.stack([a, b, c, a, c, d], -1).reshape(-1, 3)
    return verts.reshape(-1, 3), np.stack([u, v], -1).reshape(-1, 2), faces


def _resample(paths: Array, count: int) -> Array:
    """Paths [N, T, 3] with `count` points at equal spacing along each."""
    step = np.linalg.norm(np.diff(paths, axis=1), axis=2)
    length = np.concatenate([np.zeros((len(paths), 1)), step.cumsum(1)], 1)
    out = np.empty((len(paths), count, 3))
    for k, (path, travelled) in enumerate(zip(paths, length, strict=True)):
        at = np.linspace(0, travelled[-1], count)
        for axis in range(3):
            out[k, :, axis] = np.interp(at, travelled, path[:, axis])
    return out
