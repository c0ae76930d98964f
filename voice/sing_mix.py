"""A voice over its backing track: levels in dB, true peaks held by a limiter, written as WAV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from assets.errors import AssetError
from assets.files import replacing
from voice.audio import LONGEST_S, SAMPLE_RATE, Audio
from voice.decode import mixed_down, open_sound

_CEILING_DB = -1.0  # true peak; leaves room for the ripple of lossy encoders
_LOOK_S = 0.004
_RELEASE_S = 0.08
_OVERSAMPLING = 4
_TRIES = 4


@dataclass(frozen=True, eq=False)
class Mix:
    """A mixed song in the channels and at the rate of its backing track."""

    samples: Float[np.ndarray, "N C"]  # -1..1
    rate_hz: int

    def save(self, path: Path | str) -> Path:
        """Write a 24-bit WAV, beside first and then renamed."""
        import soundfile

        path = Path(path)
        if path.suffix.lower() != ".wav":
            raise ValueError(f"{path} does not end in .wav; only WAV is written")
        with replacing(path) as beside:
            soundfile.write(beside, self.samples, self.rate_hz, subtype="PCM_24")
        return path


def mixed(
    voice: Audio,
    backing: Path | str,
    *,
    voice_db: float = 0.0,
    backing_db: float = -3.0,
    lead_s: float = 0.0,
) -> Mix:
    """One voice over a backing track, as long as the longer one, peaks under -1 dB true peak.

    The track begins `lead_s` after the voice's sound. It is kept in stereo and at its own rate,
    from 24 kHz up. AssetError where it cannot be read or is longer than 30 min.
    """
    import soxr

    for name, value in (("voice_db", voice_db), ("backing_db", backing_db)):
        if not -60.0 <= value <= 24.0:
            raise ValueError(f"{name}={value} is out of range; choose -60 to 24")
    if len(voice.samples) != 1:
        raise ValueError(f"a mix has one voice, this Audio has {len(voice.samples)} signals")
    track, rate_hz = _track(Path(backing))
    row = voice.samples[0].detach().cpu().double().numpy()
    row = soxr.resample(row, SAMPLE_RATE, rate_hz, quality="HQ") * 10.0 ** (voice_db / 20.0)
    lead = round(lead_s * rate_hz)
    samples = np.zeros((max(len(row), lead + len(track)), track.shape[1]))
    samples[: len(row)] = row[:, None]
    samples[lead : lead + len(track)] += track * 10.0 ** (backing_db / 20.0)
    return Mix(limited(samples, rate_hz), rate_hz)


def limited(
    samples: Float[np.ndarray, "N C"], rate_hz: int, ceiling_db: float = _CEILING_DB
) -> Float[np.ndarray, "N C"]:
    """The channels under one smooth gain that holds their true peaks under a ceiling.

    Where nothing exceeds it, the samples are as they were.
    """
    from scipy import ndimage

    ceiling = 10.0 ** (ceiling_db / 20.0)
    made = samples
    for _ in range(_TRIES):  # what is lowered in one place may rise between samples beside it
        peaks = true_peaks(made, rate_hz)
        if peaks.max(initial=0.0) <= ceiling:
            return np.asarray(made)
        needed = np.minimum(1.0, 0.999 * ceiling / np.maximum(peaks, 1e-9))
        reach = 2 * round(_LOOK_S * rate_hz) + 1
        lowest = ndimage.minimum_filter1d(needed, 2 * reach - 1, mode="nearest")
        window = np.hanning(reach + 2)[1:-1]
        gain = ndimage.convolve1d(lowest, window / window.sum(), mode="nearest")
        made = made * _released(gain, rate_hz)[:, None]
    return np.asarray(made * min(1.0, ceiling / float(true_peaks(made, rate_hz).max())))


def true_peaks(samples: Float[np.ndarray, "N C"], rate_hz: int) -> Float[np.ndarray, " N"]:
    """The largest magnitude of any channel at and around each sample, by oversampling."""
    import soxr

    fine = np.abs(soxr.resample(samples, rate_hz, rate_hz * _OVERSAMPLING, quality="HQ")).max(
        axis=1
    )
    fine = np.pad(fine, (0, max(0, len(samples) * _OVERSAMPLING - len(fine))))
    between = fine[: len(samples) * _OVERSAMPLING].reshape(-1, _OVERSAMPLING).max(axis=1)
    return np.asarray(np.maximum(between, np.abs(samples).max(axis=1)))


def _released(gain: Float[np.ndarray, " N"], rate_hz: int) -> Float[np.ndarray, " N"]:
    """The gain, rising no faster than its release, so that bass is not distorted."""
    rise = 1.0 / (_RELEASE_S * rate_hz)  # of full gain, a sample
    at = np.arange(len(gain)) * rise
    return np.asarray(np.minimum.accumulate(gain - at) + at)


def _track(path: Path) -> tuple[Float[np.ndarray, "N C"], int]:
    """A backing track in one or two channels, at its own rate or, below 24 kHz, at 24 kHz."""
    import soxr

    sound = open_sound(path)
    rate_hz = sound.header.rate_hz
    blocks: list[np.ndarray] = []
    count = 0
    for block in sound.blocks():
        narrow = block if block.shape[1] <= 2 else mixed_down(block)[:, None]
        blocks.append(np.asarray(narrow, dtype=np.float32))
        count += len(block)
        if count > LONGEST_S * rate_hz:
            raise AssetError(
                f"{path} is longer than {LONGEST_S / 60:.0f} min; give the backing of one song"
            )
    if not count:
        raise AssetError(f"{path} holds no sound; give another backing track")
    samples = np.concatenate(blocks).astype(np.float64)
    if rate_hz < SAMPLE_RATE:
        samples = soxr.resample(samples, rate_hz, SAMPLE_RATE, quality="HQ")
    return samples, max(rate_hz, SAMPLE_RATE)
