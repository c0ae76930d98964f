"""The small portrait model: its words, shapes and files, and that it learns what captions say."""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from tiny_portrait import TINY, train_tiny, trained, write_colours

from assets.errors import AssetError
from assets.image import write_image
from diffusion import Recipe, load_pipeline, train_portrait, train_vae, txt2img
from diffusion.train_latents import CaptionedLatents
from diffusion.train_pictures import (
    Captioned,
    mirrored,
    pixels_of,
    read_captions,
    squared,
    to_floats,
)
from diffusion.train_shapes import (
    SIZES,
    portrait_text_encoder,
    portrait_unet,
    portrait_vae,
    seeded,
)
from diffusion.train_ship import check_sizes
from diffusion.train_squares import level_latents
from diffusion.train_text import learn_words, read_tokenizer, write_tokenizer


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """What is this small takes longer on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def model(pictures, tmp_path_factory):
    return train_tiny(pictures, tmp_path_factory.mktemp("runs"))


def test_losses_fall_on_a_tiny_set_and_prompts_are_drawn(model):
    for stage, name, most in (("vae", "pixels", 0.75), ("portrait", "loss", 0.9)):
        with open(model.parent.parent / stage / "loss.csv", encoding="utf-8") as file:
            losses = [float(row[name]) for row in csv.DictReader(file)]
        assert sum(losses[-2:]) < most * sum(losses[:2]), (stage, losses)
    pictures = txt2img(load_pipeline(model), Recipe("red", steps=2, batch=2))
    assert pictures.shape == (2, 3, 16, 16) and not torch.equal(pictures[0], pictures[1])


def test_the_folder_is_one_that_diffusers_opens_in_half_precision(model):
    pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float16)
    assert pipeline.unet.dtype == torch.float16 and pipeline.safety_checker is None
    assert pipeline.vae_scale_factor == 8 and pipeline.vae.config.latent_channels == 4
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_latents_that_are_trained_on_have_mean_0_and_variance_1_in_every_channel(
    model, pictures, tmp_path
):
    pipeline = load_pipeline(model)
    shown = to_floats(np.array(pixels_of(read_captions([pictures]), 16, tmp_path)))
    with torch.no_grad():
        mean = pipeline.vae.encode(shown).latent_dist.mean * pipeline.vae.config.scaling_factor
    torch.testing.assert_close(mean.std((0, 2, 3)), torch.ones(4), atol=0.02, rtol=0)
    torch.testing.assert_close(mean.mean((0, 2, 3)), torch.zeros(4), atol=0.02, rtol=0)


def test_standardizing_leaves_pictures_and_relative_noise_as_they_are(generator):
    with seeded(1):
        vae = portrait_vae(TINY).double()
    shown = torch.rand(3, 3, 16, 16, generator=generator, dtype=torch.float64) * 2 - 1
    other = train_vae.standardized(vae, [shown])
    with torch.no_grad():
        before, after = vae.encode(shown).latent_dist, other.encode(shown).latent_dist
        ratio = after.std / before.std
        torch.testing.assert_close(ratio, (1 / before.mean.std((0, 2, 3)))[:, None, None]
                                   .expand_as(ratio))  # fmt: skip
        torch.testing.assert_close(other.decode(after.mean).sample, vae.decode(before.mean).sample)


def test_a_fresh_encoder_tells_squares_of_pixels_by_walsh_functions(generator):
    with seeded(2):
        vae = portrait_vae(replace(TINY, vae_widths=(8, 16, 16, 32), latents=12)).double()
    shown = torch.rand(8, 3, 32, 32, generator=generator, dtype=torch.float64) * 2 - 1
    level_latents(vae, shown)
    with torch.no_grad():
        found = vae.encode(shown).latent_dist
    told = found.mean.permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(told.mean(0), torch.zeros(12).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(told.std(0), torch.ones(12).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.logvar, torch.full_like(found.logvar, -6.0))
    squares = shown.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    signs = scipy.linalg.hadamard(8)
    by_changes = signs[np.argsort((np.diff(signs, axis=1) != 0).sum(1))]
    walsh = torch.from_numpy(by_changes).double()
    bright = (walsh @ squares.mean(1) @ walsh.T).flatten(1)  # by changes downwards and sideways
    likeness = torch.corrcoef(torch.cat([told, bright], 1).T)[:12, 12:].abs()
    wanted = {0: (0, 0), 3: (0, 1), 4: (1, 0), 5: (0, 2), 6: (2, 0), 7: (1, 1)}
    for channel, (down, across) in wanted.items():
        assert int(likeness[channel].argmax()) == 8 * down + across
        assert float(likeness[channel].max()) > 0.75


class Exact(torch.nn.Module):
    """An autoencoder whose latents are the picture."""

    def encode(self, images):
        count = images.shape[1]
        moments = torch.cat([images, torch.full_like(images[:, :count], -60.0)], 1)
        return argparse.Namespace(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(self, latents):
        return argparse.Namespace(sample=latents)


def test_shrunk_latents_are_held_against_shrunk_pictures_and_noise_is_relative(generator):
    images = 0.3 * torch.randn(4, 3, 32, 32, generator=generator)

    def pixels(**settings):
        config = train_vae.VaeConfig(**settings)
        return float(train_vae.vae_loss(Exact(), None, images, config, generator=generator)[1]
                     ["pixels"])  # fmt: skip

    assert pixels(noise=0.0, shrunk=0.0) < 1e-5
    assert pixels(noise=0.0, shrunk=1.0) < 1e-5
    # the mean distance of a normal variable from 0
    assert pixels(noise=0.2, shrunk=0.0) == pytest.approx(0.2 * 0.3 * (2 / np.pi) ** 0.5, rel=0.05)


def test_pieces_lie_inside_their_pictures_and_mostly_near_the_middle(generator):
    rows = torch.arange(16.0)[None, None, :, None].expand(2000, 3, 16, 16)
    pieces = train_vae.crops(rows, 8, generator=generator)
    assert pieces.shape == (2000, 3, 8, 8)
    tops = pieces[:, 0, 0, 0]
    torch.testing.assert_close(pieces[:, 0, -1, -1], tops + 7)
    assert set(tops.tolist()) == set(range(9))
    assert 0.5 < float(((tops >= 3) & (tops <= 5)).float().mean()) < 0.8


@pytest.mark.parametrize("side", [-8, 12, 24])
def test_pieces_that_do_not_fit_the_latents_are_refused(side, pictures, tmp_path):
    with pytest.raises(ValueError, match="must be a multiple of 8 up to 16"):
        trained(train_vae, pictures, tmp_path, f"--crop={side}", shape=TINY)


def test_a_unet_starts_from_one_for_other_latents_but_for_what_meets_them(model):
    other = replace(TINY, latents=6)
    with seeded(4):
        text = portrait_text_encoder(other, load_pipeline(model).tokenizer)
        unet = portrait_unet(other)
    fresh = {name: weight.clone() for name, weight in unet.state_dict().items()}
    train_portrait._start_from(model, text, unet)
    known = load_pipeline(model).unet.state_dict()
    for name, weight in unet.state_dict().items():
        meets = name.startswith(("conv_in.", "conv_out."))
        assert torch.equal(weight, fresh[name] if meets else known[name])


def test_a_unet_starts_from_one_that_heard_no_whole_prompts(model, tmp_path, generator):
    before = load_pipeline(model)
    settings = {**before.unet.config, "addition_embed_type": None}
    before.unet = UNet2DConditionModel.from_config(settings)
    before.save_pretrained(tmp_path)
    with seeded(4):
        text, unet = portrait_text_encoder(TINY, before.tokenizer), portrait_unet(TINY)
    train_portrait._start_from(tmp_path, text, unet)
    noisy = torch.randn(2, 4, 2, 2, generator=generator)
    heard = torch.randn(2, 9, 32, generator=generator)
    with torch.no_grad():  # what is new says nothing yet
        torch.testing.assert_close(
            unet(noisy, 500, heard).sample, before.unet(noisy, 500, heard).sample
        )


@pytest.mark.parametrize("side", SIZES)
def test_the_shipped_sizes_fit_into_eighty_megabytes(side, tmp_path):
    shape = SIZES[side]
    tokenizer = write_tokenizer(tmp_path, ["a person"] * 2, shape.words)
    with torch.device("meta"):
        encoder = portrait_text_encoder(shape, tokenizer)
        parts = [portrait_vae(shape), portrait_unet(shape), encoder]
    numbers = sum(weight.numel() for part in parts for weight in part.parameters())
    numbers += (shape.words - len(tokenizer)) * shape.text_width
    assert 2 * numbers < 79_000_000  # the rest is for settings and words
    assert parts[0].config.scaling_factor and 2 ** (len(shape.vae_widths) - 1) == 8


def test_words_seen_twice_become_one_token_and_any_text_comes_back(tmp_path):
    captions = ["A smiling person, silver hair", "a smiling person with silver eyes", "once"]
    tokenizer = write_tokenizer(tmp_path, captions, 4096)
    assert tokenizer.tokenize("smiling silver person") == [
        "smiling</w>",
        "silver</w>",
        "person</w>",
    ]
    assert len(tokenizer.tokenize("once")) == 4  # letters
    for text in ("näive 头发 👩", "quite unseen words !?"):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[1:-1]).replace(" ", "") == text.replace(" ", "")
    words, merges = learn_words(captions, 520)
    assert len(words) == 520 and len(merges) == 6  # 512 letters and two marks
    assert sorted(words.values()) == list(range(520))


def test_the_words_of_a_models_folder_are_those_of_its_run(model):
    words = "a smiling woman, red; 3 <unheard>"
    run, kept = (read_tokenizer(folder / "tokenizer", 40) for folder in (model.parent, model))
    assert kept(words).input_ids == run(words).input_ids and len(kept) == len(run)
    assert kept.model_max_length == 40


def test_captions_come_from_tables_and_text_files_and_faults_are_named(pictures, tmp_path):
    found = read_captions([pictures])
    assert {p.path.name: p.caption for p in found}["red.png"] == "red"
    one = torch.full((1, 3, 16, 16), 0.5)
    write_image(tmp_path / "a.png", one)
    with pytest.raises(AssetError, match=r"a\.png has no caption; add a line"):
        read_captions([tmp_path])
    (tmp_path / "a.txt").write_text("grey\n", encoding="utf-8")
    assert read_captions([tmp_path]) == [Captioned(tmp_path / "a.png", "grey")]
    table = tmp_path / "captions.jsonl"
    table.write_text('{"file_name": "a.png", "text": "dull"}\n\n{"file": "a.png"}\n')
    with pytest.raises(AssetError, match=r"line 3 of .*captions\.jsonl is not"):
        read_captions([tmp_path])
    table.write_text('{"file": "b.png", "caption": "lost"}\n')
    with pytest.raises(AssetError, match=r"b\.png has a caption but is not there"):
        read_captions([tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(AssetError, match="no pictures"):
        read_captions([tmp_path / "empty"])


def test_mirrored_pictures_have_mirrored_words_and_some_captions_are_left_out(generator):
    assert mirrored("turned to the left, light from the right") == (
        "turned to the right, light from the left"
    )
    assert mirrored("a bright copyright person") == "a bright copyright person"
    assert mirrored("Right profile 朝左") == "left profile 朝右"
    # latents say which picture and which side they are, ids which caption of which side
    latents = np.arange(10, dtype=np.float16).reshape(5, 2, 1, 1, 1)
    ids = 1 + torch.arange(30).reshape(5, 3, 2, 1)
    known = CaptionedLatents(latents, ids, torch.zeros(1, dtype=int), 2.0)
    lesson = known.draw(4000, 0.1, generator=generator)
    number = (lesson.latents.flatten() / 2).long()
    word = lesson.ids.flatten()
    heard = word > 0
    row, way, side = (word - 1) // 6, (word - 1) // 2 % 3, (word - 1) % 2
    assert torch.equal(row[heard], number[heard] // 2)
    assert torch.equal(side[heard], number[heard] % 2)
    assert abs(float((~heard).float().mean()) - 0.1) < 0.02
    for value, count in ((row, 5), (way, 3), (side, 2)):
        shares = torch.bincount(value[heard], minlength=count) / heard.sum()
        torch.testing.assert_close(shares, torch.full((count,), 1 / count), atol=0.03, rtol=0)
    plain = CaptionedLatents(latents[:, :1], ids, torch.zeros(1, dtype=int), 1.0)
    assert not (plain.draw(50, 0.0, generator=generator).ids % 2 == 0).any()


def test_the_middle_square_is_kept_and_pixels_are_read_once(tmp_path):
    wide = torch.zeros(1, 3, 8, 16)
    wide[..., 4:12] = torch.tensor([1.0, 0.5, 0.0])[None, :, None, None]
    middle = squared(wide, 16)
    assert torch.allclose(middle, torch.tensor([1.0, 0.5, 0.0])[None, :, None, None], atol=1e-6)
    write_image(tmp_path / "a.png", wide)
    pixels = pixels_of([Captioned(tmp_path / "a.png")], 8, tmp_path)
    assert pixels.shape == (1, 3, 8, 8) and pixels[0, :, 4, 4].tolist() == [255, 128, 0]
    first = [path.name for path in tmp_path.glob("*.npy")]
    pixels_of([Captioned(tmp_path / "a.png")], 8, tmp_path)
    assert [path.name for path in tmp_path.glob("*.npy")] == first


def test_the_judge_moves_the_autoencoder_but_its_own_weights_only_by_its_own_loss(generator):
    torch.manual_seed(0)
    vae, judge = portrait_vae(TINY), train_vae.Judge(8)
    images = torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1

    def gradients(config):
        vae.zero_grad()
        judge.zero_grad()
        loss, parts = train_vae.vae_loss(
            vae, judge, images, config, generator=torch.Generator().manual_seed(0)
        )
        loss.backward()
        return [w.grad.clone() for w in judge.parameters()], vae.decoder.conv_out.weight.grad, parts

    own, moved, parts = gradients(train_vae.VaeConfig(judge=5.0))
    same, plain, _ = gradients(train_vae.VaeConfig(judge=0.0))
    assert all(torch.equal(a, b) for a, b in zip(own, same, strict=True))
    assert (moved - plain).abs().max() > 1e-6 and float(parts["judge"]) > 0


def test_what_is_too_large_for_the_package_is_not_shipped(model, tmp_path):
    check_sizes([path for path in model.rglob("*") if path.is_file()])
    large = tmp_path / "model" / "unet" / "one.safetensors"
    large.parent.mkdir(parents=True)
    with open(large, "wb") as file:
        file.truncate(16_000_000)
    with pytest.raises(AssetError, match="files stay below 16000000"):
        check_sizes([large])
    parts = [large.with_name(f"{number}.safetensors") for number in range(6)]
    for part in parts:
        with open(part, "wb") as file:
            file.truncate(15_000_000)
    with pytest.raises(AssetError, match="90000000 bytes in all"):
        check_sizes(parts)
    with pytest.raises(AssetError, match="no model to ship"):
        check_sizes([])
