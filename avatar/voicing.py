"""Speech and song for an avatar or a file: spoken, sung or recorded, in a voice of one's choice."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch

from assets.files import sha256_of
from avatar.bundle import ModelUse
from avatar.progress import Progress
from avatar.sing import is_score
from avatar.sound_record import AI_COMMENT, SoundRecord, chain, speech_use, told_voice, voice_use
from voice import neural
from voice.align import recorded
from voice.audio import Audio
from voice.effects import EffectConfig, with_effects
from voice.revoice import RevoiceConfig
from voice.revoice_long import revoice_audio
from voice.score import Score
from voice.sing import SingConfig, sing
from voice.sound_files import require_writable, sound_suffix, write_sound
from voice.speak import SpeakConfig, speak
from voice.speech import Speech
from voice.voices import Voice, VoiceBook, open_book

_PAUSE_DB = -50.0  # of full scale; an engine speaks at about -20


@dataclass(frozen=True)
class VoiceSettings:
    """Which voice, of which converter, and what is done to the sound besides."""

    voice: str | None = None  # a name; None is the source's own voice
    reference: Path | None = None  # a clip of the wanted voice, in place of a name
    converter: Path | None = None  # None is the shipped one
    vocoder: Path | None = None
    effects: RevoiceConfig = field(default_factory=RevoiceConfig)
    speaking: SpeakConfig = field(default_factory=SpeakConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.voice is not None and self.reference is not None:
            raise ValueError("a voice and a reference were both given; give one of them")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must be from 0 to 2**63 - 1")

    @property
    def is_wanted(self) -> bool:
        """Whether anything is to be converted."""
        return self.voice is not None or self.reference is not None

    def open(self) -> VoiceBook:
        """The converter and its voices."""
        return open_book(self.converter, vocoder=self.vocoder, seed=self.seed)

    def chosen(self, book: VoiceBook) -> Voice:
        """The wanted voice of a book."""
        if self.reference is not None:
            return book.like([self.reference])
        if self.voice is None:
            raise ValueError(f"name a voice with --voice; there are: {', '.join(book.names)}")
        return book.find(self.voice)


@dataclass(frozen=True, eq=False)
class Voiced:
    """Speech in its final voice, and the models that made it."""

    speech: Speech
    models: tuple[ModelUse, ...]


def say_file(
    text: str, out: Path, settings: VoiceSettings | None = None, *, progress: Progress | None = None
) -> Path:
    """Speak a text into a sound file, in the wanted voice or else in the engine's own.

    A record is written beside it. ValueError for settings and texts, AssetError for files.
    """
    settings, progress = settings or VoiceSettings(), progress or Progress()
    sound_suffix(out)
    require_writable(out)
    generator = torch.Generator().manual_seed(settings.seed)
    book, voice = _opened(settings, progress)
    with progress.stage("speech"):
        speech = speak(text, settings.speaking, generator=generator)
    models: tuple[ModelUse, ...] = (speech_use(speech),)
    register = None
    if book is not None and voice is not None:
        with progress.stage("conversion"):
            effects = _with_pauses(settings.effects)
            made = revoice_audio(speech.audio, book.converter, voice, effects, generator=generator)
        models += chain(book)
        audio, register = made.audio, made.register
        progress.note(f"{voice.name}: {register.told()}")
    else:
        audio = _with_own_voice(speech.audio, settings.effects)
    with progress.stage("write"):
        write_sound(out, [audio], comment=AI_COMMENT)
    inputs = {"text": hashlib.sha256(text.encode()).hexdigest()}
    if settings.reference is not None:
        inputs["reference"] = sha256_of(settings.reference)
    told = dataclasses.asdict(settings.effects if voice is None else _with_pauses(settings.effects))
    SoundRecord(
        inputs=inputs,
        voice=told_voice(voice, speech.engine),
        models=models,
        settings={**told, "speaking": dataclasses.asdict(settings.speaking)},
        seeds={"say": settings.seed},
        stages=progress.stages,
        warnings=progress.warnings,
        register=register,
    ).write(out)
    return out


def voiced_speech(
    say: str | None,
    audio: Path | None,
    song: Path | None,
    settings: VoiceSettings,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Voiced:
    """What an avatar is to say or sing, one of the three, in the wanted voice.

    A text is spoken, a score sung; recordings are taken as they are. Lips follow the text or the
    lyrics, else what is heard. A song stays in its key, at most octaves away.
    """
    book, voice = _opened(settings, progress)
    effects = dataclasses.replace(settings.effects, keep_melody=song is not None)
    with progress.stage("speech"):
        if say is not None:
            speech = speak(say, settings.speaking, generator=generator)
            if settings.speaking.language in neural.LANGUAGES and speech.engine != neural.ENGINE:
                progress.warn(f"spoken by {speech.engine}; the neural English voice was not usable")
        elif song is not None and is_score(song):
            config = SingConfig(settings.speaking)
            speech = sing(Score.read(song), config, generator=generator).speech
        else:
            recording = audio if audio is not None else song
            if recording is None:
                raise ValueError("there is nothing to say; give a text, a recording or a score")
            speech = recorded(Audio.read(recording))
            progress.warn("lips follow the sounds heard in the recording: there was no text")
    models: tuple[ModelUse, ...] = (speech_use(speech),)
    if book is None or voice is None:
        own = f"{speech.engine}'s own" if say is not None else "as sung" if song else "as recorded"
        return Voiced(speech, (*models, ModelUse(f"voice: {own}", "", "")))
    if say is not None or (song is not None and is_score(song)):
        effects = _with_pauses(effects)
    with progress.stage("voice"):
        made = revoice_audio(speech.audio, book.converter, voice, effects, generator=generator)
    if made.is_silent:
        progress.warn("the recording is silent, and stays so")
    else:
        progress.note(f"{voice.name}: {made.register.told()}")
    speech = dataclasses.replace(speech, audio=made.audio)
    return Voiced(speech, (*models, voice_use(voice), *chain(book)))


def _with_pauses(config: RevoiceConfig) -> RevoiceConfig:
    """The gate shut in the pauses of what an engine speaks, unless told otherwise.

    They are silent there, and a voice that was learnt from recordings would fill them with hiss.
    """
    if config.gate_db is not None:
        return config
    return dataclasses.replace(config, gate_db=_PAUSE_DB)


def _opened(
    settings: VoiceSettings, progress: Progress
) -> tuple[VoiceBook, Voice] | tuple[None, None]:
    """The wanted voice, found before anything is spoken for it."""
    if not settings.is_wanted:
        return None, None
    with progress.stage("load the voice"):
        book = settings.open()
        return book, settings.chosen(book)


def _with_own_voice(audio: Audio, config: RevoiceConfig) -> Audio:
    """The effects alone; sound that none of them changes stays as it was."""
    effects = dataclasses.replace(config.effects(), gate_db=config.gate_db)
    if effects == EffectConfig():
        return audio
    return with_effects(audio, dataclasses.replace(effects, lufs=config.lufs))
