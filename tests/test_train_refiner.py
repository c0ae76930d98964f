"""A refiner of our own for a tiny portrait model: what it starts from and what it learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_portrait import train_tiny, trained, write_colours

from assets.image import read_image, write_image
from diffusion import load_pipeline, train_refiner
from diffusion.refiner import enlarged_draft, refined, refiner_pipeline
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


def test_contours_are_drawn_into_drafts_in_white():
    draft = torch.full((1, 3, 4, 4), 0.25)
    lines = torch.zeros(1, 1, 8, 8)
    lines[..., 3, :], lines[..., 5, :] = 1.0, 0.5
    plain, lined = enlarged_draft(draft), enlarged_draft(draft, lines)
    assert torch.equal(lined[..., 3, :], torch.ones(1, 3, 8))
    torch.testing.assert_close(lined[..., 5, :], (plain[..., 5, :] + 1) / 2)
    assert torch.equal(lined[..., ::2, :], plain[..., ::2, :])


def test_drafts_with_contours_are_kept_apart_from_those_without(model, pictures, tmp_path):
    found = read_captions([pictures])[:2]
    lines = tmp_path / "lines.png"
    write_image(lines, torch.ones(1, 1, 32, 32))
    lined = [replace(found[0], lines=lines), found[1]]
    pipeline = load_pipeline(model)
    plain, drawn = (
        drafts_of(some, pipeline, "0123456789abcdef", tmp_path, seed=1) for some in (found, lined)
    )
    assert (plain[0] != drawn[0]).any() and (plain[1] == drawn[1]).all()


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
