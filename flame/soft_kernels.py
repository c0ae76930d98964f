"""Compiled CPU kernels of soft silhouettes.

Import this file only inside a function: the first import compiles, and `import flame` must stay
quick. Arithmetic is in float64; gradients of an image are summed by one thread in a fixed order.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the kernels' signatures, which are strings

from __future__ import annotations

import math

import numpy as np

from assets.compiled import device, kernel

SMALLEST_AREA = 1e-12  # twice a triangle's area in square pixels
BAND = 16  # rows whose lists are filled together, so that they stay in the cache


@device
def _segment(px, py, ax, ay, bx, by):
    """How far along a..b the point nearest to p lies, 0..1, and the offset from it to p."""
    ex, ey, dx, dy = bx - ax, by - ay, px - ax, py - ay
    t = (dx * ex + dy * ey) / (ex * ex + ey * ey)
    t = min(max(t, 0.0), 1.0)
    return t, dx - t * ex, dy - t * ey


@device
def _on_screen(points):
    """Pixels of each vertex; NaN behind the eye."""
    screen = np.empty((len(points), 2))
    for v in range(len(points)):
        w = points[v, 3] if points[v, 3] > 0 else np.nan
        screen[v, 0], screen[v, 1] = points[v, 0] / w, points[v, 1] / w
    return screen


@kernel("void(f8[:, ::1], i8[:, ::1], f8, f8, i8, i8, i4[:, :, ::1], f8[:, ::1])")
def soft_forward(points, faces, near, sigma, top, end, chosen, free):
    """Each pixel's nearest faces, -1 after the last, and the share that they leave free."""
    width, K = chosen.shape[1], chosen.shape[2]
    least = -sigma * math.log(1e4 - 1)  # where the sigmoid is 1e-4
    radius = math.sqrt(-least)
    screen = _on_screen(points)
    listed, count = np.empty(len(faces), np.int64), 0
    box = np.empty((len(faces), 4), np.int64)  # first and last column, first and last row
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if a < 0:  # padding
            continue
        ax, ay, bx, by = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1]
        cx, cy = screen[c, 0], screen[c, 1]
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if not (abs(area) > SMALLEST_AREA and abs(area) < np.inf):
            continue
        za, zb, zc = points[a, 2], points[b, 2], points[c, 2]
        if not (abs(za) < np.inf and abs(zb) < np.inf and abs(zc) < np.inf):
            continue
        if za < near * points[a, 3] or zb < near * points[b, 3] or zc < near * points[c, 3]:
            continue
        left, right = min(ax, min(bx, cx)) - radius, max(ax, max(bx, cx)) + radius
        high, low = min(ay, min(by, cy)) - radius, max(ay, max(by, cy)) + radius
        if not (right >= 0.5 and left <= width - 0.5 and low >= top + 0.5 and high <= end - 0.5):
            continue
        box[count, 0] = math.ceil(max(left - 0.5, 0.0))
        box[count, 1] = math.floor(min(right - 0.5, width - 1.0))
        box[count, 2] = math.ceil(max(high - 0.5, float(top)))
        box[count, 3] = math.floor(min(low - 0.5, end - 1.0))
        listed[count] = f
        count += 1

    signed = np.empty(width)
    keys = np.empty((BAND, width, K))
    filled = np.empty((BAND, width), np.int64)
    for band in range(top, end, BAND):
        band_end = min(band + BAND, end)
        filled[:] = 0
        for n in range(count):
            if box[n, 2] >= band_end or box[n, 3] < band:
                continue
            f = listed[n]
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            ax, ay, bx, by = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1]
            cx, cy = screen[c, 0], screen[c, 1]
            sign = 1.0 if (bx - ax) * (cy - ay) - (cx - ax) * (by - ay) > 0 else -1.0
            abx, aby, bcx, bcy, cax, cay = bx - ax, by - ay, cx - bx, cy - by, ax - cx, ay - cy
            ab = 1 / (abx * abx + aby * aby)
            bc = 1 / (bcx * bcx + bcy * bcy)
            ca = 1 / (cax * cax + cay * cay)
            first, last = box[n, 0], box[n, 1]
            for row in range(max(box[n, 2], band), min(box[n, 3] + 1, band_end)):
                dya, dyb, dyc = row + 0.5 - ay, row + 0.5 - by, row + 0.5 - cy
                for k in range(last - first + 1):
                    px = first + k + 0.5
                    dxa, dxb, dxc = px - ax, px - bx, px - cx
                    t = min(max((dxa * abx + dya * aby) * ab, 0.0), 1.0)
                    rx, ry = dxa - t * abx, dya - t * aby
                    near_ab = rx * rx + ry * ry
                    t = min(max((dxb * bcx + dyb * bcy) * bc, 0.0), 1.0)
                    rx, ry = dxb - t * bcx, dyb - t * bcy
                    near_bc = rx * rx + ry * ry
                    t = min(max((dxc * cax + dyc * cay) * ca, 0.0), 1.0)
                    rx, ry = dxc - t * cax, dyc - t * cay
                    square = min(near_ab, min(near_bc, rx * rx + ry * ry))
                    e0 = sign * (abx * dya - aby * dxa)
                    e1 = sign * (bcx * dyb - bcy * dxb)
                    e2 = sign * (cax * dyc - cay * dxc)
                    signed[k] = square if min(e0, min(e1, e2)) >= 0 else -square
                for k in range(last - first + 1):
                    key = signed[k]
                    if not key >= least:
                        continue
                    column = first + k
                    place = filled[row - band, column]
                    if place == K:
                        if not key > keys[row - band, column, K - 1]:
                            continue
                        place -= 1
                    else:
                        filled[row - band, column] += 1
                    while place > 0 and key > keys[row - band, column, place - 1]:
                        keys[row - band, column, place] = keys[row - band, column, place - 1]
                        chosen[row, column, place] = chosen[row, column, place - 1]
                        place -= 1
                    keys[row - band, column, place] = key
                    chosen[row, column, place] = f
        for row in range(band, band_end):
            for column in range(width):
                product, inside = 1.0, filled[row - band, column]
                for k in range(inside):
                    product /= 1 + math.exp(keys[row - band, column, k] / sigma)
                if inside < K:
                    chosen[row, column, inside] = -1
                free[row, column] = product


@kernel("void(f8[:, ::1], i8[:, ::1], f8, i4[:, :, ::1], f8[:, ::1], f8[:, ::1], f8[:, ::1])")
def soft_backward(points, faces, sigma, chosen, free, grad_out, grad_points):
    """Add the gradient of the covered share to that of the points."""
    screen = _on_screen(points)
    grad = np.zeros((len(points), 2))
    height, width, K = chosen.shape
    for row in range(height):
        py = row + 0.5
        for column in range(width):
            slope = 2 * grad_out[row, column] * free[row, column] / sigma
            if slope == 0:
                continue
            px = column + 0.5
            for k in range(K):
                f = chosen[row, column, k]
                if f < 0:
                    break
                a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
                ax, ay, bx, by = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1]
                cx, cy = screen[c, 0], screen[c, 1]
                t, rx, ry = _segment(px, py, ax, ay, bx, by)
                from_end, to_end = a, b
                t1, rx1, ry1 = _segment(px, py, bx, by, cx, cy)
                if rx1 * rx1 + ry1 * ry1 < rx * rx + ry * ry:
                    t, rx, ry, from_end, to_end = t1, rx1, ry1, b, c
                t1, rx1, ry1 = _segment(px, py, cx, cy, ax, ay)
                if rx1 * rx1 + ry1 * ry1 < rx * rx + ry * ry:
                    t, rx, ry, from_end, to_end = t1, rx1, ry1, c, a
                e0 = (bx - ax) * (py - ay) - (by - ay) * (px - ax)
                e1 = (cx - bx) * (py - by) - (cy - by) * (px - bx)
                e2 = (ax - cx) * (py - cy) - (ay - cy) * (px - cx)
                sign = 1.0 if (bx - ax) * (cy - ay) - (cx - ax) * (by - ay) > 0 else -1.0
                inside = min(sign * e0, min(sign * e1, sign * e2)) >= 0
                square = rx * rx + ry * ry
                key = square if inside else -square
                change = slope / (1 + math.exp(-key / sigma))
                if inside:
                    change = -change
                # the nearest point moves with its edge's ends
                grad[from_end, 0] += change * (1 - t) * rx
                grad[from_end, 1] += change * (1 - t) * ry
                grad[to_end, 0] += change * t * rx
                grad[to_end, 1] += change * t * ry
    for v in range(len(points)):
        gx, gy = grad[v, 0], grad[v, 1]
        if gx != 0 or gy != 0:
            w = points[v, 3]
            grad_points[v, 0] += gx / w
            grad_points[v, 1] += gy / w
            grad_points[v, 3] -= (gx * screen[v, 0] + gy * screen[v, 1]) / w
