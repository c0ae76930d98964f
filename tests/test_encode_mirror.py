"""The mirror images of codes are the codes of mirror images."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from true_codes import (
    SIDE,
    assert_same,
    pinhole,
    true_answer,
    turned,
)

from deca.code_net import (
    code_flip,
    codes_of,
    mean_answer,
    mirrored_answer,
)
from deca.landmark_points import LandmarkPoints, landmark_points
from flame.arkit import ARKIT_INDEX
from flame.light import sh_basis
from flame.load import load_head
from flame.model import Flame, FlameArrays
from flame.params import arkit_from_params, params_from_arkit
from flame.rotation import axis_angle_to_matrix

MIRROR = torch.tensor([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def flame() -> Flame:
    return load_head()


@pytest.fixture(scope="module")
def points(flame: Flame) -> LandmarkPoints:
    return landmark_points(flame)


def test_the_mirrored_codes_are_those_of_the_mirrored_head(flame, points, generator):
    flip = code_flip(flame, points, flame.n_shape)
    params, _ = turned(flame, generator)
    other = params_from_arkit(
        params.shape @ flip.shape.T, arkit_from_params(params)[:, flip.weights]
    )
    other.root.copy_(params.root * torch.tensor([1.0, -1.0, -1.0]))  # a mirrored turn
    swapped = flame(params).verts[:, flame.topology.mirror] * MIRROR
    torch.testing.assert_close(flame(other).verts, swapped, atol=1e-5, rtol=0)


def test_identities_are_mirrored_in_any_basis_of_their_space(flame, points, generator):
    mix = torch.randn(6, 6, generator=generator) + 2 * torch.eye(6)
    modes = flame.shapedirs[[0, 1, 2, 13, 23, 30]]  # the last three are one-sided
    basis = torch.einsum("ij,jvc->ivc", mix, modes)
    own = {name: getattr(flame, name) for name in FlameArrays.__dataclass_fields__}
    mixed = Flame(FlameArrays(**{**own, "shapedirs": basis}), flame.topology)
    flip = code_flip(mixed, points, 6)
    torch.testing.assert_close(flip.shape @ flip.shape, torch.eye(6), atol=1e-4, rtol=0)
    codes = torch.randn(1, 6, generator=generator)
    moved = torch.einsum("bi,ivc->bvc", codes, basis)
    expected = moved[:, flame.topology.mirror] * MIRROR
    answer = true_answer(flame, points, *turned(flame, generator))[:1]
    answer = dataclasses.replace(answer, shape=codes)
    found = torch.einsum("bi,ivc->bvc", mirrored_answer(answer, flip).shape, basis)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_weights_change_sides_and_light_is_seen_from_the_mirrored_side(flame, points, generator):
    flip = code_flip(flame, points, 10)
    assert int(flip.weights[ARKIT_INDEX["mouthSmileLeft"]]) == ARKIT_INDEX["mouthSmileRight"]
    assert int(flip.weights[ARKIT_INDEX["jawOpen"]]) == ARKIT_INDEX["jawOpen"]
    normals = torch.nn.functional.normalize(torch.randn(50, 3, generator=generator), dim=1)
    torch.testing.assert_close(sh_basis(normals * MIRROR), sh_basis(normals) * flip.light)


def test_the_mirrored_answer_is_that_of_the_mirrored_picture(flame, points, generator):
    params, camera = turned(flame, generator)
    answer = true_answer(flame, points, params, camera)
    flip = code_flip(flame, points, flame.n_shape)
    found = codes_of(mirrored_answer(answer, flip), flame, points)
    dense = slice(68, None)  # vertices, mirrored exactly
    own = pinhole(points.on(flame(params).verts), camera, SIDE)
    seen = pinhole(points.on(flame(found.params).verts), found.camera, SIDE)
    expected = own[:, points.flip] * torch.tensor([-1.0, 1.0]) + torch.tensor([SIDE, 0.0])
    assert float((seen - expected)[:, dense].norm(dim=-1).max()) < 0.5
    torch.testing.assert_close(
        found.camera.shift, camera.shift * torch.tensor([-1.0, 1.0]), atol=1e-3, rtol=0
    )


def test_mirroring_an_answer_twice_changes_nothing(flame, points, generator):
    answer = true_answer(flame, points, *turned(flame, generator))
    flip = code_flip(flame, points, flame.n_shape)
    once = mirrored_answer(answer, flip)
    assert float((once.rotation - answer.rotation).abs().max()) > 0.1
    assert_same(mirrored_answer(once, flip), answer, 1e-5)


def test_the_mean_of_two_turns_about_one_axis_is_the_turn_between(flame, points, generator):
    params, camera = turned(flame, generator)
    one = true_answer(flame, points, params, camera)
    assert_same(mean_answer(one, one), one, 1e-6)
    axis = torch.tensor([[0.0, 1.0, 0.0]] * 2)
    left, right = (
        dataclasses.replace(one, rotation=axis_angle_to_matrix(angle * axis))
        for angle in (0.1, 0.9)
    )
    found = mean_answer(left, right).rotation
    torch.testing.assert_close(found, axis_angle_to_matrix(0.5 * axis), atol=1e-6, rtol=0)
