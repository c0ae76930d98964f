"""Descent by orthogonalized momentum: against singular values and the size of Adam's steps."""

from __future__ import annotations

import pytest
import torch

from assets.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (4, 4)])
def test_orthogonalized_matrices_keep_their_directions(shape, generator):
    given = torch.randn(shape, dtype=torch.float64, generator=generator)
    u, _, v = torch.linalg.svd(given, full_matrices=False)
    # on the singular vectors of the matrix itself, the values are near 1 and nothing is beside them
    inside = u.T @ orthogonalized(given, rounds=9) @ v.T
    values = inside.diagonal()
    assert float(values.min()) > 0.65 and float(values.max()) < 1.25
    torch.testing.assert_close(inside, torch.diag(values), atol=1e-6, rtol=0)


def test_muon_turns_matrices_and_leaves_the_rest_to_adam():
    weight = torch.nn.Parameter(torch.zeros(3, 2, 1, 2))
    bias = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    optimizer = Muon([{"params": [weight], "orthogonal": True}, {"params": [bias]}],
                     lr=0.1, weight_decay=0.0)  # fmt: skip
    weight.grad = torch.zeros(3, 2, 1, 2)
    weight.grad[0, 0, 0, 0] = weight.grad[1, 1, 0, 1] = 7.0
    bias.grad = torch.tensor([0.01, -300.0])
    optimizer.step()
    moved = weight.detach()
    # as large as Adam's: a root mean square of 0.2 times the rate for a full matrix
    size = 0.1 * 0.2 * 4**0.5
    assert 0.65 * size < -float(moved[0, 0, 0, 0]) < 1.25 * size
    assert float(moved[0, 0, 0, 0]) == pytest.approx(float(moved[1, 1, 0, 1]), rel=1e-5)
    assert int((moved.abs() > 1e-6).sum()) == 2
    torch.testing.assert_close(bias.detach(), torch.tensor([0.9, -0.9]))
