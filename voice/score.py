"""A melody with words: notes in seconds, read from MIDI, MusicXML or a few lines of text."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from assets.errors import AssetError

log = logging.getLogger(__name__)

LONGEST_S = 30 * 60.0
MOST_NOTES = 20_000
MELISMA = "-"  # a lyric that goes on singing the vowel before
_LARGEST_FILE = 32_000_000  # bytes
_SHORTEST_NOTE_S = 0.03
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_OVERLAP = 0.25  # of the shorter of two notes: up to here, they are one after the other, legato


@dataclass(frozen=True)
class Note:
    """One sung note."""

    pitch: float  # MIDI number: 60 is middle C, 69 is A at 440 Hz
    start_s: float
    end_s: float
    lyric: str = ""  # a syllable; MELISMA goes on with the vowel before; empty: there are no words
    joined: bool = False  # whether the syllable goes on the word of the one before

    def __post_init__(self) -> None:
        if not 0.0 <= self.start_s < self.end_s:
            raise ValueError(
                f"a note lasts from {self.start_s} s to {self.end_s} s; times start at 0 and end "
                "after they start"
            )
        if not 0.0 <= self.pitch <= 127.0:
            raise ValueError(f"pitch={self.pitch} is out of range; MIDI numbers are 0 to 127")

    @property
    def hertz(self) -> float:
        """Frequency in equal temperament, A at 440 Hz."""
        return float(440.0 * 2.0 ** ((self.pitch - 69.0) / 12.0))


@dataclass(frozen=True)
class Score:
    """Notes of one voice in order, none begun before the last has ended."""

    notes: tuple[Note, ...]
    title: str = ""

    def __post_init__(self) -> None:
        if not self.notes:
            raise ValueError("a score without notes cannot be sung; give at least one")
        for earlier, later in zip(self.notes, self.notes[1:], strict=False):
            if later.start_s < earlier.end_s - 1e-6:
                raise ValueError(
                    f"a note starts at {later.start_s:.3f} s, before the last one ends at "
                    f"{earlier.end_s:.3f} s; a voice sings one note at a time"
                )

    @property
    def duration_s(self) -> float:
        """Time at which the last note ends."""
        return self.notes[-1].end_s

    def transposed(self, semitones: float) -> Score:
        """The score, higher by some semitones."""
        moved = tuple(replace(note, pitch=note.pitch + semitones) for note in self.notes)
        return replace(self, notes=moved)

    def at_tempo(self, factor: float) -> Score:
        """The score `factor` times as fast."""
        if not 0.1 <= factor <= 10.0:
            raise ValueError(f"a tempo factor of {factor} is out of range; choose 0.1 to 10")
        moved = tuple(
            replace(note, start_s=note.start_s / factor, end_s=note.end_s / factor)
            for note in self.notes
        )
        return replace(self, notes=moved)

    @classmethod
    def read(cls, path: Path | str) -> Score:
        """The score of a Standard MIDI File, of MusicXML (plain or .mxl), or of a text.

        The content decides, not the name. Where several notes sound at once, the highest is sung;
        without lyrics every note is sung on "la". A text has a note a line, as `C4 1 Twin-`: pitch
        (or R for a rest), length in beats, syllable, `-` behind a syllable whose word goes on,
        `-` alone for a melisma; `tempo 100` sets beats a minute; `#` begins a comment. AssetError
        where the file is none of these, is damaged or has nothing to sing.
        """
        path = Path(path)
        content = read_limited(path)
        if content[:4] == b"MThd" or (content[:4] == b"RIFF" and content[8:12] == b"RMID"):
            from voice.score_midi import read_midi

            return read_midi(content, path)
        if content[:4] == b"PK\x03\x04" or is_xml(content):
            from voice.score_musicxml import read_musicxml

            return read_musicxml(content, path)
        return _read_text(content, path)


def read_limited(path: Path) -> bytes:
    """The bytes of a score file; AssetError where it is missing, empty or far too large."""
    if not path.is_file():
        raise AssetError(f"there is no score at {path}; check the path")
    size = path.stat().st_size
    if size > _LARGEST_FILE:
        raise AssetError(
            f"{path} has {size / 1e6:.0f} MB, a score has at most {_LARGEST_FILE / 1e6:.0f}; give "
            "a MIDI or MusicXML file"
        )
    if size == 0:
        raise AssetError(f"{path} is empty; export the score again")
    return path.read_bytes()


def is_xml(content: bytes) -> bool:
    """Whether the bytes begin as an XML document does, in UTF-8 or UTF-16."""
    head = content[:200].replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    return head.startswith(b"<")


def voice_of(notes: Iterable[Note], path: Path, title: str = "") -> Score:
    """The score of notes that may overlap: one after the other, the highest of those at once.

    Notes under 30 ms are left out. AssetError where nothing is left, or far too much.
    """
    line = top_voice([note for note in notes if note.end_s - note.start_s >= _SHORTEST_NOTE_S])
    if not line:
        raise AssetError(f"{path} has no notes to sing; give a score with a melody")
    if len(line) > MOST_NOTES or line[-1].end_s > LONGEST_S:
        raise AssetError(
            f"{path} has {len(line)} notes in {line[-1].end_s / 60:.0f} min, the limits are "
            f"{MOST_NOTES} and {LONGEST_S / 60:.0f} min; cut it into parts"
        )
    if not any(note.lyric for note in line):
        log.warning("%s has no lyrics; every note is sung on 'la'", path)
        line = [replace(note, lyric="la") for note in line]
    return Score(tuple(_with_melismas(line)), title)


def top_voice(notes: Sequence[Note]) -> list[Note]:
    """The notes of the highest voice, none beginning before the last ends."""
    line: list[Note] = []
    dropped = 0
    for note in sorted(notes, key=lambda note: (note.start_s, -note.pitch)):
        before = line[-1] if line else None
        if before is None or note.start_s >= before.end_s - 1e-6:
            line.append(note)
            continue
        shorter = min(note.end_s - note.start_s, before.end_s - before.start_s)
        legato = before.end_s - note.start_s <= _OVERLAP * shorter
        if not legato and note.pitch <= before.pitch:
            dropped += 1
            if (
                note.lyric and not before.lyric
            ):  # the words of a chord may stand at any of its notes
                line[-1] = replace(before, lyric=note.lyric, joined=note.joined)
            continue
        dropped += not legato
        if note.start_s - before.start_s < _SHORTEST_NOTE_S:
            line.pop()
            if before.lyric and not note.lyric:
                note = replace(note, lyric=before.lyric, joined=before.joined)
        else:
            line[-1] = replace(before, end_s=note.start_s)
        line.append(note)
    if dropped:
        log.warning("%d notes sound while a higher one does; the highest voice is sung", dropped)
    return line


def _with_melismas(line: list[Note]) -> list[Note]:
    """The notes, those without words of their own going on with the syllable before."""
    sung: list[Note] = []
    for note in line:
        if not note.lyric:
            # behind a rest there is no vowel left to go on with
            near = bool(sung) and note.start_s - sung[-1].end_s < 0.25
            note = replace(note, lyric=MELISMA if near else "la")
        elif note.lyric == MELISMA and not sung:
            note = replace(note, lyric="la")
        sung.append(note)
    return sung


def midi_pitch(name: str) -> float:
    """C4 -> 60, F#3 -> 54, Bb4 -> 70; a number is taken as it is."""
    found = re.fullmatch(r"([A-Ga-g])(#{0,2}|b{0,2}|♯|♭)(-?\d)", name)
    if found:
        sign = found[2].replace("♯", "#").replace("♭", "b")
        change = len(sign) * (1 if sign.startswith("#") else -1)
        return float(12 * (int(found[3]) + 1) + _STEPS[found[1].upper()] + change)
    try:
        number = float(name)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 127.0:
        raise ValueError(f"{name!r} is no note; write one as C4, F#3, Bb4 or 60")
    return number


def _read_text(content: bytes, path: Path) -> Score:
    kinds = "a MIDI file, MusicXML, or text with lines such as 'C4 1 la'"
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise AssetError(f"{path} is no score; give {kinds}") from error
    notes: list[Note] = []
    beat_s, at_s, goes_on = 0.6, 0.0, False
    for number, line in enumerate(lines, start=1):
        words = re.sub(r"(^|\s)#\s.*$|^#.*$", "", line).split()
        if not words:
            continue
        try:
            if words[0].lower() == "tempo":
                beat_s = 60.0 / _within(words[1], 10.0, 400.0)
                continue
            length_s = beat_s * _within(words[1], 0.01, 1000.0)
            if words[0].lower() != "r":
                lyric = " ".join(words[2:])
                syllable = lyric if lyric == MELISMA else lyric.rstrip(MELISMA)
                notes.append(Note(midi_pitch(words[0]), at_s, at_s + length_s, syllable, goes_on))
                goes_on = goes_on if lyric == MELISMA else lyric.endswith(MELISMA)
            at_s += length_s
        except (ValueError, IndexError) as error:
            reason = str(error) if isinstance(error, ValueError) else "its length is missing"
            if not notes:
                reason = f"not the line of a score; give {kinds}"
            raise AssetError(f"{path}, line {number}: {line.strip()[:40]!r}: {reason}") from error
    return voice_of(notes, path)


def _within(text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise ValueError(f"{text!r} is no number from {least:g} to {most:g}")
    return value
