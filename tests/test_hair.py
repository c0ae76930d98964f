"""Hair on an egg-shaped head whose inside is known exactly."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import trimesh
from torch import Tensor

from flame.hair import STYLES, HairStyle, attach, grow, joint_weights
from flame.hair_texture import HAIR_COLORS, hair_material

CENTRE = torch.tensor([0.0, 0.045, 0.010])
RADII = torch.tensor([0.079, 0.100, 0.097])
LANDMARKS = torch.zeros(68, 3)
LANDMARKS[36] = torch.tensor([-0.04459, 0.0343, 0.086])
LANDMARKS[45] = torch.tensor([0.04459, 0.0343, 0.086])


def egg() -> tuple[Tensor, Tensor]:
    sphere = trimesh.creation.icosphere(subdivisions=4)
    return (
        CENTRE + RADII * torch.from_numpy(sphere.vertices).float(),
        torch.from_numpy(sphere.faces).long(),
    )


def height(points: Tensor, radii: Tensor = RADII) -> Tensor:
    """Below 0 inside the ellipsoid; metres, near its surface."""
    away = points - CENTRE
    level = (away / radii).norm(dim=1)
    return (level - 1) * level / (away / radii**2).norm(dim=1)


@pytest.fixture(scope="session", params=["short", "bob"])
def style(request: pytest.FixtureRequest) -> HairStyle:
    generator = torch.Generator().manual_seed(3)
    verts, faces = egg()
    return grow(request.param, verts, faces, LANDMARKS, generator=generator, texture_size=256)


def test_hair_stays_within_its_budget_of_triangles(style):
    assert 6_000 < len(style.faces) <= {"short": 12_000, "bob": 20_000}[style.name]
    assert int(style.faces.min()) == 0 and int(style.faces.max()) == len(style.uv) - 1
    assert style.uv.min() >= 0 and style.uv.max() <= 1


def test_no_hair_grows_into_the_head(style):
    # the polyhedron lies up to 0.1 mm inside the ellipsoid
    assert height(attach(style, egg()[0])).min() > -1e-4


@pytest.mark.parametrize("stretch", [(1.12, 0.94, 1.05), (0.88, 1.08, 0.93), (1.05, 1.12, 0.9)])
def test_less_than_one_percent_pokes_through_another_head(style, stretch):
    radii = RADII * torch.tensor(stretch)
    other = CENTRE + (egg()[0] - CENTRE) * torch.tensor(stretch)
    assert (height(attach(style, other), radii) < -1e-4).float().mean() < 0.01


def test_hair_pressed_into_the_head_is_lifted_out_again(style):
    inward = 0.01 * torch.nn.functional.normalize(CENTRE - attach(style, egg()[0]), dim=1)
    pressed = attach(dataclasses.replace(style, offsets=style.offsets + inward), egg()[0])
    guarded = style.clearance > 0
    assert guarded.float().mean() > 0.4
    assert height(pressed[guarded]).min() > -1e-4


def test_hair_goes_along_when_the_head_is_moved(style):
    verts, shift = egg()[0], torch.tensor([0.3, -0.2, 0.1])
    torch.testing.assert_close(attach(style, verts + shift), attach(style, verts) + shift)


def test_no_hair_hangs_over_eyes_nose_and_mouth(style):
    x, y, z = attach(style, egg()[0]).unbind(1)
    assert not ((x.abs() < 0.048) & (y < 0.058) & (y > -0.06) & (z > 0.05)).any()


def test_hair_covers_the_crown_and_leaves_the_forehead_free(style):
    hair = attach(style, egg()[0])
    alpha = style.texture[1]
    row = ((1 - style.uv[:, 1]) * 256).long().clamp(max=255)
    column = (style.uv[:, 0] * 256).long().clamp(max=255)
    seen = alpha[row, column] > 0.4
    scalp = (style.uv < 0.5).all(1)  # the picture of the scalp fills the lower left quarter
    crown = scalp & (hair[:, 1] > 0.125)
    assert seen[crown].all()
    brow = scalp & (hair[:, 1] < 0.095) & (hair[:, 2] > 0.07)
    assert not seen[brow].any()


def test_hair_turns_with_the_head_and_never_with_the_jaw(style, generator):
    lbs_weights = torch.rand(len(egg()[0]), 6, generator=generator)
    lbs_weights /= lbs_weights.sum(1, keepdim=True)
    weights = joint_weights(style, lbs_weights)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))
    assert (weights[:, 3:] == 0).all()
    assert (weights[:, 2] > weights[:, 1]).float().mean() > 0.9


def test_a_big_head_far_away_grows_the_same_hair_bigger(style):
    if style.name != "short":
        pytest.skip("one style tells")
    verts, faces = egg()
    shift, size = torch.tensor([2.0, 1.0, -1.0]), 1.5
    generator = torch.Generator().manual_seed(3)
    moved, marks = verts * size + shift, LANDMARKS * size + shift
    large = grow("short", moved, faces, marks, generator=generator, texture_size=256)
    assert len(large.faces) == len(style.faces)
    # rounding may move a strand, but not the hairdo
    hair, expected = (attach(large, moved) - shift) / size, attach(style, verts)
    torch.testing.assert_close(hair.amax(0), expected.amax(0), atol=0.004, rtol=0)
    torch.testing.assert_close(hair.amin(0), expected.amin(0), atol=0.004, rtol=0)


def test_one_seed_grows_one_head_of_hair(style):
    if style.name != "short":
        pytest.skip("one style tells")
    generator = torch.Generator().manual_seed(3)
    again = grow("short", *egg(), LANDMARKS, generator=generator, texture_size=256)
    assert torch.equal(again.offsets, style.offsets)
    assert torch.equal(again.texture, style.texture)


def test_a_middle_shade_shows_the_very_colour():
    texture = torch.full((2, 8, 8), 0.5)
    for color in HAIR_COLORS.values():
        shown = hair_material(texture, color).base_color[:3, 4, 4]
        torch.testing.assert_close(shown, torch.tensor(color), atol=1e-5, rtol=0)


def test_flat_shade_has_normals_that_point_out():
    material = hair_material(torch.full((2, 8, 8), 0.3), "brown")
    assert material.normal is not None
    expected = torch.tensor([0.5, 0.5, 1.0])[:, None, None].expand(3, 8, 8)
    torch.testing.assert_close(material.normal, expected)


def test_unknown_names_are_answered_with_the_known_ones():
    verts, faces = egg()
    with pytest.raises(ValueError, match=r"style 'mohawk' is unknown; pass one of: short"):
        grow("mohawk", verts, faces, LANDMARKS, generator=torch.Generator())
    with pytest.raises(ValueError, match=r"colour 'rainbow' is unknown.*dark brown"):
        hair_material(torch.zeros(2, 4, 4), "rainbow")
    with pytest.raises(ValueError, match=r"three numbers in 0\.\.1"):
        hair_material(torch.zeros(2, 4, 4), (0.2, 1.4, 0.0))
    assert {"short", "bob", "long"} <= set(STYLES)
