"""Still faces: how answers near rest are taken back to it, and how often training shows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deca.code_net import code_flip, settled
from deca.landmark_points import landmark_points
from deca.train_codes_data import Crops, People, still_faces
from flame.arkit import ARKIT_INDEX, ARKIT_NAMES
from flame.load import load_head

SIGMA = torch.full((52,), 0.15)
GAZE = torch.tensor([name.startswith("eyeLook") for name in ARKIT_NAMES])


def test_an_answer_as_large_as_its_error_is_halved_and_a_sure_one_stays():
    weights = torch.full((1, 52), 0.15)
    found = settled(weights, SIGMA)
    torch.testing.assert_close(found[:, ~GAZE], 0.5 * weights[:, ~GAZE])
    torch.testing.assert_close(found[:, GAZE], weights[:, GAZE])
    sure = settled(torch.ones(1, 52), torch.full((52,), 1e-3))
    torch.testing.assert_close(sure, torch.ones(1, 52), atol=1e-5, rtol=0)


def test_rest_is_kept_and_larger_answers_stay_larger():
    rising = torch.linspace(-0.5, 1.5, 201)[:, None].expand(-1, 52)
    found = settled(rising, SIGMA)
    assert float(found[:51].abs().max()) == 0
    assert bool((found.diff(dim=0) >= 0).all())
    assert bool((found <= rising.clamp(0, 1)).all())
    assert float(settled(torch.zeros(1, 52), torch.zeros(52)).abs().max()) == 0


def test_faces_that_mostly_rest_are_found_with_less_error():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(4000, 52, generator=generator)
    truth = truth * (torch.rand(4000, 52, generator=generator) < 0.15)
    heard = truth + SIGMA * torch.randn(truth.shape, generator=generator)
    before = (heard.clamp(0, 1) - truth)[:, ~GAZE].square().mean()
    after = (settled(heard, SIGMA) - truth)[:, ~GAZE].square().mean()
    assert float(after) < 0.75 * float(before)


def test_a_face_that_only_looks_aside_is_at_rest():
    weights = torch.zeros(3, 52)
    weights[1, ARKIT_INDEX["eyeLookOutLeft"]] = 0.8
    weights[2, ARKIT_INDEX["mouthSmileLeft"]] = 0.3
    assert still_faces(weights).tolist() == [True, True, False]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_training_shows_as_many_still_faces_as_asked(tmp_path, share):
    flame = load_head()
    points = landmark_points(flame)
    generator = torch.Generator().manual_seed(1)
    count = 20
    weights = torch.zeros(count, 52)
    weights[2:, ARKIT_INDEX["jawOpen"]] = 0.6  # two of twenty are still
    rows = {
        "points": 32 + 20 * torch.rand(count, len(points), 2, generator=generator),
        "shape": torch.zeros(count, flame.n_shape),
        "weights": weights,
        "root": torch.zeros(count, 3),
        "neck": torch.zeros(count, 3),
        "scale": torch.ones(count),
        "fov": torch.full((count,), 20.0),
        "albedo": torch.zeros(count, 43),
        "light": torch.ones(count, 9, 3),
    }
    np.savez(tmp_path / "a.npz", **{name: value.numpy() for name, value in rows.items()})
    np.save(tmp_path / "a.npy", np.full((count, 96, 96, 4), 128, dtype=np.uint8))
    flip = code_flip(flame, points, flame.n_shape)
    crops = Crops(People(tmp_path), points, flip, 64, 0, 2, share)
    truth = crops.batch(200, 0.0, generator=generator)[1]
    found = float(still_faces(truth.weights).float().mean())
    assert abs(found - (share + (1 - share) * 0.1)) < 0.09
