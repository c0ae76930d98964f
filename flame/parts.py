"""Parts that statistics do not give in a usable form: eyeballs, lash strips, shirt, tongue."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, vstack
from scipy.spatial import Delaunay

from flame.remesh import Floats, Ints, polygon_edges
from flame.unwrap import boundary_loops

EYE_SEGMENTS = 24
# Polar angles from the optical axis, degrees: pupil, iris and limbus get rings of their own.
EYE_RINGS_DEG = (4, 8, 12, 16.5, 21, 24, 29, 36, 45, 56, 70, 88, 110, 135)
CORNEA_DEG = 25.0


@dataclass(frozen=True)
class Part:
    """A piece of the head with its own vertices and UV."""

    verts: Floats  # [n, 3] mm
    polygons: Ints  # [p, 4]
    uv: Floats
    uv_polygons: Ints


def eyeball(center: Floats, radius: float, bulge: float) -> Part:
    """A sphere about the optical axis +z with a corneal bulge; azimuthal UV, pupil at (.5, .5)."""
    theta = np.radians(np.array((0.0, *EYE_RINGS_DEG, 180.0)))
    phi = np.linspace(0, 2 * np.pi, EYE_SEGMENTS, endpoint=False)
    rings = np.repeat(np.arange(1, len(theta) - 1), EYE_SEGMENTS)
    angle = np.concatenate([[0.0], theta[rings], [np.pi]])
    turn = np.concatenate([[0.0], np.tile(phi, len(theta) - 2), [0.0]])
    lift = np.clip(1 - (angle / np.radians(CORNEA_DEG)) ** 2, 0, None) ** 2
    distance = radius + bulge * lift
    axis = np.stack(
        [np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle)], axis=1
    )
    spread = 0.5 * np.sqrt(angle / np.pi)
    uv = 0.5 + spread[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    last = len(angle) - 1
    polygons = []
    for segment in range(EYE_SEGMENTS):
        after = (segment + 1) % EYE_SEGMENTS
        polygons.append([0, 1 + segment, 1 + after, -1])
        for ring in range(len(theta) - 3):
            near, far = 1 + ring * EYE_SEGMENTS, 1 + (ring + 1) * EYE_SEGMENTS
            polygons.append([near + segment, far + segment, far + after, near + after])
        tail = 1 + (len(theta) - 3) * EYE_SEGMENTS
        polygons.append([tail + segment, last, tail + after, -1])
    grid = np.array(polygons)
    return Part(center + axis * distance[:, None], grid, uv, grid)


LOWER_LASH_LENGTH = 0.55  # of the source's lower strip, which is as long as the upper one


def lash_strips(
    verts: Floats, polygons: Ints, lid_center: Floats
) -> tuple[Ints, Ints, Ints, Floats, Floats]:
    """One upper and one lower strip out of layered lash shells.

    Returns source vertices [n], the root vertex below each [n], polygons [p, 4] into them, UV
    [n, 2] (u along the lid from the nose outward, v from root to tip), and the length that is kept
    [n]: a vertex stands that far from its root vertex toward the source's place.
    """
    components = _components(polygons)
    above = [c for c in components if verts[c].mean((0, 1))[1] > lid_center[1]]
    below = [c for c in components if verts[c].mean((0, 1))[1] <= lid_center[1]]
    strips = [max(group, key=lambda c: _area(verts, c)) for group in (above, below)]
    used, packed = np.unique(np.concatenate(strips), return_inverse=True)
    uv, roots = np.zeros((len(used), 2)), used.copy()
    length = np.ones(len(used))
    for strip, share in zip(strips, (1.0, LOWER_LASH_LENGTH), strict=True):
        own = np.unique(strip)
        here = np.searchsorted(used, own)
        uv[here] = _strip_uv(verts, strip)
        feet = own[uv[here, 1] < 1e-6]
        nearest = np.linalg.norm(verts[own][:, None] - verts[feet][None], axis=2).argmin(1)
        roots[here] = feet[nearest]
        length[here] = np.where(uv[here, 1] < 1e-6, 1.0, share)
    return used, roots, packed.reshape(-1, 4), uv, length


def _components(polygons: Ints) -> list[Ints]:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    half, _ = polygon_edges(polygons)
    size = int(polygons.max()) + 1
    _, label = connected_components(coo_matrix((np.ones(len(half)), half.T), shape=(size, size)))
    own = label[polygons[:, 0]]
    return [polygons[own == value] for value in np.unique(own)]


def _area(verts: Floats, polygons: Ints) -> float:
    a, b, c, d = (verts[polygons[:, k]] for k in range(4))
    return float(np.linalg.norm(np.cross(c - a, d - b), axis=1).sum() / 2)


def _strip_uv(verts: Floats, strip: Ints) -> Floats:
    """Grid coordinates of a strip: corners have one quad, long sides are the lid and the tips."""
    used, packed = np.unique(strip, return_inverse=True)
    quads = packed.reshape(strip.shape)
    triangles = np.concatenate([quads[:, :3], quads[:, [0, 2, 3]]])
    loop = max(boundary_loops(triangles), key=len)
    uses = np.bincount(quads.ravel())
    corners = [k for k, vertex in enumerate(loop) if uses[vertex] == 1]
    sides = []
    for start, stop in zip(corners, [*corners[1:], corners[0] + len(loop)], strict=True):
        sides.append([loop[k % len(loop)] for k in range(start, stop + 1)])
    long_sides = sorted(sides, key=len)[-2:]
    points = verts[used]
    # roots lie behind the tips
    root, tip = sorted(long_sides, key=lambda side: points[side][:, 2].mean())
    middle = np.abs(points[:, 0])
    to_root = _chain_distance(points, points[root])
    to_tip = _chain_distance(points, points[tip])
    v = to_root / np.maximum(to_root + to_tip, 1e-9)
    u = (middle - middle.min()) / np.ptp(middle)
    return np.stack([u, v], axis=1)


def _chain_distance(points: Floats, chain: Floats) -> Floats:
    return np.asarray(np.linalg.norm(points[:, None] - chain[None], axis=2).min(1))


def tongue_out(verts: Floats, tongue: Ints, reach: float) -> Floats:
    """Deltas [N, 3] that bring the tongue vertices forward by up to `reach` mm.

    The front half rises over the lower teeth and lip, gets thin and bends down at the tip.
    """
    delta = np.zeros_like(verts)
    points = verts[tongue]
    back, tip = points[:, 2].min(), points[:, 2].max()
    share = np.clip((points[:, 2] - back) / (tip - back), 0, 1)
    axis_height = np.interp(points[:, 2], *_centre_line(points))
    thin = -(points[:, 1] - axis_height) * 0.55 * share
    rise = np.clip((share - 0.1) / 0.6, 0, 1)
    bend = 11.0 * rise**2 * (3 - 2 * rise) - 6.0 * share**4
    delta[tongue, 2] = reach * share**1.5
    delta[tongue, 1] = thin + bend
    return delta


def _centre_line(points: Floats) -> tuple[Floats, Floats]:
    edges = np.linspace(points[:, 2].min(), points[:, 2].max(), 9)
    centres = (edges[1:] + edges[:-1]) / 2
    heights = []
    for low, high in itertools.pairwise(edges):
        slab = points[(points[:, 2] >= low) & (points[:, 2] <= high), 1]
        heights.append((slab.min() + slab.max()) / 2)
    return centres, np.array(heights)


SHIRT_COLUMNS = 72
COLLAR = (0.0, -14.0, 77.0, 66.0)  # centre x, z and half axes x, z of the neckline seen from above


def shirt(
    verts: Floats, mirror: Ints, bust: Ints, rim: Ints, *, thickness: float, floor: float
) -> tuple[csr_matrix, Floats, Part]:
    """A crew-neck shirt over the bust, seen from above a ring grid from neckline to hem.

    `bust` are the skin vertices it may lie on, `rim` the bust's border loop. Returns each vertex's
    combination of skin vertices [n, V], its offset [n, 3], and the grid (its verts are left zero).
    """
    half = SHIRT_COLUMNS // 2
    angle = 2 * np.pi * np.arange(half + 1) / SHIRT_COLUMNS  # from the front round one side
    direction = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    x, z, wide, deep = COLLAR
    inner = 1 / np.hypot(direction[:, 0] / wide, direction[:, 1] / deep)
    edge = verts[rim][:, [0, 2]] - [x, z]
    edge_angle = np.arctan2(np.abs(edge[:, 0]), edge[:, 1])
    order = np.argsort(edge_angle)
    outer = np.interp(angle, edge_angle[order], np.hypot(*edge[order].T)) * 0.985
    rings = np.linspace(0, 1, 9)
    # roll of the collar: (share of thickness outward, upward), inside first
    collar = [(-0.6, -1.0), (0.2, 1.3), (1.0, 1.9), (1.5, 1.0)]
    hem = (0.3, 0.65, 1.0)
    triangulation = Delaunay(verts[bust][:, [0, 2]])
    rows, offsets = [], []
    layers = [(0.0, out, up, 0.0) for out, up in collar]
    layers += [(ring, 1.0, 0.3 * (ring == 0), 0.0) for ring in rings]
    layers += [(1.0, 1.0, 0.0, drop) for drop in hem]
    for ring, out, up, drop in layers:
        radius = inner + ring * (outer - inner)
        places = np.array([x, z]) + direction * radius[:, None]
        carriers, weights = _carried(triangulation, places)
        row = csr_matrix(
            (weights.ravel(), (np.repeat(np.arange(half + 1), 3), bust[carriers].ravel())),
            shape=(half + 1, len(verts)),
        )
        at = row @ verts
        outward = np.stack([direction[:, 0], np.zeros(half + 1), direction[:, 1]], axis=1)
        lean = 0.35 + 0.45 * ring
        offset = thickness * (out * (lean * outward + [0, 1 - 0.4 * ring, 0]) + [0, up, 0])
        offset[:, 1] = (1 - drop) * offset[:, 1] + drop * (floor - at[:, 1])
        offset[[0, half], 0] = 0
        rows.append(_mirrored_rows(row, mirror, half))
        offsets.append(np.concatenate([offset, offset[half - 1 : 0 : -1] * [-1, 1, 1]]))
    return vstack(rows).tocsr(), np.concatenate(offsets), _ring_grid(len(layers))


def _carried(triangulation: Delaunay, places: Floats) -> tuple[Ints, Floats]:
    """Corners [n, 3] and barycentrics [n, 3] of the triangle under each place."""
    simplex = triangulation.find_simplex(places)
    if (simplex < 0).any():
        raise ValueError("the bust does not reach as far as the shirt; make the neckline narrower")
    transform = triangulation.transform[simplex]
    first = np.einsum("nij,nj->ni", transform[:, :2], places - transform[:, 2])
    bary = np.concatenate([first, 1 - first.sum(1, keepdims=True)], axis=1)
    return triangulation.simplices[simplex].astype(np.int64), bary


def _mirrored_rows(row: csr_matrix, mirror: Ints, half: int) -> csr_matrix:
    flip = csr_matrix((np.ones(len(mirror)), (mirror, np.arange(len(mirror)))))
    other = row @ flip
    ends = 0.5 * (row + other)
    return vstack([ends[0], row[1:half], ends[half], other[half - 1 : 0 : -1]])


def _ring_grid(layers: int) -> Part:
    column, layer = np.meshgrid(np.arange(SHIRT_COLUMNS), np.arange(layers - 1))
    after = (column + 1) % SHIRT_COLUMNS
    below = layer + 1
    polygons = np.stack(
        [
            below * SHIRT_COLUMNS + column,
            below * SHIRT_COLUMNS + after,
            layer * SHIRT_COLUMNS + after,
            layer * SHIRT_COLUMNS + column,
        ],
        axis=-1,
    ).reshape(-1, 4)
    wide = SHIRT_COLUMNS + 1
    uv_polygons = np.stack(
        [
            below * wide + column,
            below * wide + column + 1,
            layer * wide + column + 1,
            layer * wide + column,
        ],
        axis=-1,
    ).reshape(-1, 4)
    u, v = np.meshgrid(np.linspace(0, 1, wide), np.linspace(1, 0, layers))
    uv = np.stack([u.ravel(), v.ravel()], axis=1)
    return Part(np.zeros((layers * SHIRT_COLUMNS, 3)), polygons, uv, uv_polygons)
