"""Standard MIDI Files, formats 0 and 1, with lyrics: the notes of the melody in seconds."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from assets.errors import AssetError
from voice.score import MELISMA, Note, Score, voice_of

_DRUMS = 9  # channel 10, counted from 0
_MOST_EVENTS = 2_000_000
_DATA_BYTES = {0x8: 2, 0x9: 2, 0xA: 2, 0xB: 2, 0xC: 1, 0xD: 1, 0xE: 2}
_TEXT, _NAME, _LYRIC, _END, _TEMPO = 0x01, 0x03, 0x05, 0x2F, 0x51
_LONGEST_TICKS = 1 << 40


@dataclass(frozen=True)
class _Key:
    """A key held down."""

    pitch: int
    start: int  # ticks
    end: int


@dataclass
class _Events:
    """What a file holds, times in ticks."""

    keys: dict[tuple[int, int], list[_Key]] = field(default_factory=dict)  # by track and channel
    lyrics: dict[int, list[tuple[int, str]]] = field(default_factory=dict)  # by track
    texts: dict[int, list[tuple[int, str]]] = field(default_factory=dict)
    tempos: list[tuple[int, int]] = field(default_factory=list)  # us a beat
    title: str = ""


def read_midi(content: bytes, path: Path) -> Score:
    """The melody of a MIDI file: the part that the lyrics belong to, or else the highest.

    Drums are left out; tempo changes are followed; lyrics come from lyric events, or from the text
    events of karaoke files.
    """
    if content[:4] == b"RIFF":
        content = content[20:]
    if len(content) < 14 or content[:4] != b"MThd":
        raise AssetError(f"{path} ends within its header; copy or export the MIDI file again")
    form, n_tracks, division = (int.from_bytes(content[i : i + 2], "big") for i in (8, 10, 12))
    if form == 2:
        raise AssetError(
            f"{path} is a MIDI file of format 2, a set of patterns; export it as format 0 or 1"
        )
    if division == 0:
        raise AssetError(f"{path} says that a beat has 0 ticks; export the MIDI file again")
    events = _Events()
    at = 8 + int.from_bytes(content[4:8], "big")
    track = 0
    while at + 8 <= len(content) and track < n_tracks:
        kind, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "big")
        body = content[at + 8 : at + 8 + size]
        at += 8 + size
        if kind != b"MTrk":
            continue
        if len(body) < size:
            raise AssetError(f"{path} is cut short in track {track + 1}; copy or export it again")
        try:
            _read_track(body, track, events)
        except (IndexError, _DamageError) as error:
            raise AssetError(
                f"{path} is damaged in track {track + 1}; export the MIDI file again"
            ) from error
        track += 1
    if track == 0:
        raise AssetError(f"{path} has no track; copy or export the MIDI file again")
    return _score(events, _Clock(division, events.tempos), path)


class _DamageError(Exception):
    pass


def _read_track(body: bytes, track: int, events: _Events) -> None:
    at, ticks, status = 0, 0, 0
    held: dict[tuple[int, int], int] = {}
    while at < len(body):
        step, at = _number(body, at)
        ticks += step
        if ticks > _LONGEST_TICKS:
            raise _DamageError
        if body[at] & 0x80:
            status = body[at]
            at += 1
        elif status < 0x80:
            raise _DamageError
        if status == 0xFF:
            kind = body[at]
            size, at = _number(body, at + 1)
            if at + size > len(body):
                raise _DamageError
            if kind == _END:
                break
            _meta(kind, body[at : at + size], ticks, track, events)
            at, status = at + size, 0
        elif status in (0xF0, 0xF7):
            size, at = _number(body, at)
            at, status = at + size, 0
        elif status >> 4 in _DATA_BYTES:
            count = _DATA_BYTES[status >> 4]
            pitch, strength = body[at], body[at + count - 1]
            at += count
            channel = status & 15
            if status >> 4 in (8, 9):
                start = held.pop((channel, pitch), None)
                if start is not None and ticks > start:
                    keys = events.keys.setdefault((track, channel), [])
                    keys.append(_Key(pitch & 127, start, ticks))
                if status >> 4 == 9 and strength > 0:
                    held[channel, pitch] = ticks
        else:
            raise _DamageError
    for (channel, pitch), start in held.items():  # keys that no event lets go of
        if ticks > start:
            events.keys.setdefault((track, channel), []).append(_Key(pitch & 127, start, ticks))
    if sum(len(keys) for keys in events.keys.values()) > _MOST_EVENTS:
        raise _DamageError


def _meta(kind: int, value: bytes, ticks: int, track: int, events: _Events) -> None:
    if kind == _TEMPO and len(value) == 3:
        events.tempos.append((ticks, max(1, int.from_bytes(value, "big"))))
    elif kind in (_TEXT, _LYRIC, _NAME):
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            text = value.decode("cp1252", errors="replace")
        if kind == _NAME:
            events.title = events.title or text.strip("\0 ")
        else:
            home = events.lyrics if kind == _LYRIC else events.texts
            home.setdefault(track, []).append((ticks, text.replace("\0", "")))


def _number(body: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, seven bits a byte."""
    value = 0
    for _ in range(4):
        byte = body[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            return value, at
    raise _DamageError


class _Clock:
    """Seconds of ticks, through all changes of tempo."""

    def __init__(self, division: int, tempos: list[tuple[int, int]]) -> None:
        self._ticks, self._times_s, self._tick_s = [0], [0.0], [0.0]
        if division & 0x8000:  # frames of film, which no tempo changes
            frames = 256 - (division >> 8)
            self._tick_s[0] = 1.0 / max(1, frames * (division & 0xFF))
            return
        self._tick_s[0] = 0.5 / division
        for tick, micros in sorted(tempos, key=lambda tempo: tempo[0]):
            now = self.seconds(tick)
            self._ticks.append(tick)
            self._times_s.append(now)
            self._tick_s.append(micros * 1e-6 / division)

    def seconds(self, tick: int) -> float:
        """The time of a tick."""
        index = bisect.bisect_right(self._ticks, tick) - 1
        return self._times_s[index] + (tick - self._ticks[index]) * self._tick_s[index]


def _score(events: _Events, clock: _Clock, path: Path) -> Score:
    parts = {key: keys for key, keys in events.keys.items() if key[1] != _DRUMS}
    if not parts:
        only = "only drums" if events.keys else "no notes"
        raise AssetError(f"{path} has {only}; give a score with a melody to sing")
    words_track, words = _words(events)
    chosen = max(parts, key=lambda part: _fitness(parts[part], part, words_track, words))
    spoken = dict(_spelt(words))
    keys = sorted(parts[chosen], key=lambda key: (key.start, -key.pitch))
    notes = []
    # a lyric may stand a little beside its note: it goes to the nearest one
    starts = sorted({key.start for key in keys})
    at_start: dict[int, tuple[str, bool]] = {}
    for tick, syllable in spoken.items():
        index = bisect.bisect_left(starts, tick)
        near = min(starts[max(0, index - 1) : index + 1], key=lambda start: abs(start - tick))
        at_start.setdefault(near, syllable)
    for key in keys:
        start_s, end_s = clock.seconds(key.start), clock.seconds(key.end)
        if not math.isfinite(end_s) or end_s <= start_s:
            continue
        note = Note(float(key.pitch), start_s, end_s)
        if key.start in at_start:
            lyric, joined = at_start[key.start]
            note = replace(note, lyric=lyric, joined=joined)
        notes.append(note)
    return voice_of(notes, path, events.title)


def _words(events: _Events) -> tuple[int, list[tuple[int, str]]]:
    """The track of the most lyrics, and these; -1 where there are none."""
    for home in (events.lyrics, events.texts):
        found = {
            track: [entry for entry in entries if not entry[1].startswith(("@", "%"))]
            for track, entries in home.items()
        }
        # a text event or two are a comment
        found = {t: e for t, e in found.items() if len(e) > (0 if home is events.lyrics else 3)}
        if found:
            track = max(found, key=lambda track: len(found[track]))
            return track, found[track]
    return -1, []


def _fitness(
    keys: list[_Key], part: tuple[int, int], words_track: int, words: list[tuple[int, str]]
) -> tuple[float, float, float]:
    """How well a part suits as the melody: words on its notes, then one line, then height."""
    starts = Counter(key.start for key in keys)
    matched = sum(tick in starts for tick, _ in words) / max(1, len(words))
    # an accompaniment has notes at every syllable too, and many others
    fit = matched * min(1.0, len(words) / len(starts)) if words else 0.0
    single = sum(count == 1 for count in starts.values()) / len(starts)
    height = sum(key.pitch for key in keys) / len(keys)
    same = 0.5 if part[0] == words_track else 0.0
    return round(fit + same, 2), round(single, 1) if len(starts) > 3 or words else 0.0, height


def _spelt(words: list[tuple[int, str]]) -> list[tuple[int, tuple[str, bool]]]:
    """Syllables, and whether each goes on with the word before, by hyphens or by spaces."""
    spaced = not any(text.strip().endswith("-") and len(text.strip()) > 1 for _, text in words)
    spaced = spaced and any(text != text.strip() or text[:1] in "/\\" for _, text in words)
    spelt: list[tuple[int, tuple[str, bool]]] = []
    open_word = False
    for tick, text in words:
        begins = text[:1] in ("/", "\\", " ", "\r", "\n")
        bare = text.strip().lstrip("/\\").strip()
        if bare in ("", "-", "_", "+", "~"):
            if bare:
                spelt.append((tick, (MELISMA, False)))
            elif begins:
                open_word = False
            continue
        syllable = bare.strip("-_ ")
        if syllable:
            spelt.append((tick, (syllable, open_word and not begins)))
        open_word = not text[-1:].isspace() if spaced else bare.endswith("-")
    return spelt
