"""Following one face through a stream of pictures: one look a frame, small enough to keep."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from deca.crop import crop_square
from deca.encode import Encoding
from flame.rotation import axis_angle_to_matrix

log = logging.getLogger(__name__)

Encode = Callable[[Tensor, Tensor], Encoding]  # picture [1, 3, H, W] and box -> codes
Find = Callable[[Tensor], list[Tensor]]  # picture -> boxes of faces, surest first
Steps = Callable[[int, int], None]
Frame = tuple[float, UInt8[np.ndarray, "H W 3"]]  # seconds, sRGB

VIEW = 1.9  # side of a kept picture in sides of the points' square: room for hair and chin
_THUMB = 24  # px


@dataclass(frozen=True)
class FollowConfig:
    """When a face counts as lost, found again, or another scene."""

    drift: float = 0.7  # sides of the face between two frames beyond which it is a jump
    growth: float = 1.6  # by which its side may change between two frames
    cut: float = 0.11  # mean change of the small picture at a cut
    eager: int = 3  # frames after a loss that are all searched
    patience: int = 5  # frames between later searches; what lies between is looked at backwards
    keep: int = 24  # pictures kept for textures
    keep_side: int = 640  # px, most


@dataclass(frozen=True, eq=False)
class Look:
    """What the encoder said of one frame; points and camera are those of its crop."""

    points: Float[Tensor, "L 2"]  # half crops, y up
    sigmas: Float[Tensor, " L"]
    shape: Float[Tensor, " S"]
    weights: Float[Tensor, " 52"]
    rotation: Float[Tensor, "3 3"]  # of the head, in the upright crop
    scale: float
    shift: Float[Tensor, " 2"]
    tangent: float
    albedo: Float[Tensor, " A"]
    center: Float[Tensor, " 2"]  # of the crop, px of the picture
    side: float  # of the crop, px of the picture
    view: float  # crop's side over the points'
    roll_rad: float
    confidence: float  # 0..1

    @property
    def yaw_deg(self) -> float:
        """The head's turn to the viewer's right."""
        return math.degrees(math.atan2(float(self.rotation[0, 2]), float(self.rotation[2, 2])))

    @property
    def pitch_deg(self) -> float:
        """The head's turn downwards."""
        return math.degrees(-math.asin(max(-1.0, min(1.0, float(self.rotation[1, 2])))))

    def in_picture(self) -> Float[Tensor, "3 3"]:
        """Turn from the upright crop to the picture."""
        # a clockwise roll in the picture is negative about z, which points at the viewer
        return axis_angle_to_matrix(torch.tensor([0.0, 0.0, -self.roll_rad]))


@dataclass(frozen=True, eq=False)
class Kept:
    """A frame whose picture is kept: VIEW times the face's square, upright as the crop."""

    index: int
    picture: UInt8[np.ndarray, "K K 3"]
    score: float
    place: tuple[int, int]  # of its turn: what one view is enough for


@dataclass(eq=False)
class Trail:
    """All that was seen, frame by frame; None where there was no face."""

    times_s: list[float] = field(default_factory=list)
    looks: list[Look | None] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)  # first frames of new scenes
    kept: list[Kept] = field(default_factory=list)
    faces_at_start: int = 0

    def __len__(self) -> int:
        return len(self.looks)

    @property
    def found(self) -> list[int]:
        """Frames with the face."""
        return [index for index, look in enumerate(self.looks) if look is not None]


def look_of(encoding: Encoding) -> Look:
    """What is kept of an encoding."""
    crop, codes, found = encoding.crop, encoding.codes, encoding.landmarks
    size = crop.image.shape[-1]
    points = torch.cat([found.points68, found.points], dim=1)[0]
    sigmas = torch.cat([found.sigmas68, found.sigmas], dim=1)[0]
    zoom = float(crop.matrix[:2, 0].norm())
    half = size / 2
    inside = (crop.points(points) - half) / half * torch.tensor([1.0, -1.0])
    middle = crop.picture_points(torch.tensor([[half, half]]))[0]
    side = size / zoom
    uncertainty = found.uncertainty()
    return Look(
        points=inside,
        sigmas=sigmas * zoom / half,
        shape=codes.params.shape[0],
        weights=encoding_weights(encoding),
        rotation=axis_angle_to_matrix(codes.params.root + codes.params.neck)[0],
        scale=float(codes.camera.scale[0]),
        shift=codes.camera.shift[0],
        tangent=math.tan(math.radians(float(codes.camera.fov_deg[0])) / 2),
        albedo=codes.albedo[0],
        center=middle,
        side=side,
        view=side / encoding.framing.side,
        roll_rad=encoding.framing.roll_rad,
        confidence=found.face_probability / (1 + (uncertainty / 0.045) ** 2),
    )


def encoding_weights(encoding: Encoding) -> Float[Tensor, " 52"]:
    """The ARKit weights that an encoding stands for."""
    from flame.params import arkit_from_params

    return arkit_from_params(encoding.codes.params)[0]


class Follower:
    """Takes frames one by one; the face's box is that of the frame before."""

    def __init__(self, encode: Encode, find: Find, config: FollowConfig | None = None) -> None:
        self.config = config or FollowConfig()
        self.trail = Trail()
        self._encode, self._find = encode, find
        self._box: Tensor | None = None
        self._last: Look | None = None  # the last sight of the face, if ever
        self._lost = 0
        self._thumb: Tensor | None = None
        self._usual = 0.0
        self._waiting: list[UInt8[np.ndarray, "H W 3"]] = []

    def take(self, frame: Frame) -> Look | None:
        """Look at the next frame."""
        time_s, pixels = frame
        index = len(self.trail)
        image = to_image(pixels)
        cut = self._is_cut(pixels)
        look = self._followed(image)
        if look is None:
            look = self._found(image, cut)
            jumped = look is not None and self._last is not None and self._lost == 0
            cut = cut or (jumped and look is not None and self._is_jump(look))
        if cut and index:
            self.trail.cuts.append(index)
        self.trail.times_s.append(time_s)
        self.trail.looks.append(look)
        if look is None:
            self._box = None
            self._lost += 1
            # what a search passes over is kept until the next one, and no longer
            self._waiting = [*self._waiting, pixels][-self.config.patience :]
            if cut:
                self._waiting = [pixels]
            return None
        if self._lost and self._waiting and not cut:
            self._look_back(look, index)
        self._waiting, self._lost = [], 0
        self._accept(look)
        self._keep(look, pixels, index)
        return look

    def _accept(self, look: Look) -> None:
        self._last, self._box = look, _box_of(look)

    def _followed(self, image: Tensor) -> Look | None:
        if self._box is None:
            return None
        look = self._try(image, self._box)
        return None if look is None or self._is_jump(look) else look

    def _try(self, image: Tensor, box: Tensor) -> Look | None:
        encoding = self._encode(image, box)
        return look_of(encoding) if encoding.landmarks.is_face() else None

    def _is_jump(self, look: Look) -> bool:
        assert self._last is not None
        face = self._last.side / self._last.view
        ratio = look.side / look.view / face
        moved = float((look.center - self._last.center).norm()) / face
        limit = self.config.growth
        return moved > self.config.drift or not 1 / limit < ratio < limit

    def _found(self, image: Tensor, cut: bool) -> Look | None:
        config = self.config
        due = self._lost < config.eager or self._lost % config.patience == 0
        if not (due or cut):
            return None
        boxes = self._find(image)
        if self._last is None and boxes:
            self.trail.faces_at_start = len(boxes)
        order = sorted(boxes, key=lambda box: -float((box[2:] - box[:2]).prod()))
        if self._last is not None and not cut:
            old = _box_of(self._last)
            order = sorted(boxes, key=lambda box: _distance(box, old))
        for box in order:
            look = self._try(image, box)
            if look is not None:
                return look
        return None

    def _look_back(self, look: Look, index: int) -> None:
        """Follow the face backwards through the frames that no search was made in."""
        box = _box_of(look)
        for back, pixels in enumerate(reversed(self._waiting), start=1):
            earlier = self._try(to_image(pixels), box)
            if earlier is None:
                return
            self.trail.looks[index - back] = earlier
            box = _box_of(earlier)

    def _is_cut(self, pixels: UInt8[np.ndarray, "H W 3"]) -> bool:
        """Whether the whole picture changed at once, against how much it usually changes."""
        rows, columns = max(1, pixels.shape[0] // 96), max(1, pixels.shape[1] // 96)
        small = torch.from_numpy(pixels[::rows, ::columns].astype(np.float32) / 255)
        thumb = torch.nn.functional.adaptive_avg_pool2d(small.permute(2, 0, 1), _THUMB)
        before, self._thumb = self._thumb, thumb
        if before is None:
            return False
        change = float((thumb - before).abs().mean())
        usual, self._usual = self._usual, 0.8 * self._usual + 0.2 * min(change, self.config.cut)
        return change > self.config.cut and change > 4 * usual

    def _keep(self, look: Look, pixels: UInt8[np.ndarray, "H W 3"], index: int) -> None:
        place = (round(look.yaw_deg / 10), round(look.pitch_deg / 12))
        kept = self.trail.kept
        same = [k for k in kept if k.place == place]
        # sharpness is measured on the picture alone, so cheap reasons to pass come first
        most = look.confidence
        if len(same) >= 3 and min(k.score for k in same) >= most:
            return
        face = look.side / look.view
        side = int(min(max(VIEW * face, 160), self.config.keep_side))
        crop = crop_square(to_image(pixels), look.center, VIEW * face, side, look.roll_rad)
        picture = (crop.image[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        lids = float(look.weights[[0, 7]].mean())
        score = look.confidence * sharpness(crop.image) * (1 - 0.5 * lids)
        kept.append(Kept(index, picture, score, place))
        if len(same) >= 3:
            kept.remove(min([*same, kept[-1]], key=lambda k: k.score))
        if len(kept) > self.config.keep:
            # the fullest turn gives up its worst
            full = max(kept, key=lambda k: (sum(k.place == o.place for o in kept), -k.score))
            kept.remove(full)


def follow(
    frames: Iterable[Frame],
    encode: Encode,
    find: Find,
    config: FollowConfig | None = None,
    progress: Steps | None = None,
    total: int = 0,
) -> Trail:
    """The trail of the largest face of the start; frames are taken one by one and let go."""
    follower = Follower(encode, find, config)
    for number, frame in enumerate(frames, start=1):
        follower.take(frame)
        if progress is not None:
            progress(number, max(total, number))
    return follower.trail


def look_at_photos(
    photos: Iterable[Frame], encode: Encode, find: Find, config: FollowConfig | None = None
) -> Trail:
    """The trail of pictures that have nothing to do with each other but the person."""
    trail = Trail()
    for frame in photos:
        single = Follower(encode, find, config)
        look = single.take(frame)
        index = len(trail)
        trail.times_s.append(frame[0])
        trail.looks.append(look)
        trail.kept += [Kept(index, k.picture, k.score, k.place) for k in single.trail.kept]
        trail.faces_at_start = max(trail.faces_at_start, single.trail.faces_at_start)
    return trail


def sharpness(image: Float[Tensor, "1 3 K K"]) -> float:
    """0..1: how much of a picture's contrast is fine; a blurred one has little."""
    grey = image.mean(1, keepdim=True)
    inner = grey[..., 1:-1, 1:-1]
    around = grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1] + grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:]
    fine = float((4 * inner - around).abs().mean())
    return fine / (fine + 0.03)


def to_image(pixels: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "1 3 H W"]:
    """A picture 0..1 of 8-bit pixels."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 255


def runs(flags: Iterable[bool]) -> Iterator[tuple[int, int]]:
    """First and last index of every run of true flags."""
    first = None
    index = -1
    for index, flag in enumerate(flags):
        if flag and first is None:
            first = index
        elif not flag and first is not None:
            yield first, index - 1
            first = None
    if first is not None:
        yield first, index


def _box_of(look: Look) -> Tensor:
    """The bounding box of a look's points, px of the picture."""
    half = look.side / look.view / 2
    return torch.cat([look.center - half, look.center + half])


def _distance(box: Tensor, other: Tensor) -> float:
    """How far two boxes are apart, in sides."""
    side = float((other[2:] - other[:2]).max())
    middle = float(((box[:2] + box[2:]) - (other[:2] + other[2:])).norm()) / 2
    change = abs(math.log(max(float((box[2:] - box[:2]).max()), 1e-3) / max(side, 1e-3)))
    return middle / max(side, 1e-3) + change
