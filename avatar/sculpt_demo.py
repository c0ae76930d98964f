"""`python -m avatar.sculpt_demo`: pictures of a teapot that exists as a formula, and its mesh.

The teapot is traced along rays, so that nothing of what fits it has drawn it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from assets.files import replacing
from assets.image import write_image

Floats = NDArray[np.float64]

VIEWS, SIDE = 20, 256
_DISTANCE, _FOV_DEG = 2.3, 36.0
_RADIUS = 0.72  # of a sphere that holds the teapot
_SAMPLES = 3  # rays a pixel a side
_LIGHT = np.array([-0.5, 0.75, 0.6]) / np.linalg.norm([-0.5, 0.75, 0.6])


def teapot(points: Floats) -> Floats:
    """A lower bound of the distance of points [..., 3] to the surface, negative inside."""
    body = (np.linalg.norm(points / [0.38, 0.31, 0.38], axis=-1) - 1) * 0.3
    spout = _capsule(points, np.array([0.25, -0.1, 0.0]), np.array([0.58, 0.2, 0.0]), 0.06)
    handle = _ring(points - [-0.38, 0.02, 0.0], 0.2, 0.045)
    knob = np.linalg.norm(points - [0.0, 0.34, 0.0], axis=-1) - 0.065
    return _blend(_blend(_blend(body, spout), handle), knob)


def paint(points: Floats) -> Floats:
    """sRGB colours of surface points, without light."""
    height, turn = points[..., 1], np.arctan2(points[..., 2], points[..., 0])
    cream, blue = np.array([0.93, 0.88, 0.78]), np.array([0.16, 0.33, 0.55])
    red = np.array([0.78, 0.27, 0.18])
    wave = _step(np.sin(6 * turn) * 0.045 + 0.02 - np.abs(height + 0.02), 0.012)[..., None]
    top = _step(height - 0.27, 0.01)[..., None]
    return (cream * (1 - wave) + blue * wave) * (1 - top) + red * top


def write_views(folder: Path, views: int = VIEWS, side: int = SIDE) -> None:
    """Masks, photos and cameras.json of the teapot, as `avatar sculpt` reads them."""
    focal = side / 2 / np.tan(np.radians(_FOV_DEG / 2))
    entries = []
    for view in range(views):
        matrix = _pose(2.399963 * view, np.radians((-20.0, 12.0, 38.0, 62.0)[view % 4]))
        mask, photo = _trace(matrix, focal, side)
        name = f"{view:03d}.png"
        for kind, values in (("masks", mask[..., None]), ("images", photo)):
            picture = torch.from_numpy(values).float().permute(2, 0, 1)[None]
            write_image(folder / kind / name, picture)
        entries.append(
            {"mask": name, "fov_deg": _FOV_DEG, "world_to_camera": matrix.round(9).tolist()}
        )
    with replacing(folder / "cameras.json") as written:
        written.write_text(json.dumps({"up": "y", "views": entries}, indent=1), encoding="utf-8")


def main() -> None:
    """Write the teapot's views, then run `avatar sculpt` on them."""
    from avatar.cli import main as avatar

    folder = Path("out/sculpt_demo")
    write_views(folder)
    sys.argv = ["avatar", "sculpt", "--masks", str(folder / "masks"), "--images",
                str(folder / "images"), "--cameras", str(folder / "cameras.json"),
                "--out", str(folder / "teapot"), *sys.argv[1:]]  # fmt: skip
    avatar()


def _pose(yaw: float, pitch: float) -> Floats:
    """World to camera, x right, y down, z forward, looking at the origin."""
    eye = _DISTANCE * np.array(
        [np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)]
    )
    forward = -eye / _DISTANCE
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = [right, np.cross(forward, right), forward]
    matrix[:3, 3] = -matrix[:3, :3] @ eye
    return matrix


def _trace(matrix: Floats, focal: float, side: int) -> tuple[Floats, Floats]:
    """The share of each pixel that shows the teapot [H, W], and its photo [H, W, 3]."""
    fine = _SAMPLES * side
    place = (np.arange(fine) + 0.5) / _SAMPLES - side / 2
    x, y = np.meshgrid(place / focal, place / focal)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1)
    rays = (rays / np.linalg.norm(rays, axis=-1, keepdims=True)) @ matrix[:3, :3]
    eye = -matrix[:3, :3].T @ matrix[:3, 3]
    # only inside a sphere round the teapot is there anything to hit
    nearest = -(rays @ eye)
    half = _RADIUS**2 - (_DISTANCE**2 - nearest**2)
    reach = nearest - np.sqrt(np.maximum(half, 0))
    leave = nearest + np.sqrt(np.maximum(half, 0))
    hit = np.zeros(x.shape, dtype=bool)
    rows, columns = np.nonzero(half > 0)
    for _ in range(100):
        gap = teapot(eye + reach[rows, columns][:, None] * rays[rows, columns])
        reach[rows, columns] += 0.9 * gap
        hit[rows, columns] = gap < 2e-4
        alive = (gap >= 2e-4) & (reach[rows, columns] < leave[rows, columns])
        rows, columns = rows[alive], columns[alive]
    photo = np.full((*x.shape, 3), 0.9)
    points = eye + reach[hit][:, None] * rays[hit]
    light = 0.35 + 0.65 * np.clip(_normals(points) @ _LIGHT, 0, 1)
    photo[hit] = np.clip(paint(points) * np.sqrt(light)[:, None], 0, 1)
    blocks = (side, _SAMPLES, side, _SAMPLES)
    return hit.reshape(blocks).mean((1, 3)), photo.reshape(*blocks, 3).mean((1, 3))


def _normals(points: Floats) -> Floats:
    steps = np.eye(3) * 1e-4
    slope = np.stack([teapot(points + step) - teapot(points - step) for step in steps], axis=-1)
    return np.asarray(slope / np.linalg.norm(slope, axis=-1, keepdims=True))


def _capsule(points: Floats, start: Floats, end: Floats, radius: float) -> Floats:
    along = end - start
    share = np.clip((points - start) @ along / (along @ along), 0, 1)
    return np.asarray(np.linalg.norm(points - start - share[..., None] * along, axis=-1) - radius)


def _ring(points: Floats, radius: float, thickness: float) -> Floats:
    away = np.hypot(points[..., 0], points[..., 1]) - radius
    return np.asarray(np.hypot(away, points[..., 2]) - thickness)


def _blend(one: Floats, two: Floats, width: float = 0.05) -> Floats:
    """The smaller of two distances, with a fillet where they meet."""
    share = np.clip(0.5 + 0.5 * (two - one) / width, 0, 1)
    return np.asarray(two * (1 - share) + one * share - width * share * (1 - share))


def _step(values: Floats, width: float) -> Floats:
    return np.asarray(np.clip(values / width + 0.5, 0, 1))


if __name__ == "__main__":
    main()
