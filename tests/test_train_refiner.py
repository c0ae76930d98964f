"""A refiner of our own for a tiny portrait model: what it starts from and what it learns."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_portrait import train_tiny, trained, write_colours

from assets.image import read_image
from diffusion import load_pipeline, train_refiner
from diffusion.refiner import (
    enlarged_draft,
    fine_shade,
    in_colours_of,
    in_sketch_colours,
    refined,
    refiner_pipeline,
)
from diffusion.train_pictures import read_captions
from diffusion.train_refiner import drafts_of, refiner_unet


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def model(pictures, tmp_path_factory):
    return train_tiny(pictures, tmp_path_factory.mktemp("runs"))


def test_it_starts_as_the_models_own_unet_whatever_the_draft(model, generator):
    own, other = load_pipeline(model).unet, refiner_unet(load_pipeline(model).unet)
    noisy, draft, heard = (
        torch.randn(*shape, generator=generator)
        for shape in ((2, 4, 4, 4), (2, 4, 4, 4), (2, 9, 32))
    )
    with torch.no_grad():
        before = own(noisy, 500, heard).sample
        after = other(torch.cat([noisy, draft], dim=1), 500, heard).sample
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    assert (other.config.in_channels, other.config.sample_size) == (8, 4)


def test_drafts_are_kept_for_the_same_pictures_alone(model, pictures, tmp_path):
    found = read_captions([pictures])
    pipeline = load_pipeline(model)

    def drafts(some):
        return drafts_of(some, pipeline, "0123456789abcdef", tmp_path, seed=1)

    first, other = drafts(found[:2]), drafts(found[2:4])
    assert first.shape == (2, 4, 4, 4)
    assert (first != other).any() and (drafts(found[:2]) == first).all()
    assert len(list(tmp_path.glob("drafts-*.npy"))) == 2


def test_sketches_give_drafts_their_fine_shade_and_nothing_else(generator):
    side = 80
    draft = torch.full((1, 3, side // 2, side // 2), 0.5)
    draft[:, 0] = 0.6
    slow = torch.linspace(0.2, 0.8, side).expand(1, 3, side, side)
    torch.testing.assert_close(
        enlarged_draft(draft, sketch=slow)[..., 12:-12], enlarged_draft(draft)[..., 12:-12],
        atol=2e-3, rtol=0,
    )  # fmt: skip
    sketch = slow.clone()
    sketch[..., 39:41, :] = 0.0
    shaded = enlarged_draft(draft, sketch=sketch)
    line, beside = shaded[0, :, 39, 20:60], shaded[0, :, 25, 20:60]
    assert bool((beside - line > 0.1).all())
    torch.testing.assert_close(line[0] - line[1], torch.full((40,), 0.1), atol=1e-3, rtol=0)


def test_the_fine_shade_of_a_wave_is_the_wave_or_nothing():
    x = torch.arange(256.0)
    for period, kept in ((8, 1.0), (200, 0.05)):
        wave = (0.5 + 0.4 * torch.sin(2 * torch.pi * x / period)).expand(1, 3, 256, 256)
        shade = fine_shade(wave)[..., 64:192, 64:192]
        assert abs(float(shade.abs().amax()) / 0.4 - kept) < 0.05


def test_pictures_take_broad_colours_from_drafts_and_keep_what_is_fine(generator):
    x = torch.arange(128.0)
    fine = 0.1 * torch.sin(2 * torch.pi * x / 4).expand(1, 3, 128, 128)
    red = torch.tensor([0.7, 0.3, 0.4])[None, :, None, None].expand(1, 3, 128, 128)
    made = in_colours_of(0.5 + fine, red)
    torch.testing.assert_close(made[..., 16:-16], (red + fine)[..., 16:-16], atol=5e-3, rtol=0)
    picture = torch.rand(1, 3, 32, 32, generator=generator)
    torch.testing.assert_close(in_colours_of(picture, picture), picture)


def test_drawings_over_sketches_have_eyes_of_the_sketchs_colour_and_shade_of_their_own(generator):
    sketch, drawn = torch.full((1, 3, 128, 128), 0.5), torch.full((1, 3, 128, 128), 0.5)
    brown, blue = (torch.tensor(rgb)[:, None, None] for rgb in ((0.35, 0.2, 0.1), (0.1, 0.2, 0.5)))
    for across in (40, 80):
        sketch[0, :, 60:68, across : across + 8] = brown
    drawn[0, :, 60:68, 40:48], drawn[0, :, 60:68, 80:88] = brown, blue
    drawn = (drawn + 0.05 * torch.randn(1, 1, 128, 128, generator=generator)).clamp(0, 1)
    held = in_sketch_colours(drawn, sketch, 0.3)
    for across in (40, 80):
        iris = held[0, :, 62:66, across + 2 : across + 6].mean((1, 2))
        wanted = brown[:, 0, 0] - brown.mean()
        torch.testing.assert_close(iris - iris.mean(), wanted, atol=0.05, rtol=0)
    far = held[0, :, 100:, :] - drawn[0, :, 100:, :]  # where both are grey
    assert far.std(0).max() < 0.005
    assert (
        float((fine_shade(held, 0.02) - fine_shade(drawn, 0.02))[..., 100:, :].abs().max()) < 0.02
    )
    assert torch.equal(in_sketch_colours(drawn, sketch, 1.0), drawn)


def test_one_block_of_drafts_in_four_is_told_nothing_of_its_pictures(pictures):
    found = read_captions([pictures])[:2]
    told = [train_refiner._sketches(found, 32, block) for block in range(8)]
    assert [one is None for one in told] == [False, False, False, True] * 2
    truth = torch.cat([read_image(one.path, min_side=32) for one in found])
    ratio = fine_shade(told[0]).std((1, 2, 3)) / fine_shade(truth).std((1, 2, 3))
    assert bool((ratio > 0.55).all()) and bool((ratio < 1.2).all())


def test_it_draws_what_drafts_show_where_words_say_nothing(model, pictures, tmp_path):
    given = ("--model", str(model), "--steps", "120", "--batch", "8", "--rate", "1e-2")
    folder = trained(train_refiner, pictures, tmp_path, *given, "--descent", "muon",
                     "--dropout", "0.9")  # fmt: skip
    pipeline = refiner_pipeline(load_pipeline(model), UNet2DConditionModel.from_pretrained(folder))
    shown = {
        name: enlarged_draft(read_image(pictures / f"{name}.png", min_side=32)[..., ::2, ::2])
        for name in ("red", "green")
    }
    drafts = torch.cat([*shown.values()] * 4)
    made = refined(pipeline, [""] * 8, drafts, seed=3)
    assert made.shape == (8, 3, 32, 32)
    one = refined(pipeline, [""], drafts[1:2], seed=4)
    torch.testing.assert_close(one, made[1:2], atol=1e-3, rtol=0)
    seen = made[..., 8:24, 8:24].mean((2, 3))
    with torch.no_grad():  # a tiny autoencoder's pictures are nearly grey
        latents = pipeline.vae.encode(2 * drafts - 1).latent_dist.mean
        kept = (pipeline.vae.decode(latents).sample / 2 + 0.5)[..., 8:24, 8:24].mean((2, 3))
    apart = kept[0] - kept[1]
    shows = (seen[::2] - seen[1::2]).mean(0)
    assert float(apart @ shows) > 0.4 * float(apart @ apart)


def test_it_goes_on_from_an_older_one(model, pictures, tmp_path):
    given = ("--model", str(model), "--batch", "2")
    older = trained(train_refiner, pictures, tmp_path / "old", *given, "--steps", "4", "--rate",
                    "1e-2")  # fmt: skip
    same = trained(train_refiner, pictures, tmp_path / "new", *given, "--start", str(older),
                   "--steps", "1", "--rate", "1e-9")  # fmt: skip
    first, second = (
        UNet2DConditionModel.from_pretrained(folder).state_dict() for folder in (older, same)
    )
    assert first["conv_in.weight"][:, 4:].any()
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)
