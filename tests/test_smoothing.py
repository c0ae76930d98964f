"""Smoothing of tracks: noise goes, movements stay where and as high as they were."""

from __future__ import annotations

import math

import pytest
import torch

from deca.smoothing import (
    OneEuro,
    OneEuroRotation,
    SmoothConfig,
    axis_angles,
    smooth,
    smooth_rotations,
)
from flame.rotation import axis_angle_to_matrix, axis_angle_to_quaternion

NOISE = 0.02


def jitter(values):
    return float(values.diff(n=2, dim=0).std())


def frames(rate_hz, seconds=8.0):
    return torch.arange(round(rate_hz * seconds), dtype=torch.float64) / rate_hz


def lag_frames(late, early):
    """By how many frames the first follows the second: the peak of their cross-correlation."""
    late, early = late - late.mean(), early - early.mean()
    shifts = range(-5, 6)
    score = [float((late[8 + k : len(late) - 8 + k] * early[8:-8]).sum()) for k in shifts]
    best = score.index(max(score))
    before, top, after = score[best - 1 : best + 2]
    return shifts[best] + 0.5 * (before - after) / (before - 2 * top + after)


@pytest.mark.parametrize("rate_hz", [25, 30, 60])
def test_noise_on_a_slow_movement_falls_below_half_without_lag(rate_hz, generator):
    times = frames(rate_hz)
    truth = 0.4 + 0.25 * torch.sin(2 * math.pi * 1.0 * times)
    noisy = truth + NOISE * torch.randn(len(times), generator=generator, dtype=torch.float64)
    found = smooth(noisy[:, None], times)[:, 0]
    assert jitter(found) < 0.4 * jitter(noisy)
    assert float((found - truth).std()) < 0.75 * NOISE
    assert abs(lag_frames(found, truth)) < 0.2


@pytest.mark.parametrize("rate_hz", [25, 30, 60])
@pytest.mark.parametrize("strength", [0.3, 0.5, 0.8])
def test_a_blink_of_100_ms_keeps_its_height(rate_hz, strength, generator):
    times = frames(rate_hz)
    truth = torch.zeros(len(times), dtype=torch.float64)
    middles = (1.0, 2.013, 3.27, 5.51)
    for middle in middles:
        truth = torch.maximum(truth, 1 - (times - middle).abs() / 0.05).clamp(min=0)
    noisy = truth + NOISE * torch.randn(len(times), generator=generator, dtype=torch.float64)
    found = smooth(noisy[:, None], times, config=SmoothConfig.of(strength))[:, 0]
    for middle in middles:
        near = (times - middle).abs() < 0.06
        assert float(found[near].max()) > 0.85 * float(truth[near].max())
        assert int(found[near].argmax()) == int(truth[near].argmax())
    rest = (times > 6) & (times < 7.9)
    assert jitter(found[rest]) < 0.5 * jitter(noisy[rest])


def test_fast_speech_keeps_its_range(generator):
    times = frames(25)
    truth = 0.3 + 0.2 * torch.sin(2 * math.pi * 4.5 * times)
    noisy = truth + NOISE * torch.randn(len(times), generator=generator, dtype=torch.float64)
    found = smooth(noisy[:, None], times)[:, 0]
    assert float(found.std()) > 0.9 * float(truth.std())


def test_a_straight_line_stays_at_uneven_times():
    times = torch.tensor([0.0, 0.03, 0.09, 0.1, 0.2, 0.21, 0.33, 0.5], dtype=torch.float64)
    line = torch.stack([2 * times - 1, 0 * times + 0.3], 1)
    torch.testing.assert_close(smooth(line, times), line, atol=1e-9, rtol=0)


def test_time_reversed_is_smoothed_to_the_same_reversed(generator):
    times = frames(25, 3.0)
    noisy = torch.randn(len(times), 2, generator=generator, dtype=torch.float64)
    forward = smooth(noisy, times)
    backward = smooth(noisy.flip(0), times[-1] - times.flip(0)).flip(0)
    torch.testing.assert_close(forward, backward, atol=1e-9, rtol=0)


def test_an_unsure_frame_has_little_say():
    times = frames(25, 2.0)
    values = torch.zeros(len(times), 1, dtype=torch.float64)
    values[25] = 0.03
    sigmas = torch.ones(len(times))
    even = smooth(values, times, sigmas)[25]
    sigmas[25] = 10.0
    assert float(smooth(values, times, sigmas)[25]) < 0.05 * float(even)


def test_turns_through_half_a_circle_do_not_jump(generator):
    times = frames(30, 4.0)
    angle = 2 * math.pi * times / 4 * 1.5  # past pi, where axis-angle vectors flip
    noise = 0.01 * torch.randn(len(times), 3, generator=generator, dtype=torch.float64)
    about = torch.tensor([0.2, 0.9, 0.1], dtype=torch.float64)
    about = about / about.norm()
    truth = axis_angle_to_matrix(angle[:, None] * about)
    noisy = axis_angles(axis_angle_to_quaternion(angle[:, None] * about + noise))
    found = axis_angle_to_matrix(smooth_rotations(noisy, times))
    cosine = ((found.mT @ truth).diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    assert float(torch.arccos(cosine.clamp(-1, 1)).max()) < 0.025
    steps = torch.arccos(
        (((found[1:].mT @ found[:-1]).diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)
    )
    raw = axis_angle_to_matrix(noisy)
    raw_steps = torch.arccos(
        (((raw[1:].mT @ raw[:-1]).diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)
    )
    assert float(steps.std()) < 0.5 * float(raw_steps.std())


def test_turning_the_world_turns_the_smoothed_rotations(generator):
    times = frames(30, 1.5)
    turns = 0.4 * torch.randn(len(times), 3, generator=generator, dtype=torch.float64)
    world = axis_angle_to_matrix(torch.tensor([0.3, -0.8, 0.5], dtype=torch.float64))
    moved = world @ axis_angle_to_matrix(turns)
    from flame.rotation import matrix_to_axis_angle

    one = world @ axis_angle_to_matrix(smooth_rotations(turns, times))
    two = axis_angle_to_matrix(smooth_rotations(matrix_to_axis_angle(moved), times))
    torch.testing.assert_close(one, two, atol=1e-7, rtol=0)


@pytest.mark.parametrize("rate_hz", [30, 60])
def test_one_euro_takes_jitter_at_rest_and_lets_a_blink_through(rate_hz, generator):
    times = frames(rate_hz, 6.0)
    truth = (1 - (times - 2).abs() / 0.05).clamp(min=0)
    noisy = truth + NOISE * torch.randn(len(times), generator=generator, dtype=torch.float64)
    stream = OneEuro()
    found = torch.stack([stream.step(value[None], 1 / rate_hz) for value in noisy])[:, 0]
    rest = times > 3
    assert jitter(found[rest]) < 0.5 * jitter(noisy[rest])
    assert float(found.max()) > 0.85 * float(truth.max())


def test_one_euro_of_rotations_follows_a_turn_past_half_a_circle():
    stream = OneEuroRotation()
    for index in range(120):
        angle = 2 * math.pi * index / 90
        wanted = torch.tensor([0.0, math.remainder(angle, 2 * math.pi), 0.0])
        found = stream.step(wanted, 1 / 30)
        gap = axis_angle_to_matrix(found).T @ axis_angle_to_matrix(wanted)
        assert math.acos(min(1.0, (float(gap.trace()) - 1) / 2)) < 0.08


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SmoothConfig.of(1.5), "smooth=1.5 is out of range"),
        (lambda: smooth(torch.zeros(6, 1), torch.zeros(6)), "must rise"),
        (lambda: smooth(torch.full((6, 1), math.nan), torch.arange(6.0)), "NaN"),
        (lambda: smooth(torch.zeros(6, 1), torch.arange(6.0), torch.zeros(6)), "above 0"),
    ],
)
def test_what_cannot_be_smoothed_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()
