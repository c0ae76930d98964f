"""One head's mesh laid onto another's surface, so that each of its vertices has a place there.

Landmarks give a similarity and a smooth warp near them; then closest points with like normals pull
the surfaces together while the warp stays smooth, over ever shorter lengths (in the manner of
Amberg et al. 2007, "Optimal step nonrigid ICP algorithms"). What lies inside, such as the mouth
or the sockets, is not pulled and follows smoothly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csc_matrix, csr_matrix, diags
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from flame.deformation_transfer import Correspondence, gradient_operator
from flame.raster import rasterize
from flame.remesh import Bools, Floats, Ints, closest_barycentric


@dataclass(frozen=True)
class Surface:
    """A triangle mesh with points on it that are known on the other mesh too; metres."""

    verts: Floats
    faces: Ints
    outer: Bools  # [F] that can be seen from outside
    marks: Floats  # [L, 3]


@dataclass(frozen=True)
class RegistrationConfig:
    """Lengths in metres on the surface that is laid onto."""

    lengths: tuple[float, ...] = (0.05, 0.03, 0.02, 0.012, 0.008, 0.006)
    rounds: int = 2  # of closest points at each length
    reach: float = 0.025  # farther surfaces do not pull
    likeness: float = 0.3  # cosine of normals below which surfaces are not the same
    mark_radius: float = 0.06  # how far the landmarks' warp reaches
    mark_strength: float = 0.3  # of all landmarks at the first length, to the whole surface's 1

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) <= 0:
            raise ValueError(f"lengths={self.lengths} must be positive and at least one")


@dataclass(frozen=True)
class Registered:
    """A mesh laid onto a surface; `target = scale * rotation @ own + shift` is the rigid part."""

    verts: Floats  # [V, 3] on the surface
    scale: float
    rotation: Floats
    shift: Floats
    distance: Floats  # [V] from the surface, metres; inf where nothing of it is alike


def similarity3(
    points: Floats, goals: Floats, weights: Floats | None = None
) -> tuple[float, Floats, Floats]:
    """Scale, rotation and shift that take points nearest to goals (Umeyama 1991)."""
    if points.shape != goals.shape or len(points) < 3:
        raise ValueError(
            f"{points.shape} points and {goals.shape} goals; give three or more of each, in pairs"
        )
    share = np.ones(len(points)) if weights is None else weights
    share = share / share.sum()
    middle, aim = share @ points, share @ goals
    covariance = ((goals - aim) * share[:, None]).T @ (points - middle)
    u, stretch, vt = np.linalg.svd(covariance)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    scale = float(stretch @ sign / (share @ np.square(points - middle).sum(1)))
    return scale, rotation, aim - scale * rotation @ middle


def outer_faces(
    verts: Floats, faces: Ints, *, share: float = 0.35, views: int = 96, side: int = 320
) -> Bools:
    """Which triangles are seen from a good share of the directions that they face.

    Of what is seen through a gap alone (the sockets past the eyes, the mouth between lips) that
    share is small.
    """
    points = torch.from_numpy(verts).float()
    middle = (points.amax(0) + points.amin(0)) / 2
    reach = float((points - middle).norm(dim=1).max())
    scale = 0.49 * side / reach
    triangles = torch.from_numpy(faces).long()
    corners = verts[faces]
    normals = _unit(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    seen, faced = np.zeros(len(faces)), np.zeros(len(faces))
    for toward in _directions(views):
        right = _unit(np.cross([0.0, 1.0, 0.0], toward))
        axes = torch.from_numpy(np.stack([right, -np.cross(toward, right), -toward])).float()
        screen = (points - middle) @ axes.T * scale
        screen[:, :2] += side / 2
        nearest = rasterize(screen[None], triangles, (side, side)).depth[0].numpy()
        centre = screen[triangles].mean(1).numpy()
        column, row = (np.clip(centre[:, k].astype(np.int64), 0, side - 1) for k in (0, 1))
        front = normals @ toward > 0.3
        # a pixel and a half of depth: the surface is slanted and its pixel's centre elsewhere
        visible = centre[:, 2] <= nearest[row, column] + 1.5
        seen += front & visible
        faced += front
    return np.asarray(seen > share * np.maximum(faced, 1))


class ClosestPoints:
    """Closest points of a surface whose normal is like that of the asking point."""

    def __init__(self, verts: Floats, faces: Ints, chosen: Bools | None = None) -> None:
        self.faces = np.arange(len(faces)) if chosen is None else np.flatnonzero(chosen)
        self.corners = verts[faces[self.faces]]
        cross = np.cross(
            self.corners[:, 1] - self.corners[:, 0], self.corners[:, 2] - self.corners[:, 0]
        )
        length = np.linalg.norm(cross, axis=1)
        self.normals = cross / np.maximum(length, 1e-300)[:, None]
        # a turn of the normal by a radian counts as much as a few triangles of way
        self.turn = 3 * float(np.sqrt(np.median(length)))
        self.tree = cKDTree(np.hstack([self.corners.mean(1), self.turn * self.normals]))

    def query(
        self, points: Floats, normals: Floats, *, likeness: float = -1.0, candidates: int = 16
    ) -> tuple[Ints, Floats, Floats]:
        """Face, barycentrics and distance of each; distance is inf where no normal is alike."""
        count = min(candidates, len(self.faces))
        near = np.concatenate(
            [
                self.tree.query(np.hstack([points, self.turn * normals]), k=count)[1].reshape(
                    len(points), -1
                ),
            ],
            axis=1,
        )
        k = near.shape[1]
        flat = near.ravel()
        bary = closest_barycentric(np.repeat(points, k, axis=0), self.corners[flat])
        reached = np.einsum("nc,nck->nk", bary, self.corners[flat]).reshape(-1, k, 3)
        distance = np.linalg.norm(reached - points[:, None], axis=2)
        alike = np.einsum("nk,njk->nj", normals, self.normals[near])
        # among equal distances (on an edge) the better normal
        cost = np.where(alike >= likeness, distance + 1e-6 * self.turn * (1 - alike), np.inf)
        best = cost.argmin(1)
        rows = np.arange(len(points))
        found = np.where(np.isfinite(cost[rows, best]), distance[rows, best], np.inf)
        return self.faces[near[rows, best]], bary.reshape(-1, k, 3)[rows, best], found


def register(
    own: Surface,
    onto: Surface,
    *,
    still_ways: Floats | None = None,
    config: RegistrationConfig | None = None,
) -> Registered:
    """Lay `own` onto `onto`; both have the same landmarks, in the same order.

    `still_ways` [V] are trusts, 0..1, in the closest points of each vertex: 0 for parts that the
    two heads do not share (ears of other make, a collar).
    """
    config = config or RegistrationConfig()
    scale, rotation, shift = similarity3(own.marks, onto.marks)
    start = scale * own.verts @ rotation.T + shift
    marks = scale * own.marks @ rotation.T + shift
    start = start + _bumps(marks, onto.marks - marks, start, config.mark_radius)
    pinned = _rows_of(own, own.marks)
    gradient, area, _ = gradient_operator(start, own.faces)
    stiff = gradient.T @ diags(np.repeat(area, 3)) @ gradient
    mass = np.bincount(own.faces.ravel(), np.repeat(area / 3, 3), minlength=len(start))
    mass = np.maximum(mass, 1e-6 * mass.max())
    bending = stiff @ diags(1 / mass) @ stiff
    trust = np.zeros(len(start))
    trust[own.faces[own.outer]] = 1
    trust *= 1 if still_ways is None else still_ways
    search = ClosestPoints(onto.verts, onto.faces, onto.outer)
    placed = start
    distance = np.full(len(start), np.inf)
    strength = config.mark_strength * mass.sum() / max(len(onto.marks), 1)
    for level, length in enumerate(config.lengths):
        hold = strength * (0.5**level)
        for _ in range(config.rounds):
            goals, weight, distance = _pulls(placed, own.faces, search, onto, config)
            weight *= mass * trust
            system = diags(weight + 1e-6 * mass) + length**4 * bending
            system = csc_matrix(system + hold * pinned.T @ pinned)
            right = weight[:, None] * (goals - start)
            right += hold * (pinned.T @ (onto.marks - pinned @ start))
            placed = start + splu(
                system,
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            ).solve(right)
    return Registered(placed, scale, rotation, shift, distance)


def correspondence(
    placed: Floats, faces: Ints, outer: Bools, onto: Surface, *, likeness: float = 0.3
) -> Correspondence:
    """Where the triangles and vertices of a mesh that was laid onto a surface lie on it.

    Visible parts look for visible ones. Each triangle looks from its middle and from near its
    corners; confidence is small where nothing alike is near, and inside.
    """
    visible = ClosestPoints(onto.verts, onto.faces, onto.outer)
    whole = ClosestPoints(onto.verts, onto.faces)
    corners = placed[faces]
    normals = _unit(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    samples = np.array([[4, 1, 1], [1, 4, 1], [1, 1, 4], [2, 2, 2]]) / 6
    found = np.zeros((len(faces), len(samples)), dtype=np.int64)
    way = np.zeros((len(faces), len(samples)))
    for column, bary in enumerate(samples):
        points = np.einsum("c,fck->fk", bary, corners)
        for chosen, search in ((outer, visible), (~outer, whole)):
            if chosen.any():
                face, _, distance = search.query(points[chosen], normals[chosen], likeness=likeness)
                found[chosen, column], way[chosen, column] = face, distance
    # beyond a few millimetres it is another surface
    confidence = np.exp(-np.square(way.max(1) / 0.006)) * np.where(outer, 1.0, 0.05)
    own_normals = vertex_normals(placed, faces)
    seen = np.zeros(len(placed), dtype=bool)
    seen[faces[outer]] = True
    vert_faces = np.zeros(len(placed), dtype=np.int64)
    vert_bary = np.full((len(placed), 3), 1 / 3)
    vert_way = np.full(len(placed), np.inf)
    for chosen, search in ((seen, visible), (~seen, whole)):
        if chosen.any():
            vert_faces[chosen], vert_bary[chosen], vert_way[chosen] = search.query(
                placed[chosen], own_normals[chosen], likeness=likeness
            )
    near = np.exp(-np.square(vert_way / 0.006)) * np.where(seen, 1.0, 0.0)
    return Correspondence(found, confidence, vert_faces, vert_bary, near)


def vertex_normals(verts: Floats, faces: Ints) -> Floats:
    """Unit normals of vertices, area-weighted; zero for a vertex of no triangle."""
    corners = verts[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.zeros_like(verts)
    np.add.at(total, faces, cross[:, None])
    return _unit(total)


def _pulls(
    placed: Floats, faces: Ints, search: ClosestPoints, onto: Surface, config: RegistrationConfig
) -> tuple[Floats, Floats, Floats]:
    """Where closest points pull each vertex: along the surface's normal, so that it can slide."""
    face, bary, distance = search.query(
        placed, vertex_normals(placed, faces), likeness=config.likeness
    )
    corners = onto.verts[onto.faces[face]]
    points = np.einsum("nc,nck->nk", bary, corners)
    normals = _unit(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    away = np.einsum("nk,nk->n", points - placed, normals)
    goals = placed + away[:, None] * normals
    weight = np.where(distance < config.reach, 1.0, 0.0)
    return goals, weight, distance


def _bumps(centres: Floats, moves: Floats, points: Floats, radius: float) -> Floats:
    """The smooth warp with compact support that moves landmarks as wanted (Wendland's C2)."""

    def kernel(a: Floats, b: Floats) -> Floats:
        r = np.linalg.norm(a[:, None] - b[None], axis=2) / radius
        return np.asarray(np.clip(1 - r, 0, None) ** 4 * (4 * r + 1))

    # smoothing: landmarks of two makers differ by a millimetre or two
    system = kernel(centres, centres) + 0.1 * np.eye(len(centres))
    return np.asarray(kernel(points, centres) @ np.linalg.solve(system, moves))


def _rows_of(own: Surface, marks: Floats) -> csr_matrix:
    """The matrix [L, V] that takes vertices to the points nearest to the marks."""
    corners_of = ClosestPoints(own.verts, own.faces)
    _, near = corners_of.tree.query(np.hstack([marks, np.zeros_like(marks)]), k=24)
    flat = near.ravel()
    bary = closest_barycentric(np.repeat(marks, 24, axis=0), corners_of.corners[flat])
    reached = np.einsum("nc,nck->nk", bary, corners_of.corners[flat]).reshape(-1, 24, 3)
    best = np.linalg.norm(reached - marks[:, None], axis=2).argmin(1)
    rows = np.arange(len(marks))
    columns = own.faces[near[rows, best]]
    return csr_matrix(
        (bary.reshape(-1, 24, 3)[rows, best].ravel(), (rows.repeat(3), columns.ravel())),
        (len(marks), len(own.verts)),
    )


def _unit(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1.0))


def _directions(count: int) -> Floats:
    """Unit vectors spread evenly over the sphere, none straight up."""
    index = np.arange(count) + 0.5
    polar = np.arccos(1 - 2 * index / count)
    turn = np.pi * (1 + 5**0.5) * index
    return np.stack(
        [np.sin(polar) * np.sin(turn), np.cos(polar), np.sin(polar) * np.cos(turn)], axis=1
    )
