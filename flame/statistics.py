"""The registered meshes a head is built from: a neutral, identity modes, named expressions."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from assets.errors import AssetError
from flame.remesh import Bools, Floats, Ints

log = logging.getLogger(__name__)

MIRROR_X = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Statistics:
    """Registered meshes in millimetres, exactly mirror-symmetric; +x is the subject's left."""

    neutral: Floats  # [N, 3]
    polygons: Ints  # [P, 4], -1 pads triangles
    parts: dict[str, tuple[int, int]]  # name -> half-open range of polygons
    mirror: Ints  # [N]
    identity: Floats  # [K, N, 3], one standard deviation each
    antisymmetric: Bools  # [K]
    expression: dict[str, Floats]  # ARKit name (split shapes: NAME_L, NAME_R) -> [N, 3]
    jaw_weight: Floats  # [N]
    jaw_hinge: Floats  # [3]
    jaw_open_deg: float
    eye_centers: Floats  # [2, 3], left then right
    eye_radius: float
    landmarks68: Ints
    tongue_polygons: Ints
    narrow_face: int  # vertices before this index are the face proper


def read_statistics(path: Path) -> Statistics:
    """Read an `.npz` laid out like `ict_facekit.npz` (its README lists the arrays).

    Every shape is averaged with its mirror image, so that what is built from it is symmetric.
    """
    try:
        archive = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise AssetError(f"{path} cannot be read as registered meshes: {error}") from error
    missing = sorted(_NEEDED - set(archive.files))
    if missing:
        raise AssetError(
            f"{path} lacks the arrays {', '.join(missing)}; see flame.statistics for the layout"
        )
    mirror = archive["mirror"].astype(np.int64)

    def reflected(deltas: Floats) -> Floats:
        return np.asarray(deltas[..., mirror, :] * MIRROR_X)

    neutral = archive["neutral"].astype(np.float64)
    modes = archive["identity"].astype(np.float64)
    antisymmetric = archive["derived_identity_antisymmetric"]
    sign = np.where(antisymmetric, -1.0, 1.0)[:, None, None]
    modes = 0.5 * (modes + sign * reflected(modes))
    raw = archive["expression"].astype(np.float64)
    partner = archive["derived_expression_mirror"].astype(np.int64)
    raw = 0.5 * (raw + reflected(raw[partner]))
    names = [str(name) for name in archive["expression_arkit"]]
    ours = [str(name) for name in archive["expression_names"]]
    expression: dict[str, Floats] = {}
    for name, own, delta in zip(names, ours, raw, strict=True):
        if names.count(name) > 1:  # browInnerUp and cheekPuff come in halves
            expression[f"{name}_{own[-1]}"] = delta
        else:
            expression[name] = delta
    ranges = zip(archive["part_names"], archive["part_faces"], strict=True)
    return Statistics(
        neutral=0.5 * (neutral + reflected(neutral)),
        polygons=archive["faces"].astype(np.int64),
        parts={str(name): (int(first), int(last)) for name, (first, last) in ranges},
        mirror=mirror,
        identity=modes,
        antisymmetric=antisymmetric,
        expression=expression,
        jaw_weight=_symmetric(archive["derived_jaw_weight"].astype(np.float64), mirror),
        jaw_hinge=archive["derived_jaw_hinge"].astype(np.float64) * [0, 1, 1],
        jaw_open_deg=float(archive["derived_jaw_open_deg"]),
        eye_centers=_paired(archive["derived_eye_center"].astype(np.float64)),
        eye_radius=float(archive["derived_eye_radius"]),
        landmarks68=archive["landmarks68"].astype(np.int64),
        tongue_polygons=archive["derived_tongue_faces"].astype(np.int64),
        narrow_face=int(archive["part_verts"][list(archive["part_names"]).index("narrow_face")][1]),
    )


_NEEDED = {
    "neutral",
    "faces",
    "mirror",
    "identity",
    "derived_identity_antisymmetric",
    "expression",
    "expression_arkit",
    "expression_names",
    "derived_expression_mirror",
    "part_names",
    "part_faces",
    "part_verts",
    "derived_jaw_weight",
    "derived_jaw_hinge",
    "derived_jaw_open_deg",
    "derived_eye_center",
    "derived_eye_radius",
    "landmarks68",
    "derived_tongue_faces",
}


def _symmetric(weights: Floats, mirror: Ints) -> Floats:
    return 0.5 * (weights + weights[mirror])


def _paired(centers: Floats) -> Floats:
    left = 0.5 * (centers[0] + centers[1] * MIRROR_X)
    return np.stack([left, left * MIRROR_X])


def face_weighted_modes(
    modes: Floats, antisymmetric: Bools, rest: Floats, importance: Floats
) -> tuple[Floats, Bools]:
    """The same identity space rotated so that the first modes matter most where it is important.

    A PCA weighted by `importance` [V] after taking similarity transforms out; coefficients stay
    N(0, 1) and symmetric modes stay apart from antisymmetric ones.
    """
    weight = np.sqrt(importance / importance.sum())[:, None]
    centre = (rest * weight**2).sum(0)
    offset = rest - centre
    axes = np.eye(3)
    similarity = [np.broadcast_to(axis, rest.shape) for axis in axes]
    similarity += [np.cross(axis, offset) for axis in axes] + [offset]
    basis, _ = np.linalg.qr(np.stack([(weight * s).ravel() for s in similarity], axis=1))
    flat = (modes * weight).reshape(len(modes), -1)
    flat = flat - (flat @ basis) @ basis.T
    rotated, energies, flags = [], [], []
    for flag in (False, True):
        block = np.flatnonzero(antisymmetric == flag)
        energy, vectors = np.linalg.eigh(flat[block] @ flat[block].T)
        rotated.append(np.einsum("kj,kvd->jvd", vectors, modes[block]))
        energies.append(energy)
        flags.append(np.full(len(block), flag))
    order = np.argsort(-np.concatenate(energies), kind="stable")
    return np.concatenate(rotated)[order], np.concatenate(flags)[order]
