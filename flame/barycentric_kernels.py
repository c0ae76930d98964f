"""Compiled CPU kernels for visible faces: barycentrics, attributes, and their gradients.

Import this file only inside a function, through `flame.raster.load_kernels`, for the
reason that `flame.visibility_kernels` gives.

Along a row of pixels that see one face, its edge functions are linear: they are computed at the
first pixel of such a run, and gradients are summed over the run before they go to the vertices.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the kernels' signatures, which are strings

from __future__ import annotations

import numpy as np

from assets.compiled import device, kernel

SMALLEST = 1e-300  # a divisor that does not overflow


@device
def _run(points, a, b, c, px, py):
    """Edge functions at a pixel and their steps along the row, oriented as the face is.

    Also their sum weighted by w, which is the same at every pixel of the face.
    """
    w0, w1, w2 = points[a, 3], points[b, 3], points[c, 3]
    dx0, dy0 = points[a, 0] - px * w0, points[a, 1] - py * w0
    dx1, dy1 = points[b, 0] - px * w1, points[b, 1] - py * w1
    dx2, dy2 = points[c, 0] - px * w2, points[c, 1] - py * w2
    e0, e1, e2 = dx1 * dy2 - dx2 * dy1, dx2 * dy0 - dx0 * dy2, dx0 * dy1 - dx1 * dy0
    s0, s1, s2 = w2 * dy1 - w1 * dy2, w0 * dy2 - w2 * dy0, w1 * dy0 - w0 * dy1
    return e0, e1, e2, s0, s1, s2, e0 * w0 + e1 * w1 + e2 * w2


_BARYCENTRICS = "void(f8[:, ::1], i8[:, ::1], i8, i8, i8[:, ::1], {0}[:, :, ::1], {0}[:, ::1])"


@kernel(_BARYCENTRICS.format("f4"), _BARYCENTRICS.format("f8"))
def barycentrics(points, faces, top, end, face_id, bary, depth):
    """Perspective-correct barycentrics of rows top..end, 0 in the background.

    Also writes the depth, infinite in the background, unless `depth` is empty.
    """
    width = face_id.shape[1]
    with_depth = depth.shape[0] > 0
    for row in range(top, end):
        column = 0
        while column < width:
            f = face_id[row, column]
            if f < 0:
                bary[row, column, 0] = bary[row, column, 1] = bary[row, column, 2] = 0
                if with_depth:
                    depth[row, column] = np.inf
                column += 1
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            e0, e1, e2, s0, s1, s2, det = _run(points, a, b, c, column + 0.5, row + 0.5)
            z0, z1, z2 = points[a, 2], points[b, 2], points[c, 2]
            z, z_step = (e0 * z0 + e1 * z1 + e2 * z2) / det, (s0 * z0 + s1 * z1 + s2 * z2) / det
            if det < 0:
                e0, e1, e2, s0, s1, s2 = -e0, -e1, -e2, -s0, -s1, -s2
            flat = points[a, 3] == points[b, 3] and points[b, 3] == points[c, 3]
            until = column + 1
            while until < width and face_id[row, until] == f:
                until += 1
            if flat:
                # the edge functions' sum is the same all along
                inverse = 1 / max(e0 + e1 + e2, SMALLEST)
                e0, e1, e2 = e0 * inverse, e1 * inverse, e2 * inverse
                s0, s1, s2 = s0 * inverse, s1 * inverse, s2 * inverse
                for k in range(np.int32(until - column)):
                    # a pixel on an edge may come out a rounding error beyond it
                    bary[row, np.uint64(column + k), 0] = max(e0 + k * s0, 0.0)
                    bary[row, np.uint64(column + k), 1] = max(e1 + k * s1, 0.0)
                    bary[row, np.uint64(column + k), 2] = max(e2 + k * s2, 0.0)
            else:
                for k in range(np.int32(until - column)):
                    l0, l1, l2 = max(e0 + k * s0, 0.0), max(e1 + k * s1, 0.0), max(e2 + k * s2, 0.0)
                    inverse = 1 / max(l0 + l1 + l2, SMALLEST)
                    bary[row, np.uint64(column + k), 0] = l0 * inverse
                    bary[row, np.uint64(column + k), 1] = l1 * inverse
                    bary[row, np.uint64(column + k), 2] = l2 * inverse
            if with_depth:
                for k in range(np.int32(until - column)):
                    depth[row, np.uint64(column + k)] = z + k * z_step
            column = until


_FRAGMENTS_BACKWARD = (
    "void(f8[:, ::1], i8[:, ::1], i8, i8, i8[:, ::1], {0}[:, :, ::1], {0}[:, ::1], f8[:, ::1])"
)


@kernel(_FRAGMENTS_BACKWARD.format("f4"), _FRAGMENTS_BACKWARD.format("f8"))
def fragments_backward(points, faces, top, end, face_id, grad_bary, grad_depth, grad_points):
    """Add the gradients of rows top..end to those of the homogeneous points.

    Either gradient may be empty. Pixels are visited in order, so sums repeat bit for bit.
    """
    width = face_id.shape[1]
    with_bary, with_depth = grad_bary.shape[0] > 0, grad_depth.shape[0] > 0
    for row in range(top, end):
        column = 0
        while column < width:
            f = face_id[row, column]
            if f < 0:
                column += 1
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            px, py = column + 0.5, row + 0.5
            e0, e1, e2, s0, s1, s2, det = _run(points, a, b, c, px, py)
            z0, z1, z2 = points[a, 2], points[b, 2], points[c, 2]
            w0, w1, w2 = points[a, 3], points[b, 3], points[c, 3]
            z, z_step = (e0 * z0 + e1 * z1 + e2 * z2) / det, (s0 * z0 + s1 * z1 + s2 * z2) / det
            total, total_step = e0 + e1 + e2, s0 + s1 + s2
            flat = w0 == w1 and w1 == w2
            inverse = 1 / total
            # sums over the run of the edge functions' gradients h, of h times the step, and of
            # the depth's slope times the step's powers
            h0 = h1 = h2 = k0 = k1 = k2 = d0 = d1 = d2 = 0.0
            step = 0.0
            while column < width and face_id[row, column] == f:
                if with_bary:
                    g0 = grad_bary[row, column, 0]
                    g1 = grad_bary[row, column, 1]
                    g2 = grad_bary[row, column, 2]
                    if not flat:
                        inverse = 1 / (total + step * total_step)
                    l0, l1, l2 = e0 + step * s0, e1 + step * s1, e2 + step * s2
                    mean = (g0 * l0 + g1 * l1 + g2 * l2) * inverse
                    g0, g1, g2 = (g0 - mean) * inverse, (g1 - mean) * inverse, (g2 - mean) * inverse
                    h0, h1, h2 = h0 + g0, h1 + g1, h2 + g2
                    k0, k1, k2 = k0 + step * g0, k1 + step * g1, k2 + step * g2
                if with_depth:
                    slope = np.float64(grad_depth[row, column])
                    d0, d1, d2 = d0 + slope, d1 + step * slope, d2 + step * step * slope
                step += 1.0
                column += 1
            if with_depth:
                d0, d1, d2 = d0 / det, d1 / det, d2 / det
                # depth is z + step * z_step, and its gradient by an edge function z_i - depth w_i
                near0, near1 = z * d0 + z_step * d1, z * d1 + z_step * d2
                h0, k0 = h0 + z0 * d0 - w0 * near0, k0 + z0 * d1 - w0 * near1
                h1, k1 = h1 + z1 * d0 - w1 * near0, k1 + z1 * d1 - w1 * near1
                h2, k2 = h2 + z2 * d0 - w2 * near0, k2 + z2 * d1 - w2 * near1
            else:
                near0 = near1 = 0.0
            dx0, dy0 = points[a, 0] - px * w0, points[a, 1] - py * w0
            dx1, dy1 = points[b, 0] - px * w1, points[b, 1] - py * w1
            dx2, dy2 = points[c, 0] - px * w2, points[c, 1] - py * w2
            for v, e, s, hi, hj, ki, kj, dxi, dyi, wi, dxj, dyj, wj in (
                (a, e0, s0, h1, h2, k1, k2, dx1, dy1, w1, dx2, dy2, w2),
                (b, e1, s1, h2, h0, k2, k0, dx2, dy2, w2, dx0, dy0, w0),
                (c, e2, s2, h0, h1, k0, k1, dx0, dy0, w0, dx1, dy1, w1),
            ):
                gx = hj * dyi - hi * dyj
                gy = hi * dxj - ki * wj - hj * dxi + kj * wi
                grad_points[v, 0] += gx
                grad_points[v, 1] += gy
                grad_points[v, 2] += e * d0 + s * d1
                grad_points[v, 3] -= (
                    px * gx + (kj * dyi - ki * dyj) + py * gy + e * near0 + s * near1
                )


_INTERPOLATE = "i8({0}[:, ::1], i8[:, ::1], i8[:, ::1], {0}[:, :, ::1], {0}[:, :, ::1])"


@kernel(_INTERPOLATE.format("f4"), _INTERPOLATE.format("f8"))
def interpolate(attributes, faces, face_id, bary, out):
    """Weighted means of the corners' attributes, zero in the background.

    Returns -1, or the first face seen that is none of `faces` or points past the attributes.
    """
    count, channels = attributes.shape
    for row in range(face_id.shape[0]):
        for column in range(face_id.shape[1]):
            f = face_id[row, column]
            if f < 0:
                out[row, column, :] = 0
                continue
            if f >= len(faces):
                return f
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            if min(a, b, c) < 0 or max(a, b, c) >= count:
                return f
            l0, l1, l2 = bary[row, column, 0], bary[row, column, 1], bary[row, column, 2]
            for k in range(channels):
                out[row, column, k] = (
                    l0 * attributes[a, k] + l1 * attributes[b, k] + l2 * attributes[c, k]
                )
    return -1


_INTERPOLATE_BACKWARD = (
    "void({0}[:, ::1], i8[:, ::1], i8[:, ::1], {0}[:, :, ::1], {0}[:, :, ::1],"
    " {0}[:, ::1], {0}[:, :, ::1])"
)


@kernel(_INTERPOLATE_BACKWARD.format("f4"), _INTERPOLATE_BACKWARD.format("f8"))
def interpolate_backward(attributes, faces, face_id, bary, grad_out, grad_attributes, grad_bary):
    """Add the corners' gradients and write the barycentrics' (0 in the background).

    Either may be empty where it is not wanted.
    """
    channels = attributes.shape[1]
    with_attributes, with_bary = grad_attributes.shape[0] > 0, grad_bary.shape[0] > 0
    for row in range(face_id.shape[0]):
        for column in range(face_id.shape[1]):
            f = face_id[row, column]
            if f < 0:
                if with_bary:
                    grad_bary[row, column, :] = 0
                continue
            for corner in range(3):
                vertex = faces[f, corner]
                if with_attributes:
                    weight = bary[row, column, corner]
                    for k in range(channels):
                        grad_attributes[vertex, k] += grad_out[row, column, k] * weight
                if with_bary:
                    total = 0.0
                    for k in range(channels):
                        total += grad_out[row, column, k] * attributes[vertex, k]
                    grad_bary[row, column, corner] = total
