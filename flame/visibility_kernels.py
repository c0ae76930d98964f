"""Compiled CPU kernels of `flame.raster.rasterize`: which face each pixel sees.

Import this file only inside a function, through `flame.raster.load_kernels`: the first import
compiles (the result is kept on disk), and `import flame` must stay quick.

`visible` goes down each triangle row by row and draws from the crossing with its left edge to the
one with its right edge. A crossing depends on nothing but the edge's two ends, so that triangles
that share the edge meet without gap or overlap. `flame.raster_reference` says the same in torch
operations, in the same order and in float64, so that both find the same fragments bit for bit.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the kernels' signatures, which are strings

from __future__ import annotations

import math

import numpy as np

from assets.compiled import device, kernel

# a bound on |x| and |y| in pixels, below which a row's crossing is exact to 1e-9 of a pixel
TAME = 1e6
SMALLEST_AREA = 1e-12  # twice a triangle's area in square pixels
TINY = 1e-30  # pixels; differences of coordinates are 0 or large enough to divide by


@kernel("void(f4[:, ::1], f8, f8, f8[:, ::1])", "void(f8[:, ::1], f8, f8, f8[:, ::1])")
def homogeneous(verts, height, width, points):
    """Write (x w, y w, z, w) with x, y in pixels, from screen or clip space."""
    if verts.shape[1] == 3:
        for v in range(len(verts)):
            points[v, 0], points[v, 1], points[v, 2] = verts[v, 0], verts[v, 1], verts[v, 2]
            points[v, 3] = 1.0
        return
    across, down = width / 2, height / 2
    for v in range(len(verts)):
        w = np.float64(verts[v, 3])
        points[v, 0] = (verts[v, 0] + w) * across
        points[v, 1] = (w - verts[v, 1]) * down
        points[v, 2] = verts[v, 2]
        points[v, 3] = w


@kernel(
    "void(f8[:, :, ::1], f8, f8, f4[:, ::1])",
    "void(f8[:, :, ::1], f8, f8, f8[:, ::1])",
)
def homogeneous_backward(parts, height, width, grad_verts):
    """Sum the parts' gradients of homogeneous points, in order, into those of the vertices."""
    for v in range(len(grad_verts)):
        x = y = z = w = 0.0
        for part in range(len(parts)):
            x += parts[part, v, 0]
            y += parts[part, v, 1]
            z += parts[part, v, 2]
            w += parts[part, v, 3]
        if grad_verts.shape[1] == 3:
            grad_verts[v, 0], grad_verts[v, 1] = x, y
        else:
            x, y = x * (width / 2), y * (height / 2)
            grad_verts[v, 0], grad_verts[v, 1], grad_verts[v, 3] = x, -y, x + y + w
        grad_verts[v, 2] = z


@device
def _project(points, screen, tame):
    """Screen points with pixel centres at whole numbers; those behind the camera stay as they are.

    The last entry is 1 in front of the camera. Returns whether every point is tame.
    """
    every = True
    for v in range(len(points)):
        w = points[v, 3]
        x, y, z = points[v, 0] - 0.5 * w, points[v, 1] - 0.5 * w, points[v, 2]
        if w > 0:
            x, y, z, w = x / w, y / w, z / w, 1.0
        x = 0.0 if abs(x) < TINY else x
        y = 0.0 if abs(y) < TINY else y
        screen[v, 0], screen[v, 1], screen[v, 2], screen[v, 3] = x, y, z, w
        tame[v] = (w == 1.0) & (abs(x) <= TAME) & (abs(y) <= TAME) & (abs(z) < np.inf)
        every &= tame[v] != 0
    return every


@device
def _edge(p, q):
    """Rows begin..end that the visible part of an edge crosses, where, and whether p to q is down.

    The crossing is at x + (row - y) * slope, kept within low..high. Behind the camera an edge goes
    on for ever on the screen: its far end is a direction.
    """
    if p[3] == 1.0 and q[3] == 1.0:
        upper, lower = p, q
        if q[1] < p[1] or (q[1] == p[1] and q[0] < p[0]):
            upper, lower = q, p
        slope = (lower[0] - upper[0]) / (lower[1] - upper[1])
        # far off the screen coordinates are coarse: start from the end that is nearer
        anchor = upper
        if max(abs(p[0]), abs(p[1]), abs(q[0]), abs(q[1])) > TAME and (
            abs(lower[0]) + abs(lower[1]) < abs(upper[0]) + abs(upper[1])
        ):
            anchor = lower
        begin, end = upper[1], lower[1]
        low, high = min(p[0], q[0]), max(p[0], q[0])
        x, y, down = anchor[0], anchor[1], q[1] > p[1]
    else:
        front, behind = (p, q) if p[3] == 1.0 else (q, p)
        dx, dy = behind[0] - front[0] * behind[3], behind[1] - front[1] * behind[3]
        slope = dx / dy
        x, y = front[0], front[1]
        begin = y if dy > 0 else -np.inf
        end = y if dy < 0 else np.inf
        low = x if dx >= 0 else -np.inf
        high = x if dx <= 0 else np.inf
        down = (dy > 0) == (p[3] == 1.0)
        if dy == 0 or front[3] != 1.0:
            end = begin
    if not abs(slope) < np.inf:
        begin = end = 0.0
    return begin, end, x, y, slope, low, high, down


@device
def _draw_wild(screen, tame, faces, near, cull, top, end, face_id, depth):
    """Draw the faces that reach behind the camera or very far off the screen."""
    count, width = len(screen), face_id.shape[1]
    edges = np.empty((3, 7))
    is_left = np.empty(3, dtype=np.uint8)
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if min(a, b, c) < 0 or max(a, b, c) >= count or (tame[a] and tame[b] and tame[c]):
            continue
        total, key, anchor = 0.0, np.inf, -1
        for corner in range(3):
            v = faces[f, corner]
            total += abs(screen[v, 0]) + abs(screen[v, 1])
            total += abs(screen[v, 2]) + abs(screen[v, 3])
            this = abs(screen[v, 0]) + abs(screen[v, 1])
            if screen[v, 3] == 1.0 and this < key:
                key, anchor = this, corner
        if anchor < 0 or not total < np.inf:
            continue
        a, b, c = faces[f, anchor], faces[f, (anchor + 1) % 3], faces[f, (anchor + 2) % 3]
        x0, y0, z0 = screen[a, 0], screen[a, 1], screen[a, 2]
        wb, wc = screen[b, 3], screen[c, 3]
        dx1, dy1, dz1 = screen[b, 0] - x0 * wb, screen[b, 1] - y0 * wb, screen[b, 2] - z0 * wb
        dx2, dy2, dz2 = screen[c, 0] - x0 * wc, screen[c, 1] - y0 * wc, screen[c, 2] - z0 * wc
        area = dx1 * dy2 - dx2 * dy1
        # directions have no length, so neither has the area of a triangle that ends in one
        extent = (abs(dx1) + abs(dy1)) * (abs(dx2) + abs(dy2))
        if not (abs(area) > SMALLEST_AREA * extent and extent < np.inf):
            continue
        if cull == 1 and area > 0:
            continue
        scale = 1 / area
        zx, zy = (dz1 * dy2 - dz2 * dy1) * scale, (dz2 * dx1 - dz1 * dx2) * scale
        first, last = np.inf, -np.inf
        for k, (p, q) in enumerate(((a, b), (b, c), (c, a))):
            begin, until, x, y, slope, low, high, down = _edge(screen[p], screen[q])
            edges[k, 0], edges[k, 1], edges[k, 2], edges[k, 3] = begin, until, x, y
            edges[k, 4], edges[k, 5], edges[k, 6] = slope, low, high
            is_left[k] = down != (area > 0)
            if begin < until:
                first, last = min(first, begin), max(last, until)
        if not first < last:
            continue
        begin_row = math.ceil(min(max(first, float(top)), float(end)))
        end_row = math.ceil(min(max(last, float(top)), float(end)))
        for row in range(begin_row, end_row):
            begin, until, crossed = 0.0, float(width), False
            for k in range(3):
                if edges[k, 0] <= row and row < edges[k, 1]:
                    crossed = True
                    x = edges[k, 2] + (row - edges[k, 3]) * edges[k, 4]
                    x = min(max(x, edges[k, 5]), edges[k, 6])
                    if is_left[k]:
                        begin = max(begin, x)
                    else:
                        until = min(until, x)
            if not crossed:
                continue
            z_row = z0 + (row - y0) * zy
            for column in range(math.ceil(begin), math.ceil(until)):
                z = np.float32(z_row + (column - x0) * zx)
                now = depth[row, column]
                nearer = (z < now) | ((z == now) & (f < face_id[row, column]))
                if nearer & (z >= near) & (z < np.inf):
                    depth[row, column] = z
                    face_id[row, column] = f


@kernel("i8(f8[:, ::1], i8[:, ::1], f4, i8, i8, i8, i8[:, ::1], f4[:, ::1])")
def visible(points, faces, near, cull, top, end, face_id, depth):
    """Draw rows top..end: the nearest face (-1: none) and its depth (inf) at each pixel.

    points are (x w, y w, z, w) with x, y in pixels. Depths below near are dropped; cull is 1 to
    drop faces that are clockwise on the screen. Rows of -1 among the faces are padding. Returns
    the first face that points past the vertices, or -1.
    """
    count, width = len(points), face_id.shape[1]
    face_id[top:end] = -1
    depth[top:end] = np.inf
    screen, tame = np.empty((count, 4)), np.empty(count, dtype=np.uint8)
    every = _project(points, screen, tame)
    depths, names = depth.reshape(-1), face_id.reshape(-1)
    bad = -1
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if min(a, b, c) < 0 or max(a, b, c) >= count:
            if bad < 0 and not (a == -1 and b == -1 and c == -1):
                bad = f
            continue
        if not every and not (tame[a] and tame[b] and tame[c]):
            continue
        x0, y0, z0 = screen[a, 0], screen[a, 1], screen[a, 2]
        x1, y1, z1 = screen[b, 0], screen[b, 1], screen[b, 2]
        x2, y2, z2 = screen[c, 0], screen[c, 1], screen[c, 2]
        # rows and columns of pixel centres in the triangle's box
        first, last = math.ceil(min(y0, y1, y2)), math.ceil(max(y0, y1, y2))
        left, right = math.ceil(min(x0, x1, x2)), math.ceil(max(x0, x1, x2))
        if max(first, top) >= min(last, end) or max(left, 0) >= min(right, width):
            continue
        # y points down on the screen: counter-clockwise faces have a negative area
        if cull == 1 and (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0) > 0:
            continue
        # from top to bottom
        if y1 < y0 or (y1 == y0 and x1 < x0):
            x0, y0, z0, x1, y1, z1 = x1, y1, z1, x0, y0, z0
        if y2 < y1 or (y2 == y1 and x2 < x1):
            x1, y1, z1, x2, y2, z2 = x2, y2, z2, x1, y1, z1
        if y1 < y0 or (y1 == y0 and x1 < x0):
            x0, y0, z0, x1, y1, z1 = x1, y1, z1, x0, y0, z0
        dx1, dy1, dz1 = x1 - x0, y1 - y0, z1 - z0
        dx2, dy2, dz2 = x2 - x0, y2 - y0, z2 - z0
        area = dx1 * dy2 - dx2 * dy1
        if not abs(area) > SMALLEST_AREA:
            continue
        scale = 1 / area
        zx, zy = (dz1 * dy2 - dz2 * dy1) * scale, (dz2 * dx1 - dz1 * dx2) * scale
        middle_left = area < 0
        # the edge from top to bottom, and the two on the middle corner's side
        slope, low, high = dx2 / dy2, min(x0, x2), max(x0, x2)
        middle = math.ceil(y1)
        upper, upper_low, upper_high = dx1 / dy1, min(x0, x1), max(x0, x1)
        lower, lower_low, lower_high = (x2 - x1) / (y2 - y1), min(x1, x2), max(x1, x2)
        for row in range(max(first, top), min(last, end)):
            # choices without branches: which half a row is in is hard to predict
            above = row < middle
            xs, ys, side = x0 if above else x1, y0 if above else y1, upper if above else lower
            side_low = upper_low if above else lower_low
            side_high = upper_high if above else lower_high
            one = min(max(x0 + (row - y0) * slope, low), high)
            two = min(max(xs + (row - ys) * side, side_low), side_high)
            crossing, other = math.ceil(one), math.ceil(two)
            begin = max(other if middle_left else crossing, 0)
            until = min(crossing if middle_left else other, width)
            z_row = z0 + (row - y0) * zy
            here = np.uint64(row * width)
            # Choices without branches, for which face is nearer is hard to predict, and so is
            # whether a small triangle has a pixel in this row: the first one is always tried.
            z = np.float32(z_row + (np.float64(begin) - x0) * zx)
            at = here + np.uint64(min(begin, width - 1))
            now = depths[at]
            nearer = (begin < until) & (z < now) & (z >= near)
            depths[at] = z if nearer else now
            names[at] = f if nearer else names[at]
            for column in range(np.int32(begin + 1), np.int32(until)):
                z = np.float32(z_row + (np.float64(column) - x0) * zx)
                at = here + np.uint64(column)
                now = depths[at]
                nearer = (z < now) & (z >= near)
                depths[at] = z if nearer else now
                names[at] = f if nearer else names[at]
    if not every:
        _draw_wild(screen, tame, faces, near, cull, top, end, face_id, depth)
    return bad
