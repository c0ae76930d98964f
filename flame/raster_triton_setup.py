"""What the GPU kernels know of each face: its plane, its edges and its box of pixels.

Import this file only through `flame.raster_triton`. The formulas are those of
`flame.raster_reference`, in the same order and in float64. Every launch must say
enable_fp_fusion=False: a fused multiply-add rounds once where the reference rounds twice, and face
ids would no longer equal the reference's bit for bit.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
# Triton reads kernels itself: their arguments are pointers and numbers that Python cannot name

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from flame.raster_reference import SMALLEST_AREA, TAME, TINY

RECORD = 5 + 3 * 7  # numbers of a face: its plane and three edges
_TAME = tl.constexpr(TAME)
_SMALLEST_AREA = tl.constexpr(SMALLEST_AREA)
_TINY = tl.constexpr(TINY)

_Kernel = Callable[..., Any]


def jit(kernel: _Kernel) -> Any:
    """The Triton kernel, or function that kernels call, of this source."""
    # Triton parses the bare function, also where an import hook wrapped it to check shapes
    return triton.jit(inspect.unwrap(kernel))


@jit
def _corner(points, vertex, usable):
    """Pixel coordinates times w, depth times w, and w of one corner, or of a block of them."""
    row = points + vertex * 4
    x = tl.load(row, mask=usable, other=0.0)
    y = tl.load(row + 1, mask=usable, other=0.0)
    z = tl.load(row + 2, mask=usable, other=0.0)
    w = tl.load(row + 3, mask=usable, other=0.0)
    return x, y, z, w


@jit
def corners(points, faces, f, batch_faces, face_count, vert_count, usable):
    """The three corners of face f of all items' faces counted on."""
    item = f // face_count
    row = faces + (item * batch_faces + f % face_count) * 3
    a = tl.load(row, mask=usable, other=-1)
    b = tl.load(row + 1, mask=usable, other=-1)
    c = tl.load(row + 2, mask=usable, other=-1)
    usable = usable & (a >= 0) & (b >= 0) & (c >= 0)
    own = points + item * vert_count * 4
    x0, y0, z0, w0 = _corner(own, a, usable)
    x1, y1, z1, w1 = _corner(own, b, usable)
    x2, y2, z2, w2 = _corner(own, c, usable)
    return x0, y0, z0, w0, x1, y1, z1, w1, x2, y2, z2, w2, usable


@jit
def _project(x, y, z, w):
    """A corner with pixel centres at whole numbers and w = 1, if it is in front of the camera."""
    x, y = x - 0.5 * w, y - 0.5 * w
    front = w > 0
    divisor = tl.where(front, w, 1.0)
    x, y, z = x / divisor, y / divisor, z / divisor
    tiny = tl.full(x.shape, _TINY, tl.float64)
    x, y = tl.where(tl.abs(x) < tiny, 0.0, x), tl.where(tl.abs(y) < tiny, 0.0, y)
    return x, y, z, tl.where(front, 1.0, w)


@jit
def _tame(x, y, z, w):
    """Whether a projected corner is before the camera and not very far off the screen."""
    near_screen = (tl.abs(x) <= _TAME) & (tl.abs(y) <= _TAME)
    return (w == 1.0) & near_screen & (tl.abs(z) < float("inf"))


@jit
def _exchange(swap, x0, y0, z0, w0, x1, y1, z1, w1):
    return (
        tl.where(swap, x1, x0), tl.where(swap, y1, y0), tl.where(swap, z1, z0),
        tl.where(swap, w1, w0), tl.where(swap, x0, x1), tl.where(swap, y0, y1),
        tl.where(swap, z0, z1), tl.where(swap, w0, w1),
    )  # fmt: skip


@jit
def _above(x0, y0, x1, y1):
    """Whether the first point is strictly higher, or as high and further left."""
    return (y0 < y1) | ((y0 == y1) & (x0 < x1))


@jit
def _distance(x, y, w):
    return tl.where(w == 1.0, tl.abs(x) + tl.abs(y), float("inf"))


@jit
def _size(x, y, z, w):
    return tl.abs(x) + tl.abs(y) + tl.abs(z) + tl.abs(w)


@jit
def _edge(record, stride, inside, clockwise, px, py, pw, qx, qy, qw):
    """Record the rows begin..end that an edge crosses, at x + (row - y) * slope within low..high.

    Returns begin, end and whether the triangle lies to the right of the edge.
    """
    # both ends in front of the camera
    swap = _above(qx, qy, px, py)
    ux, uy = tl.where(swap, qx, px), tl.where(swap, qy, py)
    lx, ly = tl.where(swap, px, qx), tl.where(swap, py, qy)
    # far off the screen coordinates are coarse: start from the end that is nearer
    across, down = tl.maximum(tl.abs(px), tl.abs(qx)), tl.maximum(tl.abs(py), tl.abs(qy))
    far = tl.maximum(across, down) > _TAME
    anchored = far & (tl.abs(lx) + tl.abs(ly) < tl.abs(ux) + tl.abs(uy))
    x, y = tl.where(anchored, lx, ux), tl.where(anchored, ly, uy)
    slope, begin, end = (lx - ux) / (ly - uy), uy, ly
    low, high, falls = tl.minimum(px, qx), tl.maximum(px, qx), qy > py
    # an end behind the camera is a direction on the screen
    p_front = pw == 1.0
    fx, fy, fw = tl.where(p_front, px, qx), tl.where(p_front, py, qy), tl.where(p_front, pw, qw)
    bx, by, bw = tl.where(p_front, qx, px), tl.where(p_front, qy, py), tl.where(p_front, qw, pw)
    dx, dy = bx - fx * bw, by - fy * bw
    ray_begin = tl.where(dy > 0, fy, float("-inf"))
    ray_end = tl.where(dy < 0, fy, float("inf"))
    ray_end = tl.where((dy == 0) | (fw != 1.0), ray_begin, ray_end)

    both = p_front & (qw == 1.0)
    x, y, slope = tl.where(both, x, fx), tl.where(both, y, fy), tl.where(both, slope, dx / dy)
    begin, end = tl.where(both, begin, ray_begin), tl.where(both, end, ray_end)
    low = tl.where(both, low, tl.where(dx >= 0, fx, float("-inf")))
    high = tl.where(both, high, tl.where(dx <= 0, fx, float("inf")))
    falls = tl.where(both, falls, (dy > 0) == p_front)
    flat = ~(tl.abs(slope) < float("inf"))
    begin, end = tl.where(flat, 0.0, begin), tl.where(flat, 0.0, end)
    tl.store(record, begin, mask=inside)
    tl.store(record + stride, end, mask=inside)
    tl.store(record + 2 * stride, x, mask=inside)
    tl.store(record + 3 * stride, y, mask=inside)
    tl.store(record + 4 * stride, slope, mask=inside)
    tl.store(record + 5 * stride, low, mask=inside)
    tl.store(record + 6 * stride, high, mask=inside)
    return begin, end, falls != clockwise


@jit
def _pixels(low, high, limit):
    """First and past-last whole number of low..high that lie within 0..limit."""
    low = tl.minimum(tl.maximum(low, 0.0), limit)
    high = tl.minimum(tl.maximum(high, 0.0), limit)
    return tl.ceil(low).to(tl.int32), tl.ceil(high).to(tl.int32)


@jit
def set_up(
    points, faces, records, boxes, parts, total, batch_faces, face_count, vert_count,
    height, width, cull, FACES: tl.constexpr, TILE: tl.constexpr, MOST_PARTS: tl.constexpr,
):  # fmt: skip
    """Per face its plane and edges, its box of pixels, and the programs that will draw it.

    Formulas and their order are those of the reference's `_set_up`.
    """
    f = tl.program_id(0).to(tl.int64) * FACES + tl.arange(0, FACES)
    inside = f < total
    x0, y0, z0, w0, x1, y1, z1, w1, x2, y2, z2, w2, usable = corners(
        points, faces, f, batch_faces, face_count, vert_count, inside
    )
    x0, y0, z0, w0 = _project(x0, y0, z0, w0)
    x1, y1, z1, w1 = _project(x1, y1, z1, w1)
    x2, y2, z2, w2 = _project(x2, y2, z2, w2)
    tame = _tame(x0, y0, z0, w0) & _tame(x1, y1, z1, w1) & _tame(x2, y2, z2, w2)
    turned = (x1 - x0) * (y2 - y0) > (x2 - x0) * (y1 - y0)

    # tame triangles from top to bottom, others turned to begin nearest to the screen's origin
    d0, d1, d2 = _distance(x0, y0, w0), _distance(x1, y1, w1), _distance(x2, y2, w2)
    once = ~tame & (d1 < d0) & (d1 <= d2)
    twice = ~tame & (d2 < d0) & (d2 < d1)
    swap = (tame & _above(x1, y1, x0, y0)) | once | twice
    x0, y0, z0, w0, x1, y1, z1, w1 = _exchange(swap, x0, y0, z0, w0, x1, y1, z1, w1)
    swap = (tame & _above(x2, y2, x1, y1)) | once
    x1, y1, z1, w1, x2, y2, z2, w2 = _exchange(swap, x1, y1, z1, w1, x2, y2, z2, w2)
    swap = tame & _above(x1, y1, x0, y0)
    x0, y0, z0, w0, x1, y1, z1, w1 = _exchange(swap, x0, y0, z0, w0, x1, y1, z1, w1)
    x0, y0, z0, w0, x2, y2, z2, w2 = _exchange(twice, x0, y0, z0, w0, x2, y2, z2, w2)

    dx1, dy1, dz1 = x1 - x0 * w1, y1 - y0 * w1, z1 - z0 * w1
    dx2, dy2, dz2 = x2 - x0 * w2, y2 - y0 * w2, z2 - z0 * w2
    area = dx1 * dy2 - dx2 * dy1
    # directions have no length, so neither has the area of a triangle that ends in one
    extent = (tl.abs(dx1) + tl.abs(dy1)) * (tl.abs(dx2) + tl.abs(dy2))
    least = tl.full(area.shape, _SMALLEST_AREA, tl.float64)
    size = _size(x0, y0, z0, w0) + _size(x1, y1, z1, w1) + _size(x2, y2, z2, w2)
    wild = (tl.abs(area) > least * extent) & (extent < float("inf")) & (size < float("inf"))
    wild = wild & ((w0 == 1.0) | (w1 == 1.0) | (w2 == 1.0))
    usable = usable & tl.where(tame, tl.abs(area) > least, wild)
    clockwise = area > 0
    usable = usable & ((cull == 0) | ~tl.where(tame, turned, clockwise))
    scale = 1.0 / area
    tl.store(records + f, x0, mask=inside)
    tl.store(records + total + f, y0, mask=inside)
    tl.store(records + 2 * total + f, z0, mask=inside)
    tl.store(records + 3 * total + f, (dz1 * dy2 - dz2 * dy1) * scale, mask=inside)
    tl.store(records + 4 * total + f, (dz2 * dx1 - dz1 * dx2) * scale, mask=inside)

    edge = records + 5 * total + f
    b0, e0, right0 = _edge(edge, total, inside, clockwise, x0, y0, w0, x1, y1, w1)
    edge += 7 * total
    b1, e1, right1 = _edge(edge, total, inside, clockwise, x1, y1, w1, x2, y2, w2)
    edge += 7 * total
    b2, e2, right2 = _edge(edge, total, inside, clockwise, x2, y2, w2, x0, y0, w0)
    bits = tl.where(right0, 1, 0) + tl.where(right1, 2, 0) + tl.where(right2, 4, 0)

    top = tl.where(b0 >= e0, float("inf"), b0)
    top = tl.minimum(top, tl.where(b1 >= e1, float("inf"), b1))
    top = tl.minimum(top, tl.where(b2 >= e2, float("inf"), b2))
    bottom = tl.where(b0 >= e0, float("-inf"), e0)
    bottom = tl.maximum(bottom, tl.where(b1 >= e1, float("-inf"), e1))
    bottom = tl.maximum(bottom, tl.where(b2 >= e2, float("-inf"), e2))
    left = tl.where(tame, tl.minimum(tl.minimum(x0, x1), x2), 0.0)
    right = tl.where(tame, tl.maximum(tl.maximum(x0, x1), x2), width)
    top, bottom = _pixels(tl.where(usable, top, 0.0), tl.where(usable, bottom, 0.0), height)
    left, right = _pixels(tl.where(usable, left, 0.0), tl.where(usable, right, 0.0), width)
    columns = tl.maximum(right - left + TILE - 1, 0) // TILE
    tiles = columns * (tl.maximum(bottom - top + TILE - 1, 0) // TILE)
    tl.store(boxes + f * 5, left, mask=inside)
    tl.store(boxes + f * 5 + 1, top, mask=inside)
    tl.store(boxes + f * 5 + 2, right, mask=inside)
    tl.store(boxes + f * 5 + 3, bottom, mask=inside)
    tl.store(boxes + f * 5 + 4, bits, mask=inside)
    tl.store(parts + f, tl.minimum(tiles, MOST_PARTS), mask=inside)
