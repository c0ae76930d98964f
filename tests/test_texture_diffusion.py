"""Painting a head all over, by painters that are known: what they mean must come out."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from sphere_head import make_materials, make_sphere_head

from avatar.texture_diffusion import PaintSettings, paint_head, spread
from avatar.texture_measures import left_right_difference, psnr_db, seam_energy
from avatar.texture_views import flat_picture, plan_views, shading
from flame.material import Material

SETTINGS = PaintSettings(views=8, side=128, size=128)


@pytest.fixture(scope="module")
def head():
    return make_sphere_head(n_around=48, n_rings=24)


def smooth_texture(seed=0, side=128):
    """Colours from 0.2 to 0.8 that go on across the seam, as wide as a sixteenth of it."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 16, 16, generator=generator) * 0.6 + 0.2
    tiled = torch.cat([coarse] * 3, dim=3)
    large = F.interpolate(tiled, (side, 3 * side), mode="bilinear", align_corners=False)
    return large[0, :, :, side : 2 * side].clamp(0.2, 0.8)


def wearing(texture):
    return tuple(
        dataclasses.replace(one, base_color=texture, normal=None) if one.name == "skin" else one
        for one in make_materials()
    )


def grey():
    return wearing(torch.full((3, 8, 8), 0.5))


@pytest.fixture(scope="module")
def known(head):
    """A painter that draws what the head would look like in a known texture."""
    texture = smooth_texture()
    masks = []

    def draw(view):
        masks.append(view.mask)
        return flat_picture(view.seen, head, wearing(texture))

    return texture, paint_head(head, grey(), draw, SETTINGS), masks


def test_a_known_texture_comes_back(known):
    texture, painting, _ = known
    seen = painting.coverage[0] > 0.9
    assert float(seen.float().mean()) > 0.8
    assert psnr_db(painting.albedo[:, seen], texture[:, seen]) > 33
    everywhere = psnr_db(painting.albedo, texture)
    assert everywhere > 24
    before = psnr_db(torch.full_like(texture, 0.5), texture)
    assert everywhere > before + 6
    assert painting.report.front_psnr_db > 33


def test_later_views_are_asked_to_paint_only_what_is_left(known):
    _, painting, masks = known
    shares = [float(one.mean()) for one in masks]
    assert shares[0] > 0.05
    assert max(shares[1:]) < shares[0]
    assert painting.views[0].name == "front view"
    assert float(masks[0][0, 0, :4].max()) == 0


def test_what_is_painted_so_far_is_seen_in_the_next_view(head):
    shown = []

    def draw(view):
        shown.append(view.picture)
        return torch.zeros_like(view.picture) + torch.tensor([0.9, 0.1, 0.1])[:, None, None]

    paint_head(head, grey(), draw, dataclasses.replace(SETTINGS, views=3, side=64, size=64))
    middle = [one[0, :, 20:36, 24:40].mean((1, 2)) for one in shown]
    assert float(middle[0].amax() - middle[0].amin()) < 0.05
    assert float(middle[1][0] - middle[1][1]) > 0.3


def test_one_colour_painted_everywhere_has_no_seam_and_no_side(head):
    colour = torch.tensor([0.7, 0.3, 0.2])

    def draw(view):
        texture = colour[:, None, None].expand(3, 8, 8)
        return flat_picture(view.seen, head, wearing(texture))

    painting = paint_head(head, grey(), draw, dataclasses.replace(SETTINGS, side=64, size=64))
    inside = painting.albedo[:, 4:-4, 4:-4]
    torch.testing.assert_close(inside, colour[:, None, None].expand_as(inside), atol=0.02, rtol=0)
    assert painting.report.seams.seams < 0.01
    assert painting.report.left_right < 0.01


def test_what_no_view_shows_is_taken_from_the_other_side(head):
    """One view from the side: the front and the back of the far side mirror the near one."""
    texture = smooth_texture(1)
    even = (texture + texture.flip(-1)) / 2

    def draw(view):
        return flat_picture(view.seen, head, wearing(even))

    front = paint_head(head, grey(), draw, dataclasses.replace(SETTINGS, views=4))
    assert psnr_db(front.albedo[:, 32:96], even[:, 32:96]) > 24


def test_light_is_divided_out_of_what_is_drawn():
    assert float(shading(torch.tensor(1.0))) == pytest.approx(1)
    assert float(shading(torch.tensor(-1.0))) == pytest.approx(0.6)


def test_a_painter_that_gives_another_size_is_told(head):
    with pytest.raises(ValueError, match=r"the painter gave \(1, 3, 8, 8\) for the front view"):
        paint_head(head, grey(), lambda view: torch.zeros(1, 3, 8, 8), SETTINGS)
    with pytest.raises(ValueError, match="views=0 must be from 1 to 32"):
        PaintSettings(views=0)


def test_views_go_round_the_head_front_first_and_above_and_below_last():
    plans = plan_views(8)
    assert [round(plan.yaw_deg) for plan in plans] == [0, 60, -60, 120, -120, 180, 0, 0]
    assert [plan.pitch_deg > 0 for plan in plans[-2:]] == [True, False]
    assert len({plan.name for plan in plan_views(1)}) == 1


def test_spreading_keeps_what_is_known_and_continues_it():
    values, weight = torch.zeros(1, 32, 32), torch.zeros(32, 32)
    values[0, 4, 4], weight[4, 4] = 2.0, 1.0
    found = spread(values, weight)
    torch.testing.assert_close(found, torch.full_like(found, 2.0))
    ramp = torch.linspace(0, 1, 64)[None, None].expand(1, 64, 64)
    hole = torch.ones(64, 64)
    hole[24:40, 24:40] = 0
    torch.testing.assert_close(spread(ramp, hole), ramp, atol=0.08, rtol=0)


def test_seam_energy_is_the_step_across_the_cut():
    head = make_sphere_head(n_around=48, n_rings=24)
    faces, uv_faces, ids = head.triangles()
    # without the poles, whose triangles each have a corner of their own in UV
    skin = (ids == 0) & ~torch.isin(faces, torch.tensor([0, 48 * 23 + 1])).any(1)
    ramp = torch.linspace(0, 1, 256)[None, None].expand(3, 256, 256)  # jumps by 1 at the seam
    found = seam_energy(ramp, faces[skin], head.uv, uv_faces[skin])
    assert found.seams == pytest.approx(0.99, abs=0.02)
    assert found.inside < 0.02
    assert found.excess == pytest.approx(found.seams - found.inside)
    even = (ramp + ramp.flip(-1)) / 2
    assert seam_energy(even, faces[skin], head.uv, uv_faces[skin]).seams < 1e-3


def test_left_and_right_differ_by_as_much_as_they_are_tinted():
    valid = torch.ones(128, 128, dtype=torch.bool)
    halves = torch.cat([torch.full((3, 128, 64), 0.4), torch.full((3, 128, 64), 0.6)], dim=2)
    assert left_right_difference(halves, valid) == pytest.approx(0.2, abs=0.03)
    assert left_right_difference((halves + halves.flip(-1)) / 2, valid) == 0


def test_a_head_without_skin_cannot_be_painted(head):
    bare = dataclasses.replace(head, material_names=("hide", "eyes", "shirt", "hair"))
    worn = [Material("hide", torch.zeros(3, 2, 2)), *make_materials()[1:]]
    with pytest.raises(ValueError, match="no skin"):
        paint_head(bare, worn, lambda view: view.picture, SETTINGS)
