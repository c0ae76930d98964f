"""`avatar reconstruct`: faces of many pictures to meshes, codes and pictures, one file each."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from avatar.face_models import SHIPPED, FaceModel, FaceReading, NoFaceError, open_model, timed
from avatar.frames import Frame, Unreadable, read_inputs
from avatar.progress import Progress
from avatar.reconstruct_files import write_npz
from avatar.reconstruct_looks import OUTPUTS, write_outputs

log = logging.getLogger(__name__)

REPORT = "report.jsonl"
Faces = Literal["largest", "all"]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ReconstructSettings:
    """What is read and what is written."""

    model: str = SHIPPED  # see avatar.face_models.open_model
    refine: bool = False
    faces: Faces = "largest"
    box: Box | None = None  # the face: x, y, width, height in pixels
    cropped: bool = False  # the pictures show one face that fills them
    sample_step: int = 1  # every which frame of a video
    save: frozenset[str] = frozenset()  # names out of OUTPUTS
    use_tex: bool = False  # textures from the model's albedo where the picture shows none
    extract_tex: bool = True  # textures from the picture where it shows the face
    original_size: bool = False  # also draw over the whole picture
    size: int = 224  # px, side of the pictures written

    def __post_init__(self) -> None:
        if self.faces not in get_args(Faces):
            raise ValueError(
                f"faces={self.faces!r} is not known; use {' or '.join(get_args(Faces))}"
            )
        if unknown := sorted(self.save - OUTPUTS.keys()):
            raise ValueError(
                f"save={', '.join(unknown)} is not known; choose from {', '.join(OUTPUTS)}"
            )
        if self.refine and self.model.strip().lower() != SHIPPED:
            raise ValueError(
                f"refine works with the model {SHIPPED!r} only; leave it out for {self.model!r}"
            )
        if self.box is not None and self.faces == "all":
            raise ValueError("box and faces='all' were both given; a box holds one face")
        if self.box is not None and self.cropped:
            raise ValueError("box was given for pictures that are cropped already; leave one out")
        if self.box is not None and not (self.box[2] > 0 and self.box[3] > 0):
            raise ValueError(f"box={self.box} must have a width and a height above 0")
        if self.sample_step < 1:
            raise ValueError(f"sample_step={self.sample_step} must be 1 or more")
        if not 64 <= self.size <= 2048:
            raise ValueError(f"size={self.size} must be from 64 to 2048 pixels")


@dataclass
class Outcome:
    """One line of the report: a picture, or one of its faces where all are read."""

    file: str
    stem: str
    status: Literal["ok", "no face", "failed"]
    model: str
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    reason: str | None = None
    warnings: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)  # written, relative to the folder
    box: list[float] | None = None  # of the face's 68 points: left, top, right, bottom, px
    frame: int | None = None  # of a video
    time_s: float | None = None

    def line(self) -> str:
        """The outcome as JSON, without what does not apply."""
        told = {k: v for k, v in self.__dict__.items() if v is not None or k == "reason"}
        told["seconds"] = {stage: round(spent, 4) for stage, spent in self.seconds.items()}
        return json.dumps(told, ensure_ascii=False)


def reconstruct(
    paths: Sequence[Path | str],
    out: Path,
    settings: ReconstructSettings | None = None,
    *,
    model: FaceModel | None = None,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Read the faces of all inputs into the folder `out`; what went wrong is in the outcomes.

    Writes STEM.npz for every face, what `settings.save` asks for, and report.jsonl with a line for
    each outcome, also where the run is broken off. Raises AssetError where the model is missing.
    """
    settings = settings or ReconstructSettings()
    progress = progress or Progress()
    model = model or open_model(settings.model)
    out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    with _report(out) as report:
        for item, spent in _clocked(read_inputs(paths, settings.sample_step)):
            for outcome in _outcomes(item, spent, model, out, settings):
                outcomes.append(outcome)
                report.write(outcome.line() + "\n")
                report.flush()
                _tell(outcome, progress)
    return outcomes


def _outcomes(
    item: Frame | Unreadable,
    spent: float,
    model: FaceModel,
    out: Path,
    settings: ReconstructSettings,
) -> Iterator[Outcome]:
    read = {"read": spent}
    if isinstance(item, Unreadable):
        yield Outcome(str(item.source), item.stem, "failed", model.name, read, item.reason)
        return
    boxes: list[Tensor | None] = [None]
    if settings.box is not None:
        x, y, width, height = settings.box
        boxes = [torch.tensor([x, y, x + width, y + height])]
    elif settings.faces == "all" and not settings.cropped:
        try:
            with timed(read, "find"):
                boxes = list(model.find_all(item.image))
        except NoFaceError as error:
            yield _failed(item, item.stem, model, read, error)
            return
    for number, box in enumerate(boxes, start=1):
        stem = item.stem if number == 1 else f"{item.stem}_face{number}"
        seconds = dict(read) if number == 1 else {}
        start = time.perf_counter()
        try:
            yield _one(item, stem, box, model, out, settings, seconds)
        except Exception as error:
            # whatever one picture does to the code, the next ones are read; what is no fault of the
            # picture is shown whole
            expected = isinstance(error, (ValueError, AssetError, OSError))
            level = logging.DEBUG if expected else logging.ERROR
            log.log(level, "%s failed", item.source, exc_info=True)
            if seconds.keys() <= {"read", "find"}:
                seconds["until it failed"] = time.perf_counter() - start
            yield _failed(item, stem, model, seconds, error)


def _one(
    item: Frame,
    stem: str,
    box: Float[Tensor, " 4"] | None,
    model: FaceModel,
    out: Path,
    settings: ReconstructSettings,
    seconds: dict[str, float],
) -> Outcome:
    reading = model.read(item.image, box, refined=settings.refine, cropped=settings.cropped)
    for stage, spent in reading.seconds.items():
        seconds[stage] = seconds.get(stage, 0.0) + spent
    with timed(seconds, "write"):
        files = [write_npz(reading, out / f"{stem}.npz", model.name)]
    warnings = list(reading.warnings)
    if settings.save or settings.original_size:
        with timed(seconds, "outputs"):
            written, notes = write_outputs(model, reading, item.image, out, stem, settings)
        files += written
        warnings += notes
    return Outcome(
        str(item.source),
        stem,
        "ok",
        model.name,
        seconds,
        warnings=warnings,
        files=[path.relative_to(out).as_posix() for path in files],
        box=_bounds(reading),
        frame=item.index,
        time_s=item.time_s,
    )


def _failed(
    item: Frame, stem: str, model: FaceModel, seconds: dict[str, float], error: Exception
) -> Outcome:
    none = isinstance(error, NoFaceError)
    reason = " ".join(str(error).split()) or type(error).__name__
    return Outcome(
        str(item.source),
        stem,
        "no face" if none else "failed",
        model.name,
        seconds,
        reason,
        frame=item.index,
        time_s=item.time_s,
    )


def _bounds(reading: FaceReading) -> list[float]:
    points = reading.landmarks2d
    return [round(float(value), 2) for value in (*points.amin(0), *points.amax(0))]


def _tell(outcome: Outcome, progress: Progress) -> None:
    total = sum(outcome.seconds.values())
    if outcome.status == "ok":
        progress.note(f"{outcome.stem:<32} {total:6.2f} s")
    else:
        progress.note(f"{outcome.stem}: {outcome.status}: {outcome.reason}")
    for warning in outcome.warnings:
        progress.note(f"{outcome.stem}: {warning}")


def _clocked(
    items: Iterator[Frame | Unreadable],
) -> Iterator[tuple[Frame | Unreadable, float]]:
    """Each item with the seconds that it took to come."""
    start = time.perf_counter()
    for item in items:
        yield item, time.perf_counter() - start
        start = time.perf_counter()


@contextmanager
def _report(folder: Path) -> Iterator[IO[str]]:
    """A file that becomes the folder's report when the block ends, well or not."""
    part = folder / f".{REPORT}.part"
    try:
        with open(part, "w", encoding="utf-8", newline="\n") as file:
            yield file
    finally:
        os.replace(part, folder / REPORT)
