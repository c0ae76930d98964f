"""UV layout at build time: one symmetric skin chart by SLIM, packed islands for the inner parts."""

from __future__ import annotations

import logging

import numpy as np

from flame.remesh import Bools, Floats, Ints, polygon_edges, triangulate

log = logging.getLogger(__name__)

GUTTER = 6 / 1024  # of the square's side: room for texture dilation and mip levels


def unwrap_skin(
    verts: Floats, polygons: Ints, mirror: Ints, crown: Floats, focus: Floats
) -> tuple[Floats, Ints]:
    """UV [T, 2] and UV polygons [P, 4] of a mirror-symmetric surface, cut down the back midline.

    The half with x >= 0 is flattened by symmetric Dirichlet energy (Rabinovich et al. 2017) with
    its front midline tied to u = 0.5, then mirrored. The reference shape is first inverted about
    `focus`, a point before the face: inversion is conformal, so it only gives the face more texels.
    `crown` is the point where the cut ends. The mouth should be open, so that the lips lie apart.
    """
    import igl

    middle = mirror == np.arange(len(verts))
    centre_x = verts[polygons].mean(1)[:, 0]
    half_polygons = polygons[centre_x > 0]
    keep = np.unique(half_polygons)
    number = np.full(len(verts), -1)
    number[keep] = np.arange(len(keep))
    triangles = triangulate(number[half_polygons])
    # the back of the midline is the cut: those points are free
    places = verts[keep]
    front = middle[keep] & ~((places[:, 2] < crown[2]) & (places[:, 1] < crown[1] + 1e-9))
    triangles, places, front = _closed_mouth(triangles, places, front)
    start = _disc_start(triangles, places, front)
    flat = _slim(igl, _inverted(places, focus), triangles, start, np.flatnonzero(front))
    flat, front = _tie_seam(flat, front)[: len(keep)], front[: len(keep)]
    size = (np.ptp(flat[:, 0]) * 2, np.ptp(flat[:, 1]))
    scale = (1 - 2 * GUTTER) / max(size)
    u = 0.5 + scale * flat[:, 0]
    v = 0.5 + scale * (flat[:, 1] - (flat[:, 1].max() + flat[:, 1].min()) / 2)
    right = np.stack([u, v], axis=1)
    left = right * [-1, 1] + [1, 0]
    uv = np.concatenate([right, left])
    # front midline points are one point; the cut's are two
    left_index = np.where(front, np.arange(len(keep)), np.arange(len(keep)) + len(keep))
    uv_polygons = np.empty_like(polygons)
    is_right = centre_x > 0
    uv_polygons[is_right] = number[polygons[is_right]]
    uv_polygons[~is_right] = left_index[number[mirror[polygons[~is_right]]]]
    used, packed = np.unique(uv_polygons, return_inverse=True)
    return uv[used], packed.reshape(uv_polygons.shape)


def _closed_mouth(triangles: Ints, verts: Floats, front: Bools) -> tuple[Ints, Floats, Bools]:
    """The half face with a membrane in its mouth, hung from one more vertex on the midline.

    Without it nothing would keep upper and lower lip from overlapping in the plane.
    """
    loop = np.array(max(boundary_loops(triangles), key=len))
    is_front = front[loop]
    starts = np.flatnonzero(is_front & ~np.roll(is_front, -1))
    chains = []
    for start in starts:
        run = np.roll(loop, -start)
        length = 1 + int(np.argmax(front[run[1:]]))
        chains.append(run[: length + 1])
    lips = min(chains, key=len)
    centre = verts[lips[[0, -1]]].mean(0, keepdims=True)
    fan = np.stack([np.full(len(lips) - 1, len(verts)), lips[1:], lips[:-1]], axis=1)
    return (
        np.concatenate([triangles, fan]),
        np.concatenate([verts, centre]),
        np.append(front, True),
    )


def _inverted(verts: Floats, focus: Floats) -> Floats:
    offset = verts - focus
    squared = np.square(offset).sum(1, keepdims=True)
    # the reflection keeps the orientation that inversion turns round
    scale = np.median(squared)
    return np.asarray(offset / squared * scale * [1, 1, -1])


def _disc_start(triangles: Ints, verts: Floats, front: Bools) -> Floats:
    """Tutte's embedding into a disc, inner holes closed by one vertex each."""
    from scipy.sparse import coo_matrix, diags
    from scipy.sparse.linalg import spsolve

    count = len(verts)
    loops = boundary_loops(triangles)
    loops.sort(key=len, reverse=True)
    filled, total = [triangles], count
    for loop in loops[1:]:
        closing = np.full(len(loop), total)
        filled.append(np.stack([closing, np.roll(loop, -1), loop], axis=1))
        total += 1
    disc = np.concatenate(filled)
    outer, rim = _half_moon(np.asarray(loops[0]), verts, front)
    half = np.unique(np.sort(polygon_edges(_padded(disc))[0], axis=1), axis=0)
    adjacency = coo_matrix((np.ones(len(half)), half.T), shape=(total, total)).tocsr()
    adjacency = adjacency + adjacency.T
    laplacian = (diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency).tocsr()
    free = np.setdiff1d(np.arange(total), outer)
    flat = np.zeros((total, 2))
    flat[outer] = rim
    right_side = -laplacian[free][:, outer] @ rim
    flat[free] = spsolve(laplacian[free][:, free].tocsc(), right_side)
    return flat[:count]


def _half_moon(loop: Ints, verts: Floats, front: Bools) -> tuple[Ints, Floats]:
    """The outer loop and its place on a convex half moon whose flat side is the front midline."""
    is_front = front[loop]
    # the flat side runs from the first to the last front point, past the mouth's detour
    gaps = np.flatnonzero(is_front & ~np.roll(is_front, 1))
    lengths = [int(np.argmax(np.roll(is_front, 1 - g)[::-1])) for g in gaps]
    loop = np.roll(loop, -gaps[int(np.argmax(lengths))])
    is_front = front[loop]
    last = int(np.flatnonzero(is_front).max())
    step = np.linalg.norm(verts[np.roll(loop, -1)] - verts[loop], axis=1)
    along = np.concatenate([[0], np.cumsum(step)])
    flat_part = along[: last + 1] / along[last]
    round_part = (along[last + 1 : -1] - along[last]) / (along[-1] - along[last])
    bulge = 0.25  # radians of arc each side: strictly convex, so no triangle degenerates
    chord = (flat_part * 2 - 1) * bulge
    radius = 1 / np.sin(bulge)
    left = np.stack([-(np.cos(chord) - np.cos(bulge)) * radius, -np.sin(chord) * radius], axis=1)
    angle = -np.pi / 2 + np.pi * round_part
    right = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return loop, np.concatenate([left, right])


def boundary_loops(triangles: Ints) -> list[list[int]]:
    """Closed loops of boundary vertices, walked the way the triangles wind."""
    half, _ = polygon_edges(_padded(triangles))
    present = {(int(a), int(b)) for a, b in half}
    following = {a: b for a, b in present if (b, a) not in present}
    loops = []
    while following:
        start, step = following.popitem()
        loop = [start]
        while step != start:
            loop.append(step)
            step = following.pop(step)
        loops.append(loop)
    return loops


def _padded(triangles: Ints) -> Ints:
    return np.concatenate([triangles, np.full((len(triangles), 1), -1)], axis=1)


def _slim(igl: object, reference: Floats, triangles: Ints, start: Floats, tied: Ints) -> Floats:
    area = _areas(reference, triangles).sum()
    flat = start * np.sqrt(area / _areas(_lifted(start), triangles).sum())
    for softness in (1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4):
        goal = np.stack([np.zeros(len(tied)), flat[tied, 1]], axis=1)
        data = igl.slim_precompute(  # type: ignore[attr-defined]
            np.asfortranarray(reference),
            np.asfortranarray(triangles.astype(np.int32)),
            np.asfortranarray(flat[:, :2]),
            igl.MappingEnergyType.SYMMETRIC_DIRICHLET,  # type: ignore[attr-defined]
            tied.astype(np.int32),
            np.asfortranarray(goal),
            softness * area / len(tied),
        )
        flat = igl.slim_solve(data, 20)  # type: ignore[attr-defined]
    log.info("midline tied within %.2g of the chart's width", np.ptp(flat[tied, 0]) / np.ptp(flat))
    return np.asarray(flat[:, :2])


def _lifted(flat: Floats) -> Floats:
    return np.concatenate([flat, np.zeros((len(flat), 1))], axis=1)


def _tie_seam(flat: Floats, front: Bools) -> Floats:
    """Put the front midline exactly on u = 0; what the soft tie left is below a texel."""
    tied = flat.copy()
    tied[front, 0] = 0.0
    return tied


def _areas(verts: Floats, triangles: Ints) -> Floats:
    a, b, c = (verts[triangles[:, k]] for k in range(3))
    return np.asarray(np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2)


def stretch(
    verts: Floats, triangles: Ints, uv: Floats, uv_triangles: Ints
) -> tuple[Floats, Floats, int]:
    """Area ratio [F] over its median, anisotropy [F] and the number of flipped triangles."""
    corners, flat = verts[triangles], uv[uv_triangles]
    e1, e2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    x = e1 / np.maximum(np.linalg.norm(e1, axis=1, keepdims=True), 1e-12)
    normal = np.cross(e1, e2)
    y = np.cross(normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12), x)
    rest = np.stack(
        [
            np.stack([(e1 * x).sum(1), (e2 * x).sum(1)], 1),
            np.stack([(e1 * y).sum(1), (e2 * y).sum(1)], 1),
        ],
        axis=1,
    )
    d = np.stack([flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]], axis=2)
    jacobian = d @ np.linalg.inv(rest + 1e-12 * np.eye(2))
    sigma = np.linalg.svd(jacobian, compute_uv=False)
    ratio = sigma.prod(1)
    flipped = int((np.linalg.det(jacobian) < 0).sum())
    return ratio / np.median(ratio), sigma[:, 0] / np.maximum(sigma[:, 1], 1e-12), flipped


def pack_islands(verts: Floats, polygons: Ints) -> tuple[Floats, Ints]:
    """UV [T, 2] and UV polygons [P, 4] of inner parts, cut and packed by xatlas."""
    import xatlas

    triangles = triangulate(polygons)
    quads = np.flatnonzero(polygons[:, 3] >= 0)
    _, indices, uv = xatlas.parametrize(verts.astype(np.float32), triangles.astype(np.uint32))
    indices = indices.astype(np.int64)
    uv_polygons = np.full_like(polygons, -1)
    uv_polygons[:, :3] = indices[: len(polygons)]
    # xatlas may cut a quad in two; then its corners disagree and it stays two triangles in UV
    second = indices[len(polygons) :]
    uv_polygons[quads, 3] = second[:, 2]
    broken = quads[
        (second[:, 0] != uv_polygons[quads, 0]) | (second[:, 1] != uv_polygons[quads, 2])
    ]
    if len(broken):
        uv, uv_polygons = _split_corners(uv.astype(np.float64), uv_polygons, broken)
    return np.asarray(uv, dtype=np.float64), uv_polygons


def _split_corners(uv: Floats, uv_polygons: Ints, broken: Ints) -> tuple[Floats, Ints]:
    """Give a quad cut by a chart border its first triangle's chart, the fourth corner guessed."""
    extra = uv[uv_polygons[broken, 0]] + uv[uv_polygons[broken, 2]] - uv[uv_polygons[broken, 1]]
    uv_polygons[broken, 3] = len(uv) + np.arange(len(broken))
    return np.concatenate([uv, np.clip(extra, 0, 1)]), uv_polygons
