"""`avatar portrait` with all that goes in beside a model, and what a picture says of it after."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_diffusion as tiny
import tiny_layouts as layouts
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from assets.errors import AssetError
from avatar.cli import app
from avatar.portrait_extras import Steering, check_extras, parse_steering
from diffusion import Recipe, load_pipeline, txt2img
from diffusion.metadata import read_record
from diffusion.recipe import Extra


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lambda kind: str(tiny.model_folder(tmp_path_factory, kind))


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return paths


def run(*words):
    result = CliRunner().invoke(app, ["portrait", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout.split(), result.stderr


def pixels(path):
    with Image.open(path) as image:
        return np.array(image).astype(int)


def kinds(path):
    return [(one.kind, one.weight) for one in read_record(path).recipe.extras]


def test_several_controlnets_steer_by_pictures_and_are_wanted_again(model, photos, tmp_path):
    net, out, again = model("controlnet"), tmp_path / "c.png", tmp_path / "again.png"
    nets = ("--controlnet", f"{photos[0]}:0.5={net}", "--controlnet", f"{photos[1]}={net}")
    run("a cat", "--model", model("sd1"), "--steps", 2, *nets, "--out", out)
    assert kinds(out) == [
        ("controlnet", 0.5), ("condition", 1.0), ("controlnet", 1.0), ("condition", 1.0),
    ]  # fmt: skip
    run("--from", out, *nets, "--out", again)
    assert np.array_equal(pixels(out), pixels(again))
    run("a cat", "--model", model("sd1"), "--steps", 2, "--out", tmp_path / "plain.png")
    assert abs(pixels(out) - pixels(tmp_path / "plain.png")).max() > 2
    with pytest.raises(ValueError, match=r"with the controlnet .*name it with --controlnet"):
        run("--from", out, *nets[:2], "--out", again)


def test_t2i_adapters_a_word_and_an_ip_adapter_go_in_by_options(model, photos, tmp_path):
    out = tmp_path / "t.png"
    run("a cat", "--model", model("sd1-cross-first"), "--steps", 2,
        "--t2i-adapter", f"{photos[0]}={model('t2i')}", "--out", out)  # fmt: skip
    assert [kind for kind, _ in kinds(out)] == ["t2i-adapter", "condition"]

    pipeline = load_pipeline(model("sd1"))
    row = pipeline.tokenizer("q").input_ids[1]
    vector = pipeline.text_encoder.get_input_embeddings().weight[row].detach().clone()
    save_file({"emb_params": vector[None]}, tmp_path / "zebra.safetensors")
    common = ("--model", model("sd1"), "--steps", 2)
    run("a zebra", *common, "--embedding", "zebra", "--lora-dir", tmp_path, "--out", out)
    run("a q", *common, "--out", tmp_path / "q.png")
    assert np.array_equal(pixels(out), pixels(tmp_path / "q.png"))
    _, told = run("a q", *common, "--embedding", tmp_path / "zebra.safetensors", "--out", out)
    assert "'zebra'" in told and "is in no prompt" in told

    encoder = tiny.build("image-encoder", tmp_path)
    encoder.save_pretrained(tmp_path / "image_encoder")
    adapter = tmp_path / "ip.safetensors"
    save_file(layouts.ip_adapter(pipeline, encoder.config.projection_dim), adapter)
    shown = ("--ip-adapter", adapter, "--ip-encoder", tmp_path / "image_encoder", "--ip-image")
    made = {}
    for name, photo, scale in (("one", photos[0], 1), ("two", photos[1], 1), ("off", photos[0], 0)):
        run("a q", *common, *shown, photo, "--ip-scale", scale, "--out", tmp_path / f"{name}.png")
        made[name] = pixels(tmp_path / f"{name}.png")
    assert abs(made["off"] - pixels(tmp_path / "q.png")).max() <= 1
    assert abs(made["one"] - made["two"]).max() > 2
    assert kinds(tmp_path / "one.png") == [("ip-adapter", 1.0), ("ip-image", 1.0)]


def test_a_way_between_prompts_is_frames_that_are_made_again_and_a_video(model, tmp_path):
    out = tmp_path / "way"
    words = ("a cat", "--model", model("sd1"), "--steps", 2, "--toward", "a dog", "--frames", 3)
    printed, _ = run(*words, "--toward-seed", 4, "--out", out)
    names = sorted(path.name for path in out.iterdir())
    frames = [f"frame-{number:03d}.png" for number in range(3)]
    assert names == [*frames, "report.json", "way.mp4"] and len(printed) == 5
    run("--from", out / frames[1], "--out", tmp_path / "again.png")
    assert np.array_equal(pixels(out / frames[1]), pixels(tmp_path / "again.png"))
    ends = [Recipe("a cat", steps=2), Recipe("a dog", steps=2, seed=4)]
    for name, end in zip((frames[0], frames[2]), ends, strict=True):
        expected = txt2img(load_pipeline(model("sd1")), end)
        texels = (expected[0] * 255).round().permute(1, 2, 0).numpy()
        assert np.array_equal(pixels(out / name), texels)  # too small for the invisible mark


def test_two_pictures_become_one_and_margins_and_variations_replay(model, photos, tmp_path):
    common = ("a cat", "--model", model("sd1"), "--steps", 2, "--image", photos[0])
    for name, words, needed in [
        ("fused", ("--fuse", photos[1], "--share", 0.3), ("--fuse", photos[1])),
        ("grown", ("--extend", "8,0,0,4", "--strength", 1), ()),
        ("varied", ("--variation", 0.4, "--variation-seed", 7), ()),
    ]:
        out, again = tmp_path / f"{name}.png", tmp_path / f"{name}-again.png"
        run(*(common if name != "varied" else common[:-2]), *words, "--out", out)
        given = () if name == "varied" else ("--image", photos[0])
        run("--from", out, *given, *needed, "--out", again)
        assert np.array_equal(pixels(out), pixels(again)), name
    assert kinds(tmp_path / "fused.png") == [("fuse", 0.3)]


@pytest.mark.parametrize("kind", ["sd1", "flux", "deepfloyd"])
def test_a_preview_is_there_when_the_picture_is(kind, model, tmp_path):
    shown = tmp_path / "so-far.png"
    run("a cat", "--model", model(kind), "--steps", 2, "--preview", shown, "--out",
        tmp_path / "a.png", "--size", "32x16" if kind == "flux" else "16x16")  # fmt: skip
    assert pixels(shown).shape[:2] in {(8, 8), (16, 16), (8, 16)}
    assert read_record(shown).recipe.prompt == "a cat"  # no picture leaves without its mark


def test_a_second_model_goes_on_where_the_first_ends(model, tmp_path):
    for first, second, side in (("sdxl", "refiner", 32), ("deepfloyd", "deepfloyd-second", 32)):
        out = tmp_path / f"{first}.png"
        run("a cat", "--model", model(first), "--refiner", model(second), "--steps", 5,
            "--out", out)  # fmt: skip
        assert pixels(out).shape == (side, side, 3)
        assert [kind for kind, _ in kinds(out)] == ["refiner"]


def test_what_steers_is_read_with_its_weight():
    assert parse_steering("a.png:0.5=x/y", "--c") == Steering(tiny.Path("a.png"), "x/y", 0.5)
    assert parse_steering("C:/a.png=D:/n", "--c") == Steering(tiny.Path("C:/a.png"), "D:/n")
    for text, words in (("a.png", "is not PICTURE=PATH"), ("=x", "is not"), ("a:3=x", "from 0 to")):
        with pytest.raises(ValueError, match=words):
            parse_steering(text, "--c")


def test_other_files_than_the_first_ones_are_told(caplog):
    check_extras([Extra("restore", "a", "1")], [Extra("restore", "b", "2"), Extra("fuse", "c")])
    assert "b is not the restore that the first picture was made with" in caplog.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ip-adapter", "x"], "belong together"),
        (["--controlnet", "a.png"], "is not PICTURE=PATH"),
        (["--controlnet", "a.png=NET"], r"a\.png is not there"),
        (["--controlnet", "PHOTO=NET", "--t2i-adapter", "PHOTO=NET"], "cannot steer one picture"),
        (["--controlnet", "PHOTO=MODEL"], "cannot be opened|which is no ControlNet"),
        (["--t2i-adapter", "PHOTO=NET"], "cannot be opened|no T2I-Adapter"),
        (["--embedding", "nobody"], "nobody is not there"),
        (["--preview", "x.gif"], "must end in .png"),
        (["--refiner", "MODEL"], "takes over from no other model"),
        (["--toward", "b", "--frames", "1"], "count=1 must be at least 2"),
        (["--toward", "b", "--image", "PHOTO"], "leave --image"),
        (["--fuse", "PHOTO"], "name it with --image"),
        (["--fuse", "PHOTO", "--image", "PHOTO", "--share", "2"], "share"),
        (["--restore", "absent.pth"], r"absent\.pth is not there"),
        (["--variation", "2"], "variation=2.0 must be from 0 to 1"),
        (["--ip-adapter", "PHOTO", "--ip-image", "PHOTO"], "a picture, not a model"),
    ],
)
def test_every_mistake_is_one_sentence_and_nothing_is_written(words, said, model, photos, tmp_path):
    names = {"PHOTO": str(photos[0]), "NET": model("controlnet"), "MODEL": model("sd1")}
    for name, value in names.items():
        words = [word.replace(name, value) for word in words]
    out = tmp_path / "out"
    with pytest.raises((ValueError, AssetError), match=said) as caught:
        run("a cat", "--model", model("sd1"), "--steps", 1, *words, "--out", out / "a.png")
    assert "\n" not in str(caught.value)
    assert not out.exists() or not list(out.iterdir())
    assert torch.is_grad_enabled()
