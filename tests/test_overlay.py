"""Compositing by its algebra; lines and dots by their areas and places."""

from __future__ import annotations

import math

import pytest
import torch

from flame.overlay import LINES_68, draw_landmarks, draw_wireframe, over
from flame.raster import rasterize

WHITE = (1.0, 1.0, 1.0)


def _layers(count, channels=4):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 2, channels, 5, 6, generator=generator).double()


def test_putting_layers_over_each_other_is_associative():
    one, two, three = _layers(3)
    torch.testing.assert_close(over(over(one, two), three), over(one, over(two, three)))
    wall = _layers(1, 3)[0]
    torch.testing.assert_close(over(over(one, two), wall), over(one, over(two, wall)))


def test_clear_and_opaque_layers_show_the_back_and_the_front():
    front, back = _layers(2)
    clear, solid = front.clone(), front.clone()
    clear[:, 3], solid[:, 3] = 0, 1
    torch.testing.assert_close(over(clear, back), back)
    torch.testing.assert_close(over(solid, back), solid)
    nothing = over(clear, torch.zeros_like(back))
    assert torch.equal(nothing, torch.zeros_like(back))


def test_a_plain_colour_is_an_image_of_that_colour():
    front = _layers(1)[0]
    colour = torch.tensor([0.2, 0.4, 0.9]).double()
    wall = colour[None, :, None, None].expand(2, 3, 5, 6)
    torch.testing.assert_close(over(front, colour), over(front, wall))
    # a colour with alpha adds up to Porter and Duff's coverage
    glass = torch.cat([colour, colour.new_tensor([0.5])])
    mixed = over(front, glass)
    torch.testing.assert_close(mixed[:, 3], 1 - 0.5 * (1 - front[:, 3]))


def test_compositing_has_the_gradients_of_central_differences():
    front, back = (one[:1, :, :2, :2].clone().requires_grad_() for one in _layers(2))
    assert torch.autograd.gradcheck(over, (front, back))


def test_backs_with_other_channels_are_refused():
    with pytest.raises(ValueError, match="back has 2 channels"):
        over(_layers(1)[0], _layers(1, 2)[0])


# ----------------------------------------------------------------------------------- wireframes


def _cards(*depths):
    """Upright squares from 8 to 40 pixels, each one triangle pair, at these depths."""
    square = torch.tensor([[8.0, 8], [40, 8], [40, 40], [8, 40]])
    verts = torch.cat([torch.cat([square, torch.full((4, 1), z)], dim=1) for z in depths])[None]
    faces = torch.cat([torch.tensor([[0, 1, 2], [0, 2, 3]]) + 4 * k for k in range(len(depths))])
    return verts, faces


@pytest.mark.parametrize("width", [0.5, 1.0, 3.0])
def test_lines_have_their_width(width):
    verts, faces = _cards(0.5)
    fragments = rasterize(verts, faces, (48, 48))
    drawn = draw_wireframe(
        torch.zeros(1, 3, 48, 48), fragments, verts, faces, width_px=width, colour=WHITE
    )
    # a row across: two outlines of half the width, and the diagonal, slanted by 45 degrees
    expected = width + width * math.sqrt(2)
    assert drawn[0, 0, 20].sum().item() == pytest.approx(expected, abs=0.35 + 0.1 * width)
    assert drawn[0, 0, 20, 20] == pytest.approx(min(1.0, width), abs=1e-5)
    assert drawn[0, 0, 20, 14] == 0 and drawn[0, 0, 4].max() == 0


def test_hidden_lines_are_not_drawn():
    verts, faces = _cards(0.5, 0.25)
    verts[0, 4:, 0] += 10  # the nearer card, to the right
    fragments = rasterize(verts, faces, (64, 64))
    drawn = draw_wireframe(torch.zeros(1, 3, 64, 64), fragments, verts, faces, colour=WHITE)
    assert drawn[0, 0, 12, 17].item() == pytest.approx(0, abs=1e-6)  # the far card's, uncovered
    assert drawn[0, 0, 30, 18] > 0.4  # the near card's left side
    assert drawn[0, 0, 22:27, 39:41].max() == 0  # the far card's right side lies behind


def test_wireframes_of_pinhole_cameras_lie_on_the_projected_edges():
    # a triangle that reaches away: its edges are straight on the screen whatever the depths
    corners = torch.tensor([[-0.8, -0.7, 1.0], [0.8, -0.7, 6.0], [0.0, 0.8, 2.0]])
    w = corners[:, 2:]
    clip = torch.cat([corners[:, :2] * w, w - 0.1, w], dim=1)[None]
    screen = torch.stack([(corners[:, 0] + 1) * 32, (1 - corners[:, 1]) * 32], dim=1)
    faces = torch.tensor([[0, 1, 2]])
    fragments = rasterize(clip, faces, (64, 64))
    drawn = draw_wireframe(
        torch.zeros(1, 3, 64, 64), fragments, clip, faces, width_px=2.0, colour=WHITE
    )[0, 0]
    centres = torch.stack(
        torch.meshgrid(torch.arange(64.0) + 0.5, torch.arange(64.0) + 0.5, indexing="xy"), -1
    )
    away = torch.full((64, 64), 1e9)
    for start, end in ((0, 1), (1, 2), (2, 0)):
        along = screen[end] - screen[start]
        normal = torch.stack([-along[1], along[0]]) / along.norm()
        away = torch.minimum(away, ((centres - screen[start]) @ normal).abs())
    expected = torch.where(fragments.face_id[0] >= 0, (1.5 - away).clamp(0, 1), 0.0)
    torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=0)


def test_wireframes_want_fragments_of_the_images_size():
    verts, faces = _cards(0.5)
    fragments = rasterize(verts, faces, (48, 48))
    with pytest.raises(ValueError, match="rasterize at the image's size"):
        draw_wireframe(torch.zeros(1, 3, 40, 48), fragments, verts, faces)
    with pytest.raises(ValueError, match="width_px=0"):
        draw_wireframe(torch.zeros(1, 3, 48, 48), fragments, verts, faces, width_px=0.0)


# ------------------------------------------------------------------------------------ landmarks


def _dots(points, size=(60, 80), **options):
    options = {"colour": WHITE, "rim": 0.0, **options}
    return draw_landmarks(torch.zeros(len(points), 3, *size), points, **options)


@pytest.mark.parametrize("radius", [1.0, 2.5, 7.0])
def test_dots_have_their_area_and_centre(radius):
    points = torch.tensor([[[30.3, 25.8]], [[50.75, 40.1]]])
    drawn = _dots(points, radius_px=radius)[:, 0]
    y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    for image, (px, py) in zip(drawn, points[:, 0].tolist(), strict=True):
        assert image.sum().item() == pytest.approx(math.pi * radius**2, rel=0.12)
        assert float((image * x).sum() / image.sum()) == pytest.approx(px, abs=0.06)
        assert float((image * y).sum() / image.sum()) == pytest.approx(py, abs=0.06)


def test_points_off_the_picture_or_unknown_are_left_out():
    away = torch.tensor([[[-50.0, 10.0], [1e30, 5], [math.nan, 4], [20, math.inf], [20, 900]]])
    assert _dots(away).abs().max() == 0
    assert _dots(torch.zeros(1, 0, 2)).abs().max() == 0
    half = _dots(torch.tensor([[[0.0, 30.0]]]), radius_px=6.0)[0, 0]
    assert half.sum().item() == pytest.approx(math.pi * 36 / 2, rel=0.06)


def test_overlapping_dots_of_one_picture_do_not_add_up():
    one = torch.tensor([[[20.2, 20.7]]])
    torch.testing.assert_close(_dots(one.repeat(1, 3, 1)), _dots(one))


def test_sigmas_are_circles_around_their_points():
    points, sigmas = torch.tensor([[[40.0, 30.0]]]), torch.tensor([[15.0]])
    drawn = _dots(points, sigmas=sigmas, line_px=2.0)[0, 0]
    y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    away = ((x - 40) ** 2 + (y - 30) ** 2).sqrt()
    assert drawn[(away - 15).abs() < 0.4].min() > 0.6
    assert drawn[(away > 3) & ((away - 15).abs() > 1.6)].max() == 0
    ring = drawn[away > 5].sum().item()
    assert ring == pytest.approx(0.7 * 2 * math.pi * 15 * 2.0, rel=0.05)


def test_points_out_of_sight_are_open_circles():
    points = torch.tensor([[[20.5, 20.5], [50.5, 20.5]]])
    drawn = _dots(points, radius_px=6.0, visible=torch.tensor([[True, False]]))[0, 0]
    assert drawn[20, 20] == 1 and drawn[20, 50] == 0 and drawn[20, 56] > 0.5


def test_lines_follow_the_scheme_of_68_points():
    assert len(LINES_68) == 16 + 4 + 4 + 3 + 4 + 6 + 6 + 12 + 8
    assert (41, 36) in LINES_68 and (59, 48) in LINES_68 and (67, 60) in LINES_68
    assert not {(16, 17), (21, 22), (26, 27), (30, 31), (35, 36)} & set(LINES_68)
    points = torch.full((1, 68, 2), math.nan)
    points[0, 0], points[0, 1] = torch.tensor([10.5, 10.5]), torch.tensor([60.5, 10.5])
    drawn = _dots(points, radius_px=1.0, lines=True, line_px=3.0)[0, 0]
    assert drawn[:, 35].sum().item() == pytest.approx(3.0, abs=1e-4)
    assert drawn[10, 12:58].min() == 1 and drawn[20:].max() == 0
    assert drawn[10, :9].max() == 0 and drawn[10, 62:].max() == 0  # lines end at their points
    with pytest.raises(ValueError, match="lines join the 68"):
        _dots(points[:, :5], lines=True)


def test_pictures_are_not_written_to_and_rims_are_dark():
    image = torch.full((1, 3, 30, 30), 0.5)
    drawn = draw_landmarks(image, torch.tensor([[[15.5, 15.5]]]), radius_px=4.0)
    assert (image == 0.5).all()
    assert drawn[0, 0, 15, 20] == pytest.approx(0.2, abs=1e-6)
    assert drawn[0, :, 15, 15].tolist() == pytest.approx([1.0, 0.84, 0.22])
