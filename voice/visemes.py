"""The 15 mouth shapes of the Oculus set, and which of them each phoneme shows."""

from __future__ import annotations

from voice.phonemes import SILENCE

VISEME_NAMES = (
    "sil", "PP", "FF", "TH", "DD", "kk", "CH", "SS", "nn", "RR", "aa", "E", "I", "O", "U",
)  # fmt: skip

# diphthongs are two mouth shapes, one after the other
PHONEME_VISEMES: dict[str, tuple[str, ...]] = {
    SILENCE: ("sil",),
    "P": ("PP",), "B": ("PP",), "M": ("PP",),
    "F": ("FF",), "V": ("FF",),
    "TH": ("TH",), "DH": ("TH",),
    "T": ("DD",), "D": ("DD",),
    "K": ("kk",), "G": ("kk",), "NG": ("kk",), "HH": ("kk",),
    "CH": ("CH",), "JH": ("CH",), "SH": ("CH",), "ZH": ("CH",),
    "S": ("SS",), "Z": ("SS",),
    "N": ("nn",), "L": ("nn",),
    "R": ("RR",), "ER": ("RR",),
    "W": ("U",), "Y": ("I",),
    "AA": ("aa",), "AE": ("aa",), "AH": ("aa",), "AO": ("O",),
    "AW": ("aa", "U"), "AY": ("aa", "I"), "OY": ("O", "I"), "OW": ("O", "U"), "EY": ("E", "I"),
    "EH": ("E",), "IH": ("I",), "IY": ("I",), "UH": ("U",), "UW": ("U",),
}  # fmt: skip
FIRST_PART = 0.6  # of a diphthong's time: its first half is held longer

# What the network tells apart: finer than visemes, since sounds that look alike may sound unlike
# (P and M, a full and a reduced A), and coarser than phonemes, since voicing is not seen.
SOUNDS = (
    SILENCE, "P", "M", "F", "TH", "D", "K", "NG", "HH", "SH", "S", "N", "L", "R", "ER",
    "AA", "AE", "AH", "EH", "IH", "IY", "AO", "UW",
)  # fmt: skip
_SOUND_OF = {
    "B": "P", "V": "F", "DH": "TH", "T": "D", "G": "K", "CH": "SH", "JH": "SH", "ZH": "SH",
    "Z": "S", "Y": "IY", "UH": "UW", "W": "UW",
}  # fmt: skip
_GLIDES = {
    "AW": ("AA", "UW"), "AY": ("AA", "IY"), "OY": ("AO", "IY"), "OW": ("AO", "UW"),
    "EY": ("EH", "IY"),
}  # fmt: skip
VISEME_OF_SOUND = tuple(VISEME_NAMES.index(PHONEME_VISEMES[sound][0]) for sound in SOUNDS)


def sounds_of(phoneme: str) -> tuple[str, ...]:
    """The network's sounds of a phoneme without stress: one, or two of a diphthong."""
    return _GLIDES.get(phoneme, (_SOUND_OF.get(phoneme, phoneme),))
