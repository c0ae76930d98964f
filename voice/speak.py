"""Text to speech without a network: sound and phoneme times of a line."""

from __future__ import annotations

import logging
import math
import unicodedata
from dataclasses import dataclass

import torch

from assets.errors import AssetError
from voice import espeak, neural
from voice.audio import SAMPLE_RATE, Audio
from voice.loudness import WEB_LUFS, normalized
from voice.phonemes import SILENCE
from voice.speech import Phoneme, Speech

log = logging.getLogger(__name__)

LONGEST_TEXT = 10_000  # characters, about ten minutes
ENGINES = ("auto", neural.ENGINE, espeak.ENGINE)
_LEAD_S, _TAIL_S = 0.25, 0.45  # silence kept around the line, for the face to start and settle
_INSTALL = "pip install 'prompt-to-avatar[speech]'"
# scripts beyond Latin letters that a language is written in, as Unicode names begin
_SCRIPTS = {
    "CYRILLIC": "ru uk be bg mk sr kk ky tt ba cv bs",
    "GREEK": "el grc",
    "ARABIC": "ar fa ur sd ug",
    "HEBREW": "he",
    "DEVANAGARI": "hi ne mr kok",
    "BENGALI": "bn as bpy",
    "CJK": "cmn yue hak ja",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy hyw",
    "THAI": "th",
    "TAMIL": "ta",
    "TELUGU": "te",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "ORIYA": "or",
    "SINHALA": "si",
    "MYANMAR": "my",
    "ETHIOPIC": "am ti",
    "CHEROKEE": "chr",
}


@dataclass(frozen=True)
class SpeakConfig:
    """Who speaks, and how."""

    language: str = "en-us"  # as eSpeak NG names them: en-gb, de, fr-fr, cmn, ...
    engine: str = "auto"  # the neural voice for American English, eSpeak NG for the rest
    variant: str = ""  # of eSpeak NG's voice: f3, Marco, ...
    speed: float = 1.0  # 2 is twice as fast
    pitch_semitones: float = 0.0  # lower is a larger speaker
    lufs: float = WEB_LUFS

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(
                f"engine={self.engine!r} is unknown; choose one of {', '.join(ENGINES)}"
            )
        if not 0.5 <= self.speed <= 2.0:
            raise ValueError(f"speed={self.speed} is out of range; choose 0.5 to 2")
        if not -6.0 <= self.pitch_semitones <= 6.0:
            raise ValueError(
                f"pitch_semitones={self.pitch_semitones} is out of range; choose -6 to 6"
            )
        if not -40.0 <= self.lufs <= -8.0:
            raise ValueError(f"lufs={self.lufs} is out of range; choose -40 to -8")
        if self.engine == neural.ENGINE and self.language not in neural.LANGUAGES:
            raise ValueError(
                f"the engine {neural.ENGINE} speaks en-us, not {self.language!r}; use "
                f"engine='{espeak.ENGINE}'"
            )
        if self.engine == neural.ENGINE and self.variant:
            raise ValueError(
                f"variant={self.variant!r} is one of eSpeak NG's; use engine='{espeak.ENGINE}'"
            )


def speak(text: str, config: SpeakConfig | None = None, *, generator: torch.Generator) -> Speech:
    """A spoken line with phoneme times, silence around it, at an even loudness.

    Emoji and other symbols without a sound are left out (and logged). ValueError for text without
    words, over 10,000 characters or in a script the language is not written in; AssetError when no
    engine is installed. `generator` feeds the breath noise of the neural voice.
    """
    config = config or SpeakConfig()
    words = speakable(text, config.language)
    engine = _engine(config)
    if engine == neural.ENGINE:
        audio, phonemes = neural.synthesize(
            words, speed=config.speed, pitch_semitones=config.pitch_semitones, generator=generator
        )
        licence = neural.LICENCE
    else:
        audio, phonemes = espeak.synthesize(
            words,
            language=config.language,
            variant=config.variant,
            speed=config.speed,
            pitch_semitones=config.pitch_semitones,
        )
        audio, licence = _softened(audio), espeak.LICENCE
    if all(phoneme.symbol == SILENCE for phoneme in phonemes):
        raise ValueError(f"{_shown(text)} has nothing that can be spoken in {config.language}")
    audio, phonemes = _framed(audio, phonemes)
    return Speech(
        normalized(audio, config.lufs), phonemes, text, config.language, engine, licence=licence
    )


def speakable(text: str, language: str) -> str:
    """The text without emoji and control characters, checked for length, words and script."""
    if len(text) > LONGEST_TEXT:
        raise ValueError(
            f"the text has {len(text)} characters, the limit is {LONGEST_TEXT}; speak it in parts"
        )
    letters = unicodedata.normalize("NFC", text)
    # S: symbols such as emoji, keeping +, $, %; C: controls and joiners; Mn over 0xFE00: selectors
    mute = {
        letter
        for letter in letters
        if (
            unicodedata.category(letter) in ("So", "Sk", "Cf", "Co", "Cn", "Cs", "Cc")
            or 0xFE00 <= ord(letter) <= 0xFE0F
        )
        and letter not in "\n\t°©®™"
    }
    words = "".join(" " if letter in mute else letter for letter in letters).strip()
    words = "\n".join(" ".join(line.split()) for line in words.splitlines() if line.strip())
    if not any(letter.isalnum() for letter in words):
        raise ValueError(f"{_shown(text)} has no word to say; give at least one letter or digit")
    if shown := sorted(letter for letter in mute if not letter.isspace() and letter.isprintable()):
        log.warning("left out of the speech, having no sound: %s", " ".join(shown[:10]))
    _check_script(words, language)
    return words


def _check_script(words: str, language: str) -> None:
    base = language.split("-")[0]
    foreign: dict[str, int] = {}
    letters = [letter for letter in words if letter.isalpha()]
    for letter in letters:
        script = unicodedata.name(letter, "UNKNOWN").replace("FULLWIDTH ", "").split()[0]
        if script in ("LATIN", "MODIFIER", "FEMININE", "MASCULINE", "MICRO"):
            continue
        if base not in _SCRIPTS.get(script, "").split():
            foreign[script] = foreign.get(script, 0) + 1
    # a single Greek letter in a formula is no reason to refuse
    if sum(foreign.values()) > 0.2 * len(letters):
        script = max(foreign, key=lambda name: foreign[name])
        others = _SCRIPTS.get(script, "").split()
        mend = f"choose a language such as {others[0]!r}" if others else "use Latin letters"
        raise ValueError(
            f"the text is written in {_script_name(script)} letters, which {language!r} is not; "
            f"{mend}"
        )


def _engine(config: SpeakConfig) -> str:
    """The engine to use, or AssetError with the one command that brings it."""
    neural_fits = config.language in neural.LANGUAGES and not config.variant
    if config.engine != espeak.ENGINE and neural_fits and neural.is_installed():
        return neural.ENGINE
    if config.engine != neural.ENGINE and espeak.is_installed():
        return espeak.ENGINE
    wanted = "No speech engine" if config.engine == "auto" else f"The engine {config.engine}"
    raise AssetError(
        f"{wanted} for {config.language} is installed; install one with {_INSTALL}, or speak a "
        "recording with --audio FILE"
    )


def _framed(audio: Audio, phonemes: tuple[Phoneme, ...]) -> tuple[Audio, tuple[Phoneme, ...]]:
    """The line with exactly as much silence before and after it as a face needs."""
    spoken = [phoneme for phoneme in phonemes if phoneme.symbol != SILENCE]
    first, last = spoken[0].start_s, spoken[-1].end_s
    begin = max(0, math.floor((first - _LEAD_S) * SAMPLE_RATE))
    before = max(0, round((_LEAD_S - first) * SAMPLE_RATE))
    end = min(audio.samples.shape[1], math.ceil((last + _TAIL_S) * SAMPLE_RATE))
    after = max(0, round((last + _TAIL_S) * SAMPLE_RATE) - audio.samples.shape[1])
    samples = torch.nn.functional.pad(audio.samples[:, begin:end], (before, after))
    fade = torch.linspace(0.0, 1.0, round(0.02 * SAMPLE_RATE))
    edges = torch.ones(samples.shape[1])
    edges[: len(fade)], edges[-len(fade) :] = fade, fade.flip(0)
    shift_s = (before - begin) / SAMPLE_RATE
    duration_s = samples.shape[1] / SAMPLE_RATE
    moved = [Phoneme(SILENCE, 0.0, first + shift_s)] if first + shift_s > 0 else []
    moved += [
        Phoneme(phoneme.symbol, phoneme.start_s + shift_s, phoneme.end_s + shift_s)
        for phoneme in phonemes
        if first <= phoneme.start_s and phoneme.end_s <= last
    ]
    moved.append(Phoneme(SILENCE, last + shift_s, duration_s))
    return Audio(samples * edges), tuple(moved)


def _softened(audio: Audio) -> Audio:
    """eSpeak NG's buzz made milder: 3 dB less above 4.5 kHz and a trace of a small room.

    By DNSMOS its American voice gains 0.15 (2.90 to 3.05); the neural one, at 3.50, nothing.
    """
    from scipy import signal

    row = audio.samples[0].double().numpy()
    high = signal.sosfilt(signal.butter(1, 4_500, "high", fs=SAMPLE_RATE, output="sos"), row)
    row = row - (1.0 - 10.0 ** (-3.0 / 20.0)) * high
    # a fixed reflection pattern: noise that decays by 60 dB in 0.2 s, from 4 ms on
    reach = round(0.12 * SAMPLE_RATE)
    noise = torch.randn(reach, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = torch.arange(reach) / SAMPLE_RATE
    room = (noise * torch.exp(-times / 0.03) * (times > 0.004)).numpy()
    row = row + 0.08 * signal.fftconvolve(row, room / math.sqrt((room**2).sum()))[: len(row)]
    return Audio(torch.from_numpy(row).to(audio.samples)[None])


def _script_name(script: str) -> str:
    return "Chinese" if script == "CJK" else script.title()


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
