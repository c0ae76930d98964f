"""Finding the face: the user's word, the shipped detector; refusals in one sentence."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from deca.crop import crop_square
from deca.detect import choose, detect, detect_all, overlap
from deca.landmarks import LandmarkNet, load_landmark_net


@pytest.fixture(scope="module")
def net() -> LandmarkNet:
    return load_landmark_net()


@pytest.fixture(scope="module")
def astronaut() -> Tensor:
    from skimage import data

    return torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255


NOSE = torch.tensor([223.0, 127.0])  # of the astronaut, read off the picture
# The tip of the nose and the height from brows to chin in photographs, read off them, in shares of
# the picture's width, height and height.
PHOTOS = {
    "bluford": (0.47, 0.54, 0.32),
    "hopper": (0.625, 0.375, 0.22),
    "jemison": (0.525, 0.57, 0.375),
    "quayle": (0.50, 0.47, 0.44),
    "ride": (0.465, 0.53, 0.335),
    "takano": (0.50, 0.545, 0.42),
}


@pytest.fixture(params=sorted(PHOTOS))
def portrait(request, root: Path) -> tuple[Tensor, Tensor, float]:
    """A photograph of 400 px or less, the tip of the nose, and the face's height; px."""
    path = root.parent / "shared" / "data" / "photos" / f"{request.param}.jpg"
    if not path.is_file():
        pytest.skip(f"needs the photograph {path.name}")
    with Image.open(path) as opened:
        opened.draft("RGB", (400, 400))
        picture = opened.convert("RGB")
    picture.thumbnail((400, 400))
    x, y, high = PHOTOS[request.param]
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    width, height = picture.size
    return pixels, torch.tensor([x * width, y * height]), high * height


def test_real_portraits_have_one_face_where_people_see_it(portrait, net):
    picture, nose, high = portrait
    (found,) = detect_all(picture, net=net, backend="shipped")
    assert holds(found.box, nose)
    # the bounding square: wider than brows to chin where the face is wide, or laughs
    assert 0.9 < float(found.box[3] - found.box[1]) / high < 1.5


def test_real_portraits_on_their_side_in_grey_keep_their_face(portrait, net):
    picture, nose, _ = portrait
    aside = picture.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    turned_by = math.radians(50)
    side = 1.5 * max(aside.shape[-2:])
    view = crop_square(aside, nose, side, 400, -turned_by).image
    assert any(
        holds(face.box, torch.tensor([200.0, 200.0]))
        for face in detect_all(view, net=net, backend="shipped")
    )


def turned(image: Tensor, angle: float) -> Tensor:
    """The picture about the astronaut's nose, clockwise by `angle`."""
    return crop_square(image, NOSE, 440.0, 440, -angle).image


def holds(box: Tensor, point: Tensor) -> bool:
    """Whether a point lies in the middle part of a box."""
    middle, side = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).max()
    return bool(((point - middle).abs() < 0.3 * side).all())


def test_the_astronaut_is_found(astronaut, net):
    found = detect(astronaut, net=net, backend="shipped")
    assert holds(found.box, NOSE)
    assert 85 < float((found.box[2:] - found.box[:2]).max()) < 150  # chin to brows, by eye
    assert found.backend == "shipped" and found.points68 is not None and found.score > 0.5


def test_a_large_photo_gives_the_same_place(astronaut, net):
    large = torch.nn.functional.interpolate(astronaut, scale_factor=3, mode="bilinear")
    small = detect(astronaut, net=net, backend="shipped").box
    assert overlap(detect(large, net=net, backend="shipped").box / 3, small) > 0.85


@pytest.mark.parametrize("angle_deg", [-60.0, -30.0, 30.0, 60.0])
def test_a_tilted_face_is_found_with_its_roll(astronaut, net, angle_deg):
    angle = math.radians(angle_deg)
    found = detect(turned(astronaut, angle), net=net, backend="shipped")
    assert holds(found.box, torch.tensor([220.0, 220.0]))
    own = detect(astronaut, net=net, backend="shipped").roll_rad
    assert found.roll_rad - own == pytest.approx(angle, abs=0.25)


def test_a_picture_in_a_mirror_gives_the_mirrored_place(astronaut, net):
    plain = detect(astronaut, net=net, backend="shipped").box
    left, top, right, bottom = detect(astronaut.flip(-1), net=net, backend="shipped").box
    assert overlap(torch.stack([512 - right, top, 512 - left, bottom]), plain) > 0.8


def test_a_grey_and_faded_face_is_found(astronaut, net):
    grey = 0.35 + 0.3 * astronaut.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert holds(detect(grey, net=net, backend="shipped").box, NOSE)


def test_a_face_of_26_pixels_is_found(astronaut, net):
    scale = 26 / 115  # the astronaut's face has about 115
    shrunk = torch.nn.functional.interpolate(
        astronaut, scale_factor=scale, mode="bilinear", antialias=True
    )
    scene = torch.full((1, 3, 480, 640), 0.4)
    scene[..., 200 : 200 + shrunk.shape[2], 300 : 300 + shrunk.shape[3]] = shrunk
    found = detect_all(scene, net=net, backend="shipped")
    assert len(found) == 1
    assert holds(found[0].box, NOSE * scale + torch.tensor([300.0, 200.0]))


def test_every_face_is_counted(astronaut, net):
    person = astronaut[..., :240, 110:340]
    row = torch.cat([person, person.flip(-1), person], dim=-1)
    found = detect_all(row, net=net, backend="shipped")
    assert len(found) == 3
    middles = sorted(float(face.box[[0, 2]].mean()) for face in found)
    assert middles == pytest.approx([113.0, 347.0, 573.0], abs=20)


def test_two_faces_alike_are_refused_with_the_way_out(astronaut, net):
    pair = torch.cat([astronaut[..., 100:350], astronaut[..., 100:350].flip(-1)], dim=-1)
    with pytest.raises(ValueError, match=r"^2 faces were found in the picture; crop it .*--box"):
        detect(pair, net=net, backend="shipped")


def test_a_small_bystander_is_passed_over(astronaut, net):
    scene = astronaut.clone()
    tiny = torch.nn.functional.interpolate(
        astronaut[..., 40:200, 140:300], size=(44, 44), mode="bilinear", antialias=True
    )
    scene[..., 20:64, 420:464] = tiny
    assert len(detect_all(scene, net=net, backend="shipped")) == 2
    assert holds(detect(scene, net=net, backend="shipped").box, NOSE)


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket", "page", "coins"])
def test_a_picture_without_a_face_is_refused_with_the_way_out(net, name):
    from skimage import data

    pixels = np.array(Image.fromarray(getattr(data, name)()).convert("RGB"))
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    assert detect_all(picture, net=net, backend="shipped") == []
    with pytest.raises(ValueError, match=r"^no face was found in the picture; .*--box"):
        detect(picture, net=net, backend="shipped")


def test_a_tiny_face_is_refused(astronaut, net):
    tiny = torch.nn.functional.interpolate(
        astronaut, size=(64, 64), mode="bilinear", antialias=True
    )
    with pytest.raises(ValueError, match=r"pixels large, too small|no face was found"):
        detect(tiny, net=net, backend="shipped")
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
    with pytest.raises(ValueError, match="choose one of auto, face-alignment, mediapipe, shipped"):
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
