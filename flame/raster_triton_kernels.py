"""The GPU kernels that draw faces, shade pixels and take gradients back.

Import this file only through `flame.raster_triton`, whose launches say enable_fp_fusion=False for
the reason that `flame.raster_triton_setup` gives.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
# Triton reads kernels itself: their arguments are pointers and numbers that Python cannot name

from __future__ import annotations

import triton.language as tl

from flame.raster_triton_setup import corners, jit

UNSEEN = 2**63 - 1  # a key behind every depth
_UNSEEN = tl.constexpr(UNSEEN)
_SMALLEST = tl.constexpr(1e-300)  # a divisor that does not overflow


@jit
def _box(boxes, f):
    left, top = tl.load(boxes + f * 5), tl.load(boxes + f * 5 + 1)
    return left, top, tl.load(boxes + f * 5 + 2), tl.load(boxes + f * 5 + 3)


@jit
def _tile(tile, left, top, right, bottom, TILE: tl.constexpr):
    """Columns [1, TILE] and rows [TILE, 1] of one tile of a box, and which lie inside it."""
    across = (right - left + TILE - 1) // TILE
    column = left + (tile % across) * TILE + tl.arange(0, TILE)[None, :]
    row = top + (tile // across) * TILE + tl.arange(0, TILE)[:, None]
    return column, row, (column < right) & (row < bottom)


@jit
def _recorded_edge(record, stride):
    begin, end = tl.load(record), tl.load(record + stride)
    x, y = tl.load(record + 2 * stride), tl.load(record + 3 * stride)
    slope, low = tl.load(record + 4 * stride), tl.load(record + 5 * stride)
    return begin, end, x, y, slope, low, tl.load(record + 6 * stride)


@jit
def _inner_side(column, row, on_right, begin, end, x, y, slope, low, high):
    """Which pixels are on the triangle's side of an edge or in rows that it does not cross.

    The crossing depends on nothing but the edge's ends: its other triangle has the same.
    """
    crosses = (row >= begin) & (row < end)
    crossing = tl.minimum(tl.maximum(x + (row - y) * slope, low), high)
    return tl.where(on_right, column >= crossing, column < crossing) | ~crosses, crosses


@jit
def draw(
    records, boxes, parts, first, work, keys, near, total, face_count, height, width,
    TILE: tl.constexpr,
):  # fmt: skip
    """Lower each covered pixel's key to that of this face: its depth's order, then its index."""
    index = tl.program_id(0)
    f = tl.load(work + index)
    left, top, right, bottom = _box(boxes, f)
    bits = tl.load(boxes + f * 5 + 4)
    x0, y0, z0 = (
        tl.load(records + f),
        tl.load(records + total + f),
        tl.load(records + 2 * total + f),
    )
    zx, zy = tl.load(records + 3 * total + f), tl.load(records + 4 * total + f)
    edge = records + 5 * total + f
    ab, ae, ax, ay, aslope, alow, ahigh = _recorded_edge(edge, total)
    edge += 7 * total
    bb, be, bx, by, bslope, blow, bhigh = _recorded_edge(edge, total)
    edge += 7 * total
    cb, ce, cx, cy, cslope, clow, chigh = _recorded_edge(edge, total)
    tiles = ((right - left + TILE - 1) // TILE) * ((bottom - top + TILE - 1) // TILE)
    image = keys + (f // face_count) * height * width
    number = f % face_count
    for tile in range(index - tl.load(first + f), tiles, tl.load(parts + f)):
        columns, rows, inside = _tile(tile, left, top, right, bottom, TILE)
        column, row = columns.to(tl.float64), rows.to(tl.float64)
        side, a = _inner_side(column, row, bits & 1 != 0, ab, ae, ax, ay, aslope, alow, ahigh)
        inside = inside & side
        side, b = _inner_side(column, row, bits & 2 != 0, bb, be, bx, by, bslope, blow, bhigh)
        inside = inside & side
        side, c = _inner_side(column, row, bits & 4 != 0, cb, ce, cx, cy, cslope, clow, chigh)
        inside = inside & side & (a | b | c)
        depth = ((z0 + (row - y0) * zy) + (column - x0) * zx).to(tl.float32)
        inside = inside & (depth >= near) & (depth < float("inf"))
        depth = tl.where(depth == 0, 0.0, depth)  # -0 and 0 are equally deep
        # a float's bits order as an integer's once those of negative numbers are turned round
        order = depth.to(tl.int32, bitcast=True)
        order = order ^ ((order >> 31) & 0x7FFFFFFF)
        key = (order.to(tl.int64) << 32) | number
        pixel = image + rows.to(tl.int64) * width + columns
        # most hidden fragments are told by a plain read, which costs less than an atomic
        inside = inside & (key < tl.load(pixel, mask=inside, other=0))
        tl.atomic_min(pixel, key, mask=inside, sem="relaxed")


@jit
def _edge_functions(px, py, x0, y0, w0, x1, y1, w1, x2, y2, w2):
    """Vectors from the pixel centres (px, py) to the corners; per corner the opposite edge's share.

    The shares are the edge functions of Olano and Greer (1997), which need no division.
    """
    dx0, dy0 = x0 - px * w0, y0 - py * w0
    dx1, dy1 = x1 - px * w1, y1 - py * w1
    dx2, dy2 = x2 - px * w2, y2 - py * w2
    e0, e1, e2 = dx1 * dy2 - dx2 * dy1, dx2 * dy0 - dx0 * dy2, dx0 * dy1 - dx1 * dy0
    return dx0, dy0, dx1, dy1, dx2, dy2, e0, e1, e2


@jit
def resolve(
    points, faces, keys, bary, depth, seen, batch_faces, face_count, vert_count,
    width, pixels_each, total, PIXELS: tl.constexpr,
):  # fmt: skip
    """Keys become face ids in place; barycentrics and depth of each pixel; faces that are seen."""
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < total
    key = tl.load(keys + pixel, mask=inside, other=_UNSEEN)
    covered = inside & (key != _UNSEEN)
    number = key & 0xFFFFFFFF
    tl.store(keys + pixel, tl.where(covered, number, -1), mask=inside)
    f = tl.where(covered, (pixel // pixels_each) * face_count + number, 0)
    tl.store(seen + f, 1, mask=covered)
    x0, y0, z0, w0, x1, y1, z1, w1, x2, y2, z2, w2, _usable = corners(
        points, faces, f, batch_faces, face_count, vert_count, covered
    )
    place = pixel % pixels_each
    px, py = (place % width).to(tl.float64) + 0.5, (place // width).to(tl.float64) + 0.5
    _dx0, _dy0, _dx1, _dy1, _dx2, _dy2, e0, e1, e2 = _edge_functions(
        px, py, x0, y0, w0, x1, y1, w1, x2, y2, w2
    )
    det = tl.where(covered, e0 * w0 + e1 * w1 + e2 * w2, 1.0)
    deep = (e0 * z0 + e1 * z1 + e2 * z2) / det
    # a pixel on an edge may come out a rounding error beyond it
    sign = tl.where(det > 0, 1.0, -1.0)
    e0, e1, e2 = tl.maximum(sign * e0, 0.0), tl.maximum(sign * e1, 0.0), tl.maximum(sign * e2, 0.0)
    tiny = tl.full(e0.shape, _SMALLEST, tl.float64)
    whole = tl.where(covered, tl.maximum(e0 + e1 + e2, tiny), 1.0)
    tl.store(bary + pixel * 3, tl.where(covered, e0 / whole, 0.0), mask=inside)
    tl.store(bary + pixel * 3 + 1, tl.where(covered, e1 / whole, 0.0), mask=inside)
    tl.store(bary + pixel * 3 + 2, tl.where(covered, e2 / whole, 0.0), mask=inside)
    tl.store(depth + pixel, tl.where(covered, deep, float("inf")), mask=inside)


@jit
def _part(row, corner: tl.constexpr, x, y, z, w):
    tl.store(row + corner * 4, tl.sum(x))
    tl.store(row + corner * 4 + 1, tl.sum(y))
    tl.store(row + corner * 4 + 2, tl.sum(z))
    tl.store(row + corner * 4 + 3, tl.sum(w))


@jit
def backward(
    points, faces, boxes, parts, first, work, face_id, grad_bary, grad_depth, sums,
    batch_faces, face_count, vert_count, height, width, TILE: tl.constexpr,
):  # fmt: skip
    """Gradients of a face's three corners [3, 4], summed over one program's part of its box."""
    index = tl.program_id(0)
    f = tl.load(work + index)
    left, top, right, bottom = _box(boxes, f)
    x0, y0, z0, w0, x1, y1, z1, w1, x2, y2, z2, w2, _usable = corners(
        points, faces, f, batch_faces, face_count, vert_count, f >= 0
    )
    tiles = ((right - left + TILE - 1) // TILE) * ((bottom - top + TILE - 1) // TILE)
    image = (f // face_count) * height * width
    number = f % face_count
    none = tl.zeros((TILE, TILE), tl.float64)
    gx0, gy0, gz0, gw0 = none, none, none, none
    gx1, gy1, gz1, gw1 = none, none, none, none
    gx2, gy2, gz2, gw2 = none, none, none, none
    for tile in range(index - tl.load(first + f), tiles, tl.load(parts + f)):
        column, row, inside = _tile(tile, left, top, right, bottom, TILE)
        pixel = image + row.to(tl.int64) * width + column
        own = inside & (tl.load(face_id + pixel, mask=inside, other=-1) == number)
        px, py = column.to(tl.float64) + 0.5, row.to(tl.float64) + 0.5
        dx0, dy0, dx1, dy1, dx2, dy2, e0, e1, e2 = _edge_functions(
            px, py, x0, y0, w0, x1, y1, w1, x2, y2, w2
        )
        sum_e = tl.where(own, e0 + e1 + e2, 1.0)
        sum_w = tl.where(own, e0 * w0 + e1 * w1 + e2 * w2, 1.0)
        z = (e0 * z0 + e1 * z1 + e2 * z2) / sum_w
        g0 = tl.load(grad_bary + pixel * 3, mask=own, other=0.0).to(tl.float64)
        g1 = tl.load(grad_bary + pixel * 3 + 1, mask=own, other=0.0).to(tl.float64)
        g2 = tl.load(grad_bary + pixel * 3 + 2, mask=own, other=0.0).to(tl.float64)
        slope = tl.load(grad_depth + pixel, mask=own, other=0.0).to(tl.float64) / sum_w
        mean = (g0 * e0 + g1 * e1 + g2 * e2) / sum_e
        # gradients of the three edge functions, then of the corners they are made of
        h0 = (g0 - mean) / sum_e + slope * (z0 - z * w0)
        h1 = (g1 - mean) / sum_e + slope * (z1 - z * w1)
        h2 = (g2 - mean) / sum_e + slope * (z2 - z * w2)
        ax, ay = h2 * dy1 - h1 * dy2, h1 * dx2 - h2 * dx1
        bx, by = h0 * dy2 - h2 * dy0, h2 * dx0 - h0 * dx2
        cx, cy = h1 * dy0 - h0 * dy1, h0 * dx1 - h1 * dx0
        gx0, gy0 = gx0 + tl.where(own, ax, 0.0), gy0 + tl.where(own, ay, 0.0)
        gx1, gy1 = gx1 + tl.where(own, bx, 0.0), gy1 + tl.where(own, by, 0.0)
        gx2, gy2 = gx2 + tl.where(own, cx, 0.0), gy2 + tl.where(own, cy, 0.0)
        gz0 += tl.where(own, slope * e0, 0.0)
        gz1 += tl.where(own, slope * e1, 0.0)
        gz2 += tl.where(own, slope * e2, 0.0)
        gw0 -= tl.where(own, px * ax + py * ay + slope * e0 * z, 0.0)
        gw1 -= tl.where(own, px * bx + py * by + slope * e1 * z, 0.0)
        gw2 -= tl.where(own, px * cx + py * cy + slope * e2 * z, 0.0)
    out = sums + index.to(tl.int64) * 12
    _part(out, 0, gx0, gy0, gz0, gw0)
    _part(out, 1, gx1, gy1, gz1, gw1)
    _part(out, 2, gx2, gy2, gz2, gw2)
