"""A talking picture: a head that performs a motion before a camera, with its sound."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from avatar.gestures import GAZE_RANGE_DEG
from avatar.motion import Motion
from flame.ambient_occlusion import ambient_occlusion
from flame.arkit import ARKIT_INDEX
from flame.camera import LookAt, orbit
from flame.head import JOINT_NAMES, Head
from flame.light import Lights, studio_lights
from flame.material import Material
from flame.render import Background, Renderer
from flame.rotation import axis_angle_to_matrix
from flame.shoulders import broadened
from voice.audio import Audio

Steps = Callable[[int, int], None]  # (frames done, frames in all)
FOV_DEG = 20.0  # a portrait lens, which keeps the nose small
YAW_DEG = 9.0  # cameras of clips stand a little to the side
_MOUTH_GLOW = 0.28
_EYES, _JAW = slice(JOINT_NAMES.index("leftEye"), JOINT_NAMES.index("rightEye") + 1), "jawOpen"


@runtime_checkable
class Frames(Protocol):
    """Pictures [H, W, 3] of 8 bits in order: an array [T, H, W, 3], or drawn when they are asked
    for."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[NDArray[np.uint8]]: ...


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames from time 0 on and the sound that goes with them."""

    frames: Frames
    rate_hz: float
    audio: Audio

    @property
    def duration_s(self) -> float:
        """How long the picture lasts."""
        return len(self.frames) / self.rate_hz

    def save(self, path: Path, *, title: str = "") -> Path:
        """Write an .mp4 (H.264, AAC, marked as AI-generated), and return its path."""
        from avatar.video import write_video

        return write_video(path, self.frames, self.rate_hz, self.audio, title=title)


def make_clip(
    head: Head,
    materials: Sequence[Material],
    motion: Motion,
    audio: Audio,
    *,
    size: int = 512,
    fps: float | int = 25,
    background: Background = None,
    supersample: float | int = 1.25,
    yaw_deg: float = YAW_DEG,
    progress: Steps | None = None,
) -> Clip:
    """The head performing a motion, as long as the sound; after the motion's end it holds still.

    It is seen on shoulders, where it wears the shipped shirt (`flame.shoulders`).

    Frames are drawn while the clip is saved, as many at once as torch may use threads. The camera
    stands yaw_deg to the viewer's right, and the eyes follow it. background is sRGB, a colour [3]
    or an image [3, H, W]; a soft backdrop by default. supersample is samples a pixel along a side.
    """
    if not 16 <= size <= 4096 or size % 2:
        raise ValueError(f"size={size} must be an even number from 16 to 4096")
    if not (math.isfinite(fps) and 1 <= fps <= 120):
        raise ValueError(f"fps={fps} must be from 1 to 120")
    count = max(1, math.ceil(audio.duration_s * fps - 1e-6))
    moments = _at_frames(motion, count, float(fps))
    moments = dataclasses.replace(moments, weights=look_aside(moments.weights, yaw_deg))
    stage = Stage(head, materials, size, background=background, supersample=supersample)
    return Clip(_Film(stage, yaw_deg, moments, progress), float(fps), audio)


class Stage:
    """Where one head is photographed: its renderer, studio light, and a backdrop."""

    def __init__(
        self,
        head: Head,
        materials: Sequence[Material],
        size: int,
        *,
        background: Background = None,
        supersample: float | int = 1.25,
    ) -> None:
        if not 1 <= supersample <= 4:
            raise ValueError(f"supersample={supersample} is out of range; choose 1 to 4")
        self.head, self.size = head, size
        whole = float(supersample).is_integer()
        # the renderer takes whole numbers of samples; other pictures are drawn larger, then shrunk
        self._samples = int(supersample) if whole else 1
        self._drawn = size if whole else round(size * supersample)
        self._renderer = Renderer.of_head(head, materials)
        self._occlusion = _openness(head)
        self._background = _at_size(background, self._drawn)

    def photograph(
        self, verts: Float[Tensor, "1 V 3"], yaw_deg: float = 0.0, *, camera: LookAt | None = None
    ) -> UInt8[np.ndarray, "S S 3"]:
        """One picture of the posed head from yaw_deg to the viewer's right, sRGB in 8 bits.

        `camera` is that of `frame_portrait` unless another is given; the light is of yaw_deg.
        """
        image = self._renderer(
            verts,
            camera or frame_portrait(self.head, yaw_deg),
            light_from(yaw_deg),
            (self._drawn, self._drawn),
            background=self._background,
            supersample=self._samples,
            occlusion=self._occlusion,
        )
        return to_frame(image[:, :3], self.size)


def frame_portrait(head: Head, yaw_deg: float = 0.0) -> LookAt:
    """The camera of a head-and-shoulders picture: eyes above the middle, some air over the hair.

    The head keeps its size and place whatever the yaw; the bust's lower end stays out of sight.
    """
    eyes = head.joints[_EYES].mean(0)
    low, high = head.verts.amin(0), head.verts.amax(0)
    above = 1.2 * float(high[1] - eyes[1])  # from the eyes to the upper edge
    below = min(1.45 * above, 0.97 * float(eyes[1] - low[1]))
    # the middle of the skull, about which a turning head stays where it is
    x, z = float(eyes[0]), float(low[2] + high[2]) / 2
    y = float(eyes[1]) + (above - below) / 2
    distance = (above + below) / 2 / math.tan(math.radians(FOV_DEG) / 2)
    return orbit(torch.tensor([yaw_deg]), 0.0, distance, (x, y, z), FOV_DEG)


def backdrop(size: int) -> Float[Tensor, "3 S S"]:
    """A soft grey-blue studio wall, lit behind the head and darker toward the corners; sRGB."""
    across = (torch.arange(size) + 0.5) / size - 0.5
    away = ((across - 0.04) ** 2 + ((across + 0.06)[:, None] * 0.92) ** 2).sqrt() / 0.72
    share = (away.clamp(0, 1) ** 2 * (3 - 2 * away.clamp(0, 1)))[None]  # [1, S, S]
    lit = torch.tensor([0.735, 0.755, 0.785])[:, None, None]
    dark = torch.tensor([0.315, 0.345, 0.395])[:, None, None]
    return lit + (dark - lit) * share


def look_aside(weights: Float[Tensor, "B 52"], yaw_deg: float) -> Float[Tensor, "B 52"]:
    """ARKit weights with both eyes turned by an angle to the viewer's right."""
    weights = weights.clone()
    for side, outward in (("Left", 1.0), ("Right", -1.0)):  # the subject's left is at +x
        away, toward = ARKIT_INDEX[f"eyeLookOut{side}"], ARKIT_INDEX[f"eyeLookIn{side}"]
        turn = weights[:, away] - weights[:, toward] + outward * yaw_deg / GAZE_RANGE_DEG
        weights[:, away], weights[:, toward] = turn.clamp(0, 1), (-turn).clamp(0, 1)
    return weights


def to_frame(image: Float[Tensor, "1 3 H W"], size: int) -> UInt8[np.ndarray, "S S 3"]:
    """The picture in 8 bits, shrunk to `size` pixels a side by the mean of what each one covers."""
    # 8-bit images with interleaved channels are what torch shrinks fastest, by far
    pixels = (image * 255 + 0.5).to(torch.uint8).contiguous(memory_format=torch.channels_last)
    if image.shape[-1] != size:
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return np.ascontiguousarray(pixels[0].permute(1, 2, 0).numpy())


class _Film:
    """Frames of a clip, drawn anew whenever they are gone through."""

    def __init__(
        self, stage: Stage, yaw_deg: float, moments: Motion, progress: Steps | None
    ) -> None:
        self._stage, self._yaw_deg = stage, yaw_deg
        self._moments, self._progress = moments, progress
        # morphs that never move would cost as much as those that do
        self._used = moments.weights.ne(0).any(0).nonzero()[:, 0]
        self._head = _with_morphs(stage.head, self._used)

    def __len__(self) -> int:
        return len(self._moments)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        workers = max(1, torch.get_num_threads())
        waiting: deque[Future[NDArray[np.uint8]]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            try:
                for index in range(len(self)):
                    waiting.append(pool.submit(self._draw, index))
                    # one finished frame a worker lies ready, so that encoding never waits for long
                    if len(waiting) >= 2 * workers:
                        yield self._next(waiting, index + 1)
                while waiting:
                    yield self._next(waiting, len(self))
            finally:
                for future in waiting:
                    future.cancel()

    def _next(self, waiting: deque[Future[NDArray[np.uint8]]], submitted: int) -> NDArray[np.uint8]:
        frame = waiting.popleft().result()
        if self._progress is not None:
            self._progress(submitted - len(waiting), len(self))
        return frame

    def _draw(self, index: int) -> NDArray[np.uint8]:
        with torch.no_grad():
            now = self._moments[index]
            verts = self._head.pose(now.weights[:, self._used], now.rotations)
            return self._stage.photograph(broadened(verts, self._head), self._yaw_deg)


def _with_morphs(head: Head, chosen: Tensor) -> Head:
    """The head with some of its morphs alone; posing it is faster by as much."""
    names = tuple(head.morph_names[index] for index in chosen.tolist())
    return dataclasses.replace(head, morphs=head.morphs[chosen], morph_names=names)


def _at_frames(motion: Motion, count: int, fps: float) -> Motion:
    """The motion in the middle of each frame's time on the screen, so that lips do not lag."""
    moments = motion.resampled(2 * fps)
    index = (2 * torch.arange(count) + 1).clamp_max(len(moments) - 1)
    return Motion(fps, moments.weights[index], moments.rotations[index])


def light_from(yaw_deg: float) -> Lights:
    """The studio's light, which stands beside the camera wherever that goes."""
    lights = studio_lights()
    turn = axis_angle_to_matrix(torch.tensor([0.0, math.radians(yaw_deg), 0.0]))
    # the studio's sky is of the first order, whose three coefficients turn as a vector does
    sh = torch.cat([lights.sh[:, :1], turn @ lights.sh[:, 1:4], lights.sh[:, 4:]], dim=1)
    return Lights(sh, lights.directions @ turn.T, lights.colours)


def _openness(head: Head) -> Float[Tensor, " V"]:
    """The share of the sky that each vertex sees at rest or, inside the mouth, while speaking."""
    faces, _, ids = head.triangles()
    sky = ambient_occlusion(head.verts, faces, directions=32)
    if "mouth" not in head.material_names or _JAW not in head.morph_names:
        return sky
    spoken = head.verts + 0.6 * head.morphs[head.morph_names.index(_JAW)]
    inside = torch.unique(faces[ids == head.material_names.index("mouth")])
    opened = ambient_occlusion(spoken, faces, directions=16)
    sky = sky.clone()
    # the wet inside scatters what little light comes in; without that it would be black
    sky[inside] = _MOUTH_GLOW + (1 - _MOUTH_GLOW) * opened[inside]
    return sky


def _at_size(background: Background, size: int) -> Tensor:
    """A background of the size that is drawn."""
    if background is None:
        return backdrop(size)
    if background.dim() == 1 or background.shape[-2:] == (size, size):
        return background
    images = background if background.dim() == 4 else background[None]
    height, width = images.shape[-2:]
    if height != width:
        raise ValueError(
            f"the background has {width}x{height} pixels, but pictures are square; crop it"
        )
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)
