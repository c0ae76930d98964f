"""A song from a score or from a sung take, in a voice, with or without backing, as a WAV file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from assets.errors import AssetError
from assets.files import sha256_of
from avatar.bundle import ModelUse
from avatar.progress import Progress
from avatar.sound_record import SoundRecord, chain, speech_use, told_voice
from voice.audio import Audio
from voice.effects import EffectConfig, with_effects
from voice.revoice_long import revoice_audio
from voice.score import Score, is_xml
from voice.sing import SingConfig, sing
from voice.sing_mix import Mix, mixed

if TYPE_CHECKING:
    from avatar.voicing import VoiceSettings

_PAUSE_DB = -50.0  # under full scale: the rests of a sung score are silent, and stay so
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
    voices: VoiceSettings | None = None,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> Path:
    """Sing a score, or take a recording as sung, and write it, mixed with a backing track.

    A recording keeps its melody and timing, transposed and in the tempo of the settings. The
    content decides which of both the source is. Where `voices` name one, it sings, in the same key
    and at most octaves away. Where a backing track is given, the file has its channels and rate;
    else it is mono at 24 kHz. A record is written beside it.
    """
    if out.suffix.lower() != ".wav":
        raise ValueError(f"{out} does not end in .wav; only WAV is written")
    if backing is not None and not backing.is_file():
        raise AssetError(f"there is no backing track at {backing}; check the path")
    progress = progress or Progress()
    config, is_sung = settings.sing, is_score(source)
    book = voice = register = None
    if voices is not None and voices.is_wanted:
        # found before anything is sung for it
        with progress.stage("load the voice"):
            book = voices.open()
            voice = voices.chosen(book)
    models: tuple[ModelUse, ...] = ()
    with progress.stage("song"):
        if is_sung:
            song = sing(Score.read(source), config, generator=generator)
            audio, lead_s = song.speech.audio, song.lead_s
            models, engine = (speech_use(song.speech),), song.speech.engine
        else:
            effects = EffectConfig(
                pitch_semitones=config.transpose,
                formant_semitones=config.formant_semitones,
                speed=config.tempo,
                lufs=config.lufs,
            )
            audio, lead_s = with_effects(Audio.read(source), effects), 0.0
            engine = "as sung"
    told = dataclasses.asdict(settings)
    if voices is not None and book is not None and voice is not None:
        with progress.stage("conversion"):
            gate_db = voices.effects.gate_db
            if gate_db is None and is_sung:
                gate_db = _PAUSE_DB
            wanted = dataclasses.replace(
                voices.effects, keep_melody=True, lufs=config.lufs, gate_db=gate_db
            )
            made = revoice_audio(audio, book.converter, voice, wanted, generator=generator)
        told["voice"] = dataclasses.asdict(wanted)
        models += chain(book)
        audio, register = made.audio, made.register
        progress.note(f"{voice.name}: {register.told()}")
    sound: Audio | Mix = audio
    if backing is not None:
        sound = mixed(
            audio,
            backing,
            voice_db=settings.voice_db,
            backing_db=settings.backing_db,
            lead_s=lead_s,
        )
    with progress.stage("write"):
        sound.save(out)
    inputs = {"score" if is_sung else "take": sha256_of(source)}
    if backing is not None:
        inputs["backing"] = sha256_of(backing)
    if voices is not None and voices.reference is not None:
        inputs["reference"] = sha256_of(voices.reference)
    SoundRecord(
        inputs=inputs,
        voice=told_voice(voice, engine),
        models=models,
        settings=told,
        seeds={"sing": generator.initial_seed()},
        stages=progress.stages,
        warnings=progress.warnings,
        register=register,
    ).write(out)
    return out


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
