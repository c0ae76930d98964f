"""Excitations of the streamed vocoder, compiled on the user's machine without a compiler.

Import this file only inside a function: numba takes a while to load.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from assets.compiled import kernel


def _excited(f0, voiced, phases, first, hop, rate, top_hz, pulses, noise):
    """Write `vocos_source.excitations` of one line, whose first frame has the number `first`.

    f0 and voiced [T] are of single, phases [T] of double precision; pulses and noise [T hop].
    """
    count = len(f0)
    for t in range(count):
        after = min(t + 1, count - 1)
        hertz, slope = float(f0[t]), (float(f0[after]) - float(f0[t])) / hop
        harmonics = max(1.0, math.floor(top_hz / f0[t]))
        size = math.sqrt(4 * float(f0[t]) / rate)
        for step in range(hop):
            at = t * hop + step
            turns = phases[t] + (hertz * step + slope * step * (step - 1) / 2) / rate
            turns -= round(turns)
            sine = math.sin(math.pi * turns)
            if abs(sine) < 1e-5:
                pulse = harmonics
            else:
                pulse = math.sin((2 * harmonics + 1) * math.pi * turns) / (2 * sine) - 0.5
            loud = voiced[t] + (voiced[after] - voiced[t]) * step / hop
            pulses[at] = pulse * size * loud
            x = np.uint32(first * hop + at)
            x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
            x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
            x = np.uint32(x ^ (x >> np.uint32(16)))
            noise[at] = (float(x) / 4294967296.0 - 0.5) * math.sqrt(12.0)


excited: Callable[..., None] = kernel()(_excited)
