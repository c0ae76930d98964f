"""Compiled CPU kernels of textured z-buffers, for previews: cut-outs, and lists of fragments.

Import this file only inside a function, through `flame.raster.kernels()`: the first import
compiles (the result is kept on disk), and `import flame` must stay quick. Coverage is decided in
float64 without fused or reordered arithmetic, so that an edge shared by two triangles has exactly
opposite values in both.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the kernels' signatures, which are strings

from __future__ import annotations

import math

import numpy as np

from flame.compiled import device, kernel, shading

__all__ = ["corners", "device", "kernel", "mip_level", "sample", "shading", "z_pass"]

SMALLEST_DETERMINANT = 1e-12  # twice a triangle's area in square pixels, times its three w
SMALLEST_POSITIVE = 2.3e-308  # not denormal, which a thread may be told to take for 0


@device
def corners(points, faces, f, px, py):
    """Edge functions of face f at a pixel centre, oriented as the face is."""
    a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
    dx0, dy0 = points[a, 0] - px * points[a, 3], points[a, 1] - py * points[a, 3]
    dx1, dy1 = points[b, 0] - px * points[b, 3], points[b, 1] - py * points[b, 3]
    dx2, dy2 = points[c, 0] - px * points[c, 3], points[c, 1] - py * points[c, 3]
    return dx1 * dy2 - dx2 * dy1, dx2 * dy0 - dx0 * dy2, dx0 * dy1 - dx1 * dy0


@shading
def _texel(texels, first, height, width, x, y):
    """Bilinear fetch from one mip level at texel coordinates, clamped to the border."""
    x = min(max(x, 0.0), width - 1.0)
    y = min(max(y, 0.0), height - 1.0)
    x0, y0 = int(x), int(y)
    x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
    fx, fy = x - x0, y - y0
    a, b = first + y0 * width + x0, first + y0 * width + x1
    c, d = first + y1 * width + x0, first + y1 * width + x1
    fy, gy = fy / 65535.0, (1 - fy) / 65535.0
    wa, wb, wc, wd = (1 - fx) * gy, fx * gy, (1 - fx) * fy, fx * fy
    return (
        wa * texels[a, 0] + wb * texels[b, 0] + wc * texels[c, 0] + wd * texels[d, 0],
        wa * texels[a, 1] + wb * texels[b, 1] + wc * texels[c, 1] + wd * texels[d, 1],
        wa * texels[a, 2] + wb * texels[b, 2] + wc * texels[c, 2] + wd * texels[d, 2],
        wa * texels[a, 3] + wb * texels[b, 3] + wc * texels[c, 3] + wd * texels[d, 3],
    )


@shading
def sample(texels, levels, u, v, lod):
    """Trilinear fetch; levels holds (first texel, height, width) of each mip level."""
    if not 0.0 <= u <= 1.0:
        u -= math.floor(u)
    if not 0.0 <= v <= 1.0:
        v -= math.floor(v)
    if not (u >= 0.0 and v >= 0.0):  # NaN
        u, v = 0.0, 0.0
    top = len(levels) - 1
    lod = min(max(lod, 0.0), float(top))
    low = int(lod)
    part = lod - low
    first, height, width = levels[low, 0], levels[low, 1], levels[low, 2]
    fine = _texel(texels, first, height, width, u * width - 0.5, (1 - v) * height - 0.5)
    if part < 0.02 or low == top:
        return fine
    first, height, width = levels[low + 1, 0], levels[low + 1, 1], levels[low + 1, 2]
    rough = _texel(texels, first, height, width, u * width - 0.5, (1 - v) * height - 0.5)
    return (
        fine[0] + part * (rough[0] - fine[0]),
        fine[1] + part * (rough[1] - fine[1]),
        fine[2] + part * (rough[2] - fine[2]),
        fine[3] + part * (rough[3] - fine[3]),
    )


@shading
def mip_level(points, faces, uv, uv_faces, f, levels):
    """Mip level at which one texel of face f is about one pixel wide."""
    if len(levels) < 2:
        return 0.0
    a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
    ta, tb, tc = uv_faces[f, 0], uv_faces[f, 1], uv_faces[f, 2]
    texture = (uv[tb, 0] - uv[ta, 0]) * (uv[tc, 1] - uv[ta, 1])
    texture -= (uv[tc, 0] - uv[ta, 0]) * (uv[tb, 1] - uv[ta, 1])
    x0, y0 = points[a, 0] / points[a, 3], points[a, 1] / points[a, 3]
    screen = (points[b, 0] / points[b, 3] - x0) * (points[c, 1] / points[c, 3] - y0)
    screen -= (points[c, 0] / points[c, 3] - x0) * (points[b, 1] / points[b, 3] - y0)
    ratio = abs(texture) * levels[0, 1] * levels[0, 2] / max(abs(screen), 1e-9)
    # half a level finer than the mean footprint: faces seen at a slant would blur otherwise
    return 0.5 * math.log2(max(ratio, 1e-9)) - 0.5 if ratio < 1e12 else 0.0


@kernel(
    "i8(f8[:, ::1], i8[:, ::1], i8[::1], f8, i8, i8, i8, i8[:, ::1], f4[:, ::1],"
    " f4[:, ::1], i8[:, ::1], u2[:, ::1], i8[:, ::1], f8, i8[::1], i8[::1], f4[::1])"
)
def z_pass(
    points,
    faces,
    listed,
    near,
    cull,
    row_begin,
    row_end,
    face_id,
    depth,
    uv,
    uv_faces,
    texels,
    levels,
    cutoff,
    list_pixels,
    list_faces,
    list_depth,
):
    """Draw the listed faces into face_id and depth, rows row_begin..row_end.

    points are (x w, y w, z, w) with x, y in pixels. With cutoff > 0 fragments whose texture alpha
    is below it are dropped. With list_pixels given, fragments nearer than depth are written there
    instead (in any order) and depth stays; returns their number, which may exceed the room.
    cull is 1 to drop faces that are clockwise on the screen.
    """
    width = face_id.shape[1]
    room = len(list_pixels)
    count = 0
    for f in listed:
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        x0, y0, z0, w0 = points[a, 0], points[a, 1], points[a, 2], points[a, 3]
        x1, y1, z1, w1 = points[b, 0], points[b, 1], points[b, 2], points[b, 3]
        x2, y2, z2, w2 = points[c, 0], points[c, 1], points[c, 2], points[c, 3]
        # twice the area; w0 w1 w2 times it where the camera is a pinhole
        if w0 > 0:
            ex1, ey1 = x1 * w0 - x0 * w1, y1 * w0 - y0 * w1
            ex2, ey2 = x2 * w0 - x0 * w2, y2 * w0 - y0 * w2
            det = (ex1 * ey2 - ex2 * ey1) / w0
        else:
            det = w0 * (x1 * y2 - x2 * y1) + w1 * (x2 * y0 - x0 * y2) + w2 * (x0 * y1 - x1 * y0)
        # y points down on the screen: counter-clockwise faces have a negative determinant
        if cull == 1 and det > 0:
            continue
        if not (abs(det) > SMALLEST_DETERMINANT and abs(det) < np.inf):
            continue
        if w0 > 0 and w1 > 0 and w2 > 0:
            rx0, ry0 = x0 / w0, y0 / w0
            rx1, ry1 = x1 / w1, y1 / w1
            rx2, ry2 = x2 / w2, y2 / w2
            left, right = min(rx0, min(rx1, rx2)) - 0.5, max(rx0, max(rx1, rx2)) - 0.5
            top, bottom = min(ry0, min(ry1, ry2)) - 0.5, max(ry0, max(ry1, ry2)) - 0.5
            if not (right >= 0 and bottom >= row_begin and left < width and top < row_end):
                continue
            column_begin = math.ceil(max(left - 1e-6, 0.0))
            column_end = math.floor(min(right + 1e-6, width - 1.0)) + 1
            first_row = math.ceil(max(top - 1e-6, float(row_begin)))
            last_row = math.floor(min(bottom + 1e-6, row_end - 1.0)) + 1
            if column_begin >= column_end or first_row >= last_row:
                continue
        elif w0 > 0 or w1 > 0 or w2 > 0:
            column_begin, column_end, first_row, last_row = 0, width, row_begin, row_end
        else:
            continue
        if not (abs(z0) < np.inf and abs(z1) < np.inf and abs(z2) < np.inf):
            continue
        sign = 1.0 if det > 0 else -1.0
        # gradients of the edge functions: the top-left rule and the spans of a row
        gx0, gx1, gx2 = y1 * w2 - y2 * w1, y2 * w0 - y0 * w2, y0 * w1 - y1 * w0
        gx0, gx1, gx2 = sign * gx0, sign * gx1, sign * gx2
        gy0, gy1, gy2 = x2 * w1 - x1 * w2, x0 * w2 - x2 * w0, x1 * w0 - x0 * w1
        gy0, gy1, gy2 = sign * gy0, sign * gy1, sign * gy2
        # on an edge that keeps its pixels 0 is enough
        least0 = 0.0 if gx0 > 0 or (gx0 == 0 and gy0 > 0) else SMALLEST_POSITIVE
        least1 = 0.0 if gx1 > 0 or (gx1 == 0 and gy1 > 0) else SMALLEST_POSITIVE
        least2 = 0.0 if gx2 > 0 or (gx2 == 0 and gy2 > 0) else SMALLEST_POSITIVE
        lod = -1e9
        for row in range(first_row, last_row):
            py = row + 0.5
            dy0, dy1, dy2 = sign * (y0 - py * w0), sign * (y1 - py * w1), sign * (y2 - py * w2)
            begin, end = column_begin, column_end
            if end - begin > 16:
                px = begin + 0.5
                e0 = (x1 - px * w1) * dy2 - (x2 - px * w2) * dy1
                e1 = (x2 - px * w2) * dy0 - (x0 - px * w0) * dy2
                e2 = (x0 - px * w0) * dy1 - (x1 - px * w1) * dy0
                low, high = 0.0, float(end - begin)
                for e, g in ((e0, gx0), (e1, gx1), (e2, gx2)):
                    if g > 1e-6:
                        low = max(low, -e / g)
                    elif g < -1e-6:
                        high = min(high, -e / g)
                if not high >= low - 2:
                    continue
                # one pixel of slack on either side; the test below decides
                end = min(end, begin + int(min(high, width)) + 2)
                begin = max(begin, begin + int(min(low, width)) - 1)
            for column in range(begin, end):
                px = column + 0.5
                dx0, dx1, dx2 = x0 - px * w0, x1 - px * w1, x2 - px * w2
                e0 = dx1 * dy2 - dx2 * dy1
                e1 = dx2 * dy0 - dx0 * dy2
                e2 = dx0 * dy1 - dx1 * dy0
                z = np.float32((e0 * z0 + e1 * z1 + e2 * z2) / (e0 * w0 + e1 * w1 + e2 * w2))
                # one branch: alone, none of these is easy to predict
                inside = (e0 >= least0) & (e1 >= least1) & (e2 >= least2)
                if not (inside & (z >= near) & (z <= depth[row, column]) & (z < np.inf)):
                    continue
                if z == depth[row, column] and (room > 0 or f >= face_id[row, column]):
                    continue
                if cutoff > 0:
                    total = e0 + e1 + e2
                    l0, l1, l2 = e0 / total, e1 / total, e2 / total
                    ta, tb, tc = uv_faces[f, 0], uv_faces[f, 1], uv_faces[f, 2]
                    u = l0 * uv[ta, 0] + l1 * uv[tb, 0] + l2 * uv[tc, 0]
                    v = l0 * uv[ta, 1] + l1 * uv[tb, 1] + l2 * uv[tc, 1]
                    if lod < -1e8:
                        lod = mip_level(points, faces, uv, uv_faces, f, levels)
                    if sample(texels, levels, u, v, lod)[3] < cutoff:
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
