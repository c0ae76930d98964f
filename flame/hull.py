"""Visual hulls: the largest body that fits every silhouette, as an even triangle mesh.

Where the cameras' cones meet bounds it (linear programs), the smallest signed distance to any
silhouette carves it (Laurentini 1994), and its zero level is its surface. Its topology, holes and
handles too, is where a fit starts.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linprog
from torch import Tensor

from flame.pinhole import Pinhole

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_FIRST = 64  # voxels along the longest side of the first carving
_RANGE = (40, 320)  # voxels along the longest side of the last one
_CHUNK = 1 << 18  # voxels a time
_SPECK = 0.02  # separate parts below this share of the largest are phantoms of the cones
_SLACK_PX = 1.0  # how far cones are widened before they are intersected


def visual_hull(
    masks: Float[Tensor, "N 1 H W"], cameras: Pinhole, n_verts: int
) -> tuple[Float[Tensor, "V 3"], Tensor]:
    """Vertices and faces [F, 3] of the visual hull, closed, of about n_verts vertices.

    Masks are 0..1, 1 on the object. Where a mask touches the image's border the object is taken to
    go on beyond it; elsewhere what lies outside an image is empty. Raises ValueError when the
    cameras' cones have no common volume or leave it unbounded, or when nothing is left of it.
    """
    low, high = bounds(masks, cameras)
    distances = _signed_distances(masks)
    cut = _touches_border(masks)
    resolution = _FIRST
    for last in (False, True):
        step = float((high - low).max()) / resolution
        low, high = low - 2 * step, high + 2 * step
        field = _carve(distances, cut, cameras, low, high, step)
        field = _without_specks(field)
        verts, faces = _surface(field, low, step)
        if last:
            verts = _evened(verts, faces, field, low, step)
            break
        low, high = verts.min(0) - step, verts.max(0) + step
        # a surface's voxels grow with the square of their number along a side
        longest = float((high - low).max()) / step
        resolution = round(longest * np.sqrt(n_verts / len(verts)))
        resolution = int(np.clip(resolution, *_RANGE))
    log.info("the visual hull has %d vertices and %d faces", len(verts), len(faces))
    return torch.from_numpy(verts).to(masks), torch.from_numpy(faces).to(masks.device)


def bounds(masks: Float[Tensor, "N 1 H W"], cameras: Pinhole) -> tuple[Floats, Floats]:
    """Lowest and highest corner of the box round all points that every camera sees in its mask's
    bounding box; sides that touch the image's border do not bound."""
    planes = _cone_planes(masks, cameras)
    eyes = cameras.eye().double().cpu().numpy()
    # the programs are solved in units of the cameras' spread, round its middle
    middle = eyes.mean(0)
    scale = max(float(np.abs(eyes - middle).max()), 1e-9)
    normals = planes[:, :3]
    limits = (planes[:, 3] + normals @ middle) / scale
    corners = np.zeros((2, 3))
    for axis in range(3):
        for side, sign in enumerate((1.0, -1.0)):
            goal = np.zeros(3)
            goal[axis] = sign
            found = linprog(goal, A_ub=-normals, b_ub=limits, bounds=(None, None))
            if found.status == 3:
                raise ValueError(
                    "the views leave the object's extent open; add views from other sides in "
                    "which all of it is inside the picture"
                )
            if found.status != 0:
                raise ValueError(
                    "the cameras do not see a common volume inside all masks; check that each "
                    "view names its own mask and that the matrices follow the file's convention "
                    "(OpenCV: x right, y down, z forward)"
                )
            corners[side, axis] = found.x[axis]
    if not ((corners[1] - corners[0]) > 1e-9).all():
        raise ValueError("the masks' cones meet in less than a volume; check masks and cameras")
    return corners[0] * scale + middle, corners[1] * scale + middle


def _cone_planes(masks: Tensor, cameras: Pinhole) -> Floats:
    """Half-spaces n·p + d >= 0 [P, 4] of the cones through the masks' bounding boxes."""
    height, width = masks.shape[2:]
    rows = []
    for item, mask in enumerate(masks[:, 0] > 0.5):
        columns = torch.nonzero(mask.any(0))[:, 0]
        lines = torch.nonzero(mask.any(1))[:, 0]
        matrix = cameras.world_to_camera[item].double().cpu().numpy()
        focal = cameras.focal[item].tolist()
        centre = cameras.centre[item].tolist()
        rows.append(matrix[2] - [0, 0, 0, float(cameras.near[item])])
        for axis, (inside, end) in enumerate(((columns, width), (lines, height))):
            first, last = int(inside[0]), int(inside[-1]) + 1
            slope_low = (first - _SLACK_PX - centre[axis]) / focal[axis]
            slope_high = (last + _SLACK_PX - centre[axis]) / focal[axis]
            if first > 0:
                rows.append(matrix[axis] - slope_low * matrix[2])
            if last < end:
                rows.append(slope_high * matrix[2] - matrix[axis])
    return np.stack(rows)


def _touches_border(masks: Tensor) -> list[bool]:
    solid = masks[:, 0] > 0.5
    sides = (solid[:, 0], solid[:, -1], solid[:, :, 0], solid[:, :, -1])
    return torch.stack([side.any(1) for side in sides]).any(0).tolist()


def _signed_distances(masks: Tensor) -> Float[Tensor, "N 1 H W"]:
    """Pixels to the silhouette, positive inside; stairs of the pixel grid are smoothed out."""
    maps = []
    for mask in masks[:, 0].cpu().numpy():
        solid = mask > 0.5
        inside = ndimage.distance_transform_edt(np.pad(solid, 1, mode="edge"))[1:-1, 1:-1]
        outside = ndimage.distance_transform_edt(~solid)
        distance = np.where(solid, inside - 0.5, 0.5 - outside)
        # where a mask is antialiased, its value at the rim tells the place within the pixel
        soft = (mask > 0.02) & (mask < 0.98) & (np.abs(distance) < 1.6)
        distance = np.where(soft, mask - 0.5, distance)
        maps.append(ndimage.gaussian_filter(distance, 0.6))
    return torch.from_numpy(np.stack(maps)[:, None]).to(masks)


def _carve(
    distances: Tensor, cut: list[bool], cameras: Pinhole, low: Floats, high: Floats, step: float
) -> Floats:
    """The smallest signed distance to any silhouette at each voxel [X, Y, Z], world units."""
    counts = np.ceil((high - low) / step).astype(int) + 1
    axes = [torch.arange(count, dtype=torch.float64) * step + start
            for count, start in zip(counts.tolist(), low.tolist(), strict=True)]  # fmt: skip
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).view(-1, 3)
    parts = [
        _nearest_silhouette(grid[first : first + _CHUNK].to(distances), distances, cut, cameras)
        for first in range(0, len(grid), _CHUNK)
    ]
    field: Floats = torch.cat(parts).double().cpu().numpy().reshape(counts)
    # the box's outermost voxels are outside, so that the surface is closed
    closed = np.full_like(field, -step)
    core = (slice(1, -1),) * 3
    closed[core] = field[core]
    return closed


def _nearest_silhouette(
    points: Tensor, distances: Tensor, cut: list[bool], cameras: Pinhole
) -> Tensor:
    height, width = distances.shape[2:]
    span = points.new_tensor([width, height])
    smallest = torch.full_like(points[:, 0], torch.inf)
    for item in range(len(distances)):
        seen = cameras[item].frame(points[None])[0]
        depth = seen[:, 2]
        safe = depth.clamp(min=float(cameras.near[item]))
        pixel = seen[:, :2] / safe[:, None] * cameras.focal[item] + cameras.centre[item]
        place = (2 * pixel / span - 1).view(1, 1, -1, 2)
        value = F.grid_sample(
            distances[item : item + 1], place, padding_mode="border", align_corners=False
        ).view(-1)
        beyond = (pixel - pixel.clamp(min=0).minimum(span)).norm(dim=-1)
        outside = beyond > 0
        value = torch.where(outside, torch.inf if cut[item] else value - beyond, value)
        value = value * safe / float(cameras.focal[item].mean())
        value = torch.where(depth < cameras.near[item], -safe, value)
        smallest = torch.minimum(smallest, value)
    return smallest


def _without_specks(field: Floats) -> Floats:
    """The field with small separate bodies taken away."""
    labels, count = ndimage.label(field > 0)
    if not count:
        raise ValueError(
            "no volume projects into all masks; check that each view names its own mask, and "
            "the matrices' convention"
        )
    sizes = np.bincount(labels.ravel())[1:]
    small = np.flatnonzero(sizes < _SPECK * sizes.max()) + 1
    return np.where(np.isin(labels, small), -np.abs(field) - 1e-12, field)


def _surface(field: Floats, low: Floats, step: float) -> tuple[Floats, Ints]:
    """The zero level, wound counter-clockwise seen from outside."""
    from skimage.measure import marching_cubes

    if min(field.shape) < 2 or field.max() <= 0:
        raise ValueError("no volume projects into all masks; check masks and cameras")
    # "ascent" because objects are the higher side
    verts, faces, _, _ = marching_cubes(field, 0.0, gradient_direction="ascent")
    return verts.astype(np.float64) * step + low, faces.astype(np.int64)


def _evened(
    verts: Floats, faces: Ints, field: Floats, low: Floats, step: float, rounds: int = 12
) -> Floats:
    """Vertices spread evenly over the zero level: marching cubes leaves slivers."""
    from scipy.sparse import coo_array, diags_array

    count = len(verts)
    start, end = faces.ravel(), faces[:, [1, 2, 0]].ravel()
    # each edge of a closed surface is walked once from either side
    adjacency = coo_array((np.ones(len(start)), (start, end)), shape=(count, count)).tocsr()
    mean = diags_array(1 / np.maximum(adjacency.sum(1), 1)) @ adjacency
    slopes = [ndimage.sobel(field, axis=axis) / (32 * step) for axis in range(3)]
    for _ in range(rounds):
        verts = 0.4 * verts + 0.6 * (mean @ verts)
        for _ in range(2):
            place = ((verts - low) / step).T
            level = ndimage.map_coordinates(field, place, order=1, mode="nearest")
            slope = np.stack(
                [ndimage.map_coordinates(each, place, order=1, mode="nearest") for each in slopes],
                axis=1,
            )
            steep = np.maximum(np.square(slope).sum(1), 0.1)
            move = -(level / steep)[:, None] * slope
            length = np.linalg.norm(move, axis=1, keepdims=True)
            verts = verts + move * np.minimum(1, 0.5 * step / np.maximum(length, 1e-12))
    return np.asarray(verts)
