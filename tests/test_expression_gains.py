"""Each part of an expression is taken over as strongly as was asked, and no other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from avatar.expression_gains import GROUPS, JOINT_GROUPS, Gains, apply_gains, relative_to
from avatar.motion import Motion
from flame.arkit import ARKIT_INDEX, ARKIT_NAMES
from flame.head import JOINT_NAMES

EXACT = {"atol": 0, "rtol": 0}


def some_motion(generator, frames: int = 5, rate_hz: float = 30.0) -> Motion:
    weights = torch.rand(frames, 52, generator=generator)
    return Motion(rate_hz, weights, 0.3 * torch.randn(frames, 6, 3, generator=generator))


def index(*names: str) -> list[int]:
    return [ARKIT_INDEX[name] for name in names]


def test_every_shape_and_every_joint_is_in_one_group():
    named = [name for names in GROUPS.values() for name in names]
    assert sorted(named) == sorted(ARKIT_NAMES)
    assert set(JOINT_GROUPS) == set(JOINT_NAMES) and set(JOINT_GROUPS.values()) <= set(GROUPS)
    assert {name: len(names) for name, names in GROUPS.items()} == {
        "brows": 5, "blinks": 6, "mouth": 29, "jaw": 4, "gaze": 8, "head": 0,
    }  # fmt: skip


def test_gains_of_one_change_nothing(generator):
    motion = some_motion(generator)
    same = apply_gains(motion, Gains())
    torch.testing.assert_close(same.weights, motion.weights, **EXACT)
    torch.testing.assert_close(same.rotations, motion.rotations, **EXACT)


@pytest.mark.parametrize("group", GROUPS)
def test_a_gain_of_zero_leaves_its_group_at_rest_and_no_other(generator, group):
    motion = some_motion(generator)
    moved = apply_gains(motion, Gains(**{group: 0.0}))
    still = index(*GROUPS[group])
    # closing the lips over a jaw that stays shut would push them through each other
    still += index("mouthClose") if group == "jaw" else []
    others = [k for k in range(52) if k not in still]
    assert moved.weights[:, still].abs().sum() == 0
    torch.testing.assert_close(moved.weights[:, others], motion.weights[:, others], **EXACT)
    for joint, name in enumerate(JOINT_NAMES):
        factor = 0.0 if JOINT_GROUPS[name] == group else 1.0
        torch.testing.assert_close(
            moved.rotations[:, joint], factor * motion.rotations[:, joint], **EXACT
        )


@pytest.mark.parametrize("group", ["brows", "blinks", "mouth", "jaw", "gaze"])
def test_weights_are_linear_in_their_gain_up_to_one(generator, group):
    motion = some_motion(generator)
    columns = index(*GROUPS[group])
    for gain in (0.25, 0.5, 1.7, 4.0):
        if group == "mouth" and gain > 1:
            columns = [k for k in columns if ARKIT_NAMES[k] != "mouthClose"]
        moved = apply_gains(motion, Gains(**{group: gain})).weights[:, columns]
        expected = np.minimum(gain * motion.weights[:, columns].double().numpy(), 1.0)
        np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_closed_lips_stay_closed_whatever_the_jaws_gain(generator):
    motion = some_motion(generator)
    motion.weights[:, index("mouthClose")] = motion.weights[:, index("jawOpen")]
    for gains in (Gains(jaw=0.3), Gains(jaw=1.8), Gains(jaw=0.6, mouth=1.5), Gains(mouth=2.0)):
        weights = apply_gains(motion, gains).weights
        torch.testing.assert_close(
            weights[:, index("mouthClose")], weights[:, index("jawOpen")], **EXACT
        )


@pytest.mark.parametrize("value", [-0.1, 4.1, float("nan"), float("inf")])
def test_a_gain_out_of_range_is_named(value):
    with pytest.raises(ValueError, match=r"jaw=.* is out of range; choose 0 to 4"):
        Gains(jaw=value)


def test_counted_from_the_resting_face_rest_is_zero_and_full_stays_full(generator):
    rest = some_motion(generator, 1)
    full = Motion(30.0, torch.ones(1, 52), torch.zeros(1, 6, 3))
    at_rest, at_full = relative_to(rest, rest), relative_to(full, rest)
    assert at_rest.weights.abs().max() == 0
    assert at_rest.rotations.abs().max() < 1e-6
    one_way = index("eyeBlinkLeft", "jawOpen", "browInnerUp", "mouthSmileRight")
    torch.testing.assert_close(at_full.weights[:, one_way], torch.ones(1, 4))


def test_a_glance_that_rests_aside_turns_into_its_opposite(generator):
    rest = Motion(30.0, torch.zeros(1, 52), torch.zeros(1, 6, 3))
    frame = Motion(30.0, torch.zeros(1, 52), torch.zeros(1, 6, 3))
    rest.weights[:, index("eyeLookOutLeft")] = 0.25
    frame.weights[:, index("eyeLookInLeft")] = 0.5
    moved = relative_to(frame, rest).weights[0]
    assert moved[index("eyeLookInLeft")] == 0.75 and moved[index("eyeLookOutLeft")] == 0
    assert moved.sum() == 0.75


def test_turns_are_counted_from_the_resting_pose(generator):
    rest, motion = some_motion(generator, 1), some_motion(generator)
    moved = relative_to(motion, rest).rotations.double()
    for frame in range(len(motion)):
        for joint in range(6):
            before = Rotation.from_rotvec(rest.rotations[0, joint].double())
            found = Rotation.from_rotvec(moved[frame, joint]) * before
            expected = Rotation.from_rotvec(motion.rotations[frame, joint].double())
            assert (found * expected.inv()).magnitude() < 1e-6
