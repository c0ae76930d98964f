"""Visemes to mouth weights over time: neighbours blend, closures are kept.

Blending after Cohen and Massaro (1993), "Modeling coarticulation in synthetic visual speech": each
mouth shape has a dominance that falls off to both sides of it, and the mouth at any time is the
mean of all shapes weighted by dominance. A mean never quite closes the lips, so P, B, M, F and V
are then laid over it as constraints.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from avatar.visemes import VISEME_NAMES, VisemeSpan, sided, viseme_dominance, viseme_weights
from flame.arkit import ARKIT_INDEX

JAW, CLOSE = ARKIT_INDEX["jawOpen"], ARKIT_INDEX["mouthClose"]
LEAD_S = 0.04  # lips move ahead of the sound
_BEFORE_S, _AFTER_S = 0.055, 0.065  # fall-off of dominance
SHORTEST_SEAL_S = 0.045  # longer than a frame at 24 Hz, so that every closure falls on one
_SEAL_ATTACK_S, _SEAL_RELEASE_S = 0.06, 0.06
_LIP_PARTING = ("mouthLowerDown", "mouthUpperUp", "mouthFunnel", "mouthStretch", "tongueOut")
_LIPS_TO_TEETH = 0.8  # how much of the opening F and V take away


def mouth_weights(
    spans: list[VisemeSpan], times_s: Float[Tensor, " T"], gain: float = 1.0
) -> Float[Tensor, "T 52"]:
    """Mouth weights at given times, 0..1; all zero where nothing is said.

    jawOpen - mouthClose is how far the lips are apart: 0 over each P, B and M.
    """
    if not spans:
        return times_s.new_zeros(len(times_s), len(ARKIT_INDEX))
    blended = _blended(spans, times_s.double()) * gain
    sealed = _held(spans, times_s.double(), "PP")[:, None]
    to_teeth = _held(spans, times_s.double(), "FF")[:, None]
    parting = torch.tensor([column for name in _LIP_PARTING for column in sided(name)])
    lower = torch.tensor(sided("mouthLowerDown") + sided("mouthFunnel"))
    blended[:, parting] *= 1.0 - sealed
    blended[:, lower] *= 1.0 - to_teeth
    # lips that roll and press on each other are what a closure looks like
    table = viseme_weights().double()
    for viseme, held in (("PP", sealed), ("FF", to_teeth)):
        wanted = table[VISEME_NAMES.index(viseme)].clone()
        wanted[JAW] = 0.0
        blended = torch.maximum(blended, held * wanted)
    blended[:, JAW] *= 1.0 - 0.5 * sealed[:, 0] - 0.5 * to_teeth[:, 0] * (1 - sealed[:, 0])
    blended = blended.clamp(0.0, 1.0)
    shut = torch.maximum(sealed[:, 0], _LIPS_TO_TEETH * to_teeth[:, 0])
    blended[:, CLOSE] = shut * blended[:, JAW]
    return blended.to(times_s.dtype)


def _blended(spans: list[VisemeSpan], times_s: Float[Tensor, " T"]) -> Float[Tensor, "T 52"]:
    """Dominance-weighted mean of the shapes, in pieces so that long speech fits in memory."""
    rows = torch.tensor([VISEME_NAMES.index(span.viseme) for span in spans])
    openness = torch.tensor([span.openness for span in spans], dtype=torch.float64)
    targets = viseme_weights().double()[rows] * openness[:, None]  # [P, 52]
    dominance = viseme_dominance().double()[rows]
    starts = torch.tensor([span.start_s for span in spans], dtype=torch.float64) - LEAD_S
    ends = torch.tensor([span.end_s for span in spans], dtype=torch.float64) - LEAD_S
    # the middle half of a shape is its own; towards its ends the neighbours come in
    quarter = (ends - starts) / 4
    starts, ends = starts + quarter, ends - quarter
    pieces = []
    for chunk in torch.split(times_s, 2048):
        before = (starts - chunk[:, None]).clamp_min(0.0) / _BEFORE_S  # [T, P]
        after = (chunk[:, None] - ends).clamp_min(0.0) / _AFTER_S
        # an exponent under 60 keeps the sum above zero wherever a single shape is far away
        presence = torch.exp(-(before + after).clamp_max(60.0))
        weight = presence @ dominance
        pieces.append(presence @ (dominance * targets) / weight)
    return torch.cat(pieces)


def _held(
    spans: list[VisemeSpan], times_s: Float[Tensor, " T"], viseme: str
) -> Float[Tensor, " T"]:
    """1 while a constraint holds, with smooth flanks; over neighbours, the larger."""
    holds: list[tuple[float, float]] = []
    for span in spans:
        if span.viseme != viseme:
            continue
        # early, never late: from before the sound until its release in the last fifth
        start_s = span.start_s - 0.015
        end_s = span.end_s - 0.2 * (span.end_s - span.start_s)
        missing = max(0.0, SHORTEST_SEAL_S - (end_s - start_s)) / 2
        start_s, end_s = start_s - missing, end_s + missing
        if holds and start_s - holds[-1][1] < 0.02:  # "mb", "lamp by": one closure
            before = holds.pop()
            start_s, end_s = before[0], max(before[1], end_s)
        holds.append((start_s, end_s))
    held = torch.zeros_like(times_s)
    for index, (start_s, end_s) in enumerate(holds):
        # in "mum" the lips part and meet again within a tenth of a second: flanks share the gap
        gap_before = start_s - holds[index - 1][1] if index else math.inf
        gap_after = holds[index + 1][0] - end_s if index + 1 < len(holds) else math.inf
        rise = 1.0 + (times_s - start_s) / min(_SEAL_ATTACK_S, 0.42 * gap_before)
        fall = 1.0 + (end_s - times_s) / min(_SEAL_RELEASE_S, 0.42 * gap_after)
        flank = torch.minimum(rise, fall).clamp(0.0, 1.0)
        held = torch.maximum(held, 0.5 - 0.5 * torch.cos(math.pi * flank))
    return held
