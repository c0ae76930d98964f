"""Coarser quad meshes by polychord collapse, each new vertex tied to a triangle of the old surface.

A polychord is a strip of quads crossed side to side through opposite edges. Contracting the edges
it crosses removes the whole strip and leaves only quads, so the edge loops round eyes and mouth
that the source has stay loops (Daniels et al. 2008, "Quadrilateral mesh simplification").
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.csgraph import connected_components

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remeshed:
    """A coarser mesh and the matrix that carries any per-vertex array of the source over to it."""

    polygons: Ints  # [P, 4], -1 pads triangles
    polygon_labels: Ints  # [P], copied from the source polygons
    transfer: csr_matrix  # [n, N]: up to three barycentric weights of one source triangle a row
    mirror: Ints  # [n]
    groups: Ints  # [N]: the new vertex that each source vertex merged into


def polygon_edges(polygons: Ints) -> tuple[Ints, Ints]:
    """Half-edges [H, 2] of all polygons and the polygon [H] each belongs to, in polygon order."""
    size = np.where(polygons[:, 3] < 0, 3, 4)
    starts = np.concatenate([polygons[size == 3][:, :3].ravel(), polygons[size == 4].ravel()])
    ends = np.concatenate(
        [
            polygons[size == 3][:, [1, 2, 0]].ravel(),
            polygons[size == 4][:, [1, 2, 3, 0]].ravel(),
        ]
    )
    owner = np.concatenate(
        [np.repeat(np.flatnonzero(size == 3), 3), np.repeat(np.flatnonzero(size == 4), 4)]
    )
    return np.stack([starts, ends], axis=1), owner


def triangulate(polygons: Ints) -> Ints:
    """Triangles [F, 3]; quads are split along their first diagonal, triangles come first-hand."""
    quads = polygons[polygons[:, 3] >= 0]
    return np.concatenate([polygons[:, :3], quads[:, [0, 2, 3]]])


def collapse_polychords(
    verts: Floats,
    polygons: Ints,
    labels: Ints,
    mirror: Ints,
    *,
    target: int,
    importance: Floats,
    rank: Ints,
    smoothing: int = 10,
    max_valence: int = 6,
) -> Remeshed:
    """A mirror-symmetric mesh of at most about `target` vertices, made of the source's own loops.

    `importance` [N] scales the cost of losing detail near a vertex; `rank` [N] says which vertices
    draw a merged vertex onto themselves (midline, lid margin, lip seam: 1 and more, else 0).
    """
    collapse = _Collapse(verts, polygons, labels, mirror, importance, rank, max_valence)
    while collapse.vertex_count > target and collapse.step():
        pass
    log.info("collapsed %d to %d vertices", len(verts), collapse.vertex_count)
    return collapse.finish(smoothing)


class _Collapse:
    def __init__(
        self,
        verts: Floats,
        polygons: Ints,
        labels: Ints,
        mirror: Ints,
        importance: Floats,
        rank: Ints,
        max_valence: int,
    ) -> None:
        self.max_valence = max_valence
        self.verts, self.source = verts, polygons
        self.polygons, self.labels, self.mirror = polygons.copy(), labels.copy(), mirror
        self.rank = rank.copy()
        self.group = np.arange(len(verts))
        self.place = verts.copy()  # where each live vertex stands; indexed by representative
        self.quadrics = _vertex_quadrics(verts, polygons) * importance[:, None, None]
        self.weight = np.ones(len(verts))

    @property
    def vertex_count(self) -> int:
        return len(np.unique(self.polygons[self.polygons >= 0]))

    def step(self) -> bool:
        """Remove the cheapest polychord and its mirror twin; False when none may go."""
        edges, chord_of_edge, chord_mirror = self._chords()
        order = self._costs(edges, chord_of_edge, chord_mirror)
        for chord in order:
            chosen = np.isin(chord_of_edge, [chord, chord_mirror[chord]])
            if self._try_contract(edges[chosen]):
                return True
        return False

    def _chords(self) -> tuple[Ints, Ints, Ints]:
        half, owner = polygon_edges(self.polygons)
        edges, inverse = np.unique(np.sort(half, axis=1), axis=0, return_inverse=True)
        inverse = inverse.ravel()
        quad_sides = inverse[self.polygons[owner, 3] >= 0].reshape(-1, 4)
        pairs = np.concatenate([quad_sides[:, [0, 2]], quad_sides[:, [1, 3]]])
        graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(edges),) * 2)
        # a chord ends in triangles or at the border, or is closed
        count, chord = connected_components(graph, directed=False)
        chord = chord.astype(np.int64)
        twin_edges = np.sort(self._twin(edges), axis=1)
        keys = {(int(a), int(b)): index for index, (a, b) in enumerate(edges)}
        twin = np.array([keys[(int(a), int(b))] for a, b in twin_edges])
        chord_mirror = np.zeros(count, dtype=np.int64)
        chord_mirror[chord] = chord[twin]
        return edges, chord, chord_mirror

    def _twin(self, representatives: Ints) -> Ints:
        return self.group[self.mirror[representatives]]

    def _costs(self, edges: Ints, chord: Ints, chord_mirror: Ints) -> Ints:
        ends = self.place[edges]
        middle = np.concatenate([ends.mean(1), np.ones((len(edges), 1))], axis=1)
        merged = self.quadrics[edges[:, 0]] + self.quadrics[edges[:, 1]]
        cost = np.einsum("ei,eij,ej->e", middle, merged, middle)
        # a little length keeps flat regions even instead of emptying them
        cost += (
            2e-3
            * np.square(ends[:, 0] - ends[:, 1]).sum(1)
            * (self.weight[edges[:, 0]] + self.weight[edges[:, 1]])
        )
        total = np.bincount(chord, cost, minlength=len(chord_mirror))
        mean = total / np.bincount(chord, minlength=len(chord_mirror))
        usable = np.flatnonzero(np.arange(len(mean)) <= chord_mirror)
        return usable[np.argsort(mean[usable], kind="stable")]

    def _try_contract(self, edges: Ints) -> bool:
        count = len(self.verts)
        graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(count, count))
        _, component = connected_components(graph, directed=False)
        first = np.full(component.max() + 1, count)
        np.minimum.at(first, component, np.arange(count))
        rename = first[component]
        polygons = np.where(self.polygons >= 0, rename[self.polygons], -1)
        keep = ~_is_flat(polygons)
        polygons = polygons[keep]
        if not _is_clean(polygons, self._boundary_allowed(rename), self.max_valence):
            return False
        place = self._merged_places(rename)
        if _flips(self.place, self.polygons[keep], place, polygons):
            return False
        for old in np.flatnonzero(rename != np.arange(count)):
            self.quadrics[rename[old]] += self.quadrics[old]
            self.weight[rename[old]] += self.weight[old]
            self.rank[rename[old]] = max(self.rank[rename[old]], self.rank[old])
        self.place, self.polygons, self.labels = place, polygons, self.labels[keep]
        self.group = rename[self.group]
        return True

    def _boundary_allowed(self, rename: Ints) -> Ints:
        half, _ = polygon_edges(self.polygons)
        edges, uses = np.unique(np.sort(half, axis=1), axis=0, return_counts=True)
        return np.unique(rename[edges[uses == 1].ravel()])

    def _merged_places(self, rename: Ints) -> Floats:
        """Mean of the merged vertices of highest rank."""
        top = np.zeros(len(rename), dtype=np.int64)
        np.maximum.at(top, rename, self.rank)
        counts = (self.rank == top[rename]) * self.weight
        alive = np.zeros(len(rename), dtype=bool)
        alive[self.polygons[self.polygons >= 0]] = True
        counts = counts * alive
        total = np.bincount(rename, counts, minlength=len(rename))
        place = self.place.copy()
        sums = np.stack(
            [
                np.bincount(rename, counts * self.place[:, axis], minlength=len(rename))
                for axis in range(3)
            ],
            axis=1,
        )
        moved = total > 0
        place[moved] = sums[moved] / total[moved, None]
        return place

    def finish(self, smoothing: int) -> Remeshed:
        alive = np.unique(self.polygons[self.polygons >= 0])
        number = np.full(len(self.verts), -1)
        number[alive] = np.arange(len(alive))
        polygons = np.where(self.polygons >= 0, number[self.polygons], -1)
        groups = number[self.group]
        mirror = number[self._twin(alive)]
        half = np.arange(len(alive)) <= mirror
        tracker = _SurfaceTracker(self.verts, self.source, groups, len(alive))
        places = self.place[alive]
        fixed = self.rank[alive]
        triangle, bary = tracker.project(places)
        for _ in range(smoothing):
            current = tracker.points(triangle, bary)
            wanted = _relaxed(current, polygons, fixed)
            triangle, bary = tracker.project(wanted, start=triangle)
        rows = np.repeat(np.arange(len(alive)), 3)
        # the left half rules: the right half is its mirror image, so symmetry is exact
        columns, weights = tracker.triangles[triangle], bary.copy()
        right = ~half
        columns[right] = self.mirror[columns[mirror[right]]]
        weights[right] = weights[mirror[right]]
        transfer = csr_matrix(
            (weights.ravel(), (rows, columns.ravel())), shape=(len(alive), len(self.verts))
        )
        middle = mirror == np.arange(len(alive))
        flip = csr_matrix(
            (np.ones(len(self.verts)), (self.mirror, np.arange(len(self.verts)))),
        )
        even = 0.5 * (transfer + transfer @ flip)
        transfer = (diags(middle * 1.0) @ even + diags(~middle * 1.0) @ transfer).tocsr()
        transfer.sum_duplicates()
        transfer.eliminate_zeros()
        return Remeshed(polygons, self.labels, transfer, mirror, groups)


class _SurfaceTracker:
    """Closest points on the source, searched only near where a vertex came from.

    A search over the whole surface would jump from one lip to the other.
    """

    def __init__(self, verts: Floats, polygons: Ints, groups: Ints, count: int) -> None:
        self.verts, self.triangles = verts, triangulate(polygons)
        corner = np.repeat(np.arange(len(self.triangles)), 3)
        incident = csr_matrix(
            (np.ones(len(corner)), (self.triangles.ravel(), corner)),
            shape=(len(verts), len(self.triangles)),
        )
        live = groups >= 0
        members = csr_matrix(
            (np.ones(live.sum()), (groups[live], np.flatnonzero(live))), shape=(count, len(verts))
        )
        self.near_group = (members @ incident).tocsr()
        self.near_triangle = (incident.T @ incident).tocsr()

    def points(self, triangle: Ints, bary: Floats) -> Floats:
        return np.asarray(np.einsum("nk,nkd->nd", bary, self.verts[self.triangles[triangle]]))

    def project(self, places: Floats, start: Ints | None = None) -> tuple[Ints, Floats]:
        graph = self.near_group if start is None else self.near_triangle[start]
        graph = graph.tocsr()
        rows = np.repeat(np.arange(len(places)), np.diff(graph.indptr))
        corners = self.verts[self.triangles[graph.indices]]
        bary = closest_barycentric(places[rows], corners)
        reached = np.einsum("nk,nkd->nd", bary, corners)
        distance = np.square(reached - places[rows]).sum(1)
        order = np.lexsort((distance, rows))
        best = order[graph.indptr[:-1]]
        return graph.indices[best].astype(np.int64), bary[best]


def closest_barycentric(points: Floats, corners: Floats) -> Floats:
    """Barycentrics [n, 3] of the closest point of triangle `corners` [n, 3, 3] to each point."""
    origin, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    offset = points - origin
    aa, bb, cc = (ab * ab).sum(1), (ab * ac).sum(1), (ac * ac).sum(1)
    da, db = (ab * offset).sum(1), (ac * offset).sum(1)
    area = np.maximum(aa * cc - bb * bb, 1e-30)
    v, w = (cc * da - bb * db) / area, (aa * db - bb * da) / area
    inside = np.stack([1 - v - w, v, w], axis=1)
    candidates = [inside]
    for first, second in ((0, 1), (1, 2), (2, 0)):
        side = corners[:, second] - corners[:, first]
        along = ((points - corners[:, first]) * side).sum(1) / np.maximum(
            np.square(side).sum(1), 1e-30
        )
        along = np.clip(along, 0, 1)
        bary = np.zeros((len(points), 3))
        bary[:, first], bary[:, second] = 1 - along, along
        candidates.append(bary)
    stack = np.stack(candidates)
    reached = np.einsum("cnk,nkd->cnd", stack, corners)
    distance = np.square(reached - points).sum(2)
    distance[0][(inside < 0).any(1)] = np.inf
    best = distance.argmin(0)
    return np.asarray(stack[best, np.arange(len(points))])


def _relaxed(places: Floats, polygons: Ints, rank: Ints) -> Floats:
    """Half a step of Laplacian smoothing; ranked vertices slide only along their own curve."""
    half, _ = polygon_edges(polygons)
    edges = np.unique(np.sort(half, axis=1), axis=0)
    both = np.concatenate([edges, edges[:, ::-1]])
    allowed = rank[both[:, 1]] >= rank[both[:, 0]]
    both = both[allowed]
    sums = np.zeros_like(places)
    np.add.at(sums, both[:, 0], places[both[:, 1]])
    counts = np.bincount(both[:, 0], minlength=len(places))
    wanted = places.copy()
    free = (counts > 0) & ((rank == 0) | (counts == 2))
    wanted[free] += 0.5 * (sums[free] / counts[free, None] - places[free])
    return wanted


def _vertex_quadrics(verts: Floats, polygons: Ints) -> Floats:
    triangles = triangulate(polygons)
    a, b, c = (verts[triangles[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    area = np.linalg.norm(normal, axis=1) / 2
    normal /= np.maximum(2 * area, 1e-12)[:, None]
    plane = np.concatenate([normal, -(normal * a).sum(1, keepdims=True)], axis=1)
    quadric = plane[:, :, None] * plane[:, None, :] * area[:, None, None]
    result = np.zeros((len(verts), 4, 4))
    for k in range(3):
        np.add.at(result, triangles[:, k], quadric / 3)
    return result


def _is_flat(polygons: Ints) -> Bools:
    """Polygons with two equal neighbouring corners: those a contracted strip leaves behind."""
    triangle = polygons[:, 3] < 0
    last = np.where(triangle, polygons[:, 2], polygons[:, 3])
    return np.asarray(
        (polygons[:, 0] == polygons[:, 1])
        | (polygons[:, 1] == polygons[:, 2])
        | (~triangle & (polygons[:, 2] == last))
        | (last == polygons[:, 0])
    )


def _is_clean(polygons: Ints, boundary: Ints, max_valence: int) -> bool:
    quads = polygons[polygons[:, 3] >= 0]
    if (quads[:, 0] == quads[:, 2]).any() or (quads[:, 1] == quads[:, 3]).any():
        return False
    half, _ = polygon_edges(polygons)
    if len(np.unique(half, axis=0)) != len(half):  # an edge walked twice the same way
        return False
    edges, uses = np.unique(np.sort(half, axis=1), axis=0, return_counts=True)
    if not np.isin(edges[uses == 1].ravel(), boundary).all():
        return False
    valence = np.bincount(edges.ravel())
    valence[boundary] = 4
    return not (((valence > 0) & (valence < 3)).any() or (valence > max_valence).any())


def _flips(before: Floats, old: Ints, after: Floats, new: Ints) -> bool:
    """Whether any surviving quad turns by more than 75 degrees or nearly vanishes."""

    def normal(verts: Floats, quads: Ints) -> Floats:
        a, b, c, d = (verts[quads[:, corner]] for corner in range(4))
        return np.asarray(np.cross(c - a, d - b))

    quad = new[:, 3] >= 0
    changed = quad & (old != new).any(1)
    if not changed.any():
        return False
    a, b = normal(before, old[changed]), normal(after, new[changed])
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    turn = (a * b).sum(1) / np.maximum(length, 1e-12)
    return bool((turn < 0.25).any())
