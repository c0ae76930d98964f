"""Device functions of pictures in spherical-harmonic light: from faces to pixels, and back.

Import this file only inside a function: numba takes a while to load.

Along a face, each edge function is affine in the pixel, and so is every sum of the corners' values
weighted by them; the barycentrics' common divisor is one more such sum. So a face is set up once,
about the first of its pixels that is met; a pixel costs a product and a sum per value, and its
gradients are summed per face before they are passed on to the corners.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the kernels' signatures, which are strings

from __future__ import annotations

import numpy as np

from assets.compiled import shading
from flame.sh_pixel_kernels import CHUNK, ONE

VALUES = 7  # normal, colour or UV, divisor
# rows of a run: neighbouring pixels of one row of the picture that see the same face
SLOT, ROW, COLUMN, START, COUNT = range(5)
AT_ROW, AT_COLUMN, KNOWN, RUNS = range(4)  # places in `state`


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
    for k in range(3 * VALUES):
        setups[slot, k] = 0
    for corner in range(3):
        vertex, place = faces[f, corner], value_faces[f, corner]
        at = edges[corner, 2] * scale
        along, down = edges[corner, 0] * scale, edges[corner, 1] * scale
        for k in range(3):
            value = normals[vertex, k]
            setups[slot, k] += at * value
            setups[slot, k + VALUES] += along * value
            setups[slot, k + 2 * VALUES] += down * value
        for k in range(values.shape[1]):
            value = values[place, k]
            setups[slot, 3 + k] += at * value
            setups[slot, 3 + k + VALUES] += along * value
            setups[slot, 3 + k + 2 * VALUES] += down * value
        setups[slot, 6] += at
        setups[slot, 6 + VALUES] += along
        setups[slot, 6 + 2 * VALUES] += down
    return True


@shading
def gather(
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
    row, column = state[AT_ROW], state[AT_COLUMN]
    width = face_id.shape[1]
    one = look[ONE]
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
            slot = state[KNOWN]
            good = _set_up(
                points, faces, f, column, row, normals, values, value_faces, edges, setups, slot
            )
            if good:
                seen[slot, 0], seen[slot, 1], seen[slot, 2] = f, column, row
                state[KNOWN] += 1
            else:
                slot = -2
            slots[f] = slot
        if slot < 0:
            column = stop
            continue
        runs[n_runs, SLOT], runs[n_runs, ROW], runs[n_runs, COLUMN] = slot, row, column
        runs[n_runs, START], runs[n_runs, COUNT] = n, stop - column
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
    state[AT_ROW], state[AT_COLUMN], state[RUNS] = row, column, n_runs
    return n


@shading
def add_runs(buf, runs, n_runs, seen, look, sums):
    """Add the pixels' gradients to those of their faces' sums."""
    one = look[ONE]
    zero = one - one
    for run in range(n_runs):
        slot, start, count = runs[run, SLOT], runs[run, START], runs[run, COUNT]
        x = one * np.float32(runs[run, COLUMN] - seen[slot, 1])
        y = runs[run, ROW] - seen[slot, 2]
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
def pass_on(
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
            e0, e1, e2 = sums[slot, 6], sums[slot, 6 + VALUES], sums[slot, 6 + 2 * VALUES]
            for k in range(3):
                g, gx, gy = sums[slot, k], sums[slot, k + VALUES], sums[slot, k + 2 * VALUES]
                value = normals[vertex, k]
                e0 += g * value
                e1 += gx * value
                e2 += gy * value
                grad_normals[vertex, k] += at * g + along * gx + down * gy
            for k in range(values.shape[1]):
                g, gx, gy = (
                    sums[slot, 3 + k],
                    sums[slot, 3 + k + VALUES],
                    sums[slot, 3 + k + 2 * VALUES],
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
