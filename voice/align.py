"""Phoneme times of a recording without its text: a first version, by ear for a few classes only.

It hears silence, hiss, lip-like closures and how open and how far forward a vowel is, from band
energies. It cannot tell P from B from M by sound alone, nor T from K: enough to move a mouth in
time with a voice, not a transcript. Phonemes recognised from speech replace it later.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from voice.audio import SAMPLE_RATE, Audio
from voice.phonemes import SILENCE
from voice.speech import Phoneme, Speech

ENGINE = "energy"
_HOP_S = 0.01
_WINDOW = 600  # samples, 25 ms
_QUIET_DB = -32.0  # below the loud parts: silence
_DIP_DB = 9.0  # a closure lies this much below the sound on both sides
_DIP_REACH = 8  # frames to both sides within which that sound is
_LONGEST_DIP = 14  # frames
_SHORTEST = 4  # frames a phoneme lasts at least; closures 3
_STRESS_DB = -5.0  # vowels louder than this, against the loud parts, count as stressed


def recorded(audio: Audio, text: str = "", language: str = "") -> Speech:
    """A recording as Speech, its phonemes estimated from the sound; the text is only kept."""
    return Speech(audio, estimate_phonemes(audio), text, language, ENGINE)


def estimate_phonemes(audio: Audio) -> tuple[Phoneme, ...]:
    """Pseudo-phonemes of one signal, SIL between them, from the first sample to the last."""
    if len(audio.samples) != 1:
        raise ValueError(f"phonemes are of one signal, this audio has {len(audio.samples)}")
    bands = _bands_db(audio.samples[0].detach().cpu().double().numpy())
    loud = float(np.percentile(bands["all"], 95))
    if loud < -70.0:  # nothing but the noise of a quiet room
        return (Phoneme(SILENCE, 0.0, audio.duration_s),)
    labels = _labels(bands, loud)
    phonemes = []
    for label, first, last in _without_specks(_runs(labels)):
        start_s, end_s = first * _HOP_S, min(last * _HOP_S, audio.duration_s)
        if last == len(labels):
            end_s = audio.duration_s
        if label in _VOWEL_LABELS:
            stressed = bands["all"][first:last].max() > loud + _STRESS_DB and last - first >= 8
            label += "1" if stressed else "0"
        if end_s > start_s:
            phonemes.append(Phoneme(label, start_s, end_s))
    return tuple(phonemes)


_VOWEL_LABELS = ("AA", "EH", "IY", "AO", "UW", "AH")


def _bands_db(samples: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Power per frame in the bands that tell the classes apart, dB."""
    padded = np.pad(samples, (_WINDOW // 2, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)
    frames = frames[:: round(_HOP_S * SAMPLE_RATE)]
    spectra = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), 1024)) ** 2 / _WINDOW**2
    hertz = np.fft.rfftfreq(1024, 1 / SAMPLE_RATE)

    def band(low: int, high: int) -> NDArray[np.float64]:
        inside = (hertz >= low) & (hertz < high)
        return np.asarray(10.0 * np.log10(spectra[:, inside].sum(axis=1) + 1e-12))

    return {
        "all": band(80, 11_000),
        "murmur": band(80, 400),  # voicing, all that is left of a nasal
        "close": band(200, 480),  # first formant of close vowels
        "open": band(560, 1100),  # first formant of open vowels
        "back": band(560, 1300),  # second formant of rounded vowels
        "front": band(1700, 3000),  # second formant of spread vowels
        "body": band(500, 4000),  # what closed lips take away
        "hiss": band(4200, 11_000),
    }


def _labels(bands: dict[str, NDArray[np.float64]], loud: float) -> list[str]:
    """One symbol per frame."""
    openness = bands["open"] - bands["close"]
    frontness = bands["front"] - bands["back"]
    labels = np.full(len(openness), "AH", dtype="<U3")
    labels[(openness > -3.0)] = "AA"
    labels[(openness > -9.0) & (openness <= 0.0) & (frontness > -10.0)] = "EH"
    labels[(openness <= -9.0) & (frontness > -11.0)] = "IY"
    labels[(openness > -9.0) & (openness <= -1.0) & (frontness < -22.0)] = "AO"
    labels[(openness <= -12.0) & (frontness < -18.0)] = "UW"
    hissing = (bands["hiss"] > bands["body"] - 2.0) & (bands["hiss"] > loud - 35.0)
    labels[hissing] = "S"
    silent = bands["all"] < loud + _QUIET_DB
    labels[silent] = SILENCE
    for first, last in _dips(bands["body"]):
        if hissing[first:last].any():
            continue
        burst = slice(last, last + 3)
        # lips burst low and spread, the tongue's tip bursts high
        low_burst = np.mean(bands["hiss"][burst] - bands["body"][burst]) < -9.0
        voiced = np.mean(bands["murmur"][first:last] - bands["body"][first:last]) > 9.0
        labels[first:last] = ("M" if voiced else "P") if low_burst else "D"
    return [str(label) for label in labels]


def _dips(body: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Runs of frames that lie clearly below the sound before and after them."""
    reach = _DIP_REACH
    padded = np.pad(body, reach, constant_values=-120.0)
    before = np.stack([padded[k : k + len(body)] for k in range(reach)]).max(axis=0)
    after = np.stack([padded[k : k + len(body)] for k in range(reach + 1, 2 * reach + 1)]).max(
        axis=0
    )
    low = body < np.minimum(before, after) - _DIP_DB
    edges = np.flatnonzero(np.diff(np.concatenate([[False], low, [False]])))
    runs = [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
    return [(a, b) for a, b in runs if 3 <= b - a <= _LONGEST_DIP]


def _runs(labels: list[str]) -> list[tuple[str, int, int]]:
    """Equal labels in a row, with their first frame and the one after their last."""
    runs: list[tuple[str, int, int]] = []
    for label, group in itertools.groupby(labels):
        first = runs[-1][2] if runs else 0
        runs.append((label, first, first + len(list(group))))
    return runs


def _without_specks(runs: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Runs with those too short to be a phoneme given to the neighbour before them."""
    kept: list[tuple[str, int, int]] = []
    for label, first, last in runs:
        shortest = 3 if label in ("M", "P", "D") else _SHORTEST
        if kept and (last - first < shortest or kept[-1][0] == label):
            kept[-1] = (kept[-1][0], kept[-1][1], last)
        else:
            kept.append((label, first, last))
    return kept
