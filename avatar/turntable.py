"""A head shown from all sides: a sweep, an opening jaw, expressions, and a full turn."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from assets.errors import AssetError
from avatar.clay import clay
from avatar.clip import Stage, Steps
from avatar.frames import Unreadable, read_inputs
from avatar.progress import Progress
from avatar.transfer import Target, read_target
from avatar.transfer_source import FaceReader
from avatar.turntable_files import kind_of_output, write_turntable
from flame.arkit import ARKIT_INDEX, ARKIT_NAMES
from flame.head import JOINT_NAMES, Head
from flame.params import JAW_OPEN_DEG, arkit_from_params

LOOKS = ("textured", "shape", "both")

SWEEP_DEG, STEP_DEG = 30.0, 5.0
JAW_DEG, JAW_STEP_DEG = 30.0, 2.0
_EASE, _HOLD = 5, 7  # frames into an expression, and in it
_JAW, _OPEN = JOINT_NAMES.index("jaw"), ARKIT_INDEX["jawOpen"]


@dataclass(frozen=True)
class TurntableSettings:
    """What is shown and how; Feng et al. 2021's teaser by default."""

    sweep: bool = True  # the camera to 30 degrees either side, by 5
    jaw: bool = True  # opening to 30 degrees, by 2
    turn_deg: float | int = 0.0  # a turn all the way round, 360; negative the other way
    step_deg: float | int = STEP_DEG  # of the turn
    look: str = "both"  # one of LOOKS
    size: int = 384  # px, side of each picture
    fps: float | int = 15.0

    def __post_init__(self) -> None:
        if self.look not in LOOKS:
            raise ValueError(f"look={self.look!r} is not known; use {', '.join(LOOKS)}")
        if not 32 <= self.size <= 2048 or self.size % 2:
            raise ValueError(f"size={self.size} must be an even number from 32 to 2048")
        if not (math.isfinite(self.fps) and 1 <= self.fps <= 60):
            raise ValueError(f"fps={self.fps} must be from 1 to 60")
        if not (math.isfinite(self.turn_deg) and abs(self.turn_deg) <= 3600):
            raise ValueError(f"turn_deg={self.turn_deg} is out of range; choose up to 3600")
        if not (math.isfinite(self.step_deg) and 0.5 <= self.step_deg <= 90):
            raise ValueError(f"step_deg={self.step_deg} is out of range; choose 0.5 to 90")


@dataclass(frozen=True, eq=False)
class Shots:
    """N pictures to take: where the camera is, and what the face does."""

    yaw_deg: Float[Tensor, " N"]  # to the viewer's right
    weights: Float[Tensor, "N 52"]
    jaw_deg: Float[Tensor, " N"]  # opening, besides that of the weights

    def __len__(self) -> int:
        return len(self.yaw_deg)


def turntable(
    subject: Path | str,
    out: Path | str,
    *,
    expressions: Path | str | None = None,
    settings: TurntableSettings | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Film a head into `out`, a .gif, an .mp4 or a folder of PNG files; returns what was written.

    `subject` is an avatar's folder, a photo, or the .npz of `avatar reconstruct`; `expressions` are
    pictures of any people, a folder or one of them, whose expressions the head puts on in turn.
    """
    settings, progress = settings or TurntableSettings(), progress or Progress()
    subject, out = Path(subject), Path(out)
    kind_of_output(out)
    reader = FaceReader()
    worn = torch.zeros(0, len(ARKIT_NAMES))
    if expressions is not None:
        with progress.stage("read the expressions"):
            worn = read_expressions(Path(expressions), reader, progress)
    shots = plan(settings, worn)
    with progress.stage("prepare the head"), tempfile.TemporaryDirectory() as folder:
        target = read_target(subject, reader, Path(folder))
    with progress.stage("draw"):
        film = Film(target, shots, settings, progress.step)
        return write_turntable(film, out, settings.fps)


def plan(settings: TurntableSettings, expressions: Float[Tensor, "E 52"]) -> Shots:
    """The pictures in their order: sweep, jaw, expressions, turn."""
    yaws: list[float] = []
    jaws: list[float] = []
    weights: list[Tensor] = []
    rest = torch.zeros(len(ARKIT_NAMES))

    def add(yaw: float = 0.0, jaw: float = 0.0, face: Tensor = rest) -> None:
        yaws.append(yaw)
        jaws.append(jaw)
        weights.append(face)

    if settings.sweep:
        for yaw in sweep_deg():
            add(yaw=yaw)
    if settings.jaw:
        for step in range(round(JAW_DEG / JAW_STEP_DEG) + 1):
            add(jaw=JAW_STEP_DEG * step)
    last, open_deg = rest, jaws[-1] if jaws else 0.0
    faces = [*expressions.unbind(0), rest] if len(expressions) or settings.jaw else []
    for index, face in enumerate(faces):
        for step in range(1, _EASE + 1):
            share = 0.5 - 0.5 * math.cos(math.pi * step / _EASE)
            add(jaw=(1 - share) * open_deg, face=torch.lerp(last, face, share))
        if index < len(expressions):
            for _ in range(_HOLD):
                add(face=face)
        last, open_deg = face, 0.0
    count = round(abs(settings.turn_deg) / settings.step_deg)
    for step in range(count):
        add(yaw=math.copysign(step * settings.step_deg, settings.turn_deg))
    if not yaws:
        raise ValueError("nothing is left to show; leave the sweep on, or give --turn 360")
    return Shots(torch.tensor(yaws), torch.stack(weights), torch.tensor(jaws))


def sweep_deg() -> list[float]:
    """0 to 30, to -30 and back to 5 short of 0, by 5: a loop of 24 pictures."""
    count = round(SWEEP_DEG / STEP_DEG)
    out, back = range(count), range(count, -count, -1)
    return [STEP_DEG * k for k in (*out, *back, *range(-count, 0))]


def read_expressions(path: Path, reader: FaceReader, progress: Progress) -> Float[Tensor, "E 52"]:
    """ARKit weights of every picture in a path; those without a face are warned of."""
    found = []
    for frame in read_inputs([path]):
        if isinstance(frame, Unreadable):
            progress.warn(frame.reason)
            continue
        try:
            found.append(arkit_from_params(reader.read(frame.image).params)[0])
        except ValueError as error:
            progress.warn(f"{frame.source}: {error}")
    if not found:
        raise AssetError(f"{path} shows no face whose expression could be taken; give photos")
    return torch.stack(found).float()


class Film:
    """The pictures of a turntable, drawn anew whenever they are gone through."""

    def __init__(
        self, target: Target, shots: Shots, settings: TurntableSettings, progress: Steps | None
    ) -> None:
        self._head, self._shots, self._progress = target.head, shots, progress
        heads = []
        if settings.look != "textured":
            heads.append(clay(target.head))
        if settings.look != "shape":
            heads.append((target.head, target.materials))
        self._stages = [Stage(head, materials, settings.size) for head, materials in heads]

    def __len__(self) -> int:
        return len(self._shots)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
            for index, frame in enumerate(pool.map(self._draw, range(len(self)))):
                if self._progress is not None:
                    self._progress(index + 1, len(self))
                yield frame

    @torch.no_grad()
    def _draw(self, index: int) -> NDArray[np.uint8]:
        verts = perform(self._head, self._shots, index)
        yaw = float(self._shots.yaw_deg[index])
        return np.concatenate([stage.photograph(verts, yaw) for stage in self._stages], axis=1)


def perform(head: Head, shots: Shots, index: int) -> Float[Tensor, "1 V 3"]:
    """The head's vertices in one of the pictures.

    The jaw opens by the shape that was made for it, and by its joint beyond that shape's end.
    """
    weights = shots.weights[index : index + 1].clone()
    rotations = weights.new_zeros(1, len(JOINT_NAMES), 3)
    opened = float(weights[0, _OPEN]) + float(shots.jaw_deg[index]) / JAW_OPEN_DEG
    weights[0, _OPEN] = min(opened, 1.0)
    rotations[0, _JAW, 0] = math.radians(JAW_OPEN_DEG * max(0.0, opened - 1.0))
    return head.pose(weights, rotations)
