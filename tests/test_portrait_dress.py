"""A head drawn as a prompt has it wears the colours and stands before the place that it names."""

import pytest
import torch

from avatar.portrait_dress import place_of, recoloured, unworn
from deca.prompt_colors import CLOTH
from deca.prompt_wish import Wish
from flame.hair_texture import HAIR_COLORS, hair_material
from flame.material import Material
from flame.paint_cloth import paint_shirt
from flame.srgb import srgb_to_linear


@pytest.fixture
def materials():
    generator = torch.Generator().manual_seed(0)
    shade = 0.3 + 0.4 * torch.rand(1, 32, 32, generator=generator)
    texture = torch.cat([shade, (shade > 0.35).float()])
    cloth, knit = paint_shirt((0.1, 0.2, 0.3), size=64)
    return (
        Material("skin", torch.full((3, 8, 8), 0.6)),
        Material("eyes", torch.full((3, 8, 8), 0.1)),
        hair_material(texture, "auburn"),
        Material("shirt", cloth, knit, roughness=0.9),
    )


def by_name(materials):
    return {material.name: material for material in materials}


def test_what_a_prompt_names_takes_its_colour_and_the_rest_stays(materials):
    before = by_name(materials)
    made = by_name(recoloured(materials, Wish(hair_color="teal", clothes_color="yellow")))
    assert list(made) == list(before)
    assert made["skin"] is before["skin"] and made["eyes"] is before["eyes"]
    opaque = before["hair"].base_color[3] > 0.5
    linear = srgb_to_linear(made["hair"].base_color[:3])[:, opaque]
    torch.testing.assert_close(
        linear.mean(1), srgb_to_linear(torch.tensor(HAIR_COLORS["teal"])), atol=0.01, rtol=0.05
    )
    torch.testing.assert_close(made["hair"].base_color[3], before["hair"].base_color[3])
    told = torch.tensor(CLOTH["yellow"]) / 255
    cloth = made["shirt"].base_color.mean((1, 2))
    torch.testing.assert_close(cloth / cloth.max(), told / told.max(), atol=0.02, rtol=0)
    assert made["shirt"].roughness == 0.9


def test_locks_keep_their_light_and_shade(materials):
    before = srgb_to_linear(by_name(materials)["hair"].base_color[:3])
    made = by_name(recoloured(materials, Wish(hair_color="brown")))
    after = srgb_to_linear(made["hair"].base_color[:3])
    seen = torch.stack([before.mean(0).flatten(), after.mean(0).flatten()])
    assert float(torch.corrcoef(seen)[0, 1]) > 0.99


def test_stripes_and_eyes_are_drawn_where_they_are_named(materials):
    wish = Wish(eyes="green", clothes_color="white", stripes="red")
    made = by_name(recoloured(materials, wish))
    red, _, blue = made["shirt"].base_color
    striped = (red - blue) > 0.4
    assert 0.3 < float(striped.float().mean()) < 0.7
    assert made["eyes"].base_color.std() > 0.05


def test_a_place_is_drawn_only_where_one_is_named():
    assert place_of(Wish(hair_color="red"), 64) is None
    red, _, blue = place_of(Wish(background="plain", background_color="blue"), 64)
    assert float(blue.mean()) > float(red.mean()) + 0.2
    park = place_of(Wish(background="park"), 64)
    torch.testing.assert_close(park, place_of(Wish(background="park"), 64))
    assert float(park[1].mean()) > float(park[2].mean())


def test_what_a_head_cannot_wear_is_told(materials):
    assert unworn(materials, Wish(hair_color="red", eyes="green")) == []
    assert "cut of its own hair" in unworn(materials, Wish(hair="long"))[0]
    bald = [material for material in materials if material.name != "hair"]
    told = unworn(bald, Wish(hair="long", hair_color="red"))
    assert "no hair" in told[0] and "bald" in told[1]
