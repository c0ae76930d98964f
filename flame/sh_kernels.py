"""Compiled CPU kernels of pictures in spherical-harmonic light, and of their gradients.

Import this file only inside a function: numba takes a while to load.

Along a face, each edge function is affine in the pixel, and so is every sum of the corners' values
weighted by them; the barycentrics' common divisor is one more such sum. So a face is set up once,
about the first of its pixels that is met; a pixel costs a product and a sum per value, and its
gradients are summed per face before they are passed on to the corners. The light itself is worked
out for CHUNK pixels at a time, value by value, which compilers turn into vector instructions.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the kernels' signatures, which are strings

from __future__ import annotations

import functools
import math

import numpy as np

from flame.compiled import kernel, shading

CHUNK = 256  # what is kept of so many pixels fits the nearest cache

# what is kept of a pixel; `buf` holds CHUNK of each in turn
_NORMAL = 0  # three; later their gradients
_VALUE = 3 * CHUNK  # vertex colour (three) or UV (two), times the divisor; later the gradients
_SCALE = 6 * CHUNK  # the divisor, then 1 over it, then the divisor's gradient
_LENGTH = 7 * CHUNK  # 1 over the length of the interpolated normal, 0 where it has none
_ALBEDO = 8 * CHUNK  # three; later their gradients
_COLOUR = 11 * CHUNK  # three: the picture or its gradients; later the shading's gradients
_SUM = 14 * CHUNK  # sum over the channels of the albedo times its gradient
_KEPT = 15 * CHUNK

_VALUES = 7  # normal, colour or UV, divisor
# rows of a run: neighbouring pixels of one row of the picture that see the same face
_SLOT, _ROW, _COLUMN, _START, _COUNT = range(5)
_AT_ROW, _AT_COLUMN, _KNOWN, _RUNS = range(4)  # places in `state`
# places in `look`, after the 27 coefficients
_LEAST, _ONE, _TINY = 27, 28, 29


@shading
def _edges(points, faces, f, px, py, edges):
    """Edge functions of face f about a pixel centre: slope in x, slope in y, value there."""
    for corner in range(3):
        a, b = faces[f, (corner + 1) % 3], faces[f, (corner + 2) % 3]
        w1, w2 = points[a, 3], points[b, 3]
        x1, y1 = points[a, 0] - px * w1, points[a, 1] - py * w1
        x2, y2 = points[b, 0] - px * w2, points[b, 1] - py * w2
        edges[corner, 0] = y1 * w2 - w1 * y2
        edges[corner, 1] = w1 * x2 - x1 * w2
        edges[corner, 2] = x1 * y2 - y1 * x2
    return edges[0, 2] + edges[1, 2] + edges[2, 2]


@shading
def _set_up(points, faces, f, column, row, normals, values, value_faces, edges, setups, slot):
    """Write a face's sums about a pixel: values there, slopes in x, slopes in y; False if none."""
    total = _edges(points, faces, f, column + 0.5, row + 0.5, edges)
    scale = 1.0 / total
    if not abs(scale) < np.inf:
        return False
    for k in range(3 * _VALUES):
        setups[slot, k] = 0
    for corner in range(3):
        vertex, place = faces[f, corner], value_faces[f, corner]
        at = edges[corner, 2] * scale
        along, down = edges[corner, 0] * scale, edges[corner, 1] * scale
        for k in range(3):
            value = normals[vertex, k]
            setups[slot, k] += at * value
            setups[slot, k + _VALUES] += along * value
            setups[slot, k + 2 * _VALUES] += down * value
        for k in range(values.shape[1]):
            value = values[place, k]
            setups[slot, 3 + k] += at * value
            setups[slot, 3 + k + _VALUES] += along * value
            setups[slot, 3 + k + 2 * _VALUES] += down * value
        setups[slot, 6] += at
        setups[slot, 6 + _VALUES] += along
        setups[slot, 6 + 2 * _VALUES] += down
    return True


@shading
def _gather(
    state,
    row_end,
    face_id,
    points,
    faces,
    normals,
    values,
    value_faces,
    slots,
    seen,
    setups,
    edges,
    runs,
    buf,
    look,
):
    """Interpolate over the next CHUNK covered pixels; how many, -1 if a face_id is too high.

    state holds the row and column to go on from, the number of faces known by now, and that of
    these pixels' runs.
    """
    row, column = state[_AT_ROW], state[_AT_COLUMN]
    width = face_id.shape[1]
    one = look[_ONE]
    n, n_runs = 0, 0
    while row < row_end and n < CHUNK:
        if column >= width:
            row, column = row + 1, 0
            continue
        f = face_id[row, column]
        if f < 0:
            column += 1
            continue
        if f >= len(faces):
            return -1
        end = min(width, column + CHUNK - n)
        stop = column + 1
        while stop < end and face_id[row, stop] == f:
            stop += 1
        slot = slots[f]
        if slot == -1:
            slot = state[_KNOWN]
            good = _set_up(
                points, faces, f, column, row, normals, values, value_faces, edges, setups, slot
            )
            if good:
                seen[slot, 0], seen[slot, 1], seen[slot, 2] = f, column, row
                state[_KNOWN] += 1
            else:
                slot = -2
            slots[f] = slot
        if slot < 0:
            column = stop
            continue
        runs[n_runs, _SLOT], runs[n_runs, _ROW], runs[n_runs, _COLUMN] = slot, row, column
        runs[n_runs, _START], runs[n_runs, _COUNT] = n, stop - column
        n_runs += 1
        x, y = one * np.float32(column - seen[slot, 1]), one * np.float32(row - seen[slot, 2])
        gx0, gx1, gx2, gx3 = setups[slot, 7], setups[slot, 8], setups[slot, 9], setups[slot, 10]
        gx4, gx5, gx6 = setups[slot, 11], setups[slot, 12], setups[slot, 13]
        v0, v1, v2 = (
            setups[slot, 0] + y * setups[slot, 14],
            setups[slot, 1] + y * setups[slot, 15],
            setups[slot, 2] + y * setups[slot, 16],
        )
        v3, v4, v5 = (
            setups[slot, 3] + y * setups[slot, 17],
            setups[slot, 4] + y * setups[slot, 18],
            setups[slot, 5] + y * setups[slot, 19],
        )
        v6 = setups[slot, 6] + y * setups[slot, 20]
        for i in range(n, n + stop - column):
            buf[i] = v0 + x * gx0
            buf[i + CHUNK] = v1 + x * gx1
            buf[i + 2 * CHUNK] = v2 + x * gx2
            buf[i + 3 * CHUNK] = v3 + x * gx3
            buf[i + 4 * CHUNK] = v4 + x * gx4
            buf[i + 5 * CHUNK] = v5 + x * gx5
            buf[i + 6 * CHUNK] = v6 + x * gx6
            x += one
        n += stop - column
        column = stop
    state[_AT_ROW], state[_AT_COLUMN], state[_RUNS] = row, column, n_runs
    return n


@shading
def _unit_normals(buf, n, look):
    one, tiny = look[_ONE], look[_TINY]
    zero = one - one
    for i in range(n):
        scale = one / buf[_SCALE + i]
        x, y, z = buf[i] * scale, buf[CHUNK + i] * scale, buf[2 * CHUNK + i] * scale
        square = x * x + y * y + z * z
        inverse = one / math.sqrt(max(square, tiny))
        inverse = inverse if square > tiny else zero
        buf[i], buf[CHUNK + i], buf[2 * CHUNK + i] = x * inverse, y * inverse, z * inverse
        buf[_SCALE + i] = scale
        buf[_LENGTH + i] = inverse


@shading
def _vertex_albedo(buf, n):
    for i in range(n):
        scale = buf[_SCALE + i]
        buf[_ALBEDO + i] = buf[_VALUE + i] * scale
        buf[_ALBEDO + CHUNK + i] = buf[_VALUE + CHUNK + i] * scale
        buf[_ALBEDO + 2 * CHUNK + i] = buf[_VALUE + 2 * CHUNK + i] * scale


@shading
def _place(coordinate, side):
    """Texel before a place, the texel after, how far in between, and 0 beyond the border."""
    last = side - 1
    if not coordinate > 0:  # NaN too
        return 0, min(1, last), coordinate - coordinate, 0
    if coordinate >= last:
        return last, last, coordinate - coordinate, 0
    first = int(coordinate)
    return first, first + 1, coordinate - np.float32(first), 1


@shading
def _texel_place(buf, i, texture, half):
    """Where pixel i falls on the texture: columns and rows, places in between, slopes."""
    height, width = texture.shape[1], texture.shape[2]
    scale = buf[_SCALE + i]
    u = buf[_VALUE + i] * scale * np.float32(width) - half
    v = np.float32(height) - buf[_VALUE + CHUNK + i] * scale * np.float32(height) - half
    x0, x1, fx, sx = _place(u, width)
    y0, y1, fy, sy = _place(v, height)
    return x0, x1, fx, sx, y0, y1, fy, sy


@shading
def _texture_albedo(buf, n, texture, look):
    one = look[_ONE]
    half = one / (one + one)
    for i in range(n):
        x0, x1, fx, _, y0, y1, fy, _ = _texel_place(buf, i, texture, half)
        for k in range(3):
            above = texture[k, y0, x0] + fx * (texture[k, y0, x1] - texture[k, y0, x0])
            below = texture[k, y1, x0] + fx * (texture[k, y1, x1] - texture[k, y1, x0])
            buf[_ALBEDO + k * CHUNK + i] = above + fy * (below - above)


@shading
def _light(look, channel, x, y, z):
    """Light of one channel on a unit normal."""
    light = x * (look[3 + channel] + x * look[21 + channel] + y * look[12 + channel])
    light += y * (look[6 + channel] - y * look[21 + channel] + z * look[18 + channel])
    light += z * (look[9 + channel] + z * look[24 + channel] + x * look[15 + channel])
    return look[channel] + light


@shading
def _shade(buf, n, look):
    """Albedo times light."""
    least = look[_LEAST]
    # the three channels are written out, as loops over known places alone become vector code
    for i in range(n):
        x, y, z = buf[i], buf[CHUNK + i], buf[2 * CHUNK + i]
        red, green, blue = (
            _light(look, 0, x, y, z),
            _light(look, 1, x, y, z),
            _light(look, 2, x, y, z),
        )
        red = least if red < least else red
        green = least if green < least else green
        blue = least if blue < least else blue
        buf[_COLOUR + i] = buf[_ALBEDO + i] * red
        buf[_COLOUR + CHUNK + i] = buf[_ALBEDO + CHUNK + i] * green
        buf[_COLOUR + 2 * CHUNK + i] = buf[_ALBEDO + 2 * CHUNK + i] * blue


@shading
def _shade_backward(buf, n, look):
    """From the picture's gradients to the albedo's and the shading's."""
    least = look[_LEAST]
    zero = look[_ONE] - look[_ONE]
    for i in range(n):
        x, y, z = buf[i], buf[CHUNK + i], buf[2 * CHUNK + i]
        red, green, blue = (
            _light(look, 0, x, y, z),
            _light(look, 1, x, y, z),
            _light(look, 2, x, y, z),
        )
        a0, a1, a2 = buf[_ALBEDO + i], buf[_ALBEDO + CHUNK + i], buf[_ALBEDO + 2 * CHUNK + i]
        g0, g1, g2 = buf[_COLOUR + i], buf[_COLOUR + CHUNK + i], buf[_COLOUR + 2 * CHUNK + i]
        buf[_COLOUR + i] = zero if red < least else g0 * a0
        buf[_COLOUR + CHUNK + i] = zero if green < least else g1 * a1
        buf[_COLOUR + 2 * CHUNK + i] = zero if blue < least else g2 * a2
        g0 *= least if red < least else red
        g1 *= least if green < least else green
        g2 *= least if blue < least else blue
        buf[_ALBEDO + i], buf[_ALBEDO + CHUNK + i], buf[_ALBEDO + 2 * CHUNK + i] = g0, g1, g2
        buf[_SUM + i] = g0 * a0 + g1 * a1 + g2 * a2


@shading
def _light_backward(buf, n, look, sums):
    """Add to the sums of the shading's gradients times 1, x, y, z, xy, xz, yz, x² - y², z²."""
    zero = look[_ONE] - look[_ONE]
    for k in range(3):
        s0, s1, s2, s3, s4, s5, s6, s7, s8 = (
            zero, zero, zero, zero, zero, zero, zero, zero, zero,
        )  # fmt: skip
        for i in range(n):
            x, y, z = buf[i], buf[CHUNK + i], buf[2 * CHUNK + i]
            g = buf[_COLOUR + k * CHUNK + i]
            gx, gy, gz = g * x, g * y, g * z
            s0 += g
            s1 += gx
            s2 += gy
            s3 += gz
            s4 += gx * y
            s5 += gx * z
            s6 += gy * z
            s7 += gx * x - gy * y
            s8 += gz * z
        sums[0, k] += s0
        sums[1, k] += s1
        sums[2, k] += s2
        sums[3, k] += s3
        sums[4, k] += s4
        sums[5, k] += s5
        sums[6, k] += s6
        sums[7, k] += s7
        sums[8, k] += s8


@shading
def _normals_backward(buf, n, look):
    """From the shading's gradients to those of the interpolated normals, before the divisor."""
    l10, l11, l12, l20, l21, l22 = look[3], look[4], look[5], look[6], look[7], look[8]
    l30, l31, l32, l40, l41, l42 = look[9], look[10], look[11], look[12], look[13], look[14]
    l50, l51, l52, l60, l61, l62 = look[15], look[16], look[17], look[18], look[19], look[20]
    l70, l71, l72, l80, l81, l82 = look[21], look[22], look[23], look[24], look[25], look[26]
    for i in range(n):
        x, y, z = buf[i], buf[CHUNK + i], buf[2 * CHUNK + i]
        g0, g1, g2 = buf[_COLOUR + i], buf[_COLOUR + CHUNK + i], buf[_COLOUR + 2 * CHUNK + i]
        b4 = g0 * l40 + g1 * l41 + g2 * l42
        b5 = g0 * l50 + g1 * l51 + g2 * l52
        b6 = g0 * l60 + g1 * l61 + g2 * l62
        b7 = g0 * l70 + g1 * l71 + g2 * l72
        b8 = g0 * l80 + g1 * l81 + g2 * l82
        gx = g0 * l10 + g1 * l11 + g2 * l12 + y * b4 + z * b5 + (x + x) * b7
        gy = g0 * l20 + g1 * l21 + g2 * l22 + x * b4 + z * b6 - (y + y) * b7
        gz = g0 * l30 + g1 * l31 + g2 * l32 + x * b5 + y * b6 + (z + z) * b8
        along = x * gx + y * gy + z * gz
        scale = buf[_LENGTH + i] * buf[_SCALE + i]
        buf[i] = (gx - x * along) * scale
        buf[CHUNK + i] = (gy - y * along) * scale
        buf[2 * CHUNK + i] = (gz - z * along) * scale


@shading
def _vertex_albedo_backward(buf, n):
    for i in range(n):
        scale = buf[_SCALE + i]
        buf[_VALUE + i] = buf[_ALBEDO + i] * scale
        buf[_VALUE + CHUNK + i] = buf[_ALBEDO + CHUNK + i] * scale
        buf[_VALUE + 2 * CHUNK + i] = buf[_ALBEDO + 2 * CHUNK + i] * scale
        buf[_SCALE + i] = -buf[_SUM + i] * scale


@shading
def _texture_albedo_backward(buf, n, texture, look, grad_texture):
    one = look[_ONE]
    zero, half = one - one, one / (one + one)
    height, width = np.float32(texture.shape[1]), np.float32(texture.shape[2])
    wanted = len(grad_texture) > 0
    for i in range(n):
        x0, x1, fx, sx, y0, y1, fy, sy = _texel_place(buf, i, texture, half)
        gx, gy = zero, zero
        for k in range(3):
            g = buf[_ALBEDO + k * CHUNK + i]
            a, b = texture[k, y0, x0], texture[k, y0, x1]
            c, d = texture[k, y1, x0], texture[k, y1, x1]
            gx += g * (b - a + fy * (a + d - b - c))
            gy += g * (c - a + fx * (a + d - b - c))
            if wanted:
                above, below = g * (one - fy), g * fy
                grad_texture[k, y0, x0] += above * (one - fx)
                grad_texture[k, y0, x1] += above * fx
                grad_texture[k, y1, x0] += below * (one - fx)
                grad_texture[k, y1, x1] += below * fx
        scale = buf[_SCALE + i]
        gu = gx * width * scale if sx > 0 else zero
        gv = -gy * height * scale if sy > 0 else zero
        slope = -(gu * buf[_VALUE + i] + gv * buf[_VALUE + CHUNK + i]) * scale
        buf[_VALUE + i], buf[_VALUE + CHUNK + i], buf[_VALUE + 2 * CHUNK + i] = gu, gv, zero
        buf[_SCALE + i] = slope


@shading
def _add_runs(buf, runs, n_runs, seen, look, sums):
    """Add the pixels' gradients to those of their faces' sums."""
    one = look[_ONE]
    zero = one - one
    for run in range(n_runs):
        slot, start, count = runs[run, _SLOT], runs[run, _START], runs[run, _COUNT]
        x = one * np.float32(runs[run, _COLUMN] - seen[slot, 1])
        y = runs[run, _ROW] - seen[slot, 2]
        a0, a1, a2, a3, a4, a5, a6 = zero, zero, zero, zero, zero, zero, zero
        b0, b1, b2, b3, b4, b5, b6 = zero, zero, zero, zero, zero, zero, zero
        for i in range(start, start + count):
            g0, g1, g2 = buf[i], buf[i + CHUNK], buf[i + 2 * CHUNK]
            g3, g4, g5 = buf[i + 3 * CHUNK], buf[i + 4 * CHUNK], buf[i + 5 * CHUNK]
            g6 = buf[i + 6 * CHUNK]
            a0 += g0
            a1 += g1
            a2 += g2
            a3 += g3
            a4 += g4
            a5 += g5
            a6 += g6
            b0 += x * g0
            b1 += x * g1
            b2 += x * g2
            b3 += x * g3
            b4 += x * g4
            b5 += x * g5
            b6 += x * g6
            x += one
        sums[slot, 0] += a0
        sums[slot, 1] += a1
        sums[slot, 2] += a2
        sums[slot, 3] += a3
        sums[slot, 4] += a4
        sums[slot, 5] += a5
        sums[slot, 6] += a6
        sums[slot, 7] += b0
        sums[slot, 8] += b1
        sums[slot, 9] += b2
        sums[slot, 10] += b3
        sums[slot, 11] += b4
        sums[slot, 12] += b5
        sums[slot, 13] += b6
        sums[slot, 14] += y * a0
        sums[slot, 15] += y * a1
        sums[slot, 16] += y * a2
        sums[slot, 17] += y * a3
        sums[slot, 18] += y * a4
        sums[slot, 19] += y * a5
        sums[slot, 20] += y * a6


@shading
def _pass_on(
    points,
    faces,
    normals,
    values,
    value_faces,
    seen,
    known,
    sums,
    edges,
    grad_points,
    grad_normals,
    grad_values,
):
    """From the gradients of the faces' sums to the corners' places, normals and colours."""
    for slot in range(known):
        f, px, py = seen[slot, 0], seen[slot, 1] + 0.5, seen[slot, 2] + 0.5
        scale = 1.0 / _edges(points, faces, f, px, py, edges)
        for corner in range(3):
            vertex, place = faces[f, corner], value_faces[f, corner]
            at = edges[corner, 2] * scale
            along, down = edges[corner, 0] * scale, edges[corner, 1] * scale
            e0, e1, e2 = sums[slot, 6], sums[slot, 6 + _VALUES], sums[slot, 6 + 2 * _VALUES]
            for k in range(3):
                g, gx, gy = sums[slot, k], sums[slot, k + _VALUES], sums[slot, k + 2 * _VALUES]
                value = normals[vertex, k]
                e0 += g * value
                e1 += gx * value
                e2 += gy * value
                grad_normals[vertex, k] += at * g + along * gx + down * gy
            for k in range(values.shape[1]):
                g, gx, gy = (
                    sums[slot, 3 + k],
                    sums[slot, 3 + k + _VALUES],
                    sums[slot, 3 + k + 2 * _VALUES],
                )
                value = values[place, k]
                e0 += g * value
                e1 += gx * value
                e2 += gy * value
                if len(grad_values) > 0:
                    grad_values[vertex, k] += at * g + along * gx + down * gy
            # an edge function is a cross product of two corners (x w, y w, w) about the pixel
            a, b = faces[f, (corner + 1) % 3], faces[f, (corner + 2) % 3]
            ex, ey, ew = e1 * scale, e2 * scale, e0 * scale
            for one, other, sign in ((a, b, 1.0), (b, a, -1.0)):
                w = points[other, 3]
                x, y = points[other, 0] - px * w, points[other, 1] - py * w
                gx, gy = sign * (y * ew - w * ey), sign * (w * ex - x * ew)
                grad_points[one, 0] += gx
                grad_points[one, 1] += gy
                grad_points[one, 3] += sign * (x * ey - y * ex) - px * gx - py * gy


@shading
def _write(buf, runs, n_runs, image):
    for run in range(n_runs):
        row, column = runs[run, _ROW], runs[run, _COLUMN]
        first = _COLOUR + runs[run, _START]
        for i in range(runs[run, _COUNT]):
            image[0, row, column + i] = buf[first + i]
            image[1, row, column + i] = buf[first + CHUNK + i]
            image[2, row, column + i] = buf[first + 2 * CHUNK + i]


@shading
def _read(buf, runs, n_runs, image):
    for run in range(n_runs):
        row, column = runs[run, _ROW], runs[run, _COLUMN]
        first = _COLOUR + runs[run, _START]
        for i in range(runs[run, _COUNT]):
            buf[first + i] = image[0, row, column + i]
            buf[first + CHUNK + i] = image[1, row, column + i]
            buf[first + 2 * CHUNK + i] = image[2, row, column + i]


_SHADED = (
    "i8(f8[:, ::1], i8[:, ::1], i4[:, ::1], i8, i8, {0}[:, ::1], {0}[:, ::1], i8[:, ::1],"
    " {0}[:, :, ::1], {0}[::1], {0}[:, :, ::1], i8, f8[:, ::1], f8[:, ::1], f8[:, ::1],"
    " f8[:, ::1], {0}[:, :, ::1])"
)


def _shaded(
    points,
    faces,
    face_id,
    row_begin,
    row_end,
    normals,
    values,
    value_faces,
    texture,
    look,
    image,
    backward,
    grad_points,
    grad_normals,
    grad_values,
    grad_light,
    grad_texture,
):
    """Draw albedo times light on the covered pixels of some rows; 1 if a face_id is too high.

    values are vertex colours, or UVs where there is a texture. look holds the light's coefficients
    of 1, x, y, z, xy, xz, yz, x² - y², z², the least shading, 1, and the smallest squared normal.

    With `backward` nothing is drawn: image holds the picture's gradients, and those of the points,
    normals, colours or texture, and look's coefficients are added to grad_*. Empty ones of the
    albedo are not wanted. Pixels are visited in order by one thread, so sums repeat bit for bit.
    (Two kernels would take twice as long to compile.)
    """
    slots = np.empty(len(faces), np.int32)
    for f in range(len(faces)):
        slots[f] = -1
    room = min(len(faces), (row_end - row_begin) * face_id.shape[1]) + 1
    seen = np.empty((room, 3), np.int64)
    setups = np.empty((room, 3 * _VALUES), look.dtype)
    sums = np.empty((room if backward else 0, 3 * _VALUES), np.float64)
    edges = np.empty((3, 3), np.float64)
    runs = np.empty((CHUNK, 5), np.int64)
    buf = np.empty(_KEPT, look.dtype)
    state = np.zeros(4, np.int64)
    state[_AT_ROW] = row_begin
    while state[_AT_ROW] < row_end:
        before = state[_KNOWN]
        n = _gather(
            state, row_end, face_id, points, faces, normals, values, value_faces,
            slots, seen, setups, edges, runs, buf, look,
        )  # fmt: skip
        if n < 0:
            return 1
        _unit_normals(buf, n, look)
        if len(texture) > 0:
            _texture_albedo(buf, n, texture, look)
        else:
            _vertex_albedo(buf, n)
        if not backward:
            _shade(buf, n, look)
            _write(buf, runs, state[_RUNS], image)
            continue
        for slot in range(before, state[_KNOWN]):
            for k in range(3 * _VALUES):
                sums[slot, k] = 0
        _read(buf, runs, state[_RUNS], image)
        _shade_backward(buf, n, look)
        _light_backward(buf, n, look, grad_light)
        _normals_backward(buf, n, look)
        if len(texture) > 0:
            _texture_albedo_backward(buf, n, texture, look, grad_texture)
        else:
            _vertex_albedo_backward(buf, n)
        _add_runs(buf, runs, state[_RUNS], seen, look, sums)
    if backward:
        _pass_on(
            points, faces, normals, values, value_faces, seen, state[_KNOWN], sums, edges,
            grad_points, grad_normals, grad_values,
        )  # fmt: skip
    return 0


shaded = kernel(_SHADED.format("f4"), fast=True)(_shaded)


@functools.cache
def shaded_in_double():
    """`shaded` for float64, compiled when it is first asked for."""
    return kernel(_SHADED.format("f8"), fast=True)(_shaded)
