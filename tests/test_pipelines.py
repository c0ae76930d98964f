"""A small Stable Diffusion of random weights goes the way of a real one: disk, loader, picture."""

from __future__ import annotations

import pytest
import tiny_diffusion as tiny
import torch

from diffusion import Recipe, load_pipeline, txt2img


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory, "sd1")


@pytest.fixture(scope="module")
def pipeline(model_folder):
    return load_pipeline(model_folder)


def picture(pipeline, prompt="a smiling woman", **settings):
    return txt2img(pipeline, Recipe(prompt, **{"steps": 3, **settings}))


def test_one_seed_gives_one_picture_also_after_loading_again(pipeline, model_folder):
    first = picture(pipeline)
    assert first.shape == (1, 3, 32, 32)
    assert 0 <= first.min() < first.max() <= 1
    assert torch.equal(picture(pipeline), first)
    assert torch.equal(picture(load_pipeline(model_folder)), first)


def test_another_seed_prompt_or_guidance_gives_another_picture(pipeline):
    first = picture(pipeline)
    assert not torch.equal(picture(pipeline, seed=1), first)
    assert not torch.equal(picture(pipeline, prompt="a bearded man"), first)
    assert not torch.equal(picture(pipeline, cfg=3.0), first)


def test_the_size_is_the_one_asked_for(pipeline):
    assert picture(pipeline, size=(48, 24)).shape == (1, 3, 24, 48)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"steps": 0}, "steps=0"),
        ({"size": (30, 32)}, "width=30 must be a multiple of 8"),
    ],
)
def test_what_no_picture_can_be_made_of_is_said(pipeline, settings, words):
    with pytest.raises(ValueError, match=words):
        picture(pipeline, **settings)
