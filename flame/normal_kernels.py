"""Compiled CPU kernels of vertex normals and their gradients.

Import this file only inside a function: numba takes a while to load.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the kernels' signatures, which are strings

from __future__ import annotations

import math

from assets.compiled import kernel

_ADD_FACES = "void({0}[:, ::1], i8[:, ::1], f8[:, ::1])"


@kernel(_ADD_FACES.format("f4"), _ADD_FACES.format("f8"))
def add_faces(verts, faces, total):
    """Add each face's normal, twice its area long, to its three vertices."""
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        x0, y0, z0 = float(verts[a, 0]), float(verts[a, 1]), float(verts[a, 2])
        x1, y1, z1 = verts[b, 0] - x0, verts[b, 1] - y0, verts[b, 2] - z0
        x2, y2, z2 = verts[c, 0] - x0, verts[c, 1] - y0, verts[c, 2] - z0
        x, y, z = y1 * z2 - z1 * y2, z1 * x2 - x1 * z2, x1 * y2 - y1 * x2
        total[a, 0] += x
        total[a, 1] += y
        total[a, 2] += z
        total[b, 0] += x
        total[b, 1] += y
        total[b, 2] += z
        total[c, 0] += x
        total[c, 1] += y
        total[c, 2] += z


_UNIT = "void(f8[:, ::1], f8, {0}[:, ::1])"


@kernel(_UNIT.format("f4"), _UNIT.format("f8"))
def unit(total, least, normals):
    """Make sums unit vectors; sums shorter than `least` are divided by it."""
    for v in range(len(total)):
        x, y, z = total[v, 0], total[v, 1], total[v, 2]
        scale = 1.0 / max(math.sqrt(x * x + y * y + z * z), least)
        normals[v, 0], normals[v, 1], normals[v, 2] = x * scale, y * scale, z * scale


_BACKWARD = "void({0}[:, ::1], i8[:, ::1], f8[:, ::1], f8, {0}[:, ::1], f8[:, ::1])"


@kernel(_BACKWARD.format("f4"), _BACKWARD.format("f8"))
def vertex_normals_backward(verts, faces, total, least, grad_normals, grad_verts):
    """Add the normals' gradients to the vertices'; `total` becomes the gradient of the sums.

    Sums no longer than `least` get none. One thread visits the faces in order, so sums repeat bit
    for bit.
    """
    for v in range(len(total)):
        x, y, z = total[v, 0], total[v, 1], total[v, 2]
        length = math.sqrt(x * x + y * y + z * z)
        scale = 1.0 / length if length > least else 0.0
        x, y, z = x * scale, y * scale, z * scale
        gx, gy, gz = grad_normals[v, 0], grad_normals[v, 1], grad_normals[v, 2]
        along = gx * x + gy * y + gz * z
        total[v, 0] = (gx - x * along) * scale
        total[v, 1] = (gy - y * along) * scale
        total[v, 2] = (gz - z * along) * scale
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        gx = total[a, 0] + total[b, 0] + total[c, 0]
        gy = total[a, 1] + total[b, 1] + total[c, 1]
        gz = total[a, 2] + total[b, 2] + total[c, 2]
        x0, y0, z0 = float(verts[a, 0]), float(verts[a, 1]), float(verts[a, 2])
        x1, y1, z1 = verts[b, 0] - x0, verts[b, 1] - y0, verts[b, 2] - z0
        x2, y2, z2 = verts[c, 0] - x0, verts[c, 1] - y0, verts[c, 2] - z0
        # the triple product of two sides and the gradient may be turned in a circle
        hx, hy, hz = y2 * gz - z2 * gy, z2 * gx - x2 * gz, x2 * gy - y2 * gx
        kx, ky, kz = gy * z1 - gz * y1, gz * x1 - gx * z1, gx * y1 - gy * x1
        grad_verts[b, 0] += hx
        grad_verts[b, 1] += hy
        grad_verts[b, 2] += hz
        grad_verts[c, 0] += kx
        grad_verts[c, 1] += ky
        grad_verts[c, 2] += kz
        grad_verts[a, 0] -= hx + kx
        grad_verts[a, 1] -= hy + ky
        grad_verts[a, 2] -= hz + kz
