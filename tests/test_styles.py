"""Styles by what must hold of any of them, and by what each is known for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_people import plain_wardrobe

from deca.prompt_wish import STYLES
from deca.prompt_words import read_prompt
from deca.synth import Studio
from deca.synth_styles import blur, kuwahara, line_art, luma, smooth, stylize
from deca.synth_words import STYLE_WORDS
from deca.synth_write import in_style, photograph
from flame.load import load_head

SIDE = 96
DRAWN = [style for style in STYLES if style != "realistic"]


@pytest.fixture(scope="module")
def scene() -> torch.Tensor:
    """A bright disc with a soft light over it, on a dark ground."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    disc = ((x**2 + y**2) < 0.4).float()
    light = 0.75 + 0.2 * x
    colours = torch.tensor([0.9, 0.6, 0.45])[:, None, None]
    return (disc * light * colours + (1 - disc) * 0.12)[None]


@pytest.mark.parametrize("style", DRAWN)
def test_values_stay_in_range_and_one_picture_gives_one_result(style, scene):
    noise = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    for image in (scene, noise, torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)):
        before = image.clone()
        drawn = stylize(image, style)
        assert drawn.shape == image.shape and torch.isfinite(drawn).all()
        assert float(drawn.min()) >= 0 and float(drawn.max()) <= 1
        assert torch.equal(image, before)
        assert torch.equal(drawn, stylize(image, style))


@pytest.mark.parametrize("style", DRAWN)
def test_pictures_of_a_batch_are_drawn_alone(style, scene):
    other = scene.flip(-1) * 0.7
    both = stylize(torch.cat([scene, other]), style)
    torch.testing.assert_close(both[1:], stylize(other, style), atol=1e-3, rtol=0)


@pytest.mark.parametrize("style", DRAWN)
@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_a_flat_picture_stays_flat_but_for_paper_and_grain(style, level):
    drawn = luma(stylize(torch.full((1, 3, SIDE, SIDE), level), style))
    # broad differences are what a flat picture must not get; neon's tubes change along a line
    broad = blur(drawn, 10.0)[..., 12:-12, 12:-12]
    assert float(broad.max() - broad.min()) < 0.07


@pytest.mark.parametrize("style", ["anime", "oil", "watercolour"])
def test_edges_are_kept_where_a_blur_would_lose_them(style, scene):
    drawn, blurred = luma(stylize(scene, style)), luma(blur(scene, 3.0))

    def steepest(image: torch.Tensor) -> float:
        return float((image[..., 1:] - image[..., :-1]).abs()[..., SIDE // 2, :].max())

    assert steepest(drawn) > 1.5 * steepest(blurred)


def test_cel_shading_has_few_tones(scene):
    ramp = torch.linspace(0, 1, 256).expand(1, 3, 256, 256)
    tones = luma(stylize(ramp, "anime"))[0, 0, 128]
    counts = torch.histc(tones, 64, 0, 1)
    # five tones and what lies on their borders
    assert float(counts.sort(descending=True).values[:6].sum()) > 0.85 * len(tones)


def test_pencil_is_grey_on_pale_paper_and_darker_where_the_picture_is(scene):
    drawn = stylize(scene, "pencil")
    assert float((drawn.amax(1) - drawn.amin(1)).max()) < 0.06
    assert float(stylize(torch.ones(1, 3, SIDE, SIDE), "pencil").mean()) > 0.9
    tones = [float(stylize(torch.full((1, 3, SIDE, SIDE), level), "pencil").mean())
             for level in (0.1, 0.4, 0.9)]  # fmt: skip
    assert tones == sorted(tones)


def test_clay_has_one_hue(scene):
    colours = scene.clone()
    colours[:, 2] = 1 - colours[:, 2]
    drawn = stylize(colours, "clay")
    assert bool((drawn[:, 0] >= drawn[:, 1]).all() and (drawn[:, 1] >= drawn[:, 2]).all())


def test_neon_glows_at_edges_on_a_dark_ground(scene):
    large = torch.nn.functional.interpolate(scene, (384, 384), mode="bilinear")
    drawn = luma(stylize(large, "neon"))[0, 0]
    middle = drawn[192]
    edge = int((torch.linspace(-1, 1, 384).abs() - 0.4**0.5).abs().argmin())
    assert float(middle[edge - 8 : edge + 9].max()) > 2.0 * float(drawn[4, 4])
    assert float(drawn[4, 4]) < 0.25


def test_smoothing_keeps_a_constant_and_halves_noise():
    flat = torch.full((1, 3, 40, 40), 0.37, dtype=torch.float64)
    for made in (smooth(flat, sigma=2, tolerance=0.1), kuwahara(flat, 3), blur(flat, 2)):
        torch.testing.assert_close(made, flat, atol=1e-6, rtol=0)
    assert float(line_art(flat, 1.0).max()) == 0
    noisy = flat + 0.05 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(1))
    assert float(smooth(noisy, sigma=2, tolerance=0.1).std()) < 0.5 * float(noisy.std())


def test_a_gaussian_blur_spreads_a_point_by_its_deviation():
    point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    point[..., 20, 20] = 1
    spread = blur(point, 2.0)[0, 0].sum(0)
    away = torch.arange(41, dtype=torch.float64) - 20
    assert float(spread.sum()) == pytest.approx(1, abs=1e-9)
    assert float((spread * away**2).sum()) == pytest.approx(4.0, rel=0.03)


def test_styles_are_told_in_captions_and_read_back():
    assert set(STYLE_WORDS) == set(DRAWN)
    for style, words in STYLE_WORDS.items():
        reading = read_prompt(f"a smiling person, {words}")
        assert reading.wish.style == style and reading.unknown == ()
    with pytest.raises(ValueError, match="style 'fresco' is not known; choose one of realistic"):
        stylize(torch.zeros(1, 3, 8, 8), "fresco")


def test_training_pictures_can_be_drawn_in_a_style():
    shot = Studio(load_head(), plain_wardrobe(), 64).shoot(
        1, generator=torch.Generator().manual_seed(0)
    )[0]
    photo = photograph(shot, np.random.default_rng(0))
    drawn = in_style(photo, "pencil")
    assert drawn.attributes["style"] == "pencil" and drawn.rgb.shape == photo.rgb.shape
    spread = drawn.rgb.max(-1).astype(int) - drawn.rgb.min(-1)
    assert spread.max() < 16 < (photo.rgb.max(-1).astype(int) - photo.rgb.min(-1)).max()
