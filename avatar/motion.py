"""What a face does over time: blendshape weights and joint rotations at a steady rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from avatar.coarticulation import CLOSE, JAW, mouth_weights
from avatar.gestures import accents, blinks, brows, energy, gaze, gaze_weights, head_motion
from avatar.visemes import sided, viseme_spans
from flame.arkit import ARKIT_NAMES
from flame.head import JOINT_NAMES
from flame.records import TensorRecord
from voice.speech import Speech


@dataclass(frozen=True)
class MotionConfig:
    """How a face speaks; 0 switches a part off."""

    rate_hz: float = 60.0  # frames a second, 24 to 240
    articulation: float = 1.0  # scales all mouth shapes but closures
    head_deg: float = 3.0  # size of head movements
    gaze_deg: float = 6.0  # furthest glance from the viewer
    brow: float = 0.4  # weight of a brow raised on the strongest accent
    smile: float = 0.06  # a friendly mouth while speaking
    blink: bool = True
    settle_s: float = 0.35  # time in which everything eases from and to rest

    def __post_init__(self) -> None:
        if not 24.0 <= self.rate_hz <= 240.0:
            raise ValueError(
                f"rate_hz={self.rate_hz} is out of range; choose 24 to 240, below which short "
                "closures fall between frames"
            )
        limits = {
            "articulation": 1.6,
            "head_deg": 15.0,
            "gaze_deg": 20.0,
            "brow": 1.0,
            "smile": 0.5,
        }
        for name, most in limits.items():
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(
                    f"{name}={getattr(self, name)} is out of range; choose 0 to {most:g}"
                )
        if not 0.0 < self.settle_s <= 2.0:
            raise ValueError(f"settle_s={self.settle_s} is out of range; choose up to 2")


@dataclass(frozen=True, eq=False)
class Motion(TensorRecord):
    """Weights and rotations of one face, T frames from time 0 on; [i] and [a:b] take frames."""

    rate_hz: float
    weights: Float[Tensor, "T 52"]  # 0..1, columns as ARKIT_NAMES
    rotations: Float[Tensor, "T 6 3"]  # local, axis-angle in radians, joints as JOINT_NAMES

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def duration_s(self) -> float:
        """Time from the first frame to the last."""
        return (len(self) - 1) / self.rate_hz

    def times_s(self) -> Float[Tensor, " T"]:
        """When each frame is."""
        return torch.arange(len(self), dtype=torch.float64) / self.rate_hz

    def resampled(self, rate_hz: float) -> Motion:
        """The same motion at another rate, linear between frames, ending where this one ends."""
        count = math.floor(self.duration_s * rate_hz + 1e-6) + 1
        at = torch.arange(count, dtype=torch.float64) * (self.rate_hz / rate_hz)
        low = at.floor().long().clamp(0, max(0, len(self) - 2))
        high = (low + 1).clamp_max(len(self) - 1)
        share = (at - low).to(self.weights)
        return Motion(
            rate_hz,
            torch.lerp(self.weights[low], self.weights[high], share[:, None]),
            torch.lerp(self.rotations[low], self.rotations[high], share[:, None, None]),
        )


def make_motion(
    speech: Speech, config: MotionConfig | None = None, *, generator: torch.Generator
) -> Motion:
    """A face saying a line: lips, jaw and tongue from its phonemes, the rest from its accents.

    Covers the whole sound and starts and ends at rest. mouthClose never exceeds jawOpen, and
    jawOpen - mouthClose, the opening of the lips, is 0 over every P, B and M.
    """
    config = config or MotionConfig()
    count = max(2, math.ceil(speech.duration_s * config.rate_hz) + 1)
    times_s = torch.arange(count, dtype=torch.float64) / config.rate_hz
    loudness = energy(speech.audio, times_s)
    stressed = accents(speech.phonemes, speech.audio)
    rest = _at_rest(times_s, config.settle_s)

    weights = mouth_weights(list(viseme_spans(speech.phonemes)), times_s, config.articulation)
    # lips need no run-up from a closed mouth, so they settle in a fraction of the time
    weights = weights * _at_rest(times_s, min(0.08, config.settle_s))[:, None]
    opening = weights[:, JAW] - weights[:, CLOSE]
    others = brows(times_s, stressed, config.brow)
    others[:, sided("mouthSmile")] += config.smile
    others += gaze_weights(gaze(times_s, config.gaze_deg, generator=generator))
    others = others * rest[:, None]
    if config.blink:
        others += blinks(times_s, generator=generator)
    weights = (weights + others).clamp(0.0, 1.0)
    # the clamp may not part lips that were shut
    weights[:, CLOSE] = (weights[:, JAW] - opening.clamp_min(0.0)).clamp_min(0.0)

    rotations = head_motion(
        times_s, config.rate_hz, stressed, loudness, config.head_deg, generator=generator
    )
    rotations = rotations * rest[:, None, None]
    assert weights.shape[1] == len(ARKIT_NAMES) and rotations.shape[1] == len(JOINT_NAMES)
    return Motion(config.rate_hz, weights.float(), rotations.float())


def _at_rest(times_s: Float[Tensor, " T"], settle_s: float) -> Float[Tensor, " T"]:
    """0 at both ends, 1 between, smooth over `settle_s`."""
    to_end = torch.minimum(times_s, times_s[-1] - times_s)
    return 0.5 - 0.5 * torch.cos(math.pi * (to_end / settle_s).clamp(0.0, 1.0))
