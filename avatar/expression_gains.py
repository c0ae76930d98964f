"""How strongly each part of a face is taken over when its expression moves to another head."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from avatar.motion import Motion
from flame.arkit import ARKIT_INDEX, ARKIT_NAMES
from flame.head import JOINT_NAMES
from flame.rotation import axis_angle_to_matrix, matrix_to_axis_angle

MOST = 4.0  # the largest gain

_BLINKS = ("eyeBlink", "eyeSquint", "eyeWide")
_MOUTH = ("mouth", "cheek", "nose", "tongue")


def _starting(*parts: str) -> tuple[str, ...]:
    return tuple(name for name in ARKIT_NAMES if name.startswith(parts))


# Every ARKit name is in one group.
GROUPS: dict[str, tuple[str, ...]] = {
    "brows": _starting("brow"),
    "blinks": _starting(*_BLINKS),
    "mouth": _starting(*_MOUTH),
    "jaw": _starting("jaw"),
    "gaze": _starting("eyeLook"),
    "head": (),
}
# Every joint's rotation is in one group.
JOINT_GROUPS: dict[str, str] = {
    "root": "head",
    "neck": "head",
    "head": "head",
    "jaw": "jaw",
    "leftEye": "gaze",
    "rightEye": "gaze",
}
# What a face can do one way or the other: the second is the first with another sign.
OPPOSITES: tuple[tuple[str, str], ...] = (
    ("eyeLookInLeft", "eyeLookOutLeft"),
    ("eyeLookInRight", "eyeLookOutRight"),
    ("eyeLookUpLeft", "eyeLookDownLeft"),
    ("eyeLookUpRight", "eyeLookDownRight"),
    ("jawLeft", "jawRight"),
    ("mouthLeft", "mouthRight"),
)
_CLOSE = ARKIT_INDEX["mouthClose"]


@dataclass(frozen=True)
class Gains:
    """Factors of the groups in GROUPS; 0 leaves a group at the target's rest, 1 takes it over."""

    brows: float = 1.0  # brows up, down and in
    blinks: float = 1.0  # lids: blinks, squints and wide eyes
    mouth: float = 1.0  # lips, cheeks, nose and tongue
    jaw: float = 1.0  # the jaw: open, forward, to the sides
    gaze: float = 1.0  # where the eyes look
    head: float = 1.0  # turns of the head and neck

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not (math.isfinite(value) and 0.0 <= value <= MOST):
                raise ValueError(f"{entry.name}={value} is out of range; choose 0 to {MOST:g}")

    def of_weights(self) -> Float[Tensor, " 52"]:
        """The factor of each ARKit weight.

        mouthClose takes back what jawOpen opens between the lips. It goes with both: the jaw's
        gain scales it, so that closed lips stay closed, and a mouth's gain below 1 weakens it.
        """
        factors = torch.ones(len(ARKIT_NAMES))
        for group, names in GROUPS.items():
            factors[[ARKIT_INDEX[name] for name in names]] = getattr(self, group)
        factors[_CLOSE] = self.jaw * min(self.mouth, 1.0)
        return factors

    def of_joints(self) -> Float[Tensor, " 6"]:
        """The factor of each joint's angle."""
        return torch.tensor([getattr(self, JOINT_GROUPS[name]) for name in JOINT_NAMES])


def apply_gains(motion: Motion, gains: Gains) -> Motion:
    """The motion with each group scaled: weights held to 0..1, rotations about the same axes."""
    weights = motion.weights * gains.of_weights().to(motion.weights)
    turns = motion.rotations * gains.of_joints().to(motion.rotations)[:, None]
    return Motion(motion.rate_hz, weights.clamp(0.0, 1.0), turns)


def relative_to(motion: Motion, rest: Motion) -> Motion:
    """The motion counted from a resting face, the first frame of `rest`, in place of zero.

    A weight at rest becomes 0 and 1 stays 1, linear between and 0 below, so that lids that rest a
    little low still close in full; pairs of OPPOSITES are subtracted with their sign. Rotations
    are those that lead from the resting pose to the frame's, joint by joint.
    """
    start = rest.weights[:1].to(motion.weights).clamp(0.0, 1.0)
    weights = (motion.weights - start).clamp_min(0.0) / (1.0 - start).clamp_min(1e-3)
    for first, second in OPPOSITES:
        a, b = ARKIT_INDEX[first], ARKIT_INDEX[second]
        ahead = motion.weights[:, a] - motion.weights[:, b] - (start[:, a] - start[:, b])
        weights[:, a], weights[:, b] = ahead.clamp_min(0.0), (-ahead).clamp_min(0.0)
    before = axis_angle_to_matrix(rest.rotations[:1].double())
    now = axis_angle_to_matrix(motion.rotations.double())
    turns = matrix_to_axis_angle(now @ before.transpose(-1, -2))
    return Motion(motion.rate_hz, weights.clamp(0.0, 1.0), turns.to(motion.rotations))
