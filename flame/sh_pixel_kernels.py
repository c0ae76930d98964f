"""Device functions of pictures in spherical-harmonic light: what happens to a pixel.

Import this file only inside a function: numba takes a while to load.

The light is worked out for CHUNK pixels at a time, value by value, which compilers turn into vector
instructions.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the kernels' signatures, which are strings

from __future__ import annotations

import math

import numpy as np

from assets.compiled import shading

CHUNK = 256  # what is kept of so many pixels fits the nearest cache

# what is kept of a pixel; `buf` holds CHUNK of each in turn
NORMAL = 0  # three; later their gradients
VALUE = 3 * CHUNK  # vertex colour (three) or UV (two), times the divisor; later the gradients
SCALE = 6 * CHUNK  # the divisor, then 1 over it, then the divisor's gradient
LENGTH = 7 * CHUNK  # 1 over the length of the interpolated normal, 0 where it has none
ALBEDO = 8 * CHUNK  # three; later their gradients
COLOUR = 11 * CHUNK  # three: the picture or its gradients; later the shading's gradients
SUM = 14 * CHUNK  # sum over the channels of the albedo times its gradient
KEPT = 15 * CHUNK

# places in `look`, after the 27 coefficients
LEAST, ONE, TINY = 27, 28, 29


@shading
def unit_normals(buf, n, look):
    one, tiny = look[ONE], look[TINY]
    zero = one - one
    for i in range(n):
        scale = one / buf[SCALE + i]
        x, y, z = buf[i] * scale, buf[CHUNK + i] * scale, buf[2 * CHUNK + i] * scale
        square = x * x + y * y + z * z
        inverse = one / math.sqrt(max(square, tiny))
        inverse = inverse if square > tiny else zero
        buf[i], buf[CHUNK + i], buf[2 * CHUNK + i] = x * inverse, y * inverse, z * inverse
        buf[SCALE + i] = scale
        buf[LENGTH + i] = inverse


@shading
def vertex_albedo(buf, n):
    for i in range(n):
        scale = buf[SCALE + i]
        buf[ALBEDO + i] = buf[VALUE + i] * scale
        buf[ALBEDO + CHUNK + i] = buf[VALUE + CHUNK + i] * scale
        buf[ALBEDO + 2 * CHUNK + i] = buf[VALUE + 2 * CHUNK + i] * scale


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
    scale = buf[SCALE + i]
    u = buf[VALUE + i] * scale * np.float32(width) - half
    v = np.float32(height) - buf[VALUE + CHUNK + i] * scale * np.float32(height) - half
    x0, x1, fx, sx = _place(u, width)
    y0, y1, fy, sy = _place(v, height)
    return x0, x1, fx, sx, y0, y1, fy, sy


@shading
def texture_albedo(buf, n, texture, look):
    one = look[ONE]
    half = one / (one + one)
    for i in range(n):
        x0, x1, fx, _, y0, y1, fy, _ = _texel_place(buf, i, texture, half)
        for k in range(3):
            above = texture[k, y0, x0] + fx * (texture[k, y0, x1] - texture[k, y0, x0])
            below = texture[k, y1, x0] + fx * (texture[k, y1, x1] - texture[k, y1, x0])
            buf[ALBEDO + k * CHUNK + i] = above + fy * (below - above)


@shading
def _light(look, channel, x, y, z):
    """Light of one channel on a unit normal."""
    light = x * (look[3 + channel] + x * look[21 + channel] + y * look[12 + channel])
    light += y * (look[6 + channel] - y * look[21 + channel] + z * look[18 + channel])
    light += z * (look[9 + channel] + z * look[24 + channel] + x * look[15 + channel])
    return look[channel] + light


@shading
def shade(buf, n, look):
    """Albedo times light."""
    least = look[LEAST]
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
        buf[COLOUR + i] = buf[ALBEDO + i] * red
        buf[COLOUR + CHUNK + i] = buf[ALBEDO + CHUNK + i] * green
        buf[COLOUR + 2 * CHUNK + i] = buf[ALBEDO + 2 * CHUNK + i] * blue


@shading
def shade_backward(buf, n, look):
    """From the picture's gradients to the albedo's and the shading's."""
    least = look[LEAST]
    zero = look[ONE] - look[ONE]
    for i in range(n):
        x, y, z = buf[i], buf[CHUNK + i], buf[2 * CHUNK + i]
        red, green, blue = (
            _light(look, 0, x, y, z),
            _light(look, 1, x, y, z),
            _light(look, 2, x, y, z),
        )
        a0, a1, a2 = buf[ALBEDO + i], buf[ALBEDO + CHUNK + i], buf[ALBEDO + 2 * CHUNK + i]
        g0, g1, g2 = buf[COLOUR + i], buf[COLOUR + CHUNK + i], buf[COLOUR + 2 * CHUNK + i]
        buf[COLOUR + i] = zero if red < least else g0 * a0
        buf[COLOUR + CHUNK + i] = zero if green < least else g1 * a1
        buf[COLOUR + 2 * CHUNK + i] = zero if blue < least else g2 * a2
        g0 *= least if red < least else red
        g1 *= least if green < least else green
        g2 *= least if blue < least else blue
        buf[ALBEDO + i], buf[ALBEDO + CHUNK + i], buf[ALBEDO + 2 * CHUNK + i] = g0, g1, g2
        buf[SUM + i] = g0 * a0 + g1 * a1 + g2 * a2


@shading
def light_backward(buf, n, look, sums):
    """Add to the sums of the shading's gradients times 1, x, y, z, xy, xz, yz, x² - y², z²."""
    zero = look[ONE] - look[ONE]
    for k in range(3):
        s0, s1, s2, s3, s4, s5, s6, s7, s8 = (
            zero, zero, zero, zero, zero, zero, zero, zero, zero,
        )  # fmt: skip
        for i in range(n):
            x, y, z = buf[i], buf[CHUNK + i], buf[2 * CHUNK + i]
            g = buf[COLOUR + k * CHUNK + i]
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
def normals_backward(buf, n, look):
    """From the shading's gradients to those of the interpolated normals, before the divisor."""
    l10, l11, l12, l20, l21, l22 = look[3], look[4], look[5], look[6], look[7], look[8]
    l30, l31, l32, l40, l41, l42 = look[9], look[10], look[11], look[12], look[13], look[14]
    l50, l51, l52, l60, l61, l62 = look[15], look[16], look[17], look[18], look[19], look[20]
    l70, l71, l72, l80, l81, l82 = look[21], look[22], look[23], look[24], look[25], look[26]
    for i in range(n):
        x, y, z = buf[i], buf[CHUNK + i], buf[2 * CHUNK + i]
        g0, g1, g2 = buf[COLOUR + i], buf[COLOUR + CHUNK + i], buf[COLOUR + 2 * CHUNK + i]
        b4 = g0 * l40 + g1 * l41 + g2 * l42
        b5 = g0 * l50 + g1 * l51 + g2 * l52
        b6 = g0 * l60 + g1 * l61 + g2 * l62
        b7 = g0 * l70 + g1 * l71 + g2 * l72
        b8 = g0 * l80 + g1 * l81 + g2 * l82
        gx = g0 * l10 + g1 * l11 + g2 * l12 + y * b4 + z * b5 + (x + x) * b7
        gy = g0 * l20 + g1 * l21 + g2 * l22 + x * b4 + z * b6 - (y + y) * b7
        gz = g0 * l30 + g1 * l31 + g2 * l32 + x * b5 + y * b6 + (z + z) * b8
        along = x * gx + y * gy + z * gz
        scale = buf[LENGTH + i] * buf[SCALE + i]
        buf[i] = (gx - x * along) * scale
        buf[CHUNK + i] = (gy - y * along) * scale
        buf[2 * CHUNK + i] = (gz - z * along) * scale


@shading
def vertex_albedo_backward(buf, n):
    for i in range(n):
        scale = buf[SCALE + i]
        buf[VALUE + i] = buf[ALBEDO + i] * scale
        buf[VALUE + CHUNK + i] = buf[ALBEDO + CHUNK + i] * scale
        buf[VALUE + 2 * CHUNK + i] = buf[ALBEDO + 2 * CHUNK + i] * scale
        buf[SCALE + i] = -buf[SUM + i] * scale


@shading
def texture_albedo_backward(buf, n, texture, look, grad_texture):
    one = look[ONE]
    zero, half = one - one, one / (one + one)
    height, width = np.float32(texture.shape[1]), np.float32(texture.shape[2])
    wanted = len(grad_texture) > 0
    for i in range(n):
        x0, x1, fx, sx, y0, y1, fy, sy = _texel_place(buf, i, texture, half)
        gx, gy = zero, zero
        for k in range(3):
            g = buf[ALBEDO + k * CHUNK + i]
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
        scale = buf[SCALE + i]
        gu = gx * width * scale if sx > 0 else zero
        gv = -gy * height * scale if sy > 0 else zero
        slope = -(gu * buf[VALUE + i] + gv * buf[VALUE + CHUNK + i]) * scale
        buf[VALUE + i], buf[VALUE + CHUNK + i], buf[VALUE + 2 * CHUNK + i] = gu, gv, zero
        buf[SCALE + i] = slope
