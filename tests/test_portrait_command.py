"""`avatar portrait` as a user calls it, with a tiny model of random weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny_diffusion
import torch
from PIL import Image
from safetensors.torch import save
from typer.testing import CliRunner

from avatar import portrait
from avatar.cli import app, main
from avatar.cli_portrait import parse_margins, parse_region, parse_size
from diffusion.metadata import read_record
from diffusion.recipe import Recipe


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_diffusion.model_folder(tmp_path_factory, "sd1"))


def run(*words):
    result = CliRunner().invoke(app, ["portrait", *map(str, words)], catch_exceptions=False)
    return result.exit_code, result.stdout


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


def test_a_picture_replays_byte_for_byte_and_is_marked(model, tmp_path):
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    words = "a (smiling:1.2) woman 😀 مرحبا"
    code, printed = run(words, "--model", model, "--out", first, "--steps", 2,
                        "--size", "128x96", "--seed", 7, "--negative", "hat")  # fmt: skip
    assert code == 0
    assert printed.split() == [str(first), str(tmp_path / "a.json")]
    assert pixels(first).shape == (96, 128, 3)
    assert run("--from", first, "--out", again)[0] == 0
    np.testing.assert_array_equal(pixels(first), pixels(again))
    assert read_record(first) == read_record(again)
    other = tmp_path / "c.png"
    run("--from", first, "--out", other, "--seed", 8)
    assert (pixels(other) != pixels(first)).any()
    code, printed = run("--check", first)
    assert code == 0
    assert "metadata: say that it is generated" in printed
    Image.fromarray(pixels(first)[::-1] // 2).save(tmp_path / "plain.png")
    code, printed = run("--check", tmp_path / "plain.png")
    assert code == 1
    assert "invisible mark: not found" in printed


def test_several_pictures_are_a_folder_with_a_sheet_and_a_report(model, tmp_path):
    run("a man", "--model", model, "--out", tmp_path / "d", "--steps", 1, "--batch", 3)
    names = sorted(path.name for path in (tmp_path / "d").iterdir())
    assert names == [*(f"portrait-{k}.png" for k in range(3)), "report.json", "sheet.png"]
    report = json.loads((tmp_path / "d" / "report.json").read_text())
    assert [one["seed"] for one in report["pictures"]] == [0, 1, 2]
    assert report["recipe"]["prompt"] == "a man"
    assert report["recipe"]["size"] == [32, 32]
    assert len(report["recipe"]["model_hash"]) == 64
    assert report["model"]["safety"] == "none"
    run("--from", tmp_path / "d" / "portrait-1.png", "--out", tmp_path / "one.png")
    chosen = tmp_path / "one-1.png"
    np.testing.assert_array_equal(pixels(chosen), pixels(tmp_path / "d" / "portrait-1.png"))


def test_a_picture_drawn_over_another_names_it(model, tmp_path):
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    Image.effect_noise((40, 32), 50).convert("RGB").save(photo)
    Image.new("L", (40, 32), 255).save(mask)
    common = ("a man", "--model", model, "--steps", 2, "--image", photo)
    for name, more, kind, size in [
        ("over.png", (), "img2img", (40, 32)),
        ("in.png", ("--mask", mask, "--strength", 1), "inpaint", (40, 32)),
        ("out.png", ("--extend", "8,0,0,4", "--strength", 1), "outpaint", (48, 36)),
        ("large.png", ("--hires", 2), "upscale", (80, 64)),
    ]:
        assert run(*common, "--out", tmp_path / name, *more)[0] == 0
        record = read_record(tmp_path / name)
        assert record.recipe.kind == kind
        assert len(record.recipe.image_sha256) == 64
        assert pixels(tmp_path / name).shape == (size[1], size[0], 3)
    with pytest.raises(ValueError, match="was made over another one; name it with --image"):
        run("--from", tmp_path / "over.png", "--out", tmp_path / "x.png")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a man"], "no portrait model is installed; fetch one"),
        ([], "no prompt was given"),
        (["  ", "--model", "MODEL"], "the prompt is empty"),
        (["x" * 20_001, "--model", "MODEL"], "20001 characters"),
        (["a", "--model", "/nowhere/at-all"], "/nowhere/at-all"),
        (["a", "--model", "MODEL", "--out", "a.gif"], "must end in .png or .jpg"),
        (["a", "--model", "MODEL", "--size", "big"], "write WIDTHxHEIGHT"),
        (["a", "--model", "MODEL", "--sampler", "DPM fast"], "the nearest is"),
        (["a", "--mask", "m.png"], "--mask needs the picture it belongs to"),
        (["a <lora:no:1>", "--model", "MODEL"], "no"),
        (["--from", "absent.png"], "absent.png is not there"),
    ],
)
def test_every_mistake_is_one_sentence(words, said, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(portrait, "is_installed", lambda: False)
    given = [model if word == "MODEL" else word for word in words]
    monkeypatch.setattr("sys.argv", ["avatar", "portrait", *given])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert stopped.value.code == 2
    assert error.startswith("avatar: ")
    assert said in error


MISCHIEF = {  # the file, and the words that are said of it
    "cut.safetensors": "damaged",
    "code.ckpt": "asks to run code|not on the list|refused|names",
    "empty.safetensors": "is empty",
    "text.ckpt": "",
    "lora.safetensors": "is a LoRA",
}


@pytest.mark.parametrize("name", MISCHIEF)
def test_broken_and_harmful_models_are_one_sentence_and_leave_nothing(
    name, model, tmp_path, monkeypatch, capsys
):
    path, ran, out = tmp_path / name, tmp_path / "it-ran", tmp_path / "out"
    whole = (Path(model) / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    code = b"cposix\nsystem\n(V" + f"touch {ran}".encode() + b"\ntR."
    lora = {"lora_unet_down_blocks_1.lora_up.weight": torch.zeros(2, 2)}
    path.write_bytes(
        {
            "cut.safetensors": whole[:-50],
            "code.ckpt": code,
            "empty.safetensors": b"",
            "text.ckpt": b"<html>not found</html>",
            "lora.safetensors": save(lora),
        }[name]
    )
    asked = ["a", "--model", str(path), "--out", str(out / "a.png")]
    monkeypatch.setattr("sys.argv", ["avatar", "portrait", *asked])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert stopped.value.code == 2 and error.startswith("avatar: ") and name in error
    assert re.search(MISCHIEF[name], error) and len(error) < 600
    assert not ran.exists() and not out.exists()


@pytest.mark.parametrize("prompt", ["word, " * 1666, "😀🧑‍🦰", "امرأة مبتسمة", "\u202eabc\x07"])
def test_odd_prompts_are_drawn_and_come_back_from_the_file(prompt, model, tmp_path):
    out = tmp_path / "a.png"
    assert run(prompt, "--model", model, "--steps", 1, "--out", out)[0] == 0
    assert read_record(out).recipe.prompt == prompt


def test_full_memory_halves_the_batch_once_and_is_then_said(model, tmp_path, monkeypatch):
    from diffusion import from_prompt

    plain, calls, most = from_prompt.draw, [], 2

    def drawing(pipeline, recipe, *rest, **more):
        calls.append((recipe.seed, recipe.batch))
        if recipe.batch > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        return plain(pipeline, recipe, *rest, **more)

    monkeypatch.setattr(from_prompt, "draw", drawing)
    common = ("a man", "--model", model, "--steps", 1)
    run(*common, "--batch", 4, "--seed", 5, "--out", tmp_path / "four")
    assert calls == [(5, 4), (5, 2), (7, 2)]
    assert read_record(tmp_path / "four" / "portrait-3.png").recipe.batch == 4
    run(*common, "--seed", 8, "--out", tmp_path / "one.png")
    last = pixels(tmp_path / "four" / "portrait-3.png").astype(int)
    assert abs(last - pixels(tmp_path / "one.png")).max() <= 1
    most = 0
    with pytest.raises(ValueError, match=r"memory ran out at 1 pictures at once; ask for") as told:
        run(*common, "--out", tmp_path / "none" / "a.png")
    assert "\n" not in str(told.value) and not (tmp_path / "none").exists()


def test_a_replay_of_another_programs_picture_says_what_it_is(tmp_path):
    from avatar.progress import Progress
    from diffusion.metadata import read_parameters

    progress = Progress()
    record = read_parameters("x\nSteps: 9, Sampler: Heun, Seed: 3, CFG scale: 5, Hypernet: h")
    recipe, _ = portrait.replayed(record, {"steps": 4}, progress=progress)
    assert recipe == Recipe("x", steps=4, sampler="Heun", seed=3, cfg=5.0)
    assert "expect a relative of it" in progress.warnings[0]


def test_sizes_margins_and_regions_are_read():
    assert parse_size("512x768") == (512, 768)
    assert parse_margins("1, 2,3,4") == (1, 2, 3, 4)
    assert parse_region("0,0,0.5,1: a red wall: bricks") == (
        "a red wall: bricks",
        (0.0, 0.0, 0.5, 1.0),
    )
    for parse, text in ((parse_margins, "1,2,3"), (parse_region, "wall")):
        with pytest.raises(ValueError, match="write"):
            parse(text)
