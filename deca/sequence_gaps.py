"""What stands in where a face was not seen: short gaps are bridged, long ones eased to rest."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class GapConfig:
    """How long a face may be out of sight before it is let rest."""

    bridged_s: float = 0.5  # gaps up to this are interpolated
    held_s: float = 0.2  # of a longer one the pose is held at either end
    eased_s: float = 0.4  # and then goes to rest, or comes from it


def fill_gaps(
    values: Float[Tensor, "T D"],
    times_s: Float[Tensor, " T"],
    seen: Bool[Tensor, " T"],
    rest: Float[Tensor, " D"],
    config: GapConfig | None = None,
) -> Float[Tensor, "T D"]:
    """The values with unseen frames filled, seen ones as they are; before the first and after the
    last sight the pose is held and eased to rest as well.

    Nothing seen gives rest throughout.
    """
    config = config or GapConfig()
    filled = values.clone()
    known = seen.nonzero()[:, 0].tolist()
    if not known:
        filled[:] = rest
        return filled
    ends = [-1, *known, len(values)]
    for before, after in itertools.pairwise(ends):
        for index in range(before + 1, after):
            now = times_s[index]
            from_start = float(now - times_s[before]) if before >= 0 else None
            to_end = float(times_s[after] - now) if after < len(values) else None
            if from_start is not None and to_end is not None:
                length = from_start + to_end
                if length <= config.bridged_s:
                    share = _smoothstep(from_start / length)
                    filled[index] = torch.lerp(values[before], values[after], share)
                    continue
            near, away = after, to_end
            if from_start is not None and (to_end is None or from_start <= to_end):
                near, away = before, from_start
            assert away is not None
            share = 1 - _smoothstep((away - config.held_s) / config.eased_s)
            filled[index] = torch.lerp(rest, values[near], share)
    return filled


def _smoothstep(x: float) -> float:
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)
