"""One identity from many frames: the points' model, the joint fit, following, texture."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from deca.codes import Codes, Crop
from deca.encode import Encoding, Framing
from deca.guess import Guess
from deca.landmark_points import LandmarkPoints, landmark_points
from deca.landmarks import Landmarks
from deca.multi_texture import MultiTextureConfig, combined
from deca.sequence import disagreement, mean_identity, spread_keyframes
from deca.sequence_follow import FollowConfig, Look, Trail, follow, runs
from deca.sequence_gaps import fill_gaps
from deca.sequence_model import PointModel, Poses
from deca.sequence_solve import Sightings, solve_identity, solve_poses
from deca.sequence_view import whole_camera
from deca.texture import TextureConfig
from flame.arkit import ARKIT_INDEX
from flame.camera import Camera
from flame.load import load_head
from flame.params import Params, params_from_arkit
from flame.rotation import axis_angle_to_matrix


@pytest.fixture(scope="module")
def flame():
    return load_head()


@pytest.fixture(scope="module")
def carried(flame):
    whole = landmark_points(flame)
    kept = torch.cat([torch.arange(68), torch.arange(68, len(whole), 3)])
    return LandmarkPoints(whole.corners[kept], whole.bary[kept], kept, whole.rest[kept])


@pytest.fixture(scope="module")
def model(flame, carried):
    return PointModel(flame, carried, 40)


def some_poses(count, generator, turn=0.35):
    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    weights = 0.5 * torch.rand(count, 52, generator=generator, dtype=torch.float64) ** 3
    weights[:, ARKIT_INDEX["mouthClose"]] = 0
    spread = torch.tensor([0.4, 1.0, 0.3], dtype=torch.float64)
    rotation = axis_angle_to_matrix(turn * normal(count, 3) * spread)
    return Poses(
        weights,
        rotation,
        2.1 + 0.1 * normal(count),
        0.01 * normal(count, 2),
        torch.full((count,), 0.12, dtype=torch.float64),
    )


def test_points_fall_where_the_head_model_and_camera_put_them(flame, carried, model, generator):
    poses = some_poses(3, generator)
    shape = torch.zeros(flame.n_shape).double()
    shape[:40] = torch.randn(40, generator=generator).double()
    scale, shift, tangent = whole_camera(poses, model, shape)
    camera = Camera(scale, shift, torch.rad2deg(2 * torch.atan(tangent)))
    params = params_from_arkit(shape.expand(3, -1), poses.weights)
    from flame.rotation import matrix_to_axis_angle

    params = dataclasses.replace(params, root=matrix_to_axis_angle(poses.rotation))
    exact = load_head().double()
    posed = exact(params).verts
    points = torch.einsum("blck,lc->blk", posed[:, carried.corners], carried.bary.double())
    pixels = camera.project(points, (2, 2))[..., :2]
    wanted = torch.stack([pixels[..., 0] - 1, 1 - pixels[..., 1]], -1)
    torch.testing.assert_close(model.project(shape, poses), wanted, atol=1e-6, rtol=0)


def test_slopes_are_those_of_small_steps(model, generator):
    poses = some_poses(2, generator)
    shape = torch.randn(40, generator=generator).double()
    slopes = model.slopes(shape, poses, with_shape=True)
    step = 1e-6
    for column in (0, 17, 25, 48, 52, 53, 54, 55, 56, 57):
        move = torch.zeros(2, 58).double()
        move[:, column] = step
        moved = (model.project(shape, poses.moved(move)) - slopes.seen) / step
        torch.testing.assert_close(moved, slopes.by_pose[..., column], atol=2e-5, rtol=0)
    for column in (0, 20, 39):
        other = shape.clone()
        other[column] += step
        moved = (model.project(other, poses) - slopes.seen) / step
        torch.testing.assert_close(moved, slopes.by_shape[..., column], atol=2e-5, rtol=0)
    longer = dataclasses.replace(poses, tangent=poses.tangent * math.exp(step))
    moved = (model.project(shape, longer) - slopes.seen) / step
    torch.testing.assert_close(moved, slopes.by_log_focal, atol=2e-5, rtol=0)


def sighted(model, shape, poses, noise, generator):
    exact = model.project(shape, poses)
    points = exact + noise * torch.randn(exact.shape, generator=generator, dtype=torch.float64)
    blur = 0.12 * torch.randn(poses.weights.shape, generator=generator, dtype=torch.float64)
    turn = 0.05 * torch.randn(len(exact), 3, generator=generator, dtype=torch.float64)
    guess = dataclasses.replace(
        poses,
        weights=(poses.weights + blur).clamp(0, 1),
        rotation=axis_angle_to_matrix(turn) @ poses.rotation,
        log_scale=poses.log_scale + 0.03,
    )
    return Sightings(points, torch.full(points.shape[:2], noise, dtype=torch.float64), guess)


def test_poses_of_a_known_identity_are_found_from_exact_points(model, generator):
    shape = torch.randn(40, generator=generator).double()
    truth = some_poses(4, generator)
    seen = sighted(model, shape, truth, 1e-9, generator)
    found, residual = solve_poses(model, shape, seen, torch.full((52,), 10.0))
    assert float(residual.max()) < 2e-3
    turned = (found.rotation.mT @ truth.rotation).diagonal(dim1=1, dim2=2).sum(1)
    assert float(torch.rad2deg(torch.arccos(((turned - 1) / 2).clamp(-1, 1))).max()) < 0.8
    opening = ARKIT_INDEX["jawOpen"]
    assert float((found.weights - truth.weights)[:, opening].abs().max()) < 0.03


def test_eight_views_know_a_face_better_than_one(model, generator):
    shape = torch.randn(40, generator=generator).double()
    truth = some_poses(8, generator)
    seen = sighted(model, shape, truth, 0.008, generator)
    sigma, mean = torch.full((52,), 0.12), torch.zeros(40)
    face = model.on_surface(shape, torch.zeros(1, 52).double())[0]

    def error(count):
        part = Sightings(seen.points[:count], seen.sigmas[:count], seen.guess[:count])
        fit = solve_identity(model, mean, torch.ones(40), part, sigma, one_camera=True)
        found = model.on_surface(fit.shape.double(), torch.zeros(1, 52).double())[0]
        offset = found - face
        return float((offset - offset.mean(0)).norm(dim=1).median())

    nothing = model.on_surface(mean.double(), torch.zeros(1, 52).double())[0] - face
    start = float((nothing - nothing.mean(0)).norm(dim=1).median())
    one, eight = error(1), error(8)
    assert eight < 0.8 * one < 0.8 * start


def test_two_people_disagree_and_one_person_does_not(model, generator):
    sigma = torch.full((52,), 0.12)

    def fitted(shape):
        seen = sighted(model, shape, some_poses(5, generator), 0.008, generator)
        return solve_identity(model, torch.zeros(40), torch.ones(40), seen, sigma)

    person, other = (torch.randn(40, generator=generator).double() for _ in range(2))
    first = fitted(person)
    assert disagreement(first, fitted(person)) < 1.0
    assert disagreement(first, fitted(other)) > 1.4


def look(center=(100.0, 100.0), side=60.0, yaw_deg=0.0, shape=None, confidence=0.9):
    turn = axis_angle_to_matrix(torch.tensor([0.0, math.radians(yaw_deg), 0.0]))
    return Look(
        points=torch.zeros(70, 2), sigmas=torch.full((70,), 0.02),
        shape=torch.zeros(10) if shape is None else shape, weights=torch.zeros(52),
        rotation=turn, scale=8.0, shift=torch.zeros(2), tangent=0.1, albedo=torch.zeros(43),
        center=torch.tensor(center), side=side, view=1.0, roll_rad=0.0, confidence=confidence,
    )  # fmt: skip


def test_crowded_turns_share_their_say_in_the_mean_identity():
    many = [look(shape=torch.zeros(10)) for _ in range(16)]
    one = look(yaw_deg=40.0, shape=torch.ones(10))
    shape, sigma, _ = mean_identity([*many, one], torch.ones(10))
    # sixteen like frames weigh as four
    torch.testing.assert_close(shape, torch.full((10,), 1 / 5), atol=1e-5, rtol=0)
    assert float(sigma.max()) < 1


def test_keyframes_are_spread_over_the_turns():
    trail = Trail(looks=[look(yaw_deg=yaw) for yaw in (0, 1, 2, 0, 1, 30, 31, -30, 0)])
    chosen = spread_keyframes(trail, list(range(9)), 3)
    assert len(chosen) == 3
    assert {7} < set(chosen) and set(chosen) & {5, 6}


def encoding(box):
    """What an encoder says that sees a face exactly where it is told to look."""
    low, side = box[:2], float((box[2:] - box[:2]).max())
    places = torch.rand(70, 2, generator=torch.Generator().manual_seed(1)) * side
    places[0], places[1] = 0.0, side
    places[36:42, 1] = places[42:48, 1] = side / 3
    points = (low + places)[None]
    found = Landmarks(
        points[:, 68:], torch.full((1, 2), 0.4), points[:, :68], torch.full((1, 68), 0.4), 0.99, 0.0
    )
    params = Params.zeros(1, 10, 52)
    camera = Camera(torch.tensor([8.0]), torch.zeros(1, 2), torch.tensor([12.0]))
    codes = Codes(params, torch.zeros(1, 43), camera, torch.zeros(1, 9, 3))
    matrix = torch.eye(3) * (64 / side)
    matrix[:2, 2] = -low * 64 / side
    matrix[2, 2] = 1
    crop = Crop(torch.zeros(1, 3, 64, 64), matrix)
    guess = Guess(params, camera, torch.ones(10), torch.ones(52))
    return Encoding(codes, crop, found, Framing(low + side / 2, side, 0.0), guess)


class Scene:
    """Bright squares are faces; the encoder and the finder look at the pixels."""

    def __init__(self):
        self.searches = 0

    def picture(self, *boxes, wall=40):
        pixels = np.full((120, 160, 3), wall, np.uint8)
        for left, top, side in boxes:
            pixels[top : top + side, left : left + side] = 250
        return pixels

    def find(self, image):
        from skimage.measure import label, regionprops

        self.searches += 1
        found = regionprops(label(image[0, 0].numpy() > 0.9))
        return [
            torch.tensor([r.bbox[1], r.bbox[0], r.bbox[3], r.bbox[2]], dtype=torch.float32)
            for r in found
        ]

    def encode(self, image, box):
        boxes = self.find(image)
        self.searches -= 1
        middle = (box[:2] + box[2:]) / 2
        near = [b for b in boxes if float(((b[:2] + b[2:]) / 2 - middle).abs().max()) < 20]
        if near:
            return encoding(near[0])
        lost = encoding(box)
        landmarks = dataclasses.replace(lost.landmarks, face_probability=0.1)
        return dataclasses.replace(lost, landmarks=landmarks)


def followed(pictures, scene, config=None):
    return follow(((k / 25, p) for k, p in enumerate(pictures)), scene.encode, scene.find, config)


def test_the_largest_face_of_the_start_is_followed_with_one_search():
    scene = Scene()
    pictures = [scene.picture((10 + 2 * k, 30, 30), (100, 40, 40 + k // 4)) for k in range(12)]
    pictures[5:] = [scene.picture((10 + 2 * k, 20, 60), (100, 40, 42)) for k in range(5, 12)]
    trail = followed(pictures, scene)
    assert trail.faces_at_start == 2 and scene.searches == 1
    assert all(found is not None and float(found.center[0]) > 100 for found in trail.looks)


def test_frames_between_searches_are_looked_at_backwards():
    scene = Scene()
    gone = [scene.picture() for _ in range(4)]
    there = [scene.picture((60, 40, 40)) for _ in range(12)]
    trail = followed([*gone, *there], scene, FollowConfig(eager=2, patience=6, cut=0.9))
    assert [found is None for found in trail.looks] == [True] * 4 + [False] * 12
    assert scene.searches == 3


def test_a_cut_is_noticed_and_a_moving_face_is_not_one():
    scene = Scene()
    pan = [scene.picture((20 + 3 * k, 40, 40)) for k in range(10)]
    other = [scene.picture((90, 20, 44), wall=140) for _ in range(5)]
    trail = followed([*pan, *other], scene)
    assert trail.cuts == [10]
    assert trail.found == list(range(15))


def test_runs_are_first_and_last_indices():
    assert list(runs([True, True, False, True])) == [(0, 1), (3, 3)]
    assert list(runs([])) == []


def test_short_gaps_are_bridged_and_long_ones_rest():
    times = torch.arange(100, dtype=torch.float64) / 25
    seen = torch.ones(100, dtype=torch.bool)
    seen[10:14] = False
    seen[30:90] = False
    values = torch.full((100, 1), 0.8)
    values[14:] = 0.4
    filled = fill_gaps(values, times, seen, torch.zeros(1))[:, 0]
    assert bool((filled[10:14].diff() < 0).all()) and 0.4 < float(filled[12]) < 0.8
    assert float(filled[60]) == 0.0
    torch.testing.assert_close(filled[seen], values[seen][:, 0])
    assert float(filled.diff().abs().max()) < 0.25


def test_a_face_that_is_never_seen_rests():
    filled = fill_gaps(
        torch.ones(3, 2), torch.arange(3).double(), torch.zeros(3, dtype=torch.bool), torch.zeros(2)
    )
    assert not bool(filled.any())


def test_one_view_that_disagrees_is_outvoted_and_brightness_is_matched(generator):
    side = 128
    truth = 0.2 * torch.randn(3, 8, 8, generator=generator)
    truth = torch.nn.functional.interpolate(truth[None], (side, side), mode="bilinear")[0]
    views = truth.expand(4, -1, -1, -1).clone()
    views[1] += torch.tensor([0.3, 0.25, 0.35])[:, None, None]  # another exposure
    views[2, :, 40:60, 40:60] -= 1.0  # hair
    weights = torch.ones(4, side, side)
    config = MultiTextureConfig(texture=TextureConfig(side=side))
    found, weight = combined(views, weights, torch.tensor([1.0, 0.9, 0.9, 0.9]), config)
    offset = (found - truth).mean((1, 2), keepdim=True)
    assert float((found - truth - offset).abs().max()) < 0.08
    assert float(weight.min()) == 1.0
