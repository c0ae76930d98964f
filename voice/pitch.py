"""Pitch of one voice, by YIN (de Cheveigné and Kawahara 2002): what effects and singing go by.

Every 5 ms, also through creaks and noise. `voice.corpus_pitch` finds the networks' targets and is
the second opinion that the tests of singing ask for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from voice.audio import SAMPLE_RATE
from voice.pitch_path import best_path

_CANDIDATES = 6
_SILENCE_DB = -50.0  # below the loudest frame
_BLOCK = 512  # frames at once
_NEVER = 1e3


@dataclass(frozen=True)
class PitchConfig:
    """What is looked for, and how often."""

    floor_hz: float = 60.0
    ceiling_hz: float = 1_100.0
    hop_length: int = 120  # samples at 24 kHz; 5 ms
    window_s: float = 0.025  # over which a period is compared with the next
    voicing: float = 0.35  # share of a frame that its best period may leave unexplained
    octave_cost: float = 0.03  # favours the higher of two pitches that explain a frame alike
    jump_cost: float = 0.6  # of an octave within 10 ms
    switch_cost: float = 0.25  # between voiced and unvoiced

    def __post_init__(self) -> None:
        if not 20.0 <= self.floor_hz < self.ceiling_hz <= SAMPLE_RATE / 8:
            raise ValueError(
                f"floor_hz={self.floor_hz} and ceiling_hz={self.ceiling_hz} must rise within "
                f"20..{SAMPLE_RATE // 8}"
            )
        if self.hop_length < 1:
            raise ValueError(f"hop_length={self.hop_length} must be at least 1 sample")


def track_pitch(
    samples: Float[np.ndarray, " N"], config: PitchConfig | None = None
) -> Float[np.ndarray, " T"]:
    """Pitch in Hz at every hop, 1 + N // hop frames; 0 where nothing is voiced.

    A signal at 24 kHz; frame t is centred on sample t * hop. Silence and noise give zeros.
    """
    config = config or PitchConfig()
    frequencies, costs = _candidates(samples.astype(np.float64), config)
    return best_path(
        frequencies,
        costs,
        jump_cost=config.jump_cost * 0.01 * SAMPLE_RATE / config.hop_length,
        switch_cost=config.switch_cost,
    )


def _candidates(
    samples: Float[np.ndarray, " N"], config: PitchConfig
) -> tuple[Float[np.ndarray, "T K"], Float[np.ndarray, "T K"]]:
    """Frequencies and costs of each frame's candidates; the first, of 0 Hz, is unvoiced."""
    most = int(np.ceil(SAMPLE_RATE / config.floor_hz)) + 1
    least = max(2, int(SAMPLE_RATE / config.ceiling_hz))
    width = round(config.window_s * SAMPLE_RATE)
    size = width + 2 * most
    n_fft = 1 << int(np.ceil(np.log2(size + width)))
    reach = (size + 1) // 2
    count = 1 + len(samples) // config.hop_length
    padded = np.pad(samples - samples.mean() if len(samples) else samples, reach)
    padded = np.pad(padded, (0, max(0, (count - 1) * config.hop_length + size - len(padded))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: config.hop_length][:count]
    frequencies = np.zeros((count, _CANDIDATES + 1))
    costs = np.full((count, _CANDIDATES + 1), _NEVER)
    loudest = 0.0
    levels = np.zeros(count)
    for first in range(0, count, _BLOCK):
        rows = slice(first, first + _BLOCK)
        hertz, unexplained, level = _of_block(frames[rows], width, least, most, n_fft)
        levels[rows] = level
        cost = unexplained - config.octave_cost * np.log2(hertz / config.floor_hz)
        order = np.argsort(cost, axis=1)[:, :_CANDIDATES]
        frequencies[rows, 1:] = np.take_along_axis(hertz, order, axis=1)
        costs[rows, 1:] = np.take_along_axis(cost, order, axis=1)
        loudest = max(loudest, float(level.max(initial=0.0)))
    quiet = levels <= max(loudest * 10.0 ** (_SILENCE_DB / 10.0), 1e-12)
    costs[:, 0] = np.where(quiet, -_NEVER, config.voicing)
    return frequencies, costs


def _of_block(
    frames: Float[np.ndarray, "T S"], width: int, least: int, most: int, n_fft: int
) -> tuple[Float[np.ndarray, "T L"], Float[np.ndarray, "T L"], Float[np.ndarray, " T"]]:
    """Per lag: its frequency, the share it leaves unexplained (large off a dip); and the power.

    The frame's middle is compared with what came a lag before and with what comes a lag after, so
    that a gliding pitch is dated where it is heard, whatever its period.
    """
    frames = frames - frames.mean(axis=1, keepdims=True)
    inner = frames[:, most : most + width]
    spectra = np.conj(np.fft.rfft(inner, n_fft)) * np.fft.rfft(frames, n_fft)
    product = np.fft.irfft(spectra, n_fft, axis=1)[:, : 2 * most + 1]
    energy = np.pad(np.cumsum(frames**2, axis=1), ((0, 0), (1, 0)))
    power = energy[:, width:] - energy[:, :-width]
    own = power[:, most : most + 1]
    difference = np.maximum(own + power - 2.0 * product, 0.0)
    both = difference[:, most:] + difference[:, most::-1]
    # of what the pieces hold: 0 for a period, 1 for noise
    share = both / np.maximum(2.0 * own + power[:, most:] + power[:, most::-1], 1e-12)
    here, before, after = (
        share[:, least:most],
        share[:, least - 1 : most - 1],
        share[:, least + 1 :],
    )
    curve = before - 2.0 * here + after
    shift = np.where(curve > 0, 0.5 * (before - after) / np.maximum(curve, 1e-12), 0.0)
    shift = np.clip(shift, -1.0, 1.0)
    depth = here - 0.25 * (before - after) * shift
    is_dip = (here <= before) & (here < after)
    hertz = SAMPLE_RATE / (np.arange(least, most) + shift)
    return hertz, np.where(is_dip, depth, _NEVER), own[:, 0] / width
