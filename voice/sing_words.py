"""The syllables of a score's words: what is spoken, and where in it each vowel is held."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from voice.audio import SAMPLE_RATE
from voice.phonemes import SILENCE, is_vowel, stress_of, without_stress
from voice.score import MELISMA, Note
from voice.speech import Phoneme, Speech

Speaker = Callable[[str], Speech]

_GLIDING = {"AY", "EY", "OY", "AW", "OW"}
# Two consonants that begin a syllable together; a third may only be an S before them.
_ONSETS = {
    "P L", "P R", "B L", "B R", "T R", "D R", "K L", "K R", "G L", "G R", "F L", "F R", "TH R",
    "SH R", "S L", "S W", "S M", "S N", "S P", "S T", "S K", "S F", "T W", "D W", "K W", "G W",
    "TH W", "P Y", "B Y", "M Y", "F Y", "V Y", "K Y", "HH Y", "N Y", "T S",
}  # fmt: skip
_LETTER_NAMES = {"a": "uh"}  # English words that alone would be read as the letter
_REACH_S = 0.04  # how far the sound may move a vowel's beginning that the engine dates


@dataclass(frozen=True)
class Syllable:
    """Where a syllable's parts are in its word's sound, in seconds from the word's beginning."""

    start_s: float
    vowel_s: float
    hold_s: tuple[float, float]  # the part of the vowel that is stretched
    coda_s: float  # where the vowel ends
    end_s: float
    phonemes: tuple[Phoneme, ...]  # timed in the word as well


@dataclass(frozen=True, eq=False)
class Word:
    """A spoken word and its syllables; the notes that each is sung on are `notes`."""

    samples: Float[np.ndarray, " N"]
    syllables: tuple[Syllable, ...]
    notes: tuple[tuple[Note, ...], ...]  # of each syllable, one or, in a melisma, several


def words_of(notes: Sequence[Note], speaker: Speaker) -> list[Word]:
    """The words of a score, each spoken once by `speaker`, with their notes."""
    groups: list[list[list[Note]]] = []  # words of syllables of notes
    for note in notes:
        if note.lyric == MELISMA and groups:
            groups[-1][-1].append(note)
        elif note.joined and groups:
            groups[-1].append([note])
        else:
            groups.append([[note]])
    spoken: dict[str, Speech] = {}
    words = []
    for group in groups:
        text = _text(group)
        if text not in spoken:
            spoken[text] = speaker(text)
        words.append(_word(spoken[text], group))
    return words


def _text(group: list[list[Note]]) -> str:
    letters = "".join(syllable[0].lyric for syllable in group)
    text = "".join(letter if letter.isalnum() or letter in "'’- " else " " for letter in letters)
    text = " ".join(text.split()).strip("'’- ")
    if not any(letter.isalpha() for letter in text):
        text = text if any(letter.isalnum() for letter in text) else "la"
    # capitals alone are spelt out by the engines; a single one may be the word I
    text = text.lower() if len(text) > 1 else text
    return _LETTER_NAMES.get(text.lower(), text)


def _word(speech: Speech, group: list[list[Note]]) -> Word:
    sounds = [phoneme for phoneme in speech.phonemes if phoneme.symbol != SILENCE]
    samples = speech.audio.samples[0].double().numpy()
    vowels = [index for index, phoneme in enumerate(sounds) if is_vowel(phoneme.symbol)]
    if not vowels:  # hummed: the longest sound is held
        longest = max(range(len(sounds)), key=lambda i: sounds[i].end_s - sounds[i].start_s)
        vowels = [longest]
    wanted = len(group)
    notes = [tuple(syllable) for syllable in group]
    if len(vowels) < wanted:  # the last vowel takes the notes that have none
        last = tuple(note for syllable in notes[len(vowels) - 1 :] for note in syllable)
        notes = [*notes[: len(vowels) - 1], last]
    firsts = [0]
    for before, vowel in itertools.pairwise(vowels[:wanted]):
        firsts.append(_division(sounds, before, vowel))
    edges = [*firsts, len(sounds)]
    syllables = []
    for begin, end in itertools.pairwise(edges):
        inner = [index for index in vowels if begin <= index < end]
        # of two vowels on one note, the stressed one is held
        held = max(inner, key=lambda index: (stress_of(sounds[index].symbol), -index))
        syllables.append(_syllable(sounds[begin:end], held - begin, samples))
    return Word(samples, tuple(syllables), tuple(notes))


def _division(sounds: Sequence[Phoneme], before: int, vowel: int) -> int:
    """The first sound of the syllable of `vowel`: as many consonants as can begin one."""
    first = vowel
    while first - 1 > before:
        if first == vowel:
            if sounds[first - 1].symbol == "NG":
                break
        else:
            pair = f"{sounds[first - 1].symbol} {sounds[first].symbol}"
            third = vowel - first == 2 and sounds[first - 1].symbol != "S"
            if pair not in _ONSETS or third or vowel - first > 2:
                break
        first -= 1
    return first


def _syllable(sounds: Sequence[Phoneme], held: int, samples: Float[np.ndarray, " N"]) -> Syllable:
    vowel = sounds[held]
    start_s = vowel.start_s
    if held:
        start_s = _onset_s(samples, start_s, sounds[held - 1].start_s + 0.01, vowel.end_s - 0.03)
    length_s = vowel.end_s - start_s
    # a diphthong is held on its first part; its glide keeps its pace at the end of the note
    share = (0.2, 0.45) if without_stress(vowel.symbol) in _GLIDING else (0.35, 0.75)
    hold_s = (start_s + share[0] * length_s, start_s + share[1] * length_s)
    return Syllable(
        sounds[0].start_s, start_s, hold_s, vowel.end_s, sounds[-1].end_s, tuple(sounds)
    )


def _onset_s(
    samples: Float[np.ndarray, " N"], dated_s: float, least_s: float, most_s: float
) -> float:
    """Where the vowel begins by ear: the steepest rise of level near the time the engine gives."""
    from scipy import ndimage

    hop = round(0.0025 * SAMPLE_RATE)
    low = max(least_s, dated_s - _REACH_S)
    high = min(most_s, dated_s + _REACH_S)
    first, last = int((low - 0.03) * SAMPLE_RATE), int((high + 0.03) * SAMPLE_RATE)
    if high <= low or first < 0 or last > len(samples):
        return dated_s
    power = ndimage.gaussian_filter1d(samples[first:last] ** 2, 0.006 * SAMPLE_RATE)[::hop]
    rise = np.gradient(10.0 * np.log10(power + 1e-7))
    times = (first + np.arange(len(rise)) * hop) / SAMPLE_RATE
    near = (times >= low) & (times <= high)
    if not near.any():
        return dated_s
    # the engine's time counts too: vowels after l or m hardly rise
    score = np.where(near, rise - 0.8 * np.abs(times - dated_s) / _REACH_S, -np.inf)
    best = int(score.argmax())
    return float(times[best]) if rise[best] > 0.5 else dated_s
