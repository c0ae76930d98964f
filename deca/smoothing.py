"""Smoothing of tracks over time: with no lag for recordings, one-euro for live input.

Recordings are smoothed by a spline in the Whittaker-Henderson form: least squares between the
measurements, weighted by their certainty, and the squared second derivative. It looks both ways, so
that nothing is late. Where the measurements depart from that spline by more than their noise, as
when lids shut, the penalty is taken off: what was fast stays fast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from flame.rotation import axis_angle_to_matrix, axis_angle_to_quaternion, matrix_to_axis_angle

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class SmoothConfig:
    """How strongly tracks are smoothed."""

    cutoff_hz: float = 3.5  # slow movements of this frequency keep half their height
    noise_cap: float = 0.04  # measurements are not taken for noisier than this
    departure: float = 2.0  # in units of noise: from here a movement is real
    rounds: int = 3  # times that departures are looked for

    def __post_init__(self) -> None:
        if not self.cutoff_hz > 0 or not self.noise_cap > 0 or not self.departure > 0:
            raise ValueError("cutoff_hz, noise_cap and departure must be above 0")

    @classmethod
    def of(cls, strength: float, noise_cap: float = 0.04) -> SmoothConfig | None:
        """Settings for 0 (none, which is None) to 1 (strongest)."""
        if not 0.0 <= strength <= 1.0:
            raise ValueError(f"smooth={strength} is out of range; choose 0 (off) to 1 (strongest)")
        if strength == 0:
            return None
        return cls(cutoff_hz=12.0 * (1.0 / 12.0) ** strength, noise_cap=noise_cap)


def smooth(
    values: Float[Tensor, "T D"],
    times_s: Float[Tensor, " T"],
    sigmas: Float[Tensor, " T"] | None = None,
    config: SmoothConfig | None = None,
    *,
    jointly: bool = False,
) -> Float[Tensor, "T D"]:
    """The values without their noise, not delayed; each column alone, or `jointly` as vectors.

    Times rise and need not be even. `sigmas` are relative: a frame with a larger one has less say.
    Fewer than five frames come back as they are.
    """
    config = config or SmoothConfig()
    count = len(values)
    _check(values, times_s, sigmas)
    if count < 5:
        return values.clone()
    given = values.detach().double().cpu().numpy()
    times = times_s.detach().double().cpu().numpy()
    relative = np.ones(count)
    if sigmas is not None:
        relative = sigmas.detach().double().cpu().numpy()
        relative = relative / np.median(relative)
    blocks = [np.arange(given.shape[1])] if jointly else [[k] for k in range(given.shape[1])]
    result = np.empty_like(given)
    for columns in blocks:
        result[:, columns] = _spline(given[:, columns], times, relative, config)
    return torch.from_numpy(result).to(values)


def smooth_rotations(
    rotations: Float[Tensor, "T 3"],
    times_s: Float[Tensor, " T"],
    sigmas: Float[Tensor, " T"] | None = None,
    config: SmoothConfig | None = None,
) -> Float[Tensor, "T 3"]:
    """Axis-angle vectors (radians) without their noise; nothing jumps where angles wrap.

    Quaternions of one sign run are smoothed as vectors: turning all of them turns the result.
    """
    quaternions = continuous(axis_angle_to_quaternion(rotations.double()))
    config = config or SmoothConfig(noise_cap=math.radians(1.5))
    # a quaternion's own change is half the angle's
    halved = SmoothConfig(config.cutoff_hz, config.noise_cap / 2, config.departure, config.rounds)
    smoothed = smooth(quaternions, times_s, sigmas, halved, jointly=True)
    return axis_angles(smoothed).to(rotations)


def continuous(quaternions: Float[Tensor, "T 4"]) -> Float[Tensor, "T 4"]:
    """The same rotations with each quaternion the nearer one of its two to the one before."""
    signs = (quaternions[1:] * quaternions[:-1]).sum(-1, keepdim=True).sign()
    signs = torch.where(signs == 0, torch.ones_like(signs), signs).cumprod(0)
    return torch.cat([quaternions[:1], quaternions[1:] * signs])


def axis_angles(quaternions: Float[Tensor, "*T 4"]) -> Float[Tensor, "*T 3"]:
    """Axis-angle vectors, at most pi long, of quaternions (x, y, z, w) of any length but zero."""
    vector, real = quaternions[..., :3], quaternions[..., 3:]
    vector = torch.where(real < 0, -vector, vector)
    length = vector.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(length, real.abs())
    # near zero, angle / length is 2 / |real|
    small = 2 / real.abs().clamp(min=1e-12)
    return vector * torch.where(length > 1e-9, angle / length.clamp(min=1e-9), small)


def _check(values: Tensor, times_s: Tensor, sigmas: Tensor | None) -> None:
    if not bool((times_s.diff() > 0).all()):
        raise ValueError("the times of a track must rise from frame to frame")
    if not bool(torch.isfinite(values).all()):
        raise ValueError("a track holds NaN or infinity; fill missing frames before smoothing")
    if sigmas is not None and not bool(((sigmas > 0) & torch.isfinite(sigmas)).all()):
        raise ValueError("sigmas of a track must be above 0 and finite")


def _spline(given: _Array, times: _Array, relative: _Array, config: SmoothConfig) -> _Array:
    """One block [T, D] with shared weights."""
    step = (times[-1] - times[0]) / (len(times) - 1)
    # the gain at the cut-off is a half, with the discrete second difference at its frequency
    turns = 2 * math.sin(math.pi * min(config.cutoff_hz * step, 0.5)) / step
    stiffness = turns**-4.0
    noise = min(_noise_of(given), config.noise_cap)
    weight = relative**-2.0
    bend = np.ones(len(times) - 2)
    smoothed = _solve(given, times, weight, stiffness * bend, step)
    if noise <= 0:
        return smoothed
    for _ in range(config.rounds):
        off = ((given - smoothed) ** 2).mean(1) * weight
        # three frames together: one alone is noise more often than not
        near = np.sqrt((off[:-2] + off[1:-1] + off[2:]) / 3) / noise
        widest = np.maximum(near, np.maximum(np.r_[near[1:], 0], np.r_[0, near[:-1]]))
        bend = np.minimum(bend, 1 / (1 + (widest / config.departure) ** 8))
        smoothed = _solve(given, times, weight, stiffness * np.maximum(bend, 1e-6), step)
    return smoothed


def _noise_of(given: _Array) -> float:
    """Standard deviation of what changes from frame to frame, by fourth differences.

    A low quantile, since movements only add.
    """
    if len(given) < 6:
        return 0.0
    fourth = np.abs(np.diff(given, n=4, axis=0)) / math.sqrt(70.0)
    return float(np.quantile(fourth, 0.4) / 0.5244)


def _solve(given: _Array, times: _Array, weight: _Array, bend: _Array, step: float) -> _Array:
    from scipy.linalg import solveh_banded

    gap = np.diff(times)
    span = (gap[1:] + gap[:-1]) / 2
    # rows of the second derivative over three neighbours
    rows = np.stack([1 / gap[:-1], -(1 / gap[:-1] + 1 / gap[1:]), 1 / gap[1:]], axis=1)
    rows = rows / span[:, None]
    scaled = bend * span / step
    count = len(times)
    banded = np.zeros((3, count))  # lower form: main, first and second diagonal
    banded[0] = weight
    for first in range(3):
        for second in range(first, 3):
            where = slice(first, first + count - 2)
            banded[second - first, where] += scaled * rows[:, first] * rows[:, second]
    solved: _Array = solveh_banded(banded, weight[:, None] * given, lower=True)
    return solved


@dataclass(frozen=True)
class OneEuroConfig:
    """A low-pass that opens with speed (Casiez et al. 2012)."""

    least_hz: float = 1.5  # cut-off at rest
    opening: float = 1.4  # Hz more for every unit a second
    speed_hz: float = 10.0  # cut-off of the speed itself

    def __post_init__(self) -> None:
        if not self.least_hz > 0 or not self.speed_hz > 0 or self.opening < 0:
            raise ValueError("least_hz and speed_hz must be above 0, opening 0 or more")


class OneEuro:
    """Smooths vectors as they come; what has passed cannot change, so a little lag remains."""

    def __init__(self, config: OneEuroConfig | None = None) -> None:
        self.config = config or OneEuroConfig()
        self._value: Tensor | None = None
        self._speed: Tensor | None = None

    def step(self, value: Float[Tensor, " D"], passed_s: float) -> Float[Tensor, " D"]:
        """The smoothed value, `passed_s` seconds after the one before."""
        if self._value is None or self._speed is None:
            self._value, self._speed = value.clone(), torch.zeros_like(value)
            return self._value
        _check_passed(passed_s)
        speed = (value - self._value) / passed_s
        self._speed = torch.lerp(self._speed, speed, _share(self.config.speed_hz, passed_s))
        cutoff = self.config.least_hz + self.config.opening * self._speed.abs()
        share = 1 / (1 + 1 / (2 * math.pi * cutoff * passed_s))
        self._value = self._value + share * (value - self._value)
        return self._value


class OneEuroRotation:
    """Smooths rotations as they come, along the shortest turn from the last one."""

    def __init__(self, config: OneEuroConfig | None = None) -> None:
        self.config = config or OneEuroConfig(opening=4.0)
        self._turn: Tensor | None = None
        self._speed = 0.0

    def step(self, rotation: Float[Tensor, " 3"], passed_s: float) -> Float[Tensor, " 3"]:
        """The smoothed axis-angle vector, radians."""
        turn = axis_angle_to_matrix(rotation)
        if self._turn is None:
            self._turn = turn
            return rotation.clone()
        _check_passed(passed_s)
        change = matrix_to_axis_angle(self._turn.T @ turn)
        speed = float(change.norm()) / passed_s
        self._speed += _share(self.config.speed_hz, passed_s) * (speed - self._speed)
        share = _share(self.config.least_hz + self.config.opening * self._speed, passed_s)
        self._turn = self._turn @ axis_angle_to_matrix(share * change)
        return matrix_to_axis_angle(self._turn)


def _share(cutoff_hz: float, passed_s: float) -> float:
    return 1 / (1 + 1 / (2 * math.pi * cutoff_hz * passed_s))


def _check_passed(passed_s: Any) -> None:
    if not passed_s > 0:
        raise ValueError(f"passed_s={passed_s} must be above 0")
