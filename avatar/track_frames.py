"""Where tracking takes its frames from: a video read as a stream, or photos one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from assets.errors import AssetError
from avatar.frames import IMAGE_SUFFIXES, LIST_SUFFIXES, Unreadable, is_video, read_inputs

if TYPE_CHECKING:
    from avatar.track import TrackSettings

LARGEST_SIDE = 1280  # px; larger pictures are looked at smaller
MOST_FRAMES = 36_000  # 20 minutes at 30 a second
MOST_PHOTOS = 200
Pixels = UInt8[np.ndarray, "_ _ 3"]


@dataclass(eq=False)
class Source:
    """A video or photos; frames are decoded anew whenever they are gone through."""

    paths: list[Path]
    still: bool  # photos
    start_s: float = 0.0
    end_s: float | None = None
    fps: float | None = None
    faults: list[str] = field(default_factory=list)  # inputs that could not be read to the end
    files: list[str] = field(default_factory=list)  # names of the photos taken
    expected: int = 0  # frames, about; 0 where the file does not tell

    @property
    def name(self) -> str:
        """What errors call it."""
        return str(self.paths[0]) if len(self.paths) == 1 else f"{len(self.paths)} photos"

    def frames(self) -> Iterator[tuple[float, Pixels]]:
        """Seconds and pixels of every frame; times rise."""
        return self._photos() if self.still else self._video()

    def _photos(self) -> Iterator[tuple[float, Pixels]]:
        self.files.clear()
        self.faults.clear()
        for entry in read_inputs(self.paths):
            if isinstance(entry, Unreadable):
                if len(self.paths) == 1 and not self.paths[0].is_dir():
                    raise AssetError(entry.reason)
                self.faults.append(entry.reason)
                continue
            if len(self.files) == MOST_PHOTOS:
                raise ValueError(
                    f"there are more than {MOST_PHOTOS} photos; choose the best {MOST_PHOTOS}"
                )
            pixels = (entry.image[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
            self.files.append(entry.source.name)
            yield float(len(self.files) - 1), _within(pixels)
        if not self.files:
            reason = self.faults[0] if self.faults else f"{self.name}: no photo can be read"
            raise AssetError(reason)

    def _video(self) -> Iterator[tuple[float, Pixels]]:
        from avatar.video import read_video

        path = self.paths[0]
        taken, last, first = 0, None, None
        self.faults.clear()
        try:
            for shot in read_video(path):
                first = shot.time_s if first is None else first
                time_s = shot.time_s - first
                if self.end_s is not None and time_s > self.end_s + 1e-6:
                    break
                # broken recorders write a time twice
                if time_s < self.start_s - 1e-6 or (last is not None and time_s <= last):
                    continue
                if self.fps is not None and last is not None:
                    due = (taken - 0.25) / self.fps + self.start_s
                    if time_s < due:
                        continue
                if taken == MOST_FRAMES:
                    raise ValueError(
                        f"{path} has more than {MOST_FRAMES} frames to track; choose a part with "
                        "--start and --end, or fewer frames a second with --fps"
                    )
                taken, last = taken + 1, time_s
                yield time_s, _within(shot.pixels)
        except AssetError as error:
            if taken == 0:
                raise
            self.faults.append(f"{error}; what was read until there is tracked")
        if taken == 0:
            raise AssetError(
                f"{path} has no frame after {self.start_s:g} s; choose an earlier --start"
            )


class Reel:
    """The source's pictures at given times, in order, for previews."""

    def __init__(self, source: Source, times_s: Float[Tensor, " T"]) -> None:
        self.source, self._times = source, times_s.tolist()

    def __iter__(self) -> Iterator[Pixels]:
        frames = self.source.frames()
        now = next(frames)
        following = next(frames, None)
        for wanted in self._times:
            while following is not None and following[0] - wanted < wanted - now[0] + 1e-9:
                now, following = following, next(frames, None)
            yield now[1]


def open_sources(paths: list[Path], settings: TrackSettings) -> Source:
    """What the paths are: one video, or photos, folders and lists of photos."""
    if not paths:
        raise ValueError("there is nothing to track; give a video, photos or a folder")
    for path in paths:
        if not path.exists():
            raise AssetError(f"{path} is not there; check the path")
    films = [path for path in paths if path.is_file() and _is_film(path)]
    if films and len(paths) > 1:
        raise ValueError(f"{films[0]} is a video among other inputs; track one video at a time")
    if not films:
        return Source(paths, still=True)
    return Source(paths, False, settings.start_s, settings.end_s, settings.fps)


def _is_film(path: Path) -> bool:
    # what is neither by its name is tried as a video, which says best what it is not
    plain = path.suffix.lower() in IMAGE_SUFFIXES | LIST_SUFFIXES
    return is_video(path) or not plain


def _within(pixels: Pixels) -> Pixels:
    """The picture, shrunk if it is larger than is looked at."""
    height, width = pixels.shape[:2]
    scale = LARGEST_SIDE / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    # 8-bit pictures with interleaved channels are what torch shrinks fastest
    image = image.contiguous(memory_format=torch.channels_last)
    small = torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())
