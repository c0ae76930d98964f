"""The norms of streamed conversion, compiled on the user's machine without a compiler.

Pictures of a few columns are so small that calling a tensor library a dozen times for each norm
takes longer than the norm. Import this file only inside a function: numba takes a while to load.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from assets.compiled import kernel


def _normed(x, mean, variance, shares, done, eps, gain, offset, slope, up, kept, found, wide):
    """Write a picture [H, W, C] under its line's norm and a leaky rectifier of this slope.

    It goes into `wide` [A H, B W + 2, C], each pixel `up` = (A, B) times, from the second column
    on; before that, the first column becomes the one numbered `kept`, where that is not 0.

    `shares` are what sums over the picture and the past count for in the line so far, and sums
    over the first `done` columns and the past in the memory: mean and variance of the past are
    replaced by those. `found` [2, C] takes the line's mean and variance.
    """
    height, width, channels = x.shape
    zero = shares[0] * 0
    sums = np.zeros((4, channels), x.dtype)  # of values and squares, of all and of those done
    row = np.zeros((2, channels), x.dtype)
    about = np.zeros(channels, x.dtype)
    if shares[1] == zero:
        for h in range(height):
            row[0] = zero
            for w in range(width):
                for c in range(channels):
                    row[0, c] += x[h, w, c]
            for c in range(channels):
                about[c] += row[0, c]
        for c in range(channels):
            about[c] *= shares[0]
    else:
        about[:] = mean
    # row by row, so that long sums stay exact
    for h in range(height):
        row[:] = zero
        for w in range(width):
            for c in range(channels):
                off = x[h, w, c] - about[c]
                row[0, c] += off
                row[1, c] += off * off
            if w == done - 1:
                for c in range(channels):
                    sums[2, c] += row[0, c]
                    sums[3, c] += row[1, c]
        for c in range(channels):
            sums[0, c] += row[0, c]
            sums[1, c] += row[1, c]
    for c in range(channels):
        middle = sums[0, c] * shares[0]
        # a channel that stands still far from where it stood has no variance, but rounding
        spread = max(sums[1, c] * shares[0] + variance[c] * shares[1] - middle * middle, zero)
        later = sums[2, c] * shares[2]
        mean[c] = about[c] + later
        rest = sums[3, c] * shares[2] + variance[c] * shares[3] - later * later
        variance[c] = max(rest, zero)
        found[0, c] = about[c] + middle
        found[1, c] = spread
        row[0, c] = gain[c] / math.sqrt(spread + eps)
        row[1, c] = offset[c] - middle * row[0, c]
    if kept:
        for h in range(len(wide)):
            for c in range(channels):
                wide[h, 0, c] = wide[h, kept, c]
    for h in range(height):
        for w in range(width):
            to = wide[up[0] * h, 1 + up[1] * w]
            for c in range(channels):
                value = (x[h, w, c] - about[c]) * row[0, c] + row[1, c]
                to[c] = max(value, zero) + slope * min(value, zero)
            for j in range(1, up[1]):
                wide[up[0] * h, 1 + up[1] * w + j] = to
        for i in range(1, up[0]):
            wide[up[0] * h + i, 1 : 1 + up[1] * width] = wide[up[0] * h, 1 : 1 + up[1] * width]


normed: Callable[..., None] = kernel(fast=True)(_normed)
