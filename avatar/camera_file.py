"""Camera files: where the pictures of an object were taken from.

Two formats are read, told apart by their content.

Views, ours: a JSON object such as

    {"up": "y",
     "views": [
       {"mask": "000.png",          a file name in the folder of masks
        "image": "000.jpg",         optional: in the folder of images; else the mask's name
        "fx": 480.0, "fy": 480.0,   focal lengths in pixels; or "fov_deg", the vertical angle
        "cx": 128.0, "cy": 128.0,   optional: principal point in pixels; else the middle
        "world_to_camera": [[...], [...], [...], [...]]}]}

world_to_camera is a 4x4 matrix in rows that takes column vectors of the world into the camera's
frame, OpenCV's: x right, y down, z forward. Its upper left 3x3 is a rotation. Pixels count from
the image's top left corner, so that the first pixel's centre is at (0.5, 0.5). "up", the world's
vertical axis "y" or "z", turns the GLB and the preview upright; it is "y" if left out.

Blender's and NeRF's transforms.json: "camera_angle_x" (horizontal field of view, radians) or
"fl_x" and "fl_y" with optional "cx", "cy", "w", "h" (for the file or for each frame), and
"frames", each with "file_path" and "transform_matrix", camera to world, 4x4 in rows, OpenGL's
frame: x right, y up, z backward. "up" is "z" if left out.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from assets.errors import AssetError
from flame.pinhole import Pinhole

Json = dict[str, Any]
Fov = tuple[Literal["x", "y"], float]


@dataclass(frozen=True, eq=False)
class View:
    """One camera before the size of its picture is known."""

    mask: str
    image: str
    matrix: NDArray[np.float64]  # world to camera [4, 4], OpenCV's frame
    focal: tuple[float, float] | None  # px; None where fov is given
    fov: Fov | None  # radians across the width or the height
    centre: tuple[float, float] | None  # px; None is the middle
    full_size: tuple[int, int] | None  # (H, W) that focal and centre belong to; None is the file's


@dataclass(frozen=True, eq=False)
class CameraFile:
    """The views of a camera file, in its order."""

    views: tuple[View, ...]
    up: Literal["y", "z"]


def read_cameras(path: Path) -> CameraFile:
    """The views that a camera file lists; AssetError says what is wrong in which."""
    path = Path(path)
    if not path.is_file():
        raise AssetError(f"{path} is not there; give the JSON file of the cameras")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise AssetError(f"{path} is not JSON that can be read: {error}") from error
    ours = isinstance(content, dict) and "views" in content
    entries = content.get("views" if ours else "frames") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise AssetError(
            f'{path} has neither a list "views" nor, as transforms.json has, "frames"; '
            "see the README for both formats"
        )
    up = content.get("up", "y" if ours else "z")
    if up not in ("y", "z"):
        raise AssetError(f'{path}: "up" is {up!r}; write "y" or "z"')
    read = _own_view if ours else _nerf_view
    views = tuple(
        read(entry, content, f"{path}, view {index}") for index, entry in enumerate(entries)
    )
    return CameraFile(views, up)


def to_cameras(views: list[View], size: tuple[int, int]) -> Pinhole:
    """The cameras of pictures of size (H, W)."""
    focal, centre = [], []
    for view in views:
        full = view.full_size or size
        scale = size[0] / full[0]
        if view.focal is not None:
            focal.append([value * scale for value in view.focal])
        else:
            assert view.fov is not None
            axis, angle = view.fov
            side = size[1] if axis == "x" else size[0]
            focal.append([side / (2 * math.tan(angle / 2))] * 2)
        middle = (size[1] / 2, size[0] / 2)
        centre.append(
            middle if view.centre is None else tuple(value * scale for value in view.centre)
        )
    matrices = np.stack([view.matrix for view in views])
    eyes = -np.einsum("nji,nj->ni", matrices[:, :3, :3], matrices[:, :3, 3])
    spread = float(np.linalg.norm(eyes - eyes.mean(0), axis=1).max())
    # one camera's distance to the object is not known here; cameras stand round it
    near = max(spread, 1e-6) / 100
    return Pinhole(
        torch.from_numpy(matrices).float(),
        torch.tensor(focal, dtype=torch.float32),
        torch.tensor(centre, dtype=torch.float32),
        torch.full((len(views),), near),
    )


def _own_view(entry: Json, _: Json, where: str) -> View:
    mask = entry.get("mask", entry.get("image"))
    if not isinstance(mask, str) or not mask:
        raise AssetError(f'{where}: "mask" is missing; write the file name of its mask')
    if "world_to_camera" not in entry:
        raise AssetError(f'{where}: "world_to_camera" is missing; write a 4x4 matrix in rows')
    matrix = _rigid(entry["world_to_camera"], f'{where}: "world_to_camera"')
    focal: tuple[float, float] | None = None
    fov: Fov | None = None
    if "fx" in entry:
        focal = (_positive(entry, "fx", where), _positive(entry, "fy" if "fy" in entry else "fx",
                                                          where))  # fmt: skip
    elif "fov_deg" in entry:
        fov = ("y", math.radians(_positive(entry, "fov_deg", where, below=180)))
    else:
        raise AssetError(f'{where}: write "fx" and "fy" in pixels, or "fov_deg"')
    image = entry.get("image", mask)
    return View(mask, str(image), matrix, focal, fov, _centre(entry, where), None)


def _nerf_view(entry: Json, content: Json, where: str) -> View:
    name = entry.get("file_path")
    if not isinstance(name, str) or not name:
        raise AssetError(f'{where}: "file_path" is missing; write the file name of its picture')
    if "transform_matrix" not in entry:
        raise AssetError(f'{where}: "transform_matrix" is missing; write a 4x4 matrix in rows')
    camera_to_world = _rigid(entry["transform_matrix"], f'{where}: "transform_matrix"')
    matrix = np.diag([1.0, -1.0, -1.0, 1.0]) @ np.linalg.inv(camera_to_world)
    merged = {**content, **entry}
    focal: tuple[float, float] | None = None
    fov: Fov | None = None
    if "fl_x" in merged:
        across = _positive(merged, "fl_x", where)
        focal = (across, _positive(merged, "fl_y", where) if "fl_y" in merged else across)
    elif "camera_angle_x" in merged:
        fov = ("x", _positive(merged, "camera_angle_x", where, below=math.pi))
    else:
        raise AssetError(f'{where}: the file has neither "camera_angle_x" nor "fl_x"')
    full = None
    if "w" in merged and "h" in merged:
        full = (round(_positive(merged, "h", where)), round(_positive(merged, "w", where)))
    return View(name, name, matrix, focal, fov, _centre(merged, where), full)


def _centre(entry: Json, where: str) -> tuple[float, float] | None:
    if "cx" not in entry and "cy" not in entry:
        return None
    return _number(entry, "cx", where), _number(entry, "cy", where)


def _number(entry: Json, key: str, where: str) -> float:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AssetError(f'{where}: "{key}" is {value!r}; write a number')
    return float(value)


def _positive(entry: Json, key: str, where: str, below: float = math.inf) -> float:
    value = _number(entry, key, where)
    if not 0 < value < below:
        limit = "" if math.isinf(below) else f" and below {below:.4g}"
        raise AssetError(f'{where}: "{key}" is {value:g}; it must be above 0{limit}')
    return value


def _rigid(rows: object, what: str) -> NDArray[np.float64]:
    """A 4x4 matrix that turns and shifts, and nothing else."""
    try:
        matrix = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise AssetError(f"{what} is not 4 rows of 4 numbers")
    if abs(np.linalg.det(matrix[:3, :3])) < 1e-9 or not np.allclose(matrix[3], [0, 0, 0, 1]):
        raise AssetError(
            f"{what} cannot be inverted as a camera's pose; its last row must be 0 0 0 1 and its "
            "upper left 3x3 a rotation"
        )
    turn = matrix[:3, :3]
    if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-2 or np.linalg.det(turn) < 0:
        raise AssetError(f"{what} scales, shears or mirrors; its upper left 3x3 must be a rotation")
    return matrix
