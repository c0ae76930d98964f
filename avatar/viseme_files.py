"""Mouth shapes with times as JSON or CSV, for engines that have their own mouth rigs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from assets.files import replacing
from avatar.visemes import viseme_spans
from voice.phonemes import SILENCE, without_stress
from voice.speech import Speech

SETS = ("oculus", "rhubarb")
# the shapes A to H and X of Rhubarb Lip Sync, as its manual describes them
_RHUBARB_OF_VISEME = {
    "sil": "X", "PP": "A", "FF": "G", "TH": "B", "DD": "B", "kk": "B", "CH": "B", "SS": "B",
    "nn": "B", "RR": "E", "aa": "D", "E": "C", "I": "B", "O": "E", "U": "F",
}  # fmt: skip
_RHUBARB_OF_PHONEME = {"AE": "C", "AH": "C", "L": "H"}

Cue = tuple[str, float, float]


def viseme_cues(speech: Speech, shapes: str = "oculus") -> tuple[Cue, ...]:
    """Shape, start and end in seconds, one after another; equal neighbours are one.

    `shapes` names the set: Oculus's 15 (sil, PP, FF, ...) or Rhubarb's A to H and X. ValueError for
    another.
    """
    if shapes not in SETS:
        raise ValueError(f"shapes={shapes!r} is unknown; choose one of {', '.join(SETS)}")
    cues: list[Cue] = []
    for phoneme in speech.phonemes:
        name = without_stress(phoneme.symbol)
        for span in viseme_spans((phoneme,)):
            shape = span.viseme
            if shapes == "rhubarb":
                shape = _RHUBARB_OF_PHONEME.get(name, _RHUBARB_OF_VISEME[shape])
            if cues and cues[-1][0] == shape and span.start_s - cues[-1][2] < 1e-6:
                cues[-1] = (shape, cues[-1][1], span.end_s)
            else:
                cues.append((shape, span.start_s, span.end_s))
    return tuple(cues)


def save_visemes(speech: Speech, path: Path | str, shapes: str = "oculus") -> Path:
    """Write the shapes of a line; returns the path.

    .json has the layout of Rhubarb Lip Sync, metadata and mouthCues with start, end and value; .csv
    has the columns start_s, end_s, shape, phonemes. Times have three decimals. ValueError for
    another suffix.
    """
    path = Path(path)
    cues = viseme_cues(speech, shapes)
    if path.suffix.lower() not in (".json", ".csv"):
        raise ValueError(f"{path} does not end in .json or .csv; give one of them")
    with replacing(path) as beside:
        if path.suffix.lower() == ".json":
            layout = {
                "metadata": {
                    "shapes": shapes,
                    "duration": round(speech.duration_s, 3),
                    "engine": speech.engine,
                },
                "mouthCues": [
                    {"start": round(start_s, 3), "end": round(end_s, 3), "value": shape}
                    for shape, start_s, end_s in cues
                ],
            }
            beside.write_text(json.dumps(layout, indent=1) + "\n", encoding="utf-8")
        else:
            with open(beside, "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("start_s", "end_s", "shape", "phonemes"))
                for shape, start_s, end_s in cues:
                    writer.writerow(
                        (f"{start_s:.3f}", f"{end_s:.3f}", shape, _during(speech, start_s, end_s))
                    )
    return path


def _during(speech: Speech, start_s: float, end_s: float) -> str:
    """The phonemes that are heard in a span, silence left out."""
    return " ".join(
        phoneme.symbol
        for phoneme in speech.phonemes
        if phoneme.symbol != SILENCE
        and phoneme.start_s < end_s - 1e-6
        and phoneme.end_s > start_s + 1e-6
    )
