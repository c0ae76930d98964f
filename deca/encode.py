"""One pass from a portrait to codes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deca.code_net import (
    CODE_SIDE,
    CODE_VIEW,
    CodeNet,
    codes_of,
    mean_answer,
    mirrored_answer,
)
from deca.codes import Codes, Crop
from deca.crop import crop_square
from deca.detect import detect
from deca.exposure import exposed
from deca.guess import Guess
from deca.landmark_points import N_LANDMARKS
from deca.landmarks import Landmarks, crop_of
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

    codes: Codes  # for the crop of side CODE_VIEW * framing.side
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
    finder, _ = net.complete()
    detection = detect(portrait.image, box=box, net=finder)
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
    """Codes of the face in `box` (left, top, right, bottom; px): points, a tight crop, codes."""
    finder, skin = net.complete()
    found = finder.predict(image, box, passes=passes, thorough=False)
    center, side, roll = crop_of(torch.cat([found.points68, found.points], dim=1)[0])
    crop = crop_square(image, center, CODE_VIEW * side, CODE_SIDE, roll)
    both = net(torch.cat([crop.image, crop.image.flip(-1)]))
    answer = mean_answer(both[:1], mirrored_answer(both[1:], net.flip()))
    codes = codes_of(answer, flame, net.landmarks.points)
    codes = exposed(codes, crop.image, flame, skin)
    points = crop.picture_points(answer.landmarks.mean[0] * CODE_SIDE)[None]
    sigmas = answer.landmarks.log_sigma.exp() * CODE_VIEW * side
    landmarks = dataclasses.replace(
        found,
        points=points[:, N_LANDMARKS:],
        sigmas=sigmas[:, N_LANDMARKS:],
        points68=points[:, :N_LANDMARKS],
        sigmas68=sigmas[:, :N_LANDMARKS],
    )
    guess = Guess(codes.params, codes.camera, net.shape_sigma, net.weight_sigma)
    return Encoding(codes, crop, landmarks, Framing(center, side, roll), guess)


def seen_by(camera: Camera, ratio: float) -> Camera:
    """The camera of a crop with the same middle whose side is `ratio` times as long."""
    nearness = camera.nearness()
    scale = camera.scale / ratio
    return dataclasses.replace(
        camera, scale=scale, fov_deg=torch.rad2deg(2 * torch.atan(nearness / scale))
    )
