"""What stays of noise in the pauses of converted speech, turned down."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

_DB = 10 / math.log(10)
_QUIET_DB = -5.0  # of a frame's mean band; loud frames of speech whose peak is 1 have 28
_RATIO = 2.0  # decibels out for a decibel in, below that
_DEEPEST_DB = 15.0


def expanded(mel: Float[Tensor, "*B M T"]) -> Float[Tensor, "*B M T"]:
    """A downward expander of natural-log mels of speech whose peak is 1: quiet frames quieter.

    A converter regresses to means, and the mean of pauses is a hiss.
    """
    level_db = _DB * (mel.logsumexp(-2, keepdim=True) - math.log(mel.shape[-2]))
    lower_db = ((_RATIO - 1) * (_QUIET_DB - level_db)).clamp(0, _DEEPEST_DB)
    return mel - lower_db / _DB
