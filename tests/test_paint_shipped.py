"""A head painted by the shipped portrait model: the named skin first, and then drawn over."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from sphere_head import make_materials, make_sphere_head
from typer.testing import CliRunner

from assets.errors import AssetError
from avatar.bundle import Avatar, Manifest
from avatar.cli import app
from avatar.controls import Control
from avatar.paint_avatar import PaintWish
from avatar.paint_shipped import ShippedPaint, plan_face
from avatar.portrait_dress import dressed
from avatar.texture_views import camera_of, plan_views, styled_picture
from deca.conditions import HeadView
from deca.prompt_words import read_prompt
from diffusion.metadata import read_record
from diffusion.recipe import Recipe
from diffusion.shipped_portrait import has_control, is_installed
from flame.load import load_head
from flame.material import Material
from flame.outfit import load_outfit, to_floats
from flame.srgb import linear_to_srgb, srgb_to_linear

SIDE = 256  # texels
installed = pytest.mark.skipif(
    not (is_installed() and has_control()), reason="the shipped portrait model is not there"
)


@pytest.fixture(scope="module")
def outfit():
    return load_outfit()


@pytest.fixture(scope="module")
def skin(outfit):
    albedo = outfit.albedo
    codes = torch.zeros(1, len(albedo.names))
    bumps = torch.nn.functional.interpolate(to_floats(outfit.skin_normal)[None], (SIDE, SIDE))[0]
    return Material("skin", albedo.decode(codes, SIDE)[0], bumps)


def painted(skin, prompt):
    flame = load_head()
    wish = read_prompt(prompt).wish
    (made,) = dressed(flame.head(torch.zeros(flame.n_shape)), (skin,), wish, flame)
    return made.base_color, made


def light(color):
    return srgb_to_linear(color).mean(0)


def where(outfit, name, least=0.5):
    """Texels that an amount of the albedo model changes most, by the model itself."""
    codes = torch.zeros(1, len(outfit.albedo.names))
    before = outfit.albedo.decode(codes, SIDE)[0]
    codes[:, outfit.albedo.names.index(name)] = 2.0
    change = (outfit.albedo.decode(codes, SIDE)[0] - before).abs().sum(0)
    return change > least * change.max()


def test_a_prompt_that_names_nothing_of_skin_leaves_it(skin):
    color, made = painted(skin, "a cheerful person in a park")
    assert torch.equal(color, skin.base_color) and made is skin


@pytest.mark.parametrize(
    ("words", "amount"), [("red lipstick", "lip redness"), ("a beard", "beard shadow")]
)
def test_what_is_named_shows_where_it_belongs_and_hardly_elsewhere(skin, outfit, words, amount):
    color, _ = painted(skin, f"a person with {words}")
    change = (color - skin.base_color).abs().sum(0)
    there = where(outfit, amount)
    away = ~where(outfit, amount, least=0.02)
    assert float(change[there].mean()) > 0.1
    assert float(change[away].mean()) < 0.1 * float(change[there].mean())
    if words == "a beard":
        assert float(light(color)[there].mean()) < 0.7 * float(light(skin.base_color)[there].mean())


def test_a_named_skin_is_as_dark_as_that_whatever_it_was(skin):
    fair = light(painted(skin, "very fair skin")[0]).median()
    dark = light(painted(skin, "very dark skin")[0]).median()
    assert float(dark) < 0.3 * float(fair)
    darker = dataclasses.replace(
        skin, base_color=linear_to_srgb(0.5 * srgb_to_linear(skin.base_color))
    )
    again = light(painted(darker, "very fair skin")[0]).median()
    torch.testing.assert_close(again, fair, atol=0, rtol=0.05)


def test_old_skin_has_wrinkles_in_its_relief(skin):
    _, young = painted(skin, "a young person with freckles")
    _, old = painted(skin, "an old person with freckles")
    assert float((old.normal - skin.normal).abs().max()) > 0.1
    assert float((young.normal - skin.normal).abs().max()) < 1e-3


def test_faces_are_drawn_from_the_sides_that_were_learnt_and_the_rest_is_only_seen():
    yaws = [plan.yaw_deg for plan in plan_face(8)]
    assert yaws[0] == 0 and len(yaws) == 8
    assert sum(abs(yaw) <= 68 for yaw in yaws) == 5
    assert [plan.yaw_deg for plan in plan_face(1)][1:] == yaws[5:]


def test_cel_colours_of_one_skin_have_no_bands_of_light():
    head = make_sphere_head(n_around=48, n_rings=24)
    plain = torch.full((3, 8, 8), 0.6)
    worn = tuple(
        dataclasses.replace(one, base_color=plain, normal=None) if one.name == "skin" else one
        for one in make_materials()
    )
    camera = camera_of(head, plan_views(1)[0])
    seen = HeadView.of(head, worn, head.verts[None], camera, (128, 128))
    picture = styled_picture(seen, head, worn, "anime")
    toward = seen.pixels(seen.normals()[:, 2:])
    skin = seen.pixels((seen.material == head.material_names.index("skin"))[:, None].float())
    inner = ((-torch.nn.functional.max_pool2d(-skin, 9, 1, 4) > 0.99) & (toward > 0.5))[0, 0]
    lit = srgb_to_linear(picture)[0, 0] / (0.6 + 0.4 * toward[0, 0])
    assert float(lit[inner].std() / lit[inner].mean()) < 0.02


def test_a_head_of_another_kind_is_told():
    with pytest.raises(AssetError, match=r"not of the shipped kind.*--model"):
        ShippedPaint.of(make_sphere_head(), make_materials(), Recipe("a man"))


def test_a_model_or_a_controlnet_without_what_it_needs_is_told():
    with pytest.raises(ValueError, match="give --prompt or --style"):
        PaintWish()
    with pytest.raises(ValueError, match="give --prompt too"):
        PaintWish(model="somewhere", style="oil")
    with pytest.raises(ValueError, match="brings its own"):
        PaintWish(Recipe("a man"), controls=(Control("normal", "somewhere"),))


@installed
def test_avatar_paint_draws_a_prompt_by_the_shipped_model(tmp_path, skin, outfit):
    flame = load_head()
    head = flame.head(torch.zeros(flame.n_shape))
    plain = {name: Material(name, torch.full((3, 8, 8), 0.5)) for name in head.material_names}
    avatar = Avatar(head, tuple({**plain, "skin": skin}.values()), {}, Manifest())
    avatar.save(tmp_path / "before")
    words = ["paint", str(tmp_path / "before"), "--prompt", "a man with a beard and a fez"]
    words += ["--views", "1", "--side", "256", "--size", "256", "--steps", "8"]
    words += ["--out", str(tmp_path / "after")]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    made = Avatar.load(tmp_path / "after")
    color = {one.name: one for one in made.materials}["skin"].base_color
    there = where(outfit, "beard shadow")
    assert float(light(color)[there].mean()) < 0.8 * float(light(skin.base_color)[there].mean())
    report = json.loads((tmp_path / "after" / "paint.json").read_text(encoding="utf-8"))
    assert report["recipe"]["model"] == "portrait" and len(report["views"]) == 4
    assert any("fez" in one for one in report["warnings"])
    assert any("behind the ears" in one for one in report["warnings"])
    assert report["measured"]["front_psnr_db"] > 25
    assert read_record(tmp_path / "after" / "view-0.png").recipe.kind == "img2img"
    with pytest.raises(AssetError):  # is not drawn, and says no prompt
        read_record(tmp_path / "after" / "view-1.png")
    assert {"portrait", "portrait-control", "portrait-refiner"} <= {
        use.name for use in made.manifest.models
    }
