"""A head model out of registered faces: their mean, their principal components, their shapes."""

from __future__ import annotations

import logging

import numpy as np
import torch

from assets.errors import AssetError
from flame.arkit import ARKIT_NAMES
from flame.model import FlameArrays, jaw_posedirs
from flame.params import JAW_OPEN_DEG
from flame.registered import JOINTS, Registered
from flame.remesh import Floats, Ints, polygon_edges, triangulate
from flame.rig import regress
from flame.statistics import MIRROR_X
from flame.topology import Topology
from flame.unwrap import pack_islands

log = logging.getLogger(__name__)

# Where rig.toml places no joint: shares of the bounding box's width, height and depth.
BOX_JOINTS = {
    "root": (0.5, 0.0, 0.4),
    "neck": (0.5, 0.25, 0.4),
    "jaw": (0.5, 0.5, 0.55),
    "left_eye": (0.67, 0.62, 0.8),
    "right_eye": (0.33, 0.62, 0.8),
}
MAX_MODES = 100
N_DENSE = 320


def principal_components(faces: Floats) -> tuple[Floats, Floats]:
    """Mean [N, 3] and modes [K, N, 3], each one standard deviation long, strongest first."""
    mean = faces.mean(0)
    flat = (faces - mean).reshape(len(faces), -1) / np.sqrt(len(faces) - 1)
    _, deviations, directions = np.linalg.svd(flat, full_matrices=False)
    # n faces span n - 1 dimensions at most: the rest is rounding
    kept = np.flatnonzero(deviations > 1e-6 * np.abs(faces).max())[:MAX_MODES]
    modes = deviations[kept, None] * directions[kept]
    largest = np.abs(modes).argmax(1)
    modes *= np.sign(modes[np.arange(len(modes)), largest])[:, None]
    return mean, modes.reshape(len(kept), *mean.shape)


def registered_model(given: Registered) -> tuple[FlameArrays, Topology]:
    """A head model of one part, "face", made of "skin"; every vertex follows the neck.

    `jawOpen` becomes the jaw's pose corrective, so that it answers to the jaw as in other models;
    shapes that are missing do nothing.
    """
    template, modes = principal_components(given.identities)
    if not len(modes):
        raise AssetError("all identities are the same mesh; give faces that differ")
    count = len(template)
    expression = np.zeros((len(ARKIT_NAMES), count, 3))
    for name, delta in given.expression.items():
        expression[ARKIT_NAMES.index(name)] = delta
    opening = expression[ARKIT_NAMES.index("jawOpen")].copy()
    expression[ARKIT_NAMES.index("jawOpen")] = 0
    low, size = template.min(0), np.ptp(template, axis=0)
    joints = [given.joints.get(name, low + size * BOX_JOINTS[name]) for name in JOINTS]
    regressor = np.stack([_regressed(template, joint) for joint in joints])
    weights = torch.zeros(count, len(JOINTS))
    weights[:, JOINTS.index("neck")] = 1
    arrays = FlameArrays(
        template=torch.from_numpy(template).float(),
        shapedirs=torch.from_numpy(modes).float(),
        expressiondirs=torch.from_numpy(expression).float(),
        posedirs=jaw_posedirs(torch.from_numpy(opening).float(), JAW_OPEN_DEG),
        joint_regressor=torch.from_numpy(regressor).float(),
        lbs_weights=weights,
        # the exported skeleton's head joint: half way between neck and jaw
        head_joint_regressor=torch.from_numpy(regressor[1:3].mean(0)).float(),
        head_share=torch.ones(count),
    )
    missing = [name for name in ARKIT_NAMES if name not in given.expression]
    log.info("%d modes; %d ARKit shapes are missing and do nothing", len(modes), len(missing))
    return arrays, _topology(given, template)


def _regressed(template: Floats, joint: Floats) -> Floats:
    """Weights [N] that give a joint from the nearest quarter of the vertices."""
    order = np.argsort(np.linalg.norm(template - joint, axis=1), kind="stable")
    return regress(template, order[: max(8, len(template) // 4)], joint)


def _topology(given: Registered, template: Floats) -> Topology:
    if given.uv is None or given.uv_polygons is None:
        uv, uv_polygons = pack_islands(template, given.polygons)
    else:
        uv, uv_polygons = given.uv, given.uv_polygons
    marks, bary = np.full((68, 3), -1), np.tile([1.0, 0.0, 0.0], (68, 1))
    if given.landmarks68 is not None:
        triangles = triangulate(given.polygons)
        for row, vertex in zip(marks, given.landmarks68, strict=True):
            row[:] = _corner_first(triangles, int(vertex))
    # what turns into the jaw's outline under yaw is unknown: the fixed line serves for all
    contour = np.tile(marks[:17, 0], (79, 1))
    dense = _farthest_points(template, min(N_DENSE, len(template)))
    zeros = torch.zeros(len(given.polygons), dtype=torch.int64)
    return Topology(
        polygons=torch.from_numpy(given.polygons),
        uv=torch.from_numpy(uv).float(),
        uv_polygons=torch.from_numpy(uv_polygons),
        material_ids=zeros,
        material_names=("skin",),
        part_ids=zeros.clone(),
        part_names=("face",),
        mirror=torch.from_numpy(_mirror(template, given.polygons)),
        landmark_verts=torch.from_numpy(marks),
        landmark_bary=torch.from_numpy(bary).float(),
        contour_verts=torch.from_numpy(contour),
        dense_verts=torch.from_numpy(dense),
    )


def _corner_first(triangles: Ints, vertex: int) -> Ints:
    """A triangle with the vertex as its first corner; the vertex alone where none has it."""
    rows, columns = np.nonzero(triangles == vertex)
    if not len(rows):
        return np.full(3, vertex)
    return np.roll(triangles[rows[0]], -int(columns[0]))


def _mirror(template: Floats, polygons: Ints) -> Ints:
    """Each vertex's partner across x = 0, or itself where the mesh has no mirror symmetry."""
    from scipy.spatial import cKDTree

    _, partner = cKDTree(template).query(template * MIRROR_X)
    itself = np.arange(len(template))
    edges = np.unique(np.sort(polygon_edges(polygons)[0], axis=1), axis=0)
    swapped = np.unique(np.sort(partner[edges], axis=1), axis=0)
    paired = np.array_equal(partner[partner], itself) and np.array_equal(edges, swapped)
    return np.asarray(partner if paired else itself, dtype=np.int64)


def _farthest_points(verts: Floats, count: int) -> Ints:
    chosen = [0]
    distance = np.linalg.norm(verts - verts[0], axis=1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(verts - verts[chosen[-1]], axis=1))
    return np.array(chosen)
