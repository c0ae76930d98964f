"""Repeats, endings and jumps of MusicXML scores; every unrolled line was written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets import AssetError
from voice.score import Score

START = '<barline location="left"><repeat direction="forward"/></barline>'
BACK = '<barline location="right"><repeat direction="backward"/></barline>'
THRICE = '<barline location="right"><repeat direction="backward" times="3"/></barline>'


def opens(number: str) -> str:
    return f'<barline location="left"><ending number="{number}" type="start"/></barline>'


def closes(number: str, *, repeats: bool) -> str:
    back = '<repeat direction="backward"/>' if repeats else ""
    kind = "stop" if repeats else "discontinue"
    ending = f'<ending number="{number}" type="{kind}"/>'
    return f'<barline location="right">{ending}{back}</barline>'


def says(**attributes: str) -> str:
    written = " ".join(f'{name}="{value}"' for name, value in attributes.items())
    return f"<direction><sound {written}/></direction>"


def words(text: str) -> str:
    return f"<direction><direction-type><words>{text}</words></direction-type></direction>"


def bar(step: str, verses: str = "", before: str = "", after: str = "") -> str:
    """A measure of one note of one beat; verses as "1 la 2 lo"."""
    pairs = zip(verses.split()[::2], verses.split()[1::2], strict=True)
    lyrics = "".join(
        f'<lyric number="{number}"><text>{text}</text></lyric>' for number, text in pairs
    )
    note = (
        f"<note><pitch><step>{step}</step><octave>4</octave></pitch><duration>1</duration>"
        f"<voice>1</voice>{lyrics}</note>"
    )
    return f"<measure>{before}{note}{after}</measure>"


def sung(folder: Path, *bars: str) -> str:
    """What is sung: steps and syllables in order, each note a second long and none left out."""
    head = "<attributes><divisions>1</divisions></attributes>" + says(tempo="60")
    content = "".join(bars).replace("<measure>", "<measure>" + head, 1)
    path = folder / "song.musicxml"
    path.write_text(
        f'<?xml version="1.0"?><score-partwise><part id="P1">{content}</part></score-partwise>',
        encoding="utf-8",
    )
    notes = Score.read(path).notes
    assert [(note.start_s, note.end_s) for note in notes] == [
        (at, at + 1.0) for at in range(len(notes))
    ]
    names = {60: "C", 62: "D", 64: "E", 65: "F", 67: "G", 69: "A", 71: "B"}
    return " ".join(names[int(note.pitch)] + note.lyric for note in notes)


def test_a_repeat_without_a_beginning_goes_back_to_the_start(tmp_path):
    line = sung(tmp_path, bar("C", "1 a 2 p"), bar("D", "1 b 2 q", after=BACK), bar("E", "1 c"))
    assert line == "Ca Db Cp Dq Ec"


def test_a_repeat_goes_back_to_its_sign_as_often_as_it_says(tmp_path):
    line = sung(
        tmp_path,
        bar("C", "1 a"),
        bar("D", "1 b 2 q 3 y", before=START),
        bar("E", "1 c 2 r 3 z", after=THRICE),
        bar("F", "1 d"),
    )
    assert line == "Ca Db Ec Dq Er Dy Ez Fd"


def test_two_repeats_in_a_row_each_go_back_to_their_own_start(tmp_path):
    line = sung(tmp_path, bar("C", "1 a", after=BACK), bar("D", "1 b", after=BACK))
    assert line == "Ca Ca Db Db"


def test_endings_are_taken_in_turn_with_the_verse_of_each(tmp_path):
    line = sung(
        tmp_path,
        bar("C", "1 a 2 p", before=START),
        bar("D", "1 b", before=opens("1"), after=closes("1", repeats=True)),
        bar("E", "2 r", before=opens("2"), after=closes("2", repeats=False)),
        bar("F", "1 d"),
    )
    assert line == "Ca Db Cp Er Fd"


def test_an_ending_may_be_for_several_turns_and_longer_than_a_measure(tmp_path):
    line = sung(
        tmp_path,
        bar("C", "1 a 2 p 3 x", before=START),
        bar("D", "1 b 2 q", before=opens("1, 2")),
        bar("E", "1 c 2 r", after=closes("1, 2", repeats=True)),
        bar("F", "3 z", before=opens("3"), after=closes("3", repeats=False)),
        bar("G", "1 e"),
    )
    assert line == "Ca Db Ec Cp Dq Er Cx Fz Ge"


def test_after_a_first_ending_alone_the_music_goes_on_behind_it(tmp_path):
    line = sung(
        tmp_path,
        bar("C", "1 a 2 p"),
        bar("D", "1 b", before=opens("1"), after=closes("1", repeats=True)),
        bar("E", "1 c"),
    )
    assert line == "Ca Db Cp Ec"


@pytest.mark.parametrize(
    ("mark", "end"),
    [(says(dacapo="yes"), says(fine="yes")), (words("D.C. al Fine"), words("Fine"))],
)
def test_da_capo_al_fine_leaves_repeats_out_and_ends_at_the_fine(mark, end, tmp_path):
    line = sung(
        tmp_path,
        bar("C", "1 a 2 p 3 x", before=START),
        bar("D", "1 b 2 q", after=BACK + end),
        bar("E", "1 c"),
        bar("F", "1 d", after=mark),
        bar("G", "1 e"),
    )
    # the third time, only the first measure has a third verse
    assert line == "Ca Db Cp Dq Ec Fd Cx Db"


def test_dal_segno_al_coda_jumps_at_the_sign_and_plays_the_coda(tmp_path):
    line = sung(
        tmp_path,
        bar("C", "1 a"),
        bar("D", "1 b 2 q", before=says(segno="s")),
        bar("E", "1 c 2 r", after=says(tocoda="c")),
        bar("F", "1 d", after=says(dalsegno="s")),
        bar("G", "1 e", before=says(coda="c")),
        bar("A", "1 f"),
    )
    assert line == "Ca Db Ec Fd Dq Er Ge Af"


def test_after_a_jump_the_last_ending_is_taken(tmp_path):
    line = sung(
        tmp_path,
        bar("C"),
        bar("D", before=opens("1"), after=closes("1", repeats=True)),
        bar("E", before=opens("2"), after=closes("2", repeats=False) + says(fine="yes")),
        bar("F", after=says(dacapo="yes")),
    )
    assert line == "Cla Dla Cla Ela Fla Cla Ela"


def test_a_jump_takes_back_the_tempo_and_the_divisions_of_its_measure(tmp_path):
    """Two halves at 60, then quarters counted in fours at 120, and the first half again."""
    path = tmp_path / "song.musicxml"
    fast = "<attributes><divisions>4</divisions></attributes>" + says(tempo="120")
    slow = "<attributes><divisions>1</divisions></attributes>" + says(tempo="60")
    content = (
        bar("C", before=slow)
        + bar("D", before=START)
        + bar("E", before=fast)
        .replace("<duration>1", "<duration>4")
        .replace("</measure>", BACK + "</measure>")
    )
    path.write_text(f"<score-partwise><part>{content}</part></score-partwise>", encoding="utf-8")
    spans = [(note.pitch, note.start_s, note.end_s) for note in Score.read(path).notes]
    assert spans == [
        (60.0, 0.0, 1.0), (62.0, 1.0, 2.0), (64.0, 2.0, 2.5), (62.0, 2.5, 3.5), (64.0, 3.5, 4.0)
    ]  # fmt: skip


def test_marks_in_another_part_count_too(tmp_path):
    path = tmp_path / "song.musicxml"
    other = bar("B", after=BACK) + bar("B")
    path.write_text(
        f"<score-partwise><part>{bar('C', '1 a')}{bar('D', '1 b')}</part><part>{other}</part>"
        "</score-partwise>",
        encoding="utf-8",
    )
    assert [note.lyric for note in Score.read(path).notes] == ["a", "a", "b"]


def test_a_section_repeated_without_measure_is_refused(tmp_path):
    with pytest.raises(AssetError, match="repeated 999 times"):
        sung(tmp_path, bar("C", after=THRICE.replace('"3"', '"999"')))
