"""The best way through candidates of pitch, frame by frame, whatever found them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def best_path(
    frequencies: Float[np.ndarray, "T K"],
    costs: Float[np.ndarray, "T K"],
    *,
    jump_cost: float,
    switch_cost: float,
) -> Float[np.ndarray, " T"]:
    """The frequencies of least cost, changes between frames included (Viterbi); 0 is unvoiced.

    `jump_cost` is of an octave from a frame to the next, `switch_cost` between voiced and unvoiced.
    """
    octaves = np.log2(np.maximum(frequencies, 1.0))
    is_voiced = frequencies > 0
    came_from = np.zeros(frequencies.shape, dtype=np.int64)
    best = costs[0]
    for t in range(1, len(frequencies)):
        both = is_voiced[t - 1][:, None] & is_voiced[t]
        jump = jump_cost * np.abs(octaves[t - 1][:, None] - octaves[t])
        switch = switch_cost * (is_voiced[t - 1][:, None] != is_voiced[t])
        total = best[:, None] + np.where(both, jump, switch)
        came_from[t] = total.argmin(axis=0)
        best = total.min(axis=0) + costs[t]
    path = np.zeros(len(frequencies), dtype=np.int64)
    path[-1] = int(best.argmin())
    for t in range(len(frequencies) - 1, 0, -1):
        path[t - 1] = came_from[t][path[t]]
    return np.take_along_axis(frequencies, path[:, None], axis=1)[:, 0]
