"""The JSON beside a sound file that was made: of what, by which models, in whose voice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from assets.files import replacing, sha256_of
from assets.image import AI_SOURCE_TYPE
from avatar.bundle import ModelUse, shipped_use
from avatar.progress import Stage
from voice.align import ALIGNED, HEARD
from voice.revoice import Register
from voice.speech import Speech
from voice.voices import ADDED, REFERENCE, Voice, VoiceBook, fingerprint

FORMAT, FORMAT_VERSION = "prompt-to-avatar-sound", 1
AI_COMMENT = f"AI-generated: a synthetic voice. DigitalSourceType: {AI_SOURCE_TYPE}"


@dataclass(frozen=True)
class SoundRecord:
    """How one sound file came to be."""

    inputs: Mapping[str, str]  # what was given -> its SHA-256
    voice: Mapping[str, Any]
    models: tuple[ModelUse, ...]
    settings: Mapping[str, Any]
    seeds: Mapping[str, int]
    stages: tuple[Stage, ...] = ()
    warnings: tuple[str, ...] = ()
    register: Register | None = None  # where the voices are, and what was moved
    files: Mapping[str, str] = field(default_factory=dict)

    def write(self, sound: Path) -> Path:
        """Write the record beside its sound file, and return it."""
        path = record_path(sound)
        content: dict[str, Any] = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "generator": _generator(),
            **dataclasses.asdict(self),
            "files": {sound.name: sha256_of(sound)},
            "ai_generated": True,
            "digital_source_type": AI_SOURCE_TYPE,
        }
        if self.register is not None:
            content["register"]["told"] = self.register.told()
        with replacing(path) as beside:
            text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
            beside.write_text(text + "\n", encoding="utf-8")
        return path


def record_path(sound: Path) -> Path:
    """Where the record of a sound file is."""
    return sound.with_name(sound.name + ".json")


def told_voice(voice: Voice | None, engine: str = "") -> dict[str, Any]:
    """A voice as a record tells it; without one it is the speech engine's own."""
    if voice is None:
        return {"name": engine, "kind": "the engine's own"}
    told: dict[str, Any] = {
        "name": voice.name,
        "kind": voice.kind,
        "description": voice.description,
        "gender": voice.gender,
        "f0_hz": round(voice.f0_hz, 1),
        "source": voice.source,
        "style_sha256": style_sha256(voice),
    }
    if voice.kind in (ADDED, REFERENCE):
        told["consent"] = None if voice.consent is None else dataclasses.asdict(voice.consent)
    return told


def style_sha256(voice: Voice) -> str:
    """The SHA-256 of a style's numbers."""
    return hashlib.sha256(voice.style.float().cpu().contiguous().numpy().tobytes()).hexdigest()


def chain(book: VoiceBook) -> tuple[ModelUse, ...]:
    """The models that a conversion uses."""
    converter = book.converter
    vocoder = getattr(converter.vocoder, "network", converter.vocoder)
    parts: dict[str, tuple[nn.Module, ...]] = {
        "converter": (converter.generator, converter.style_encoder),
        "f0": (converter.pitch,),
        "vocoder": (vocoder,) if isinstance(vocoder, nn.Module) else (),
    }
    return tuple(
        ModelUse(f"voice {name}: {Path(place).name}", "", fingerprint(*parts[name]))
        if place
        else shipped_use(f"voice-{name}")
        for name, place in book.origins
    )


def speech_use(speech: Speech) -> ModelUse:
    """What made speech, or heard its phonemes, in a record."""
    used = ModelUse(f"speech: {speech.engine}", speech.licence, "")
    if speech.engine not in (HEARD, ALIGNED):
        return used
    heard = shipped_use("phonemes")
    return dataclasses.replace(used, sha256=heard.sha256, attribution=heard.attribution)


def voice_use(voice: Voice) -> ModelUse:
    """A voice among an avatar's models, with the consent of one that was added."""
    told = f"{voice.kind}; {voice.source}"
    if voice.consent is not None:
        told += f"; consent: {voice.consent}"
    return ModelUse(f"voice: {voice.name}", "", style_sha256(voice), told)


def _generator() -> str:
    try:
        return f"prompt-to-avatar {version('prompt-to-avatar')}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "prompt-to-avatar"
