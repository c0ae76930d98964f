"""Scores of every kind, whole and broken; the MIDI files are written here byte by byte."""

from __future__ import annotations

import io
import itertools
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assets import AssetError
from voice.score import MELISMA, Note, Score, midi_pitch, top_voice

Event = tuple[int, bytes]  # tick, message


def number(value: int) -> bytes:
    digits = [value & 127]
    while value := value >> 7:
        digits.append(value & 127 | 128)
    return bytes(reversed(digits))


def meta(kind: int, content: bytes) -> bytes:
    return bytes([0xFF, kind]) + number(len(content)) + content


def track(events: list[Event]) -> bytes:
    body, before = b"", 0
    for tick, message in sorted(events, key=lambda event: event[0]):
        body += number(tick - before) + message
        before = tick
    body += b"\0" + meta(0x2F, b"")
    return b"MTrk" + len(body).to_bytes(4, "big") + body


def midi(*tracks: list[Event], form: int = 1, division: int = 480) -> bytes:
    head = b"".join(value.to_bytes(2, "big") for value in (form, len(tracks), division))
    return b"MThd" + (6).to_bytes(4, "big") + head + b"".join(track(one) for one in tracks)


def key(pitch: int, start: int, end: int, channel: int = 0) -> list[Event]:
    return [
        (start, bytes([0x90 | channel, pitch, 90])),
        (end, bytes([0x80 | channel, pitch, 0])),
    ]


def tempo(tick: int, per_minute: float) -> Event:
    return tick, meta(0x51, round(60e6 / per_minute).to_bytes(3, "big"))


def lyric(tick: int, text: str, kind: int = 5) -> Event:
    return tick, meta(kind, text.encode())


def written(folder: Path, content: bytes, name: str = "song.mid") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def sung(score: Score) -> list[tuple[float, float, float, str, bool]]:
    return [
        (n.pitch, round(n.start_s, 6), round(n.end_s, 6), n.lyric, n.joined) for n in score.notes
    ]


TWINKLE = [
    *key(60, 0, 480), *key(60, 480, 960), *key(67, 960, 1440), *key(69, 1440, 1920),
    lyric(0, "Twin-"), lyric(480, "kle"), lyric(960, "star"), lyric(1440, "-"),
]  # fmt: skip
TWINKLE_SUNG = [
    (60.0, 0.0, 0.6, "Twin", False),
    (60.0, 0.6, 1.2, "kle", True),
    (67.0, 1.2, 1.8, "star", False),
    (69.0, 1.8, 2.4, MELISMA, False),
]


@pytest.mark.parametrize("form", [0, 1])
def test_a_midi_file_gives_its_notes_in_seconds_with_their_syllables(tmp_path, form):
    tracks = [[tempo(0, 100), *TWINKLE]] if form == 0 else [[tempo(0, 100)], TWINKLE]
    score = Score.read(written(tmp_path, midi(*tracks, form=form)))
    assert sung(score) == TWINKLE_SUNG


def test_every_change_of_tempo_counts_from_its_tick(tmp_path):
    events = [tempo(0, 120), tempo(480, 60), tempo(720, 240), *key(60, 0, 480), *key(62, 480, 960)]
    score = Score.read(written(tmp_path, midi([*events, lyric(0, "a"), lyric(480, "b")])))
    # 0.5 s; then half a beat at 1 s and half a beat at 0.25 s
    assert [n.end_s for n in score.notes] == pytest.approx([0.5, 1.125])


def test_running_status_and_silent_note_ons_are_read(tmp_path):
    body = b"\0\x90\x3c\x5a" + number(480) + b"\x3c\x00" + b"\0\x3e\x5a" + number(480) + b"\x3e\0"
    body += b"\0" + meta(0x2F, b"")
    content = midi(form=0)[:10] + b"\0\1\1\xe0" + b"MTrk" + len(body).to_bytes(4, "big") + body
    assert [n.pitch for n in Score.read(written(tmp_path, content)).notes] == [60.0, 62.0]


def test_karaoke_texts_and_spaces_tell_the_words(tmp_path):
    texts = ["@Tsong", "\\Twin", "kle ", "star ", "shine"]
    events = [lyric(i * 480, text, kind=1) for i, text in enumerate(texts[1:])]
    keys = [event for i in range(4) for event in key(60 + i, i * 480, i * 480 + 480)]
    score = Score.read(written(tmp_path, midi([lyric(0, texts[0], 1), *events, *keys])))
    assert [(n.lyric, n.joined) for n in score.notes] == [
        ("Twin", False), ("kle", True), ("star", False), ("shine", False),
    ]  # fmt: skip


def test_the_part_with_the_words_is_sung_and_not_the_accompaniment_or_the_drums(tmp_path):
    chords = [e for tick in range(0, 1920, 240) for p in (72, 76) for e in key(p, tick, tick + 240)]
    drums = [e for tick in range(0, 1920, 480) for e in key(38, tick, tick + 100, channel=9)]
    content = midi([tempo(0, 100)], chords, TWINKLE, drums)
    assert sung(Score.read(written(tmp_path, content))) == TWINKLE_SUNG


def test_without_words_every_note_is_la_and_that_is_logged(tmp_path, caplog):
    score = Score.read(written(tmp_path, midi([*key(60, 0, 480), *key(62, 480, 960)])))
    assert [n.lyric for n in score.notes] == ["la", "la"]
    assert "no lyrics" in caplog.text


def test_of_chords_the_top_voice_is_sung_and_that_is_logged(tmp_path, caplog):
    events = [e for p in (60, 64, 67) for e in key(p, 0, 480)] + key(65, 480, 960)
    score = Score.read(written(tmp_path, midi([*events, lyric(0, "oh"), lyric(480, "no")])))
    assert [(n.pitch, n.lyric) for n in score.notes] == [(67.0, "oh"), (65.0, "no")]
    assert "highest voice" in caplog.text


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(30, 90), st.floats(0, 20), st.floats(0.05, 4)),
        min_size=1, max_size=25,
    )
)  # fmt: skip
def test_one_note_at_a_time_is_left_of_any_notes(raw):
    line = top_voice([Note(float(p), start, start + length) for p, start, length in raw])
    assert line
    for before, after in itertools.pairwise(line):
        assert before.end_s <= after.start_s + 1e-6
    assert {n.pitch for n in line} <= {float(p) for p, _, _ in raw}
    assert max(p for p, _, _ in raw) in {n.pitch for n in line}


XML = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 3.1 Partwise//EN"
 "http://www.musicxml.org/dtds/partwise.dtd">
<score-partwise version="3.1"><work><work-title>Song</work-title></work>
<part-list><score-part id="P1"><part-name>V</part-name></score-part></part-list>
<part id="P1"><measure number="1">
<attributes><divisions>2</divisions></attributes><direction><sound tempo="100"/></direction>
{notes}</measure></part></score-partwise>"""


def xml_note(step: str, octave: int, duration: int, words: str = "", extra: str = "") -> str:
    text, _, syllabic = words.partition("/")
    verse = f"<lyric><syllabic>{syllabic or 'single'}</syllabic><text>{text}</text></lyric>"
    alter = f"<alter>{1 if step[1:] == '#' else -1}</alter>" if step[1:] else ""
    return (
        f"<note>{extra}<pitch><step>{step[0]}</step>{alter}<octave>{octave}</octave></pitch>"
        f"<duration>{duration}</duration><voice>1</voice>{verse if text else ''}</note>"
    )


XML_TWINKLE = (
    xml_note("C", 4, 2, "Twin/begin") + xml_note("C", 4, 2, "kle/end")
    + xml_note("G", 4, 2, "star") + xml_note("A", 4, 2)
)  # fmt: skip


def test_musicxml_says_the_same_as_midi(tmp_path):
    path = written(tmp_path, XML.format(notes=XML_TWINKLE).encode(), "song.musicxml")
    score = Score.read(path)
    assert sung(score) == TWINKLE_SUNG and score.title == "Song"


def test_a_compressed_score_and_utf_16_are_read_whatever_the_name(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "META-INF/container.xml",
            '<container><rootfiles><rootfile full-path="a/s.xml"/></rootfiles></container>',
        )
        archive.writestr("a/s.xml", XML.format(notes=XML_TWINKLE))
    assert sung(Score.read(written(tmp_path, packed.getvalue(), "song.mid"))) == TWINKLE_SUNG
    wide = XML.format(notes=XML_TWINKLE).replace("UTF-8", "UTF-16").encode("utf-16")
    assert sung(Score.read(written(tmp_path, wide, "song.txt"))) == TWINKLE_SUNG


def test_ties_are_one_note_rests_are_silent_and_chords_give_their_top(tmp_path):
    notes = (
        xml_note("F#", 4, 2, "long").replace("<voice>", '<tie type="start"/><voice>')
        + xml_note("F#", 4, 2).replace("<voice>", '<tie type="stop"/><voice>')
        + "<note><rest/><duration>2</duration><voice>1</voice></note>"
        + xml_note("Bb", 3, 2, "low")
        + xml_note("D", 4, 2, extra="<chord/>")
    )
    score = Score.read(written(tmp_path, XML.format(notes=notes).encode(), "song.xml"))
    assert sung(score) == [(66.0, 0.0, 1.2, "long", False), (62.0, 1.8, 2.4, "low", False)]


def test_text_scores_are_read_and_their_mistakes_named_by_line(tmp_path):
    text = "tempo 100\n# words\nC4 1 Twin-\nC4 1 kle\nG4 1 star\nA4 1 -\n"
    assert sung(Score.read(written(tmp_path, text.encode(), "a.txt"))) == TWINKLE_SUNG
    mistakes = {
        "C4 1 la\nH4 1 la": "line 2.*is no note",
        "C4 1 la\nD4": "line 2",
        "C4 1 la\nD4 x la": "is no number",
        "Dear Sir,": "not the line",
    }
    for bad, words in mistakes.items():
        with pytest.raises(AssetError, match=words):
            Score.read(written(tmp_path, bad.encode(), "a.txt"))


BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    b"<score-partwise><part>&b;</part></score-partwise>"
)
OUTSIDE = (
    b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a SYSTEM "file:///etc/hostname">]>'
    b"<score-partwise>&a;</score-partwise>"
)


def zipped(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return packed.getvalue()


BROKEN = {
    "empty": (b"", "is empty"),
    "head": (b"MThd\0\0", "header"),
    "cut": (midi(TWINKLE)[:-20], "cut short"),
    "drums": (midi(key(38, 0, 480, channel=9)), "only drums"),
    "silent": (midi([tempo(0, 100)]), "no notes"),
    "patterns": (midi(TWINKLE, form=2), "format 2"),
    "no beat": (midi(TWINKLE, division=0), "0 ticks"),
    "no track": (midi(), "no track"),
    "status": (midi([(0, b"\x10\x10")]), "damaged in track 1"),
    "bomb": (BOMB, "defines entities"),
    "outside": (OUTSIDE, "defines entities"),
    "deep": (b"<a>" * 500, "too deep"),
    "cut xml": (XML.format(notes=XML_TWINKLE).encode()[:900], "not whole as XML"),
    "web page": (b"<html><body/></html>", "no MusicXML"),
    "timewise": (b"<score-timewise/>", "timewise"),
    "no part": (b"<score-partwise/>", "no part"),
    "rests": (XML.format(notes="").encode(), "no notes"),
    "octave": (XML.format(notes=XML_TWINKLE.replace(">4<", ">x<")).encode(), "proper pitch"),
    "high": (XML.format(notes=XML_TWINKLE.replace(">4<", ">40<")).encode(), "MIDI number"),
    "zip": (zipped("a.txt", b"hello"), "without a score"),
    "cut zip": (zipped("a.xml", XML.encode())[:80], "damaged archive"),
    "zip of text": (zipped("a.xml", b"hello"), "no XML"),
    "zip bomb": (zipped("a.xml", b"<" + b" " * 65_000_000), "unpacks to more"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "is no score"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_score_is_refused_in_one_sentence_that_names_it(tmp_path, name):
    content, words = BROKEN[name]
    with pytest.raises(AssetError, match=words) as caught:
        Score.read(written(tmp_path, content, "song.mid"))
    message = str(caught.value)
    assert "song.mid" in message and "\n" not in message and len(message) < 320


def test_a_missing_score_is_said_to_be_missing(tmp_path):
    with pytest.raises(AssetError, match="there is no score"):
        Score.read(tmp_path / "none.mid")


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_damaged_midi_file_is_read_or_refused_and_never_anything_else(tmp_path, data):
    content = bytearray(midi([tempo(0, 100)], TWINKLE))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        score = Score.read(written(tmp_path, bytes(content)))
    except AssetError:
        return
    assert all(n.end_s > n.start_s for n in score.notes)


def test_note_names_are_midi_numbers():
    names = {"C4": 60, "A4": 69, "F#3": 54, "Bb4": 70, "c-1": 0, "G9": 127, "60.5": 60.5}
    for name, wanted in names.items():
        assert midi_pitch(name) == wanted


def test_transposing_and_tempo_act_on_pitch_and_time_alone():
    score = Score((Note(69.0, 1.0, 2.0, "la"),)).transposed(-12.0).at_tempo(2.0)
    (note,) = score.notes
    assert (note.hertz, note.start_s, note.end_s, note.lyric) == (220.0, 0.5, 1.0, "la")
