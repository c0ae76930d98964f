"""Recipes that mix the published encoders' codes."""

from __future__ import annotations

import pytest
import torch

from deca.official import encode_portrait
from deca.official_codes import (
    BEST_OF,
    GIVES,
    CodeParts,
    Mix,
    mixed,
    transfer,
)
from deca.official_encoder import OfficialEncoder
from flame.light import sh_shading

WIDTHS = {"expression": 50, "jaw": 3, "root": 3, "camera": 3, "albedo": 50, "detail": 128}


def _parts(name, value):
    widths = {**WIDTHS, "shape": 100 if name in ("deca", "emoca") else 300, "eyelids": 2}
    given = {g: torch.full((2, widths[g]), value) for g in GIVES[name] if g != "light"}
    if "light" in GIVES[name]:
        given["light"] = torch.full((2, 9, 3), value)
    return CodeParts(**given)


PARTS = {
    name: _parts(name, float(value))
    for name, value in zip(GIVES, (1.0, 2.0, 3.0, 4.0), strict=True)
}


def test_each_group_comes_from_the_encoder_that_the_recipe_names():
    mix = Mix.read("MICA shape + EMOCA expression, jaw + SMIRK eyelids + DECA light, detail")
    codes = mixed(mix, PARTS)
    assert codes.shape.shape == (2, 300)
    values = {name: float(getattr(codes, name).mean()) for name in (*WIDTHS, "shape", "light")}
    deca, emoca, mica, smirk = 1.0, 2.0, 3.0, 4.0
    assert values["shape"] == mica
    assert values["expression"] == values["jaw"] == emoca
    assert {values[g] for g in ("albedo", "light", "detail", "root", "camera")} == {deca}
    assert float(codes.eyelids.mean()) == smirk
    assert mix.encoders() == ("deca", "emoca", "mica", "smirk")


def test_the_briefs_recipe_reads_as_the_mix_of_the_best():
    assert Mix.read("MICA shape + EMOCA expression, jaw + DECA") == BEST_OF
    assert Mix.read("deca") == Mix()
    smirk = Mix.read("SMIRK")
    assert (smirk.shape, smirk.camera, smirk.eyelids, smirk.albedo) == ("smirk",) * 3 + (None,)


def test_a_group_that_nobody_gives_is_neutral():
    codes = mixed(Mix.read("smirk"), PARTS)
    assert not codes.albedo.any() and not codes.detail.any()
    normals = torch.nn.functional.normalize(torch.randn(2, 5, 3), dim=-1)
    torch.testing.assert_close(sh_shading(normals, codes.light), torch.ones(2, 5, 3))
    assert not mixed(Mix(), PARTS).eyelids.any()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("FLAME shape", "does not begin with an encoder"),
        ("MICA expression + DECA", "mica does not give expression; these do: deca, emoca, smirk"),
        ("MICA nose + DECA", "nose in"),
        ("MICA shape", "needs root and camera"),
        ("", "does not begin"),
        ("SMIRK root + DECA camera", "different crops"),
        ("SMIRK shape + MICA shape + DECA", "takes shape from smirk and mica"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused_in_words(recipe, words):
    with pytest.raises(ValueError, match=words):
        Mix.read(recipe)


def test_an_encoder_that_is_missing_or_silent_is_named():
    with pytest.raises(ValueError, match="needs mica"):
        mixed(BEST_OF, {"deca": PARTS["deca"], "emoca": PARTS["emoca"]})
    silent = CodeParts(**{g: getattr(PARTS["deca"], g) for g in PARTS["deca"].given()[:-1]})
    with pytest.raises(ValueError, match="deca gave no detail"):
        mixed(Mix(), {"deca": silent})


def test_transfer_takes_the_face_in_motion_and_keeps_the_head():
    one, two = mixed(Mix(), PARTS), mixed(Mix.read("emoca"), PARTS)
    moved = transfer(one, two)
    for name in ("expression", "jaw", "eyelids"):
        assert torch.equal(getattr(moved, name), getattr(two, name))
    for name in ("shape", "root", "camera", "albedo", "light", "detail"):
        assert torch.equal(getattr(moved, name), getattr(one, name))


def test_codes_become_flames_parameters_and_a_weak_perspective_camera():
    codes = mixed(Mix.read("smirk root, camera, jaw + deca"), PARTS)
    params = codes.to_params()
    assert float(params.root.mean()) == float(params.jaw.mean()) == 4.0
    assert not params.neck.any() and not params.eyes.any()
    camera = codes[0].crop_camera()
    # scale 4, shift 4, 4: x' = 4 (x + 4); the picture's y runs down
    at = camera.project(torch.tensor([[[-3.9, -4.1, 0.0]]]), (224, 224))[0, 0, :2]
    torch.testing.assert_close(at, torch.tensor([(0.4 + 1) * 112, (0.4 + 1) * 112]))


class _Constant(OfficialEncoder):
    def __init__(self, name, side):
        super().__init__()
        self.name, self.side = name, side

    def forward(self, images):
        self.seen = images
        return PARTS[self.name]


def test_every_encoder_sees_its_own_crop_and_the_cameras_is_returned(generator):
    image = torch.rand(1, 3, 300, 260, generator=generator)
    points = torch.rand(68, 2, generator=generator) * 100 + 80
    encoders = [_Constant("deca", 224), _Constant("emoca", 224), _Constant("mica", 112)]
    found = encode_portrait(encoders, BEST_OF, image, points)
    assert torch.equal(found.crop.image, encoders[0].seen)
    assert encoders[1].seen is encoders[0].seen
    assert encoders[2].seen.shape == (1, 3, 112, 112)
    with pytest.raises(ValueError, match="needs mica"):
        encode_portrait(encoders[:2], BEST_OF, image, points)
