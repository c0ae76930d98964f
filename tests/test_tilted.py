"""Heads that lie on a side or stand on their head give what they give upright."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plain_people import plain_wardrobe

from assets.image import read_image
from avatar.face_models import ShippedModel
from deca.code_net import CodeNet, load_code_net
from deca.detect import Detection, detect, detect_all, turned_back
from deca.encode import encode_box, turn_in_picture
from deca.landmarks import crop_of
from deca.portrait import Portrait
from deca.reconstruct import locate
from deca.synth import Studio
from deca.synth_degrade import on_background
from flame.load import load_head
from flame.model import Flame
from flame.params import Params
from flame.rotation import axis_angle_to_matrix

TILTS = (60, 90, 120, 180)
PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "photos"


@pytest.fixture(scope="module")
def flame() -> Flame:
    return load_head()


@pytest.fixture(scope="module")
def net(flame) -> CodeNet:
    return load_code_net(flame)


@pytest.fixture(scope="module")
def portrait(flame) -> Image.Image:
    studio = Studio(flame, plain_wardrobe())
    turns = torch.tensor([[12.0, -4.0, 3.0]])
    generator = torch.Generator().manual_seed(11)
    (shot,) = studio.shoot(1, generator=generator, turns=turns)
    back = torch.full((*shot.rgba.shape[:2], 3), 120, dtype=torch.uint8)
    return pil(on_background(torch.from_numpy(np.ascontiguousarray(shot.rgba))[None], back[None]))


def pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image[0].permute(1, 2, 0) * 255).round().byte().numpy())


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255


def tilted(image: Image.Image, degrees: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The picture turned clockwise on a larger canvas, and where its pixels went (2 x 3)."""
    turned = image.rotate(-degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=(120,) * 3)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([[cosine, -sine], [sine, cosine]])
    before, after = torch.tensor(image.size) / 2, torch.tensor(turned.size) / 2
    return tensor(turned), torch.cat([turn, (after - turn @ before)[:, None]], 1)


def degrees_between(one: torch.Tensor, other: torch.Tensor) -> float:
    trace = float((one.double() @ other.double().T).trace())
    return math.degrees(math.acos(max(-1.0, min(1.0, (trace - 1) / 2))))


def about_z(degrees: float) -> torch.Tensor:
    """A clockwise tilt of the picture, as a rotation with y up and z towards the viewer."""
    return axis_angle_to_matrix(torch.tensor([0.0, 0.0, -math.radians(degrees)]))


@pytest.mark.parametrize("degrees", TILTS)
def test_a_tilted_head_reads_as_the_upright_one(portrait, flame, degrees):
    model = ShippedModel(flame)
    upright = model.read(tensor(portrait))
    image, moved = tilted(portrait, degrees)
    found = model.read(image)
    assert float((found.params.shape - upright.params.shape).square().mean().sqrt()) < 0.12
    expected = about_z(degrees) @ axis_angle_to_matrix(upright.codes["rotation"])
    assert degrees_between(axis_angle_to_matrix(found.codes["rotation"]), expected) < 4
    wanted = upright.landmarks2d @ moved[:, :2].T + moved[:, 2]
    off = (found.landmarks2d - wanted).norm(dim=1).mean()
    assert float(off) < 0.02 * crop_of(wanted)[1]


@pytest.mark.parametrize("name", ["ride.jpg", "bluford.jpg"])
def test_tilted_photos_give_one_person(name, flame, net):
    path = PHOTOS / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    image = pil(read_image(path))
    image.thumbnail((420, 420))
    readings = []
    for degrees in (0, *TILTS):
        turned, _ = tilted(image, degrees)
        face = detect(turned, backend="shipped")
        found = encode_box(turned, face.box, flame, net, roll_rad=face.roll_rad)
        turn = turn_in_picture(found.codes.params, found.crop.matrix)[0]
        readings.append((found, about_z(-degrees) @ axis_angle_to_matrix(turn)))
    first, upright = readings[0]
    for found, turned_back_again in readings[1:]:
        shift = found.codes.params.shape - first.codes.params.shape
        assert float(shift.square().mean().sqrt()) < 0.12
        assert degrees_between(turned_back_again, upright) < 4


def test_create_and_a_box_without_a_tilt_find_it_out(portrait, flame, net):
    image, moved = tilted(portrait, 120)
    upright = locate(Portrait(tensor(portrait), "upright", ""), flame, net)
    wanted = upright.points @ moved[:, :2].T + moved[:, 2]
    low, high = wanted.amin(0), wanted.amax(0)
    boxes = (None, (*low.tolist(), *high.tolist()))
    for box in boxes:
        found = locate(Portrait(image, "tilted", ""), flame, net, box=box)
        assert found.sure
        assert math.degrees(found.roll_rad - upright.roll_rad) == pytest.approx(120, abs=4)
        assert (
            float((found.points - wanted).norm(dim=1).mean()) < 0.02 * upright.encoding.framing.side
        )
        # crops are upright: the head looks up out of them as it did
        shift = found.encoding.codes.params.shape - upright.encoding.codes.params.shape
        assert float(shift.square().mean().sqrt()) < 0.12


def test_an_upright_face_is_looked_at_as_before(portrait, flame, net):
    image = tensor(portrait)
    face = detect(image, backend="shipped")
    plain = net.finder.predict(image, face.box, passes=2, thorough=False)
    for roll_rad in (None, 0.0, face.roll_rad, 0.7):
        found = encode_box(image, face.box, flame, net, roll_rad=roll_rad)
        center, side, roll = crop_of(torch.cat([plain.points68, plain.points], 1)[0])
        assert torch.equal(found.framing.center, center)
        assert (found.framing.side, found.framing.roll_rad) == (side, roll)


def test_points_tell_how_a_face_is_tilted_and_a_box_does_not():
    # eyes on a line that falls by 30 degrees to the right
    points = torch.zeros(1, 68, 2)
    points[0, :, 1] = torch.linspace(0, 80, 68)
    line = 60 * torch.tensor([math.cos(math.radians(30)), math.sin(math.radians(30))])
    points[0, 36:42], points[0, 42:48] = (
        torch.tensor([20.0, 20.0]),
        torch.tensor([20.0, 20.0]) + line,
    )
    image = torch.zeros(1, 3, 100, 100)
    found = detect(image, points=points)
    assert math.degrees(found.roll_rad) == pytest.approx(30, abs=1e-3)
    assert detect(image, box=(10.0, 10.0, 60.0, 60.0)).roll_rad is None


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_faces_of_a_turned_picture_are_put_back(quarters):
    """One bright pixel is followed through the turn that torch itself makes."""
    image = torch.zeros(1, 1, 5, 8)
    image[0, 0, 1, 6] = 1
    row, column = (torch.rot90(image, quarters, (2, 3))[0, 0] == 1).nonzero()[0].tolist()
    spot = torch.tensor([column + 0.5, row + 0.5])
    box = torch.cat([spot - 0.5, spot + 0.5])
    face = Detection(box, spot.expand(1, 68, 2), "shipped", roll_rad=0.1)
    found = turned_back(face, quarters, (8, 5))
    torch.testing.assert_close(found.box, torch.tensor([6.0, 1.0, 7.0, 2.0]))
    torch.testing.assert_close(found.points68[0, 0], torch.tensor([6.5, 1.5]))
    # turned counter-clockwise, the picture showed the face less clockwise than it is
    expected = math.remainder(0.1 + quarters * math.pi / 2, 2 * math.pi)
    assert found.roll_rad == pytest.approx(expected)


def test_a_picture_that_shows_no_face_any_way_round_has_none():
    noise = torch.rand(1, 3, 200, 240, generator=torch.Generator().manual_seed(3))
    assert detect_all(noise, backend="shipped") == []


def test_the_turn_in_the_picture_is_the_crops_tilt_after_the_heads_own(generator):
    own = 0.4 * torch.randn(1, 3, generator=generator)
    rest = Params.zeros(1, 100, 52)
    params = Params(rest.shape, rest.expression, own, rest.neck, rest.jaw, rest.eyes)
    torch.testing.assert_close(turn_in_picture(params), own, atol=1e-5, rtol=0)
    angle = math.radians(110)  # a crop that turns what is tilted clockwise by 110 degrees upright
    matrix = torch.eye(3)
    matrix[:2, :2] = 2 * torch.tensor(
        [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    )
    turned = axis_angle_to_matrix(turn_in_picture(params, matrix))[0]
    torch.testing.assert_close(
        turned, about_z(110) @ axis_angle_to_matrix(own)[0], atol=1e-5, rtol=0
    )
