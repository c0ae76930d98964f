"""Compiled CPU kernels of the rasterizer and of the preview renderer.

Import this file only inside a function, through `flame.raster.kernels()`: the first import
compiles (the result is kept on disk), and `import flame` must stay quick. Coverage is decided in
float64 without fused or reordered arithmetic, so that an edge shared by two triangles has exactly
opposite values in both, and so that the torch reference finds the same fragments.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the kernels' signatures, which are strings

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np

_F = TypeVar("_F", bound=Callable[..., object])

SMALLEST_DETERMINANT = 1e-12  # twice a triangle's area in square pixels, times its three w


def _kernel(*signatures: str, fast: bool = False) -> Callable[[_F], _F]:
    return lambda function: _compile(function, list(signatures), fast)


def _device(function: _F) -> _F:
    return _compile(function, None, fast=False)


def _shading(function: _F) -> _F:
    return _compile(function, None, fast=True)


def _compile(function: _F, signatures: list[str] | None, fast: bool) -> _F:
    # numba must see the bare function, also where an import hook wrapped it to check shapes
    compiled = numba.jit(
        signatures,
        nopython=True,
        nogil=True,
        cache=signatures is not None,
        error_model="numpy",
        # shading may fuse and reorder, coverage may not; NaN and infinity keep their meaning
        fastmath={"contract", "arcp", "nsz", "reassoc", "afn"} if fast else False,
    )(inspect.unwrap(function))
    return cast(_F, compiled)


@_device
def _corners(points, faces, f, px, py):
    """Edge functions of face f at a pixel centre, oriented as the face is."""
    a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
    dx0, dy0 = points[a, 0] - px * points[a, 3], points[a, 1] - py * points[a, 3]
    dx1, dy1 = points[b, 0] - px * points[b, 3], points[b, 1] - py * points[b, 3]
    dx2, dy2 = points[c, 0] - px * points[c, 3], points[c, 1] - py * points[c, 3]
    return dx1 * dy2 - dx2 * dy1, dx2 * dy0 - dx0 * dy2, dx0 * dy1 - dx1 * dy0


@_shading
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


@_shading
def _sample(texels, levels, u, v, lod):
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


@_shading
def _level(points, faces, uv, uv_faces, f, levels):
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


@_kernel(
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
        keep0 = gx0 > 0 or (gx0 == 0 and gy0 > 0)
        keep1 = gx1 > 0 or (gx1 == 0 and gy1 > 0)
        keep2 = gx2 > 0 or (gx2 == 0 and gy2 > 0)
        lod = -1e9
        for row in range(first_row, last_row):
            py = row + 0.5
            dy0, dy1, dy2 = sign * (y0 - py * w0), sign * (y1 - py * w1), sign * (y2 - py * w2)
            begin, end = column_begin, column_end
            if end - begin > 6:
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
                if not (e0 >= 0 and e1 >= 0 and e2 >= 0):
                    continue
                if (e0 == 0 and not keep0) or (e1 == 0 and not keep1) or (e2 == 0 and not keep2):
                    continue
                z = (e0 * z0 + e1 * z1 + e2 * z2) / (e0 * w0 + e1 * w1 + e2 * w2)
                z = np.float32(z)
                if not (z >= near and z <= depth[row, column] and z < np.inf):
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
                        lod = _level(points, faces, uv, uv_faces, f, levels)
                    if _sample(texels, levels, u, v, lod)[3] < cutoff:
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


_BARYCENTRICS = "void(f8[:, ::1], i8[:, ::1], i8[:, ::1], {0}[:, :, ::1], {0}[:, ::1])"


@_kernel(_BARYCENTRICS.format("f4"), _BARYCENTRICS.format("f8"))
def barycentrics(points, faces, face_id, bary, depth):
    """Perspective-correct barycentrics and depth at each pixel; 0 and inf in the background."""
    for row in range(face_id.shape[0]):
        for column in range(face_id.shape[1]):
            f = face_id[row, column]
            if f < 0:
                bary[row, column, 0] = bary[row, column, 1] = bary[row, column, 2] = 0
                depth[row, column] = np.inf
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            e0, e1, e2 = _corners(points, faces, f, column + 0.5, row + 0.5)
            total = e0 + e1 + e2
            det = e0 * points[a, 3] + e1 * points[b, 3] + e2 * points[c, 3]
            bary[row, column, 0] = e0 / total
            bary[row, column, 1] = e1 / total
            bary[row, column, 2] = e2 / total
            z = e0 * points[a, 2] + e1 * points[b, 2] + e2 * points[c, 2]
            depth[row, column] = z / det


_FRAGMENTS_BACKWARD = (
    "void(f8[:, ::1], i8[:, ::1], i8[:, ::1], {0}[:, :, ::1], {0}[:, ::1], f8[:, ::1])"
)


@_kernel(_FRAGMENTS_BACKWARD.format("f4"), _FRAGMENTS_BACKWARD.format("f8"))
def fragments_backward(points, faces, face_id, grad_bary, grad_depth, grad_points):
    """Add the gradients of barycentrics and depth to those of the faces' three points.

    Pixels are visited in order by one thread, so sums repeat bit for bit.
    """
    for row in range(face_id.shape[0]):
        for column in range(face_id.shape[1]):
            f = face_id[row, column]
            if f < 0:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            px, py = column + 0.5, row + 0.5
            w0, w1, w2 = points[a, 3], points[b, 3], points[c, 3]
            dx0, dy0 = points[a, 0] - px * w0, points[a, 1] - py * w0
            dx1, dy1 = points[b, 0] - px * w1, points[b, 1] - py * w1
            dx2, dy2 = points[c, 0] - px * w2, points[c, 1] - py * w2
            e0, e1, e2 = dx1 * dy2 - dx2 * dy1, dx2 * dy0 - dx0 * dy2, dx0 * dy1 - dx1 * dy0
            total = e0 + e1 + e2
            det = e0 * w0 + e1 * w1 + e2 * w2
            z = (e0 * points[a, 2] + e1 * points[b, 2] + e2 * points[c, 2]) / det
            g0, g1, g2 = (
                grad_bary[row, column, 0],
                grad_bary[row, column, 1],
                grad_bary[row, column, 2],
            )
            mean = (g0 * e0 + g1 * e1 + g2 * e2) / total
            slope = grad_depth[row, column] / det
            h0 = (g0 - mean) / total + slope * (points[a, 2] - z * w0)
            h1 = (g1 - mean) / total + slope * (points[b, 2] - z * w1)
            h2 = (g2 - mean) / total + slope * (points[c, 2] - z * w2)
            for corner, e, gx, gy in (
                (a, e0, h2 * dy1 - h1 * dy2, h1 * dx2 - h2 * dx1),
                (b, e1, h0 * dy2 - h2 * dy0, h2 * dx0 - h0 * dx2),
                (c, e2, h1 * dy0 - h0 * dy1, h0 * dx1 - h1 * dx0),
            ):
                grad_points[corner, 0] += gx
                grad_points[corner, 1] += gy
                grad_points[corner, 2] += slope * e
                grad_points[corner, 3] -= px * gx + py * gy + slope * e * z


_INTERPOLATE = "void({0}[:, ::1], i8[:, ::1], i8[:, ::1], {0}[:, :, ::1], {0}[:, :, ::1])"


@_kernel(_INTERPOLATE.format("f4"), _INTERPOLATE.format("f8"))
def interpolate(attributes, faces, face_id, bary, out):
    """Weighted means of the corners' attributes, zero in the background."""
    for row in range(face_id.shape[0]):
        for column in range(face_id.shape[1]):
            f = face_id[row, column]
            if f < 0:
                out[row, column, :] = 0
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            l0, l1, l2 = bary[row, column, 0], bary[row, column, 1], bary[row, column, 2]
            for k in range(attributes.shape[1]):
                out[row, column, k] = (
                    l0 * attributes[a, k] + l1 * attributes[b, k] + l2 * attributes[c, k]
                )


_INTERPOLATE_BACKWARD = (
    "void({0}[:, ::1], i8[:, ::1], i8[:, ::1], {0}[:, :, ::1], {0}[:, :, ::1],"
    " {0}[:, ::1], {0}[:, :, ::1])"
)


@_kernel(_INTERPOLATE_BACKWARD.format("f4"), _INTERPOLATE_BACKWARD.format("f8"))
def interpolate_backward(attributes, faces, face_id, bary, grad_out, grad_attributes, grad_bary):
    """Add the gradients of interpolated attributes to the corners' and to the barycentrics'."""
    for row in range(face_id.shape[0]):
        for column in range(face_id.shape[1]):
            f = face_id[row, column]
            if f < 0:
                continue
            for corner in range(3):
                vertex, weight = faces[f, corner], bary[row, column, corner]
                total = grad_out[row, column, 0] * 0
                for k in range(attributes.shape[1]):
                    total += grad_out[row, column, k] * attributes[vertex, k]
                    grad_attributes[vertex, k] += grad_out[row, column, k] * weight
                grad_bary[row, column, corner] = total


@_kernel("void(f4[:, :, ::1], f4[::1], u2[:, ::1], i8[:, ::1])")
def pack_texture(image, linear, texels, levels):
    """Write an image 0..1 as linear 16-bit texels with its mip levels.

    linear is a table from 0..1 to linear light for the first three channels (empty: keep them).
    """
    channels, height, width = image.shape
    last = len(linear) - 1
    for row in range(height):
        for column in range(width):
            texel = row * width + column
            texels[texel, 3] = 65535
            for k in range(4):
                if k < channels:
                    value = min(max(image[k, row, column], 0.0), 1.0)
                elif k < 3:
                    value = min(max(image[0, row, column], 0.0), 1.0)
                else:
                    value = 1.0
                if k < 3 and last > 0:
                    value = linear[int(value * last + 0.5)]
                texels[texel, k] = int(value * 65535.0 + 0.5)
    for level in range(1, len(levels)):
        before, above = levels[level - 1, 0], levels[level - 1, 2]
        first, height, width = levels[level, 0], levels[level, 1], levels[level, 2]
        tall, wide = levels[level - 1, 1], levels[level - 1, 2]
        for row in range(height):
            for column in range(width):
                a = before + min(2 * row, tall - 1) * above
                b = before + min(2 * row + 1, tall - 1) * above
                c, d = min(2 * column, wide - 1), min(2 * column + 1, wide - 1)
                four = (a + c, a + d, b + c, b + d)
                # colours weigh by alpha, so that what is behind a cut-out does not bleed in
                weight, red, green, blue = 0.0, 0.0, 0.0, 0.0
                for source in four:
                    alpha = float(texels[source, 3])
                    weight += alpha
                    red += (alpha + 1.0) * texels[source, 0]
                    green += (alpha + 1.0) * texels[source, 1]
                    blue += (alpha + 1.0) * texels[source, 2]
                texel = first + row * width + column
                texels[texel, 0] = int(red / (weight + 4.0) + 0.5)
                texels[texel, 1] = int(green / (weight + 4.0) + 0.5)
                texels[texel, 2] = int(blue / (weight + 4.0) + 0.5)
                texels[texel, 3] = int(weight / 4.0 + 0.5)


@_shading
def _sh(ambient, channel, x, y, z):
    """Ambient light from a normal; ambient holds the coefficients times SH_CONSTANTS."""
    return (
        ambient[0, channel]
        + ambient[1, channel] * x
        + ambient[2, channel] * y
        + ambient[3, channel] * z
        + ambient[4, channel] * x * y
        + ambient[5, channel] * x * z
        + ambient[6, channel] * y * z
        + ambient[7, channel] * (x * x - y * y)
        + ambient[8, channel] * (3 * z * z - 1)
    )


@_shading
def _wrapped(nl, wrap):
    """Diffuse light around the terminator: squared, so that it meets the dark without an edge."""
    soft = max((nl + wrap) / (1 + wrap), 0.0)
    return 0.5 * (soft * soft * (1 + wrap) + max(nl, 0.0) * (1 - wrap))


@_shading
def _lit(shadow_map, to_shadow, x, y, z, reach):
    """Share of the key light that reaches a point: the mean over `reach` texels, box-filtered."""
    side = shadow_map.shape[0]
    px = to_shadow[0, 0] * x + to_shadow[0, 1] * y + to_shadow[0, 2] * z + to_shadow[0, 3]
    py = to_shadow[1, 0] * x + to_shadow[1, 1] * y + to_shadow[1, 2] * z + to_shadow[1, 3]
    pz = to_shadow[2, 0] * x + to_shadow[2, 1] * y + to_shadow[2, 2] * z + to_shadow[2, 3]
    px, py = px - 0.5 * (reach + 1), py - 0.5 * (reach + 1)
    if not (px >= 0 and py >= 0 and px < side - reach - 1 and py < side - reach - 1):
        return 1.0
    column, row = int(px), int(py)
    fx, fy = px - column, py - row
    total = 0.0
    for j in range(reach + 1):
        line = 0.0
        for i in range(reach + 1):
            if shadow_map[row + j, column + i] >= pz:
                line += 1 - fx if i == 0 else (fx if i == reach else 1.0)
        total += line * (1 - fy if j == 0 else (fy if j == reach else 1.0))
    return total / (reach * reach)


@_kernel(
    "void(i8[::1], i8[::1], i8, f8[:, ::1], f4[:, ::1], f4[:, ::1], f4[::1], i8[:, ::1],"
    " f4[:, ::1], i8[:, ::1], u2[:, ::1], i8[:, ::1], u2[:, ::1], i8[:, ::1], f8[::1], f8[::1],"
    " f8[:, ::1], f8[:, ::1], f8[:, ::1], f4[:, ::1], f8[:, ::1], f4[:, ::1])",
    fast=True,
)
def shade_fragments(
    pixels,
    face_ids,
    width,
    points,
    verts,
    normals,
    occlusion,
    faces,
    uv,
    uv_faces,
    base,
    base_levels,
    surface,
    surface_levels,
    look,
    eye,
    ambient,
    directions,
    colours,
    shadow_map,
    to_shadow,
    out,
):
    """Linear colour and alpha of fragments (pixel, face) of one material.

    look is (roughness, reflectance at normal incidence, wrap r, g, b, has a surface texture,
    is made of strands). surface holds tangent-space normals and, as alpha, roughness. An empty
    shadow_map means no shadows.
    """
    last, lod, detail_lod = -1, 0.0, 0.0
    # one and a half texels of the shadow map, metres
    steps = to_shadow[0, 0] ** 2 + to_shadow[0, 1] ** 2 + to_shadow[0, 2] ** 2
    shadow_texel = 1.5 / math.sqrt(max(steps, 1e-20))
    for i in range(len(pixels)):
        f = face_ids[i]
        if f != last:
            last = f
            lod = _level(points, faces, uv, uv_faces, f, base_levels)
            if look[5] > 0:
                detail_lod = _level(points, faces, uv, uv_faces, f, surface_levels)
        px, py = pixels[i] % width + 0.5, pixels[i] // width + 0.5
        e0, e1, e2 = _corners(points, faces, f, px, py)
        total = e0 + e1 + e2
        l0, l1, l2 = e0 / total, e1 / total, e2 / total
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ta, tb, tc = uv_faces[f, 0], uv_faces[f, 1], uv_faces[f, 2]
        x = l0 * verts[a, 0] + l1 * verts[b, 0] + l2 * verts[c, 0]
        y = l0 * verts[a, 1] + l1 * verts[b, 1] + l2 * verts[c, 1]
        z = l0 * verts[a, 2] + l1 * verts[b, 2] + l2 * verts[c, 2]
        nx = l0 * normals[a, 0] + l1 * normals[b, 0] + l2 * normals[c, 0]
        ny = l0 * normals[a, 1] + l1 * normals[b, 1] + l2 * normals[c, 1]
        nz = l0 * normals[a, 2] + l1 * normals[b, 2] + l2 * normals[c, 2]
        open_sky = l0 * occlusion[a] + l1 * occlusion[b] + l2 * occlusion[c]
        u = l0 * uv[ta, 0] + l1 * uv[tb, 0] + l2 * uv[tc, 0]
        v = l0 * uv[ta, 1] + l1 * uv[tb, 1] + l2 * uv[tc, 1]
        # a back side is lit as if its normals pointed the other way
        scale = 1 / math.sqrt(max(nx * nx + ny * ny + nz * nz, 1e-20))
        det = e0 * points[a, 3] + e1 * points[b, 3] + e2 * points[c, 3]
        if det > 0:
            scale = -scale
        nx, ny, nz = nx * scale, ny * scale, nz * scale
        vx, vy, vz = eye[0] - eye[3] * x, eye[1] - eye[3] * y, eye[2] - eye[3] * z
        scale = 1 / math.sqrt(max(vx * vx + vy * vy + vz * vz, 1e-20))
        vx, vy, vz = vx * scale, vy * scale, vz * scale

        red, green, blue, alpha = _sample(base, base_levels, u, v, lod)
        roughness = look[0]
        tx, ty, tz = 1.0, 0.0, 0.0
        if look[5] > 0 or look[6] > 0:
            # directions of growing u and v along the face
            ux, vy1 = uv[tb, 0] - uv[ta, 0], uv[tb, 1] - uv[ta, 1]
            wx, wy = uv[tc, 0] - uv[ta, 0], uv[tc, 1] - uv[ta, 1]
            sign = 1.0 if ux * wy - wx * vy1 >= 0 else -1.0
            px1, py1, pz1 = (
                verts[b, 0] - verts[a, 0],
                verts[b, 1] - verts[a, 1],
                verts[b, 2] - verts[a, 2],
            )
            px2, py2, pz2 = (
                verts[c, 0] - verts[a, 0],
                verts[c, 1] - verts[a, 1],
                verts[c, 2] - verts[a, 2],
            )
            if look[6] > 0:
                tx = (px2 * ux - px1 * wx) * sign
                ty = (py2 * ux - py1 * wx) * sign
                tz = (pz2 * ux - pz1 * wx) * sign
            else:
                tx = (px1 * wy - px2 * vy1) * sign
                ty = (py1 * wy - py2 * vy1) * sign
                tz = (pz1 * wy - pz2 * vy1) * sign
            along = tx * nx + ty * ny + tz * nz
            tx, ty, tz = tx - along * nx, ty - along * ny, tz - along * nz
            scale = 1 / math.sqrt(max(tx * tx + ty * ty + tz * tz, 1e-20))
            tx, ty, tz = tx * scale, ty * scale, tz * scale
            if look[5] > 0:
                mx, my, mz, roughness = _sample(surface, surface_levels, u, v, detail_lod)
                if look[6] == 0:
                    mx, my, mz = 2 * mx - 1, 2 * my - 1, 2 * mz - 1
                    bx = (ny * tz - nz * ty) * sign
                    by = (nz * tx - nx * tz) * sign
                    bz = (nx * ty - ny * tx) * sign
                    nx, ny, nz = (
                        tx * mx + bx * my + nx * mz,
                        ty * mx + by * my + ny * mz,
                        tz * mx + bz * my + nz * mz,
                    )
                    scale = 1 / math.sqrt(max(nx * nx + ny * ny + nz * nz, 1e-20))
                    nx, ny, nz = nx * scale, ny * scale, nz * scale

        nv = min(max(nx * vx + ny * vy + nz * vz, 0.02), 1.0)
        alpha2 = max(roughness * roughness, 0.02)
        alpha2 *= alpha2
        half_k = 0.5 * math.sqrt(alpha2)
        # ambient mirror light, after Karis' fit of the split-sum table
        rx, ry, rz = 2 * nv * nx - vx, 2 * nv * ny - vy, 2 * nv * nz - vz
        c0 = 1 - roughness
        a004 = min(c0 * c0, 2.0 ** (-9.28 * nv)) * c0 + 0.0425 - 0.0275 * roughness
        mirror = look[1] * (-1.04 * a004 + 1.04 - 0.572 * roughness)
        # what hardly reflects at all does not at a grazing angle either
        grazing = min(50 * look[1], 1.0)
        mirror += grazing * (1.04 * a004 - 0.04 + 0.022 * roughness)
        mirror = max(mirror, 0.0) * open_sky
        shine_r = max(_sh(ambient, 0, rx, ry, rz), 0.0) * mirror
        shine_g = max(_sh(ambient, 1, rx, ry, rz), 0.0) * mirror
        shine_b = max(_sh(ambient, 2, rx, ry, rz), 0.0) * mirror
        # light reflected among the sides of a hollow brightens it the more, the paler it is
        open2 = open_sky * open_sky
        bounce = open_sky * (1 - open_sky)
        diffuse_r = max(_sh(ambient, 0, nx, ny, nz), 0.0) * (open_sky + bounce * red * 0.9)
        diffuse_g = max(_sh(ambient, 1, nx, ny, nz), 0.0) * (open_sky + bounce * green * 0.9)
        diffuse_b = max(_sh(ambient, 2, nx, ny, nz), 0.0) * (open_sky + bounce * blue * 0.9)
        for light in range(len(directions)):
            lx, ly, lz = directions[light, 0], directions[light, 1], directions[light, 2]
            nl = nx * lx + ny * ly + nz * lz
            lit = 1.0
            if light == 0 and len(shadow_map) > 0 and nl > -0.1:
                push = shadow_texel * (1 + 1.5 * (1 - nl))
                lit = _lit(
                    shadow_map,
                    to_shadow,
                    x + push * (nx + 0.7 * lx),
                    y + push * (ny + 0.7 * ly),
                    z + push * (nz + 0.7 * lz),
                    5,
                )
                # beyond the terminator the shading itself is the shadow
                fade = min(max((nl + 0.1) / 0.35, 0.0), 1.0)
                lit = 1 + fade * (lit - 1)
            elif light > 0 or len(shadow_map) == 0:
                # lights without a shadow map reach hollows as little as the sky does
                lit = open_sky + 0.35 * open_sky * (1 - open_sky)
            if look[6] > 0:
                # strands (Kajiya and Kay 1989): light is lost along the tangent, not the normal
                tl = tx * lx + ty * ly + tz * lz
                tv = tx * vx + ty * vy + tz * vz
                sine = math.sqrt(max(1 - tl * tl, 0.0))
                behind = min(max(0.5 + nl, 0.0), 1.0)
                level = sine * behind * lit
                peak = sine * math.sqrt(max(1 - tv * tv, 0.0)) - tl * tv
                peak = max(peak, 0.0) ** (8 + 60 * (1 - roughness)) * behind * lit
                weight = 0.10 * peak * open2
                tint = 0.55 * peak * open2
                shine_r += colours[light, 0] * (weight + tint * red)
                shine_g += colours[light, 1] * (weight + tint * green)
                shine_b += colours[light, 2] * (weight + tint * blue)
                diffuse_r += colours[light, 0] * level * 0.75
                diffuse_g += colours[light, 1] * level * 0.75
                diffuse_b += colours[light, 2] * level * 0.75
                continue
            if look[2] + look[3] + look[4] == 0:
                level = max(nl, 0.0) * lit
                diffuse_r += level * colours[light, 0]
                diffuse_g += level * colours[light, 1]
                diffuse_b += level * colours[light, 2]
            else:
                # penumbrae under skin run red
                lit_r, lit_g = lit, lit
                if light == 0 and lit < 1:
                    lit_r = lit ** (1 - 0.9 * look[2])
                    lit_g = lit ** (1 - 0.9 * look[3])
                diffuse_r += _wrapped(nl, look[2]) * lit_r * colours[light, 0]
                diffuse_g += _wrapped(nl, look[3]) * lit_g * colours[light, 1]
                diffuse_b += _wrapped(nl, look[4]) * lit * colours[light, 2]
            if nl > 0:
                hx, hy, hz = lx + vx, ly + vy, lz + vz
                scale = 1 / math.sqrt(max(hx * hx + hy * hy + hz * hz, 1e-20))
                nh = min(max((nx * hx + ny * hy + nz * hz) * scale, 0.0), 1.0)
                vh = min(max((vx * hx + vy * hy + vz * hz) * scale, 0.0), 1.0)
                spread = nh * nh * (alpha2 - 1) + 1
                fresnel = look[1] + grazing * (1 - look[1]) * (1 - vh) ** 5
                smith = (nl * (1 - half_k) + half_k) * (nv * (1 - half_k) + half_k)
                # times pi, as a light of 1 stands for a radiance of pi
                gloss = alpha2 / (spread * spread) * fresnel / (4 * smith) * nl * lit
                gloss = min(gloss, 12.0) * min(open_sky * 1.5, 1.0)
                shine_r += colours[light, 0] * gloss
                shine_g += colours[light, 1] * gloss
                shine_b += colours[light, 2] * gloss
        red = red * diffuse_r + shine_r
        green = green * diffuse_g + shine_g
        blue = blue * diffuse_b + shine_b
        if not (red + green + blue < 1e9):
            # vertices too far away for the arithmetic
            red, green, blue = 0.0, 0.0, 0.0
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = red, green, blue, alpha


@_kernel("void(f4[:, ::1], i8[::1], f4[:, ::1], i8[::1], f4)")
def composite(image, pixels, colours, order, opaque):
    """Put fragments over premultiplied linear pixels, in the given order (back to front).

    Alphas are divided by `opaque`: from there on a fragment hides what is behind it.
    """
    for i in order:
        alpha = min(colours[i, 3] / opaque, 1.0)
        pixel = pixels[i]
        for k in range(3):
            image[pixel, k] = colours[i, k] * alpha + image[pixel, k] * (1 - alpha)
        image[pixel, 3] = alpha + image[pixel, 3] * (1 - alpha)


@_shading
def _encode(value, table):
    """sRGB of linear 0..1 through a table over its square root."""
    position = math.sqrt(min(max(value, 0.0), 1.0)) * (len(table) - 1)
    index = min(int(position), len(table) - 2)
    return table[index] + (position - index) * (table[index + 1] - table[index])


@_shading
def _tone(red, green, blue, curve):
    if curve == 1:
        # Khronos PBR Neutral: colours stay as painted below 0.76, highlights roll off to white
        low = min(red, min(green, blue))
        offset = low - 6.25 * low * low if low < 0.08 else 0.04
        red, green, blue = red - offset, green - offset, blue - offset
        peak = max(red, max(green, blue))
        if peak < 0.76:
            return red, green, blue
        rest = 0.24
        new = 1 - rest * rest / (peak + rest - 0.76)
        ratio = new / peak
        fade = 1 - 1 / (0.15 * (peak - new) + 1)
        red = red * ratio * (1 - fade) + new * fade
        green = green * ratio * (1 - fade) + new * fade
        blue = blue * ratio * (1 - fade) + new * fade
    elif curve == 2:
        # Narkowicz' fit of the ACES film curve
        red, green, blue = 0.7 * red, 0.7 * green, 0.7 * blue
        red = red * (2.51 * red + 0.03) / (red * (2.43 * red + 0.59) + 0.14)
        green = green * (2.51 * green + 0.03) / (green * (2.43 * green + 0.59) + 0.14)
        blue = blue * (2.51 * blue + 0.03) / (blue * (2.43 * blue + 0.59) + 0.14)
    return red, green, blue


@_kernel("void(f4[:, :, ::1], i8, f8, i8, f4[::1], f4[:, :, ::1], f4[:, :, ::1])", fast=True)
def finish(image, samples, exposure, curve, table, background, out):
    """Tone-map, average samples x samples pixels, put over a linear background, encode as sRGB.

    Without a background (no rows) alpha stays and colours are straight.
    """
    inverse = 1.0 / (samples * samples)
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            red, green, blue, alpha = 0.0, 0.0, 0.0, 0.0
            for j in range(samples):
                for i in range(samples):
                    y, x = row * samples + j, column * samples + i
                    cover = float(image[y, x, 3])
                    if cover <= 0:
                        continue
                    gain = exposure / cover
                    r, g, b = _tone(
                        image[y, x, 0] * gain, image[y, x, 1] * gain, image[y, x, 2] * gain, curve
                    )
                    red += cover * min(max(r, 0.0), 1.0)
                    green += cover * min(max(g, 0.0), 1.0)
                    blue += cover * min(max(b, 0.0), 1.0)
                    alpha += cover
            red, green, blue, alpha = (
                red * inverse,
                green * inverse,
                blue * inverse,
                alpha * inverse,
            )
            if background.shape[1] > 0:
                y, x = min(row, background.shape[1] - 1), min(column, background.shape[2] - 1)
                red += background[0, y, x] * (1 - alpha)
                green += background[1, y, x] * (1 - alpha)
                blue += background[2, y, x] * (1 - alpha)
                alpha = 1.0
            gain = 1 / alpha if alpha > 0 else 0.0
            out[0, row, column] = _encode(red * gain, table)
            out[1, row, column] = _encode(green * gain, table)
            out[2, row, column] = _encode(blue * gain, table)
            out[3, row, column] = alpha


@_kernel("void(f4[:, ::1], i8[:, ::1], f4[:, ::1])")
def smooth_normals(verts, faces, normals):
    """Unit vertex normals, as flame.normals.vertex_normals; writes into zeros."""
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        x1, x2 = verts[b, 0] - verts[a, 0], verts[c, 0] - verts[a, 0]
        y1, y2 = verts[b, 1] - verts[a, 1], verts[c, 1] - verts[a, 1]
        z1, z2 = verts[b, 2] - verts[a, 2], verts[c, 2] - verts[a, 2]
        x, y, z = y1 * z2 - z1 * y2, z1 * x2 - x1 * z2, x1 * y2 - y1 * x2
        if not (x * x + y * y + z * z < np.inf):
            continue
        for vertex in (a, b, c):
            normals[vertex, 0] += x
            normals[vertex, 1] += y
            normals[vertex, 2] += z
    for vertex in range(len(normals)):
        x, y, z = normals[vertex, 0], normals[vertex, 1], normals[vertex, 2]
        length = max(math.sqrt(x * x + y * y + z * z), 1e-20)
        normals[vertex, 0] = x / length
        normals[vertex, 1] = y / length
        normals[vertex, 2] = z / length
