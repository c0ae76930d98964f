"""Compiled CPU kernels of the preview renderer: textures, vertex directions, layers, tone.

Import this file only inside a function, through `flame.render_surface.kernels()`, for the reason
that `assets.compiled` gives.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the kernels' signatures, which are strings

from __future__ import annotations

import math

import numpy as np

from assets.compiled import kernel, shading
from flame.layer_kernels import draw_layer, group_pixels, project, window_range
from flame.shade_kernels import shade_fragments

__all__ = [
    "composite",
    "draw_layer",
    "finish",
    "group_pixels",
    "pack_texture",
    "project",
    "shade_fragments",
    "smooth_normals",
    "strand_tangents",
    "window_range",
]


@kernel("void(f4[:, :, ::1], f4[::1], f4[:, :, ::1], u2[:, ::1], i8[:, ::1])")
def pack_texture(image, linear, detail, texels, levels):
    """Write an image 0..1 as linear 16-bit texels (colour, alpha, detail) with its mip levels.

    linear is a table from 0..1 to linear light for the three colours. detail has as many channels
    as the texels have beyond four, and the image's size.
    """
    channels, height, width = image.shape
    last = len(linear) - 1
    for row in range(height):
        for column in range(width):
            texel = row * width + column
            for k in range(3):
                value = image[k if k < channels else 0, row, column]
                value = linear[int(min(max(value, 0.0), 1.0) * last + 0.5)]
                texels[texel, k] = int(value * 65535.0 + 0.5)
            value = min(max(image[3, row, column], 0.0), 1.0) if channels > 3 else 1.0
            texels[texel, 3] = int(value * 65535.0 + 0.5)
            for k in range(len(detail)):
                value = min(max(detail[k, row, column], 0.0), 1.0)
                texels[texel, 4 + k] = int(value * 65535.0 + 0.5)
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
                for k in range(4, texels.shape[1]):
                    total = 0.0
                    for source in four:
                        total += texels[source, k]
                    texels[texel, k] = int(total / 4.0 + 0.5)


@kernel("void(f4[:, ::1], i4[::1], f4[:, ::1], i8[::1], f4)")
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


@shading
def _encode(value, table):
    """sRGB of linear 0..1 through a table over its square root."""
    root = math.sqrt(min(max(value, np.float32(0)), np.float32(1)))
    position = root * np.float32(len(table) - 1)
    index = min(int(position), len(table) - 2)
    return table[index] + (position - np.float32(index)) * (table[index + 1] - table[index])


@shading
def _decode(value, linear, last):
    """Linear light of sRGB 0..1 through a table."""
    position = min(max(value, np.float32(0)), np.float32(1)) * last
    index = min(int(position), len(linear) - 2)
    return linear[index] + (position - np.float32(index)) * (linear[index + 1] - linear[index])


@shading
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


@kernel(
    "void(f4[:, :, ::1], i8, f4, i8, f4[::1], f4[::1], f4[:, :, ::1], f4[:, :, ::1])", fast=True
)
def finish(image, samples, exposure, curve, table, linear, background, out):
    """Tone-map, average samples x samples pixels, put over a background, encode as sRGB.

    table encodes square roots of linear light, linear decodes the background's sRGB. Without a
    background (no rows) alpha stays and colours are straight.
    """
    inverse = np.float32(1.0 / (samples * samples))
    zero, one, last = np.float32(0), np.float32(1), np.float32(len(linear) - 1)
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            red, green, blue, alpha = zero, zero, zero, zero
            for j in range(samples):
                for i in range(samples):
                    y, x = row * samples + j, column * samples + i
                    cover = image[y, x, 3]
                    if cover <= 0:
                        continue
                    gain = exposure / cover
                    r, g, b = _tone(
                        image[y, x, 0] * gain, image[y, x, 1] * gain, image[y, x, 2] * gain, curve
                    )
                    red += cover * min(max(r, zero), one)
                    green += cover * min(max(g, zero), one)
                    blue += cover * min(max(b, zero), one)
                    alpha += cover
            red, green, blue = red * inverse, green * inverse, blue * inverse
            alpha *= inverse
            if background.shape[1] > 0 and alpha < 1:
                y, x = min(row, background.shape[1] - 1), min(column, background.shape[2] - 1)
                if alpha == 0:
                    for k in range(3):
                        out[k, row, column] = min(max(background[k, y, x], zero), one)
                    out[3, row, column] = one
                    continue
                rest = one - alpha
                red += rest * _decode(background[0, y, x], linear, last)
                green += rest * _decode(background[1, y, x], linear, last)
                blue += rest * _decode(background[2, y, x], linear, last)
                alpha = one
            straight = one / alpha if alpha > 0 else zero
            out[0, row, column] = _encode(red * straight, table)
            out[1, row, column] = _encode(green * straight, table)
            out[2, row, column] = _encode(blue * straight, table)
            out[3, row, column] = alpha


@kernel("void(f4[:, ::1], i4[:, ::1], f4[:, ::1])")
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


@kernel("void(f4[:, ::1], i4[:, ::1], f4[:, ::1], i4[:, ::1], i8[::1], f4[:, ::1])")
def strand_tangents(verts, faces, uv, uv_faces, listed, tangents):
    """Directions of growing v at each UV vertex of the listed faces; adds to zeros.

    Their length is no matter, as they are made unit vectors where they are interpolated.
    """
    for f in listed:
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ta, tb, tc = uv_faces[f, 0], uv_faces[f, 1], uv_faces[f, 2]
        u1, v1 = uv[tb, 0] - uv[ta, 0], uv[tb, 1] - uv[ta, 1]
        u2, v2 = uv[tc, 0] - uv[ta, 0], uv[tc, 1] - uv[ta, 1]
        sign = 1.0 if u1 * v2 - u2 * v1 >= 0 else -1.0
        for k in range(3):
            along = (verts[c, k] - verts[a, k]) * u1 - (verts[b, k] - verts[a, k]) * u2
            if abs(along) < np.inf:
                tangents[ta, k] += sign * along
                tangents[tb, k] += sign * along
                tangents[tc, k] += sign * along
