"""Singing from a score: words spoken, then laid on the notes in time and pitch."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float

from voice.audio import SAMPLE_RATE, Audio
from voice.loudness import WEB_LUFS, normalized
from voice.phonemes import SILENCE
from voice.score import Score
from voice.sing_line import Placed, Vibrato, pitch_line, placed
from voice.sing_model import HOP, N_FFT, VoiceModel, analysed, sounded
from voice.sing_words import Word, words_of
from voice.speak import SpeakConfig, speak
from voice.speech import Phoneme, Speech

log = logging.getLogger(__name__)

LOWEST, HIGHEST = 33.0, 84.0  # MIDI numbers: A1 and C6
_LEAD_S, _TAIL_S = 0.3, 0.4
_LEGATO_S = 0.12  # shorter rests are the gaps that players leave between notes
_MARGIN_S = 0.06  # of a word's sound kept before its first and behind its last phoneme
_JOIN_S = 0.03  # over which one word's vowel becomes the next one's
# Most noise in a sung sound, at the model's bands: a spoken word glides, which is taken for breath.
_MOST_BREATH = np.array([0.001, 0.002, 0.006, 0.015, 0.03, 0.06, 0.12, 0.25])
_NOISY = {"Z", "ZH", "V", "DH", "JH", "HH"}
_FADE_S = (0.012, 0.06)  # in and out, at rests


@dataclass(frozen=True)
class SingConfig:
    """Who sings, and how."""

    speak: SpeakConfig = field(default_factory=SpeakConfig)  # whose words are sung
    transpose: float = 0.0  # semitones
    tempo: float = 1.0  # 2 is twice as fast
    vibrato: Vibrato = field(default_factory=Vibrato)
    formant_semitones: float = 0.0  # higher is a smaller singer
    lufs: float = WEB_LUFS

    def __post_init__(self) -> None:
        if not -36.0 <= self.transpose <= 36.0:
            raise ValueError(f"transpose={self.transpose} is out of range; choose -36 to 36")
        if not 0.25 <= self.tempo <= 4.0:
            raise ValueError(f"tempo={self.tempo} is out of range; choose 0.25 to 4")
        if not -6.0 <= self.formant_semitones <= 6.0:
            raise ValueError(
                f"formant_semitones={self.formant_semitones} is out of range; choose -6 to 6"
            )
        if not -40.0 <= self.lufs <= -8.0:
            raise ValueError(f"lufs={self.lufs} is out of range; choose -40 to -8")


@dataclass(frozen=True, eq=False)
class Song:
    """A sung score: its sound and phonemes, which begin `lead_s` before the score does."""

    speech: Speech
    score: Score  # as it was sung: transposed, in its tempo, its times from 0
    lead_s: float


def sing(score: Score, config: SingConfig | None = None, *, generator: torch.Generator) -> Song:
    """The score sung: each syllable's vowel from its beat on, its consonants before and after.

    ValueError where a note is below A1 or above C6 after transposing; AssetError when no speech
    engine is installed. `generator` feeds the breath and the small drift of the pitch.
    """
    config = config or SingConfig()
    score = score.transposed(config.transpose).at_tempo(config.tempo)
    _check_range(score)

    def speaker(text: str) -> Speech:
        return speak(text, config.speak, generator=generator)

    lead_s = max(0.0, _LEAD_S - score.notes[0].start_s)
    notes = [
        replace(note, start_s=note.start_s + lead_s, end_s=note.end_s + lead_s)
        for note in score.notes
    ]
    words = words_of(notes, speaker)
    syllables = placed(words, _LEGATO_S)
    models = _models(words)
    length = round((notes[-1].end_s + _TAIL_S) * SAMPLE_RATE)
    times_s = np.arange(length // HOP + 2) * HOP / SAMPLE_RATE
    midi = pitch_line(notes, times_s, config.vibrato, generator=generator)
    hertz = 440.0 * 2.0 ** ((midi - 69.0) / 12.0)
    row = np.zeros(length + N_FFT)
    for phrase in _phrases(syllables):
        begin = max(0, int((phrase[0].song_s[0] - _MARGIN_S) * SAMPLE_RATE) // HOP)
        end = min(len(times_s), int((phrase[-1].song_s[-1] + 0.1) * SAMPLE_RATE) // HOP)
        sung = _sung(phrase, models, words, times_s[begin:end], hertz[begin:end], config, generator)
        row[begin * HOP : begin * HOP + len(sung)] += sung
    audio = normalized(Audio(torch.from_numpy(row[:length]).float()[None]), config.lufs)
    speech = Speech(
        audio,
        _phonemes(syllables, audio.duration_s),
        " ".join(note.lyric for note in score.notes),
        config.speak.language,
        "sung",
    )
    return Song(speech, score, lead_s)


def _check_range(score: Score) -> None:
    lowest = min(note.pitch for note in score.notes)
    highest = max(note.pitch for note in score.notes)
    if lowest >= LOWEST and highest <= HIGHEST:
        return
    if highest - lowest > HIGHEST - LOWEST:
        raise ValueError(
            f"the notes span {highest - lowest:.0f} semitones, a voice at most "
            f"{HIGHEST - LOWEST:.0f}; give a narrower melody"
        )
    octaves = (
        np.ceil((LOWEST - lowest) / 12) if lowest < LOWEST else -np.ceil((highest - HIGHEST) / 12)
    )
    raise ValueError(
        f"the notes reach from {lowest:.0f} to {highest:.0f} (MIDI), a voice sings {LOWEST:.0f} to "
        f"{HIGHEST:.0f}; transpose by {12 * octaves:+.0f} more"
    )


def _models(words: list[Word]) -> dict[int, VoiceModel]:
    """Models by the identity of a word's sound: a word that comes twice is analysed once."""
    models: dict[int, VoiceModel] = {}
    for word in words:
        if id(word.samples) not in models:
            models[id(word.samples)] = analysed(word.samples)
    return models


def _phrases(syllables: list[Placed]) -> list[list[Placed]]:
    """Syllables between rests."""
    phrases: list[list[Placed]] = []
    for syllable in syllables:
        if syllable.after_rest or not phrases:
            phrases.append([])
        phrases[-1].append(syllable)
    return phrases


def _sung(
    phrase: list[Placed],
    models: dict[int, VoiceModel],
    words: list[Word],
    times_s: Float[np.ndarray, " T"],
    hertz: Float[np.ndarray, " T"],
    config: SingConfig,
    generator: torch.Generator,
) -> Float[np.ndarray, " N"]:
    """One phrase: its voiced parts by the model at the sung pitch, the others as they were said."""
    envelope = np.full((len(times_s), N_FFT // 2 + 1), -25.0, dtype=np.float32)
    breath = np.ones((len(times_s), 8), dtype=np.float32)
    voiced = np.zeros(len(times_s))
    gain = _gain(phrase, models, words, times_s)
    noise = np.zeros((len(times_s) + 2) * HOP)
    for group in _runs(phrase):
        word = words[group[0].word]
        model = models[id(word.samples)]
        song_s, word_s = _anchors(group, word)
        first, last = np.searchsorted(times_s, [song_s[0], song_s[-1]])
        frames = slice(int(first), int(last))
        source_s = np.interp(times_s[frames], song_s, word_s)
        place = np.clip(source_s * SAMPLE_RATE / HOP, 0, len(model.f0) - 1.001)
        low = place.astype(np.int64)
        share = (place - low)[:, None]
        given = (1 - share) * model.envelope[low] + share * model.envelope[low + 1]
        bands = (1 - share) * model.breath[low] + share * model.breath[low + 1]
        noisy = np.zeros(len(source_s), dtype=bool)
        for one in group:
            for phoneme in one.syllable.phonemes:
                if phoneme.symbol in _NOISY:
                    noisy |= (source_s > phoneme.start_s) & (source_s < phoneme.end_s)
        bands = np.where(noisy[:, None], bands, np.minimum(bands, _MOST_BREATH))
        has_pitch = model.f0[np.round(place).astype(np.int64)] > 0
        for one in group:  # vowels are sung, whatever the tracker thinks of them
            has_pitch |= (times_s[frames] > one.song_s[1] + 0.01) & (
                times_s[frames] < one.song_s[4] - 0.01
            )
        weight = _fade_in(times_s[frames] - song_s[0])[:, None]
        overlaps = (voiced[frames] > 0)[:, None]
        # where the word before still sounds, one becomes the other
        blend = np.where(overlaps, weight, 1.0)
        envelope[frames] = (1 - blend) * envelope[frames] + blend * given
        breath[frames] = (1 - blend) * breath[frames] + blend * bands
        voiced[frames] = np.maximum(has_pitch, voiced[frames] * (1 - weight[:, 0]))
        _lay_noise(
            noise, word.samples, np.where(voiced[frames] > 0, 0.0, 1.0), source_s, int(first)
        )
    voiced_frames = np.where(voiced > 0, hertz, 0.0)
    ratio = 2.0 ** (config.formant_semitones / 12.0)
    model = VoiceModel(voiced_frames, envelope, breath)
    tone = sounded(model, formant_ratio=ratio, generator=generator)
    both = tone + noise[: len(tone)]
    at = np.arange(len(both)) / HOP
    return np.asarray(both * np.interp(at, np.arange(len(gain)), gain))


def _runs(phrase: list[Placed]) -> list[list[Placed]]:
    """Neighbouring syllables of one word."""
    runs: list[list[Placed]] = []
    for syllable in phrase:
        if not runs or runs[-1][-1].word != syllable.word:
            runs.append([])
        runs[-1].append(syllable)
    return runs


def _anchors(group: list[Placed], word: Word) -> tuple[list[float], list[float]]:
    """Times of the song and of the word that belong together, rising in both."""
    before = min(_MARGIN_S if group[0].after_rest else _JOIN_S, group[0].word_s[0])
    rest_s = len(word.samples) / SAMPLE_RATE - group[-1].word_s[-1]
    after = min(_MARGIN_S if group[-1].before_rest else _JOIN_S, rest_s)
    song = [group[0].song_s[0] - before]
    said = [group[0].word_s[0] - before]
    for syllable in group:
        for song_s, word_s in zip(syllable.song_s, syllable.word_s, strict=True):
            if song_s > song[-1] + 1e-4:
                song.append(song_s)
                said.append(max(word_s, said[-1]))
    return [*song, song[-1] + after], [*said, said[-1] + after]


def _fade_in(since_s: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * np.clip(since_s / (2 * _JOIN_S), 0.0, 1.0)))


def _lay_noise(
    noise: Float[np.ndarray, " N"],
    samples: Float[np.ndarray, " M"],
    share: Float[np.ndarray, " T"],
    source_s: Float[np.ndarray, " T"],
    first: int,
) -> None:
    """Add the word's own sound in the frames that have a share of it, a grain a frame."""
    window = np.hanning(2 * HOP + 1)[:-1]
    padded = np.pad(samples, 3 * HOP)
    pace = np.gradient(source_s) * SAMPLE_RATE / HOP if len(source_s) > 1 else np.ones(1)
    for index in np.flatnonzero(share > 0):
        centre = round(float(source_s[index]) * SAMPLE_RATE) + 3 * HOP
        if abs(pace[index] - 1.0) > 0.02:
            # grains at even steps that do not fit together ring at their own rate: spread them
            centre += (int(index) * 7 % 13 - 6) * 6
        grain = padded[centre - HOP : centre + HOP]
        begin = (first + int(index)) * HOP - HOP
        if begin >= 0 and len(grain) == 2 * HOP and begin + 2 * HOP <= len(noise):
            noise[begin : begin + 2 * HOP] += share[index] * window * grain


def _gain(
    phrase: list[Placed],
    models: dict[int, VoiceModel],
    words: list[Word],
    times_s: Float[np.ndarray, " T"],
) -> Float[np.ndarray, " T"]:
    """Brings the held vowels to one level, and fades at rests."""
    at, levels = [], []
    for one in phrase:
        model = models[id(words[one.word].samples)]
        for song_s, word_s in zip(one.song_s[2:4], one.word_s[2:4], strict=True):
            frame = min(round(word_s * SAMPLE_RATE / HOP), len(model.f0) - 1)
            power = np.exp(model.envelope[frame]).mean()
            at.append(song_s)
            levels.append(10.0 * np.log10(power + 1e-9))
    lift = np.clip(-22.0 - np.array(levels), -12.0, 12.0)
    # a touch of the spoken accents stays
    gain = 10.0 ** (0.85 * np.interp(times_s, at, lift) / 20.0)
    begin, end = phrase[0].song_s[0] - _MARGIN_S, phrase[-1].song_s[-1] + _MARGIN_S
    rise = np.clip((times_s - begin) / _FADE_S[0], 0.0, 1.0)
    fall = np.clip((end - times_s) / _FADE_S[1], 0.0, 1.0)
    return np.asarray(gain * rise * (0.5 - 0.5 * np.cos(np.pi * fall)))


def _phonemes(syllables: list[Placed], duration_s: float) -> tuple[Phoneme, ...]:
    """The sung phonemes, silence between them."""
    found: list[Phoneme] = []
    reached = 0.0
    for one in syllables:
        edges = (0.0, *one.song_s, duration_s)
        said = (one.word_s[0] - one.song_s[0], *one.word_s, one.word_s[-1] + duration_s)
        for phoneme in one.syllable.phonemes:
            span = np.interp([phoneme.start_s, phoneme.end_s], said, edges)
            start_s, end_s = max(float(span[0]), reached), float(span[1])
            if start_s > reached + 0.02:
                found.append(Phoneme(SILENCE, reached, start_s))
            elif start_s > reached and found:
                found[-1] = replace(found[-1], end_s=start_s)
            if end_s > start_s:
                found.append(Phoneme(phoneme.symbol, start_s, end_s))
                reached = end_s
    if duration_s > reached:
        found.append(Phoneme(SILENCE, reached, duration_s))
    return tuple(found)
