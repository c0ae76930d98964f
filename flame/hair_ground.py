"""The head below the hair: its surface as a field of distances, and the nearest points on it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def unit(vectors: Array) -> Array:
    length: Array = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, 1e-9)


def strew(corners: Array, count: int, rng: np.random.Generator) -> tuple[Array, Indices]:
    """Points spread evenly over triangles [N, 3, 3], and the triangle that each lies on."""
    area = np.linalg.norm(_cross(corners), axis=1)
    chosen = rng.choice(len(corners), count, p=area / area.sum())
    share = rng.dirichlet(np.ones(3), count)
    points: Array = np.einsum("nk,nkd->nd", share, corners[chosen])
    return points, chosen


class Ground:
    """The head's surface as a field of signed distances, with the bust drawn on downwards."""

    cell = 3.0  # mm

    def __init__(self, verts: Array, faces: Indices, rng: np.random.Generator) -> None:
        from scipy.ndimage import distance_transform_edt, gaussian_filter

        corners = verts[faces]
        points, chosen = strew(corners, 400_000, rng)
        below, outward = _drawn_down(verts, faces)
        points = np.concatenate([points, below])
        normals = np.concatenate([unit(_cross(corners))[chosen], outward])
        self.low = verts.min(0) - 60
        self.shape = np.ceil((verts.max(0) + 60 - self.low) / self.cell).astype(int) + 1
        # one sample per cell, the mean of those in it; every cell then looks up its nearest
        cell = np.round((points - self.low) / self.cell).astype(int).clip(0, self.shape - 1)
        flat = np.ravel_multi_index(tuple(cell.T), tuple(self.shape))
        size = int(np.prod(self.shape))
        count = np.bincount(flat, minlength=size)
        sums = [np.bincount(flat, axis, size) for axis in np.concatenate([points, normals], 1).T]
        mean = np.stack(sums, -1) / np.maximum(count, 1)[:, None]
        nearest = distance_transform_edt(
            (count == 0).reshape(self.shape), return_distances=False, return_indices=True
        )
        foot = mean[np.ravel_multi_index(tuple(nearest), tuple(self.shape)).ravel()]
        grid = np.stack(np.meshgrid(*map(np.arange, self.shape), indexing="ij"), -1)
        offset = grid.reshape(-1, 3) * self.cell + self.low - foot[:, :3]
        far = np.linalg.norm(offset, axis=1)
        height = (offset * unit(foot[:, 3:])).sum(1)
        # near the surface a plane through the sample is closer to the truth than its distance
        signed = np.where(far < 5, height, np.copysign(far, height)).reshape(self.shape)
        signed = gaussian_filter(signed, 0.8)
        slope = np.gradient(gaussian_filter(signed, 1.5), self.cell)
        # the last tells how far out a curtain of hair hangs, for which ears are no hindrance
        wide = gaussian_filter(signed, 5.0)
        self.cells = np.stack([signed, *slope, wide], -1).reshape(-1, 5)

    def probe(self, points: Array) -> tuple[Array, Array, Array]:
        """Height above the surface, the direction away from it, height above its smooth hull."""
        where = ((points - self.low) / self.cell).clip(0, self.shape - 1.001)
        corner = where.astype(int)
        share = where - corner
        values = np.zeros((*points.shape[:-1], 5))
        for step in np.ndindex(2, 2, 2):
            at = corner + step
            index = (at[..., 0] * self.shape[1] + at[..., 1]) * self.shape[2] + at[..., 2]
            weight = np.where(step, share, 1 - share).prod(-1)
            values += weight[..., None] * self.cells[index]
        return values[..., 0], unit(values[..., 1:4]), values[..., 4]

    def up(self, points: Array) -> Array:
        return self.probe(points)[1]

    def lift(self, points: Array, least: Array | float) -> Array:
        """The points, pushed to at least this height."""
        for _ in range(3):
            height, up, _ = self.probe(points)
            points = points + np.maximum(least - height, 0)[..., None] * up
        return points


def rim(verts: Array, faces: Indices) -> Indices:
    """The edges [E, 2] where the bust ends."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, index, count = np.unique(np.sort(edges, 1), axis=0, return_index=True, return_counts=True)
    border = edges[index[count == 1]]
    low: Indices = border[verts[border, 1].max(1) < -85]
    return low


def _drawn_down(verts: Array, faces: Indices) -> tuple[Array, Array]:
    """Samples of a skirt hanging from the bust's rim, and their outward normals."""
    border = rim(verts, faces)
    if not len(border):
        return np.zeros((0, 3)), np.zeros((0, 3))
    ends = verts[border]
    outward = unit((ends.mean(1) - [0, 0, -10]) * [1, 0, 1])
    outward = np.repeat(outward, 3, 0)
    start = np.concatenate([ends[:, :1], ends.mean(1, keepdims=True), ends[:, 1:]], 1)
    drops = np.arange(1, 30) * 4.0
    points = start.reshape(-1, 3) + drops[:, None, None] * np.array([0, -1.0, 0])
    return points.reshape(-1, 3), np.tile(outward, (len(drops), 1))


def nearest_triangles(
    points: Array, head: Array, skin: Indices
) -> tuple[Indices, Array, Array, Array, Array]:
    """The nearest triangle of each point: its index, barycentrics, height above its plane, its
    normal, and the distance to it.
    """
    from scipy.spatial import cKDTree

    corners = head[skin]
    nearest = cKDTree(corners.mean(1)).query(points, k=16)[1]
    a, b, c = (corners[nearest, k] for k in range(3))
    share = _closest_barycentric(points[:, None], a, b, c)
    foot = np.einsum("nmk,nmkd->nmd", share, corners[nearest])
    best = np.linalg.norm(points[:, None] - foot, axis=2).argmin(1)
    rows = np.arange(len(points))
    triangle, share, foot = nearest[rows, best], share[rows, best], foot[rows, best]
    normal = unit(np.cross((b - a)[rows, best], (c - a)[rows, best]))
    away = points - foot
    return triangle, share, (away * normal).sum(1), normal, np.linalg.norm(away, axis=1)


def _closest_barycentric(p: Array, a: Array, b: Array, c: Array) -> Array:
    """Barycentrics of the point of triangle abc that is closest to p; leading axes broadcast."""
    u, v, w = b - a, c - a, p - a
    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    wu, wv = (w * u).sum(-1), (w * v).sum(-1)
    area = np.maximum(uu * vv - uv * uv, 1e-12)
    s, t = (vv * wu - uv * wv) / area, (uu * wv - uv * wu) / area
    inner = np.stack([1 - s - t, s, t], -1)
    zero = np.zeros_like(s)
    ab = np.clip(wu / np.maximum(uu, 1e-12), 0, 1)
    ac = np.clip(wv / np.maximum(vv, 1e-12), 0, 1)
    bc = np.clip((wv - wu + uu - uv) / np.maximum(uu - 2 * uv + vv, 1e-12), 0, 1)
    edges = [
        np.stack([1 - ab, ab, zero], -1),
        np.stack([1 - ac, zero, ac], -1),
        np.stack([zero, 1 - bc, bc], -1),
    ]
    best, least = inner, np.where((inner >= 0).all(-1), 0.0, np.inf)
    for edge in edges:
        foot = edge[..., :1] * a + edge[..., 1:2] * b + edge[..., 2:] * c
        far = np.linalg.norm(p - foot, axis=-1)
        nearer = far < least
        best = np.where(nearer[..., None] & (least > 0)[..., None], edge, best)
        least = np.where(nearer, far, least)
    return best


def vertex_normals(verts: Array, faces: Indices) -> Array:
    """Unit normals, each face counting by its area."""
    cross = _cross(verts[faces])
    normals = np.zeros_like(verts)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], cross)
    return unit(normals)


def _cross(corners: Array) -> Array:
    """Normals of triangles [N, 3, 3], twice as long as their area."""
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
