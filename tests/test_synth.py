"""Random people: labels against a second projection, mirror symmetry, one seed one picture."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from plain_people import plain_wardrobe

from assets.errors import AssetError
from deca.landmark_points import N_LANDMARKS, LandmarkPoints, landmark_points
from deca.synth import Studio
from deca.synth_degrade import FramingConfig, cut, degrade, framing
from deca.synth_people import draw_camera, draw_face, draw_lights, draw_shape
from deca.synth_scene import random_background
from deca.synth_words import caption
from deca.synth_write import main, photograph, write_people
from flame.camera import Camera
from flame.load import load_head
from flame.model import Flame
from flame.params import Params


@pytest.fixture(scope="module")
def flame() -> Flame:
    return load_head()


@pytest.fixture(scope="module")
def studio(flame: Flame) -> Studio:
    return Studio(flame, plain_wardrobe(), 96)


def test_labels_are_where_a_pinhole_written_out_by_hand_puts_the_vertices(flame, generator):
    points = landmark_points(flame)
    posed = flame(Params.zeros(1, flame.n_shape, flame.n_expression)).verts
    camera = draw_camera(points.on(posed)[0], 2.0, generator=generator)
    pixels = camera.project(points.on(posed), (200, 200))[0, :, :2]
    # a pinhole at distance d sees (X, Y, Z) at f X / (d - Z), and its picture's middle at 100
    scale, fov = float(camera.scale), math.radians(float(camera.fov_deg))
    distance = 1 / (scale * math.tan(fov / 2))
    eye = torch.tensor([-float(camera.shift[0, 0]), -float(camera.shift[0, 1]), distance])
    corner = posed[0][points.corners].double()
    place = (corner * points.bary[..., None]).sum(1)
    focal = 100 / math.tan(fov / 2)
    depth = eye[2] - place[:, 2]
    x = 100 + focal * (place[:, 0] - eye[0]) / depth
    y = 100 - focal * (place[:, 1] - eye[1]) / depth
    torch.testing.assert_close(pixels.double(), torch.stack([x, y], -1), atol=2e-3, rtol=0)


def test_a_face_fills_half_of_its_picture(flame, generator):
    points = landmark_points(flame)
    posed = flame(Params.zeros(1, flame.n_shape, flame.n_expression)).verts
    camera = draw_camera(points.on(posed)[0], 2.0, generator=generator)
    pixels = camera.project(points.on(posed), (200, 200))[0, :, :2]
    extent = (pixels.amax(0) - pixels.amin(0)).max()
    middle = (pixels.amax(0) + pixels.amin(0)) / 2
    assert extent == pytest.approx(100, abs=1)
    torch.testing.assert_close(middle, torch.tensor([100.0, 100.0]), atol=0.5, rtol=0)


def test_flipping_the_points_is_mirroring_the_head(flame):
    points = landmark_points(flame)
    mirrored = points.rest * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(points.rest[points.flip], mirrored, atol=1.5e-3, rtol=0)
    assert torch.equal(points.flip[points.flip], torch.arange(len(points)))
    # vertices are mirrored exactly; the 68 are where the statistics' authors clicked them
    dense = slice(N_LANDMARKS, None)
    torch.testing.assert_close(points.rest[points.flip][dense], mirrored[dense], atol=1e-6, rtol=0)


def test_the_last_two_points_are_the_pupils(flame):
    pupils = landmark_points(flame).rest[-2:]
    joints = flame(Params.zeros(1, flame.n_shape, flame.n_expression)).joints[0, 3:]
    torch.testing.assert_close(pupils[:, :2], joints[:, :2], atol=5e-4, rtol=0)
    assert bool((pupils[:, 2] > joints[:, 2] + 0.01).all())
    assert pupils[0, 0] > 0 > pupils[1, 0]  # the subject's left is at +x


def test_another_head_is_refused_in_one_sentence(flame):
    points = landmark_points(flame)
    points.check(flame)
    moved = LandmarkPoints(points.corners, points.bary, points.flip, points.rest + 0.002)
    with pytest.raises(AssetError, match=r"another head: a point lies 3\.5 mm away"):
        moved.check(flame)


def test_one_seed_gives_one_picture_and_labels(studio):
    first, again, other = (
        studio.shoot(1, generator=torch.Generator().manual_seed(seed))[0] for seed in (3, 3, 4)
    )
    assert np.array_equal(first.rgba, again.rgba)
    assert torch.equal(first.points, again.points)
    assert first.attributes == again.attributes
    assert not np.array_equal(first.rgba, other.rgba)


def test_skin_covers_the_labels_of_a_frontal_face(studio):
    generator = torch.Generator().manual_seed(11)
    for shot in studio.shoot(3, generator=generator):
        inside = shot.points.long().clamp(0, 95)
        alpha = torch.from_numpy(shot.rgba[..., 3].astype(np.float32))[None, None]
        # a label on the far outline may lie on the pixel beside
        near = torch.nn.functional.max_pool2d(alpha, 3, 1, 1)[0, 0]
        assert (near[inside[:, 1], inside[:, 0]] > 0).float().mean() > 0.99


def test_a_framed_crop_shows_under_each_label_what_the_picture_showed(flame, generator):
    side = 64
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    ramp = torch.stack([x * 3 + 20, y * 3 + 20, x * 0 + 9, x * 0 + 255], -1).to(torch.uint8)
    points = landmark_points(flame)
    flat = points.rest[:, :2] * torch.tensor([1.0, -1.0]) * 120 + 32
    matrix, labels = framing(
        flat.expand(6, -1, -1).contiguous(), FramingConfig(), flip=points.flip, generator=generator
    )
    backs = torch.zeros(6, 128, 128, 3, dtype=torch.uint8)
    crops = cut(ramp.expand(6, -1, -1, -1).contiguous(), backs, matrix)
    grid = labels[:, None] * 2 - 1
    seen = torch.nn.functional.grid_sample(crops, grid, align_corners=False)[:, :2, 0]
    shown = seen.transpose(1, 2) * 255
    truth = (flat - 0.5) * 3 + 20  # of the ramp at each point
    inside = (labels > 0.02).all(-1) & (labels < 0.98).all(-1)
    # mirrored crops carry each point's partner
    right = (shown - truth).abs().amax(-1)
    left = (shown - truth[points.flip]).abs().amax(-1)
    for item in range(6):
        best = torch.minimum(right[item][inside[item]].max(), left[item][inside[item]].max())
        assert best < 1.5


def test_identities_are_standard_normal_and_bounded(generator):
    shape = draw_shape(4000, 10, generator=generator)
    assert shape.abs().max() <= 2.5
    torch.testing.assert_close(shape.mean(0), torch.zeros(10), atol=0.06, rtol=0)
    torch.testing.assert_close(shape.std(0), torch.ones(10), atol=0.06, rtol=0)


def test_expressions_stay_in_range_and_both_eyes_look_one_way(generator):
    for _ in range(60):
        face = draw_face(generator=generator)
        assert float(face.weights.min()) >= 0 and float(face.weights.max()) <= 1
        out_left, in_left = face.weights[3], face.weights[2]
        out_right, in_right = face.weights[10], face.weights[9]
        turn_left, turn_right = (out_left - in_left) * 30, (in_right - out_right) * 30
        assert abs(float(turn_left - turn_right)) < 7  # what convergence allows, degrees
        assert face.word


def test_lights_are_unit_directions_of_finite_strength(generator):
    for _ in range(20):
        lights = draw_lights(generator=generator)
        torch.testing.assert_close(lights.directions.norm(dim=-1), torch.ones(1, 2))
        assert float(lights.colours.min()) >= 0 and float(lights.colours.max()) < 4


def test_degraded_crops_stay_pictures(generator):
    crops = torch.rand(12, 3, 64, 64, generator=generator)
    before = crops.clone()
    spoiled = degrade(crops, generator=generator)
    assert torch.equal(crops, before)
    assert float(spoiled.min()) >= 0 and float(spoiled.max()) <= 1


def test_people_are_written_with_all_that_is_known_of_them(studio, flame, tmp_path):
    write_people(studio, 2, tmp_path, seed=5)
    with np.load(tmp_path / "labels.npz") as labels:
        assert labels["points"].shape == (2, len(studio.points), 2)
        parts, points = labels["parts"].tolist(), torch.from_numpy(labels["points"])
        corners, bary = torch.from_numpy(labels["corners"]), torch.from_numpy(labels["bary"])
    lines = [json.loads(line) for line in (tmp_path / "people.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and "background" in lines[0] and lines[0]["caption"]
    with Image.open(tmp_path / "000001.jpg") as picture:
        assert picture.format == "JPEG" and picture.size == (96, 96)
    with Image.open(tmp_path / "parts" / "000001.png") as picture:
        assert picture.mode == "P" and set(np.unique(picture)) <= set(range(len(parts)))
        seen = {parts[index] for index in np.unique(picture)} - {"background"}
    assert set(lines[1]["visible"].split()) <= seen
    # the codes alone give the landmarks
    with np.load(tmp_path / "codes.npz", allow_pickle=False) as rows:
        code = {name: torch.from_numpy(rows[name]) for name in rows.files}
    names = ("shape", "expression", "root", "neck", "jaw", "eyes")
    verts = flame(Params(*(code[name] for name in names))).verts
    camera = Camera(code["scale"], code["shift"], code["fov_deg"])
    place = torch.einsum("blck,lc->blk", verts[:, corners], bary)
    shown = camera.project(place, (96, 96))[..., :2]
    torch.testing.assert_close(shown, points, atol=2e-3, rtol=0)


def test_no_people_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--count", "0", "--out", str(tmp_path)])
    assert "--count is 0" in capsys.readouterr().err


def test_captions_name_what_is_seen(studio):
    shot = studio.shoot(1, generator=torch.Generator().manual_seed(2))[0]
    words = caption({**shot.attributes, "glasses": True, "hat": False, "visible": "glasses"})
    assert str(shot.attributes["skin"]) in words and "no hair" in words and "glasses" in words
    assert "shirt" not in words and "eyes" not in words.replace("eyes closed", "")
    photo = photograph(shot, np.random.default_rng(0))
    assert photo.rgb.shape == (96, 96, 3)


def test_backgrounds_differ():
    rng = np.random.default_rng(0)
    pictures = [random_background(32, rng) for _ in range(12)]
    assert all(picture.shape == (32, 32, 3) for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 12
