"""Compiled CPU kernels of the preview renderer: the light that fragments send out.

Import this file only inside a function, through `flame.render_surface.kernels()`, for the reason
that `assets.compiled` gives.

What a fragment needs is gathered pixel by pixel; the light is then worked out for CHUNK pixels at a
time, value by value and in float32, which compilers turn into vector instructions.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the kernels' signatures, which are strings

from __future__ import annotations

import functools
import math

import numpy as np

from assets import compiled
from assets.compiled import shading
from flame import gather_kernels, layer_kernels
from flame.gather_kernels import (
    BASE,
    CHUNK,
    DIFFUSE,
    HAS_DETAIL,
    KEPT,
    LIT,
    MAP,
    METALLIC,
    NORMAL,
    POINT,
    REFLECTANCE,
    ROUGH,
    SHINE,
    SIDE,
    SKY,
    STRANDS,
    TANGENT,
    VIEW,
    WRAP,
    gather,
)

# the kernel below contains functions of those files and must be compiled anew when they change
_VERSION = compiled.version_of(gather_kernels, layer_kernels)
kernel = functools.partial(compiled.kernel, built_on=_VERSION)

# of the ambient light only, where there is nothing else yet or any more
_STRAIGHT, _ASLANT, _LOST = LIT, LIT + CHUNK, LIT + 2 * CHUNK
_MIRRORED = MAP  # three: the direction from which mirrored light comes

_0, _1, _2, _3 = np.float32(0), np.float32(1), np.float32(2), np.float32(3)
_HALF, _TINY = np.float32(0.5), np.float32(1e-20)
_TERMINATOR = np.float32(-0.1)  # cosine beyond which no shadow is looked up
_SHADOW_REACH = 5  # texels of the shadow filter


@shading
def _unit(buf, row, n):
    for i in range(row, row + n):
        x, y, z = buf[i], buf[i + CHUNK], buf[i + 2 * CHUNK]
        scale = _1 / math.sqrt(max(x * x + y * y + z * z, _TINY))
        buf[i], buf[i + CHUNK], buf[i + 2 * CHUNK] = x * scale, y * scale, z * scale


@shading
def _orient(buf, n, look, eye):
    """Unit normals, bent by the normal map, unit tangents across them, and the way to the eye."""
    e0, e1, e2, e3 = eye[0], eye[1], eye[2], eye[3]
    for i in range(n):
        buf[VIEW + i] = e0 - e3 * buf[POINT + i]
        buf[VIEW + CHUNK + i] = e1 - e3 * buf[POINT + CHUNK + i]
        buf[VIEW + 2 * CHUNK + i] = e2 - e3 * buf[POINT + 2 * CHUNK + i]
    _unit(buf, VIEW, n)
    _unit(buf, NORMAL, n)
    strands = look[STRANDS] > 0
    if not (strands or look[HAS_DETAIL] > 0):
        return
    for i in range(n):
        nx, ny, nz = buf[NORMAL + i], buf[NORMAL + CHUNK + i], buf[NORMAL + 2 * CHUNK + i]
        tx, ty, tz = buf[TANGENT + i], buf[TANGENT + CHUNK + i], buf[TANGENT + 2 * CHUNK + i]
        along = tx * nx + ty * ny + tz * nz
        buf[TANGENT + i] = tx - along * nx
        buf[TANGENT + CHUNK + i] = ty - along * ny
        buf[TANGENT + 2 * CHUNK + i] = tz - along * nz
    _unit(buf, TANGENT, n)
    if strands:
        return
    for i in range(n):
        nx, ny, nz = buf[NORMAL + i], buf[NORMAL + CHUNK + i], buf[NORMAL + 2 * CHUNK + i]
        tx, ty, tz = buf[TANGENT + i], buf[TANGENT + CHUNK + i], buf[TANGENT + 2 * CHUNK + i]
        mx = _2 * buf[MAP + i] - _1
        my = (_2 * buf[MAP + CHUNK + i] - _1) * buf[SIDE + i]
        mz = _2 * buf[MAP + 2 * CHUNK + i] - _1
        buf[NORMAL + i] = tx * mx + (ny * tz - nz * ty) * my + nx * mz
        buf[NORMAL + CHUNK + i] = ty * mx + (nz * tx - nx * tz) * my + ny * mz
        buf[NORMAL + 2 * CHUNK + i] = tz * mx + (nx * ty - ny * tx) * my + nz * mz
    _unit(buf, NORMAL, n)


@shading
def _sh(sh, x, y, z):
    """Ambient light from a direction; sh holds one channel's coefficients times SH_CONSTANTS."""
    light = sh[0] + x * (sh[1] + sh[4] * y + sh[7] * x) + y * (sh[2] + sh[6] * z - sh[7] * y)
    return max(light + z * (sh[3] + sh[5] * x) + sh[8] * (_3 * z * z - _1), _0)


@shading
def _power_of_two(t):
    """2 ** t for t in -10..0, to four digits."""
    t *= np.float32(math.log(2) / 16)
    t = _1 + t * (_1 + t * (_HALF + t * (np.float32(1 / 6) + t * np.float32(1 / 24))))
    t *= t
    t *= t
    t *= t
    return t * t


@shading
def _ambient(buf, n, look, ambient):
    """Start the light's sums with what comes from everywhere."""
    reflectance, metallic = look[REFLECTANCE], look[METALLIC]
    # what hardly reflects at all does not at a grazing angle either
    grazing = min(np.float32(50) * reflectance + metallic, _1)
    for i in range(n):
        nx, ny, nz = buf[NORMAL + i], buf[NORMAL + CHUNK + i], buf[NORMAL + 2 * CHUNK + i]
        vx, vy, vz = buf[VIEW + i], buf[VIEW + CHUNK + i], buf[VIEW + 2 * CHUNK + i]
        nv = min(max(nx * vx + ny * vy + nz * vz, np.float32(0.02)), _1)
        rough = buf[ROUGH + i]
        # ambient mirror light, after Karis' fit of the split-sum table
        c0 = _1 - rough
        a004 = min(c0 * c0, _power_of_two(np.float32(-9.28) * nv)) * c0
        a004 += np.float32(0.0425) - np.float32(0.0275) * rough
        straight = np.float32(1.04) * (_1 - a004) - np.float32(0.572) * rough
        aslant = np.float32(1.04) * a004 - np.float32(0.04) + np.float32(0.022) * rough
        # light that leaves a metal's bumps after several bounces (Fdez-Agüera 2019)
        lost = metallic * (_1 / max(straight + aslant, np.float32(0.1)) - _1)
        buf[_STRAIGHT + i], buf[_ASLANT + i], buf[_LOST + i] = straight, grazing * aslant, lost
        buf[_MIRRORED + i] = _2 * nv * nx - vx
        buf[_MIRRORED + CHUNK + i] = _2 * nv * ny - vy
        buf[_MIRRORED + 2 * CHUNK + i] = _2 * nv * nz - vz
    for k in range(3):
        sh = (
            ambient[0, k], ambient[1, k], ambient[2, k], ambient[3, k], ambient[4, k],
            ambient[5, k], ambient[6, k], ambient[7, k], ambient[8, k],
        )  # fmt: skip
        base, diffuse, shine = BASE + k * CHUNK, DIFFUSE + k * CHUNK, SHINE + k * CHUNK
        for i in range(n):
            paint, sky = buf[base + i], buf[SKY + i]
            ahead = reflectance + metallic * (paint - reflectance)
            mirror = max(ahead * buf[_STRAIGHT + i] + buf[_ASLANT + i], _0)
            mirror *= _1 + ahead * buf[_LOST + i]
            x, y = buf[_MIRRORED + i], buf[_MIRRORED + CHUNK + i]
            buf[shine + i] = _sh(sh, x, y, buf[_MIRRORED + 2 * CHUNK + i]) * mirror * sky
            # what is mirrored does not get into the surface; light reflected among the sides of a
            # hollow brightens it the more, the paler it is
            enters = max(_1 - mirror, _0) * sky * (_1 + np.float32(0.9) * (_1 - sky) * paint)
            x, y = buf[NORMAL + i], buf[NORMAL + CHUNK + i]
            buf[diffuse + i] = _sh(sh, x, y, buf[NORMAL + 2 * CHUNK + i]) * enters


@shading
def _lit(shadow_map, least, most, to_shadow, x, y, z):
    """Share of the key light that reaches a point: a mean over texels, box-filtered."""
    side = shadow_map.shape[0]
    px = to_shadow[0, 0] * x + to_shadow[0, 1] * y + to_shadow[0, 2] * z + to_shadow[0, 3]
    py = to_shadow[1, 0] * x + to_shadow[1, 1] * y + to_shadow[1, 2] * z + to_shadow[1, 3]
    pz = to_shadow[2, 0] * x + to_shadow[2, 1] * y + to_shadow[2, 2] * z + to_shadow[2, 3]
    reach = _SHADOW_REACH
    px, py = px - 0.5 * (reach + 1), py - 0.5 * (reach + 1)
    if not (px >= 0 and py >= 0 and px < side - reach - 1 and py < side - reach - 1):
        return 1.0
    column, row = int(px), int(py)
    if least[row, column] >= pz:
        return 1.0
    if most[row, column] < pz:
        return 0.0
    fx, fy, depth = np.float32(px - column), np.float32(py - row), np.float32(pz)
    total = _0
    for j in range(reach + 1):
        at = np.uint64(row + j)
        line = _0
        for i in range(reach + 1):
            passes = _1 if shadow_map[at, np.uint64(column + i)] >= depth else _0
            line += passes * (_1 - fx if i == 0 else (fx if i == reach else _1))
        total += line * (_1 - fy if j == 0 else (fy if j == reach else _1))
    return float(total) / (reach * reach)


@shading
def _cast_shadows(buf, n, look, lx, ly, lz, shadow_map, least, most, to_shadow):
    """What share of the key light arrives at each pixel, per channel."""
    # one and a half texels of the shadow map, metres
    steps = to_shadow[0, 0] ** 2 + to_shadow[0, 1] ** 2 + to_shadow[0, 2] ** 2
    texel = 1.5 / math.sqrt(max(steps, 1e-20))
    for i in range(n):
        nx, ny, nz = buf[NORMAL + i], buf[NORMAL + CHUNK + i], buf[NORMAL + 2 * CHUNK + i]
        nl = nx * lx + ny * ly + nz * lz
        lit = 1.0
        if nl > _TERMINATOR:
            push = texel * (1 + 1.5 * (1 - nl))
            lit = _lit(
                shadow_map, least, most, to_shadow,
                buf[POINT + i] + push * (nx + 0.7 * lx),
                buf[POINT + CHUNK + i] + push * (ny + 0.7 * ly),
                buf[POINT + 2 * CHUNK + i] + push * (nz + 0.7 * lz),
            )  # fmt: skip
            # beyond the terminator the shading itself is the shadow
            lit = 1 + min(max((nl + 0.1) / 0.35, 0.0), 1.0) * (lit - 1)
        share = np.float32(lit)
        buf[LIT + i] = buf[LIT + CHUNK + i] = buf[LIT + 2 * CHUNK + i] = share
        if _0 < share < _1 and look[WRAP] > 0:
            # penumbrae under skin run red
            buf[LIT + i] = share ** (_1 - np.float32(0.9) * look[WRAP])
            buf[LIT + CHUNK + i] = share ** (_1 - np.float32(0.9) * look[WRAP + 1])


@shading
def _reach_hollows(buf, n):
    """Lights without a shadow map reach hollows as little as the sky does."""
    for i in range(n):
        sky = buf[SKY + i]
        lit = sky + np.float32(0.35) * sky * (_1 - sky)
        buf[LIT + i] = buf[LIT + CHUNK + i] = buf[LIT + 2 * CHUNK + i] = lit


@shading
def _light_surface(buf, n, look, lx, ly, lz, colour):
    """Add one light on a smooth or rough surface (GGX after Karis 2013)."""
    reflectance, metallic = look[REFLECTANCE], look[METALLIC]
    grazing = min(np.float32(50) * reflectance + metallic, _1)
    # around the terminator squared, so that it meets the dark without an edge
    bend = _HALF if look[WRAP] + look[WRAP + 1] + look[WRAP + 2] > 0 else _0
    for i in range(n):
        nx, ny, nz = buf[NORMAL + i], buf[NORMAL + CHUNK + i], buf[NORMAL + 2 * CHUNK + i]
        vx, vy, vz = buf[VIEW + i], buf[VIEW + CHUNK + i], buf[VIEW + 2 * CHUNK + i]
        rough = buf[ROUGH + i]
        nl = nx * lx + ny * ly + nz * lz
        toward = max(nl, _0)
        nv = min(max(nx * vx + ny * vy + nz * vz, np.float32(0.02)), _1)
        hx, hy, hz = lx + vx, ly + vy, lz + vz
        scale = _1 / math.sqrt(max(hx * hx + hy * hy + hz * hz, _TINY))
        nh = min(max((nx * hx + ny * hy + nz * hz) * scale, _0), _1)
        vh = min(max((vx * hx + vy * hy + vz * hz) * scale, _0), _1)
        alpha = max(rough * rough, np.float32(0.02))
        half_k = _HALF * alpha
        alpha *= alpha
        spread = nh * nh * (alpha - _1) + _1
        away = _1 - vh
        away = away * (away * away) * (away * away)
        smith = (toward * (_1 - half_k) + half_k) * (nv * (_1 - half_k) + half_k)
        # times pi, as a light of 1 stands for a radiance of pi
        gloss = alpha * toward * buf[LIT + 2 * CHUNK + i] / (_2 * _2 * spread * spread * smith)
        dim = min(np.float32(1.5) * buf[SKY + i], _1)
        for k in range(3):
            row = k * CHUNK + i
            wrap = look[WRAP + k]
            soft = max(nl + wrap, _0)
            level = bend * (soft * soft / (_1 + wrap) - toward * (_1 + wrap)) + toward
            buf[DIFFUSE + row] += level * buf[LIT + row] * colour[k]
            straight_on = reflectance + metallic * (buf[BASE + row] - reflectance)
            fresnel = straight_on + grazing * (_1 - straight_on) * away
            buf[SHINE + row] += colour[k] * min(gloss * fresnel, np.float32(12)) * dim


@shading
def _light_strands(buf, n, lx, ly, lz, colour):
    """Add one light on hair (Kajiya and Kay 1989): it is lost along the tangent, not the normal."""
    for i in range(n):
        nx, ny, nz = buf[NORMAL + i], buf[NORMAL + CHUNK + i], buf[NORMAL + 2 * CHUNK + i]
        vx, vy, vz = buf[VIEW + i], buf[VIEW + CHUNK + i], buf[VIEW + 2 * CHUNK + i]
        tx, ty, tz = buf[TANGENT + i], buf[TANGENT + CHUNK + i], buf[TANGENT + 2 * CHUNK + i]
        nl = nx * lx + ny * ly + nz * lz
        tl = tx * lx + ty * ly + tz * lz
        tv = tx * vx + ty * vy + tz * vz
        sine = math.sqrt(max(_1 - tl * tl, _0))
        behind = min(max(_HALF + nl, _0), _1) * buf[LIT + 2 * CHUNK + i]
        level = np.float32(0.75) * sine * behind
        across = max(sine * math.sqrt(max(_1 - tv * tv, _0)) - tl * tv, _0)
        # to the power of 8 + 60 (1 - roughness), in quarters, by squares of its fourth root
        exponent = np.int32(np.float32(32.5) + np.float32(240) * (_1 - buf[ROUGH + i]))
        root, peak = math.sqrt(math.sqrt(across)), _1
        for bit in range(9):
            chosen = np.float32((exponent >> bit) & np.int32(1))
            peak *= _1 + chosen * (root - _1)
            root *= root
        peak *= behind * buf[SKY + i] * buf[SKY + i]
        for k in range(3):
            row = k * CHUNK + i
            tint = np.float32(0.10) + np.float32(0.55) * buf[BASE + row]
            buf[SHINE + row] += colour[k] * peak * tint
            buf[DIFFUSE + row] += colour[k] * level


@kernel(
    "void(i4[::1], i4[::1], i8, f8[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[::1],"
    " i4[:, ::1], f4[:, ::1], i4[:, ::1], f4[:, ::1], u2[:, ::1], i8[:, ::1],"
    " f4[::1], f4[::1], f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1],"
    " f4[:, ::1], f8[:, ::1], i8, f4[:, ::1])",
    fast=True,
)
def shade_fragments(
    pixels, ids, width, points, screen, verts, normals, sky, faces, uv, uv_faces, tangents,
    texels, levels, look, eye, ambient, directions, colours, shadow_map, least,
    most, to_shadow, opaque, out,
):  # fmt: skip
    """Linear colour and alpha of fragments (pixel, face) of one material.

    look is (roughness, reflectance at normal incidence, metallic, wrap r, g, b, has a detail
    texture, is made of strands, which need `tangents`). texels hold linear colour and alpha and,
    where there is a detail texture, tangent-space normals and roughness. least and most are the
    shadow map's `window_range`; an empty map means no
    shadows. Opaque fragments are written where their pixels are, others in their order.
    """
    buf = np.zeros(KEPT, dtype=np.float32)
    found = np.zeros(texels.shape[1], dtype=np.float32)
    metallic = look[METALLIC]
    for start in range(0, len(pixels), CHUNK):
        n = min(CHUNK, len(pixels) - start)
        gather(
            start, n, pixels, ids, width, points, screen, verts, normals, sky, faces, uv, uv_faces,
            tangents, texels, levels, look, found, buf,
        )  # fmt: skip
        _orient(buf, n, look, eye)
        _ambient(buf, n, look, ambient)
        for light in range(len(directions)):
            lx, ly, lz = directions[light, 0], directions[light, 1], directions[light, 2]
            if light == 0 and len(shadow_map) > 0:
                _cast_shadows(buf, n, look, lx, ly, lz, shadow_map, least, most, to_shadow)
            else:
                _reach_hollows(buf, n)
            if look[STRANDS] > 0:
                _light_strands(buf, n, lx, ly, lz, colours[light])
            else:
                _light_surface(buf, n, look, lx, ly, lz, colours[light])
        for i in range(n):
            at = pixels[start + i] if opaque == 1 else start + i
            total = _0
            for k in range(3):
                row = k * CHUNK + i
                matt = buf[BASE + row] * (_1 - metallic)
                light_out = matt * buf[DIFFUSE + row] + buf[SHINE + row]
                out[at, k] = light_out
                total += light_out
            if not total < np.float32(1e9):
                # vertices too far away for the arithmetic
                out[at, 0] = out[at, 1] = out[at, 2] = 0
            out[at, 3] = _1 if opaque == 1 else buf[BASE + 3 * CHUNK + i]
