"""Where the faces of a picture are: the detector's network over a pyramid of the picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from deca.face_net import BASE_SIDE, SIDES, STRIDE, FaceMaps, FaceNet
from flame.records import TensorRecord

LOOK_SIDE = 640  # px; larger pictures are searched at this size
_FINE_SIDE = 320  # smaller ones are searched at twice their size
_MARGIN = 1.2  # answers beyond SIDES by more than this are of another level
_CELLS = 16  # px; sides of pictures for the network are multiples


@dataclass(frozen=True, eq=False)
class Faces(TensorRecord):
    """Faces of one picture, the surest first; pixels."""

    boxes: Float[Tensor, "N 4"]  # left, top, right, bottom of the points' square, brows to chin
    scores: Float[Tensor, " N"]  # 0..1
    rolls: Float[Tensor, " N"]  # radians, clockwise


@torch.inference_mode()
def search(image: Float[Tensor, "1 3 H W"], net: FaceNet, *, least: float) -> Faces:
    """Every face with a score of `least` or more; faces cover each other by half at most."""
    height, width = image.shape[-2:]
    longest = max(height, width)
    scale = LOOK_SIDE / longest if longest > LOOK_SIDE else 2.0 if longest < _FINE_SIDE else 1.0
    found: list[Tensor] = []
    level = _resized(image, scale)
    while True:
        found.append(_candidates(net(_padded(level)), scale, least))
        # the largest face may be as large as the picture
        if max(level.shape[-2:]) <= SIDES[1]:
            break
        scale /= 2
        level = _resized(level, 0.5)
    rows = torch.cat(found)
    rows = rows[rows[:, 4].argsort(descending=True)]
    kept: list[int] = []
    boxes = rows[:, :4]
    for index in range(len(rows)):
        if not kept or float(_covered(boxes[index], boxes[kept]).max()) < 0.5:
            kept.append(index)
    rows = rows[kept].clone()
    return Faces(rows[:, :4], rows[:, 4], rows[:, 5])


def _resized(image: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return image
    if scale == 0.5:
        return F.avg_pool2d(image, 2, ceil_mode=True, count_include_pad=False)
    return F.interpolate(
        image, scale_factor=scale, mode="bilinear", antialias=scale < 1, align_corners=False,
        recompute_scale_factor=False,
    )  # fmt: skip


def _padded(image: Tensor) -> Tensor:
    """Grey beyond the edge, which the network knows from its own padding."""
    height, width = image.shape[-2:]
    padded = F.pad(image, (0, -width % _CELLS, 0, -height % _CELLS), value=0.5)
    return padded.contiguous(memory_format=torch.channels_last)


def _candidates(maps: FaceMaps, scale: float, least: float) -> Tensor:
    """Rows of left, top, right, bottom, score, roll from the peaks of a level's heat map."""
    score = torch.sigmoid(maps.logit[0])
    peak = F.max_pool2d(maps.logit, 3, 1, 1)[0] == maps.logit[0]
    side = BASE_SIDE * maps.log_side[0].clamp(-3, 3).exp()
    known = (side > SIDES[0] / _MARGIN) & (side < SIDES[1] * _MARGIN)
    row, column = (peak & known & (score >= least)).nonzero(as_tuple=True)
    place = maps.place[0, :, row, column]
    x, y = (column + 0.5 + place[0]) * STRIDE, (row + 0.5 + place[1]) * STRIDE
    half = side[row, column] / 2
    cosine, sine = maps.upright[0, :, row, column]
    box = torch.stack([x - half, y - half, x + half, y + half], -1) / scale
    roll = torch.atan2(sine, cosine)
    return torch.cat([box, score[row, column, None], roll[:, None]], 1)


def _covered(box: Float[Tensor, " 4"], others: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    """The common area as a share of the smaller box."""
    low, high = torch.maximum(box[:2], others[:, :2]), torch.minimum(box[2:], others[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1)
    return common / torch.minimum(areas, (box[2:] - box[:2]).prod()).clamp(min=1e-9)
