"""Corrections that make lips and lids meet: smooth fields with given shifts at some vertices."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import splu

from flame.remesh import Floats, Ints, polygon_edges


def spread(verts: Floats, polygons: Ints, handles: Ints, shifts: Floats, *, reach: float) -> Floats:
    """The smoothest displacement [V, 3] that equals `shifts` at `handles` and 0 beyond `reach`.

    Bi-Laplacian (thin plate) with uniform weights; `reach` in the unit of `verts`, measured to the
    nearest handle in a straight line.
    """
    from scipy.spatial import cKDTree

    distance = cKDTree(verts[handles]).query(verts)[0]
    half, _ = polygon_edges(polygons)
    edges = np.unique(np.sort(half, axis=1), axis=0)
    count = len(verts)
    adjacency = coo_matrix((np.ones(len(edges)), edges.T), shape=(count, count)).tocsr()
    adjacency = adjacency + adjacency.T
    degree = np.maximum(np.asarray(adjacency.sum(1)).ravel(), 1)
    laplacian = diags(np.ones(count)) - diags(1 / degree) @ adjacency
    energy = (laplacian.T @ laplacian).tocsr()
    is_handle = np.zeros(count, dtype=bool)
    is_handle[handles] = True
    connected = np.asarray(adjacency.sum(1)).ravel() > 0
    free = np.flatnonzero((distance < reach) & ~is_handle & connected)
    field = np.zeros((count, 3))
    field[handles] = shifts
    solve = splu(energy[free][:, free].tocsc())
    field[free] = solve.solve(-np.asarray(energy[free][:, handles] @ shifts))
    return field


def nearest_on_chain(points: Floats, chain: Floats) -> Floats:
    """Closest points [n, 3] on an open polyline [m, 3]."""
    a, b = chain[:-1][None], chain[1:][None]
    side = b - a
    along = ((points[:, None] - a) * side).sum(2) / np.maximum(np.square(side).sum(2), 1e-12)
    reached = a + np.clip(along, 0, 1)[..., None] * side
    best = np.square(reached - points[:, None]).sum(2).argmin(1)
    return np.asarray(reached[np.arange(len(points)), best])


def split_loop(verts: Floats, loop: Ints) -> tuple[Ints, Ints]:
    """Upper and lower chain of an eye or mouth opening, both ordered by x, corners in both."""
    first, last = int(verts[loop, 0].argmin()), int(verts[loop, 0].argmax())
    rolled = np.roll(loop, -first)
    stop = (last - first) % len(loop)
    one, other = rolled[: stop + 1], np.append(rolled[stop:], rolled[0])[::-1]
    if verts[one, 1].mean() >= verts[other, 1].mean():
        return one, other
    return other, one
