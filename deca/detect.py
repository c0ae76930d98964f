"""Finding the faces of a picture, by whatever is at hand; no file is ever downloaded."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from assets.store import user_folder
from deca.crop import crop_square
from deca.face_net import FaceNet, folded, load_face_net
from deca.face_search import search
from deca.landmark_points import N_LANDMARKS
from deca.landmarks import LandmarkNet, Landmarks, crop_of, load_landmark_net
from flame.records import TensorRecord

log = logging.getLogger(__name__)

BACKENDS = ("auto", "face-alignment", "mediapipe", "shipped")
MIN_FACE = 24  # px between chin and brows; below, points are guesses
BYSTANDER = 0.35  # faces smaller than this share of the largest are not what the photo is of

_DOUBTFUL = 0.3  # score of the least candidate, taken if the landmark network agrees
_SURE = (0.57, 0.74)  # scores that are taken at their word, with that network half blind and blind
_BESIDE = 0.12  # more is wanted of such a one beside a face that both networks see
_BLIND = (0.058, 0.14)  # its uncertainty then: on profiles it is more, on no face most
_DOUBTS = 3  # so many candidates are looked at in vain at most
_ASKEW, _SETTLED = 0.15, 0.6  # rad, overlap: points that moved by more are looked at again
_SAME = 0.3  # overlap of two boxes of one face
_UPRIGHT_SIDE, _UPRIGHT_VIEW = 256, 2.4  # px of the crop that the points are looked for in; faces
_QUARTERS = (1, 3, 2)  # turns of a picture in which no face stands upright
_LYING = 0.045  # most uncertainty of the landmark network about faces found there
_FAN_FILES = ("s3fd-619a316812.pth", "2DFAN4-11f355bf06.pth.tar")
_TASK_FILE = "mediapipe/face_landmarker.task"
_MESH_EYES = (33, 263)  # outer corners of its mesh, from the picture's left


@dataclass(frozen=True, eq=False)
class Detection(TensorRecord):
    """One face of a picture, pixels."""

    box: Float[Tensor, " 4"]  # left, top, right, bottom of the face, brows to chin
    points68: Float[Tensor, "1 68 2"] | None  # iBUG, where the backend knows them
    backend: str
    score: float = 1.0  # 0..1, of our own detector
    roll_rad: float | None = 0.0  # clockwise in the picture, as `crop_of` has it; None: unknown


def detect(
    image: Float[Tensor, "1 3 H W"],
    *,
    box: tuple[float, float, float, float] | None = None,
    points: Float[Tensor, "1 68 2"] | None = None,
    backend: str = "auto",
    net: LandmarkNet | None = None,
) -> Detection:
    """The face of a portrait: the user's points or box if given, else the first backend at hand.

    Backends in order: face-alignment if its weights are on disk; MediaPipe if installed with its
    models; the shipped detector with the landmark network `net` (the shipped one by default).
    Smaller faces in the background are passed over; no face, or several of like size, are a
    ValueError.
    """
    _check_backend(backend)
    if points is not None:
        roll_rad = crop_of(points[0])[2]
        return Detection(_box_of(points[0], image), points, "points", roll_rad=roll_rad)
    if box is not None:
        return Detection(_checked_box(box, image), None, "box", roll_rad=None)
    found = detect_all(image, backend=backend, net=net)
    return found[choose([face.box for face in found])]


def detect_all(
    image: Float[Tensor, "1 3 H W"],
    *,
    backend: str = "auto",
    net: LandmarkNet | None = None,
) -> list[Detection]:
    """Every face of a picture, the surest first, by the backend that `detect` would take.

    The shipped detector looks for faces of 24 px and more in a picture of 640, turned up to profile
    and tilted up to 60 degrees, or any way where none is; larger pictures are shrunk.
    """
    _check_backend(backend)
    if backend == "face-alignment" or (backend == "auto" and not _missing_fan()):
        return _by_face_alignment(image)
    if backend == "mediapipe" or (backend == "auto" and _has_mediapipe()):
        return _by_mediapipe(image)
    return shipped_faces(image, _face_net(), net or _landmark_net())


def _check_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown; choose one of {', '.join(BACKENDS)}")


def _checked_box(box: tuple[float, float, float, float], image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    left, top, right, bottom = box
    words = f"the box {tuple(round(float(value), 1) for value in box)}"
    if not all(math.isfinite(value) for value in box) or right <= left or bottom <= top:
        raise ValueError(
            f"{words} is not left, top, right, bottom; give them in pixels, left < right, "
            "top < bottom"
        )
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise ValueError(f"{words} lies outside the {width}x{height} picture; mend its numbers")
    _check_size(min(right - left, bottom - top))
    return torch.tensor(box, dtype=torch.float32)


def _box_of(points: Float[Tensor, "L 2"], image: Tensor) -> Tensor:
    """The bounding box of given points, checked."""
    if not bool(torch.isfinite(points).all()):
        raise ValueError("the 68 points contain NaN or infinity; give pixels")
    low, high = points.amin(0), points.amax(0)
    return _checked_box((*low.tolist(), *high.tolist()), image)


def _check_size(side: float) -> None:
    if side < MIN_FACE:
        raise ValueError(
            f"the face is only {side:.0f} pixels large, too small to reconstruct; give a picture "
            f"whose face has {MIN_FACE} pixels or more, best 300"
        )


def choose(boxes: list[Float[Tensor, " 4"]]) -> int:
    """The index of the face that the portrait is of; none or several alike are a ValueError."""
    if not boxes:
        raise ValueError(
            "no face was found in the picture; give one that shows a face more clearly, or say "
            "where it is with --box x,y,width,height"
        )
    sides = [float((box[2:] - box[:2]).max()) for box in boxes]
    order = sorted(range(len(boxes)), key=lambda index: -sides[index])
    if len(boxes) > 1 and sides[order[1]] >= BYSTANDER * sides[order[0]]:
        rivals = [side for side in sides if side >= BYSTANDER * sides[order[0]]]
        raise ValueError(
            f"{len(rivals)} faces were found in the picture; crop it to one person, or say which "
            "with --box x,y,width,height"
        )
    _check_size(sides[order[0]])
    return order[0]


# --- face-alignment -------------------------------------------------------------------------------


def _missing_fan() -> list[Path]:
    """Files of face-alignment that are not on disk."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return [folder / name for name in _FAN_FILES if not (folder / name).is_file()]


def _by_face_alignment(image: Tensor) -> list[Detection]:
    if missing := _missing_fan():
        raise ValueError(
            f"backend 'face-alignment' needs {missing[0]}, which is not there; fetch it from "
            "https://www.adrianbulat.com/downloads/python-fan/ or choose backend 'shipped'"
        )
    import face_alignment

    finder: Any = face_alignment.FaceAlignment(
        face_alignment.LandmarksType.TWO_D, device="cpu", compile=False
    )
    found = finder.get_landmarks_from_image(_bytes(image)) or []
    faces = [torch.from_numpy(np.asarray(points, np.float32)) for points in found]
    # its heat maps count pixels from their corners
    return [
        Detection(
            torch.cat([face.amin(0), face.amax(0)]) + 0.5,
            face[None] + 0.5,
            "face-alignment",
            roll_rad=crop_of(face)[2],
        )
        for face in faces
    ]


# --- MediaPipe ------------------------------------------------------------------------------------


def _has_mediapipe() -> bool:
    if importlib.util.find_spec("mediapipe") is None:
        return False
    legacy = importlib.util.find_spec("mediapipe.python.solutions") is not None
    return legacy or (user_folder() / _TASK_FILE).is_file()


def _by_mediapipe(image: Tensor) -> list[Detection]:
    if not _has_mediapipe():
        raise ValueError(
            "backend 'mediapipe' needs mediapipe 0.10.21, or a later one and "
            f"{user_folder() / _TASK_FILE}; install it or choose backend 'shipped'"
        )
    import mediapipe

    height, width = image.shape[-2:]
    meshes: list[Any]
    if hasattr(mediapipe, "solutions"):
        mesh = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=5)
        with mesh:
            found = mesh.process(_bytes(image)).multi_face_landmarks or []
        meshes = [face.landmark for face in found]
    else:
        vision = mediapipe.tasks.vision
        options = vision.FaceLandmarkerOptions(
            base_options=mediapipe.tasks.BaseOptions(
                model_asset_path=str(user_folder() / _TASK_FILE)
            ),
            num_faces=5,
        )
        with vision.FaceLandmarker.create_from_options(options) as finder:
            picture = mediapipe.Image(mediapipe.ImageFormat.SRGB, _bytes(image))
            meshes = list(finder.detect(picture).face_landmarks)
    found_faces = []
    for mesh_points in meshes:
        points = torch.tensor([[point.x * width, point.y * height] for point in mesh_points])
        # its 468 points are not the 68: published tables between them are off by 4 % of the eyes'
        # span
        box = torch.cat([points.amin(0), points.amax(0)])
        line = points[_MESH_EYES[1]] - points[_MESH_EYES[0]]
        roll_rad = math.atan2(float(line[1]), float(line[0]))
        found_faces.append(Detection(box, None, "mediapipe", roll_rad=roll_rad))
    return found_faces


def _bytes(image: Tensor) -> NDArray[np.uint8]:
    pixels = (image[0].clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())


# --- our detector and our landmark network --------------------------------------------------------


@cache
def _landmark_net() -> LandmarkNet:
    return load_landmark_net()


@cache
def _face_net() -> FaceNet:
    return folded(load_face_net())


def shipped_faces(
    image: Float[Tensor, "1 3 H W"], finder: FaceNet, net: LandmarkNet
) -> list[Detection]:
    """The detector's faces; those that it doubts only where the landmark network sees one too.

    Where no face is upright, the picture is searched lying on its sides and on its head, and both
    networks must agree.
    """
    if faces := _standing(image, finder, net):
        return faces
    lying: list[Detection] = []
    for quarters in _QUARTERS:
        turned = torch.rot90(image, quarters, (2, 3))
        lying += [
            turned_back(face, quarters, (image.shape[-1], image.shape[-2]))
            for face in _standing(turned, finder, net)
            if _beyond_doubt(turned, face, net)
        ]
    kept: list[Detection] = []
    # a face askew is seen in two turns
    for face in sorted(lying, key=lambda face: -face.score):
        if all(overlap(face.box, other.box) <= _SAME for other in kept):
            kept.append(face)
    return kept


def _beyond_doubt(image: Tensor, face: Detection, net: LandmarkNet) -> bool:
    """Whether the landmark network is sure of a face, also when it looks once more.

    Three turns of a picture hold three times as much that may be taken for a face, and seldom one.
    """
    if face.points68 is None:
        return False
    seen, _, _ = _looked_at(image, face.box, face.roll_rad or 0.0, net)
    return seen.is_face() and seen.uncertainty() < _LYING


def turned_back(face: Detection, quarters: int, size: tuple[int, int]) -> Detection:
    """A face of a turned picture in the picture itself, of `size` (width, height).

    The picture was turned counter-clockwise by `quarters` of a full turn, as `torch.rot90` does.
    """
    widths = [size[k % 2] for k in range(quarters)]

    def back(points: Float[Tensor, "*N 2"]) -> Float[Tensor, "*N 2"]:
        for width in reversed(widths):
            points = torch.stack([width - points[..., 1], points[..., 0]], -1)
        return points

    ends = back(face.box.view(2, 2))
    roll = (face.roll_rad or 0.0) + quarters * math.pi / 2
    return dataclasses.replace(
        face,
        box=torch.cat([ends.amin(0), ends.amax(0)]),
        points68=None if face.points68 is None else back(face.points68),
        roll_rad=math.remainder(roll, 2 * math.pi),
    )


def _standing(
    image: Float[Tensor, "1 3 H W"], finder: FaceNet, net: LandmarkNet
) -> list[Detection]:
    """The faces of a picture as it stands."""
    found = search(image, finder, least=_DOUBTFUL)
    faces: list[Detection] = []
    unseen: list[tuple[Detection, float]] = []  # by the landmark network, and the score wanted
    doubts = 0
    for box, score, roll in zip(
        found.boxes, found.scores.tolist(), found.rolls.tolist(), strict=True
    ):
        if doubts == _DOUBTS:
            break
        seen, points, tilt = _looked_at(image, box, roll, net)
        square = _square(points)
        middle = (square[:2] + square[2:]) / 2
        agreed = seen.is_face() and bool(((middle > box[:2]) & (middle < box[2:])).all())
        log.debug(
            "candidate %s: score %.2f, face %.2f, uncertainty %.3f, agreed %s",
            box.tolist(), score, seen.face_probability, seen.uncertainty(), agreed,
        )  # fmt: skip
        if any(overlap(face.box, square if agreed else box) > _SAME for face in faces):
            continue
        if agreed:
            faces.append(Detection(square, points[None, :N_LANDMARKS], "shipped", score, tilt))
        elif score >= _wanted(seen):
            unseen.append((Detection(box.clone(), None, "shipped", score, roll), _wanted(seen)))
        else:
            doubts += 1
    more = _BESIDE if faces else 0.0
    for face, wanted in unseen:
        if face.score >= wanted + more and all(
            overlap(face.box, other.box) <= _SAME for other in faces
        ):
            faces.append(face)
    return sorted(faces, key=lambda face: -face.score)


def _wanted(seen: Landmarks) -> float:
    """The score that is taken at its word, by how unsure that network is; it knows no profiles."""
    blind = (seen.uncertainty() - _BLIND[0]) / (_BLIND[1] - _BLIND[0])
    return _SURE[0] + (_SURE[1] - _SURE[0]) * min(max(blind, 0.0), 1.0)


def _looked_at(
    image: Tensor, box: Float[Tensor, " 4"], roll_rad: float, net: LandmarkNet
) -> tuple[Landmarks, Float[Tensor, "L 2"], float]:
    """What the landmark network sees, its points in the picture and their roll.

    Where it is unsure it looks again, at most twice, as the points of the look before suggest.
    """
    seen, points = _seen_upright(image, box, roll_rad, net)
    for _ in range(2):
        square, better_roll = _square(points), crop_of(points)[2]
        settled = abs(better_roll - roll_rad) < _ASKEW and overlap(square, box) > _SETTLED
        if seen.is_face() or settled:
            break
        box, roll_rad = square, better_roll
        seen, points = _seen_upright(image, box, roll_rad, net)
    return seen, points, crop_of(points)[2]


def _seen_upright(
    image: Tensor, box: Float[Tensor, " 4"], roll_rad: float, net: LandmarkNet
) -> tuple[Landmarks, Float[Tensor, "L 2"]]:
    """What the landmark network sees in an upright crop, and its points in the picture."""
    side = float((box[2:] - box[:2]).max())
    crop = crop_square(
        image, (box[:2] + box[2:]) / 2, _UPRIGHT_VIEW * side, _UPRIGHT_SIDE, roll_rad
    )
    half = _UPRIGHT_SIDE / _UPRIGHT_VIEW / 2
    middle = _UPRIGHT_SIDE / 2
    upright = torch.tensor([middle - half, middle - half, middle + half, middle + half])
    seen = net.predict(crop.image, upright, passes=2, thorough=False)
    return seen, crop.picture_points(torch.cat([seen.points68, seen.points], dim=1)[0])


def _square(points: Float[Tensor, "L 2"]) -> Tensor:
    """The bounding square of a face's points."""
    low, high = points.amin(0), points.amax(0)
    half = (high - low).max() / 2
    return torch.cat([(low + high) / 2 - half, (low + high) / 2 + half])


def overlap(first: Float[Tensor, " 4"], second: Float[Tensor, " 4"]) -> float:
    """Intersection over union of two boxes."""
    low, high = torch.maximum(first[:2], second[:2]), torch.minimum(first[2:], second[2:])
    common = float((high - low).clamp(min=0).prod())
    areas = float((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod())
    return common / max(areas - common, 1e-9)
