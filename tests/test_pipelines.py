"""A small Stable Diffusion of random weights goes the way of a real one: disk, loader, picture."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from assets.errors import AssetError
from diffusion import load_pipeline, txt2img


def tiny_tokenizer(folder):
    """CLIP's byte-pair tokenizer over single letters."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusion")
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the constructors draw from the global generator
        pipeline = tiny_pipeline(tiny_tokenizer(folder / "tokenizer-files"))
    pipeline.save_pretrained(folder / "model")
    return folder / "model"


def tiny_pipeline(tokenizer):
    return StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=32,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        ),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=16,
        ),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="module")
def pipeline(model_folder):
    return load_pipeline(model_folder)


def picture(pipeline, prompt="a smiling woman", seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    return txt2img(pipeline, prompt, generator=generator, **{"steps": 3, **settings})


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
    assert not torch.equal(picture(pipeline, guidance=3.0), first)


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


def test_a_model_that_brings_code_is_refused(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "m")
    index = tmp_path / "m" / "model_index.json"
    stored = json.loads(index.read_text())
    stored["_class_name"] = ["own_pipeline", "OwnPipeline"]
    index.write_text(json.dumps(stored))
    (tmp_path / "m" / "own_pipeline.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(AssetError, match="asks to run code"):
        load_pipeline(tmp_path / "m")


def test_a_checkpoint_with_planted_code_is_refused_and_runs_nothing(tmp_path):
    mark = tmp_path / "it-ran"

    class Planted:
        def __reduce__(self):
            return open, (str(mark), "w")

    torch.save({"model.diffusion_model.x": torch.ones(1), "y": Planted()}, tmp_path / "m.ckpt")
    with pytest.raises(AssetError, match="nothing in a file is ever run"):
        load_pipeline(tmp_path / "m.ckpt")
    assert not mark.exists()


def test_what_is_no_model_is_refused_in_one_sentence(tmp_path, model_folder):
    (tmp_path / "empty").mkdir()
    torch.save({"lora.up": torch.ones(1)}, tmp_path / "lora.safetensors")
    shutil.copytree(model_folder, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "vae")
    for source, words in [
        (tmp_path / "none.safetensors", "is not there"),
        (tmp_path / "empty", "no model_index.json"),
        (tmp_path / "lora.safetensors", "LoRA"),
        (tmp_path / "cut", "cannot be opened"),
        ("nobody/not-in-the-cache", "cannot be opened"),
    ]:
        with pytest.raises(AssetError, match=words) as caught:
            load_pipeline(source)
        assert "\n" not in str(caught.value)
