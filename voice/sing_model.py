"""A voice as pitch, spectral envelope and breath, and sound made of these.

The envelope is CheapTrick's (Morise 2015): free of the pitch it was sung at, so that another can be
put in. Periods are set down as minimum-phase pulses and noise, as WORLD does (Morise 2016).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from voice.audio import SAMPLE_RATE
from voice.pitch import PitchConfig, track_pitch

HOP = 120  # samples; 5 ms
N_FFT = 1024
_LOWEST_HZ = 3.0 * SAMPLE_RATE / (N_FFT - 2)  # three periods fill the window
_UNVOICED_HZ = 240.0  # sets the window where there is no pitch
_BANDS_HZ = np.array([0.0, 1_000.0, 2_000.0, 3_000.0, 4_000.0, 6_000.0, 8_000.0, 12_000.0])
_SHARED = 0.83  # of noise, what two windows half a length apart do not have in common
_BATCH = 256


@dataclass(frozen=True, eq=False)
class VoiceModel:
    """A voice in frames of 5 ms."""

    f0: Float[np.ndarray, " T"]  # Hz; 0 where unvoiced
    envelope: Float[np.ndarray, "T K"]  # natural log of the power density
    breath: Float[np.ndarray, "T 8"]  # share of noise in the power, at `_BANDS_HZ`


def analysed(samples: Float[np.ndarray, " N"]) -> VoiceModel:
    """The model of one voice at 24 kHz."""
    samples = samples.astype(np.float64)
    f0 = track_pitch(samples, PitchConfig(floor_hz=65.0, ceiling_hz=800.0, hop_length=HOP))
    hertz = np.where(f0 > 0, np.maximum(f0, _LOWEST_HZ), _UNVOICED_HZ)
    padded = np.pad(samples, 2 * N_FFT)
    envelope = np.empty((len(f0), N_FFT // 2 + 1), dtype=np.float32)
    breath = np.ones((len(f0), len(_BANDS_HZ)), dtype=np.float32)
    for first in range(0, len(f0), _BATCH):
        rows = slice(first, first + _BATCH)
        centres = np.arange(len(f0))[rows] * HOP + 2 * N_FFT
        envelope[rows] = _envelope(padded, centres, hertz[rows])
        breath[rows] = np.where(f0[rows, None] > 0, _breath(padded, centres, hertz[rows]), 1.0)
    return VoiceModel(f0, envelope, breath)


def _windowed(
    padded: Float[np.ndarray, " N"],
    centres: np.ndarray,
    half: Float[np.ndarray, " T"],
) -> tuple[Float[np.ndarray, "T W"], Float[np.ndarray, "T W"]]:
    """Frames under Hann windows of a half-length each, and these windows."""
    offsets = np.arange(-N_FFT // 2, N_FFT // 2)
    first = np.floor(centres).astype(np.int64)
    frames = padded[first[:, None] + offsets]
    share = (offsets - (centres - first)[:, None]) / half[:, None]
    return frames, np.where(np.abs(share) < 1, 0.5 + 0.5 * np.cos(np.pi * share), 0.0)


def _envelope(
    padded: Float[np.ndarray, " N"], centres: np.ndarray, hertz: Float[np.ndarray, " T"]
) -> Float[np.ndarray, "T K"]:
    frames, window = _windowed(padded, centres, 1.5 * SAMPLE_RATE / hertz)
    window = window / np.sqrt((window**2).sum(axis=1, keepdims=True))
    frames = frames * window
    frames = frames - window * (frames.sum(axis=1) / window.sum(axis=1))[:, None]
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    bin_hz = SAMPLE_RATE / N_FFT
    bins = np.arange(N_FFT // 2 + 1) * bin_hz
    # below the pitch there is nothing but what the mean took away: mirror what is above
    mirrored = np.abs(hertz[:, None] - bins)
    below = bins < hertz[:, None]
    at = mirrored / bin_hz
    lower = np.clip(at.astype(np.int64), 0, len(bins) - 2)
    rows = np.arange(len(power))[:, None]
    above = power[rows, lower] + (at - lower) * (power[rows, lower + 1] - power[rows, lower])
    power = np.where(below, power + above, power) + 1e-12
    # mean over two thirds of the pitch, by differences of a running sum
    wide = np.concatenate([power[:, 40:0:-1], power, power[:, -2:-42:-1]], axis=1)
    total = np.pad(np.cumsum(wide, axis=1), ((0, 0), (1, 0)))
    reach = hertz[:, None] / 3.0 / bin_hz

    def running(place: Float[np.ndarray, "T K"]) -> Float[np.ndarray, "T K"]:
        place = np.clip(place, 0, total.shape[1] - 1.001)
        low = place.astype(np.int64)
        return np.asarray(
            total[rows, low] + (place - low) * (total[rows, low + 1] - total[rows, low])
        )

    middle = np.arange(len(bins)) + 40.5
    smooth = (running(middle + reach) - running(middle - reach)) / (2.0 * reach)
    cepstrum = np.fft.irfft(np.log(np.maximum(smooth, 1e-12)), axis=1)
    quefrency = np.minimum(np.arange(N_FFT), N_FFT - np.arange(N_FFT)) / SAMPLE_RATE
    turns = hertz[:, None] * quefrency
    cepstrum *= np.sinc(turns) * (1.3 - 0.3 * np.cos(2.0 * np.pi * turns))
    return np.asarray(np.fft.rfft(cepstrum, axis=1).real)


def _breath(
    padded: Float[np.ndarray, " N"], centres: np.ndarray, hertz: Float[np.ndarray, " T"]
) -> Float[np.ndarray, "T 8"]:
    """Share of each band that differs between one period and the next."""
    period = SAMPLE_RATE / hertz
    spectra = []
    for side in (-0.5, 0.5):
        # whole samples for the frame, the rest of the shift as phase
        centre = centres + side * period
        frames, window = _windowed(padded, centre, period)
        spectrum = np.fft.rfft(frames * window, axis=1)
        rest = (centre - np.floor(centre))[:, None]
        turn = 2.0 * np.pi * np.arange(spectrum.shape[1]) / N_FFT
        spectra.append(spectrum * np.exp(1j * turn * rest))
    bins = np.arange(N_FFT // 2 + 1) * SAMPLE_RATE / N_FFT
    # triangles around each band's frequency
    weights = np.stack([np.interp(bins, _BANDS_HZ, row) for row in np.eye(len(_BANDS_HZ))])
    likeness = np.abs((np.conj(spectra[0]) * spectra[1]) @ weights.T)
    power = 0.5 * (np.abs(spectra[0]) ** 2 + np.abs(spectra[1]) ** 2) @ weights.T
    return np.asarray(np.clip((1.0 - likeness / (power + 1e-12)) / _SHARED, 0.001, 1.0))


def sounded(
    model: VoiceModel, *, formant_ratio: float = 1.0, generator: torch.Generator
) -> Float[np.ndarray, " N"]:
    """The sound of a model with a pitch in every frame, (T - 1) * 5 ms long.

    Formants are multiplied by a ratio. Frames without a pitch are silent.
    """
    length = max(0, (len(model.f0) - 1) * HOP)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    noise = np.random.default_rng(seed).standard_normal(length + N_FFT)
    times, hertz = _pulses(model.f0, length)
    row = np.zeros(length + 2 * N_FFT)
    bins = np.arange(N_FFT // 2 + 1)
    for first in range(0, len(times), _BATCH):
        at, pitch = times[first : first + _BATCH], hertz[first : first + _BATCH]
        frame = np.minimum(at / HOP, len(model.f0) - 1.001)
        low = frame.astype(np.int64)
        share = (frame - low)[:, None]
        log_power = (1 - share) * model.envelope[low] + share * model.envelope[low + 1]
        bands = (1 - share) * model.breath[low] + share * model.breath[low + 1]
        if formant_ratio != 1.0:
            places = np.minimum(bins / formant_ratio, bins[-1] - 0.001)
            lower = places.astype(np.int64)
            log_power = log_power[:, lower] + (places - lower) * (
                log_power[:, lower + 1] - log_power[:, lower]
            )
        hiss = _over_bins(bands)
        response = _minimum_phase(log_power)
        whole = np.floor(at).astype(np.int64)
        turn = np.exp(-2j * np.pi / N_FFT * (at - whole)[:, None] * bins)
        period = SAMPLE_RATE / pitch
        pulse = np.sqrt((1.0 - hiss) * period[:, None]) * turn
        offsets = np.arange(N_FFT)
        piece = noise[whole[:, None] + offsets] * (offsets < np.round(period)[:, None])
        grains = np.fft.irfft(response * (pulse + np.sqrt(hiss) * np.fft.rfft(piece)), axis=1)
        for begin, grain in zip(whole, grains, strict=True):
            row[begin : begin + N_FFT] += grain
    return row[:length]


def _over_bins(bands: Float[np.ndarray, "T 8"]) -> Float[np.ndarray, "T K"]:
    bins = np.arange(N_FFT // 2 + 1) * SAMPLE_RATE / N_FFT
    index = np.clip(np.searchsorted(_BANDS_HZ, bins, side="right") - 1, 0, len(_BANDS_HZ) - 2)
    share = (bins - _BANDS_HZ[index]) / np.diff(_BANDS_HZ)[index]
    return np.asarray((1 - share) * bands[:, index] + share * bands[:, index + 1])


def _pulses(
    f0: Float[np.ndarray, " T"], length: int
) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Times, in samples, at which periods begin, and the pitch there."""
    filled = f0
    if (f0 > 0).any():
        filled = np.interp(np.arange(len(f0)), np.flatnonzero(f0 > 0), f0[f0 > 0])
    at = np.arange(length)
    hertz = np.interp(at / HOP, np.arange(len(f0)), filled)
    phase = np.cumsum(hertz) / SAMPLE_RATE
    starts = np.flatnonzero(np.diff(np.floor(phase))) + 1
    times = starts - (phase[starts] % 1.0) * SAMPLE_RATE / np.maximum(hertz[starts], 1.0)
    voiced = f0[np.minimum(np.round(times / HOP).astype(np.int64), len(f0) - 1)] > 0
    return np.maximum(times[voiced], 0.0), hertz[starts][voiced]


def _minimum_phase(log_power: Float[np.ndarray, "T K"]) -> np.ndarray:
    """The spectra of least delay that have these powers (Oppenheim and Schafer, 12.7)."""
    cepstrum = np.fft.irfft(0.5 * log_power, axis=1)
    cepstrum[:, 1 : N_FFT // 2] *= 2.0
    cepstrum[:, N_FFT // 2 + 1 :] = 0.0
    return np.asarray(np.exp(np.fft.rfft(cepstrum, axis=1)))
