"""Compiled CPU kernels of the preview renderer: the light that fragments send out.

Import this file only inside a function, through `flame.render.kernels()`, for the reason that
`flame.raster_kernels` gives.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the kernels' signatures, which are strings

from __future__ import annotations

import functools
import hashlib
import inspect
import math

from flame import raster_kernels
from flame.raster_kernels import corners, mip_level, sample, shading

# the kernels below contain functions of that file and must be compiled anew when it changes
_VERSION = hashlib.sha256(inspect.getsource(raster_kernels).encode()).hexdigest()[:8]
kernel = functools.partial(raster_kernels.kernel, built_on=_VERSION)


@shading
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


@shading
def _wrapped(nl, wrap):
    """Diffuse light around the terminator: squared, so that it meets the dark without an edge."""
    soft = max((nl + wrap) / (1 + wrap), 0.0)
    return 0.5 * (soft * soft * (1 + wrap) + max(nl, 0.0) * (1 - wrap))


@shading
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


@kernel(
    "void(i8[::1], i8[::1], i8, f8[:, ::1], f4[:, ::1], f4[:, ::1], f4[::1], i8[:, ::1],"
    " f4[:, ::1], i8[:, ::1], f4[:, ::1], u2[:, ::1], i8[:, ::1], u2[:, ::1], i8[:, ::1], f8[::1],"
    " f8[::1],"
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
    tangents,
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
    is made of strands, which need `tangents`). surface holds tangent-space normals and, as alpha,
    roughness. An empty shadow_map means no shadows.
    """
    last, lod, detail_lod = -1, 0.0, 0.0
    # one and a half texels of the shadow map, metres
    steps = to_shadow[0, 0] ** 2 + to_shadow[0, 1] ** 2 + to_shadow[0, 2] ** 2
    shadow_texel = 1.5 / math.sqrt(max(steps, 1e-20))
    for i in range(len(pixels)):
        f = face_ids[i]
        if f != last:
            last = f
            lod = mip_level(points, faces, uv, uv_faces, f, base_levels)
            if look[5] > 0:
                detail_lod = mip_level(points, faces, uv, uv_faces, f, surface_levels)
        px, py = pixels[i] % width + 0.5, pixels[i] // width + 0.5
        e0, e1, e2 = corners(points, faces, f, px, py)
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

        red, green, blue, alpha = sample(base, base_levels, u, v, lod)
        roughness = look[0]
        tx, ty, tz = 1.0, 0.0, 0.0
        if look[5] > 0 or look[6] > 0:
            # strands run along their tangents, bumps lean along growing u
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
                tx = l0 * tangents[ta, 0] + l1 * tangents[tb, 0] + l2 * tangents[tc, 0]
                ty = l0 * tangents[ta, 1] + l1 * tangents[tb, 1] + l2 * tangents[tc, 1]
                tz = l0 * tangents[ta, 2] + l1 * tangents[tb, 2] + l2 * tangents[tc, 2]
            else:
                tx = (px1 * wy - px2 * vy1) * sign
                ty = (py1 * wy - py2 * vy1) * sign
                tz = (pz1 * wy - pz2 * vy1) * sign
            along = tx * nx + ty * ny + tz * nz
            tx, ty, tz = tx - along * nx, ty - along * ny, tz - along * nz
            scale = 1 / math.sqrt(max(tx * tx + ty * ty + tz * tz, 1e-20))
            tx, ty, tz = tx * scale, ty * scale, tz * scale
            if look[5] > 0:
                mx, my, mz, roughness = sample(surface, surface_levels, u, v, detail_lod)
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
