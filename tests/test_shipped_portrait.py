"""The portrait model that comes with the package, as a user without any other model has it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sphere_head import make_materials, make_sphere_head
from typer.testing import CliRunner

from assets.errors import AssetError
from assets.image import read_image, write_image
from assets.store import PACKAGE, shipped_model
from avatar.cli import app
from avatar.portrait import make_portraits
from avatar.portrait_draw import PortraitInputs
from avatar.portrait_like import HeadGuide
from diffusion import load_pipeline, txt2img
from diffusion.recipe import Recipe
from diffusion.shipped_portrait import (
    CFG,
    CONTROL,
    FOLDER,
    NAME,
    READER,
    REFINER,
    SAMPLER,
    SIDE,
    SKETCHED,
    STEPS,
    STRENGTH,
    enlarged,
    fitted,
    has_control,
    is_installed,
    is_shipped,
    place_of,
    usual,
)

PLACE = PACKAGE / FOLDER
installed = pytest.mark.skipif(not is_installed(), reason="no portrait model is shipped yet")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """What is this small takes longer on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@installed
def test_it_is_a_stable_diffusion_folder_in_small_shards():
    settings = json.loads((PLACE / "model_index.json").read_text(encoding="utf-8"))
    assert settings["_class_name"] == "StableDiffusionPipeline"
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        assert (PLACE / part).is_dir(), part
    sizes = [path.stat().st_size for path in PLACE.rglob("*") if path.is_file()]
    assert max(sizes) < 16_000_000 and sum(sizes) < 80_000_000
    for name in (FOLDER, READER, REFINER):
        assert shipped_model(name).fault() is None
    told = [path.read_text(encoding="utf-8") for path in PLACE.rglob("*config.json")]
    assert len(told) >= 4 and not any("_name_or_path" in text for text in told)
    pipeline = load_pipeline(PLACE)
    assert pipeline.vae_scale_factor == 8
    assert pipeline.unet.config.sample_size * 8 == SIDE


@installed
def test_a_prompt_without_a_model_is_drawn_by_it_and_the_report_says_how(tmp_path):
    out = tmp_path / "a.png"
    words = ["portrait", "a smiling woman with black hair", "--out", str(out), "--steps", "4"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    with Image.open(out) as image:
        assert image.size == (SKETCHED * SIDE, SKETCHED * SIDE)
        assert np.asarray(image).std() > 10
    report = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert report["recipe"]["model"] == FOLDER and report["recipe"]["size"] == [SIDE, SIDE]
    assert report["recipe"]["cfg"] == CFG and report["recipe"]["steps"] == 4
    assert "128 pixels" in report["model"]["enlarged"]


@installed
def test_frames_between_prompts_are_as_large_as_its_pictures(tmp_path):
    words = ["portrait", "a smiling woman", "--toward", "an old man", "--frames", "2"]
    words += ["--steps", "4", "--out", str(tmp_path / "way")]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    with Image.open(tmp_path / "way" / "frame-001.png") as image:
        assert image.size == (2 * SIDE, 2 * SIDE)
    report = json.loads((tmp_path / "way" / "report.json").read_text(encoding="utf-8"))
    assert "128 pixels" in report["enlarged"]


@installed
def test_an_avatars_portrait_is_drawn_by_it_and_its_record_says_so():
    from avatar.source import source_of

    source = source_of(None, "a smiling woman with black hair", model="shipped", seed=3)
    assert source.shown.shape[-2:] == (SKETCHED * SIDE, SKETCHED * SIDE)
    assert float(source.shown.std()) > 0.05
    named = [(use.name, use.licence, len(use.sha256)) for use in source.models]
    assert named == [
        ("portrait: the shipped model portrait", "MIT", 64),
        ("portrait: the shipped model portrait-control", "MIT", 64),
        ("portrait: the shipped model portrait-reader", "MIT", 64),
        ("portrait: the shipped model portrait-refiner", "MIT", 64),
    ]


def test_the_shipped_model_is_asked_for_by_name(monkeypatch):
    assert place_of("sd15") == "sd15"
    monkeypatch.setattr("diffusion.shipped_portrait.is_installed", lambda: True)
    assert is_shipped(place_of("shipped"))
    monkeypatch.setattr("diffusion.shipped_portrait.is_installed", lambda: False)
    with pytest.raises(AssetError, match="is not there; install the package again"):
        place_of("shipped")


@installed
def test_a_photo_is_drawn_over_in_the_models_size(tmp_path):
    photo = torch.zeros(1, 3, 150, 200)
    photo[:, 0, :, 100:] = 1
    write_image(tmp_path / "photo.png", photo)
    words = ["portrait", "oil painting of a man", "--image", str(tmp_path / "photo.png")]
    words += ["--strength", "0.1", "--steps", "10", "--out", str(tmp_path / "b.png")]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    with Image.open(tmp_path / "b.png") as image:
        made = np.asarray(image).astype(float)
    assert made.shape == (2 * SIDE, 2 * SIDE, 3)
    # little is changed: the right half is still the red one
    assert made[:, 140:, 0].mean() > made[:, :116, 0].mean() + 60


def test_settings_that_suit_it_are_for_it_alone(monkeypatch):
    monkeypatch.setattr("diffusion.shipped_portrait.is_installed", lambda: True)
    assert usual(None) == {
        "sampler": SAMPLER, "steps": STEPS, "cfg": CFG, "strength": STRENGTH,
    }  # fmt: skip
    assert usual("shipped") == usual(None) and usual("another") == {}
    monkeypatch.setattr("diffusion.shipped_portrait.is_installed", lambda: False)
    assert usual(None) == {}
    assert is_shipped(PLACE) and is_shipped(str(PLACE)) and not is_shipped("portrait")
    assert fitted(Recipe("x")).size == (SIDE, SIDE)
    assert fitted(Recipe("x", size=(256, 192))).size == (256, 192)


@installed
def test_a_drawing_is_drawn_anew_twice_as_large_and_keeps_what_is_seen():
    recipe = fitted(Recipe("a woman with red hair, plain blue background", steps=8, seed=4))
    draft = txt2img(load_pipeline(PLACE), recipe)
    larger = enlarged(draft, recipe)
    assert larger.shape == (1, 3, 2 * SIDE, 2 * SIDE)
    assert torch.equal(larger, enlarged(draft, recipe))
    back = torch.nn.functional.avg_pool2d(larger, 16)
    assert float((back - torch.nn.functional.avg_pool2d(draft, 8)).abs().mean()) < 0.05


@installed
def test_over_a_sketch_it_is_four_times_as_large_and_as_fine_as_that():
    recipe = fitted(Recipe("a woman with red hair, plain blue background", seed=4))
    draft = torch.full((1, 3, SIDE, SIDE), 0.5)
    across = torch.linspace(0, 1, SKETCHED * SIDE + 1)[1:]
    lines = 0.1 * torch.sin(2 * torch.pi * 128 * across)  # four pixels each
    sketch = (0.2 + 0.6 * across + lines).expand(1, 3, SKETCHED * SIDE, -1)
    plain, made = enlarged(draft, recipe), enlarged(draft, recipe, sketch)
    assert plain.shape == (1, 3, 2 * SIDE, 2 * SIDE) and made.shape == sketch.shape
    waves = torch.fft.rfft(made.mean(1)).abs()[0, 20:-20, 128].mean() / (2 * SIDE)
    assert 0.08 < float(waves) < 0.12
    # what is broad in the sketch stays with the draft
    broad = torch.nn.functional.avg_pool2d(made, 64)[0].mean(0).mean(0)
    assert float(broad[6] - broad[1]) < 0.1


class Blind:
    """Stands in for the encoder."""

    def read(self, picture):
        raise ValueError("no face was found")


@installed
@pytest.mark.skipif(not has_control(), reason="no ControlNet is shipped yet")
def test_a_head_is_drawn_close_and_held_by_its_own_controlnet(tmp_path):
    assert shipped_model(CONTROL).fault() is None
    head = make_sphere_head(n_around=24, n_rings=14)
    points = torch.zeros(68, 3)
    points[36:48, 1], points[8, 1] = 0.3, -0.5
    guide = HeadGuide(head, tuple(make_materials()), head.verts[None], points, reader=Blind())
    out = tmp_path / "a.png"
    inputs = PortraitInputs(model=NAME, guide=guide)
    paths = make_portraits(Recipe("a man", steps=4, seed=1), out, inputs)
    assert [path.name for path in paths] == ["a.png", "a-render.png", "a-face.png", "a.json"]
    for path in paths[:3]:
        assert read_image(path).shape[-2:] == (SKETCHED * SIDE, SKETCHED * SIDE)
    told = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert told["like"]["controlnets"] == ["face:1=shipped"]
    assert {"kind": "controlnet", "name": "shipped"}.items() <= told["recipe"]["extras"][1].items()
    assert told["like"]["checks"][0]["reason"] == "no face was found"
