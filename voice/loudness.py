"""Loudness as broadcasters measure it (ITU-R BS.1770-4), and bringing speech to a wanted level."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from voice.audio import SAMPLE_RATE, Audio, resample

WEB_LUFS = -16.0  # the usual level of speech on the web
CEILING_DB = -1.0  # true peak; leaves room for the ripple of lossy encoders
_BLOCK_S, _HOP_S = 0.4, 0.1
_LOOK_S = 0.003  # how far the limiter looks to both sides


def loudness_lufs(audio: Audio) -> float:
    """Gated loudness of one signal; -inf where nothing passes the gate of -70 LUFS."""
    weighted = _k_weighted(_row(audio))
    block, hop = round(_BLOCK_S * SAMPLE_RATE), round(_HOP_S * SAMPLE_RATE)
    if len(weighted) < block:  # shorter than a block: the one block there is
        block = hop = len(weighted)
    hops = weighted[: len(weighted) // hop * hop].reshape(-1, hop)
    powers = np.lib.stride_tricks.sliding_window_view(np.mean(hops**2, axis=1), block // hop).mean(
        axis=1
    )
    powers = powers[_lufs(powers) > -70.0]
    if not len(powers):
        return -math.inf
    return float(_lufs(np.mean(powers[_lufs(powers) > _lufs(powers.mean()) - 10.0])))


def true_peak(audio: Audio) -> float:
    """Largest magnitude of the signal between its samples too, by four-fold oversampling."""
    return float(resample(audio.samples, SAMPLE_RATE, 4 * SAMPLE_RATE).abs().amax())


def normalized(audio: Audio, lufs: float = WEB_LUFS) -> Audio:
    """The signal at a wanted loudness, its true peaks held under -1 dB by a look-ahead limiter.

    Silence stays silence. Where much must be limited, the result is a little under the target.
    """
    now = loudness_lufs(audio)
    if math.isinf(now):
        return audio
    row = _row(audio) * 10.0 ** ((lufs - now) / 20.0)
    samples = torch.from_numpy(row * _limiting_gain(row)).to(audio.samples)[None]
    ceiling = 10.0 ** (CEILING_DB / 20.0)
    # the limiter works on samples; a peak between two that it missed lowers the whole signal
    return Audio(samples * min(1.0, ceiling / max(true_peak(Audio(samples)), 1e-9)))


def _limiting_gain(row: NDArray[np.float64]) -> NDArray[np.float64]:
    """A smooth gain of at most 1 that keeps every sample under the ceiling."""
    from scipy import ndimage

    ceiling = 10.0 ** ((CEILING_DB - 0.3) / 20.0)
    needed = np.minimum(1.0, ceiling / np.maximum(np.abs(row), 1e-9))
    reach = 2 * round(_LOOK_S * SAMPLE_RATE) + 1
    lowest = ndimage.minimum_filter1d(needed, reach, mode="nearest")
    # a mean over the window of its own minimum never exceeds what its middle needs
    window = np.hanning(reach + 2)[1:-1]
    return np.asarray(ndimage.convolve1d(lowest, window / window.sum(), mode="nearest"))


def _k_weighted(row: NDArray[np.float64]) -> NDArray[np.float64]:
    """BS.1770's two filters: a shelf for the head, a high-pass for the ear's bass."""
    from scipy import signal

    for numerator, denominator in _k_filters(SAMPLE_RATE):
        row = signal.lfilter(numerator, denominator, row)
    return row


def _k_filters(
    rate_hz: int,
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The filters at any rate: the standard lists 48 kHz, De Man (2014) its analogue prototypes."""
    gain_db, centre_hz, quality = 3.999843853973347, 1681.974450955533, 0.7071752369554196
    k = math.tan(math.pi * centre_hz / rate_hz)
    high = 10.0 ** (gain_db / 20.0)
    band = high**0.4996667741545416
    scale = 1.0 + k / quality + k * k
    shelf = (
        np.array(
            [
                high + band * k / quality + k * k,
                2 * (k * k - high),
                high - band * k / quality + k * k,
            ]
        )
        / scale,
        np.array([1.0, 2 * (k * k - 1) / scale, (1.0 - k / quality + k * k) / scale]),
    )
    centre_hz, quality = 38.13547087602444, 0.5003270373238773
    k = math.tan(math.pi * centre_hz / rate_hz)
    scale = 1.0 + k / quality + k * k
    high_pass = (
        np.array([1.0, -2.0, 1.0]),
        np.array([1.0, 2 * (k * k - 1) / scale, (1.0 - k / quality + k * k) / scale]),
    )
    return [shelf, high_pass]


def _lufs(power: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return np.asarray(-0.691 + 10.0 * np.log10(np.maximum(power, 1e-12)))


def _row(audio: Audio) -> NDArray[np.float64]:
    if len(audio.samples) != 1:
        raise ValueError(
            f"loudness is of one signal, this Audio has {len(audio.samples)}; "
            "pass Audio(samples[i : i + 1])"
        )
    return audio.samples[0].detach().cpu().double().numpy()
