"""What a face does besides articulating: blinks, glances, nods, raised brows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from avatar.visemes import sided
from flame.arkit import ARKIT_INDEX, ARKIT_NAMES
from flame.head import JOINT_NAMES
from voice.audio import SAMPLE_RATE, Audio
from voice.phonemes import stress_of
from voice.speech import Phoneme

GAZE_RANGE_DEG = 30.0  # eye rotation that an eyeLook weight of 1 stands for
_NECK, _HEAD = JOINT_NAMES.index("neck"), JOINT_NAMES.index("head")


@dataclass(frozen=True)
class Accent:
    """A stressed syllable: when, and how loud against the line's loudest (0..1)."""

    time_s: float
    strength: float


def accents(phonemes: tuple[Phoneme, ...], audio: Audio) -> list[Accent]:
    """Primary-stressed vowels with their loudness."""
    stressed = [phoneme for phoneme in phonemes if stress_of(phoneme.symbol) == 1]
    levels = []
    for phoneme in stressed:
        piece = audio.samples[
            0, round(phoneme.start_s * SAMPLE_RATE) : round(phoneme.end_s * SAMPLE_RATE)
        ]
        levels.append(float(piece.square().mean().sqrt()) if len(piece) else 0.0)
    loudest = max(levels, default=0.0) or 1.0
    return [
        Accent(phoneme.start_s, level / loudest)
        for phoneme, level in zip(stressed, levels, strict=True)
    ]


def energy(audio: Audio, times_s: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """Loudness over time, smoothed over a fifth of a second, 0..1 of the line's loudest."""
    hop = SAMPLE_RATE // 100
    squared = torch.nn.functional.pad(audio.samples[:1].square(), (0, 2 * hop))
    level = torch.nn.functional.avg_pool1d(squared[None], hop, hop)[0, 0].sqrt()  # 100 a second
    level = _smooth(level.to(times_s.dtype), 10)
    level = level / level.max().clamp_min(1e-6)
    at = (times_s * 100).long().clamp(0, len(level) - 1)
    return level[at]


def blinks(times_s: Float[Tensor, " T"], *, generator: torch.Generator) -> Float[Tensor, "T 52"]:
    """Blinks 2 to 6 s apart, 150 to 250 ms long; lids close twice as fast as they open."""
    weights = times_s.new_zeros(len(times_s), len(ARKIT_NAMES))
    end_s = float(times_s[-1])
    start_s = _uniform(0.6, 3.0, generator)
    while start_s + 0.25 < end_s:
        duration_s = _uniform(0.15, 0.25, generator)
        phase = (times_s - start_s) / duration_s
        shut = torch.minimum(phase / 0.33, (1.0 - phase) / 0.67).clamp(0.0, 1.0)
        # flat-topped, so that the lids meet on at least one frame at 24 a second
        shut = (0.5 - 0.5 * torch.cos(math.pi * (shut * 1.35).clamp_max(1.0)))[:, None]
        weights[:, sided("eyeBlink")] = torch.maximum(weights[:, sided("eyeBlink")], shut)
        weights[:, sided("eyeSquint")] = torch.maximum(weights[:, sided("eyeSquint")], 0.12 * shut)
        start_s += duration_s + _uniform(2.0, 6.0, generator)
    return weights


def gaze(
    times_s: Float[Tensor, " T"], range_deg: float, *, generator: torch.Generator
) -> Float[Tensor, "T 2"]:
    """Eye yaw and pitch in degrees: the viewer most of the time, small quick glances between.

    Yaw is positive to the subject's left, pitch positive upwards.
    """
    angles = times_s.new_zeros(len(times_s), 2)
    end_s = float(times_s[-1])
    now = (0.0, 0.0)
    start_s = _uniform(0.5, 1.2, generator)
    while start_s < end_s - 0.5:
        back = _uniform(0.0, 1.0, generator) < 0.55
        spread = 0.15 if back else 1.0  # even a steady gaze wanders a little
        then = (
            _uniform(-range_deg, range_deg, generator) * spread,
            _uniform(-range_deg, range_deg, generator) * spread * 0.5,
        )
        # a saccade takes about 30 ms and 2 ms a degree more
        duration_s = 0.03 + 0.002 * math.dist(now, then)
        step = ((times_s - start_s) / duration_s).clamp(0.0, 1.0)
        step = step * step * (3 - 2 * step)
        for axis in range(2):
            angles[:, axis] += (then[axis] - now[axis]) * step
        now = then
        start_s += _uniform(0.5, 1.2, generator) if not back else _uniform(0.9, 2.4, generator)
    return angles


def gaze_weights(angles: Float[Tensor, "T 2"]) -> Float[Tensor, "T 52"]:
    """The eyeLook weights of gaze angles; lids follow them in the head's own shapes."""
    weights = angles.new_zeros(len(angles), len(ARKIT_NAMES))
    yaw, pitch = (angles / GAZE_RANGE_DEG).clamp(-1.0, 1.0).unbind(-1)
    for side, outward in (("Left", yaw), ("Right", -yaw)):
        weights[:, ARKIT_INDEX[f"eyeLookOut{side}"]] = outward.clamp_min(0.0)
        weights[:, ARKIT_INDEX[f"eyeLookIn{side}"]] = (-outward).clamp_min(0.0)
        weights[:, ARKIT_INDEX[f"eyeLookUp{side}"]] = pitch.clamp_min(0.0)
        weights[:, ARKIT_INDEX[f"eyeLookDown{side}"]] = (-pitch).clamp_min(0.0)
    return weights


def brows(
    times_s: Float[Tensor, " T"], stressed: list[Accent], height: float
) -> Float[Tensor, "T 52"]:
    """Brows raised on the stronger accents, no more than one in 1.2 s."""
    weights = times_s.new_zeros(len(times_s), len(ARKIT_NAMES))
    last_s = -10.0
    for accent in stressed:
        if accent.strength < 0.55 or accent.time_s - last_s < 1.2:
            continue
        last_s = accent.time_s
        raised = height * accent.strength * _bump(times_s, accent.time_s + 0.06, 0.28)
        weights[:, ARKIT_INDEX["browInnerUp"]] += raised
        weights[:, sided("browOuterUp")] += 0.6 * raised[:, None]
        weights[:, sided("eyeWide")] += 0.15 * raised[:, None]
    return weights


def head_motion(
    times_s: Float[Tensor, " T"],
    rate_hz: float,
    stressed: list[Accent],
    loudness: Float[Tensor, " T"],
    amount_deg: float,
    *,
    generator: torch.Generator,
) -> Float[Tensor, "T 6 3"]:
    """Local rotations, radians: slow drift, livelier while speaking, and nods on accents.

    Positive turns about x lower the chin.
    """
    # the drift is noise under about 0.5 Hz, in units of its own spread
    noise = torch.randn(len(times_s) + 2, 3, generator=generator, dtype=torch.float64)
    reach = max(1, round(0.45 * rate_hz))
    drift = torch.stack([_smooth(noise[:, axis], reach) for axis in range(3)], dim=-1)
    drift = drift[: len(times_s)] * math.sqrt(2 * math.sqrt(math.pi) * reach)
    lively = _smooth(0.45 + 0.55 * loudness.double(), reach)[:, None]
    scale = torch.tensor([0.35, 0.55, 0.3], dtype=torch.float64)  # nod, turn, tilt
    degrees = amount_deg * drift.clamp(-2.5, 2.5) * lively * scale
    for accent in stressed:
        nod = amount_deg * 0.55 * accent.strength
        degrees[:, 0] += nod * _bump(times_s.double(), accent.time_s + 0.08, 0.24)
    rotations = times_s.new_zeros(len(times_s), len(JOINT_NAMES), 3)
    radians = torch.deg2rad(degrees).to(times_s.dtype)
    rotations[:, _NECK], rotations[:, _HEAD] = 0.4 * radians, 0.6 * radians
    return rotations


def _bump(times_s: Tensor, centre_s: float, reach_s: float) -> Tensor:
    """A raised cosine of height 1, zero beyond `reach_s` from its centre."""
    phase = ((times_s - centre_s) / reach_s).clamp(-1.0, 1.0)
    return 0.5 + 0.5 * torch.cos(math.pi * phase)


def _smooth(values: Float[Tensor, " T"], sigma: int) -> Float[Tensor, " T"]:
    """Gaussian mean over time, ends repeated."""
    reach = 3 * sigma
    at = torch.arange(-reach, reach + 1, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    padded = torch.cat([values[:1].expand(reach), values, values[-1:].expand(reach)])
    smooth = torch.nn.functional.conv1d(padded[None, None], (kernel / kernel.sum())[None, None])
    return smooth[0, 0]


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))
