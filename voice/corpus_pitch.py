"""Pitch of clean speech and singing by autocorrelation (Boersma 1993): targets for training.

At the mel's frames. Effects and singing go by `voice.pitch`, another method on finer frames.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from voice.audio import SAMPLE_RATE
from voice.mel import MelConfig
from voice.pitch_path import best_path

FLOOR_HZ, CEILING_HZ = 60.0, 1_050.0
_SPEECH_HZ = 500.0  # few speakers go beyond
_CANDIDATES = 10
_VOICING = 0.45  # autocorrelation from which a frame counts as voiced
_SILENCE = 0.03  # of the largest sample
_OCTAVE_COST = 0.012  # favours the higher of two pitches that explain a frame alike
_JUMP_COST = 0.35  # an octave within 10 ms
_SWITCH_COST = 0.14  # between voiced and unvoiced
_BLOCK = 400  # frames at once


def pitch_track(
    samples: Float[np.ndarray, " N"],
    floor_hz: float = FLOOR_HZ,
    ceiling_hz: float = CEILING_HZ,
) -> Float[np.ndarray, " T"]:
    """Pitch in Hz of the mel's frames, 1 + N // 300 of them; 0 where nothing is voiced.

    A signal at 24 kHz; frames are 3 periods of the floor long, at most 50 ms.
    """
    if not 0 < floor_hz < ceiling_hz <= SAMPLE_RATE / 8:
        raise ValueError(
            f"floor_hz={floor_hz} and ceiling_hz={ceiling_hz} must rise within "
            f"0..{SAMPLE_RATE / 8:.0f}"
        )
    frequencies, strengths = _candidates(samples.astype(np.float64), floor_hz, ceiling_hz)
    scale = 0.01 * SAMPLE_RATE / MelConfig().hop_length
    return best_path(
        frequencies, -strengths, jump_cost=scale * _JUMP_COST, switch_cost=scale * _SWITCH_COST
    )


def usual_pitch(f0: Float[np.ndarray, " T"]) -> float:
    """Median pitch of a clip in Hz, over 500 Hz only if it never is below; 0 without any.

    In noisy speech `pitch_track` slips to several times the pitch now and then.
    """
    speech = f0[(f0 > 0) & (f0 < _SPEECH_HZ)]
    heard = speech if len(speech) else f0[f0 > 0]
    return float(np.median(heard)) if len(heard) else 0.0


def _candidates(
    samples: Float[np.ndarray, " N"], floor_hz: float, ceiling_hz: float
) -> tuple[Float[np.ndarray, "T K"], Float[np.ndarray, "T K"]]:
    """Frequencies and strengths of each frame's candidates; the first, of 0 Hz, is unvoiced."""
    hop = MelConfig().hop_length
    reach = round(1.5 * SAMPLE_RATE / floor_hz)
    padded = np.pad(samples - samples.mean(), reach)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach)[::hop]
    window = np.hanning(2 * reach + 1)[:-1]
    size = 1 << int(np.ceil(np.log2(3 * reach)))
    least, most = int(SAMPLE_RATE / ceiling_hz), int(np.ceil(SAMPLE_RATE / floor_hz))
    own = np.fft.irfft(np.abs(np.fft.rfft(window, size)) ** 2)
    own = (own / own[0])[: most + 2]
    loudest = max(float(np.abs(samples).max(initial=0.0)), 1e-9)
    lags = np.arange(least, most + 1)
    frequencies = np.zeros((len(frames), _CANDIDATES + 1))
    strengths = np.full((len(frames), _CANDIDATES + 1), -1e3)
    for first in range(0, len(frames), _BLOCK):
        block = frames[first : first + _BLOCK]
        block = block - block.mean(axis=1, keepdims=True)
        spectrum = np.abs(np.fft.rfft(block * window, size)) ** 2
        correlation = np.fft.irfft(spectrum, axis=1)[:, : most + 2]
        correlation = correlation / np.maximum(correlation[:, :1], 1e-12) / own
        before, here, after = (correlation[:, lags + k] for k in (-1, 0, 1))
        curve = before - 2 * here + after
        shift = np.where(curve < 0, 0.5 * (before - after) / np.minimum(curve, -1e-12), 0.0)
        height = here - 0.25 * (before - after) * shift
        hertz = SAMPLE_RATE / (lags + np.clip(shift, -1, 1))
        is_peak = (here > before) & (here >= after) & (here > 0.5 * _VOICING)
        score = np.minimum(height, 1.0) + _OCTAVE_COST * np.log2(hertz / floor_hz)
        score = np.where(is_peak, score, -1e3)
        order = np.argsort(-score, axis=1)[:, :_CANDIDATES]
        rows = slice(first, first + len(block))
        frequencies[rows, 1:] = np.take_along_axis(hertz, order, axis=1)
        strengths[rows, 1:] = np.take_along_axis(score, order, axis=1)
        loud = np.abs(block).max(axis=1) / loudest
        strengths[rows, 0] = _VOICING + np.maximum(0, 2 - loud * (1 + _VOICING) / _SILENCE)
    return frequencies, strengths
