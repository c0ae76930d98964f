"""Shapes of one mesh carried over to another: deformation transfer (Sumner and Popovic 2004).

Each triangle of the target takes the deformation gradient of the triangles that it corresponds to;
one sparse least-squares problem, factored once, finds the displacements whose gradients are nearest
to these. The fourth vertex of the paper is eliminated, which makes it a Poisson problem (Botsch et
al. 2006, "Deformation Transfer for Detail-Preserving Surface Editing").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix, diags
from scipy.sparse.linalg import splu

from flame.remesh import Bools, Floats, Ints


@dataclass(frozen=True)
class Correspondence:
    """Where a target mesh lies on a source mesh."""

    faces: Ints  # [F, K] source triangles whose mean deformation each target triangle takes
    confidence: Floats  # [F] of the target triangles, 0..1
    vert_faces: Ints  # [V] source triangle of each target vertex
    vert_bary: Floats  # [V, 3] place on it
    vert_confidence: Floats  # [V], 0..1


@dataclass(frozen=True)
class TransferConfig:
    """How far displacements may drift from those of the corresponding points."""

    drift: float = (
        0.03  # of the target's unit of length: over longer ways points hold, not gradients
    )
    gap_strength: float = 100.0  # of a held gap, in units of a triangle's mean stiffness

    def __post_init__(self) -> None:
        if not self.drift > 0:
            raise ValueError(f"drift={self.drift} must be positive, a length")


class DeformationTransfer:
    """A transfer between two meshes that is prepared once, for any number of shapes.

    `scale` and `rotation` take directions of the source to the target's. Vertices in `still`, and
    those of no triangle, do not move. `gaps` [G, 2] are pairs of target vertices (an upper and a
    lower lid) whose distance closes by the share by which the source's does.
    """

    def __init__(
        self,
        source_verts: Floats,
        source_faces: Ints,
        target_verts: Floats,
        target_faces: Ints,
        match: Correspondence,
        *,
        still: Bools,
        scale: float = 1.0,
        rotation: Floats | None = None,
        gaps: Ints | None = None,
        config: TransferConfig | None = None,
    ) -> None:
        config = config or TransferConfig()
        if match.faces.shape[0] != len(target_faces) or len(still) != len(target_verts):
            raise ValueError(
                f"the correspondence has {match.faces.shape[0]} triangles and `still` "
                f"{len(still)} vertices, the target {len(target_faces)} and {len(target_verts)}"
            )
        self.source_verts, self.source_faces = source_verts, source_faces
        self.match = match
        self.scale = scale
        self.rotation = np.eye(3) if rotation is None else rotation
        self.n_verts = len(target_verts)
        self.gaps = np.zeros((0, 2), dtype=np.int64) if gaps is None else gaps
        gradient, area, normals = gradient_operator(target_verts, target_faces)
        self.tangent = np.eye(3) - normals[:, :, None] * normals[:, None, :]  # [F, 3, 3]
        stiffness = area * np.maximum(match.confidence, 1e-3)
        self.divergence = gradient.T @ diags(np.repeat(stiffness, 3))
        used = np.zeros(self.n_verts, dtype=bool)
        used[target_faces] = True
        mass = np.bincount(target_faces.ravel(), np.repeat(area / 3, 3), minlength=self.n_verts)
        self.pull = mass * match.vert_confidence / config.drift**2
        system = self.divergence @ gradient + diags(self.pull)
        rows = np.arange(len(self.gaps))
        signs = np.repeat([[1.0, -1.0]], len(rows), axis=0)
        self.gap_rows = csr_matrix(
            (signs.ravel(), (rows.repeat(2), self.gaps.ravel())), (len(rows), self.n_verts)
        )
        self.gap_weight = config.gap_strength * float(system.diagonal()[used].mean())
        system = system + self.gap_weight * self.gap_rows.T @ self.gap_rows
        self.free = np.flatnonzero(used & ~still)
        inner = csc_matrix(system.tocsr()[self.free][:, self.free])
        # a trace of stiffness keeps pieces that nothing pulls or holds from being singular
        trace = 1e-12 * float(inner.diagonal().mean())
        self.factor = splu(
            inner + trace * diags(np.ones(len(self.free)), format="csc"),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        points = target_verts[self.gaps]
        self.target_gap = points[:, 0] - points[:, 1]

    def transfer(self, shapes: Floats) -> Floats:
        """Displacements of the target's vertices [M, V, 3] under the source's [M, N, 3]."""
        return np.stack([self._one(shape) for shape in shapes])

    def _one(self, shape: Floats) -> Floats:
        deformation = deformation_gradients(self.source_verts, self.source_faces, shape)
        change = deformation[self.match.faces].mean(1) - np.eye(3)  # [F, component, axis]
        change = self.rotation @ change @ self.rotation.T @ self.tangent
        right = self.divergence @ change.transpose(0, 2, 1).reshape(-1, 3)
        corners = self.source_faces[self.match.vert_faces]  # [V, 3]
        points = np.einsum("vc,vck->vk", self.match.vert_bary, shape[corners])
        right += self.pull[:, None] * (self.scale * points @ self.rotation.T)
        if len(self.gaps):
            right += self.gap_weight * (self.gap_rows.T @ self._gap_changes(corners, points))
        moved = np.zeros((self.n_verts, 3))
        moved[self.free] = self.factor.solve(np.ascontiguousarray(right[self.free]))
        return moved

    def _gap_changes(self, corners: Ints, points: Floats) -> Floats:
        """How each pair's difference changes: as the source's, in proportion to its own length."""
        places = np.einsum("vc,vck->vk", self.match.vert_bary, self.source_verts[corners])[
            self.gaps
        ]
        own = self.target_gap
        source = self.scale * (places[:, 0] - places[:, 1]) @ self.rotation.T
        moved = points[self.gaps]
        change = self.scale * (moved[:, 0] - moved[:, 1]) @ self.rotation.T
        length = np.linalg.norm(source, axis=1)
        ratio = np.linalg.norm(own, axis=1) / np.maximum(length, 1e-12)
        return np.asarray(change * np.clip(ratio, 0.5, 2.0)[:, None])


def gradient_operator(verts: Floats, faces: Ints) -> tuple[csr_matrix, Floats, Floats]:
    """Gradients of what is linear on each triangle, as a matrix [3F, V]; areas; unit normals.

    Triangles without area have a zero gradient.
    """
    corners = verts[faces]
    edges = corners[:, [2, 0, 1]] - corners[:, [1, 2, 0]]  # opposite to each corner
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    double = np.linalg.norm(cross, axis=1)
    flat = double <= 1e-14 * max(float(double.max(initial=0.0)), 1e-300)
    safe = np.where(flat, 1.0, double)
    normals = np.where(flat[:, None], 0.0, cross / safe[:, None])
    hats = np.cross(normals[:, None], edges) / safe[:, None, None]  # [F, corner, axis]
    rows = 3 * np.arange(len(faces))[:, None, None] + np.arange(3)[None, None]
    columns = np.broadcast_to(faces[:, :, None], hats.shape)
    matrix = csr_matrix(
        (hats.ravel(), (np.broadcast_to(rows, hats.shape).ravel(), columns.ravel())),
        (3 * len(faces), len(verts)),
    )
    return matrix, np.where(flat, 0.0, double / 2), normals


def deformation_gradients(verts: Floats, faces: Ints, shape: Floats) -> Floats:
    """Each triangle's linear map [F, 3, 3] from rest to under a shape (the paper's equation 3).

    Normals scale as the paper's fourth vertex does, by the root of the area's change. Triangles
    without area are left as they are.
    """
    rest, moved = _frames(verts[faces]), _frames((verts + shape)[faces])
    volume = np.abs(np.linalg.det(rest))
    flat = volume <= 1e-12 * max(float(volume.max(initial=0.0)), 1e-300)
    rest[flat] = np.eye(3)
    found = moved @ np.linalg.inv(rest)
    found[flat] = np.eye(3)
    return np.asarray(found)


def _frames(corners: Floats) -> Floats:
    """Two edges and the scaled normal of each triangle, as columns."""
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    cross = np.cross(first, second)
    normal = cross / np.sqrt(np.maximum(np.linalg.norm(cross, axis=1), 1e-300))[:, None]
    return np.stack([first, second, normal], axis=2)
