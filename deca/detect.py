"""Finding the one face of a portrait, by whatever is at hand; no file is ever downloaded."""

from __future__ import annotations

import importlib.util
import logging
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from assets.store import user_folder
from deca.crop import crop_square
from deca.landmarks import CROP_SIDE, CROP_VIEW, LandmarkNet, Landmarks, load_landmark_net
from flame.records import TensorRecord

log = logging.getLogger(__name__)

BACKENDS = ("auto", "face-alignment", "mediapipe", "lbp")
MIN_FACE = 24  # px between chin and brows; below, points are guesses
BYSTANDER = 0.35  # faces smaller than this share of the largest are not what the photo is of

_LOOK_SIDE = 640  # px; larger pictures are searched at this size
_FINE_SIDE = 320  # smaller ones are searched at twice their size
# Where the points' bounding square lies in a box of the cascade, in the box's sides: centre, side.
_LBP_CENTER, _LBP_SIDE = (0.51, 0.60), 1.2
_FAN_FILES = ("s3fd-619a316812.pth", "2DFAN4-11f355bf06.pth.tar")
_TASK_FILE = "mediapipe/face_landmarker.task"
_Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Detection(TensorRecord):
    """One face of a picture, pixels."""

    box: Float[Tensor, " 4"]  # left, top, right, bottom of the face, brows to chin
    points68: Float[Tensor, "1 68 2"] | None  # iBUG, where the backend knows them
    backend: str


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
    models; scikit-image's cascade, checked by our landmark network (`net`, the shipped one by
    default). Smaller faces in the background are passed over; no face, or several of like size,
    are a ValueError.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    if points is not None:
        return Detection(_box_of(points[0], image), points, "points")
    if box is not None:
        return Detection(_checked_box(box, image), None, "box")
    if backend == "face-alignment" or (backend == "auto" and not _missing_fan()):
        return _by_face_alignment(image)
    if backend == "mediapipe" or (backend == "auto" and _has_mediapipe()):
        return _by_mediapipe(image)
    return _by_cascade(image, net or _shipped_net())


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
            "no face was found in the picture; give one that shows a face from the front, or say "
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


def _by_face_alignment(image: Tensor) -> Detection:
    if missing := _missing_fan():
        raise ValueError(
            f"backend 'face-alignment' needs {missing[0]}, which is not there; fetch it from "
            "https://www.adrianbulat.com/downloads/python-fan/ or choose backend 'lbp'"
        )
    import face_alignment

    finder: Any = face_alignment.FaceAlignment(
        face_alignment.LandmarksType.TWO_D, device="cpu", compile=False
    )
    found = finder.get_landmarks_from_image(_bytes(image)) or []
    faces = [torch.from_numpy(np.asarray(points, np.float32)) for points in found]
    boxes = [torch.cat([face.amin(0), face.amax(0)]) for face in faces]
    index = choose(boxes)
    # its heat maps count pixels from their corners
    return Detection(boxes[index] + 0.5, faces[index][None] + 0.5, "face-alignment")


# --- MediaPipe ------------------------------------------------------------------------------------


def _has_mediapipe() -> bool:
    if importlib.util.find_spec("mediapipe") is None:
        return False
    legacy = importlib.util.find_spec("mediapipe.python.solutions") is not None
    return legacy or (user_folder() / _TASK_FILE).is_file()


def _by_mediapipe(image: Tensor) -> Detection:
    if not _has_mediapipe():
        raise ValueError(
            "backend 'mediapipe' needs mediapipe 0.10.21, or a later one and "
            f"{user_folder() / _TASK_FILE}; install it or choose backend 'lbp'"
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
    boxes = []
    for mesh_points in meshes:
        points = torch.tensor([[point.x * width, point.y * height] for point in mesh_points])
        boxes.append(torch.cat([points.amin(0), points.amax(0)]))
    # its 468 points are not the 68: published tables between them are off by 4 % of the eyes' span
    return Detection(boxes[choose(boxes)], None, "mediapipe")


def _bytes(image: Tensor) -> NDArray[np.uint8]:
    pixels = (image[0].clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())


# --- scikit-image's cascade and our network -------------------------------------------------------


@cache
def _shipped_net() -> LandmarkNet:
    return load_landmark_net()


@cache
def _cascade() -> Any:
    from skimage import data
    from skimage.feature import Cascade

    return Cascade(data.lbp_frontal_face_cascade_filename())


def _by_cascade(image: Tensor, net: LandmarkNet) -> Detection:
    """Candidates of the cascade, upright then tilted; then of the network; each looked at."""
    scale = _search_scale(image)
    small = F.interpolate(
        image, scale_factor=scale, mode="bilinear", antialias=True, align_corners=False,
        recompute_scale_factor=False,
    )  # fmt: skip
    faces: list[Landmarks] = []
    for tilt_deg in (0.0, -20.0, 20.0):
        candidates = [box / scale for box in cascade_boxes(small, tilt_deg)]
        faces = confirmed(image, candidates, net)
        if faces:
            break
    if not faces:
        faces = confirmed(image, [box / scale for box in scan_boxes(small, net)], net)
    boxes = [_square(face) for face in faces]
    index = choose(boxes)
    return Detection(boxes[index], faces[index].points68, "lbp")


def _search_scale(image: Tensor) -> float:
    height, width = image.shape[-2:]
    if max(height, width) > _LOOK_SIDE:
        return _LOOK_SIDE / max(height, width)
    return 2.0 if max(height, width) < _FINE_SIDE else 1.0


def cascade_boxes(
    image: Float[Tensor, "1 3 H W"], tilt_deg: float = 0.0
) -> list[Float[Tensor, " 4"]]:
    """Face boxes (brows to chin) by the LBP cascade, in a picture turned by `tilt_deg`.

    Boxes come back upright in the picture as given. The cascade knows frontal faces only.
    """
    height, width = image.shape[-2:]
    grey = (image[0] * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    turn, extent = np.eye(2), (width, height)
    middle = np.array([width / 2, height / 2])
    if tilt_deg:
        side = math.hypot(width, height)
        tilted = crop_square(
            grey.expand(1, 3, -1, -1), torch.tensor(middle, dtype=torch.float32), side,
            round(side), math.radians(tilt_deg),
        )  # fmt: skip
        grey = tilted.image[0, 0]
        cosine, sine = math.cos(math.radians(tilt_deg)), math.sin(math.radians(tilt_deg))
        turn, extent = np.array([[cosine, -sine], [sine, cosine]]), (round(side), round(side))
    pixels = np.ascontiguousarray((grey.clamp(0, 1) * 255).numpy().astype(np.uint8))
    largest = min(pixels.shape)
    if largest < 32:
        return []
    found = _cascade().detect_multi_scale(
        img=pixels,
        scale_factor=1.2,
        step_ratio=1.3,
        min_size=(max(28, largest // 14),) * 2,
        max_size=(largest, largest),
        min_neighbor_number=2,
    )
    boxes = []
    for hit in found:
        side = _LBP_SIDE * hit["width"]
        center = np.array([hit["c"], hit["r"]]) + np.array(_LBP_CENTER) * hit["width"]
        center = turn @ (center - np.array(extent) / 2) + middle
        boxes.append(
            torch.tensor([*(center - side / 2), *(center + side / 2)], dtype=torch.float32)
        )
    return boxes


def scan_boxes(
    image: Float[Tensor, "1 3 H W"], net: LandmarkNet, keep: int = 4
) -> list[Float[Tensor, " 4"]]:
    """The places where the network itself sees a face, best first: it knows turned heads too."""
    boxes: list[tuple[float, float, float, float]] = []
    windows: list[Tensor] = []
    side = 0.8 * min(image.shape[-2:])
    smallest = max(40.0, 0.13 * max(image.shape[-2:]))
    while side > smallest:
        # at this scale a window of the network's size shows a face of `side` as training did
        scale = CROP_SIDE / (CROP_VIEW * side)
        level = F.interpolate(
            image, scale_factor=scale, mode="bilinear", antialias=True, align_corners=False
        )
        level = F.pad(level, (CROP_SIDE // 2,) * 4, mode="replicate")
        for row in _places(level.shape[-2]):
            for column in _places(level.shape[-1]):
                windows.append(level[..., row : row + CROP_SIDE, column : column + CROP_SIDE])
                # padding and half a window cancel: the window's corner is its middle unpadded
                x, y = column / scale, row / scale
                boxes.append((x - side / 2, y - side / 2, x + side / 2, y + side / 2))
        side *= 0.64
    if not boxes:
        return []
    crops = torch.cat(windows)
    with torch.no_grad():
        logits = torch.cat([net.eval()(part).face_logit for part in torch.split(crops, 64)])
    order = logits.argsort(descending=True)
    chosen: list[Tensor] = []
    for index in order.tolist():
        box = torch.tensor(boxes[index], dtype=torch.float32)
        if logits[index] < 0 or len(chosen) == keep:
            break
        if all(overlap(box, other) < 0.3 for other in chosen):
            chosen.append(box)
    return chosen


def _places(extent: int) -> range:
    """Offsets of windows along an axis that was padded by half a window on both sides."""
    # faces are not cut off by more than a third
    edge, step = CROP_SIDE // 5, CROP_SIDE // 3
    return range(edge, extent - CROP_SIDE - edge + 1, step)


def confirmed(
    image: Float[Tensor, "1 3 H W"], boxes: list[Float[Tensor, " 4"]], net: LandmarkNet
) -> list[Landmarks]:
    """What the network makes of each candidate, where it is sure; one entry a face."""
    faces: list[Landmarks] = []
    for box in boxes:
        found = net.predict(image, box, thorough=False)
        log.debug(
            "candidate %s: face %.2f, sigma %.3f, disagreement %.3f",
            box.tolist(), found.face_probability, found.uncertainty(), found.disagreement,
        )  # fmt: skip
        if not found.is_face():
            continue
        rival = [n for n, face in enumerate(faces) if overlap(_square(face), _square(found)) > 0.3]
        if not rival:
            faces.append(found)
        elif found.uncertainty() < faces[rival[0]].uncertainty():
            faces[rival[0]] = found
    return faces


def _square(face: Landmarks) -> Tensor:
    """The bounding square of a face's points."""
    both = torch.cat([face.points68, face.points], dim=1)[0]
    low, high = both.amin(0), both.amax(0)
    half = (high - low).max() / 2
    return torch.cat([(low + high) / 2 - half, (low + high) / 2 + half])


def overlap(first: Float[Tensor, " 4"], second: Float[Tensor, " 4"]) -> float:
    """Intersection over union of two boxes."""
    low, high = torch.maximum(first[:2], second[:2]), torch.minimum(first[2:], second[2:])
    common = float((high - low).clamp(min=0).prod())
    areas = float((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod())
    return common / max(areas - common, 1e-9)
