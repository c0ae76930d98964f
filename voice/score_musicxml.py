"""MusicXML scores, plain or compressed (.mxl): the notes of the sung part in seconds."""

from __future__ import annotations

import bisect
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from assets.errors import AssetError
from voice.score import MELISMA, Note, Score, is_xml, voice_of
from voice.score_repeats import Played, played_measures

_LARGEST_XML = 64_000_000  # bytes, unpacked
_MOST_ELEMENTS = 3_000_000
_DEEPEST = 100
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


class _UnsafeError(Exception):
    pass


def read_musicxml(content: bytes, path: Path) -> Score:
    """The melody of a partwise MusicXML score: the part and the voice with the most words.

    Repeats, endings and jumps are sung out, each time with the next verse where there is one; tied
    notes are one, chords give their highest note, transposing instruments sound as they do.
    Entities are refused, as nothing needs them.
    """
    if content[:2] == b"PK":
        content = _unpacked(content, path)
    root = _parsed(content, path)
    if root.tag == "score-timewise":
        raise AssetError(f"{path} is a timewise score; export it as partwise MusicXML")
    if root.tag != "score-partwise":
        raise AssetError(f"{path} is XML but no MusicXML score; export it as MusicXML")
    parts = root.findall("part")
    if not parts:
        raise AssetError(f"{path} has no part; export the score again")
    try:
        order = played_measures(parts)
        clock = _Clock(_tempos(parts, order))
    except ValueError as error:
        raise AssetError(f"{path} cannot be sung out: {error}; export it again") from error
    sung: list[_Part] = []
    for part in parts:
        try:
            sung.append(_read_part(part, order))
        except (ValueError, TypeError) as error:
            raise AssetError(
                f"{path} has a note without a proper pitch or length ({error}); export it again"
            ) from error
    best = max(sung, key=lambda part: (part.n_lyrics, -part.n_chords, bool(part.notes)))
    notes = []
    for start, end, pitch, lyric, joined in best.notes:
        start_s, end_s = clock.seconds(start), clock.seconds(end)
        if end_s > start_s:
            if not 0 <= pitch <= 127:
                raise AssetError(f"{path} has a note at MIDI number {pitch}; export it again")
            notes.append(Note(float(pitch), start_s, end_s, lyric, joined))
    title = root.findtext("work/work-title") or root.findtext("movement-title") or ""
    return voice_of(notes, path, title.strip())


def _unpacked(content: bytes, path: Path) -> bytes:
    """The score inside an .mxl archive, of limited size."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            name = None
            if "META-INF/container.xml" in names:
                listing = _parsed(_member(archive, "META-INF/container.xml", path), path)
                roots = [element.get("full-path") for element in listing.iter("rootfile")]
                name = next((root for root in roots if root in names), None)
            if name is None:
                name = next(
                    (
                        name
                        for name in names
                        if name.lower().endswith((".musicxml", ".xml"))
                        and not name.startswith("META-INF")
                    ),
                    None,
                )
            if name is None:
                raise AssetError(f"{path} is an archive without a score; export it as MusicXML")
            inner = _member(archive, name, path)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise AssetError(f"{path} is a damaged archive; export the score again") from error
    if not is_xml(inner):
        raise AssetError(f"{path} holds no XML where its score should be; export it again")
    return inner


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    import zlib

    try:
        with archive.open(name) as file:
            inner = file.read(_LARGEST_XML + 1)
    except zlib.error as error:
        raise AssetError(f"{path} is a damaged archive; export the score again") from error
    if len(inner) > _LARGEST_XML:
        raise AssetError(
            f"{path} unpacks to more than {_LARGEST_XML / 1e6:.0f} MB, which no score does"
        )
    return inner


def _parsed(content: bytes, path: Path) -> Element:
    """The document's tree, names without their namespaces."""
    builder = TreeBuilder()
    parser = expat.ParserCreate(namespace_separator="}")
    depth = count = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        if depth > _DEEPEST or count > _MOST_ELEMENTS:
            raise _UnsafeError("it nests too deep or holds too much")
        builder.start(tag.rpartition("}")[2], attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag.rpartition("}")[2])

    def refuse(*_: object) -> None:
        raise _UnsafeError("it defines entities")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = parser.UnparsedEntityDeclHandler = refuse
    # the reference to MusicXML's own DTD is never followed
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    try:
        parser.Parse(content, True)
        return builder.close()
    except expat.ExpatError as error:
        raise AssetError(
            f"{path} is not whole as XML (line {error.lineno}); export the score again"
        ) from error
    except _UnsafeError as error:
        raise AssetError(f"{path} is refused: {error}; export the score again") from error


@dataclass(frozen=True)
class _Part:
    """The notes of one voice of one part: start and end in beats, MIDI number, lyric, joined."""

    notes: list[tuple[float, float, int, str, bool]]
    n_lyrics: int
    n_chords: int


def _read_part(part: Element, order: list[Played]) -> _Part:
    """The notes of the voice with the most words, ties joined."""
    notes: dict[str, list[tuple[float, float, int, str, bool]]] = {}
    ties: dict[tuple[str, int], int] = {}  # the note that a tie goes on from
    lyrics: Counter[str] = Counter()
    chords: Counter[str] = Counter()
    at = onset = 0.0
    measures = _in_force(part)
    for turn in order:
        if turn.index >= len(measures):
            continue
        measure, divisions, shift = measures[turn.index]
        begin = furthest = at
        verse = _verse(measure, turn.verse)
        for element in measure:
            if element.tag == "attributes":
                divisions, shift = _attributes(element, divisions, shift)
            elif element.tag in ("backup", "forward"):
                step = float(element.findtext("duration") or 0) / divisions
                at = max(begin, at - step) if element.tag == "backup" else at + step
            elif element.tag == "note":
                length = float(element.findtext("duration") or 0) / divisions
                if element.find("chord") is None:
                    onset, at = at, at + length
                if element.find("grace") is not None or length <= 0:
                    continue
                voice = element.findtext("voice") or "1"
                pitch = _pitch(element, shift)
                if pitch is None:
                    continue
                line = notes.setdefault(voice, [])
                chords[voice] += element.find("chord") is not None
                kinds = {tie.get("type") for tie in element.findall("tie")}
                earlier = ties.pop((voice, pitch), None) if "stop" in kinds else None
                if earlier is not None and abs(line[earlier][1] - onset) < 1e-6:
                    line[earlier] = (line[earlier][0], onset + length, *line[earlier][2:])
                    index = earlier
                else:
                    lyric, joined = _lyric(element, verse)
                    lyrics[voice] += bool(lyric)
                    index = len(line)
                    line.append((onset, onset + length, pitch, lyric, joined))
                if "start" in kinds:
                    ties[voice, pitch] = index
            furthest = max(furthest, at)
        at = furthest
    if not notes:
        return _Part([], 0, 0)
    # without words, the highest voice
    best = max(
        notes,
        key=lambda voice: (lyrics[voice], sum(n[2] for n in notes[voice]) / len(notes[voice])),
    )
    return _Part(notes[best], lyrics[best], chords[best])


def _in_force(part: Element) -> list[tuple[Element, float, int]]:
    """Each measure with the divisions and the transposition that hold where it begins."""
    found: list[tuple[Element, float, int]] = []
    divisions, shift = 1.0, 0
    for measure in part.findall("measure"):
        found.append((measure, divisions, shift))
        for attributes in measure.findall("attributes"):
            divisions, shift = _attributes(attributes, divisions, shift)
    return found


def _attributes(attributes: Element, divisions: float, shift: int) -> tuple[float, int]:
    """Divisions and transposition in semitones from there on."""
    transpose = attributes.find("transpose")
    if transpose is not None:
        octaves = int(float(transpose.findtext("octave-change") or 0))
        shift = int(float(transpose.findtext("chromatic") or 0)) + 12 * octaves
    return _positive(attributes.findtext("divisions")) or divisions, shift


def _pitch(note: Element, shift: int) -> int | None:
    """The MIDI number; None for rests and drums."""
    pitch = note.find("pitch")
    if pitch is None:
        return None
    step = (pitch.findtext("step") or "").strip().upper()
    if step not in _STEPS:
        raise ValueError(f"step {step[:10]!r}")
    alter = round(float(pitch.findtext("alter") or 0))
    return 12 * (int(pitch.findtext("octave") or "") + 1) + _STEPS[step] + alter + shift


def _verse(measure: Element, wanted: int) -> int:
    """The verse to sing of a measure: the wanted one, or where it has none, its first."""
    there = {_number(lyric) for lyric in measure.iterfind("note/lyric")}
    return wanted if wanted in there else min(there, default=1)


def _number(lyric: Element) -> int:
    """A lyric's verse; names such as `part1verse2` end in it."""
    digits = re.search(r"(\d{1,3})\D*$", lyric.get("number") or "1")
    return int(digits[1]) if digits else 1


def _lyric(note: Element, number: int) -> tuple[str, bool]:
    """The syllable of a verse, and whether it goes on with the word before."""
    verse = next((one for one in note.findall("lyric") if _number(one) == number), None)
    if verse is None:
        return "", False
    text = " ".join((one.text or "").strip() for one in verse.findall("text")).strip()
    if not text:
        return (MELISMA if verse.find("extend") is not None else ""), False
    syllabic = (verse.findtext("syllabic") or "single").strip()
    return text.strip("-_ ") or MELISMA, syllabic in ("middle", "end")


def _tempos(parts: list[Element], order: list[Played]) -> list[tuple[float, float]]:
    """Beats and the seconds of a beat from there on, of the first part that says so."""
    for part in parts:
        measures = _in_force(part)
        written: list[float | None] = []  # tempo where each measure begins
        tempo = None
        for measure, _, _ in measures:
            written.append(tempo)
            tempo = next((found for found in map(_tempo, reversed(measure)) if found), tempo)
        if tempo is None:
            continue
        first = next(found for found in map(_tempo, _elements(measures)) if found)
        found: list[tuple[float, float]] = [(0.0, first)]
        at, before = 0.0, -1
        for turn in order:
            if turn.index >= len(measures):
                continue
            measure, divisions, shift = measures[turn.index]
            begin = furthest = at
            if turn.index != before + 1:
                found.append((at, written[turn.index] or first))
            before = turn.index
            for element in measure:
                if element.tag == "attributes":
                    divisions, shift = _attributes(element, divisions, shift)
                elif new := _tempo(element):
                    found.append((at, new))
                elif element.tag in ("backup", "forward", "note") and element.find("chord") is None:
                    step = (_positive(element.findtext("duration")) or 0.0) / divisions
                    at = max(begin, at - step) if element.tag == "backup" else at + step
                furthest = max(furthest, at)
            at = furthest
        return sorted(found, key=lambda tempo: tempo[0])
    return [(0.0, 0.5)]


def _elements(measures: list[tuple[Element, float, int]]) -> Iterator[Element]:
    for measure, _, _ in measures:
        yield from measure


def _tempo(element: Element) -> float | None:
    """Seconds of a beat, where an element sets them."""
    if element.tag not in ("sound", "direction"):
        return None
    sound = element if element.tag == "sound" else element.find("sound")
    per_minute = _positive(None if sound is None else sound.get("tempo")) or _metronome(element)
    return 60.0 / min(max(per_minute, 5.0), 1000.0) if per_minute else None


def _metronome(direction: Element) -> float | None:
    """Quarter notes a minute of a metronome mark."""
    mark = direction.find("direction-type/metronome")
    per_minute = None if mark is None else _positive(mark.findtext("per-minute"))
    if mark is None or per_minute is None:
        return None
    units = {"whole": 4.0, "half": 2.0, "quarter": 1.0, "eighth": 0.5, "16th": 0.25}
    unit = units.get((mark.findtext("beat-unit") or "quarter").strip(), 1.0)
    return per_minute * unit * (1.5 if mark.find("beat-unit-dot") is not None else 1.0)


class _Clock:
    """Seconds of beats, through all changes of tempo."""

    def __init__(self, tempos: list[tuple[float, float]]) -> None:
        self._beats, self._beat_s = ([tempo[i] for tempo in tempos] for i in (0, 1))
        self._times_s = [0.0]
        for index in range(1, len(tempos)):
            step = self._beats[index] - self._beats[index - 1]
            self._times_s.append(self._times_s[-1] + step * self._beat_s[index - 1])

    def seconds(self, beat: float) -> float:
        """The time of a beat."""
        index = bisect.bisect_right(self._beats, beat) - 1
        return self._times_s[index] + (beat - self._beats[index]) * self._beat_s[index]


def _positive(text: str | None) -> float | None:
    try:
        value = float(text or 0)
    except ValueError:
        return None
    return value if 0 < value < 1e6 else None
