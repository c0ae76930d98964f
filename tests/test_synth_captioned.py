"""Captioned portraits on disk, with what ControlNets and refiners are shown of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from assets.image import read_image
from deca.prompt_wish import Wish
from deca.synth import open_studio
from deca.synth_captioned import SIDE, CaptionedStudio, write_portraits
from diffusion.train_pictures import read_captions
from flame.outfit import load_outfit


@pytest.fixture(scope="module")
def studio():
    return CaptionedStudio(open_studio(SIDE), load_outfit(), conditions=True, pool=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, studio):
    made = tmp_path_factory.mktemp("people")
    write_portraits(studio, 1, made, seed=8, captions=2)
    return made


def test_a_picture_has_captions_and_a_condition(folder):
    found = read_captions([folder])
    assert len(found) >= 1
    for one in found:
        assert one.condition is not None and one.condition.is_file()
        assert len({one.said(0), one.said(1)}) >= 1 and one.caption
        for path in (one.path, one.condition):
            assert read_image(path).shape[-2:] == (SIDE, SIDE)


def test_the_contours_of_a_condition_join_the_points_that_are_told(folder):
    row = json.loads((folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    points = torch.tensor(row["landmarks"])
    lines = read_image(folder / row["condition"])[0].amin(0) > 0.9  # in white
    x, y = (points - 0.5).round().long().clamp(0, SIDE - 1).T
    assert points.shape == (68, 2)
    assert float(lines[y, x].float().mean()) > 0.5 > 10 * float(lines.float().mean())


def test_anime_is_drawn_flat_and_in_ink(studio):
    def drawn(style):
        wish = Wish(gender="woman", hair="bob", hair_color="blue", background="plain",
                    background_color="white", style=style, turn="facing the camera",
                    freckles=False)  # fmt: skip
        rng, generator = np.random.default_rng(3), torch.Generator().manual_seed(3)
        return studio.portrait(wish, rng, generator)

    plain, anime = drawn("realistic"), drawn("anime")
    assert plain.image.shape == anime.image.shape == (1, 3, SIDE, SIDE)
    assert anime.shown is not None and anime.captions == () and anime.wish.style == "anime"
    ink = torch.tensor([0.13, 0.07, 0.10])[:, None, None]

    def inked(image):
        return float(((image[0] - ink).abs().amax(0) < 0.04).float().mean())

    def roughness(image):
        skin = image[0, :, 130:170, 110:150].mean(0)
        return float((2 * skin[:, 1:-1] - skin[:, 2:] - skin[:, :-2]).abs().median())

    assert inked(anime.image) > 0.001 > 5 * inked(plain.image)
    assert roughness(anime.image) < 0.8 * roughness(plain.image)


def _drawn(studio, **wished):
    wish = Wish(**{"gender": "man", "hair": "short", "skin": "fair", "freckles": False,
                   "background": "plain", "background_color": "white", "light_kind": "even",
                   "turn": "facing the camera", "expression": "neutral", **wished})  # fmt: skip
    return studio.portrait(wish, np.random.default_rng(3), torch.Generator().manual_seed(3))


def test_old_faces_are_lined(studio):
    def lines(age):
        drawn = _drawn(studio, age=age, beard="", hair="none", scalp="no hair")
        x, y = drawn.shown.points[17:27].mean(0).round().int().tolist()  # of the brows
        # where foreheads fold
        brow = drawn.image[0].mean(0)[y - 48 : y - 13, x - 22 : x + 23]
        return float(brow.diff(n=2, dim=0).abs().mean())

    assert lines("old") > 1.5 * lines("young")


def test_beards_have_the_colour_of_the_hair(studio):
    def redness(color):
        image = _drawn(studio, age="young", beard="a beard", hair_color=color).image[0]
        chin = image[:, 187:205, 110:150].mean((1, 2))
        return float(chin[0] / chin.sum())

    assert redness("red") > redness("black") + 0.02


def test_collars_are_seen(studio):
    image = _drawn(studio, age="young", clothes_color="green", hair_color="black").image[0]
    cloth = (image[1] > 1.3 * image[0]) & (image[1] > 1.3 * image[2])
    assert 0.015 < float(cloth.float().mean()) < 0.2


def test_light_falls_on_what_is_behind_too(studio):
    def brightness(level):
        wish = Wish(gender="man", hair="short", background="plain", background_color="grey",
                    light_level=level, style="realistic")  # fmt: skip
        rng, generator = np.random.default_rng(3), torch.Generator().manual_seed(3)
        image = studio.portrait(wish, rng, generator).image
        half = SIDE // 2
        return float(image[..., :20, :20].mean()), float(image[..., half - 40 : half, half].mean())

    dim, usual, bright = (brightness(level) for level in ("dim", "", "bright"))
    for place in (0, 1):  # behind, and on the face
        assert 1.3 * dim[place] < usual[place] < 0.95 * bright[place]
