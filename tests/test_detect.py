"""Finding the face: the user's word, the cascade, the network; refusals in one sentence."""

from __future__ import annotations

import pytest
import torch

from deca.detect import cascade_boxes, choose, detect, overlap, scan_boxes
from deca.landmarks import LandmarkNet, load_landmark_net


@pytest.fixture(scope="module")
def net() -> LandmarkNet:
    return load_landmark_net()


@pytest.fixture(scope="module")
def astronaut() -> torch.Tensor:
    from skimage import data

    return torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255


NOSE = torch.tensor([223.0, 127.0])  # of the astronaut, read off the picture


def test_the_astronaut_is_found(astronaut, net):
    found = detect(astronaut, net=net, backend="lbp")
    low, high = found.box[:2], found.box[2:]
    assert bool((low < NOSE).all()) and bool((high > NOSE).all())
    assert 90 < float((high - low).max()) < 150  # chin to brows and some forehead
    assert found.backend == "lbp" and found.points68 is not None


def test_a_large_photo_gives_the_same_place(astronaut, net):
    large = torch.nn.functional.interpolate(astronaut, scale_factor=3, mode="bilinear")
    small = detect(astronaut, net=net, backend="lbp").box
    found = detect(large, net=net, backend="lbp").box / 3
    assert overlap(found, small) > 0.85


def test_a_tilted_face_is_found(astronaut, net):
    angle = torch.tensor(0.45)
    y, x = torch.meshgrid(torch.arange(512.0) + 0.5, torch.arange(512.0) + 0.5, indexing="ij")
    turn = torch.stack(
        [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
    )
    place = (torch.stack([x, y], -1) - NOSE) @ turn + NOSE
    tilted = torch.nn.functional.grid_sample(
        astronaut, place[None] / 256 - 1, align_corners=False, padding_mode="border"
    )
    box = detect(tilted, net=net, backend="lbp").box
    assert bool((box[:2] < NOSE).all()) and bool((box[2:] > NOSE).all())


def test_two_faces_alike_are_refused_with_the_way_out(astronaut, net):
    pair = torch.cat([astronaut[..., 100:350], astronaut[..., 100:350].flip(-1)], dim=-1)
    with pytest.raises(ValueError, match=r"^2 faces were found in the picture; crop it .*--box"):
        detect(pair, net=net, backend="lbp")


def test_a_small_bystander_is_passed_over(astronaut, net):
    scene = astronaut.clone()
    tiny = torch.nn.functional.interpolate(
        astronaut[..., 40:200, 140:300], size=(44, 44), mode="bilinear", antialias=True
    )
    scene[..., 20:64, 420:464] = tiny
    box = detect(scene, net=net, backend="lbp").box
    assert bool((box[:2] < NOSE).all()) and bool((box[2:] > NOSE).all())


def test_a_picture_without_a_face_is_refused_with_the_way_out(net):
    from skimage import data

    coffee = torch.from_numpy(data.coffee()).permute(2, 0, 1)[None].float() / 255
    with pytest.raises(ValueError, match=r"^no face was found in the picture; .*--box"):
        detect(coffee, net=net, backend="lbp")


def test_a_tiny_face_is_refused(astronaut, net):
    tiny = torch.nn.functional.interpolate(
        astronaut, size=(64, 64), mode="bilinear", antialias=True
    )
    with pytest.raises(ValueError, match=r"pixels large, too small|no face was found"):
        detect(tiny, net=net, backend="lbp")
    with pytest.raises(ValueError, match=r"only 10 pixels large, too small to reconstruct"):
        detect(tiny, box=(5.0, 5.0, 15.0, 15.0))


def test_the_users_box_and_points_are_taken_as_given(astronaut):
    box = detect(astronaut, box=(176.0, 70.0, 276.0, 170.0))
    assert box.backend == "box" and box.box.tolist() == [176.0, 70.0, 276.0, 170.0]
    points = torch.rand(1, 68, 2) * 100 + 100
    given = detect(astronaut, points=points)
    assert given.backend == "points" and torch.equal(given.points68, points)
    torch.testing.assert_close(given.box[:2], points[0].amin(0))


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((50.0, 10.0, 20.0, 90.0), "is not left, top, right, bottom"),
        ((600.0, 10.0, 700.0, 90.0), "lies outside the 512x512 picture"),
        ((float("nan"), 10.0, 700.0, 90.0), "is not left, top, right, bottom"),
    ],
)
def test_wrong_boxes_are_refused(astronaut, box, words):
    with pytest.raises(ValueError, match=words):
        detect(astronaut, box=box)


def test_an_unknown_backend_names_the_known_ones(astronaut):
    with pytest.raises(ValueError, match="choose one of auto, face-alignment, mediapipe, lbp"):
        detect(astronaut, backend="dlib")


def test_backends_that_are_not_there_say_what_is_missing(astronaut, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"needs .*s3fd-619a316812\.pth, which is not there"):
        detect(astronaut, backend="face-alignment")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs mediapipe 0\.10\.21, or a later one and"):
        detect(astronaut, backend="mediapipe")


def test_the_largest_face_wins_only_if_the_others_are_small():
    big, half, small = (torch.tensor([0.0, 0, side, side]) for side in (100, 50, 30))
    assert choose([small, big]) == 1
    with pytest.raises(ValueError, match="2 faces"):
        choose([big, half, small])


def test_overlap_is_intersection_over_union():
    first = torch.tensor([0.0, 0, 2, 2])
    assert overlap(first, torch.tensor([1.0, 0, 3, 2])) == pytest.approx(1 / 3)
    assert overlap(first, torch.tensor([2.0, 2, 3, 3])) == 0


def test_the_network_itself_sees_the_astronaut(astronaut, net):
    boxes = scan_boxes(astronaut[..., :256, 100:356].contiguous(), net)
    middle = NOSE - torch.tensor([100.0, 0.0])
    assert any(bool((box[:2] < middle).all() and (middle < box[2:]).all()) for box in boxes)


def test_a_picture_too_small_for_the_cascade_has_no_boxes():
    assert cascade_boxes(torch.zeros(1, 3, 20, 300)) == []
