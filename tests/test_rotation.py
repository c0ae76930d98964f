"""Axis-angle vectors of matrices, against SciPy and against the way there."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from flame.rotation import axis_angle_to_matrix, matrix_to_axis_angle

# either side of where series and cases change, down to rest and up to a half turn
ANGLES = (0.0, 1e-9, 1e-7, 3e-7, 1e-5, 1e-3, 0.4, 1.6, 2.2, 3.0, 3.14, math.pi - 1e-5, math.pi)


def axes(count: int) -> torch.Tensor:
    """Random directions after those where two or three of a quaternion's parts are alike."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 3)
    some = torch.cat([grid[grid.norm(dim=1) > 0], torch.randn(count, 3, generator=generator)])
    return torch.nn.functional.normalize(some.double(), dim=1)


@pytest.mark.parametrize("angle", ANGLES)
def test_vectors_of_matrices_are_those_that_scipy_finds(angle):
    vectors = axes(60) * angle
    matrices = Rotation.from_rotvec(vectors.numpy()).as_matrix()
    found = matrix_to_axis_angle(torch.from_numpy(matrices))
    expected = torch.from_numpy(Rotation.from_matrix(matrices).as_rotvec())
    if angle > math.pi - 1e-9:  # a half turn has two axes
        expected = expected * torch.where((expected * found).sum(1) < 0, -1.0, 1.0)[:, None]
    # a matrix of doubles near a half turn still tells the angle to about 1e-15
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("angle", ANGLES)
def test_there_and_back_is_the_same_rotation_in_single_precision(angle):
    vectors = (axes(60) * angle).float()
    matrices = axis_angle_to_matrix(vectors)
    back = matrix_to_axis_angle(matrices)
    torch.testing.assert_close(axis_angle_to_matrix(back), matrices, atol=2e-6, rtol=0)
    assert float(back.norm(dim=1).max()) <= math.pi + 1e-6
    if angle < 3.1:
        torch.testing.assert_close(back, vectors, atol=2e-6, rtol=0)


def test_any_batch_axes_are_kept():
    vectors = axes(94)[:120].view(2, 3, 20, 3)
    back = matrix_to_axis_angle(axis_angle_to_matrix(vectors))
    torch.testing.assert_close(back, vectors, atol=1e-12, rtol=0)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 0.3, 2.0, 3.1])
def test_the_slope_of_there_and_back_is_one(angle):
    for axis in axes(4)[::3]:
        slope = torch.autograd.functional.jacobian(
            lambda vector: matrix_to_axis_angle(axis_angle_to_matrix(vector)), axis * angle
        )
        torch.testing.assert_close(slope, torch.eye(3, dtype=slope.dtype), atol=1e-6, rtol=0)


def test_gradients_at_a_half_turn_are_finite():
    matrices = torch.from_numpy(Rotation.from_rotvec(np.pi * axes(20).numpy()).as_matrix())
    matrices.requires_grad_()
    matrix_to_axis_angle(matrices).square().sum().backward()
    assert matrices.grad is not None and bool(torch.isfinite(matrices.grad).all())
