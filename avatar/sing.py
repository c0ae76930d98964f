"""A song from a score or from a sung take, with or without its backing track, as a WAV file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from assets.errors import AssetError
from voice.audio import Audio
from voice.effects import EffectConfig, with_effects
from voice.score import Score, is_xml
from voice.sing import SingConfig, sing
from voice.sing_mix import mixed

_SCORE_SUFFIXES = {".mid", ".midi", ".kar", ".xml", ".musicxml", ".mxl", ".txt"}


@dataclass(frozen=True)
class SingSettings:
    """How a score is sung and mixed."""

    sing: SingConfig = field(default_factory=SingConfig)
    voice_db: float = 0.0
    backing_db: float = -3.0


def sing_file(
    source: Path,
    out: Path,
    *,
    backing: Path | None = None,
    settings: SingSettings,
    generator: torch.Generator,
) -> Path:
    """Sing a score, or take a recording as sung, and write it, mixed with a backing track.

    A recording keeps its melody and timing, transposed and in the tempo of the settings. The
    content decides which of both the source is. Where a backing track is given, the file has its
    channels and rate; else it is mono at 24 kHz.
    """
    if out.suffix.lower() != ".wav":
        raise ValueError(f"{out} does not end in .wav; only WAV is written")
    if backing is not None and not backing.is_file():
        raise AssetError(f"there is no backing track at {backing}; check the path")
    config = settings.sing
    if is_score(source):
        song = sing(Score.read(source), config, generator=generator)
        audio, lead_s = song.speech.audio, song.lead_s
    else:
        effects = EffectConfig(
            pitch_semitones=config.transpose,
            formant_semitones=config.formant_semitones,
            speed=config.tempo,
            lufs=config.lufs,
        )
        audio, lead_s = with_effects(Audio.read(source), effects), 0.0
    if backing is None:
        return audio.save(out)
    mix = mixed(
        audio,
        backing,
        voice_db=settings.voice_db,
        backing_db=settings.backing_db,
        lead_s=lead_s,
    )
    return mix.save(out)


def is_score(path: Path) -> bool:
    """Whether a file is a score rather than a recording, by its first bytes, then by its name."""
    if not path.is_file():
        raise AssetError(f"there is no score at {path}; check the path")
    with open(path, "rb") as file:
        head = file.read(200)
    if head[:4] in (b"MThd", b"PK\x03\x04") or is_xml(head) or head[8:12] == b"RMID":
        return True
    if head[:4] in (b"RIFF", b"fLaC", b"OggS", b"FORM", b"RF64") or head[:3] == b"ID3":
        return False
    return path.suffix.lower() in _SCORE_SUFFIXES
