"""The network that chooses among drawings: what it counts, learns, and how a choice is told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from tiny_portrait import COLOURS, train_tiny, trained, write_colours
from torch.nn import functional as F
from typer.testing import CliRunner

from assets.errors import AssetError
from assets.image import read_image
from assets.weights import write_tensors
from avatar.cli import app
from avatar.portrait_choice import face_clearness
from diffusion import load_pipeline, train_reader
from diffusion.caption_reader import (
    CaptionReader,
    PromptReader,
    ReaderConfig,
    load_reader,
    said_items,
    save_reader,
)
from diffusion.recipe import Recipe
from diffusion.shipped_portrait import (
    TRIES,
    best_of,
    has_reader,
    is_installed,
    tries_of,
    usual_tries,
)

SMALL = ReaderConfig(6, ((1, 2), (3, 4)), side=16, widths=(8, 8, 8, 8), hidden=12)
shipped_reader = pytest.mark.skipif(
    not (is_installed() and has_reader()), reason="no portrait model with a reader is shipped yet"
)


def test_tokens_and_known_pairs_are_counted_once_and_others_not():
    found = said_items([[1, 2, 5], [2, 1, 3, 4, 3]], SMALL)
    assert found.tolist() == [[0, 1, 1, 0, 0, 1, 1, 0], [0, 1, 1, 1, 1, 0, 0, 1]]


def test_scores_are_log_likelihoods_of_what_is_asked_and_of_no_drawing(generator):
    net = CaptionReader(SMALL).eval()
    pictures = torch.rand(3, 3, 16, 16, generator=generator)
    with torch.no_grad():
        said, real = net(pictures)
    asked = [1, 2, 3, 6]  # tokens 1, 2, 3 and the pair (1, 2), item 6
    wanted = 0.5 * said[:, asked].sigmoid().log().sum(1) + real.sigmoid().log()
    torch.testing.assert_close(net.scores(pictures, [1, 2, 3]), wanted, atol=1e-5, rtol=0)
    # pictures of another size are brought to its own
    large = pictures.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(net.scores(large, [1, 2, 3]), wanted, atol=1e-4, rtol=0)


def test_a_saved_reader_comes_back_and_other_files_are_refused(tmp_path, generator):
    net = CaptionReader(SMALL).eval()
    save_reader(net, tmp_path / "reader.safetensors")
    loaded = load_reader(tmp_path / "reader.safetensors")
    assert loaded.config == SMALL and not loaded.training
    pictures = torch.rand(2, 3, 16, 16, generator=generator)
    torch.testing.assert_close(
        loaded.scores(pictures, [1, 5]), net.scores(pictures, [1, 5]), atol=0.02, rtol=0
    )
    write_tensors({"a": torch.zeros(1)}, tmp_path / "other.safetensors", {"format": "else"})
    with pytest.raises(AssetError, match="is no caption reader of this version"):
        load_reader(tmp_path / "other.safetensors")


def test_sides_that_halving_does_not_divide_are_refused():
    with pytest.raises(ValueError, match="must be a multiple of 16"):
        ReaderConfig(6, (), side=20, widths=(8, 8, 8, 8))


def test_a_trained_reader_finds_the_picture_that_a_word_is_of(tmp_path, monkeypatch):
    # a tiny autoencoder gives back grey
    monkeypatch.setattr(train_reader, "_copied", lambda pixels, vae, path: pixels)
    (tmp_path / "pictures").mkdir()
    pictures = write_colours(tmp_path / "pictures")
    model = train_tiny(pictures, tmp_path / "runs")
    file = trained(
        train_reader, pictures, tmp_path / "reader", "--model", str(model), "--size", "16",
        "--drawn", "8", "--steps", "80", "--batch", "12", "--rate", "5e-3",
        widths=(16, 32, 32),
    )  # fmt: skip
    reader = PromptReader(load_reader(file), load_pipeline(model).tokenizer)
    shown = torch.cat([read_image(pictures / f"{name}.png", min_side=32) for name in COLOURS])
    for number, name in enumerate(COLOURS):
        assert best_of(reader.scores(shown, name)) == number
    rows = (tmp_path / "reader" / "loss.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("step,seconds,loss,words,drawn")


def test_no_two_seeds_share_a_try():
    seeds = [one.seed for seed in (0, 1, 7) for one in tries_of(Recipe("a", seed=seed), 4)]
    assert seeds == [0, 1, 2, 3, 4, 5, 6, 7, 28, 29, 30, 31]


def test_only_a_plain_prompt_for_the_shipped_model_is_tried_several_times():
    assert usual_tries("sd15", plain=True) == 1
    assert usual_tries(None, plain=False) == 1
    assert usual_tries(None, plain=True) == (TRIES if is_installed() and has_reader() else 1)


@shipped_reader
def test_the_best_of_several_is_written_and_drawn_again_alone(tmp_path):
    out, again = tmp_path / "a.png", tmp_path / "b.png"
    words = ["portrait", "a smiling woman with black hair", "--steps", "4", "--seed", "3"]
    run = CliRunner().invoke(app, [*words, "--tries", "3", "--out", str(out)])
    assert run.exit_code == 0, run.output
    report = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    chosen = report["model"]["chosen"]
    assert list(chosen["fits"]) == ["9", "10", "11"] and chosen["asked seed"] == 3
    best = max(chosen["fits"], key=lambda seed: chosen["fits"][seed] + chosen["clearness"][seed])
    assert report["recipe"]["seed"] == int(best) and report["recipe"]["batch"] == 1
    replay = CliRunner().invoke(app, ["portrait", "--from", str(out), "--out", str(again)])
    assert replay.exit_code == 0, replay.output
    with Image.open(out) as one, Image.open(again) as other:
        assert np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.skipif(not is_installed(), reason="no portrait model is shipped yet")
@pytest.mark.parametrize(
    "more, said",
    [
        (["--tries", "2", "--batch", "2"], "one picture of a prompt"),
        (["--tries", "0"], "must be from 1 to 64"),
    ],
)
def test_tries_that_make_no_sense_are_refused(tmp_path, more, said):
    words = ["portrait", "a man", "--steps", "1", "--out", str(tmp_path / "a.png"), *more]
    run = CliRunner().invoke(app, words)
    assert run.exit_code != 0
    if has_reader() or "0" in more:
        assert said in str(run.exception)
    assert not list(tmp_path.iterdir())


def test_a_sharp_face_is_clearer_than_a_blurred_one_and_that_than_none():
    sharp = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255
    blurred = F.interpolate(F.avg_pool2d(sharp, 4), size=512, mode="bilinear")
    clear = face_clearness(torch.cat([sharp, blurred, torch.full_like(sharp, 0.5)]))
    assert clear[0] > clear[1] > clear[2]
