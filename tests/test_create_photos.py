"""Several photos of one person make one head; their order says nothing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_people import plain_wardrobe
from typer.testing import CliRunner

from avatar.cli import app
from avatar.config import CreateSettings
from avatar.pipeline import other_photos
from deca.code_net import load_code_net
from deca.fit_pixels import PixelFitConfig
from deca.hair_guess import HairGuess
from deca.multi_texture import MultiTextureConfig
from deca.portrait import Portrait
from deca.sequence_identity import shared_shape
from deca.sequence_photos import (
    Gathered,
    PhotosConfig,
    agreed_hair,
    gather,
    locate_all,
    strangers,
)
from deca.synth import Studio
from deca.synth_degrade import on_background
from deca.texture import TextureConfig
from flame.load import load_head
from flame.outfit import load_outfit
from flame.params import arkit_from_params

QUICK = PhotosConfig(
    alone=PixelFitConfig(blurs=(1.5,)),
    last=PixelFitConfig(blurs=(1.0,)),
    largest=224,
    texture=MultiTextureConfig(texture=TextureConfig(side=128)),
)


def blank(name: str) -> Portrait:
    return Portrait(torch.full((1, 3, 96, 96), 0.5), name, "")


@pytest.fixture(scope="module")
def gathered() -> tuple[Gathered, torch.Tensor]:
    flame, outfit = load_head(), load_outfit()
    net = load_code_net(flame)
    turns = torch.tensor([[25.0, 0.0, 0.0], [-3.0, 2.0, 0.0]])
    generator = torch.Generator().manual_seed(21)
    shots = Studio(flame, plain_wardrobe()).shoot(2, generator=generator, turns=turns)
    photos = []
    for number, shot in enumerate(shots):
        back = torch.full((*shot.rgba.shape[:2], 3), 120, dtype=torch.uint8)
        rgba = torch.from_numpy(np.ascontiguousarray(shot.rgba))[None]
        photos.append(Portrait(on_background(rgba, back[None]), f"photo {number}", ""))
    found = gather(photos, locate_all(photos, flame, net), flame, outfit, QUICK)
    return found, shots[0].codes.params.shape[0]


def test_every_photo_has_the_shape_of_all_and_a_face_of_its_own(gathered):
    found, _ = gathered
    one, two = found.codes
    assert torch.equal(one.params.shape, two.params.shape)
    assert torch.equal(found.found.codes.params.shape, one.params.shape)
    yaw = [math.degrees(float(codes.params.root[0, 1])) for codes in found.codes]
    assert yaw[0] - yaw[1] == pytest.approx(28, abs=8)
    assert not torch.equal(arkit_from_params(one.params), arkit_from_params(two.params))


def test_the_skin_is_taken_from_all_photos_and_the_eyes_from_the_frontal_one(gathered):
    found, _ = gathered
    assert found.best == 1 and found.strangers == ()
    assert float(found.merged.weights.min()) > 0.1
    assert torch.equal(found.found.texture.base_color, found.merged.texture.base_color)
    # both show the same skin
    assert found.merged.albedo.shape == found.codes[0].albedo[0].shape


def test_the_first_photo_is_the_portrait(gathered):
    found, _ = gathered
    assert torch.equal(found.found.codes.params.root, found.codes[0].params.root)
    assert float(found.found.point_error_px.median()) < 0.03 * found.found.located.side


# --- the estimate itself


def test_answers_together_are_drawn_out_by_the_ratio_of_their_variances():
    sigma, alike = torch.tensor([math.sqrt(0.4)]), 0.8
    shapes = torch.full((4, 1), 0.5)
    shape, left = shared_shape(shapes, torch.full((4,), 0.25), sigma, alike)
    # variance of answers 0.6, over pictures of one person 0.2 * 0.4 = 0.08, the mean of four has
    # 0.6 - 0.08 * 3 / 4 = 0.54 and the same covariance with the truth as one, 0.6
    assert float(shape) == pytest.approx(0.5 * 0.6 / 0.54, rel=1e-5)
    assert float(left) == pytest.approx(math.sqrt(0.4 * (0.8 + 0.2 / 4)), rel=1e-5)


def test_the_drawn_out_mean_is_nearer_to_the_truth_than_the_mean(generator):
    error, alike, count, pictures = 0.5, 0.7, 20_000, 6
    wander = (1 - alike) * error
    # truth with unit variance; answers = common + own with cov(answer, truth) = var(answer) = 0.5
    common = torch.randn(count, generator=generator) * math.sqrt(1 - error - wander)
    slope = (1 - error) / (1 - error - wander)
    rest = 1 - slope**2 * (1 - error - wander)
    truth = slope * common + math.sqrt(rest) * torch.randn(count, generator=generator)
    own = math.sqrt(wander) * torch.randn(pictures, count, generator=generator)
    answers = common + own
    weight = torch.full((pictures,), 1 / pictures)
    found, left = shared_shape(answers, weight, torch.full((count,), math.sqrt(error)), alike)
    off = (found - truth).square().mean()
    assert off < 0.985 * (answers.mean(0) - truth).square().mean()
    assert off < 0.9 * (answers[0] - truth).square().mean()
    # no other factor does better
    for factor in (0.95, 1.05):
        assert off < (factor * found - truth).square().mean()
    # what is said to be left is not too little
    assert float(off.sqrt()) < float(left[0]) < 1.08 * float(off.sqrt())


def test_one_answer_is_left_as_it_is_and_unknown_coefficients_too():
    sigma = torch.tensor([0.6, 1.0])
    shapes = torch.tensor([[0.3, -0.2]])
    shape, left = shared_shape(shapes, torch.ones(1), sigma)
    torch.testing.assert_close(shape, shapes[0])
    torch.testing.assert_close(left, sigma)
    shape, _ = shared_shape(shapes.expand(4, -1), torch.full((4,), 0.25), sigma)
    assert float(shape[1]) == pytest.approx(-0.2) and float(shape[0]) > 0.3


# --- who is shown


def test_a_photo_of_somebody_else_is_named(generator):
    person = torch.randn(1, 20, generator=generator)
    same = person + 0.3 * torch.randn(4, 20, generator=generator)
    assert strangers(same) == ()
    other = person + 1.5 * torch.randn(1, 20, generator=generator)
    assert strangers(torch.cat([same[:2], other, same[2:]])) == (2,)
    assert strangers(torch.cat([same[:1], other])) == (1,)


def test_the_hair_is_that_of_most_photos():
    bob, red, dark = (
        HairGuess(style, colour)
        for style, colour in (
            ("bob", (0.0, 1.0, 0.0)),
            ("short", (1.0, 0.0, 0.0)),
            ("short", (0.0, 0.0, 0.0)),
        )
    )
    assert agreed_hair([bob, red, dark], 0) is red
    assert agreed_hair([bob, red, dark], 2) is dark
    assert agreed_hair([bob, red], 0) is bob and agreed_hair([bob, red], 1) is red


# --- what cannot be taken together


def test_photos_that_cannot_be_taken_together_are_refused(tmp_path):
    settings, one = CreateSettings(), Path("one.jpg")
    assert other_photos(one, (), settings) == []
    for given, words in (
        ((None, [one], settings), "give a photo before them"),
        (
            (one, [one], CreateSettings(box=(0.0, 0.0, 9.0, 9.0))),
            "of one photo, and several were given",
        ),
        ((one, [one] * 16, settings), "17 photos are more than 16"),
    ):
        with pytest.raises(ValueError, match=words):
            other_photos(*given)


def test_the_photo_without_a_face_is_named():
    flame = load_head()
    with pytest.raises(ValueError, match=r"^wall: no face was found"):
        locate_all([blank("wall")], flame, load_code_net(flame))


def test_the_command_takes_photos_again_and_again(tmp_path, monkeypatch):
    asked = {}

    def create(photo, *, more, **others):
        asked.update(photo=photo, more=more)
        raise ValueError("that is enough")

    monkeypatch.setattr("avatar.pipeline.create", create)
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for path in paths:
        path.write_bytes(b"x")
    arguments = [word for path in paths for word in ("--photo", str(path))]
    result = CliRunner().invoke(app, ["create", *arguments])
    assert isinstance(result.exception, ValueError)
    assert asked == {"photo": paths[0], "more": paths[1:]}
    missing = CliRunner().invoke(app, ["create", *arguments, "--photo", str(tmp_path / "d.png")])
    assert "d.png is not there" in str(missing.exception)
