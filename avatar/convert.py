"""Recordings into another voice, one or many, each with a record of how it was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from assets.errors import AssetError
from assets.files import sha256_of
from avatar.bundle import ModelUse
from avatar.progress import Progress
from avatar.sound_record import AI_COMMENT, SoundRecord, chain, told_voice
from avatar.voicing import VoiceSettings
from voice.audio import SAMPLE_RATE
from voice.revoice_long import revoice_file
from voice.sound_files import FORMATS, require_writable, sound_suffix
from voice.voices import Voice, VoiceBook

_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".aif", ".aiff", ".caf"),
    *(".wma", ".mp4", ".mov", ".mkv", ".webm"),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a recording."""

    source: Path
    path: Path | None  # None where it failed
    reason: str = ""


def convert_files(
    sources: Sequence[Path],
    out: Path,
    settings: VoiceSettings,
    *,
    suffix: str = ".wav",
    progress: Progress | None = None,
) -> list[Outcome]:
    """Convert recordings into the wanted voice: one into a file, several into a folder.

    Folders among the sources stand for the recordings in them. Of several, those that cannot be
    converted are told in the outcomes; of one alone, the error is raised.
    """
    progress = progress or Progress()
    files = expanded(sources)
    targets = _targets(files, out, suffix, is_one=len(sources) == 1 and sources[0].is_file())
    for target in targets:
        require_writable(target)
    with progress.stage("load the voice"):
        book = settings.open()
        voice = settings.chosen(book)
        models = chain(book)
    outcomes = []
    for file, target in zip(files, targets, strict=True):
        try:
            _convert(file, target, book, voice, models, settings, progress)
            outcomes.append(Outcome(file, target))
        except (ValueError, AssetError, OSError) as error:
            if len(files) == 1:
                raise
            outcomes.append(Outcome(file, None, " ".join(str(error).split())))
            progress.note(f"not converted: {outcomes[-1].reason}")
    return outcomes


def expanded(sources: Iterable[Path]) -> list[Path]:
    """The recordings that paths name: files as they are, folders as the sound files in them."""
    files: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(
                file
                for file in source.iterdir()
                if file.suffix.lower() in _SUFFIXES and file.is_file() and file.name[0] != "."
            )
            if not inside:
                raise AssetError(f"{source} holds no recording; give a folder of sound files")
            files += inside
        elif source.is_file():
            files.append(source)
        else:
            raise AssetError(f"there is no recording at {source}; check the path")
    if not files:
        raise ValueError("no recording was given; give one or more")
    return files


def _targets(files: Sequence[Path], out: Path, suffix: str, *, is_one: bool) -> list[Path]:
    """Where each result goes; ValueError where that would replace a source."""
    if suffix not in FORMATS:
        raise ValueError(f"{suffix!r} is not written; choose one of {', '.join(FORMATS)}")
    targets: list[Path] = []
    if is_one and out.suffix and not out.is_dir():
        sound_suffix(out)
        targets.append(out)
    elif out.suffix.lower() in FORMATS and not out.is_dir():
        raise ValueError(f"{out} is one file, for several recordings; give a folder as --out")
    else:
        for file in files:
            target, number = out / f"{file.stem}{suffix}", 2
            while target in targets:
                target, number = out / f"{file.stem}-{number}{suffix}", number + 1
            targets.append(target)
    own = {file.resolve() for file in files}
    if clash := next((target for target in targets if target.resolve() in own), None):
        raise ValueError(f"{clash} is one of the recordings themselves; choose another --out")
    return targets


def _convert(
    file: Path,
    target: Path,
    book: VoiceBook,
    voice: Voice,
    models: tuple[ModelUse, ...],
    settings: VoiceSettings,
    progress: Progress,
) -> None:
    begun, warned = len(progress.stages), len(progress.warnings)
    # each recording draws its own noise: its result does not depend on those before it
    generator = torch.Generator().manual_seed(settings.seed)
    with progress.stage(f"convert {file.name}"):
        made = revoice_file(
            file,
            target,
            book.converter,
            voice,
            settings.effects,
            generator=generator,
            comment=AI_COMMENT,
            step=lambda done_s, total_s: progress.step(round(done_s), round(total_s)),
        )
    if made.is_silent:
        progress.warn(f"{file} is silent, and stays so")
    else:
        progress.note(f"{voice.name}: {made.register.told()}")
    inputs = {"recording": sha256_of(file)}
    if settings.reference is not None:
        inputs["reference"] = sha256_of(settings.reference)
    SoundRecord(
        inputs=inputs,
        voice=told_voice(voice),
        models=models,
        settings=dataclasses.asdict(settings.effects) | {"rate_hz": SAMPLE_RATE},
        seeds={"convert": settings.seed},
        stages=progress.stages[begun:],
        warnings=progress.warnings[warned:],
        register=made.register,
    ).write(target)
