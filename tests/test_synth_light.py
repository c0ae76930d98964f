"""Lamps with an area against points of light, and the words that pictures are described with."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deca.synth_degrade import sense
from deca.synth_light import Lamp, draw_lamp, matt_light, shadow_side, spread_key
from deca.synth_people import draw_camera, draw_lights
from deca.synth_words import caption, color_word, light_word, pose_word
from flame.light import directional, sh_basis
from flame.render import RenderConfig


def test_a_lamp_of_no_size_is_a_directional_light(generator):
    lights = draw_lights(generator=generator)
    same = spread_key(lights, Lamp())
    assert torch.equal(same.directions, lights.directions)
    assert torch.equal(same.colours, lights.colours)
    # and a nearly pointlike one lights every normal nearly the same, its shadow almost whole
    tiny = spread_key(lights, Lamp(1e-4, 1e-4))
    torch.testing.assert_close(matt_light(tiny), matt_light(lights), atol=1e-4, rtol=0)
    torch.testing.assert_close(tiny.colours[:, 0], lights.colours[:, 0], atol=1e-5, rtol=0)
    assert shadow_side(Lamp()) == 160


def test_a_lamp_spreads_the_key_light_and_keeps_its_power(generator):
    lights = draw_lights(generator=generator)
    lamp = Lamp(0.5, 0.2)
    wide = spread_key(lights, lamp)
    torch.testing.assert_close(wide.directions.norm(dim=-1), torch.ones(1, 6))
    torch.testing.assert_close(wide.colours.sum(1), lights.colours.sum(1))
    torch.testing.assert_close(wide.directions[:, -1], lights.directions[:, -1])
    # the four sides stand where trigonometry puts them
    cosine = (wide.directions[0, 1:5] @ lights.directions[0, 0]).tolist()
    angles = [math.cos(math.atan(t)) for t in (0.5, 0.5, 0.2, 0.2)]
    assert cosine == pytest.approx(angles, abs=1e-5)
    assert RenderConfig(shadow_side(lamp)).shadow_side < shadow_side(Lamp(0.1, 0.1))


def test_a_wide_lamp_comes_close_to_the_integral_over_its_area():
    lamp = Lamp(0.6, 0.6)
    one = directional(
        torch.tensor([[[0.0, 0, 1], [0, 1, 0]]]), torch.tensor([[[1.0] * 3, [0] * 3]])
    )
    wide = spread_key(one, lamp)
    t = torch.linspace(-1, 1, 101)
    x, y = torch.meshgrid(0.6 * t, 0.6 * t, indexing="ij")
    spots = torch.nn.functional.normalize(torch.stack([x, y, torch.ones_like(x)], -1), dim=-1)
    normals = torch.tensor([[0.0, 0, 1], [0.5, 0, 0.5], [1, 0, 0.2], [1, 0, 0], [1, 1, -0.2]])
    normals = torch.nn.functional.normalize(normals, dim=-1)
    exact = (spots.reshape(-1, 3) @ normals.T).clamp(min=0).mean(0)
    toward = (normals @ wide.directions[0].T).clamp(min=0)
    ours = toward @ wide.colours[0, :, 0]
    point = normals[:, 2].clamp(min=0)
    assert float((ours - exact).abs().max()) < 0.06
    assert float((ours - exact).abs().max()) < 0.6 * float((point - exact).abs().max())


def test_matt_light_is_what_a_matt_surface_receives():
    lights = directional(torch.tensor([[[0.3, 0.5, 1.0]]]), torch.ones(1, 1, 3))
    normals = torch.nn.functional.normalize(torch.randn(200, 3), dim=-1)
    fitted = sh_basis(normals) @ matt_light(lights)[0, :, 0]
    exact = (normals @ lights.directions[0, 0]).clamp(min=0)
    assert float((fitted - exact).abs().max()) < 0.1  # what nine bands leave of a cosine lobe


def test_lamps_are_points_mostly():
    rng = np.random.default_rng(0)
    sizes = [draw_lamp(rng).breadth for _ in range(400)]
    assert 0.25 < np.mean([size > 0 for size in sizes]) < 0.45
    with pytest.raises(ValueError, match="0 to 2"):
        Lamp(3.0, 0.0)


def test_one_camera_in_eight_or_more_is_a_phone_in_the_hand():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(100, 3, generator=generator) * 0.04 + torch.tensor([0.0, 0.0, 0.09])
    away = []
    for _ in range(400):
        camera = draw_camera(points, 2.0, generator=generator)
        away.append(float(camera.depth(points[None]).mean()))
    assert min(away) > 0.23
    assert 0.08 < np.mean(np.array(away) < 0.40) < 0.3


def test_sensor_noise_has_the_variance_of_shot_noise():
    rng = np.random.default_rng(0)
    for level in (0.4, 0.8):
        flat = np.full((150, 150, 3), level, np.float32)
        seen = sense(flat, 0.001, rng).astype(np.float64) / 255
        linear = ((level + 0.055) / 1.055) ** 2.4
        slope = 2.4 / 1.055 * ((level + 0.055) / 1.055) ** 1.4  # of the sRGB curve
        expected = math.sqrt(0.001 * (linear + 0.01)) / slope
        assert seen.std() == pytest.approx(expected, rel=0.12)
        assert seen.mean() == pytest.approx(level, abs=0.003)
    clean = np.full((4, 4, 3), 0.5, np.float32)
    assert (sense(clean, 0.0, rng) == 128).all()


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((255, 0, 0), "red"),
        ((0, 0, 0), "black"),
        ((255, 255, 255), "white"),
        ((128, 128, 128), "grey"),
        ((30, 60, 250), "blue"),
        ((20, 160, 40), "green"),
        ((120, 70, 25), "brown"),
        ((250, 230, 30), "yellow"),
        ((10, 10, 90), "dark blue"),
    ],
)
def test_colours_have_everyday_names(rgb, word):
    assert color_word(rgb) == word


def test_left_and_right_are_the_viewers(generator):
    assert pose_word(3.0, 0.0, 0.0) == "facing the camera"
    assert pose_word(-20.0, 0.0, 0.0) == "turned slightly to the left"
    assert pose_word(80.0, 20.0, 0.0) == "in profile to the right, head raised"
    side = directional(
        torch.tensor([[[-1.0, 0.2, 0.3], [0, 0, -1]]]), torch.tensor([[[1.0] * 3, [0.0] * 3]])
    )
    assert light_word(side, 0.0, 1.0) == "hard light from the left"
    assert light_word(side, 0.4, 1.0) == "soft light from the left"
    assert light_word(side, 0.0, 0.3) == "dim hard light from the left"


def test_a_caption_tells_only_what_is_known_and_seen():
    known = {
        "expression": "angry", "skin": "olive", "hair": "bob", "hair colour": "auburn",
        "eyes": "green", "glasses": True, "sunglasses": True, "hat": False,
        "clothes": "red shirt", "visible": "skin hair glasses clothes",
        "light": "even light",
    }  # fmt: skip
    assert caption(known) == (
        "an angry person with olive skin, auburn hair in a bob, wearing sunglasses and a red "
        "shirt, in even light"
    )
    bare = {"expression": "neutral, eyes closed", "skin": "fair", "hair": "none", "eyes": "blue",
            "glasses": False, "hat": True, "hat colour": "orange", "clothes": "blue shirt",
            "visible": "skin hat"}  # fmt: skip
    assert caption(bare) == "a person with fair skin, eyes closed, wearing an orange hat"
    old = {**bare, "age": "aged"}
    assert caption(old).startswith("an aged person with fair skin")
