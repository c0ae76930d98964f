"""One pass from a portrait to codes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deca.code_net import (
    CODE_VIEW,
    CodeNet,
    codes_of,
    mean_answer,
    mirrored_answer,
    settled,
)
from deca.codes import Codes, Crop
from deca.crop import crop_square
from deca.detect import detect
from deca.exposure import exposed
from deca.guess import Guess
from deca.landmark_points import N_LANDMARKS
from deca.landmarks import LandmarkNet, Landmarks, crop_of
from deca.portrait import Portrait
from flame.camera import Camera
from flame.model import Flame
from flame.params import Params
from flame.rotation import axis_angle_to_matrix, matrix_to_axis_angle

Box = tuple[float, float, float, float]

STEEP_RAD = 0.87  # 50 degrees: a tilt beyond which the landmark network needs the crop turned
_TURNED_VIEW = 2.4  # side of that crop over the box's
# share of the held-out error that is held against a weight: an unsure network says little already
_DOUBT = 0.5


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
    return encode_box(
        portrait.image, detection.box, flame, net, passes=passes, roll_rad=detection.roll_rad
    )


@torch.no_grad()
def encode_box(
    image: Float[Tensor, "1 3 H W"],
    box: Float[Tensor, " 4"],
    flame: Flame,
    net: CodeNet,
    *,
    passes: int = 2,
    roll_rad: float | None = None,
) -> Encoding:
    """Codes of the face in `box` (left, top, right, bottom; px): points, a tight crop, codes.

    `roll_rad` is the face's tilt as `crop_of` has it, to half a right angle; None finds it out.
    Codes are of the upright crop; `turn_in_picture` turns the head back.
    """
    finder, skin = net.complete()
    found = face_points(image, box, finder, passes=passes, roll_rad=roll_rad)
    center, side, roll = crop_of(torch.cat([found.points68, found.points], dim=1)[0])
    crop = crop_square(image, center, CODE_VIEW * side, net.side, roll)
    both, flip = net(torch.cat([crop.image, crop.image.flip(-1)])), net.flip()
    answer = mean_answer(both[:1], mirrored_answer(both[1:], flip))
    # what was found out on few faces is not the same left and right
    sigma = (net.weight_sigma + net.weight_sigma[flip.weights]) / 2
    answer = dataclasses.replace(answer, weights=settled(answer.weights, _DOUBT * sigma))
    codes = codes_of(answer, flame, net.landmarks.points)
    codes = exposed(codes, crop.image, flame, skin)
    points = crop.picture_points(answer.landmarks.mean[0] * net.side)[None]
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


def face_points(
    image: Float[Tensor, "1 3 H W"],
    box: Float[Tensor, " 4"],
    finder: LandmarkNet,
    *,
    passes: int = 2,
    thorough: bool = False,
    roll_rad: float | None = None,
) -> Landmarks:
    """Points of the face in `box`, tilted any way; `roll_rad` is its tilt, None where unknown.

    Of an unknown tilt the face is first looked at as it stands, and turned by right angles only
    where the network sees no face so.
    """

    def look(tilt_rad: float) -> Landmarks:
        return _turned(image, box, finder, tilt_rad, passes, thorough)

    if roll_rad is not None:
        return look(roll_rad)
    found = look(0.0)
    tilt = crop_of(torch.cat([found.points68, found.points], dim=1)[0])[2]
    if found.is_face() and abs(tilt) < STEEP_RAD:
        return found
    guesses = (tilt,) if found.is_face() else (math.pi / 2, -math.pi / 2, math.pi)
    best = min((look(guess) for guess in guesses), key=_doubt)
    return best if best.is_face() and _doubt(best) < _doubt(found) else found


def _doubt(found: Landmarks) -> float:
    return found.uncertainty() + found.disagreement + 0.1 * (1 - found.face_probability)


def _turned(
    image: Tensor,
    box: Float[Tensor, " 4"],
    finder: LandmarkNet,
    roll_rad: float,
    passes: int,
    thorough: bool,
) -> Landmarks:
    """Points looked for in the picture as it stands, or in an upright crop of a steep face."""
    if abs(roll_rad) < STEEP_RAD:
        return finder.predict(image, box, passes=passes, thorough=thorough)
    side = float((box[2:] - box[:2]).max())
    size = min(max(round(_TURNED_VIEW * side), 64), 512)
    crop = crop_square(image, (box[:2] + box[2:]) / 2, _TURNED_VIEW * side, size, roll_rad)
    half = size / _TURNED_VIEW / 2
    upright = box.new_tensor([size / 2 - half] * 2 + [size / 2 + half] * 2)
    found = finder.predict(crop.image, upright, passes=passes, thorough=thorough)
    zoom = _TURNED_VIEW * side / size
    return dataclasses.replace(
        found,
        points=crop.picture_points(found.points),
        points68=crop.picture_points(found.points68),
        sigmas=found.sigmas * zoom,
        sigmas68=found.sigmas68 * zoom,
    )


def turn_in_picture(
    params: Params, crop_from_image: Float[Tensor, "3 3"] | None = None
) -> Float[Tensor, "B 3"]:
    """The head's turn as the whole picture shows it, axis-angle: neck, root and the crop's tilt.

    `crop_from_image` takes picture pixels to those of the crop that the parameters were seen in;
    None is a crop that is not tilted.
    """
    turn = axis_angle_to_matrix(params.root.double()) @ axis_angle_to_matrix(params.neck.double())
    if crop_from_image is not None:
        # y points down in pictures: what is clockwise there is negative about z
        tilt = math.atan2(float(crop_from_image[1, 0]), float(crop_from_image[0, 0]))
        turn = axis_angle_to_matrix(turn.new_tensor([[0.0, 0.0, tilt]])) @ turn
    return matrix_to_axis_angle(turn).to(params.root.dtype)


def seen_by(camera: Camera, ratio: float) -> Camera:
    """The camera of a crop with the same middle whose side is `ratio` times as long."""
    nearness = camera.nearness()
    scale = camera.scale / ratio
    return dataclasses.replace(
        camera, scale=scale, fov_deg=torch.rad2deg(2 * torch.atan(nearness / scale))
    )
