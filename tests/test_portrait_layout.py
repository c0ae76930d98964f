"""The heads behind what the shipped model draws of prompts: they are as the words say."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from assets.errors import AssetError
from avatar.cli import app
from avatar.portrait import prepared, shipped_portrait
from avatar.portrait_draw import PortraitInputs
from avatar.portrait_draw import head_of as head_seed
from avatar.portrait_layout import layout_of
from deca.conditions import FLAT
from diffusion.metadata import read_record
from diffusion.recipe import Extra, Recipe
from diffusion.shipped_portrait import CONTROL, FOLDER, NAME, SKETCHED, has_control, is_installed

SIDE = 128

held = pytest.mark.skipif(
    not (is_installed() and has_control()), reason="no portrait model with a ControlNet is shipped"
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """What is this small takes longer on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def head_of(condition):
    """1 where the head is."""
    flat = torch.tensor(FLAT)[:, None, None]
    return ((condition[0] - flat).abs().amax(0) > 0.03).float()


def contours_of(condition):
    """1 where the face's contours are drawn, in white."""
    return (condition[0].amin(0) > 0.75).float()


def middle_of(lines):
    """Where the contours lie across the picture, 0 to 1."""
    across = lines.sum(0)
    return float((across * torch.linspace(0, 1, len(across))).sum() / across.sum())


def test_the_same_words_and_seed_give_the_same_head_and_others_another():
    first = layout_of("a smiling woman with long hair", 5, SIDE)
    again = layout_of.__wrapped__("a smiling woman with long hair", 5, SIDE)
    other = layout_of("a smiling woman with long hair", 6, SIDE)
    assert first.condition.shape == (1, 3, SIDE, SIDE)
    assert first.sketch.shape == (1, 3, SKETCHED * SIDE, SKETCHED * SIDE)
    for name in ("condition", "sketch"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert (getattr(first, name) - getattr(other, name)).abs().mean() > 0.005


def test_the_sketch_shows_the_head_that_the_condition_does():
    layout = layout_of("a bald man, plain green background", 1, SIDE)
    sketch = F.avg_pool2d(layout.sketch, SKETCHED)[0]
    head = head_of(layout.condition)
    red, green, blue = sketch
    backdrop = (green > red) & (green > blue)
    assert float(backdrop[head == 0].float().mean()) > 0.9  # a shirt is no head
    assert float(backdrop[head == 1].float().mean()) < 0.1
    lines = contours_of(layout.condition)
    assert 0.004 < float(lines.mean()) < 0.1 and float(head[lines == 1].mean()) > 0.97


def test_sketches_have_the_colours_and_the_style_that_are_asked_for():
    def sketched(prompt):
        return layout_of(prompt, 1, SIDE).sketch[0]

    words = "a bald man, plain {} background, even light"
    for number, color in enumerate(("red", "green", "blue")):
        corner = sketched(words.format(color))[:, :8, :8].mean((1, 2))
        assert int(corner.argmax()) == number
    drawn = sketched("pencil drawing of a woman with green hair")
    assert float((drawn.amax(0) - drawn.amin(0)).mean()) < 0.04


def test_heads_turn_and_wear_hair_as_the_words_say():
    to_the_left = layout_of("a bald man turned to the left", 3, SIDE)
    to_the_right = layout_of("a bald man turned to the right", 3, SIDE)
    left, right = (contours_of(one.condition) for one in (to_the_left, to_the_right))
    assert middle_of(left) < middle_of(right) - 0.05
    bald = head_of(layout_of("a bald woman facing the camera", 3, SIDE).condition)
    long = head_of(layout_of("a woman with long hair facing the camera", 3, SIDE).condition)
    assert long.sum() > 1.1 * bald.sum()


def test_hats_sit_on_heads_above_the_eyes():
    words = "a man with a red hat, white shirt, facing the camera, plain green background"
    layout = layout_of(words, 1, SIDE)
    red, green, blue = layout.sketch[0]
    hat = ((red > 0.3) & (green < 0.5 * red) & (blue < 0.5 * red)).float()
    eyes = SKETCHED * int(contours_of(layout.condition).sum(1).nonzero()[:, 0].float().mean())
    assert float(hat[: eyes // 2].mean()) > 0.1 > 20 * float(hat[eyes:].mean())


def test_what_is_left_open_is_said_and_what_is_named_is_not_said_again():
    layout = layout_of("a woman with red hair and glasses, in a park", 4, SIDE)
    words = layout.said.removeprefix("a woman with red hair and glasses, in a park, ")
    assert all(f" {word}" in words for word in ("skin", "eyes", "shirt", "light"))
    assert not any(word in words for word in ("hair", "glasses", "park", "woman"))
    assert len(words) < len(layout.said) and ", ," not in words
    drawn = layout_of("pencil drawing of a man turned to the left, ", 4, SIDE).said
    assert not any(word in drawn for word in ("skin", "light", "shirt")) and ", ," not in drawn
    assert drawn.count("turned") == 1
    # whose hair it is has to be said, and other letters than a caption's say nothing to the model
    assert "blonde hair" in layout_of("a blonde woman", 4, SIDE).said
    photo = layout_of("a laughing woman with red hair, 85mm bokeh", 4, SIDE)
    odd = photo.said
    assert photo.unknown == ("85mm",)
    assert "bokeh" not in odd and "red" in odd and ("laughing" in odd or "grinning" in odd)
    weighed = "a woman, (85mm bokeh:1.2)"
    assert layout_of(weighed, 4, SIDE).said.startswith(weighed)
    chinese = layout_of("一位银发的开朗女性，动漫风格", 4, SIDE).said
    assert chinese.isascii()
    assert all(word in chinese for word in ("silver", "anime"))
    assert "woman" in chinese or "lady" in chinese


def test_weights_in_a_prompt_are_not_words():
    plain = layout_of("a smiling woman with long hair", 5, SIDE)
    weighed = layout_of("a (smiling:1.2) woman with [long] hair", 5, SIDE)
    assert torch.equal(plain.sketch, weighed.sketch)


@held
def test_pictures_say_that_a_head_stands_behind_them_and_are_drawn_free_if_asked(tmp_path):
    words = ["portrait", "a woman", "--steps", "4", "--tries", "1", "--seed", "4"]
    made = {}
    for name, more in (("held", []), ("free", ["--no-layout"]), ("wide", ["--size", "160x128"])):
        out = tmp_path / f"{name}.png"
        run = CliRunner().invoke(app, [*words, *more, "--out", str(out)])
        assert run.exit_code == 0, run.output
        kinds = [one.kind for one in read_record(out).recipe.extras]
        report = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
        assert kinds == (["layout", "enlarger"] if name == "held" else ["enlarger"])
        assert (CONTROL in report["model"].get("layout", "")) == (name == "held")
        with Image.open(out) as image:
            made[name] = image.tobytes()
    assert made["held"] != made["free"]


@pytest.mark.parametrize("name", ["portrait-control", "head -1", f"head {10**19}", "head ²"])
def test_a_layout_that_names_no_head_is_told(name):
    assert head_seed((Extra("layout", "portrait-control, head 12"),)) == 12
    assert head_seed(()) is None
    with pytest.raises(AssetError, match="names no head; draw it anew"):
        head_seed((Extra("layout", name),))


@held
def test_noise_that_moves_a_little_changes_a_picture_a_little():
    def drawn(**changes):
        return shipped_portrait("a woman", 4, tries=1, steps=4, **changes)

    first = drawn()
    near, far = drawn(variation=0.05, variation_seed=9), drawn(variation=1.0, variation_seed=9)
    moved, away = ((one - first).abs().mean() for one in (near, far))
    assert 0 < float(moved) < 0.5 * float(away)
    assert torch.equal(drawn(), first)


@held
def test_words_that_a_model_was_taught_are_left_as_they_are():
    for prompt, is_held in (("a woman", True), ("a sks woman <lora:me:0.8>", False)):
        _, inputs = prepared(Recipe(prompt), PortraitInputs(model=NAME))
        assert inputs.layout == is_held


@held
def test_an_album_needs_no_other_model(tmp_path):
    out = tmp_path / "album"
    words = ["album", "a woman, {style}", "--styles", "anime,pencil", "--seeds", "1"]
    words += ["--steps", "4", "--out", str(out)]
    first = CliRunner().invoke(app, words, catch_exceptions=False)
    assert first.exit_code == 0
    index = json.loads((out / "album.json").read_text(encoding="utf-8"))
    assert index["model"] == FOLDER and "128 pixels" in index["enlarged"]
    assert index["not_ranked_by"] == ["not ranked by likeness: no --photo was given"]
    rows = index["pictures"]
    assert sorted(row["place"] for row in rows) == [1, 2]
    for row in rows:
        with Image.open(out / row["file"]) as image:
            assert image.size == (512, 512)
        assert [one["kind"] for one in row["recipe"]["extras"]] == ["layout", "enlarger"]
    again = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "2 of 2 pictures are there already" in again.stderr
