"""Condition pictures of a sphere against mathematics, and of points against their definition."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_diffusion
import torch
import trimesh
from sphere_head import make_icosphere_head, make_materials, make_sphere_head

from assets.image import read_image
from avatar.controls import Control, parse_control
from avatar.portrait import PortraitInputs, make_portraits
from avatar.portrait_like import HeadGuide, check_likeness, frame_close
from deca.conditions import (
    FLAT,
    PERSON,
    WALL,
    HeadView,
    axes_of,
    canny_condition,
    depth_condition,
    face_condition,
    landmark_condition,
    normal_condition,
    openpose_condition,
    part_condition,
    seg_condition,
)
from deca.pictures import Framed
from diffusion import load_pipeline
from diffusion.conditioned import conditioned
from diffusion.recipe import Recipe
from flame.camera import Camera, orbit
from flame.material import Material

SIDE = 64
DISTANCE = 4.0


@pytest.fixture(scope="module")
def sphere():
    """A unit sphere, fine enough that its facets are within 0.2 % of it."""
    mesh = trimesh.creation.icosphere(subdivisions=4)
    verts = torch.tensor(mesh.vertices, dtype=torch.float32)
    verts = torch.nn.functional.normalize(verts, dim=1)
    faces = torch.tensor(mesh.faces)
    polygons = torch.nn.functional.pad(faces, (0, 1), value=-1)
    head = make_icosphere_head()
    return dataclasses.replace(
        head,
        verts=verts,
        polygons=polygons,
        uv=torch.zeros(len(verts), 2),
        uv_polygons=polygons,
        material_ids=torch.zeros(len(faces), dtype=torch.long),
        morphs=torch.zeros(52, len(verts), 3),
        lbs_weights=torch.eye(6)[2].expand(len(verts), 6),
    )


def view_of(head, camera, size=(SIDE, SIDE), samples=1):
    skin = (Material("skin", torch.full((3, 2, 2), 0.5)),)
    return HeadView.of(head, skin, head.verts[None], camera, size, samples=samples)


def flat_camera():
    return Camera(torch.tensor([0.8]), torch.zeros(1, 2), torch.zeros(1))


def centres():
    """x to the right and y up of every pixel's centre, in half pictures."""
    along = (torch.arange(SIDE) + 0.5) / (SIDE / 2) - 1
    return along[None].expand(SIDE, SIDE), -along[:, None].expand(SIDE, SIDE)


def test_normals_of_a_sphere_are_blue_in_front_red_on_the_left_and_green_on_top(sphere):
    picture = normal_condition(view_of(sphere, flat_camera()))[0]
    x, y = (one / 0.8 for one in centres())
    inside = (x**2 + y**2) < 0.9
    z = (1 - x**2 - y**2).clamp(min=0).sqrt()
    expected = torch.stack([-x, y, z]) / 2 + 0.5
    torch.testing.assert_close(picture[:, inside], expected[:, inside], atol=0.01, rtol=0)
    beyond = (x**2 + y**2) > 1.05
    flat = torch.tensor(FLAT)[:, None].expand(3, int(beyond.sum()))
    torch.testing.assert_close(picture[:, beyond], flat, atol=1e-6, rtol=0)


def test_normals_are_those_of_the_viewer_from_wherever_a_camera_looks(sphere):
    front = normal_condition(view_of(sphere, orbit(torch.tensor([0.0]), distance=DISTANCE)))
    for yaw, pitch in ((70.0, 0.0), (200.0, 35.0)):
        camera = orbit(torch.tensor([yaw]), pitch, DISTANCE)
        turned = normal_condition(view_of(sphere, camera))
        # facets differ at the outline alone
        off = (turned - front).abs().amax(1)
        assert float(off.flatten().quantile(0.97)) < 0.012


def test_a_tilted_frame_turns_normals_with_it(sphere):
    # a quarter turn clockwise: what was on top is on the right
    turn = torch.tensor([[0.0, -1.0, SIDE], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    camera = Framed(flat_camera(), SIDE, turn)
    torch.testing.assert_close(
        axes_of(camera) @ torch.tensor([0.0, 1, 0]), torch.tensor([1.0, 0, 0])
    )
    upright = normal_condition(view_of(sphere, flat_camera()))
    tilted = normal_condition(view_of(sphere, camera))
    # of a sphere both are the same picture
    off = (tilted - upright).abs().amax(1)
    assert float(off.flatten().quantile(0.97)) < 0.012


@pytest.mark.parametrize("wall", [1.0, 3.0])
def test_depth_of_a_sphere_is_its_inverse_distance(sphere, wall):
    camera = orbit(torch.tensor([0.0]), distance=DISTANCE, fov_deg=36.0)
    picture = depth_condition(view_of(sphere, camera), wall=wall)[0, 0]
    slope = torch.tan(torch.deg2rad(torch.tensor(18.0)))
    x, y = (one * slope for one in centres())  # of the ray at one metre
    square = 1 + x**2 + y**2
    inside = DISTANCE**2 - square * (DISTANCE**2 - 1)
    hit = inside > 0.05
    distance = (DISTANCE - inside.clamp(min=0).sqrt()) / square
    near, far = DISTANCE - 1, DISTANCE - 1 / DISTANCE
    behind = far + wall * (far - near)
    expected = (1 / distance - 1 / behind) / (1 / near - 1 / behind)
    torch.testing.assert_close(picture[hit], expected[hit], atol=0.03, rtol=0)
    assert float(picture[inside < -0.2].max()) == 0
    assert float(picture.max()) == pytest.approx(1, abs=0.01)


def test_depth_without_a_head_is_black(sphere):
    away = Camera(torch.tensor([0.8]), torch.tensor([[50.0, 0.0]]), torch.zeros(1))
    assert float(depth_condition(view_of(sphere, away)).abs().max()) == 0


def test_edges_are_where_a_disc_ends_and_nowhere_else():
    x, y = centres()
    disc = ((x**2 + y**2) < 0.5).float()[None, None].expand(1, 3, SIDE, SIDE)
    edges = canny_condition(disc)[0, 0] > 0.5
    radius = (x**2 + y**2).sqrt()
    assert bool(edges.any())
    assert float((radius[edges] - 0.5**0.5).abs().max()) < 2.5 / (SIDE / 2)
    # all the way round
    angles = torch.atan2(y[edges], x[edges]).sort().values
    assert float(angles.diff().max()) < 0.2
    faint = 0.5 + 0.1 * disc
    assert not bool(canny_condition(faint).any())


def test_openpose_draws_70_dots_of_the_published_size():
    points = torch.stack([torch.arange(68) * 7.0 + 20.7, torch.full((68,), 300.2)], dim=1)
    points[36:42, 1], points[42:48, 1] = 400.2, 450.2
    picture = openpose_condition(points, (512, 512))[0]
    assert set(picture.unique().tolist()) == {0.0, 1.0}
    # a filled circle of radius 3 in OpenCV: rows of 3, 5, 7, 7, 7, 5, 3 pixels
    assert picture[0, 297:304, 17:24].sum(1).tolist() == [3, 5, 7, 7, 7, 5, 3]
    eyes = [float(points[s, 0].mean().floor()) for s in (slice(36, 42), slice(42, 48))]
    assert picture[0, 400, int(eyes[0])] == 1
    assert picture[0, 450, int(eyes[1])] == 1
    beyond = openpose_condition(points + 1000, (512, 512))
    assert not bool(beyond.any())


def test_landmarks_are_white_where_the_points_are():
    generator = torch.Generator().manual_seed(3)
    points = torch.rand(68, 2, generator=generator) * 100 + 14
    picture = landmark_condition(points, (128, 128))[0, 0]
    at = picture[points[:, 1].long(), points[:, 0].long()]
    assert float(at.min()) > 0.4
    assert float(picture[:10].max()) == 0


def test_contours_are_white_over_the_normals(sphere):
    view = view_of(sphere, flat_camera())
    points = torch.rand(68, 2, generator=torch.Generator().manual_seed(0)) * SIDE
    lines = landmark_condition(points, (SIDE, SIDE))[:, :1] > 0.999
    made = face_condition(view, points)
    assert lines.any() and bool((made[lines.expand(-1, 3, -1, -1)] > 0.999).all())
    off = (landmark_condition(points, (SIDE, SIDE)) == 0).expand(-1, 3, -1, -1)
    assert off.any() and torch.equal(made[off], normal_condition(view)[off])


def test_person_and_parts_are_told_by_their_published_colours():
    head, materials = make_sphere_head(n_around=24, n_rings=14), make_materials()
    camera = orbit(torch.tensor([0.0]), 0.0, 0.5, (0.01, 0.05, 0.02), 40.0)
    view = HeadView.of(head, materials, head.verts[None], camera, (48, 48))
    person = seg_condition(view)[0]
    torch.testing.assert_close(person[:, 24, 24], torch.tensor(PERSON))
    torch.testing.assert_close(person[:, 0, 0], torch.tensor(WALL))
    parts = part_condition(head, materials, head.verts[None], camera, (48, 48))[0]
    assert (parts[:, 20, 20] * 255).round().tolist() == [238, 190, 160]
    assert parts[:, 0, 0].tolist() == [0, 0, 0]


def test_what_is_cut_out_of_a_texture_is_seen_through(sphere):
    clear = Material("skin", torch.cat([torch.ones(3, 4, 4), torch.zeros(1, 4, 4)]),
                     alpha_mode="MASK")  # fmt: skip
    view = HeadView.of(sphere, (clear,), sphere.verts[None], flat_camera(), (16, 16))
    assert float(view.covered.max()) == 0
    with pytest.raises(ValueError, match="no material is given for skin"):
        HeadView.of(sphere, (), sphere.verts[None], flat_camera(), (16, 16))


def test_the_same_head_gives_the_same_picture_to_the_bit(sphere):
    first, again = (normal_condition(view_of(sphere, flat_camera())) for _ in range(2))
    np.testing.assert_array_equal(first.numpy(), again.numpy())


class Blind:
    """Stands in for the encoder: what it finds is set."""

    def __init__(self, points=None):
        self.points = points

    def read(self, picture):
        if self.points is None:
            raise ValueError("no face was found;\n give another picture")
        return SimpleNamespace(landmarks2d=self.points)


def guide_of(folder, kinds, reader):
    head = make_sphere_head(n_around=24, n_rings=14)
    points = torch.rand(68, 3, generator=torch.Generator().manual_seed(2)) * 0.1
    controls = tuple(Control(kind, folder) for kind in kinds)
    return HeadGuide(
        head, tuple(make_materials()), head.verts[None], points, controls, 20.0, "me", reader
    )


def test_the_shipped_model_draws_over_a_head_in_the_prompts_style():
    guide = guide_of("net", ("normal",), Blind())
    assert guide.for_shipped("").controls == guide.controls and guide.for_shipped("").close
    # the points of a ball are no face's, by which it could be framed
    plain, drawn, inked = (
        dataclasses.replace(guide.for_shipped(words), close=False)
        for words in ("a man", "pencil drawing of a man", "a man, anime style")
    )
    assert torch.equal(plain.sketch(SIDE), plain.render(SIDE))
    pencil = drawn.sketch(SIDE)[0]
    assert float((pencil.amax(0) - pencil.amin(0)).mean()) < 0.06
    anime = inked.sketch(SIDE)
    assert anime.shape == (1, 3, SIDE, SIDE) and bool(anime.isfinite().all())
    # the wall behind the head stays
    torch.testing.assert_close(anime[..., :2, :2], plain.render(SIDE)[..., :2, :2])
    assert float((anime - plain.render(SIDE)).abs().mean()) > 0.02


def test_a_portrait_of_a_head_follows_its_conditions_and_says_how_well(tmp_path_factory, tmp_path):
    model = tiny_diffusion.model_folder(tmp_path_factory, "sd1")
    net = tiny_diffusion.model_folder(tmp_path_factory, "controlnet")
    recipe = Recipe("a man", steps=2, strength=1.0, seed=3)
    made = {}
    for kinds in ((), ("normal",), ("normal", "openpose")):
        guide = guide_of(net, kinds, Blind())
        out = tmp_path / f"{len(kinds)}.png"
        paths = make_portraits(recipe, out, PortraitInputs(model=model, guide=guide))
        made[kinds] = read_image(out, min_side=1)
        told = json.loads((tmp_path / f"{len(kinds)}.json").read_text())
        assert told["recipe"]["kind"] == "img2img"
        assert told["model"]["controlnets"] == [str(net)] * len(kinds)
        assert told["like"]["checks"] == [
            {"nme": None, "follows": False, "reason": "no face was found; give another picture"}
        ]
        names = {path.name for path in paths}
        assert names >= {f"{len(kinds)}-{kind}.png" for kind in ("render", *kinds)}
    assert (made[()] - made["normal",]).abs().max() > 0.02
    assert (made["normal",] - made["normal", "openpose"]).abs().max() > 0.02


@pytest.mark.parametrize("yaw_deg", [0.0, 30.0])
def test_a_close_frame_has_the_eyes_above_the_middle_and_room_below_the_chin(yaw_deg):
    points = torch.zeros(68, 3)
    points[36:48] = torch.tensor([0.01, 0.05, 0.0])
    points[8] = torch.tensor([0.01, -0.07, 0.0])
    seen = frame_close(points, yaw_deg).project(points[None], (290, 290))[0, :, :2]
    # from the eyes to the chin is 1 / 1.45 of half the side; the middle is 0.32 of it below them
    assert seen[36].tolist() == pytest.approx([145, 113], abs=0.01)
    assert seen[8].tolist() == pytest.approx([145, 213], abs=0.01)


def test_likeness_is_the_points_error_between_the_eyes():
    wanted = torch.rand(68, 2, generator=torch.Generator().manual_seed(0)) * 100
    wanted[36], wanted[45] = torch.tensor([20.0, 50.0]), torch.tensor([80.0, 50.0])
    picture = torch.zeros(1, 3, 8, 8)
    near = check_likeness(picture, wanted, Blind(wanted + torch.tensor([1.728, 2.304])))
    assert near == {"nme": 0.048, "follows": True}
    far = check_likeness(picture, wanted, Blind(wanted + torch.tensor([6.0, 0.0])))
    assert far == {"nme": 0.1, "follows": False}


def test_conditioned_pictures_are_checked_before_they_are_drawn(tmp_path_factory):
    pipeline = load_pipeline(
        tiny_diffusion.model_folder(tmp_path_factory, "sd1"),
        controlnets=[tiny_diffusion.model_folder(tmp_path_factory, "controlnet")],
    )
    recipe, square = Recipe("a man", steps=2, strength=0.9), torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="1 ControlNets and 0 conditions"):
        conditioned(pipeline, recipe, [])
    with pytest.raises(ValueError, match="multiples of 8"):
        conditioned(pipeline, recipe, [torch.zeros(1, 3, 32, 36)])
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 16:] = 1
    kept = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    drawn = conditioned(pipeline, recipe, [square], image=kept, mask=mask)
    torch.testing.assert_close(drawn[..., :16], kept[..., :16])
    assert (drawn[..., 16:] - kept[..., 16:]).abs().mean() > 0.01
    weak = conditioned(pipeline, recipe, [square + 0.7], scales=[0.0])
    strong = conditioned(pipeline, recipe, [square + 0.7])
    assert (weak - strong).abs().max() > 0.01


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("normal", "is not KIND=PATH"),
        ("normals=x", "'normals' is not known; use normal, depth"),
        ("depth:big=x", "'big' is no number"),
        ("depth:3=x", "must be from 0 to 2"),
    ],
)
def test_a_misspelt_controlnet_is_told(text, said):
    with pytest.raises(ValueError, match=said):
        parse_control(text)
    assert parse_control("Depth:0.6=some/where") == Control("depth", "some/where", 0.6)
