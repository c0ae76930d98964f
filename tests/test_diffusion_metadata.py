"""Recipes in pictures: written, read again, and read from the web UI's own text."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from assets.errors import AssetError
from diffusion.metadata import read_parameters, read_record, write_parameters
from diffusion.recipe import Recipe, from_json, to_json
from diffusion.write import write_picture

FULL = Recipe(
    "a (smiling:1.2) woman,\nsilver hair 😀 مرحبا <lora:oil:0.5>",
    negative="ugly, blurry",
    sampler="DPM++ 2S a Karras",
    steps=31,
    cfg=6.5,
    rescale=0.7,
    clip_skip=2,
    seed=2**40,
    size=(512, 768),
    batch=3,
    strength=0.6,
    threshold=0.99,
    loras=(("ink", -0.25),),
    hires=2.0,
    regions=(("a red hat", (0.0, 0.0, 0.5, 0.25)),),
    variation=0.1,
    kind="img2img",
    model="my model, v2",
    model_hash="0123456789abcdef",
    image_sha256="ab" * 32,
)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("recipe", [FULL, Recipe("x")], ids=["full", "plain"])
def test_a_picture_gives_its_recipe_back(recipe, suffix, tmp_path):
    path = write_picture(
        tmp_path / f"a.{suffix}", torch.rand(1, 3, 32, 32), recipe, index=recipe.batch - 1
    )
    record = read_record(path)
    assert record.recipe == recipe
    assert record.index == recipe.batch - 1
    assert record.exact


def test_the_web_uis_text_is_written_as_it_writes_it():
    assert write_parameters(FULL.change(kind="txt2img"), index=2).split("\n") == [
        "a (smiling:1.2) woman,",
        "silver hair 😀 مرحبا <lora:oil:0.5> <lora:ink:-0.25>",
        "Negative prompt: ugly, blurry",
        "Steps: 31, Sampler: DPM++ 2S a Karras, CFG scale: 6.5, Seed: 1099511627778, "
        'Size: 512x768, Model hash: 0123456789, Model: "my model, v2", Variation seed: 3, '
        "Variation seed strength: 0.1, Denoising strength: 0.5, Hires upscale: 2, Clip skip: 2, "
        "CFG Rescale phi: 0.7, Dynamic thresholding percentile: 0.99, Batch size: 3, Batch pos: 2",
    ]


def test_a_simple_text_of_the_web_ui_is_read():
    record = read_parameters(
        "portrait of an old man, (wrinkles:1.3)\n"
        "Negative prompt: hat, glasses\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 965400086, Size: 512x768, "
        "Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Version: v1.6.0"
    )
    assert record.recipe == Recipe(
        "portrait of an old man, (wrinkles:1.3)",
        negative="hat, glasses",
        sampler="Euler a",
        steps=20,
        cfg=7.0,
        seed=965400086,
        size=(512, 768),
        model="v1-5-pruned-emaonly",
        model_hash="6ce0161689",
    )
    assert record.rest == {"Version": "v1.6.0"}
    assert not record.exact


def test_hires_loras_and_several_lines_are_read():
    record = read_parameters(
        "first line,\nsecond line: with a colon <lora:faceA:0.8>\n\nlast line\n"
        "Negative prompt: one,\ntwo: 3,\nthree\n"
        "Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 12, "
        "Size: 640x960, Model hash: abc, Model: some_model, Denoising strength: 0.35, "
        "Clip skip: 2, Hires upscale: 2.5, Hires steps: 10, Hires upscaler: R-ESRGAN 4x+, "
        'Lora hashes: "faceA: 0a1b, other: 2c3d", TI hashes: "neg: 99", Version: v1.9.3'
    )
    recipe = record.recipe
    assert recipe.prompt == ("first line,\nsecond line: with a colon <lora:faceA:0.8>\n\nlast line")
    assert recipe.negative == "one,\ntwo: 3,\nthree"
    assert recipe.sampler == "DPM++ 2M Karras"
    assert recipe.all_loras() == (("faceA", 0.8),)
    assert (recipe.hires, recipe.hires_strength, recipe.clip_skip) == (2.5, 0.35, 2)
    assert recipe.kind == "txt2img"
    assert record.rest["Lora hashes"] == "faceA: 0a1b, other: 2c3d"
    assert record.rest["Hires upscaler"] == "R-ESRGAN 4x+"


def test_a_picture_drawn_over_is_read():
    recipe = read_parameters(
        "a cat\nSteps: 20, Sampler: DDIM, CFG scale: 7, Seed: 5, Size: 512x512, "
        "Denoising strength: 0.4, Mask blur: 4"
    ).recipe
    assert (recipe.kind, recipe.strength, recipe.negative) == ("img2img", 0.4, "")


@pytest.mark.parametrize("text", ["a cat", "a cat\nat 12:30, quickly", ""])
def test_text_without_settings_is_all_prompt(text):
    assert read_parameters(text).recipe == Recipe(text)


def test_a_batch_counts_its_seeds_from_the_first():
    text = write_parameters(Recipe("x", seed=100, batch=4), index=3)
    record = read_parameters(text)
    assert (record.recipe.seed, record.recipe.batch, record.index) == (100, 4, 3)


def test_other_programs_pictures_are_read(tmp_path):
    text = "a dog\nSteps: 9, Sampler: Heun, CFG scale: 5, Seed: 3, Size: 64x64"
    chunks = PngInfo()
    chunks.add_text("parameters", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=chunks)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    for name in ("a.png", "a.jpg"):
        recipe = read_record(tmp_path / name).recipe
        assert (recipe.prompt, recipe.steps, recipe.sampler) == ("a dog", 9, "Heun")


def test_what_says_nothing_or_nonsense_is_one_sentence(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "no.png").write_bytes(b"no picture")
    stored = {"format": 1, "index": 0, "recipe": to_json(FULL)}
    for name, change in {
        "future.png": {"format": 9},
        "unknown.png": {"recipe": {"prompt": "x", "evil": 1}},
        "type.png": {"recipe": {"prompt": "x", "steps": "many"}},
        "range.png": {"recipe": {"prompt": "x", "steps": 0}},
        "size.png": {"recipe": {"prompt": "x", "size": [64]}},
        "box.png": {"recipe": {"prompt": "x", "regions": [["a", [0, 0, 2, 1]]]}},
        "none.png": {"recipe": {}},
    }.items():
        chunks = PngInfo()
        chunks.add_itxt("prompt-to-avatar", json.dumps({**stored, **change}))
        Image.new("RGB", (8, 8)).save(tmp_path / name, pnginfo=chunks)
    for path in [*tmp_path.iterdir(), tmp_path / "absent.png"]:
        with pytest.raises(AssetError) as caught:
            read_record(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "x" * 20_001}, "the prompt has 20001 characters"),
        ({"negative": "\udc80"}, "the negative holds half a character"),
        ({"steps": 0}, "steps=0 must be from 1 to 1000"),
        ({"cfg": float("nan")}, "cfg=nan must be from 0 to 100"),
        ({"size": (30, 32)}, "width=30 must be a multiple of 8"),
        ({"regions": (("x", (0.5, 0.0, 0.2, 1.0)),)}, "the box of 'x'"),
        ({"kind": "magic"}, "kind='magic'"),
        ({"prompt": "<lora:a:b>"}, "no LoRA tag"),
    ],
)
def test_a_recipe_that_cannot_be_made_is_said(changes, words):
    with pytest.raises(ValueError, match=words):
        Recipe("x").change(**changes)


def test_json_gives_the_recipe_back():
    assert from_json(json.loads(json.dumps(to_json(FULL)))) == FULL
