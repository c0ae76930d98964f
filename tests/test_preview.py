"""The contact sheet: every panel in its place, and the fitted mesh where the face is."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import trimesh
from sphere_head import make_materials, make_sphere_head

from avatar.preview import (
    EXPRESSIONS,
    VIEWS,
    fit_overlay,
    mixed,
    preview_sheet,
    seen_square,
)
from avatar.sheet import Panel, SheetConfig, lay_out, places
from deca.crop import crop_square
from flame.arkit import ARKIT_INDEX
from flame.camera import Camera

SMALL = SheetConfig(width=420, margin=10, gap=6, caption=10, corner=3)


def plain(r: int, g: int, b: int, shape: tuple[int, int] = (40, 40)) -> np.ndarray:
    return np.broadcast_to(np.array([r, g, b], np.uint8), (*shape, 3))


# -------------------------------------------------------------------------------------- layout


@pytest.mark.parametrize("counts", [[5, 4], [1], [3, 7, 2]])
def test_rows_fill_the_width_between_the_margins(counts):
    config = SheetConfig()
    rows = places(counts, config)
    for count, row in zip(counts, rows, strict=True):
        left, right = row[0].x, config.width - (row[-1].x + row[-1].side)
        assert abs(left - right) <= 1
        assert config.margin <= left < config.margin + count
        for one, other in itertools.pairwise(row):
            assert other.x - (one.x + one.side) == config.gap
            assert other.side == one.side and other.y == one.y
    for above, below in itertools.pairwise(rows):
        # room for the caption
        assert below[0].y - (above[0].y + above[0].side) >= config.gap + config.caption


def test_each_panel_lies_in_its_place_on_paper_with_its_caption_below():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    rows = [[Panel(plain(*c), "Wort") for c in colours[:2]], [Panel(plain(*colours[2]), "")]]
    sheet = lay_out(rows, SMALL)
    assert sheet.shape[1] == 420
    spots = [spot for row in places([2, 1], SMALL) for spot in row]
    for spot, colour in zip(spots, colours, strict=True):
        inner = sheet[spot.y + 4 : spot.y + spot.side - 4, spot.x + 4 : spot.x + spot.side - 4]
        assert (inner == colour).all()
        for y, x in ((spot.y, spot.x - 2), (spot.y - 2, spot.x), (spot.y, spot.x)):
            np.testing.assert_allclose(sheet[y, x], SMALL.paper, atol=12)  # corners are round
    below = [sheet[s.y + s.side : s.y + s.side + 18, s.x : s.x + s.side] for s in spots]
    assert [bool((strip > 150).any()) for strip in below] == [True, True, False]
    # the caption is in the middle
    inked = np.flatnonzero((below[0] > 120).any((0, 2)))
    assert abs(inked.mean() - spots[0].side / 2) < 3


def test_longer_sides_are_cut_evenly():
    wide = np.concatenate(
        [plain(255, 0, 0, (600, 300)), plain(0, 255, 0, (600, 600)), plain(0, 0, 255, (600, 300))],
        1,
    )
    spot = places([2], SMALL)[0][0]
    sheet = lay_out([[Panel(wide, ""), Panel(wide, "")]], SMALL)
    middle = sheet[spot.y + spot.side // 2, spot.x + 6 : spot.x + spot.side - 6]
    np.testing.assert_allclose(middle, np.broadcast_to([0, 255, 0], middle.shape), atol=2)


def test_a_footer_makes_room_for_itself():
    rows = [[Panel(plain(9, 9, 9), "a")]]
    bare, signed = lay_out(rows, SMALL), lay_out(rows, SMALL, footer="AI-generated")
    assert len(signed) > len(bare)
    np.testing.assert_array_equal(signed[: len(bare) - SMALL.margin], bare[: -SMALL.margin])
    assert (signed[len(bare) - SMALL.margin :, 210:] > 80).any()


def test_sheets_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="at least one row"):
        lay_out([])
    with pytest.raises(ValueError, match="a panel in each"):
        lay_out([[Panel(plain(0, 0, 0), "a")], []])
    with pytest.raises(ValueError, match="90 pictures do not fit"):
        SMALL.side(90)
    with pytest.raises(ValueError, match="leaves no room"):
        SheetConfig(width=100)


# --------------------------------------------------------------------------------------- sheet


def test_the_sheet_shows_photo_fit_views_and_expressions():
    portrait = torch.tensor([0.8, 0.2, 0.1])[None, :, None, None].expand(1, 3, 50, 50)
    overlay = torch.tensor([0.1, 0.6, 0.2])[None, :, None, None].expand(1, 3, 30, 30)
    sheet = preview_sheet(
        portrait, overlay, make_sphere_head(), make_materials(), config=SMALL, supersample=1
    )
    assert sheet.shape[:2] == (1, 3) and sheet.shape[3] == 420
    above, below = places([2 + len(VIEWS), len(EXPRESSIONS)], SMALL)

    def cut(spot):
        return sheet[0, :, spot.y + 4 : spot.y + spot.side - 4, spot.x + 4 : spot.x + spot.side - 4]

    for spot, image in zip(above, (portrait, overlay), strict=False):
        torch.testing.assert_close(
            cut(spot), image[0, :, :1, :1].expand_as(cut(spot)), atol=3e-3, rtol=0
        )
    drawn = [cut(spot) for spot in (*above[2:], *below)]
    assert len(drawn) == 7
    for picture in drawn:
        assert float(picture.std()) > 0.05 and float(picture.mean()) > 0.15
    for row in (drawn[:3], drawn[3:]):  # no two alike
        for i, one in enumerate(row):
            for other in row[i + 1 :]:
                assert float((one - other).abs().max()) > 0.1


def test_every_expression_is_made_of_arkit_weights_from_0_to_1():
    assert len(EXPRESSIONS) == 4
    for mix in EXPRESSIONS.values():
        weights = mixed(mix)
        assert float(weights.min()) >= 0.0 and 0.5 < float(weights.max()) <= 1.0


def test_a_name_without_a_side_stands_for_both():
    weights = mixed({"mouthSmile": 0.5, "jawOpen": 0.25, "eyeBlinkLeft": 1.0})
    expected = torch.zeros(52)
    for name, weight in (
        ("mouthSmileLeft", 0.5),
        ("mouthSmileRight", 0.5),
        ("jawOpen", 0.25),
        ("eyeBlinkLeft", 1.0),
    ):
        expected[ARKIT_INDEX[name]] = weight
    torch.testing.assert_close(weights, expected)


# ------------------------------------------------------------------------------------- overlay


@pytest.fixture(scope="module")
def ball() -> tuple[torch.Tensor, torch.Tensor, Camera]:
    """A ball of radius 0.5 that an orthographic camera shows with a radius of a quarter height."""
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    camera = Camera(torch.tensor([1.0]), torch.tensor([[0.2, 0.1]]), torch.tensor([0.0]))
    verts = torch.tensor(sphere.vertices, dtype=torch.float32)[None]
    return verts, torch.tensor(sphere.faces), camera


def test_the_overlay_covers_the_mesh_and_leaves_the_rest_of_the_picture_alone(ball):
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(1, 3, 96, 128, generator=generator)
    drawn = fit_overlay(image, *ball)
    y, x = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    # the centre (0.2, 0.1) in half heights from the middle, y up
    away = ((x - 64 - 0.2 * 48) ** 2 + (y - 48 + 0.1 * 48) ** 2).sqrt()
    same = (drawn == image).all(1)[0]
    assert bool(same[away > 25].all())
    assert not bool(same[away < 23].any())
    area = int((~same).sum())
    assert abs(area - math.pi * 24.5**2) / area < 0.05
    # the photograph stays visible in the middle, less so at the outline
    black, white = (
        fit_overlay(torch.zeros_like(image), *ball),
        fit_overlay(torch.ones_like(image), *ball),
    )
    clear = (white - black)[0].mean(0)
    assert float(clear[away < 8].mean()) > 0.6 > float(clear[(away > 21) & (away < 22)].mean())


def test_the_lit_side_of_the_overlay_is_the_upper_left(ball):
    drawn = fit_overlay(torch.zeros(1, 3, 96, 128), *ball)[0].mean(0)
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    middle = [float((axis * drawn).sum() / drawn.sum()) for axis in (rows, columns)]
    assert middle[0] < 43.2 - 0.5 - 1 and middle[1] < 73.6 - 0.5 - 1


def test_landmarks_are_dots_centred_on_their_points(ball):
    verts, faces, camera = ball
    image = torch.zeros(1, 3, 400, 400)
    points = torch.tensor([[30.25, 60.75], [350.5, 20.5], [-900.0, 5.0], [399.5, 399.5]])
    dotted = fit_overlay(image, verts, faces, camera, points)
    bare = fit_overlay(image, verts, faces, camera)
    change = (dotted - bare)[0].sum(0)
    for x, y in points[:2].tolist():
        window = change[int(y) - 8 : int(y) + 9, int(x) - 8 : int(x) + 9]
        across = torch.arange(int(x) - 8, int(x) + 9) + 0.5
        down = torch.arange(int(y) - 8, int(y) + 9) + 0.5
        assert float((window.sum(0) * across).sum() / window.sum()) == pytest.approx(x, abs=0.1)
        assert float((window.sum(1) * down).sum() / window.sum()) == pytest.approx(y, abs=0.1)
    assert float(change[399, 399]) > 1.0  # on the edge of the picture
    assert torch.equal(image, torch.zeros_like(image))


def test_a_crop_beyond_the_picture_is_shown_without_the_continued_border():
    picture = torch.rand(1, 3, 80, 100)
    inside = crop_square(picture, torch.tensor([50.0, 40.0]), 60.0, 60)
    assert seen_square(inside, (80, 100)) == (slice(0, 60), slice(0, 60))
    # rows 30 to 90 of 80: the last ten are not there
    below = crop_square(picture, torch.tensor([50.0, 60.0]), 60.0, 60)
    assert seen_square(below, (80, 100)) == (slice(0, 50), slice(5, 55))
    turned = crop_square(torch.ones(1, 3, 80, 100), torch.tensor([50.0, 60.0]), 60.0, 60, 0.3)
    rows, columns = seen_square(turned, (80, 100))
    corners = torch.cartesian_prod(
        torch.tensor([columns.start, columns.stop]), torch.tensor([rows.start, rows.stop])
    )
    found = turned.picture_points(corners.float())
    assert (found >= -1).all() and (found <= torch.tensor([101.0, 81.0])).all()
    assert rows.stop - rows.start == columns.stop - columns.start >= 30
