"""Training on photos: batches, both stages on a tiny face, stopping and going on, clear errors."""

from __future__ import annotations

import csv
import dataclasses

import pytest
import torch
from PIL import Image
from tiny_photos import (
    SIDE,
    Told,
    albedo,
    head,
    tiny_face,
    tiny_photo_set,
    tiny_shots,
    write_photos,
)
from torch import nn

from assets.weights import read_tensors
from deca.code_net import CodeNet, load_code_net
from deca.detail_losses import LandmarkFeatures
from deca.landmark_points import landmark_points
from deca.landmarks import LandmarkConfig, LandmarkNet
from deca.official_deca import Deca, DecaConfig, DecaNetworks
from deca.official_surface import DetailMaps
from deca.photo_faces import DecaFace, PhotoCodes, render
from deca.photo_folder import CropDraw, PhotoBatch, PhotoSet, open_photos
from deca.photo_preview import preview_sheet
from deca.photo_settings import PhotoTraining
from deca.photo_stages import CoarseStage, CoarseWeights, DetailStage, DetailWeights, joined
from deca.photo_start import fresh_code_net
from deca.train_photos import RunPlaces, train

DATA = ("landmark", "dense", "eye", "lip", "photometric")


@pytest.fixture(scope="module")
def flame():
    return head()


@pytest.fixture(scope="module")
def skin():
    return albedo()


@pytest.fixture(scope="module")
def shots():
    return tiny_shots()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def photos(folder, shots, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return open_photos(folder, Told(shots), labeller_name="truth", cache=cache)


@pytest.fixture(scope="module")
def batch(photos):
    return tiny_photo_set(photos).batch(0, 2, 2)


def size_of(path):
    with Image.open(path) as image:
        return image.size


def leaves(codes):
    return PhotoCodes(
        **{
            field.name: getattr(codes, field.name).detach().clone().requires_grad_()
            for field in dataclasses.fields(codes)
        }
    )


@torch.no_grad()
def truth_of(face, codes, batch):
    """The batch that these codes explain without a remainder."""
    decoded = face.decode(codes, batch.outline)
    drawn = render(face, decoded, batch.images, batch.masks)
    return dataclasses.replace(
        batch, images=drawn.image, points=decoded.points68, dense=decoded.dense
    )


class Plain:
    """An identity that is the picture itself."""

    name = "plain"

    def to(self, device):
        pass

    def __call__(self, images, points):
        return images.flatten(1)


def no_autocast():
    import contextlib

    return contextlib.nullcontext()


def test_losses_are_zero_where_codes_explain_the_photos(flame, skin, batch):
    face = tiny_face(flame, skin)
    face.train(False)
    with torch.no_grad():
        codes = face.encode(batch.images)
    truth = truth_of(face, codes, batch)
    terms = CoarseStage(face, CoarseWeights(), Plain()).of_codes(codes, truth)
    for name in (*DATA, "identity"):
        assert float(terms[name]) == pytest.approx(0, abs=2e-6), name


def test_gradients_reach_the_codes_that_a_loss_is_about(flame, skin, batch):
    face = tiny_face(flame, skin)
    face.train(False)
    with torch.no_grad():
        start = face.encode(batch.images)
    stage = CoarseStage(face, CoarseWeights(), Plain())
    geometry = {"shape", "expression", "pose", "camera"}
    reaches = dict.fromkeys(("landmark", "dense", "eye", "lip"), geometry)
    reaches |= {"photometric": geometry | {"albedo", "light"}}
    reaches |= {"identity": geometry | {"albedo", "light"}}
    reaches |= {"shape": {"shape"}, "expression": {"expression"}, "albedo": {"albedo"}}
    reaches |= {"light": {"light"}}
    for name, wanted in reaches.items():
        codes = leaves(start)
        stage.of_codes(codes, batch)[name].backward()
        reached = {
            field.name
            for field in dataclasses.fields(codes)
            if (grad := getattr(codes, field.name).grad) is not None and bool(grad.any())
        }
        assert reached == wanted, name


def test_swapping_equal_shapes_changes_no_mean_and_doubles_sums(flame, skin, batch, generator):
    face = tiny_face(flame, skin)
    face.train(False)
    with torch.no_grad():
        codes = face.encode(batch.images)
        same = dataclasses.replace(codes, shape=codes.shape[[0, 0, 2, 2]])
        face.encode = lambda images: same
        alone = CoarseStage(face, CoarseWeights(), None, consistency=False)
        swapped = CoarseStage(face, CoarseWeights(), None)
        one = alone.terms(batch, 2, no_autocast, generator=generator)
        two = swapped.terms(batch, 2, no_autocast, generator=generator)
        other = torch.randn(4, codes.shape.shape[1], generator=generator)
        codes = dataclasses.replace(codes, shape=other)
        face.encode = lambda images: codes
        three = swapped.terms(batch, 2, no_autocast, generator=generator)
        four = alone.terms(batch, 2, no_autocast, generator=generator)
    for name in (*DATA, "light"):
        torch.testing.assert_close(two[name], one[name], atol=1e-6, rtol=1e-4)
    for name in ("shape", "expression", "albedo"):
        torch.testing.assert_close(two[name], 2 * one[name])
    # the shapes of one person's pictures differ: then it costs points
    assert abs(float(three["landmark"] - four["landmark"])) > 1e-5


def test_deca_on_flame_puts_points_where_its_weak_perspective_does(flame, generator):
    with torch.device("meta"):
        networks = DecaNetworks(True)
    deca = Deca(networks, DecaConfig())
    outputs = 0.1 * torch.randn(2, 236, generator=generator)
    outputs[:, 206] += 7

    class Fixed(nn.Module):
        def forward(self, images):
            return outputs

    networks.E_flame = Fixed()
    face = DecaFace(deca, flame, None)
    codes = face.encode(torch.zeros(2, 3, 224, 224))
    decoded = face.decode(codes, torch.tensor([False, False]))
    assert torch.equal(codes.light[1, 8], outputs[1, 233:236])
    assert torch.equal(face.wrinkling(codes), outputs[:, [203, 204, 205, *range(150, 200)]])
    marks = flame.landmarks68(decoded.verts)
    wanted = outputs[:, None, 206:207] * (marks[..., :2] + outputs[:, None, 207:209])
    torch.testing.assert_close(decoded.points68, wanted * torch.tensor([1.0, -1.0]))
    moving = face.decode(codes, torch.tensor([False, True])).points68
    assert torch.equal(moving[0], decoded.points68[0])
    assert torch.equal(moving[1, 17:], decoded.points68[1, 17:])
    with pytest.raises(ValueError, match="no albedo to render"):
        render(face, decoded, torch.zeros(2, 3, 224, 224), torch.zeros(2, 1, 224, 224))


class Still(PhotoSet):
    """Batches that are always the same."""

    def __init__(self, batch):
        self.made, self.subjects = batch, {"a": [], "b": []}

    def batch(self, step, subjects, pictures):
        return self.made[: subjects * pictures]


@pytest.fixture(scope="module")
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


CONFIG = PhotoTraining(
    steps=24, subjects=2, learning_rate=2e-3, norms="still", log_every=1, save_every=100
)


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [row[:-1] for row in csv.reader(file)]  # without the seconds


def test_a_few_steps_lower_every_loss(flame, skin, batch, tmp_path, accelerator):
    # one photo over and over, so that a landmark network that always says the same is right
    batch = batch._map(lambda tensor: tensor[[0, 0, 0, 0]])
    points = torch.cat([batch.points, batch.dense], dim=1)[0]
    face = tiny_face(flame, skin, seen_at=(points + 1) / 2)
    still = {n: t.clone() for n, t in face.codes.landmarks.state_dict().items()}
    stage = CoarseStage(face, CoarseWeights(), Plain())
    train(stage, Still(batch), RunPlaces(tmp_path), CONFIG, accelerator, {"identity loss": "off"})
    head, *steps = rows(tmp_path / "loss.csv")
    for name in (*DATA, "identity", "loss"):
        column = [float(row[head.index(name)]) for row in steps]
        assert column[-1] < 0.9 * column[0], name
    # the network that the labels come from has not learned from them
    now = face.codes.landmarks.state_dict()
    assert all(torch.equal(now[name], value) for name, value in still.items())
    opened = load_code_net(flame, tmp_path / "export" / "encoder.safetensors")
    for name, value in face.codes.head.state_dict().items():
        torch.testing.assert_close(opened.head.state_dict()[name], value, atol=2e-3, rtol=2e-3)
    assert size_of(tmp_path / "preview-0000024.jpg") == (5 * SIDE, 2 * SIDE)


def test_a_run_that_stops_and_goes_on_equals_one_that_does_not(
    flame, skin, photos, tmp_path, accelerator
):
    def made(places, steps):
        face = tiny_face(flame, skin)
        draw = CropDraw(SIDE, True, face.scale)
        config = CONFIG.changed({"steps": steps, "norms": "trained", "subjects": 1})
        train(
            CoarseStage(face, CoarseWeights(), None),
            PhotoSet(photos, draw, seed=5),
            RunPlaces(places),
            config,
            accelerator,
            {},
        )
        tensors = read_tensors(places / "checkpoint.safetensors")
        tensors.pop("progress")  # it holds the seconds
        return tensors

    whole = made(tmp_path / "whole", 5)
    made(tmp_path / "parts", 3)  # in the middle of the second epoch
    parts = made(tmp_path / "parts", 5)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert rows(tmp_path / "whole" / "loss.csv") == rows(tmp_path / "parts" / "loss.csv")


def test_the_detail_stage_lowers_its_losses_and_leaves_the_encoder(
    flame, skin, batch, tmp_path, accelerator
):
    face = tiny_face(flame, skin)
    stage = DetailStage(face, DetailWeights(), LandmarkFeatures(face.codes.landmarks), side=64)
    before = {n: t.clone() for n, t in face.net.state_dict().items()}
    config = CONFIG.changed({"steps": 16, "learning_rate": 3e-3})
    train(stage, Still(batch), RunPlaces(tmp_path), config, accelerator, {})
    head, *steps = rows(tmp_path / "loss.csv")
    total = [float(row[head.index("loss")]) for row in steps]
    assert total[-1] < total[0]
    after = face.net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert (tmp_path / "export" / "photo_detail.safetensors").is_file()
    assert size_of(tmp_path / "preview-0000016.jpg") == (6 * SIDE, 2 * SIDE)


def test_detail_is_nothing_but_shading_and_swaps_within_a_subject(flame, skin, batch, generator):
    face = tiny_face(flame, skin)
    face.train(False)
    face.detail.eval()
    maps = DetailMaps(torch.ones(64, 64), torch.zeros(64, 64))
    stage = DetailStage(
        face, DetailWeights(), LandmarkFeatures(face.codes.landmarks), maps, side=64
    )
    made = stage.wrinkled(batch, no_autocast, torch.tensor([1, 0, 3, 2]))
    with torch.no_grad():
        detail = face.detail.E_detail(
            nn.functional.interpolate(batch.images, (224, 224), mode="bilinear")
        )
        told = face.wrinkling(face.encode(batch.images))
        swapped = face.detail.D_detail(torch.cat([told, detail[[1, 0, 3, 2]]], dim=1))
        torch.testing.assert_close(made.raised[4:], swapped)
    # a surface that is not raised is shaded as the smooth one
    face.detail.D_detail.grow.weight.data.zero_()
    face.detail.D_detail.grow.bias.data.zero_()
    flat = stage.wrinkled(batch, no_autocast)
    smooth = stage.layout.normals(
        face.decode(face.encode(batch.images), batch.outline).verts, face.region.faces
    )
    inner = nn.functional.max_pool2d((~stage.layout.valid)[None, None].float(), 5, 1, 2)[0, 0] == 0
    share = stage.layout.bake(face.region.share[None], face.region.faces)[0, 0]
    cosine = (flat.normals * smooth).sum(1)[:, inner & (share > 0.9)]
    assert float(cosine.detach().median()) > 0.995
    assert float(flat.visible.mean()) > 0.02


def test_previews_show_heads_without_albedo_too(flame, skin, batch):
    face = tiny_face(flame, skin)
    face.train(False)
    decode = face.decode
    face.decode = lambda codes, outline: dataclasses.replace(decode(codes, outline), texture=None)
    assert preview_sheet(face, batch[:2]).shape == (1, 3, 2 * SIDE, 4 * SIDE)


def test_joined_records_keep_their_order(batch):
    both = joined(batch, batch)
    assert isinstance(both, PhotoBatch)
    assert torch.equal(both.points[4:], batch.points) and torch.equal(both.points[:4], batch.points)


def test_a_fresh_regressor_begins_with_the_mean_face(flame):
    points = landmark_points(flame)
    seen = LandmarkNet(points, LandmarkConfig(4, (4, 4, 4, 8), 16, 6, side=SIDE))
    net: CodeNet = fresh_code_net(seen, generator=torch.Generator().manual_seed(0)).eval()
    answer = net(torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)))
    assert float(answer.shape.abs().max().detach()) < 0.5
    turn = answer.rotation.detach() - torch.eye(3)
    assert float(turn.abs().max()) < 0.2
