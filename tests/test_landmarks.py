"""The landmark network: its loss, its geometry, its files, and how well the shipped one sees."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from plain_people import plain_wardrobe
from scipy.stats import norm

from assets.errors import AssetError
from deca.landmark_points import landmark_points
from deca.landmarks import (
    LandmarkNet,
    Prediction,
    crop_of,
    load_landmark_net,
    negative_log_likelihood,
    save_landmark_net,
)
from deca.synth import Studio
from deca.synth_degrade import on_background
from deca.synth_scene import random_background
from deca.train_landmarks import LandmarkTraining, train
from deca.train_landmarks_data import Crops, People
from flame.load import load_head
from flame.model import Flame


@pytest.fixture(scope="module")
def flame() -> Flame:
    return load_head()


@pytest.fixture(scope="module")
def people(flame: Flame) -> People:
    studio = Studio(flame, plain_wardrobe())
    generator = torch.Generator().manual_seed(1)
    shots = [shot for _ in range(4) for shot in studio.shoot(2, generator=generator)]
    return People(
        torch.from_numpy(np.stack([shot.rgba for shot in shots])),
        torch.stack([shot.points for shot in shots]),
    )


@pytest.fixture(scope="module")
def astronaut() -> torch.Tensor:
    from skimage import data

    return torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255


ASTRONAUT_BOX = torch.tensor([170.0, 70.0, 280.0, 180.0])
# The eyes' and the mouth's corners of the astronaut, read off the enlarged picture by hand.
ASTRONAUT_POINTS = {
    36: (193, 102),
    39: (212, 103),
    42: (236, 105),
    45: (259, 104),
    48: (203, 140),
    54: (245, 140),
}  # 66 px between the outer corners of the eyes


def test_the_loss_is_the_likelihood_of_independent_gaussians(generator):
    mean, truth = torch.rand(2, 3, 5, 2, generator=generator)
    log_sigma = torch.randn(3, 5, generator=generator) * 0.3 - 2
    weights = torch.tensor([1.0, 1, 2, 1, 3])
    answer = Prediction(mean, log_sigma, torch.zeros(3))
    ours = negative_log_likelihood(answer, truth, weights)
    density = norm.logpdf(truth.numpy(), mean.numpy(), log_sigma.exp()[..., None].numpy())
    # the constant ln 2π of each point is left out
    each = -density.sum(-1) - math.log(2 * math.pi)
    expected = (each * weights.numpy()).sum(1) / weights.sum().item()
    torch.testing.assert_close(ours.double(), torch.from_numpy(expected), atol=1e-4, rtol=1e-5)


def test_the_likeliest_sigma_is_the_root_mean_square_error_along_an_axis():
    log_sigma = torch.tensor([[-1.0]], requires_grad=True)
    answer = Prediction(torch.tensor([[[0.3, 0.4]]]), log_sigma, torch.zeros(1))
    for _ in range(400):
        loss = negative_log_likelihood(answer, torch.zeros(1, 1, 2), torch.ones(1)).sum()
        (gradient,) = torch.autograd.grad(loss, log_sigma)
        log_sigma.data -= 0.05 * gradient
    # sqrt((0.09 + 0.16) / 2)
    assert log_sigma.exp().item() == pytest.approx(math.sqrt(0.125), rel=1e-3)


def test_the_crop_of_turned_points_turns_with_them(flame):
    upright = landmark_points(flame).rest[:, :2] * torch.tensor([1000.0, -1000.0]) + 300
    center, side, roll = crop_of(upright)
    assert roll == pytest.approx(0, abs=0.02)
    angle = 0.5
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    turned_center, turned_side, turned_roll = crop_of(upright @ turn.T)
    assert turned_roll - roll == pytest.approx(angle, abs=1e-4)
    assert turned_side == pytest.approx(side, rel=1e-3)
    torch.testing.assert_close(turned_center, turn @ center, atol=0.05, rtol=0)


def test_a_fresh_network_answers_the_mean_of_its_labels(flame, generator):
    net = LandmarkNet(landmark_points(flame))
    labels = 0.5 + 0.1 * torch.randn(40, len(net.points), 2, generator=generator)
    net.start_at(labels)
    torch.testing.assert_close(net.mean_head.bias.view(-1, 2), labels.mean(0))
    # the columns are the labels' main axes: orthogonal, and as long as the labels' spread
    weight = net.mean_head.weight[:, :40].double()
    flat = (labels - labels.mean(0)).flatten(1).double()
    variance = flat.square().sum(1).mean()
    gram = weight.T @ weight
    torch.testing.assert_close(gram.diagonal().sum(), variance, rtol=1e-3, atol=0)
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()), atol=1e-4, rtol=0)


def test_the_loss_falls_and_a_stopped_run_goes_on(flame, people, tmp_path):
    points = landmark_points(flame)
    config = LandmarkTraining(steps=6, batch=6, backgrounds=4, warm_up=4, save_every=3)
    train(people, points, tmp_path, config, export=tmp_path / "net.safetensors")
    rows = (tmp_path / "loss.csv").read_text().splitlines()
    assert rows[1].startswith("1,") and (tmp_path / "loss.png").is_file()
    longer = LandmarkTraining(steps=20, batch=6, backgrounds=4, warm_up=4)
    train(people, points, tmp_path, longer)
    rows = [row.split(",") for row in (tmp_path / "loss.csv").read_text().splitlines()[1:]]
    assert [int(row[0]) for row in rows] == [1, 20]
    assert float(rows[-1][1]) < float(rows[0][1]) - 0.5


def test_training_is_the_same_for_the_same_seed(flame, people, tmp_path):
    points = landmark_points(flame)
    config = LandmarkTraining(steps=2, batch=4, backgrounds=4, seed=5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over threads are in no fixed order
    try:
        first = train(people, points, tmp_path / "a", config)
        again = train(people, points, tmp_path / "b", config)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(first.code_head.weight, again.code_head.weight)


def test_saved_networks_come_back(flame, tmp_path, generator):
    net = LandmarkNet(landmark_points(flame)).eval()
    path = tmp_path / "net.safetensors"
    save_landmark_net(net, path, {})
    loaded = load_landmark_net(flame, path)
    crops = torch.rand(2, 3, 128, 128, generator=generator)
    # weights are stored as halves
    torch.testing.assert_close(loaded(crops).mean, net(crops).mean, atol=2e-3, rtol=0)
    assert torch.equal(loaded.verts[:-2], flame.topology.dense_verts)


def test_a_file_of_another_kind_is_refused(tmp_path):
    from assets.weights import write_tensors

    path = tmp_path / "other.safetensors"
    write_tensors({"a": torch.zeros(2)}, path, {"format": "else"})
    with pytest.raises(AssetError, match="is no landmark network of this version"):
        load_landmark_net(path=path)


def test_an_empty_box_is_refused(flame):
    net = LandmarkNet(landmark_points(flame))
    with pytest.raises(ValueError, match="is empty; give left, top, right, bottom"):
        net.predict(torch.zeros(1, 3, 64, 64), torch.tensor([10.0, 10, 10, 20]))


def test_the_shipped_network_finds_new_people(flame):
    net = load_landmark_net(flame)
    studio = Studio(flame, plain_wardrobe())
    generator, rng = torch.Generator().manual_seed(77), np.random.default_rng(0)
    errors = []
    for _ in range(4):
        for shot in studio.shoot(2, generator=generator):
            back = torch.from_numpy(random_background(len(shot.rgba), rng).copy())
            image = on_background(torch.from_numpy(shot.rgba)[None], back[None])
            low, high = shot.points.amin(0), shot.points.amax(0)
            found = net.predict(image, torch.cat([low, high]) + 4)
            apart = 0.45 * (high - low).max()  # about what the outer eye corners are apart
            errors.append(float((found.points68[0] - shot.points[:68]).norm(dim=1).mean() / apart))
    assert np.median(errors) < NME_BOUND


NME_BOUND = 0.08  # of plain, browless people; the painted ones it was trained on are far better


def test_the_shipped_network_finds_the_astronauts_eyes_and_mouth(flame, astronaut):
    found = load_landmark_net(flame).predict(astronaut, ASTRONAUT_BOX)
    assert found.is_face()
    by_hand = torch.tensor(list(ASTRONAUT_POINTS.values()), dtype=torch.float32)
    off = (found.points68[0, list(ASTRONAUT_POINTS)] - by_hand).norm(dim=1)
    assert float(off.mean()) < 4 and float(off.max()) < 8, off


def test_points_of_the_mirror_image_are_the_mirrored_points(flame, astronaut):
    net = load_landmark_net(flame)
    plain = net.predict(astronaut, ASTRONAUT_BOX)
    left, top, right, bottom = ASTRONAUT_BOX.tolist()
    mirrored = net.predict(astronaut.flip(-1), torch.tensor([512 - right, top, 512 - left, bottom]))
    both = torch.cat([mirrored.points68, mirrored.points], 1)[0, net.flip]
    back = both * torch.tensor([-1.0, 1.0]) + torch.tensor([512.0, 0.0])
    own = torch.cat([plain.points68, plain.points], 1)[0]
    assert (back - own).norm(dim=1).mean() < 1.0  # of a face 100 px high


def test_a_rolled_picture_gives_the_rolled_points(flame, astronaut):
    net = load_landmark_net(flame)
    plain = net.predict(astronaut, ASTRONAUT_BOX)
    angle = math.radians(20)
    center = torch.tensor([226.0, 120.0])
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    y, x = torch.meshgrid(torch.arange(512.0) + 0.5, torch.arange(512.0) + 0.5, indexing="ij")
    source = (torch.stack([x, y], -1) - center) @ turn + center  # inverse of turning by `turn`
    turned = torch.nn.functional.grid_sample(
        astronaut, source[None] / 256 - 1, align_corners=False, padding_mode="border"
    )
    found = net.predict(turned, ASTRONAUT_BOX)
    expected = (plain.points68[0] - center) @ turn.T + center
    assert (found.points68[0] - expected).norm(dim=1).mean() < 3


def test_crops_without_faces_are_marked(flame, people, generator):
    crops = Crops(people, landmark_points(flame), 0, backgrounds=4)
    images, points, is_face = crops.batch(40, 0.5, generator=generator)
    assert 8 < float(is_face.sum()) < 32
    assert images.shape == (40, 3, 128, 128) and points.shape[0] == 40
