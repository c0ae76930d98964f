"""The rasterizer in plain torch operations: slow, readable, on any device.

The compiled kernels and the GPU's find the same fragments, bit for bit: a change to a formula here
is a change to theirs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame.fragments import Fragments, check_arguments, check_indices, homogeneous_pixels

NEAR = -1.0  # z/w at the near plane of clip space
TAME = 1e6  # this and the next two as in flame.visibility_kernels
SMALLEST_AREA = 1e-12
TINY = 1e-30
_MOST_PAIRS = 2**22  # of triangles and pixels at a time, about 1.5 GB


def rasterize_reference(
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"] | Int[Tensor, "B F 3"],
    size: tuple[int, int],
    cull: bool = False,
) -> Fragments:
    """What `flame.raster.rasterize` returns.

    Every triangle is expanded to the pixels of its bounding box; of the pairs whose pixel centre
    lies inside, each pixel keeps the nearest.
    """
    check_arguments(verts, faces, size)
    check_indices(faces, verts.shape[1], "faces", padded=True)
    points = homogeneous_pixels(verts, size)
    near = NEAR if verts.shape[-1] == 4 else -torch.finfo(torch.float32).max
    faces = faces.long().expand(len(verts), *faces.shape[-2:])
    with torch.no_grad():
        face_id = _visible(points, faces, size, near, cull)

    item, row, column = torch.nonzero(face_id >= 0, as_tuple=True)
    seen = faces[item, face_id[item, row, column]]
    x, y, z, w = points[item[:, None], seen].unbind(-1)  # [N, 3] each
    # from the pixel's centre to the corners, and each corner's share of the triangle
    dx, dy = x - (column[:, None] + 0.5) * w, y - (row[:, None] + 0.5) * w
    after, before = [1, 2, 0], [2, 0, 1]
    edges = dx[:, after] * dy[:, before] - dx[:, before] * dy[:, after]
    det = (edges * w).sum(-1, keepdim=True)
    parts = edges * det.detach().sign()
    weights = parts / parts.sum(-1, keepdim=True)
    with torch.no_grad():
        # a pixel on an edge may come out a rounding error beyond it
        kept = parts.clamp(min=0)
        change = kept / kept.sum(-1, keepdim=True).clamp(min=1e-300) - weights
    covered = (item, row, column)
    bary = points.new_zeros(*face_id.shape, 3).index_put(covered, weights + change)
    depth = torch.full_like(bary[..., 0], math.inf)
    depth = depth.index_put(covered, (edges * z).sum(-1) / det[:, 0])
    return Fragments(face_id, bary.to(verts.dtype), depth.to(verts.dtype))


def _visible(
    points: Tensor, faces: Tensor, size: tuple[int, int], near: float, cull: bool
) -> Tensor:
    """Index of the nearest face at each pixel [B, H, W], -1 where there is none."""
    height, width = size
    batch, count = faces.shape[:2]
    screen = _project(points)
    first_vertex = torch.arange(batch, device=faces.device)[:, None, None] * points.shape[1]
    index = (faces.clamp(min=0) + first_vertex).reshape(-1, 3)
    present = (faces >= 0).all(-1).reshape(-1)
    if not present.any():
        return faces.new_full((batch, height, width), -1)
    corners = screen.reshape(-1, 4)[index]  # [N, 3, 4], N = B F
    triangles = _set_up(corners, cull)
    edges = triangles.edges
    usable = triangles.usable & present

    # boxes of pixels whose centres may be inside; columns without end where it reaches behind
    none = edges.begin >= edges.end
    limit = float(height)
    top = torch.where(none, math.inf, edges.begin).amin(1).clamp(0, limit).ceil()
    end = torch.where(none, -math.inf, edges.end).amax(1).clamp(0, limit).ceil()
    left = torch.where(triangles.tame, corners[..., 0].amin(1), 0).clamp(0, width).ceil()
    right = torch.where(triangles.tame, corners[..., 0].amax(1), width).clamp(0, width).ceil()
    tall, wide = (end - top).clamp(min=0), (right - left).clamp(min=0)
    pixels = torch.where(usable, tall * wide, 0).long()

    nearest = edges.x.new_full((batch * height * width,), math.inf, dtype=torch.float32)
    face_id = faces.new_full((batch * height * width,), -1)
    # some triangles at a time, as memory allows; equal depths stay with the earlier ones
    share = (pixels.cumsum(0) - 1).clamp(min=0) // _MOST_PAIRS
    _, counts = torch.unique_consecutive(share, return_counts=True)
    order = torch.arange(len(pixels), device=faces.device)
    for some in torch.split(order, counts.tolist()):
        # one pair of triangle and pixel a row
        pair = some.repeat_interleave(pixels[some])
        begin = pixels[some].cumsum(0) - pixels[some]
        place = torch.arange(len(pair), device=faces.device) - begin[pair - some[0]]
        span = wide.nan_to_num(0).long()[pair]
        column, row = left[pair] + place % span, top[pair] + place // span
        inside = torch.ones_like(pair, dtype=torch.bool)
        crossed = torch.zeros_like(inside)
        for start, until, x, y, slope, low, high, is_left in edges.of(pair):
            crosses = (row >= start) & (row < until)
            crossing = (x + (row - y) * slope).maximum(low).minimum(high)
            inside &= torch.where(is_left, column >= crossing, column < crossing) | ~crosses
            crossed |= crosses
        x0, y0, z0, zx, zy = triangles.plane[pair].unbind(-1)
        depth = ((z0 + (row - y0) * zy) + (column - x0) * zx).float()
        inside &= crossed & (depth >= near) & (depth < math.inf)

        pixel = (pair // max(count, 1) * height + row.long()) * width + column.long()
        pixel, depth, face = pixel[inside], depth[inside], (pair % max(count, 1))[inside]
        before = nearest
        nearest = nearest.scatter_reduce(0, pixel, depth, "amin")
        wins = (depth == nearest[pixel]) & (depth < before[pixel])
        found = torch.full_like(face_id, count)
        found = found.scatter_reduce(0, pixel[wins], face[wins], "amin")
        face_id = torch.where(found < count, found, face_id)
    return face_id.view(batch, height, width)


class _Edges(NamedTuple):
    """Rows begin..end that edges cross, at x + (row - y) * slope within low..high; [N, 3] each."""

    begin: Tensor
    end: Tensor
    x: Tensor
    y: Tensor
    slope: Tensor
    low: Tensor
    high: Tensor
    is_left: Tensor

    def of(self, triangle: Tensor) -> list[tuple[Tensor, ...]]:
        """The three edges of the triangles at these indices."""
        fields = [field[triangle] for field in self]
        return [tuple(field[:, edge] for field in fields) for edge in range(3)]


class _Triangles(NamedTuple):
    usable: Tensor  # [N]
    tame: Tensor  # [N], before the camera and not very far off the screen
    plane: Tensor  # [N, 5]: a point x, y with its depth, and the depth's slopes along x and y
    edges: _Edges


def _project(points: Tensor) -> Tensor:
    """Screen points with pixel centres at whole numbers; those behind the camera stay as they are.

    The last entry is 1 in front of the camera.
    """
    x, y, z, w = points.unbind(-1)
    x, y = x - 0.5 * w, y - 0.5 * w
    front = w > 0
    divisor = torch.where(front, w, 1)
    x, y, z = x / divisor, y / divisor, z / divisor
    x, y = torch.where(x.abs() < TINY, 0, x), torch.where(y.abs() < TINY, 0, y)
    return torch.stack([x, y, z, torch.where(front, 1, w)], dim=-1)


def _set_up(corners: Tensor, cull: bool) -> _Triangles:
    x, y, z, w = corners.unbind(-1)
    front = w == 1
    tame = (front & (x.abs() <= TAME) & (y.abs() <= TAME) & z.isfinite()).all(-1)
    # tame triangles start from their top corner, others from the one nearest to the screen's
    order = x.sort(dim=1, stable=True).indices
    order = order.gather(1, y.gather(1, order).sort(dim=1, stable=True).indices)
    distance = torch.where(front, x.abs() + y.abs(), math.inf)
    start = distance.sort(dim=1, stable=True).indices[:, :1]
    turned = (start + torch.arange(3, device=corners.device)) % 3
    order = torch.where(tame[:, None], order, turned)
    clockwise = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) > (x[:, 2] - x[:, 0]) * (
        y[:, 1] - y[:, 0]
    )
    corners = corners.gather(1, order[..., None].expand(-1, -1, 4))

    origin, others = corners[:, 0], corners[:, 1:]
    delta = others - origin[:, None] * others[..., 3:]
    (dx1, dy1, dz1, _), (dx2, dy2, dz2, _) = (d.unbind(-1) for d in delta.unbind(1))
    area = dx1 * dy2 - dx2 * dy1
    # directions have no length, so neither has the area of a triangle that ends in one
    extent = (dx1.abs() + dy1.abs()) * (dx2.abs() + dy2.abs())
    usable = torch.where(
        tame,
        area.abs() > SMALLEST_AREA,
        (area.abs() > SMALLEST_AREA * extent)
        & (extent < math.inf)
        & front.any(-1)
        & (corners.abs().sum((-1, -2)) < math.inf),
    )
    if cull:
        usable = usable & ~torch.where(tame, clockwise, area > 0)
    scale = 1 / area
    zx, zy = (dz1 * dy2 - dz2 * dy1) * scale, (dz2 * dx1 - dz1 * dx2) * scale
    plane = torch.stack([*origin[:, :3].unbind(-1), zx, zy], dim=-1)
    edges = _edges(corners, corners[:, [1, 2, 0]], area > 0)
    return _Triangles(usable, tame, plane, edges)


def _edges(p: Tensor, q: Tensor, clockwise: Tensor) -> _Edges:
    """The edges from p to q [N, 3, 4] of triangles that are clockwise on the screen or not."""
    segment = _segments(p, q)
    ray = _rays(p, q)
    both = (p[..., 3] == 1) & (q[..., 3] == 1)
    begin, end, x, y, slope, low, high, down = (
        torch.where(both, one, two) for one, two in zip(segment, ray, strict=True)
    )
    flat = ~slope.isfinite()
    begin, end = torch.where(flat, 0, begin), torch.where(flat, 0, end)
    return _Edges(begin, end, x, y, slope, low, high, down != clockwise[:, None])


def _segments(p: Tensor, q: Tensor) -> tuple[Tensor, ...]:
    """Edges whose ends are both in front of the camera."""
    px, py, qx, qy = p[..., 0], p[..., 1], q[..., 0], q[..., 1]
    swap = ((qy < py) | ((qy == py) & (qx < px)))[..., None]
    upper, lower = torch.where(swap, q, p), torch.where(swap, p, q)
    slope = (lower[..., 0] - upper[..., 0]) / (lower[..., 1] - upper[..., 1])
    # far off the screen coordinates are coarse: start from the end that is nearer
    far = torch.stack([px, py, qx, qy]).abs().amax(0) > TAME
    nearer = lower[..., :2].abs().sum(-1) < upper[..., :2].abs().sum(-1)
    anchor = torch.where((far & nearer)[..., None], lower, upper)
    x, y, begin, end = anchor[..., 0], anchor[..., 1], upper[..., 1], lower[..., 1]
    return begin, end, x, y, slope, px.minimum(qx), px.maximum(qx), qy > py


def _rays(p: Tensor, q: Tensor) -> tuple[Tensor, ...]:
    """Edges with an end behind the camera: on the screen that end is a direction."""
    p_front = p[..., 3] == 1
    front = torch.where(p_front[..., None], p, q)
    behind = torch.where(p_front[..., None], q, p)
    delta = behind - front * behind[..., 3:]
    dx, dy, x, y = delta[..., 0], delta[..., 1], front[..., 0], front[..., 1]
    begin = torch.where(dy > 0, y, -math.inf)
    end = torch.where(dy < 0, y, math.inf)
    end = torch.where((dy == 0) | (front[..., 3] != 1), begin, end)
    low, high = torch.where(dx >= 0, x, -math.inf), torch.where(dx <= 0, x, math.inf)
    return begin, end, x, y, dx / dy, low, high, (dy > 0) == p_front
