"""Recordings for training: a folder with a manifest, or one sub-folder a speaker."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from pathlib import Path

from assets.errors import AssetError
from assets.files import contained
from voice.audio import Audio
from voice.corpus import Take

log = logging.getLogger(__name__)

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
_NEIGHBOURS = 10  # clips of unnamed speakers that go to the same side of the split together


def manifest_takes(folder: Path) -> Iterator[Take]:
    """The clips that a folder's manifest.csv lists: path, corpus, speaker, rate, licence, text."""
    folder = Path(folder)
    path = folder / "manifest.csv"
    if not path.is_file():
        raise AssetError(f"{path} is not there; a corpus folder has a manifest.csv in it")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    needed = {"path", "corpus", "speaker", "rate", "licence", "text"}
    if rows and (absent := needed - rows[0].keys()):
        raise AssetError(f"{path} has no column {', '.join(sorted(absent))}; add it")
    counts: dict[str, int] = {}
    for row in rows:
        speaker = row["speaker"]
        if not speaker or speaker == "unknown":
            number = counts[row["corpus"]] = counts.get(row["corpus"], -1) + 1
            speaker = f"unknown-{number // _NEIGHBOURS}"
        yield Take(
            Audio.read(contained(folder, row["path"])),
            speaker,
            row["corpus"],
            row["licence"],
            text=row["text"],
            language=row.get("language", ""),
            top_hz=int(row["rate"]) // 2,
        )


def speaker_takes(folder: Path, licence: str = "the user's own") -> Iterator[Take]:
    """The clips of a user's folder: every sub-folder is a speaker, and a style of that name.

    Files that are no sound are left out and logged.
    """
    folder = Path(folder)
    speakers = (
        sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    )
    if not speakers:
        raise AssetError(f"{folder} has no sub-folders; make one for each speaker, clips inside")
    for speaker in speakers:
        files = sorted(p for p in speaker.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not files:
            raise AssetError(f"{speaker} holds no sound file ({', '.join(SUFFIXES)})")
        for number, file in enumerate(files):
            try:
                audio = Audio.read(file)
            except AssetError as error:
                log.warning("left out: %s", error)
                continue
            # a user wants all speakers learnt: one clip in twelve is kept for measuring instead
            held_out = number % 12 == 11
            yield Take(
                audio, speaker.name, folder.name, licence, style=speaker.name, held_out=held_out
            )
