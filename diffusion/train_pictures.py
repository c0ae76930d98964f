"""Folders of pictures and captions, read once into arrays of pixels that every stage shares."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from assets.errors import AssetError
from assets.files import contained, replacing
from assets.image import read_image

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_SIDED = re.compile(r"\b(left|right)\b|左|右", re.IGNORECASE)
_OTHER_SIDE = {"left": "right", "right": "left", "左": "右", "右": "左"}
_LEAST_SIDE = 8  # pixels of a picture


@dataclass(frozen=True)
class Captioned:
    """A picture on disk and its words; None where nobody asked for them."""

    path: Path
    caption: str | None = None
    captions: tuple[str, ...] = ()  # where there are several ways of saying it, that one first
    condition: Path | None = None  # the picture that a ControlNet is shown of it

    def said(self, number: int) -> str:
        """One of the captions, by any number."""
        known = self.captions or (str(self.caption),)
        return known[number % len(known)]


def mirrored(caption: str) -> str:
    """The words of the mirrored picture: left and right change places."""
    return _SIDED.sub(lambda found: _OTHER_SIDE[found.group().lower()], caption)


def list_pictures(folder: Path, *, least: int = 1) -> list[Path]:
    """The pictures of a folder, by name; those in folders below it are left alone."""
    if not folder.is_dir():
        raise AssetError(f"{folder} is no folder; give one with pictures in it")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(found) < least:
        raise AssetError(
            f"{folder} has {len(found) or 'no'} pictures ({', '.join(SUFFIXES[:4])}), which is "
            f"too few; put at least {least} there"
        )
    return found


def read_captions(folders: Sequence[Path]) -> list[Captioned]:
    """Every picture of the folders with its caption.

    Captions are lines of a .jsonl file in the folder ("file" or "file_name", "caption" or "text",
    "captions" where there are several; "condition" is a ControlNet's picture in a folder below), or
    NAME.txt beside NAME.png. Raises AssetError where a picture has none, or a line no picture.
    """
    found = []
    for folder in folders:
        pictures = list_pictures(folder)
        told: dict[Path, Captioned] = {}
        for table in sorted(folder.glob("*.jsonl")):
            told |= {row.path: row for row in _read_table(table)}
        for path in pictures:
            beside = path.with_suffix(".txt")
            if path not in told and beside.is_file():
                told[path] = Captioned(path, beside.read_text(encoding="utf-8").strip())
            if path not in told or not any((told[path].caption, *told[path].captions)):
                raise AssetError(
                    f"{path} has no caption; add a line to captions.jsonl or {beside.name} beside "
                    "it, or take the picture away"
                )
            found.append(told[path])
        if missing := sorted(told.keys() - set(pictures)):
            raise AssetError(f"{missing[0]} has a caption but is not there; put it back")
    return found


def read_square(path: Path, side: int) -> Float[Tensor, "1 3 S S"]:
    """The middle square of a picture, brought to a size."""
    return squared(read_image(path, min_side=_LEAST_SIDE), side)


def squared(image: Float[Tensor, "1 3 H W"], side: int) -> Float[Tensor, "1 3 S S"]:
    """The largest square in the middle, brought to a size."""
    height, width = image.shape[-2:]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    square = image[..., top : top + least, left : left + least]
    if least == side:
        return square
    resized = torch.nn.functional.interpolate(
        square, (side, side), mode="bicubic", antialias=True, align_corners=False
    )
    return resized.clamp(0, 1)


def pixels_of(
    pictures: Sequence[Captioned], side: int, folder: Path
) -> UInt8[np.ndarray, "N 3 S S"]:
    """Every picture as `read_square` gives it, in 8 bits; a file in the folder, not memory.

    The file is made again when the pictures, their sizes or their times have changed.
    """
    told = [f"{p.path.resolve()} {(s := p.path.stat()).st_size} {s.st_mtime_ns}" for p in pictures]
    name = sha256("\n".join([str(side), *told]).encode()).hexdigest()[:16]
    path = folder / f"pixels-{name}.npy"
    shape = (len(pictures), 3, side, side)
    if not path.is_file():
        log.info("reading %d pictures into %s", len(pictures), path)
        with replacing(path) as written:
            array = np.lib.format.open_memmap(written, "w+", dtype=np.uint8, shape=shape)

            def fill(number: int) -> None:
                image = read_square(pictures[number].path, side)[0]
                array[number] = (image * 255).round().to(torch.uint8).numpy()

            with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
                for _ in pool.map(fill, range(len(pictures))):
                    pass
            array.flush()
            del array  # a mapped file cannot be renamed on every system
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = np.load(path, mmap_mode="r", allow_pickle=False)
    return pixels


def to_floats(pixels: UInt8[np.ndarray, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Pixels as an autoencoder takes them, -1..1."""
    return torch.from_numpy(pixels).float() / 127.5 - 1


def _read_table(table: Path) -> list[Captioned]:
    found = []
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = row.get("file", row.get("file_name"))
            text = row.get("caption", row.get("text"))
            texts = tuple(row.get("captions", (text,)))
            condition = row.get("condition")
        except (ValueError, AttributeError, TypeError):
            name, texts, condition = None, (), None
        if not isinstance(name, str) or not all(isinstance(text, str) for text in texts or (0,)):
            raise AssetError(
                f'line {number} of {table} is not {{"file": NAME, "caption": WORDS}}; mend it'
            )
        first, *others = texts = tuple(text.strip() for text in texts) or ("",)
        found.append(
            Captioned(
                table.parent / contained(table.parent, name).name,
                first,
                texts if others else (),
                None if condition is None else contained(table.parent, str(condition)),
            )
        )
    return found
