"""The prompt route's edges: what is refused, what is told, what is worn; without fitting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avatar.source import find_style, source_of
from deca.prompt_wish import Wish
from deca.prompt_words import read_prompt
from deca.synth_sitter import draw_sitter, settle
from deca.synth_skin import Skins
from deca.synth_worn import put_on
from flame.head import JOINT_NAMES
from flame.load import load_head
from flame.outfit import load_outfit


def test_a_photo_or_a_prompt_is_wanted_not_both(tmp_path):
    with pytest.raises(ValueError, match="a photo or a prompt, one of them"):
        source_of(None, None)
    with pytest.raises(ValueError, match="a photo or a prompt, one of them"):
        source_of(tmp_path / "x.png", "a man")
    with pytest.raises(ValueError, match="give a prompt with it"):
        source_of(tmp_path / "x.png", None, model="some/model")
    with pytest.raises(ValueError, match="the prompt is empty"):
        source_of(None, "  ")


def test_styles_are_found_in_words():
    assert find_style("oil painting") == "oil" and find_style("in anime style") == "anime"
    with pytest.raises(ValueError, match="the style 'fresco' is not known; use one of realistic"):
        find_style("fresco")


def test_what_is_named_is_kept_and_the_rest_is_settled():
    wish = read_prompt("an angry man with green hair, no glasses, red shirt").wish
    settled = settle(wish, np.random.default_rng(0))
    for name, value in wish.named().items():
        assert getattr(settled, name) == value
    assert all(value is not None for value in vars(settled).values())


def test_skins_are_those_that_were_asked_for():
    flame, outfit = load_head(), load_outfit()
    skins = Skins(outfit.albedo)
    for tone in ("very fair", "fair", "olive", "brown", "dark brown", "very dark"):
        sitter = draw_sitter(
            Wish(skin=tone), flame, outfit.albedo, generator=torch.Generator().manual_seed(1)
        )
        assert skins.words(sitter.albedo)["skin"] == tone


def test_glasses_are_a_part_of_the_head_and_turn_with_it():
    flame = load_head()
    head = flame.head(torch.zeros(flame.n_shape))
    marks = flame.landmarks68(head.verts[None])[0]
    worn, materials = put_on(head, marks, Wish(glasses="glasses"))
    assert worn.material_names[-2:] == ("frame", "lenses")
    assert [material.name for material in materials] == ["frame", "lenses"]
    rotations = torch.zeros(1, len(JOINT_NAMES), 3)
    rotations[0, JOINT_NAMES.index("head"), 1] = 0.5
    rest, turned = worn.verts[len(head.verts) :], worn.pose(
        torch.zeros(1, len(worn.morphs)), rotations
    )[0, len(head.verts) :]  # fmt: skip
    between = torch.cdist(rest[::40].double(), rest[::40].double())
    torch.testing.assert_close(
        torch.cdist(turned[::40].double(), turned[::40].double()), between, atol=1e-5, rtol=0
    )
    # the lenses stand before the eyes
    eyes = marks[36:48].mean(0)
    assert float(rest[:, 2].max()) > float(eyes[2])
