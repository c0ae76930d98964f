"""The visemes of phonemes over time, and each viseme's ARKit weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flame.arkit import ARKIT_INDEX, ARKIT_NAMES
from voice.phonemes import is_vowel, stress_of, without_stress
from voice.speech import Phoneme
from voice.visemes import FIRST_PART, PHONEME_VISEMES, VISEME_NAMES

__all__ = [
    "PHONEME_VISEMES",
    "VISEME_NAMES",
    "VisemeSpan",
    "sided",
    "viseme_dominance",
    "viseme_spans",
    "viseme_weights",
]

# A name without side stands for both. Openings are small: in running speech the jaw seldom drops
# half-way, and lips tell more than jaws. mouthClose is not here: closing is done where the opening
# is known, see avatar.coarticulation.
_WEIGHTS: dict[str, dict[str, float]] = {
    "sil": {},
    "PP": {"jawOpen": 0.06, "mouthPress": 0.28, "mouthRollLower": 0.12, "mouthRollUpper": 0.10},
    "FF": {
        "jawOpen": 0.10, "mouthRollLower": 0.38, "mouthUpperUp": 0.16, "mouthShrugLower": 0.12,
        "mouthDimple": 0.08,
    },
    "TH": {"jawOpen": 0.17, "tongueOut": 0.22, "mouthLowerDown": 0.22, "mouthUpperUp": 0.12},
    "DD": {"jawOpen": 0.13, "mouthLowerDown": 0.22, "mouthUpperUp": 0.10, "mouthStretch": 0.06},
    "kk": {"jawOpen": 0.17, "mouthLowerDown": 0.16, "mouthUpperUp": 0.10},
    "CH": {
        "jawOpen": 0.11, "mouthFunnel": 0.42, "mouthPucker": 0.18, "mouthLowerDown": 0.14,
        "mouthUpperUp": 0.14,
    },
    "SS": {
        "jawOpen": 0.06, "mouthStretch": 0.18, "mouthSmile": 0.12, "mouthLowerDown": 0.26,
        "mouthUpperUp": 0.12,
    },
    "nn": {"jawOpen": 0.13, "mouthLowerDown": 0.18, "mouthUpperUp": 0.08, "mouthStretch": 0.05},
    "RR": {"jawOpen": 0.14, "mouthFunnel": 0.28, "mouthPucker": 0.26, "mouthLowerDown": 0.10},
    "aa": {"jawOpen": 0.46, "mouthLowerDown": 0.26, "mouthUpperUp": 0.14, "mouthStretch": 0.06},
    "E": {
        "jawOpen": 0.29, "mouthStretch": 0.20, "mouthSmile": 0.14, "mouthLowerDown": 0.24,
        "mouthUpperUp": 0.14,
    },
    "I": {
        "jawOpen": 0.17, "mouthStretch": 0.24, "mouthSmile": 0.24, "mouthLowerDown": 0.22,
        "mouthUpperUp": 0.10,
    },
    "O": {"jawOpen": 0.33, "mouthFunnel": 0.44, "mouthPucker": 0.24, "mouthLowerDown": 0.08},
    "U": {"jawOpen": 0.15, "mouthFunnel": 0.28, "mouthPucker": 0.58},
}  # fmt: skip

# how strongly a viseme insists on its own value, against its neighbours', by articulator
_DOMINANCE: dict[str, dict[str, float]] = {
    "sil": {"jaw": 0.6, "lips": 0.5},
    "PP": {"jaw": 1.0, "lips": 0.8},
    "FF": {"jaw": 1.0, "lips": 1.2},
    "TH": {"jaw": 0.8, "lips": 0.7, "tongue": 2.0},
    "DD": {"jaw": 0.6, "lips": 0.3},  # the tongue's work; "two" and "tea" differ in all of their t
    "kk": {"jaw": 0.35, "lips": 0.2},
    "CH": {"jaw": 1.0, "lips": 1.3},
    "SS": {"jaw": 1.2, "lips": 0.6},
    "nn": {"jaw": 0.5, "lips": 0.3},
    "RR": {"jaw": 0.7, "lips": 0.8},
    "aa": {"jaw": 1.2, "lips": 0.7},
    "E": {"jaw": 1.0, "lips": 0.9},
    "I": {"jaw": 0.9, "lips": 1.0},
    "O": {"jaw": 1.1, "lips": 1.3},
    "U": {"jaw": 0.9, "lips": 1.5},
}
_REDUCED = {"AH": 0.5}  # schwa opens half as far as the stressed vowel it is written with
_BY_STRESS = (0.78, 1.0, 0.9)


@dataclass(frozen=True)
class VisemeSpan:
    """One mouth shape and when it is heard; `openness` scales its opening."""

    viseme: str
    start_s: float
    end_s: float
    openness: float = 1.0


def viseme_spans(phonemes: tuple[Phoneme, ...]) -> Iterator[VisemeSpan]:
    """The visemes of phonemes, diphthongs split in two, unstressed vowels opened less."""
    for phoneme in phonemes:
        name = without_stress(phoneme.symbol)
        visemes = PHONEME_VISEMES[name]
        stress = stress_of(phoneme.symbol)
        openness = _BY_STRESS[stress] if is_vowel(phoneme.symbol) else 1.0
        if stress == 0:
            openness *= _REDUCED.get(name, 1.0)
        middle = phoneme.start_s + FIRST_PART * (phoneme.end_s - phoneme.start_s)
        edges = [phoneme.start_s, *([middle] if len(visemes) == 2 else []), phoneme.end_s]
        for viseme, start_s, end_s in zip(visemes, edges[:-1], edges[1:], strict=True):
            yield VisemeSpan(viseme, start_s, end_s, openness)


def viseme_weights() -> Float[Tensor, "15 52"]:
    """ARKit weights of every viseme, rows as VISEME_NAMES, columns as ARKIT_NAMES."""
    table = torch.zeros(len(VISEME_NAMES), len(ARKIT_NAMES))
    for row, viseme in enumerate(VISEME_NAMES):
        for name, weight in _WEIGHTS[viseme].items():
            for column in sided(name):
                table[row, column] = weight
    return table


def viseme_dominance() -> Float[Tensor, "15 52"]:
    """How strongly every viseme insists on each weight (Cohen and Massaro 1993, alpha)."""
    table = torch.zeros(len(VISEME_NAMES), len(ARKIT_NAMES))
    articulators = {"jawOpen": "jaw", "tongueOut": "tongue"}
    for row, viseme in enumerate(VISEME_NAMES):
        for column, name in enumerate(ARKIT_NAMES):
            articulator = articulators.get(name, "lips")
            table[row, column] = _DOMINANCE[viseme].get(articulator, 0.6)
    return table


def sided(name: str) -> list[int]:
    """Columns of a weight: its own, or left and right where the name stands for both."""
    if name in ARKIT_INDEX:
        return [ARKIT_INDEX[name]]
    return [ARKIT_INDEX[f"{name}Left"], ARKIT_INDEX[f"{name}Right"]]
