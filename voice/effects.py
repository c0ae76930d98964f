"""What can be done to a recorded or spoken line: pitch, formants, speed, gate, cross-fade."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from voice.audio import SAMPLE_RATE, Audio
from voice.loudness import normalized
from voice.psola import reshaped

_RUMBLE_HZ = 20.0


@dataclass(frozen=True)
class EffectConfig:
    """Effects in the order in which they are applied; the defaults change nothing."""

    gate_db: float | None = None  # quieter than this is silenced; dB of full scale
    pitch_semitones: float = 0.0  # formants are kept
    formant_semitones: float = 0.0  # higher is a smaller speaker
    speed: float = 1.0  # 2 is twice as fast
    lufs: float | None = None  # of the result, such as -16

    def __post_init__(self) -> None:
        if not -24.0 <= self.pitch_semitones <= 24.0:
            raise ValueError(
                f"pitch_semitones={self.pitch_semitones} is out of range; choose -24 to 24"
            )
        if not -12.0 <= self.formant_semitones <= 12.0:
            raise ValueError(
                f"formant_semitones={self.formant_semitones} is out of range; choose -12 to 12"
            )
        if not 0.25 <= self.speed <= 4.0:
            raise ValueError(f"speed={self.speed} is out of range; choose 0.25 to 4")
        if self.gate_db is not None and not -100.0 <= self.gate_db <= -10.0:
            raise ValueError(f"gate_db={self.gate_db} is out of range; choose -100 to -10")
        if self.lufs is not None and not -40.0 <= self.lufs <= -8.0:
            raise ValueError(f"lufs={self.lufs} is out of range; choose -40 to -8")


def with_effects(audio: Audio, config: EffectConfig) -> Audio:
    """One voice after the effects of the settings; its length divided by the speed."""
    row = _row(audio)
    if config.gate_db is not None:
        row = gated(row, config.gate_db)
    shifted = reshaped(
        row,
        pitch_ratio=2.0 ** (config.pitch_semitones / 12.0),
        formant_ratio=2.0 ** (config.formant_semitones / 12.0),
        speed=config.speed,
    )
    made = Audio(torch.from_numpy(shifted).to(audio.samples)[None])
    return made if config.lufs is None else normalized(made, config.lufs)


def gated(
    samples: Float[np.ndarray, " N"],
    threshold_db: float = -50.0,
    *,
    hold_s: float = 0.12,
    fade_s: float = 0.015,
) -> Float[np.ndarray, " N"]:
    """The signal, silent where its level over 20 ms stays under a threshold."""
    gain = gate_gain(samples, threshold_db, hold_s=hold_s, fade_s=fade_s)
    return np.asarray(samples * gain)


def gate_gain(
    samples: Float[np.ndarray, " N"],
    threshold_db: float = -50.0,
    *,
    hold_s: float = 0.12,
    fade_s: float = 0.015,
) -> Float[np.ndarray, " N"]:
    """What a noise gate multiplies a signal by: 1 where it is open, 0 where it is shut.

    It opens `fade_s` before the level rises, and closes `hold_s` after it has fallen by another
    6 dB, so that neither a soft onset nor the end of a word is lost.
    """
    from scipy import ndimage

    reach = round(0.02 * SAMPLE_RATE)
    power = ndimage.uniform_filter1d(samples**2, reach, mode="constant")
    level = np.sqrt(np.maximum(power, 0.0))  # running sums fall below 0 by rounding
    open_at = 10.0 ** (threshold_db / 20.0)
    loud, audible = level >= open_at, level >= open_at / 2.0
    # stretches that are audible stay if they are loud anywhere
    labels, count = ndimage.label(audible)
    keep = np.zeros(count + 1, dtype=bool)
    keep[np.unique(labels[loud])] = True
    keep[0] = False
    is_open = keep[labels]
    fade, hold = round(fade_s * SAMPLE_RATE), round(hold_s * SAMPLE_RATE)
    at = np.arange(len(samples))
    last = np.maximum.accumulate(np.where(is_open, at, -hold - 1))
    following = np.minimum.accumulate(np.where(is_open, at, len(samples) + fade)[::-1])[::-1]
    wide = (at - last <= hold) | (following - at <= fade)
    return np.asarray(
        ndimage.uniform_filter1d(wide.astype(np.float64), max(1, fade), mode="nearest")
    )


def without_offset(audio: Audio) -> Audio:
    """The signals without their constant part and what lies below hearing (20 Hz), in phase."""
    from scipy import signal

    rows = audio.samples.detach().cpu().double().numpy()
    low = signal.butter(2, _RUMBLE_HZ, "high", fs=SAMPLE_RATE, output="sos")
    rows = rows - rows.mean(axis=1, keepdims=True)
    reach = min(rows.shape[1] - 1, SAMPLE_RATE // 10)
    freed = np.ascontiguousarray(signal.sosfiltfilt(low, rows, padlen=reach))
    return Audio(torch.from_numpy(freed).to(audio.samples))


def cross_faded(first: Audio, second: Audio, seconds: float) -> Audio:
    """One sound running over into another, both heard for `seconds`.

    What is alike fades by amplitude, what is not by power: in either case the level is even.
    """
    a, b = _row(first), _row(second)
    count = round(seconds * SAMPLE_RATE)
    if not 0 <= count <= min(len(a), len(b)):
        raise ValueError(
            f"seconds={seconds} must be from 0 to the shorter sound's "
            f"{min(len(a), len(b)) / SAMPLE_RATE:.2f} s"
        )
    if count == 0:
        return Audio(torch.from_numpy(np.concatenate([a, b])).to(first.samples)[None])
    end, start = a[-count:], b[:count]
    likeness = float((end * start).sum())
    likeness /= math.sqrt(float((end**2).sum() * (start**2).sum())) + 1e-12
    rise = (np.arange(count) + 0.5) / count
    # |fade|² = out² + in² + 2 likeness out in is held at 1
    scale = 1.0 / np.sqrt(rise**2 + (1 - rise) ** 2 + 2 * max(likeness, 0.0) * rise * (1 - rise))
    joined = (end * (1 - rise) + start * rise) * scale
    made = np.concatenate([a[:-count], joined, b[count:]])
    return Audio(torch.from_numpy(made).to(first.samples)[None])


def _row(audio: Audio) -> Float[np.ndarray, " N"]:
    if len(audio.samples) != 1:
        raise ValueError(
            f"effects are for one voice, this Audio has {len(audio.samples)}; "
            "pass Audio(samples[i : i + 1])"
        )
    return np.asarray(audio.samples[0].detach().cpu().double().numpy())
