"""The encoder's training: rendered people come back as they were, networks grow, losses fall."""

from __future__ import annotations

import csv

import pytest
import torch
from plain_people import plain_wardrobe
from true_codes import small_net

from deca import code_net_grow, train_codes_data
from deca.code_net import code_flip, load_code_net
from deca.code_net_grow import grown
from deca.exposure import skin_samples
from deca.synth import Studio
from deca.train_codes import CodeTraining, train
from deca.train_codes_data import PEOPLE_VIEW, Crops, People, render_people
from flame.arkit import ARKIT_NAMES
from flame.load import load_head
from flame.outfit import load_outfit


@pytest.fixture(scope="module")
def flame():
    return load_head()


@pytest.fixture(scope="module")
def people(flame, tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_codes_data, "_SHARD", 8)
        render_people(Studio(flame, plain_wardrobe(), 80, PEOPLE_VIEW), 16, folder, seed=3)
    return People(folder)


def test_rendered_people_fill_their_pictures_and_keep_their_codes(people, flame):
    assert len(people) == 16
    points = people.codes["points"]
    low, high = points.amin(1), points.amax(1)
    side = (high - low).amax(1)
    torch.testing.assert_close(side, torch.full((16,), 80 / PEOPLE_VIEW), atol=0, rtol=0.02)
    pictures = people.pictures(torch.tensor([0, 9]))
    assert pictures.shape == (2, 80, 80, 4) and int(pictures[..., 3].max()) == 255
    # two takes of a person are of one identity
    assert torch.equal(people.codes["shape"][0], people.codes["shape"][1])
    assert not torch.equal(people.codes["shape"][0], people.codes["shape"][2])
    assert people.codes["weights"].shape == (16, len(ARKIT_NAMES))


def test_crops_are_of_the_networks_side_and_repeat_by_their_seed(people, flame):
    net = small_net(load_code_net(flame).landmarks.points)
    flip = code_flip(flame, net.landmarks.points, flame.n_shape)

    def batch():
        crops = Crops(people, net.landmarks.points, flip, 96, 5, 3)
        return crops.batch(4, 0.0, generator=torch.Generator().manual_seed(1))

    images, truth = batch()
    assert images.shape == (4, 3, 96, 96)
    # crops end within the pictures, so that faces are whole
    assert float(truth.points.amin()) > -0.1 and float(truth.points.amax()) < 1.1
    again, same = batch()
    assert torch.equal(images, again) and torch.equal(truth.shape, same.shape)


@torch.no_grad()
def test_a_grown_encoder_says_what_the_smaller_one_said(flame, monkeypatch, generator):
    net = load_code_net(flame)
    net.finder = None
    crops = torch.rand(3, 3, net.side, net.side, generator=generator)
    monkeypatch.setattr(code_net_grow, "_NOISE", 0.0)
    large = grown(net, net.side, generator=generator).eval()
    assert large.landmarks.config.widths == tuple(2 * w for w in net.landmarks.config.widths)
    assert sum(large.landmarks.config.blocks) == sum(net.landmarks.config.blocks) + 1
    found, known = large(crops), net(crops)
    torch.testing.assert_close(found.shape, known.shape, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.weights, known.weights, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.landmarks.mean, known.landmarks.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.light, known.light, atol=1e-4, rtol=0)


def test_crops_too_large_for_a_grown_encoder_are_refused(flame, generator):
    net = load_code_net(flame)
    with pytest.raises(ValueError, match="choose a side"):
        grown(net, 4 * net.side, generator=generator)


@pytest.mark.parametrize("descent, halves", [("adam", False), ("muon", True)])
def test_a_few_steps_lower_the_loss_and_a_stopped_run_goes_on(
    people, flame, tmp_path, descent, halves
):
    net = small_net(load_code_net(flame).landmarks.points)
    net.finder = None
    net.skin = skin_samples(flame, load_outfit().albedo, net.landmarks.verts)

    def run(steps):
        config = CodeTraining(
            steps=steps, batch=8, warm_up=2, backgrounds=3, face_free=0.0, learning_rate=3e-3,
            descent=descent, halves=halves,
        )  # fmt: skip
        return train(
            people, flame, tmp_path, config, start=net, export=tmp_path / "net.safetensors"
        )

    run(20)
    run(40)
    with open(tmp_path / "loss.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 20, 40]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert load_code_net(flame, tmp_path / "net.safetensors").side == net.side
