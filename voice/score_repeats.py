"""The order in which the measures of a MusicXML score are played: repeats, endings, jumps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

_MOST_TIMES = 50  # that a section is repeated
_MOST_MEASURES = 50_000


@dataclass(frozen=True)
class Played:
    """One measure's turn."""

    index: int  # of the written measure
    verse: int  # how often it has been played, this time included, from 1


@dataclass
class _Marks:
    """What stands at one measure."""

    is_start: bool = False  # of a repeated section
    times: int = 0  # that the section which ends here is played; 0 where none ends
    segno: bool = False
    coda: bool = False
    to_coda: bool = False
    fine: bool = False
    da_capo: bool = False
    dal_segno: bool = False
    opens: tuple[int, ...] = ()  # numbers of the ending that begins here
    closes: bool = False


@dataclass
class _Ending:
    first: int
    last: int
    numbers: tuple[int, ...]
    group: list[_Ending] = field(default_factory=list)  # the alternatives, itself included

    @property
    def is_last(self) -> bool:
        return self.group[-1] is self and (len(self.group) > 1)


def played_measures(parts: list[Element]) -> list[Played]:
    """The measures as they follow each other; marks in any of the parts count for all.

    A section is repeated as often as its sign or the numbers of its endings say. After a da capo
    or dal segno, repeats are left out and last endings taken, up to the Fine, or to the sign from
    which the coda is reached; each such jump is made once. ValueError where a score repeats
    without end.
    """
    rows = [part.findall("measure") for part in parts]
    marks = [
        _marks(row[index] for row in rows if index < len(row))
        for index in range(max(map(len, rows)))
    ]
    endings = _endings(marks)
    codas = [index for index, mark in enumerate(marks) if mark.coda]
    played: list[Played] = []
    counts: Counter[int] = Counter()
    used: set[int] = set()  # measures whose jump has been made
    index = start = 0
    turn, has_jumped = 1, False
    while index < len(marks):
        mark, ending = marks[index], endings.get(index)
        if mark.is_start and index != start:
            start, turn = index, 1
        if ending is not None and index == ending.first and not _is_taken(ending, turn, has_jumped):
            index = ending.last + 1
            continue
        counts[index] += 1
        played.append(Played(index, max(counts[index], turn)))
        if len(played) > _MOST_MEASURES:
            raise ValueError("its repeats go on without end")
        if mark.times and not has_jumped:
            if turn < _turns(mark, ending):
                index, turn = start, turn + 1
                continue
            start, turn = index + 1, 1
        elif ending is not None and index == ending.last and ending.is_last:
            start, turn = index + 1, 1
        if has_jumped and mark.fine:
            break
        if has_jumped and mark.to_coda and (later := [at for at in codas if at > index]):
            index = later[0]
            continue
        if (mark.da_capo or mark.dal_segno) and index not in used:
            used.add(index)
            signs = [at for at in range(index + 1) if marks[at].segno]
            index = signs[-1] if mark.dal_segno and signs else 0
            start, turn, has_jumped = index, 1, True
            continue
        index += 1
    return played


def _is_taken(ending: _Ending, turn: int, has_jumped: bool) -> bool:
    if has_jumped:
        return ending.is_last
    return turn in ending.numbers


def _turns(mark: _Marks, ending: _Ending | None) -> int:
    """How often the section that ends with a mark is played."""
    if ending is None:
        return mark.times
    numbers = [number for one in ending.group for number in one.numbers]
    # one ending alone: the last time, the music goes on behind it
    return max(mark.times, max(numbers) + (len(ending.group) == 1))


def _marks(measures: Iterable[Element]) -> _Marks:
    """What stands at the measures of all parts that sound together."""
    found = _Marks()
    for measure in measures:
        for barline in measure.findall("barline"):
            _read_barline(barline, found)
        for sound in measure.iter("sound"):
            found.segno |= sound.get("segno") is not None
            found.coda |= sound.get("coda") is not None
            found.to_coda |= sound.get("tocoda") is not None
            found.fine |= sound.get("fine") is not None
            found.da_capo |= sound.get("dacapo") == "yes"
            found.dal_segno |= sound.get("dalsegno") is not None
        if measure.find("direction/direction-type/segno") is not None:
            found.segno = True
        for words in measure.iterfind("direction/direction-type/words"):
            text = re.sub(r"[\s.]+", " ", (words.text or "").lower()).strip()
            found.fine |= text == "fine"
            found.to_coda |= text == "to coda"
            found.coda |= text == "coda"
            found.da_capo |= re.match(r"(d ?c|da capo)\b", text) is not None
            found.dal_segno |= re.match(r"(d ?s|dal segno)\b", text) is not None
    return found


def _read_barline(barline: Element, found: _Marks) -> None:
    repeat, ending = barline.find("repeat"), barline.find("ending")
    if repeat is not None and repeat.get("direction") == "forward":
        found.is_start = True
    elif repeat is not None:
        found.times = int(repeat.get("times") or 2)
        if not 1 <= found.times <= _MOST_TIMES:
            raise ValueError(f"a section is repeated {found.times} times")
    if ending is not None and ending.get("type") == "start":
        numbers = [int(number) for number in re.findall(r"\d+", ending.get("number") or "")]
        found.opens = tuple(number for number in numbers if 1 <= number <= _MOST_TIMES)
    elif ending is not None:
        found.closes = True


def _endings(marks: list[_Marks]) -> dict[int, _Ending]:
    """The ending that each measure is in."""
    by_measure: dict[int, _Ending] = {}
    before: _Ending | None = None
    for first, mark in enumerate(marks):
        if not mark.opens:
            continue
        last = first
        while not marks[last].closes and last + 1 < len(marks) and not marks[last + 1].opens:
            last += 1
        ending = _Ending(first, last, mark.opens)
        ending.group = before.group if before is not None and before.last + 1 == first else []
        ending.group.append(ending)
        before = ending
        by_measure.update(dict.fromkeys(range(first, last + 1), ending))
    return by_measure
