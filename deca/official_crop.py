"""The crops that the published encoders were trained on.

Published code counts pixel centres as whole numbers and maps a box's corners to the centres of the
crop's corner pixels; here centres are at .5, so that the same crop has a slightly other matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deca.codes import Crop

SIDES = {"deca": 224, "smirk": 224, "arcface": 112}
# eye, eye, nose tip, mouth corner, mouth corner from the picture's left, in whole-number centres
ARCFACE_POINTS = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)


@dataclass(frozen=True)
class CropConfig:
    """How boxes become crops; the defaults are the published ones but for `published_sampling`."""

    landmark_scale: float = 1.1  # of the box round 68 points
    deca_scale: float = 1.25
    smirk_scale: float = 1.4
    detector_shift: float = 0.12  # of a face detector's box, downwards
    # Published code takes one bilinear sample a pixel, which aliases where a large face shrinks;
    # the default takes area means there. Crops that do not shrink are the same.
    published_sampling: bool = False

    def __post_init__(self) -> None:
        if min(self.landmark_scale, self.deca_scale, self.smirk_scale) <= 0:
            raise ValueError("crop scales must be above 0")


def official_crop(
    image: Float[Tensor, "1 3 H W"],
    points68: Float[Tensor, "68 2"],
    kind: str,
    config: CropConfig | None = None,
) -> Crop:
    """The crop of kind deca, smirk or arcface round a face's 68 points; black beyond the picture.

    SMIRK's was made round MediaPipe's points, whose box is a little higher than that of the 68.
    """
    config = config or CropConfig()
    if kind == "arcface":
        return aligned_crop(image, points68, config)
    if kind not in SIDES:
        raise ValueError(f"no crop is called {kind!r}; known are {', '.join(SIDES)}")
    low, high = points68.amin(0), points68.amax(0)
    side = float((high - low).sum()) / 2
    if kind == "deca":
        side = float(int(side * config.landmark_scale * config.deca_scale))
    else:
        side = float(int(side * config.smirk_scale))
    return box_crop(image, (low + high) / 2, side, SIDES[kind], config)


def detector_crop(
    image: Float[Tensor, "1 3 H W"],
    box: Float[Tensor, 4],
    config: CropConfig | None = None,
) -> Crop:
    """DECA's crop round a face detector's box (left, top, right, bottom) in pixels."""
    config = config or CropConfig()
    size = float(box[2] - box[0] + box[3] - box[1]) / 2
    center = (box[:2] + box[2:]) / 2
    center = center + center.new_tensor([0.0, config.detector_shift * size])
    return box_crop(image, center, float(int(size * config.deca_scale)), SIDES["deca"], config)


def whole_picture(
    image: Float[Tensor, "1 3 H W"], size: int = 224, config: CropConfig | None = None
) -> Crop:
    """The picture as its own crop; one that is not square is fitted as well as a square can be."""
    height, width = image.shape[-2:]
    corners = torch.tensor(
        [[0.5, 0.5], [0.5, height - 0.5], [width - 0.5, 0.5]], dtype=torch.float64
    )
    return _resampled(image, similarity(corners, _corners(size)), size, config or CropConfig())


def box_crop(
    image: Float[Tensor, "1 3 H W"],
    center: Float[Tensor, 2],
    side: float,
    size: int,
    config: CropConfig | None = None,
) -> Crop:
    """The square of `side` pixels round `center`, its corners at the corner pixels' centres."""
    if not (side >= 1 and math.isfinite(side)):
        raise ValueError(f"the face's box has a side of {side} pixels; its points fall together")
    half = side / 2
    left, top = (center.double() - half).unbind()
    right, bottom = (center.double() + half).unbind()
    corners = torch.stack(
        [torch.stack([left, top]), torch.stack([left, bottom]), torch.stack([right, top])]
    )
    return _resampled(image, similarity(corners, _corners(size)), size, config or CropConfig())


def aligned_crop(
    image: Float[Tensor, "1 3 H W"],
    points68: Float[Tensor, "68 2"],
    config: CropConfig | None = None,
) -> Crop:
    """ArcFace's upright crop of 112 px: five points as near as can be to where it wants them."""
    goals = torch.tensor(ARCFACE_POINTS, dtype=torch.float64) + 0.5
    matrix = similarity(five_points(points68.double()), goals)
    return _resampled(image, matrix, SIDES["arcface"], config or CropConfig())


def five_points(points68: Float[Tensor, "68 2"]) -> Float[Tensor, "5 2"]:
    """Eyes (the mean of each one's lid points), nose tip and mouth corners."""
    eyes = [points68[36:42].mean(0), points68[42:48].mean(0)]
    return torch.stack([*eyes, points68[30], points68[48], points68[54]])


def similarity(points: Float[Tensor, "N 2"], goals: Float[Tensor, "N 2"]) -> Float[Tensor, "3 3"]:
    """The turn, scale and shift that bring points nearest to goals, in squares; never a mirror.

    Umeyama 1991 for two dimensions, where it is a least-squares division of complex numbers.
    """
    start = torch.view_as_complex(points.double().contiguous())
    end = torch.view_as_complex(goals.double().contiguous())
    from_middle, to_middle = start.mean(), end.mean()
    power = (start - from_middle).abs().square().sum()
    if float(power) == 0:
        raise ValueError("the points fall together; no similarity is defined")
    turn = ((start - from_middle).conj() * (end - to_middle)).sum() / power
    shift = to_middle - turn * from_middle
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[0, 0] = matrix[1, 1] = turn.real
    matrix[1, 0], matrix[0, 1] = turn.imag, -turn.imag
    matrix[0, 2], matrix[1, 2] = shift.real, shift.imag
    return matrix.to(points.dtype)


def _corners(size: int) -> Float[Tensor, "3 2"]:
    last = size - 0.5
    return torch.tensor([[0.5, 0.5], [0.5, last], [last, 0.5]], dtype=torch.float64)


def _resampled(
    image: Float[Tensor, "1 3 H W"],
    matrix: Float[Tensor, "3 3"],
    size: int,
    config: CropConfig,
) -> Crop:
    """The picture under a similarity, zero beyond its border."""
    exact = matrix.double()
    shrink = 1 / float(exact[:2, 0].norm())
    finer = 1 if config.published_sampling else max(1, int(shrink + 0.5))
    place = (torch.arange(size * finer, dtype=torch.float64) + 0.5) / finer
    grid_y, grid_x = torch.meshgrid(place, place, indexing="ij")
    wanted = torch.stack([grid_x, grid_y], dim=-1)
    inverse = exact.inverse()
    source = wanted @ inverse[:2, :2].T + inverse[:2, 2]
    height, width = image.shape[-2:]
    grid = (source / source.new_tensor([width, height]) * 2 - 1).to(image.dtype)
    sampled = torch.nn.functional.grid_sample(
        image, grid[None], mode="bilinear", padding_mode="zeros", align_corners=False
    )
    if finer > 1:
        sampled = torch.nn.functional.avg_pool2d(sampled, finer)
    return Crop(sampled, exact.to(image.dtype))
