"""Speech synthesisers that may be installed, each as one function from a text to sound."""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from assets.errors import AssetError
from voice import espeak, neural
from voice.audio import SAMPLE_RATE, Audio, resample
from voice.phonemes import SILENCE, is_symbol, is_vowel
from voice.speech import Phoneme

log = logging.getLogger(__name__)

Spoken = tuple[Audio, tuple[Phoneme, ...]]
_TIME_LIMIT_S = 120
_FLITE_LICENCE = "flite and its voices: BSD-like (Carnegie Mellon University)"
_FESTIVAL_LICENCE = "festival and its voices: BSD-like (Edinburgh and Carnegie Mellon)"
# phones of flite's American voices that ARPAbet writes otherwise
_FLITE_PHONES = {"ax": "AH0", "pau": SILENCE, "axr": "ER0", "ix": "IH0", "el": "L", "en": "N"}


@dataclass(frozen=True)
class EngineVoice:
    """One voice of one program."""

    engine: str  # flite, festival, espeak-ng or hibari
    name: str
    pitch_hz: float = 0.0  # of the voice, for engines whose pitch is set in Hz
    top_hz: int = 8_000

    @property
    def licence(self) -> str:
        """The licence under which the sound can be used for training."""
        return {
            "flite": _FLITE_LICENCE,
            "festival": _FESTIVAL_LICENCE,
            "espeak-ng": "eSpeak NG: GPL-3.0 program, its output is the user's",
            "hibari": "hibari-tts: Apache-2.0",
        }[self.engine]

    def why_absent(self) -> str:
        """Empty if the voice can be used, else what to install."""
        if self.engine == "flite":
            if shutil.which("flite") and self.name in _listed_by_flite():
                return ""
            return "install flite (apt-get install flite)"
        if self.engine == "festival":
            folders = Path("/usr/share/festival/voices").glob(f"*/{self.name}")
            if shutil.which("text2wave") and any(folders):
                return ""
            return f"install festival and its voice {self.name} (apt-get install festvox-...)"
        package = espeak if self.engine == "espeak-ng" else neural
        return "" if package.is_installed() else "install prompt-to-avatar[speech]"

    def speak(
        self, text: str, semitones: float, speed: float, *, generator: torch.Generator
    ) -> Spoken:
        """The text in this voice; phonemes are empty where the engine does not tell them."""
        speakers: dict[str, Callable[[], Spoken]] = {
            "flite": lambda: _flite(self, text, semitones, speed),
            "festival": lambda: _festival(self, text),
            "espeak-ng": lambda: espeak.synthesize(
                text,
                language="en-us",
                variant=self.name,
                speed=speed,
                pitch_semitones=semitones,
            ),
            "hibari": lambda: neural.synthesize(
                text, speed=speed, pitch_semitones=0.0, generator=generator
            ),
        }
        return speakers[self.engine]()


def _listed_by_flite() -> list[str]:
    answer = subprocess.run(["flite", "-lv"], capture_output=True, text=True, check=False)
    return answer.stdout.split()


def _flite(voice: EngineVoice, text: str, semitones: float, speed: float) -> Spoken:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "line.wav"
        pitch_hz = voice.pitch_hz * 2 ** (semitones / 12)
        command = ["flite", "-voice", voice.name, "-psdur", "-t", text, "-o", str(path)]
        command[1:1] = ["--setf", f"int_f0_target_mean={pitch_hz:.1f}"]
        command[1:1] = ["--setf", f"duration_stretch={1 / speed:.3f}"]
        answer = _run(command)
        audio = Audio.read(path)
    return audio, _flite_phonemes(answer, audio.duration_s)


def _flite_phonemes(line: str, duration_s: float) -> tuple[Phoneme, ...]:
    """Phonemes of flite's `name:end_s` list."""
    phonemes: list[Phoneme] = []
    start_s = 0.0
    for entry in line.split():
        name, _, end = entry.partition(":")
        end_s = min(float(end), duration_s)
        symbol = _FLITE_PHONES.get(name, name.upper())
        if is_vowel(symbol) and symbol[-1] not in "012":
            symbol += "1"
        if end_s > start_s and is_symbol(symbol):
            phonemes.append(Phoneme(symbol, start_s, end_s))
        start_s = end_s
    return tuple(phonemes)


def _festival(voice: EngineVoice, text: str) -> Spoken:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "line.wav"
        _run(["text2wave", "-eval", f"(voice_{voice.name})", "-o", str(path)], text)
        return Audio.read(path), ()


def _run(command: list[str], given: str = "") -> str:
    try:
        answer = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=_TIME_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise AssetError(f"{command[0]} did not finish within {_TIME_LIMIT_S} s") from error
    if answer.returncode != 0:
        reason = answer.stderr.strip().splitlines()
        raise AssetError(
            f"{command[0]} stopped with status {answer.returncode} "
            f"({reason[-1] if reason else 'no message'}); install it again"
        )
    return answer.stdout


def scaled(spoken: Spoken, ratio: float) -> Spoken:
    """Pitch and formants times a ratio, and so much shorter, as of a smaller or larger speaker."""
    audio, phonemes = spoken
    if abs(ratio - 1) < 1e-6:
        return spoken
    samples = resample(audio.samples, round(SAMPLE_RATE * ratio), SAMPLE_RATE)
    moved = tuple(Phoneme(p.symbol, p.start_s / ratio, p.end_s / ratio) for p in phonemes)
    return Audio(samples), moved
