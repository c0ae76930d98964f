"""Compiled CPU kernels of the preview renderer: what a fragment knows before it is lit.

Import this file only inside a function, through `flame.render_surface.kernels()`, for the reason
that `assets.compiled` gives.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the kernels' signatures, which are strings

from __future__ import annotations

import numpy as np

from assets.compiled import shading
from flame.layer_kernels import edges, mip_level, place, wrapped

CHUNK = 128  # what is kept of so many pixels fits the nearest cache

# what is kept of a pixel; `buf` holds CHUNK of each in turn
POINT = 0  # three
NORMAL = 3 * CHUNK  # three
VIEW = 6 * CHUNK  # three, toward the camera
TANGENT = 9 * CHUNK  # three
SIDE = 12 * CHUNK  # sign of the bitangent
BASE = 13 * CHUNK  # colour and alpha
MAP = 17 * CHUNK  # tangent-space normal 0..1 and roughness
ROUGH = 20 * CHUNK
SKY = 21 * CHUNK  # share of the sky that is seen
LIT = 22 * CHUNK  # three: share of one light that arrives
DIFFUSE = 25 * CHUNK  # three: light to be coloured by the base
SHINE = 28 * CHUNK  # three: light that is mirrored
KEPT = 31 * CHUNK
# places in `look`
ROUGHNESS, REFLECTANCE, METALLIC, WRAP, HAS_DETAIL, STRANDS = 0, 1, 2, 3, 6, 7

_0, _1 = np.float32(0), np.float32(1)
_WHITE = np.float32(1 / 65535)
_NEXT_LEVEL = np.float32(0.02)  # how far on the next mip level is not worth a look


@shading
def _add_level(texels, levels, u, v, level, share, found):
    """Add a share of one mip level's bilinear sample to `found`, all channels at once."""
    a, b, c, d, fx, fy = place(u, v, level, levels)
    share *= _WHITE
    below, above = fy * share, (_1 - fy) * share
    wa, wb, wc, wd = (_1 - fx) * above, fx * above, (_1 - fx) * below, fx * below
    f = np.float32
    for k in range(len(found)):
        row = wa * f(texels[a, k]) + wb * f(texels[b, k])
        found[k] += row + wc * f(texels[c, k]) + wd * f(texels[d, k])


@shading
def _sample(texels, levels, u, v, lod, found):
    """Trilinear fetch of all channels."""
    top = len(levels) - 1
    lod = min(max(lod, 0.0), float(top))
    low = int(lod)
    part = np.float32(lod - low)
    for k in range(len(found)):
        found[k] = _0
    if part < _NEXT_LEVEL or low == top:
        _add_level(texels, levels, u, v, low, _1, found)
        return
    _add_level(texels, levels, u, v, low, _1 - part, found)
    _add_level(texels, levels, u, v, low + 1, part, found)


@shading
def gather(
    start, n, pixels, ids, width, points, screen, verts, normals, sky, faces, uv, uv_faces,
    tangents, texels, levels, look, found, buf,
):  # fmt: skip
    """Interpolate over n fragments from `start` on, and look up their textures."""
    mapped, strands = look[HAS_DETAIL] > 0, look[STRANDS] > 0
    last, lod, turned, side = -1, 0.0, _0, _1
    # unsigned, since indices that may be negative take a look at their sign each time
    a = b = c = ta = tb = tc = np.uint64(0)
    gx0 = gy0 = v0 = gx1 = gy1 = v1 = gx2 = gy2 = v2 = 0.0
    tx = ty = tz = _0
    for i in range(n):
        f = ids[start + i]
        pixel = pixels[start + i]
        row = int((pixel + 0.5) / width)
        px, py = pixel - row * width + 0.5, row + 0.5
        if f != last:
            last = f
            a, b, c = np.uint64(faces[f, 0]), np.uint64(faces[f, 1]), np.uint64(faces[f, 2])
            ta, tb = np.uint64(uv_faces[f, 0]), np.uint64(uv_faces[f, 1])
            tc = np.uint64(uv_faces[f, 2])
            gx0, gy0, v0, gx1, gy1, v1, gx2, gy2, v2 = edges(points, a, b, c)
            lod = mip_level(screen, a, b, c, uv, ta, tb, tc, levels)
            det = (v0 + gy0 * py + gx0 * px) * points[a, 3]
            det += (v1 + gy1 * py + gx1 * px) * points[b, 3]
            det += (v2 + gy2 * py + gx2 * px) * points[c, 3]
            # a back side is lit as if its normals pointed the other way
            turned = -_1 if det > 0 else _1
            if mapped and not strands:
                # bumps lean along growing u
                ux, uy = uv[tb, 0] - uv[ta, 0], uv[tb, 1] - uv[ta, 1]
                wx, wy = uv[tc, 0] - uv[ta, 0], uv[tc, 1] - uv[ta, 1]
                side = _1 if ux * wy - wx * uy >= 0 else -_1
                wy, uy = wy * side, uy * side
                tx = (verts[b, 0] - verts[a, 0]) * wy - (verts[c, 0] - verts[a, 0]) * uy
                ty = (verts[b, 1] - verts[a, 1]) * wy - (verts[c, 1] - verts[a, 1]) * uy
                tz = (verts[b, 2] - verts[a, 2]) * wy - (verts[c, 2] - verts[a, 2]) * uy
        e0 = v0 + gy0 * py + gx0 * px
        e1 = v1 + gy1 * py + gx1 * px
        e2 = v2 + gy2 * py + gx2 * px
        scale = 1 / (e0 + e1 + e2)
        l0, l1, l2 = np.float32(e0 * scale), np.float32(e1 * scale), np.float32(e2 * scale)
        m0, m1, m2 = l0 * turned, l1 * turned, l2 * turned
        for k in range(3):
            at = i + k * CHUNK
            buf[POINT + at] = l0 * verts[a, k] + l1 * verts[b, k] + l2 * verts[c, k]
            buf[NORMAL + at] = m0 * normals[a, k] + m1 * normals[b, k] + m2 * normals[c, k]
        buf[SKY + i] = l0 * sky[a] + l1 * sky[b] + l2 * sky[c]
        u = wrapped(l0 * uv[ta, 0] + l1 * uv[tb, 0] + l2 * uv[tc, 0])
        v = wrapped(l0 * uv[ta, 1] + l1 * uv[tb, 1] + l2 * uv[tc, 1])
        _sample(texels, levels, u, v, lod, found)
        for k in range(4):
            buf[BASE + k * CHUNK + i] = found[k]
        if mapped:
            for k in range(4):
                buf[MAP + k * CHUNK + i] = found[4 + k]
        else:
            buf[ROUGH + i] = look[ROUGHNESS]
        if strands:
            for k in range(3):
                along = l0 * tangents[ta, k] + l1 * tangents[tb, k] + l2 * tangents[tc, k]
                buf[TANGENT + k * CHUNK + i] = along
        elif mapped:
            buf[TANGENT + i], buf[TANGENT + CHUNK + i], buf[TANGENT + 2 * CHUNK + i] = tx, ty, tz
            buf[SIDE + i] = side
