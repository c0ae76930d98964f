"""The line that a voice sings: its pitch from note to note, and when which sound is heard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from voice.score import Note
from voice.sing_words import Syllable, Word

_GLIDE_S = 0.09  # from one note to the next
_EARLY_S = 0.01  # the middle of a glide lies before the beat, so that the vowel is in tune
_SCOOP = 0.4  # semitones under the note from which a voice begins after a rest
_SCOOP_S = 0.08
_VIBRATO_NOTE_S = 0.5  # shorter notes have none
_DRIFT = 0.05  # semitones
_DRIFT_S = 0.12
_LONGEST_ONSET_S, _LONGEST_CODA_S = 0.22, 0.28


@dataclass(frozen=True)
class Vibrato:
    """A swing of the pitch that sets in on long notes."""

    rate_hz: float = 5.5
    depth_semitones: float = 0.35  # to either side
    delay_s: float = 0.3

    def __post_init__(self) -> None:
        if not 3.0 <= self.rate_hz <= 9.0:
            raise ValueError(f"a vibrato of {self.rate_hz} Hz is out of range; choose 3 to 9")
        if not 0.0 <= self.depth_semitones <= 2.0:
            raise ValueError(
                f"a vibrato of {self.depth_semitones} semitones is out of range; choose 0 to 2"
            )
        if not 0.0 <= self.delay_s <= 5.0:
            raise ValueError(f"a vibrato's delay of {self.delay_s} s is out of range; 0 to 5")


def pitch_line(
    notes: Sequence[Note],
    times_s: Float[np.ndarray, " T"],
    vibrato: Vibrato,
    *,
    generator: torch.Generator,
) -> Float[np.ndarray, " T"]:
    """The sung pitch at rising, evenly spaced times, as MIDI numbers with fractions.

    Through rests the pitch of the note before is held, though nothing sounds there.
    """
    from scipy import ndimage

    starts = np.array([note.start_s for note in notes])
    index = np.maximum(np.searchsorted(starts, times_s + _EARLY_S, side="right") - 1, 0)
    line = np.array([note.pitch for note in notes])[index]
    for position, note in enumerate(notes):
        before = notes[position - 1] if position else None
        length_s = note.end_s - note.start_s
        near = slice(*np.searchsorted(times_s, [note.start_s - 0.5, note.end_s + 0.5]))
        since = times_s[near] - note.start_s
        if before is None or note.start_s - before.end_s > 0.12:
            rise = np.clip(since / min(_SCOOP_S, 0.4 * length_s), 0.0, 1.0)
            scoop = _SCOOP * (0.5 + 0.5 * np.cos(np.pi * rise))
            line[near] -= np.where((since >= -_EARLY_S) & (since < length_s), scoop, 0.0)
        else:
            span = min(_GLIDE_S, 0.5 * length_s, 0.5 * (before.end_s - before.start_s))
            share = np.clip((since + _EARLY_S) / span, -0.5, 0.5)
            glide = 0.5 + 0.5 * np.sin(np.pi * share)  # 0 before, 1 after
            step = (index[near] >= position).astype(float)
            line[near] += np.where(np.abs(share) < 0.5, glide - step, 0.0) * (
                note.pitch - before.pitch
            )
        if length_s >= _VIBRATO_NOTE_S and vibrato.depth_semitones > 0:
            on = np.clip((since - vibrato.delay_s) / 0.3, 0.0, 1.0)
            on *= np.clip((length_s - since) / 0.08, 0.0, 1.0)
            swing = np.sin(2 * np.pi * vibrato.rate_hz * (since - vibrato.delay_s))
            line[near] += vibrato.depth_semitones * on * swing
    step_s = times_s[1] - times_s[0] if len(times_s) > 1 else 1.0
    noise = torch.randn(len(times_s), generator=generator, dtype=torch.float64).numpy()
    smooth = ndimage.gaussian_filter1d(noise, _DRIFT_S / step_s, mode="reflect")
    # a white noise of deviation 1 has 1 / sqrt(2 sqrt(pi) sigma) left after the filter
    smooth *= np.sqrt(2.0 * np.sqrt(np.pi) * _DRIFT_S / step_s)
    return np.asarray(line + _DRIFT * np.clip(smooth, -2.0, 2.0))


@dataclass(frozen=True)
class Placed:
    """A syllable laid on its notes: times in the song, each beside one in its word."""

    word: int
    syllable: Syllable
    song_s: tuple[float, ...]  # start, vowel, hold from, hold to, coda, end
    word_s: tuple[float, ...]
    after_rest: bool
    before_rest: bool


def placed(words: Sequence[Word], legato_s: float) -> list[Placed]:
    """Every syllable with its vowel on the beat, its consonants before and after at their length.

    Rests under `legato_s` are sung over. Where notes are too short for their consonants, these are
    shortened, so that at least half of the note is vowel.
    """
    flat = [
        (index, syllable, notes)
        for index, word in enumerate(words)
        for syllable, notes in zip(word.syllables, word.notes, strict=True)
    ]
    laid: list[Placed] = []
    onsets: list[float] = []
    for position, (_, syllable, notes) in enumerate(flat):
        wish = min(syllable.vowel_s - syllable.start_s, _LONGEST_ONSET_S)
        beat = notes[0].start_s
        room = beat - flat[position - 1][2][0].start_s if position else wish
        gap = beat - flat[position - 1][2][-1].end_s if position else wish
        # a melisma before leaves no less than its last note
        if position:
            room = beat - flat[position - 1][2][-1].start_s
        onsets.append(min(wish, max(gap, 0.0) + 0.4 * (room - max(gap, 0.0))))
    for position, (index, syllable, notes) in enumerate(flat):
        beat, end = notes[0].start_s, notes[-1].end_s
        after_rest = before_rest = True
        if position:
            after_rest = beat - flat[position - 1][2][-1].end_s >= legato_s
        if position + 1 < len(flat):
            next_start = flat[position + 1][2][0].start_s - onsets[position + 1]
            before_rest = flat[position + 1][2][0].start_s - end >= legato_s
            end = min(end, next_start) if before_rest else next_start
        coda = min(syllable.end_s - syllable.coda_s, _LONGEST_CODA_S, 0.4 * (end - beat))
        vowel_end = end - coda
        song, word = _stretched(syllable, beat, vowel_end)
        laid.append(
            Placed(
                index,
                syllable,
                (beat - onsets[position], beat, *song, vowel_end, end),
                (syllable.start_s, syllable.vowel_s, *word, syllable.coda_s, syllable.end_s),
                after_rest,
                before_rest,
            )
        )
    return laid


def _stretched(
    syllable: Syllable, beat: float, end: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where in the song the held part begins and ends: the rest of the vowel keeps its pace."""
    attack = syllable.hold_s[0] - syllable.vowel_s
    release = syllable.coda_s - syllable.hold_s[1]
    squeeze = min(1.0, 0.8 * (end - beat) / max(attack + release, 1e-6))
    return (beat + squeeze * attack, end - squeeze * release), syllable.hold_s
