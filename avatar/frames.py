"""Pictures of every kind of input: files, folders, lists of paths and videos, one at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.image import read_image

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".ppm", ".pgm"}
)
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts"}
)
LIST_SUFFIXES = frozenset({".txt", ".lst", ".list"})
_LARGEST_LIST = 64_000_000  # bytes


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture to look at: a file, or one moment of a video."""

    stem: str  # for names of results; no two frames of one call share it, in any case of letters
    source: Path
    image: Float[Tensor, "1 3 H W"]  # upright, sRGB 0..1
    time_s: float | None = None  # in its video
    index: int | None = None  # among all pictures of its video


@dataclass(frozen=True)
class Unreadable:
    """An input that gave no picture, and why in one sentence."""

    stem: str
    source: Path
    reason: str


@dataclass(frozen=True)
class _Source:
    path: Path
    fault: str | None = None


def read_inputs(paths: Sequence[Path | str], sample_step: int = 1) -> Iterator[Frame | Unreadable]:
    """Every picture of the inputs in turn; what cannot be read comes as an `Unreadable`.

    Inputs are images, folders of images (in the order of names, numbers by value; subfolders are
    left alone), text files with a path a line (relative to the list, `#` begins a comment), and
    videos, of which every `sample_step`-th picture is taken. Frames of a video are named
    VIDEO-000123 after their number in it. Of files with equal stems, later ones get -2, -3, ...
    """
    if sample_step < 1:
        raise ValueError(f"sample_step={sample_step}; choose 1 for every frame of a video, or more")
    sources = [source for path in paths for source in _sources(Path(path))]
    for source, stem in zip(sources, _stems([one.path for one in sources]), strict=True):
        if source.fault is not None:
            yield Unreadable(stem, source.path, source.fault)
        elif source.path.suffix.lower() in VIDEO_SUFFIXES:
            yield from _video_frames(source.path, stem, sample_step)
        else:
            yield _picture(source.path, stem)


def is_video(path: Path) -> bool:
    """Whether the name is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """A key that sorts frame2 before frame10."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts if part]


def _picture(path: Path, stem: str) -> Frame | Unreadable:
    try:
        return Frame(stem, path, read_image(path))
    except (AssetError, OSError) as error:
        return Unreadable(stem, path, str(error))


def _video_frames(path: Path, stem: str, step: int) -> Iterator[Frame | Unreadable]:
    from avatar.video import read_video

    try:
        for shot in read_video(path, every=step):
            image = torch.from_numpy(shot.pixels).permute(2, 0, 1)[None].float() / 255
            yield Frame(f"{stem}-{shot.index:06d}", path, image, shot.time_s, shot.index)
    except AssetError as error:
        yield Unreadable(stem, path, str(error))


def _sources(path: Path) -> list[_Source]:
    if path.is_dir():
        return _of_folder(path)
    if not path.exists():
        return [_Source(path, f"{path} is not there; check the path")]
    if path.suffix.lower() in LIST_SUFFIXES:
        return _of_list(path)
    return [_Source(path)]


def _of_folder(folder: Path) -> list[_Source]:
    try:
        names = sorted(os.listdir(folder), key=natural_key)
    except OSError as error:
        return [_Source(folder, f"{folder} cannot be listed ({error.strerror}); check its rights")]
    found = [
        folder / name
        for name in names
        if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
    ]
    if not found:
        reason = (
            f"{folder} holds no picture (JPEG, PNG, WebP, TIFF, BMP); give the folder they are in"
        )
        return [_Source(folder, reason)]
    return [_Source(path) for path in found]


def _of_list(path: Path) -> list[_Source]:
    try:
        if path.stat().st_size > _LARGEST_LIST:
            raise ValueError("it is far larger than a list")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        return [_Source(path, f"{path} cannot be read as a list of paths ({error})")]
    entries = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    found = [_entry(path.parent, entry) for entry in entries]
    if all(source.fault is not None for source in found):
        # of prose, every line would become an input of its own
        reason = f"{path} names no file that is there; write one path of a picture a line"
        return [_Source(path, reason)]
    return found


def _entry(folder: Path, entry: str) -> _Source:
    try:
        beside, given = folder / entry, Path(entry)
        path = beside if beside.exists() or not given.exists() else given
        if not path.is_file():
            kind = "is a folder" if path.is_dir() else "is not there"
            return _Source(path, f"{path} {kind}; lists name pictures and videos")
    except (OSError, ValueError) as error:  # names that no system takes
        return _Source(folder / entry[:80], f"{entry[:80]!r} is no path ({error})")
    return _Source(path)


def _stems(paths: Sequence[Path]) -> list[str]:
    """A name for each path: its stem, made unique without touching another's own."""
    plain = [path.stem or path.name or "input" for path in paths]
    # pictures may be called as a video's frames will be
    frames = {match[1] for stem in plain if (match := re.fullmatch(r"(.+)-\d{6}", stem.casefold()))}
    taken = {stem.casefold() for stem in plain}
    seen: set[str] = set()
    names = []
    for path, stem in zip(paths, plain, strict=True):
        name = stem
        if stem.casefold() in seen or (is_video(path) and stem.casefold() in frames):
            number = 2
            while f"{stem}-{number}".casefold() in taken:
                number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        seen.add(name.casefold())
        names.append(name)
    return names
