"""The face detector's network, pyramid and training patches, at places known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assets.errors import AssetError
from assets.weights import write_tensors
from deca.face_net import (
    STRIDE,
    FaceConfig,
    FaceMaps,
    FaceNet,
    folded,
    load_face_net,
    save_face_net,
)
from deca.face_search import search
from deca.train_faces_data import PATCH, Placed, answer_of, warp


def small_net(generator: torch.Generator) -> FaceNet:
    net = FaceNet(FaceConfig(widths=(4, 6, 8, 8), blocks=(0, 1, 1, 1)))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.3 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return net.eval()


def test_folding_batch_norm_changes_no_answer(generator):
    net = small_net(generator)
    image = torch.rand(1, 3, 64, 96, generator=generator)
    with torch.no_grad():
        plain, quick = net(image), folded(net)(image)
    torch.testing.assert_close(quick.logit, plain.logit, atol=1e-4, rtol=0)
    torch.testing.assert_close(quick.upright, plain.upright, atol=1e-4, rtol=0)


def test_a_saved_network_comes_back_within_the_precision_of_halves(generator, tmp_path):
    net = small_net(generator)
    save_face_net(net, tmp_path / "faces.safetensors", {})
    back = load_face_net(tmp_path / "faces.safetensors")
    for name, value in net.state_dict().items():
        torch.testing.assert_close(
            back.state_dict()[name].float(), value.float(), atol=1e-3, rtol=1e-3
        )


def test_a_file_of_another_kind_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "other.safetensors"
    write_tensors({"a": torch.zeros(2)}, path, {"format": "landmark-net-1"})
    with pytest.raises(AssetError, match=r"no face detector .*'landmark-net-1'.*deca.train faces"):
        load_face_net(path)


class Finder(FaceNet):
    """Answers with a face of 40 px where a picture is brightest, if that is white there."""

    def forward(self, images: Tensor) -> FaceMaps:
        bright = nn.functional.max_pool2d(images.mean(1), STRIDE)
        best = bright == bright.amax()
        logit = torch.where(best & (bright > 0.9), 3.0, -9.0)
        zero = torch.zeros_like(logit)
        side = torch.full_like(logit, math.log(40 / 32))
        return FaceMaps(
            logit, torch.stack([zero, zero], 1), side, torch.stack([zero + 0.8, zero + 0.6], 1)
        )


def test_a_place_in_a_large_picture_is_given_in_its_own_pixels():
    image = torch.zeros(1, 3, 960, 1280)
    image[..., 480:496, 320:336] = 1.0  # one cell of the picture at half its size
    faces = search(image, Finder().eval(), least=0.5)
    torch.testing.assert_close(
        faces.boxes[0], torch.tensor([328.0 - 40, 488 - 40, 328 + 40, 488 + 40])
    )
    assert float(faces.rolls[0]) == pytest.approx(math.atan2(0.6, 0.8))
    assert float(faces.scores[0]) == pytest.approx(1 / (1 + math.exp(-3)))


def test_no_answer_is_no_face():
    faces = search(torch.zeros(1, 3, 100, 300), Finder().eval(), least=0.5)
    assert faces.boxes.shape == (0, 4)


def one_face(middle: tuple[float, float], side: float, **other: float) -> Placed:
    roll = other.get("roll", 0.0)
    return Placed(
        torch.tensor([[middle]]),
        torch.tensor([[side]]),
        torch.tensor([[[math.sin(roll), -math.cos(roll)]]]),
        torch.tensor([[other.get("turn", 0.0)]]),
        torch.tensor([[other.get("visible", 1.0)]]),
    )


def test_the_answer_names_cell_offset_side_and_roll_of_a_face():
    answer = answer_of(one_face((83.0, 46.0), 48.0, roll=0.4))
    row, column = 5, 10  # 46 = 5.75 cells of 8 px, 83 = 10.375
    assert float(answer.heat[0, row, column]) == 1.0
    assert int((answer.heat > 0.99).sum()) == 1
    torch.testing.assert_close(answer.place[0, :, row, column], torch.tensor([-0.125, 0.25]))
    assert float(answer.log_side[0, row, column]) == pytest.approx(math.log(1.5))
    torch.testing.assert_close(
        answer.upright[0, :, row, column], torch.tensor([math.cos(0.4), math.sin(0.4)])
    )


@pytest.mark.parametrize(
    ("other", "side", "heat", "care"),
    [
        ({}, 40.0, 1.0, 1.0),
        ({"turn": 88.0}, 40.0, 1.0, 1.0),
        ({"turn": 110.0}, 40.0, 0.0, 0.0),  # nobody's business
        ({"turn": 170.0}, 40.0, 0.0, 1.0),  # the back of a head is no face
        ({"visible": 0.4}, 40.0, 0.0, 0.0),
        ({}, 90.0, 0.0, 0.0),
        ({}, 300.0, 0.0, 1.0),  # another level's
        ({}, 8.0, 0.0, 0.0),
    ],
)
def test_only_faces_that_can_be_seen_are_asked_for(other, side, heat, care):
    answer = answer_of(one_face((84.0, 84.0), side, **other))
    assert float(answer.heat[0, 10, 10]) == heat
    assert float(answer.care[0, 10, 10]) == care


def test_the_mirrored_answer_is_the_answer_to_the_mirrored_face():
    plain = answer_of(one_face((83.0, 46.0), 48.0, roll=0.4)).mirrored()
    other = answer_of(one_face((PATCH - 83.0, 46.0), 48.0, roll=-0.4))
    torch.testing.assert_close(plain.heat, other.heat)
    column = (PATCH - 83) // STRIDE
    torch.testing.assert_close(plain.place[0, :, 5, column], other.place[0, :, 5, column])
    torch.testing.assert_close(plain.upright[0, :, 5, column], other.upright[0, :, 5, column])


def test_people_are_drawn_where_their_labels_say():
    picture = np.zeros((1, 176, 176, 4), np.uint8)
    picture[0, 60:100, 80:110] = [255, 0, 0, 255]  # x 80..110, y 60..100
    angle, scale = math.pi / 2, 0.5
    turn = scale * torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    shift = torch.tensor([120.0, 20.0])
    nobody = torch.tensor([[0.0, 0.7, 0, 0, 0]])
    cover, color = warp(torch.from_numpy(picture), turn.inverse()[None], shift[None], nobody)
    rows, columns = (cover[0, 0] > 0.5).nonzero(as_tuple=True)
    # x -> y / 2 to the left of 120, y -> 20 + x / 2
    assert (int(columns.min()), int(columns.max()) + 1) == (70, 90)
    assert (int(rows.min()), int(rows.max()) + 1) == (60, 75)
    torch.testing.assert_close(color[0, :, 67, 80], torch.tensor([1.0, 0, 0]))
