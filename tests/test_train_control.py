"""A ControlNet of our own for a tiny portrait model: what it starts from, learns and refuses."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import ControlNetModel
from tiny_portrait import train_tiny, trained, write_colours

from assets.errors import AssetError
from assets.image import read_image
from diffusion import Recipe, load_pipeline, train_control
from diffusion.conditioned import conditioned
from diffusion.train_control import portrait_control


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def model(pictures, tmp_path_factory):
    return train_tiny(pictures, tmp_path_factory.mktemp("runs"))


def test_it_starts_without_a_say_and_hears_prompts_as_the_unet_does(model, generator):
    unet = load_pipeline(model).unet
    net = portrait_control(unet)
    noisy, heard = (
        torch.randn(*shape, generator=generator) for shape in ((2, 4, 2, 2), (2, 9, 32))
    )
    with torch.no_grad():
        assert torch.equal(net.add_embedding(heard), unet.add_embedding(heard))
        down, middle = net(noisy, 500, heard, torch.rand(2, 3, 16, 16), return_dict=False)
    assert all(not part.any() for part in (*down, middle))


def test_it_learns_what_conditions_show_where_words_say_nothing(model, pictures, tmp_path):
    folder = trained(train_control, pictures, tmp_path, "--model", str(model), "--steps", "120",
                     "--batch", "8", "--rate", "1e-2", "--descent", "muon", "--dropout", "0.9",
                     )  # fmt: skip
    kept = ControlNetModel.from_pretrained(folder)
    assert kept.config.addition_embed_type_num_heads == 4
    pipeline = load_pipeline(model, controlnets=(folder,))
    drawn, wanted = {}, {}
    for name in ("red", "green"):
        shown = read_image(pictures / "conditions" / f"{name}.png", min_side=32)[..., ::2, ::2]
        recipe = Recipe("a", steps=10, batch=8, cfg=1.0, sampler="Euler a")
        drawn[name] = conditioned(pipeline, recipe, [shown])[..., 4:12, 4:12].mean((0, 2, 3))
        with torch.no_grad():  # a tiny autoencoder's pictures are nearly grey
            latents = pipeline.vae.encode(2 * shown - 1).latent_dist.mean
            made = pipeline.vae.decode(latents).sample / 2 + 0.5
        wanted[name] = made[..., 4:12, 4:12].mean((0, 2, 3))
    apart = (wanted["red"] - wanted["green"]) / (wanted["red"] - wanted["green"]).norm()
    steered = float(apart @ (drawn["red"] - drawn["green"]))
    assert steered > 0.3 * float((wanted["red"] - wanted["green"]).norm())


def test_it_goes_on_from_an_older_one_and_says_where_there_is_none(model, pictures, tmp_path):
    given = ("--model", str(model), "--batch", "2", "--rate", "1e-2")
    older = trained(train_control, pictures, tmp_path / "old", *given, "--steps", "4")
    same = trained(train_control, pictures, tmp_path / "new", *given, "--start", str(older),
                   "--steps", "1", "--rate", "1e-9")  # fmt: skip
    first, second = (
        ControlNetModel.from_pretrained(folder).state_dict() for folder in (older, same)
    )
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)
    with pytest.raises(AssetError, match="holds no network to go on from"):
        trained(train_control, pictures, tmp_path / "no", *given, "--start", str(tmp_path))


def test_pictures_without_conditions_are_refused(model, pictures, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "red.png").write_bytes((pictures / "red.png").read_bytes())
    (alone / "people.jsonl").write_text(json.dumps({"file": "red.png", "caption": "red"}))
    with pytest.raises(AssetError, match="has no condition"):
        trained(train_control, alone, tmp_path / "run", "--model", str(model))
