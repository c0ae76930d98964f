"""Hairdos read off portraits that the generator of people made with known ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from deca.code_net import CODE_VIEW, load_code_net
from deca.encode import seen_by
from deca.hair_guess import hair_guess
from deca.portrait import Portrait
from deca.prompt_wish import Wish
from deca.reconstruct import VIEW, locate
from deca.synth_portrait import PortraitStudio
from flame.load import load_head
from flame.outfit import load_outfit
from flame.srgb import srgb_to_lab


@pytest.fixture(scope="module")
def studio():
    return PortraitStudio(load_head(), load_outfit())


def guessed(studio, portrait):
    found = locate(portrait, studio.flame, load_code_net(studio.flame))
    codes = found.encoding.codes
    codes = dataclasses.replace(codes, camera=seen_by(codes.camera, VIEW / CODE_VIEW))
    crop = found.closer(portrait.image, 320).image
    return hair_guess(studio.flame, codes, crop, studio.outfit.hair)


@pytest.mark.parametrize(
    ("hair", "color", "gender"),
    [
        ("short", "black", "man"),
        ("bob", "blonde", "woman"),
        ("fringe", "red", "woman"),
        ("long", "dark brown", "woman"),
    ],
)
def test_the_hairdo_of_a_portrait_is_recognised(studio, hair, color, gender):
    wish = Wish(
        gender=gender, hair=hair, hair_color=color, hat=False, glasses="", skin="fair",
        background="studio", style="realistic", light_tint="",
    )  # fmt: skip
    shot = studio.shoot(wish, generator=torch.Generator().manual_seed(3))
    guess = guessed(studio, Portrait(shot.bare, "drawn", ""))
    assert guess.style == hair
    told = srgb_to_lab(torch.tensor(guess.color)[:, None, None])[:, 0, 0]
    light, red, yellow = told.tolist()
    assert (light < 40) == (color in ("black", "dark brown"))
    assert red > 12 if color == "red" else red < 12
    assert yellow > 12 if color == "blonde" else True


def test_a_bare_scalp_has_no_hairdo(studio):
    wish = Wish(gender="man", hair="none", scalp="no hair", hat=False, beard="", glasses="")
    shot = studio.shoot(wish, generator=torch.Generator().manual_seed(4))
    assert guessed(studio, Portrait(shot.bare, "drawn", "")).style is None
