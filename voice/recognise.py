"""Lips from sound alone: which mouth shape is heard when, in any language."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from voice.audio import SAMPLE_RATE, Audio
from voice.loudness import normalized
from voice.phoneme_net import (
    FRAME_S,
    PhonemeNet,
    PhonemeStream,
    load_phoneme_net,
    viseme_posteriors,
)
from voice.phonemes import SILENCE, is_vowel
from voice.speech import Phoneme
from voice.visemes import PHONEME_VISEMES, SOUNDS

LEVEL_LUFS = -20.0  # at which the network learnt
_PIECE = 50 * SAMPLE_RATE  # heard at once: bounds the memory of long recordings
_QUIET = 10.0 ** (-62.0 / 20.0)  # of full scale; a recording that never exceeds it is silence

# Staying in a sound costs nothing, leaving it this much, in natural log: a sound that is heard for
# one frame alone is no sound.
_CHANGE = 2.0
_SHORTEST = {"P": 3, "M": 3, "F": 3}  # frames; other sounds 2
_FULL_AH = 9  # frames; a shorter one is a schwa, for which a mouth hardly opens
# P, B, M, F and V are seen above all: missing one is worse than showing one too many
_FAVOUR = {"P": 0.3, "M": 0.3, "F": 0.5}


@dataclass(frozen=True)
class TimedViseme:
    """One mouth shape of the Oculus set and when it is heard."""

    viseme: str  # as VISEME_NAMES
    start_s: float
    end_s: float


def recognise(audio: Audio) -> tuple[TimedViseme, ...]:
    """The mouth shapes of one signal in order, silence as sil, from its first sample to its last.

    Knows no words and no language: what is heard as P, B or M becomes PP, and so on. The same
    signal always gives the same shapes. ValueError for more than one signal.
    """
    return tuple(
        TimedViseme(viseme, phoneme.start_s, phoneme.end_s)
        for phoneme in heard_phonemes(audio)
        for viseme in PHONEME_VISEMES[phoneme.symbol.rstrip("012")][:1]
    )


def heard_phonemes(audio: Audio) -> tuple[Phoneme, ...]:
    """Sounds of one signal as ARPAbet symbols, SIL between them, covering all of it.

    A symbol stands for all that look and sound like it (P for P and B, S for S and Z). The stress
    of vowels is how loud they are against the vowels around them: it scales how far a mouth opens.
    """
    if len(audio.samples) != 1:
        raise ValueError(f"phonemes are of one signal, this audio has {len(audio.samples)}")
    if not bool(torch.isfinite(audio.samples).all()):
        raise ValueError("the sound holds NaN or infinity; read it from a file that is whole")
    if audio.samples.numel() == 0:
        return ()
    if float(audio.samples.abs().max()) < _QUIET:
        return (Phoneme(SILENCE, 0.0, audio.duration_s),)
    logits = sound_logits(audio)[0]
    path = most_likely(torch.log_softmax(logits, 0).T.double().numpy())
    runs = _runs(path)
    loud = loudness_db(audio, logits.shape[1])
    symbols = _stressed(runs, loud)
    # frame k is centred on k * FRAME_S, so it begins half a frame before
    edges = [max(0.0, (first - 0.5) * FRAME_S) for _, first, _ in runs] + [audio.duration_s]
    return tuple(
        Phoneme(symbol, start_s, end_s)
        for symbol, start_s, end_s in zip(symbols, edges[:-1], edges[1:], strict=True)
        if end_s > start_s
    )


@torch.no_grad()
def sound_logits(audio: Audio, net: PhonemeNet | None = None) -> Float[Tensor, "1 S T"]:
    """The network's logits of SOUNDS every 12.5 ms, of the signal at an even loudness."""
    stream = PhonemeStream(net or load_phoneme_net())
    samples = normalized(audio, LEVEL_LUFS).samples.float()
    pieces = [stream.push(piece) for piece in torch.split(samples, _PIECE, dim=1)]
    return torch.cat([*pieces, stream.end()], dim=2)


def viseme_track(audio: Audio) -> Float[Tensor, "15 T"]:
    """Probability of each of VISEME_NAMES every 12.5 ms, the first frame at time 0."""
    return viseme_posteriors(sound_logits(audio))[0]


def most_likely(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The likeliest sequence of sounds for log-probabilities [T, S], each lasting its shortest.

    Viterbi's algorithm over chains of states: a sound must pass through all states of its chain.
    """
    scores = scores + np.array([_FAVOUR.get(name, 0.0) for name in SOUNDS])
    shortest = np.array([_SHORTEST.get(name, 2) for name in SOUNDS])
    depth = int(shortest.max())
    count, width = scores.shape
    # state [s, d]: sound s has d + 1 of its shortest frames behind it, the last one stays
    best = np.full((width, depth), -np.inf)
    best[:, 0] = scores[0]
    last = shortest - 1
    rows = np.arange(width)
    unused = np.arange(depth) > last[:, None]
    came = np.zeros((count, width, depth), dtype=np.int32)  # state before, as s * depth + d
    for frame in range(1, count):
        ready = best[rows, last]
        order = int(ready.argmax())
        rest = ready.copy()
        rest[order] = -np.inf
        second = int(rest.argmax())
        source = np.where(rows == order, second, order)  # a sound does not follow itself
        new = np.full_like(best, -np.inf)
        new[:, 0] = ready[source] - _CHANGE
        came[frame, :, 0] = source * depth + last[source]
        new[:, 1:] = best[:, :-1]
        came[frame, :, 1:] = (rows[:, None] * depth) + np.arange(depth - 1)
        stays = ready >= new[rows, last]
        new[rows, last] = np.where(stays, ready, new[rows, last])
        came[frame, rows, last] = np.where(stays, rows * depth + last, came[frame, rows, last])
        new[unused] = -np.inf
        best = new + scores[frame][:, None]
    path = np.zeros(count, dtype=np.int64)
    state = int(best.reshape(-1).argmax())
    for frame in range(count - 1, -1, -1):
        path[frame] = state // depth
        state = int(came[frame].reshape(-1)[state])
    return path


def loudness_db(audio: Audio, count: int) -> NDArray[np.float64]:
    """Level of the signal around each of so many frames of 12.5 ms, dB of full scale."""
    row = audio.samples[0].detach().cpu().double().numpy()
    hop = round(FRAME_S * SAMPLE_RATE)
    padded = np.pad(row, (hop, (count + 1) * hop))
    power = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[::hop][:count]
    return np.asarray(10.0 * np.log10(np.square(power).mean(axis=1) + 1e-10))


def _runs(path: NDArray[np.int64]) -> list[tuple[str, int, int]]:
    """Equal sounds in a row, with their first frame and the one after their last."""
    edges = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), len(path)]
    return [(SOUNDS[path[a]], a, b) for a, b in itertools.pairwise(edges)]


def _stressed(runs: list[tuple[str, int, int]], loud_db: NDArray[np.float64]) -> list[str]:
    """Symbols of runs; vowels with 1, 2 or 0 for loud, middling and quiet."""
    levels = {
        index: float(loud_db[first:last].max())
        for index, (sound, first, last) in enumerate(runs)
        if is_vowel(sound)
    }
    if not levels:
        return [sound for sound, _, _ in runs]
    usual = float(np.median(list(levels.values())))
    symbols = []
    for index, (sound, first, last) in enumerate(runs):
        above_db = levels.get(index, math.nan) - usual
        stress = "1" if above_db > -1.0 else "2" if above_db > -5.0 else "0"
        if sound == "AH" and last - first < _FULL_AH:
            stress = "0"
        symbols.append(sound + stress if index in levels else sound)
    return symbols
