"""One pass from a portrait to codes, and their refinement against the points."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deca.code_net import CodeNet, code_flip, codes_of, mean_answer, mirrored_answer
from deca.codes import Codes, Crop
from deca.crop import crop_square
from deca.detect import detect
from deca.fit_points import Guess, PointFit, PointFitConfig, fit_points
from deca.landmarks import CROP_SIDE, CROP_VIEW, Landmarks, crop_of
from deca.portrait import Portrait
from flame.camera import Camera
from flame.model import Flame

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Framing:
    """An upright square of a picture round a face."""

    center: Float[Tensor, 2]  # px
    side: float  # px, of the face's points; crops are larger
    roll_rad: float


@dataclass(frozen=True, eq=False)
class Encoding:
    """What the encoder says of one face."""

    codes: Codes  # for the crop of side CROP_VIEW * framing.side
    crop: Crop
    landmarks: Landmarks  # picture px
    framing: Framing
    guess: Guess  # the codes as a prior, for crops of the same view


def encode(
    portrait: Portrait,
    flame: Flame,
    net: CodeNet,
    *,
    box: Box | None = None,
    passes: int = 2,
) -> Encoding:
    """Codes of the one face of a portrait; errors are those of `deca.detect.detect`."""
    detection = detect(portrait.image, box=box, net=net.landmarks)
    return encode_box(portrait.image, detection.box, flame, net, passes=passes)


@torch.no_grad()
def encode_box(
    image: Float[Tensor, "1 3 H W"],
    box: Float[Tensor, " 4"],
    flame: Flame,
    net: CodeNet,
    *,
    passes: int = 2,
) -> Encoding:
    """Codes of the face in `box` (left, top, right, bottom; px): points, an upright crop, codes."""
    landmarks = net.landmarks.predict(image, box, passes=passes, thorough=False)
    points = torch.cat([landmarks.points68, landmarks.points], dim=1)[0]
    center, side, roll = crop_of(points)
    crop = crop_square(image, center, CROP_VIEW * side, CROP_SIDE, roll)
    both = net(torch.cat([crop.image, crop.image.flip(-1)]))
    flip = code_flip(flame, net.landmarks.points, net.config.n_shape)
    answer = mean_answer(both[:1], mirrored_answer(both[1:], flip))
    codes = codes_of(answer, flame, net.landmarks.points)
    guess = Guess(codes.params, codes.camera, net.shape_sigma, net.weight_sigma)
    return Encoding(codes, crop, landmarks, Framing(center, side, roll), guess)


def refine(
    encoding: Encoding, flame: Flame, net: CodeNet, config: PointFitConfig | None = None
) -> PointFit:
    """Codes that also put the head's points where they were seen; the encoder is the prior."""
    found, ratio = encoding.landmarks, CROP_SIDE / (CROP_VIEW * encoding.framing.side)
    points = torch.cat([found.points68, found.points], dim=1)[0]
    sigmas = torch.cat([found.sigmas68, found.sigmas], dim=1)[0]
    seen = encoding.crop.points(points)
    return fit_points(
        flame, net.landmarks.points, seen, sigmas * ratio, CROP_SIDE, config, encoding.guess
    )


def seen_by(camera: Camera, ratio: float) -> Camera:
    """The camera of a crop with the same middle whose side is `ratio` times as long."""
    nearness = camera.nearness()
    scale = camera.scale / ratio
    return dataclasses.replace(
        camera, scale=scale, fov_deg=torch.rad2deg(2 * torch.atan(nearness / scale))
    )
