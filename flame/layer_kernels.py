"""Compiled CPU kernels of the preview renderer: which face of a textured surface each pixel sees.

Import this file only inside a function, through `flame.render_surface.kernels()`, for the reason
that `assets.compiled` gives. Unlike `flame.raster`, which fitting stands on, these cut holes where
a texture is transparent and can list what lies before the nearest face.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the kernels' signatures, which are strings

from __future__ import annotations

import math

import numpy as np

from assets.compiled import device, kernel, shading

SMALLEST_AREA = 1e-9  # twice a triangle's area in square pixels, times its three w
_SMALLEST_POSITIVE = 2.3e-308  # not denormal, which a thread may be told to take for 0
_WHITE = np.float32(1 / 65535)
_NEXT_LEVEL = np.float32(0.02)  # how far on the next mip level is not worth a look


@kernel("void(f8[:, ::1], f4[:, ::1])")
def project(points, screen):
    """Write x, y in pixels and 1 where the vertex lies before the camera, else 0."""
    for v in range(len(points)):
        w = points[v, 3]
        screen[v, 0] = screen[v, 1] = screen[v, 2] = 0
        if w > 0:
            screen[v, 0], screen[v, 1], screen[v, 2] = points[v, 0] / w, points[v, 1] / w, 1


@shading
def place(u, v, level, levels):
    """Where bilinear sampling looks on a mip level: four texels and the two shares."""
    first, height, width = levels[level, 0], levels[level, 1], levels[level, 2]
    half, one = np.float32(0.5), np.float32(1)
    x = min(max(u * np.float32(width) - half, np.float32(0)), np.float32(width) - one)
    y = min(max((one - v) * np.float32(height) - half, np.float32(0)), np.float32(height) - one)
    x0, y0 = int(x), int(y)
    right = 1 if x0 + 1 < width else 0
    down = width if y0 + 1 < height else 0
    a = first + y0 * width + x0
    # unsigned, since indices that may be negative take a look at their sign each time
    return (
        np.uint64(a), np.uint64(a + right), np.uint64(a + down), np.uint64(a + down + right),
        x - np.float32(x0), y - np.float32(y0),
    )  # fmt: skip


@shading
def wrapped(u):
    """A texture coordinate brought into 0..1 by whole repeats; NaN becomes 0."""
    if not np.float32(0) <= u <= np.float32(1):
        u -= np.float32(math.floor(u))
        if not u >= np.float32(0):
            u = np.float32(0)
    return u


@shading
def _alpha(alpha, levels, u, v, level):
    a, b, c, d, fx, fy = place(u, v, level, levels)
    above, below = np.float32(alpha[a]), np.float32(alpha[c])
    above += fx * (np.float32(alpha[b]) - above)
    below += fx * (np.float32(alpha[d]) - below)
    return (above + fy * (below - above)) * _WHITE


@shading
def alpha_at(alpha, levels, u, v, lod):
    """Trilinear fetch of one channel; levels holds (first texel, height, width) of each level."""
    u, v = wrapped(np.float32(u)), wrapped(np.float32(v))
    top = len(levels) - 1
    lod = min(max(lod, 0.0), float(top))
    low = int(lod)
    part = np.float32(lod - low)
    fine = _alpha(alpha, levels, u, v, low)
    if part < _NEXT_LEVEL or low == top:
        return fine
    return fine + part * (_alpha(alpha, levels, u, v, low + 1) - fine)


@shading
def mip_level(screen, a, b, c, uv, ta, tb, tc, levels):
    """Mip level at which one texel of a face is about one pixel wide."""
    if len(levels) < 2:
        return 0.0
    texture = (uv[tb, 0] - uv[ta, 0]) * (uv[tc, 1] - uv[ta, 1])
    texture -= (uv[tc, 0] - uv[ta, 0]) * (uv[tb, 1] - uv[ta, 1])
    x0, y0 = screen[a, 0], screen[a, 1]
    area = (screen[b, 0] - x0) * (screen[c, 1] - y0) - (screen[c, 0] - x0) * (screen[b, 1] - y0)
    ratio = abs(float(texture)) * levels[0, 1] * levels[0, 2] / max(abs(float(area)), 1e-9)
    # half a level finer than the mean footprint: faces seen at a slant would blur otherwise
    return 0.5 * math.log2(max(ratio, 1e-9)) - 0.5 if ratio < 1e12 else 0.0


@device
def edges(points, a, b, c):
    """Three edge functions, each as slope in x, slope in y and value at the origin.

    The three slopes and the value of an edge change sign, and nothing else, with its direction: so
    two triangles agree on which pixels lie on which side of the edge they share.
    """
    x0, y0, w0 = points[a, 0], points[a, 1], points[a, 3]
    x1, y1, w1 = points[b, 0], points[b, 1], points[b, 3]
    x2, y2, w2 = points[c, 0], points[c, 1], points[c, 3]
    return (
        y1 * w2 - y2 * w1, x2 * w1 - x1 * w2, x1 * y2 - x2 * y1,
        y2 * w0 - y0 * w2, x0 * w2 - x2 * w0, x2 * y0 - x0 * y2,
        y0 * w1 - y1 * w0, x1 * w0 - x0 * w1, x0 * y1 - x1 * y0,
    )  # fmt: skip


@device
def _determinant(points, a, b, c):
    """Twice a triangle's area on the screen times its three w; negative where counter-clockwise."""
    x0, y0, w0 = points[a, 0], points[a, 1], points[a, 3]
    x1, y1, w1 = points[b, 0], points[b, 1], points[b, 3]
    x2, y2, w2 = points[c, 0], points[c, 1], points[c, 3]
    if w0 > 0:
        along = (x1 * w0 - x0 * w1) * (y2 * w0 - y0 * w2)
        return (along - (x2 * w0 - x0 * w2) * (y1 * w0 - y0 * w1)) / w0
    return w0 * (x1 * y2 - x2 * y1) + w1 * (x2 * y0 - x0 * y2) + w2 * (x0 * y1 - x1 * y0)


@kernel(
    "i8(f8[:, ::1], f4[:, ::1], i4[:, ::1], i8[::1], f8, i8, i4[:, ::1], f4[:, ::1],"
    " f4[:, ::1], i4[:, ::1], u2[::1], i8[:, ::1], f8, i4[::1], i4[::1], f4[::1])"
)
def draw_layer(
    points,
    screen,
    faces,
    listed,
    near,
    cull,
    face_id,
    depth,
    uv,
    uv_faces,
    alpha,
    levels,
    cutoff,
    list_pixels,
    list_faces,
    list_depth,
):
    """Draw the listed faces into face_id and depth; equal depths go to the lower face.

    points are (x w, y w, z, w) with x, y in pixels, screen is what `project` made of them. With
    cutoff > 0 fragments whose texture alpha is below it are dropped. With list_pixels given,
    fragments nearer than depth are written there instead (in any order) and depth stays; returns
    their number, which may exceed the room. cull is 1 to drop faces that are clockwise on the
    screen.
    """
    height, width = face_id.shape
    room = len(list_pixels)
    count = 0
    for f in listed:
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ahead = screen[a, 2] + screen[b, 2] + screen[c, 2]
        if ahead == 3:
            x0, x1, x2 = screen[a, 0], screen[b, 0], screen[c, 0]
            y0, y1, y2 = screen[a, 1], screen[b, 1], screen[c, 1]
            left, right = min(x0, min(x1, x2)), max(x0, max(x1, x2))
            top, bottom = min(y0, min(y1, y2)), max(y0, max(y1, y2))
            if not (right >= 0.25 and bottom >= 0.25 and left < width and top < height):
                continue
            # rounding to float32 moves a vertex by less than this
            slack = 2e-7 * max(width, height)
            first, last = math.ceil(max(left - 0.5 - slack, 0.0)), min(right - 0.5, width - 1.0)
            first_row, bottom = (
                math.ceil(max(top - 0.5 - slack, 0.0)),
                min(bottom - 0.5, height - 1.0),
            )
            end, end_row = math.floor(last + slack) + 1, math.floor(bottom + slack) + 1
            end, end_row = min(end, width), min(end_row, height)
            if first >= end or first_row >= end_row:
                continue
        elif ahead > 0:
            first, end, first_row, end_row = 0, width, 0, height
        else:
            continue
        det = _determinant(points, a, b, c)
        # y points down on the screen: counter-clockwise faces have a negative determinant
        if cull == 1 and det > 0:
            continue
        z0, z1, z2 = points[a, 2], points[b, 2], points[c, 2]
        if not (abs(det) > SMALLEST_AREA and abs(det) + abs(z0) + abs(z1) + abs(z2) < np.inf):
            continue
        gx0, gy0, v0, gx1, gy1, v1, gx2, gy2, v2 = edges(points, a, b, c)
        if det < 0:
            gx0, gy0, v0, gx1, gy1, v1 = -gx0, -gy0, -v0, -gx1, -gy1, -v1
            gx2, gy2, v2 = -gx2, -gy2, -v2
        # on an edge that keeps its pixels 0 is enough
        least0 = 0.0 if gx0 > 0 or (gx0 == 0 and gy0 > 0) else _SMALLEST_POSITIVE
        least1 = 0.0 if gx1 > 0 or (gx1 == 0 and gy1 > 0) else _SMALLEST_POSITIVE
        least2 = 0.0 if gx2 > 0 or (gx2 == 0 and gy2 > 0) else _SMALLEST_POSITIVE
        # the sum of the edge functions times w is the same everywhere, so depth is affine
        scale = 1.0 / abs(det)
        z0, z1, z2 = z0 * scale, z1 * scale, z2 * scale
        lod = -1e9
        # an edge that lies flat, or almost, bounds no row
        wide = end - first > 4 and min(abs(gx0), min(abs(gx1), abs(gx2))) > 1e-9
        r0, r1, r2 = -1 / gx0, -1 / gx1, -1 / gx2
        for row in range(first_row, end_row):
            py = row + 0.5
            s0, s1, s2 = v0 + gy0 * py, v1 + gy1 * py, v2 + gy2 * py
            begin, stop = first, end
            if wide:
                # where the row crosses the edges: those with the face on their right, and others
                low, high = 0.0, float(width)
                if gx0 > 0:
                    low = max(low, s0 * r0)
                else:
                    high = min(high, s0 * r0)
                if gx1 > 0:
                    low = max(low, s1 * r1)
                else:
                    high = min(high, s1 * r1)
                if gx2 > 0:
                    low = max(low, s2 * r2)
                else:
                    high = min(high, s2 * r2)
                # one pixel of slack on either side; the test below decides
                if not high >= low - 2:
                    continue
                begin = max(begin, int(min(low, float(width))) - 1)
                stop = min(stop, int(max(high, 0.0)) + 2)
            for column in range(begin, stop):
                px = column + 0.5
                e0, e1, e2 = s0 + gx0 * px, s1 + gx1 * px, s2 + gx2 * px
                # one branch: alone, none of these is easy to predict
                if not ((e0 >= least0) & (e1 >= least1) & (e2 >= least2)):
                    continue
                z = np.float32(e0 * z0 + e1 * z1 + e2 * z2)
                nearest = depth[row, column]
                if not ((z >= near) & (z <= nearest) & (z < np.inf)):
                    continue
                if z == nearest and (room > 0 or f >= face_id[row, column]):
                    continue
                if cutoff > 0:
                    ta, tb, tc = uv_faces[f, 0], uv_faces[f, 1], uv_faces[f, 2]
                    if lod < -1e8:
                        lod = mip_level(screen, a, b, c, uv, ta, tb, tc, levels)
                    total = 1 / (e0 + e1 + e2)
                    l0, l1, l2 = e0 * total, e1 * total, e2 * total
                    u = l0 * uv[ta, 0] + l1 * uv[tb, 0] + l2 * uv[tc, 0]
                    v = l0 * uv[ta, 1] + l1 * uv[tb, 1] + l2 * uv[tc, 1]
                    if alpha_at(alpha, levels, u, v, lod) < cutoff:
                        continue
                if room > 0:
                    if count < room:
                        list_pixels[count] = row * width + column
                        list_faces[count] = f
                        list_depth[count] = z
                    count += 1
                else:
                    depth[row, column] = z
                    face_id[row, column] = f
    return count


@kernel("void(i4[:, ::1], i8[::1], i8[::1], i4[::1], i4[::1])")
def group_pixels(face_id, rank, ends, pixels, faces):
    """List covered pixels and their faces in the order of the faces' ranks.

    ends comes as zeros, one more than there are faces; ends[r] is where rank r ends afterwards.
    """
    height, width = face_id.shape
    for row in range(height):
        for column in range(width):
            f = face_id[row, column]
            if f >= 0:
                ends[rank[f] + 1] += 1
    for r in range(1, len(ends)):
        ends[r] += ends[r - 1]
    for row in range(height):
        for column in range(width):
            f = face_id[row, column]
            if f >= 0:
                at = ends[rank[f]]
                ends[rank[f]] += 1
                pixels[at], faces[at] = row * width + column, f


@kernel("void(f4[:, ::1], i8, f4[:, ::1], f4[:, ::1], f4[:, ::1])")
def window_range(depth, reach, spare, least, most):
    """Least and most depth of the reach x reach texels from each on; beyond the map unknown."""
    height, width = depth.shape
    for pick in range(2):
        out = least if pick == 0 else most
        for row in range(height):
            for column in range(width - reach + 1):
                value = depth[row, column]
                for k in range(1, reach):
                    other = depth[row, column + k]
                    value = min(value, other) if pick == 0 else max(value, other)
                spare[row, column] = value
        for row in range(height - reach + 1):
            for column in range(width - reach + 1):
                value = spare[row, column]
                for k in range(1, reach):
                    other = spare[row + k, column]
                    value = min(value, other) if pick == 0 else max(value, other)
                out[row, column] = value
