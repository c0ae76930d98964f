"""Compiled CPU kernels of edge antialiasing.

Import this file only inside a function: the first import compiles, and `import flame` must stay
quick. Geometry is in float64; one thread works on an image, so sums repeat bit for bit.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the kernels' signatures, which are strings

from __future__ import annotations

import numpy as np

from assets.compiled import device, kernel

BLOCK = 16  # pixels looked at together
LONGEST_WALK = 1024  # faces between two pixel centres
FARTHEST = 1 + 1e-9  # an edge may run through the next pixel's centre
NOTHING, FOUND, JOINED = 0, 1, 2


@kernel("i8[:, ::1](i8[:, ::1])")
def opposite_corners(faces):
    """Per corner, the corner across the opposite edge in faces.ravel(); -1 where there is none."""
    count = 3 * len(faces)
    size = 16
    while size < 2 * count:
        size *= 2
    low_end, high_end = np.full(size, -1, np.int64), np.empty(size, np.int64)
    times, total = np.zeros(size, np.int64), np.zeros(size, np.int64)
    place = np.full(count, -1, np.int64)
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if a == b or b == c or c == a:
            continue  # covers nothing, so nothing ends at its edges
        for k in range(3):
            one, two = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
            low, high = min(one, two), max(one, two)
            slot = low * 0x9E3779B1 + high * 0x85EBCA77
            slot = (slot ^ (slot >> 15)) & (size - 1)
            while low_end[slot] >= 0 and (low_end[slot] != low or high_end[slot] != high):
                slot = (slot + 1) & (size - 1)
            low_end[slot], high_end[slot] = low, high
            times[slot] += 1
            total[slot] += 3 * f + k
            place[3 * f + k] = slot
    across = np.full((len(faces), 3), -1, np.int64)
    for corner in range(count):
        if place[corner] >= 0 and times[place[corner]] == 2:
            across[corner // 3, corner % 3] = total[place[corner]] - corner
    return across


@device
def _walk(screen, faces, opposite, face, goal, axis, x, y, step):
    """From a pixel centre on `face` along an axis: the silhouette edge within one pixel.

    Returns what happened, and the edge's ends on the negative and the other side of the line, and
    how far it lies. JOINED means that the surface goes on into the face `goal`.
    """
    a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
    a_ahead, a_across = _place(screen, a, axis, x, y, step)
    b_ahead, b_across = _place(screen, b, axis, x, y, step)
    c_ahead, c_across = _place(screen, c, axis, x, y, step)
    if not a_across + b_across + c_across < np.inf:  # a corner is behind the eye
        return NOTHING, a, b, 0.0
    # half-open, so that a corner on the line belongs to one of its two edges
    low_a, low_b, low_c = a_across < 0, b_across < 0, c_across < 0
    if low_a == low_b and low_b == low_c:
        return NOTHING, a, b, 0.0
    # turn the corners so that a is alone on its side of the line
    alone = 0
    if low_a == low_c:
        a, b, c, alone = b, c, a, 1
        a_ahead, b_ahead, c_ahead = b_ahead, c_ahead, a_ahead
        a_across, b_across, c_across = b_across, c_across, a_across
    elif low_a == low_b:
        a, b, c, alone = c, a, b, 2
        a_ahead, b_ahead, c_ahead = c_ahead, a_ahead, b_ahead
        a_across, b_across, c_across = c_across, a_across, b_across
    over_b, over_c = (alone + 1) % 3, (alone + 2) % 3
    if a_across < 0:
        to_b = a_ahead + a_across / (a_across - b_across) * (b_ahead - a_ahead)
        to_c = a_ahead + a_across / (a_across - c_across) * (c_ahead - a_ahead)
    else:
        to_b = b_ahead + b_across / (b_across - a_across) * (a_ahead - b_ahead)
        to_c = c_ahead + c_across / (c_across - a_across) * (a_ahead - c_ahead)
    # leave through the farther edge, which lies opposite the third corner
    if to_b > to_c or (to_b == to_c and over_c < over_b):
        reach, corner = to_b, 3 * face + over_c
    else:
        reach, corner = to_c, 3 * face + over_b
        b, b_ahead, b_across = c, c_ahead, c_across
    if not a_across < 0:
        a, b = b, a
        a_ahead, b_ahead = b_ahead, a_ahead
        a_across, b_across = b_across, a_across
    for _ in range(LONGEST_WALK):
        if not reach <= FARTHEST:
            return NOTHING, a, b, reach
        twin = opposite[corner // 3, corner % 3]
        if twin < 0:
            return FOUND, a, b, reach
        face = twin // 3
        v = faces[face, twin % 3]
        v_ahead, v_across = _place(screen, v, axis, x, y, step)
        side = (b_ahead - a_ahead) * (v_across - a_across)
        side -= (b_across - a_across) * (v_ahead - a_ahead)
        if side > 0:  # the surface turns back
            return FOUND, a, b, reach
        if not side <= 0:  # it goes on behind the eye
            return NOTHING, a, b, reach
        if face == goal:
            return JOINED, a, b, reach
        if v_across < 0:
            left, a, a_ahead, a_across = a, v, v_ahead, v_across
        else:
            left, b, b_ahead, b_across = b, v, v_ahead, v_across
        near = (twin % 3 + 1) % 3
        corner = 3 * face + (near if faces[face, near] == left else (near + 1) % 3)
        reach = a_ahead + a_across / (a_across - b_across) * (b_ahead - a_ahead)
    return NOTHING, a, b, reach


@device
def _place(screen, v, axis, x, y, step):
    """A vertex as seen from (x, y): how far ahead along the axis, and across it."""
    dx, dy = screen[v, 0] - x, screen[v, 1] - y
    return (dx * step, dy) if axis == 0 else (dy * step, dx)


@device
def _plane_depth(points, faces, face, x, y):
    """Depth of a face's plane at (x, y)."""
    a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
    dx0, dy0 = points[a, 0] - x * points[a, 3], points[a, 1] - y * points[a, 3]
    dx1, dy1 = points[b, 0] - x * points[b, 3], points[b, 1] - y * points[b, 3]
    dx2, dy2 = points[c, 0] - x * points[c, 3], points[c, 1] - y * points[c, 3]
    e0, e1, e2 = dx1 * dy2 - dx2 * dy1, dx2 * dy0 - dx0 * dy2, dx0 * dy1 - dx1 * dy0
    z = e0 * points[a, 2] + e1 * points[b, 2] + e2 * points[c, 2]
    return z / (e0 * points[a, 3] + e1 * points[b, 3] + e2 * points[c, 3])


@device
def _edge_between(points, screen, faces, opposite, f, g, swap, axis, row, column):
    """The silhouette edge between the centre of (row, column), which sees f, and the next one's.

    swap: search from the next pixel first. Returns FOUND or not, whether the search was from the
    next pixel, and the edge's ends.
    """
    for turn in range(2):
        back = swap != (turn == 1)
        face, goal = (g, f) if back else (f, g)
        if face < 0:
            break
        x = column + 0.5 + (1 - axis if back else 0)
        y = row + 0.5 + (axis if back else 0)
        step = -1.0 if back else 1.0
        outcome, a, b, reach = _walk(screen, faces, opposite, face, goal, axis, x, y, step)
        if outcome == JOINED:
            break
        if outcome == FOUND and turn == 1:
            # the farther pixel's surface may end out of sight, behind the nearer one's
            wa, wb = points[a, 3], points[b, 3]
            _, one = _place(screen, a, axis, x, y, step)
            _, two = _place(screen, b, axis, x, y, step)
            z = points[a, 2] / wa + one / (one - two) * (points[b, 2] / wb - points[a, 2] / wa)
            if axis == 0:
                x += reach * step
            else:
                y += reach * step
            if not z <= _plane_depth(points, faces, goal, x, y):
                outcome = NOTHING
        if outcome == FOUND:
            return FOUND, back, a, b
        if goal < 0:
            break
    return NOTHING, False, 0, 0


@kernel(
    "Tuple((i8[:, ::1], f8[:, ::1]))"
    "(f8[:, ::1], i8[:, ::1], i8[:, ::1], i8[:, ::1], f4[:, ::1], f8[::1])"
)
def find(points, faces, opposite, face_id, depth, load):
    """Pixels that a silhouette edge cuts: [target, source, edge's ends], [share, its slopes].

    The target takes on `share` of the source's colour; slopes are those of the share, before it is
    divided, in x and y of the first and of the second end; last comes what it was divided by.
    An empty depth asks for edges against the background alone. load is zeros, one a pixel.
    """
    height, width = face_id.shape
    outline = len(depth) == 0
    screen = np.empty((len(points), 2))
    for v in range(len(points)):
        w = points[v, 3] if points[v, 3] > 0 else np.nan
        screen[v, 0], screen[v, 1] = points[v, 0] / w, points[v, 1] / w
    pairs, slopes = np.empty((1024, 4), np.int64), np.empty((1024, 6))
    count = 0
    for row in range(height):
        below = min(row + 1, height - 1)
        column = -1
        while column + 1 < width:
            column += 1
            if outline and column + BLOCK < width:
                # most of a picture has no outline; the sign of a face says whether there is one
                here, under = face_id[row, column:], face_id[below, column:]
                changes = here[0] ^ here[0]
                for k in range(BLOCK):
                    changes |= (here[k] ^ here[k + 1]) | (here[k] ^ under[k])
                if changes >= 0:
                    column += BLOCK - 1
                    continue
            f = face_id[row, column]
            for axis in range(2):
                next_row, next_column = row + axis, column + 1 - axis
                if next_row == height or next_column == width:
                    continue
                g = face_id[next_row, next_column]
                if f == g or (outline and f >= 0 and g >= 0):
                    continue
                swap = f < 0
                if f >= 0 and g >= 0:
                    swap = depth[next_row, next_column] < depth[row, column]
                found, back, a, b = _edge_between(
                    points, screen, faces, opposite, f, g, swap, axis, row, column
                )
                if found != FOUND:
                    continue
                wide = abs(screen[a, 0] - screen[b, 0])
                high = abs(screen[a, 1] - screen[b, 1])
                # an edge blends along one axis alone, the one it is steeper to
                if (wide > high) if axis == 0 else (wide <= high):
                    continue
                here, there = row * width + column, next_row * width + next_column
                x, y, step = column + 0.5, row + 0.5, 1.0
                if back:
                    here, there, step = there, here, -1.0
                    x, y = next_column + 0.5, next_row + 0.5
                a_ahead, a_across = _place(screen, a, axis, x, y, step)
                b_ahead, b_across = _place(screen, b, axis, x, y, step)
                span, length = a_across - b_across, b_ahead - a_ahead
                part = a_across / span
                reach = a_ahead + part * length
                sign = 1.0 if reach > 0.5 else -1.0
                if count == len(pairs):
                    more, steeper = np.empty((2 * count, 4), np.int64), np.empty((2 * count, 6))
                    more[:count], steeper[:count] = pairs, slopes
                    pairs, slopes = more, steeper
                # a face that reaches past the middle covers some of the other pixel
                pairs[count, 0] = there if reach > 0.5 else here
                pairs[count, 1] = here if reach > 0.5 else there
                pairs[count, 2], pairs[count, 3] = a, b
                share = sign * (reach - 0.5)
                slopes[count, 0] = share
                slopes[count, 1 + axis] = sign * step * (1 - part)
                slopes[count, 2 - axis] = -sign * length * b_across / (span * span)
                slopes[count, 3 + axis] = sign * step * part
                slopes[count, 4 - axis] = sign * length * a_across / (span * span)
                load[pairs[count, 0]] += share
                count += 1
    for n in range(count):
        # several edges may ask for more of a pixel than there is
        slopes[n, 5] = max(load[pairs[n, 0]], 1.0)
        slopes[n, 0] /= slopes[n, 5]
    return pairs[:count], slopes[:count]


_BLEND = "void({0}[:, :, :], i8[:, ::1], f8[:, ::1], {0}[:, :, :])"


@kernel(_BLEND.format("f4"), _BLEND.format("f8"))
def blend(image, pairs, slopes, out):
    """Add to out, which starts as a copy of the image, what the pairs change."""
    width = image.shape[2]
    for n in range(len(pairs)):
        row, column = pairs[n, 0] // width, pairs[n, 0] % width
        from_row, from_column = pairs[n, 1] // width, pairs[n, 1] % width
        for c in range(len(image)):
            change = image[c, from_row, from_column] - image[c, row, column]
            out[c, row, column] += slopes[n, 0] * change


@kernel(_BLEND.format("f4"), _BLEND.format("f8"))
def blend_image_backward(grad_out, pairs, slopes, grad_image):
    """Add to grad_image, which starts as a copy of grad_out, what the pairs change."""
    width = grad_out.shape[2]
    for n in range(len(pairs)):
        row, column = pairs[n, 0] // width, pairs[n, 0] % width
        from_row, from_column = pairs[n, 1] // width, pairs[n, 1] % width
        for c in range(len(grad_out)):
            change = slopes[n, 0] * grad_out[c, row, column]
            grad_image[c, row, column] -= change
            grad_image[c, from_row, from_column] += change


_BLEND_POINTS = (
    "void({0}[:, :, :], {0}[:, :, :], i8[:, ::1], f8[:, ::1], f8[:, ::1], f8[::1], f8[:, ::1])"
)


@kernel(_BLEND_POINTS.format("f4"), _BLEND_POINTS.format("f8"))
def blend_points_backward(grad_out, image, pairs, slopes, points, mean, grad_points):
    """Add the gradients of the shares to those of the edges' ends; mean is zeros, one a pixel."""
    width = image.shape[2]
    gain = np.zeros(len(pairs))
    for n in range(len(pairs)):
        row, column = pairs[n, 0] // width, pairs[n, 0] % width
        from_row, from_column = pairs[n, 1] // width, pairs[n, 1] % width
        for c in range(len(image)):
            change = np.float64(image[c, from_row, from_column]) - image[c, row, column]
            gain[n] += grad_out[c, row, column] * change
        mean[pairs[n, 0]] += slopes[n, 0] * gain[n]
    for n in range(len(pairs)):
        slope = gain[n]
        if slopes[n, 5] > 1:
            slope = (slope - mean[pairs[n, 0]]) / slopes[n, 5]
        for end in range(2):
            v = pairs[n, 2 + end]
            w = points[v, 3]
            gx, gy = slope * slopes[n, 1 + 2 * end], slope * slopes[n, 2 + 2 * end]
            grad_points[v, 0] += gx / w
            grad_points[v, 1] += gy / w
            grad_points[v, 3] -= (gx * points[v, 0] + gy * points[v, 1]) / (w * w)
