"""The commands around voices, as their users type them."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tiny_voice import buzz, write_converter

from assets.image import is_marked_ai
from avatar import cli
from avatar.config import CreateSettings
from avatar.progress import Progress
from avatar.sing import SingSettings  # noqa: F401  loads what singing needs once
from avatar.voicing import voiced_speech
from voice import espeak
from voice.audio import SAMPLE_RATE, Audio
from voice.loudness import loudness_lufs
from voice.profiles import median_pitch
from voice.speech import Phoneme, Speech

CONSENT = "Ada Berg, our game, 2026-05-31"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_converter(tmp_path_factory.mktemp("converter"))


@pytest.fixture
def run(monkeypatch, capsys, folder):
    """Runs a command; its status, its lines on stdout and its last line on stderr."""

    def once(*words: object, converter: bool = True) -> tuple[int, list[str], str]:
        given = [str(word) for word in words]
        given += ["--converter", str(folder)] if converter else []
        monkeypatch.setattr(sys, "argv", ["avatar", *given])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return int(caught.value.code or 0), said.out.splitlines(), said.err.strip()

    return once


@pytest.fixture
def spoken(monkeypatch):
    """An engine that buzzes whatever the text."""

    def speak(text, config, *, generator):
        return Speech(buzz(150, 1.2), (Phoneme("AA1", 0.0, 1.2),), text, "en-us", "buzz")

    monkeypatch.setattr("avatar.voicing.speak", speak)
    monkeypatch.setattr("avatar.voice_sheet.speak", speak)


@pytest.fixture
def clip(tmp_path) -> Path:
    return buzz(150, 1.2).save(tmp_path / "clip.wav")


def record(sound: Path) -> dict:
    return json.loads(sound.with_name(sound.name + ".json").read_text(encoding="utf-8"))


def test_say_writes_the_sound_and_what_it_was_made_of(run, spoken, tmp_path):
    out = tmp_path / "new" / "line.flac"
    status, lines, _ = run("say", "Hello!", "--voice", "aria", "--out", out)
    assert (status, lines) == (0, [str(out)])
    assert {path.name for path in out.parent.iterdir()} == {"line.flac", "line.flac.json"}
    # the untrained converter makes bursts, whose peaks meet the ceiling
    assert abs(loudness_lufs(Audio.read(out)) + 16.0) < 1.5
    told = record(out)
    assert told["inputs"] == {"text": hashlib.sha256(b"Hello!").hexdigest()}
    assert told["files"] == {"line.flac": hashlib.sha256(out.read_bytes()).hexdigest()}
    assert (told["voice"]["name"], told["voice"]["kind"]) == ("aria", "shipped")
    assert [model["name"].split(":")[0] for model in told["models"]] == [
        "speech", "voice converter", "voice f0", "voice vocoder",
    ]  # fmt: skip
    assert all(len(model["sha256"]) == 64 for model in told["models"][1:])
    assert told["ai_generated"] and told["digital_source_type"].startswith("http")
    assert {"load the voice", "speech", "conversion"} <= {one["name"] for one in told["stages"]}


def test_say_without_a_voice_needs_no_converter_and_says_whose_voice_it_is(run, spoken, tmp_path):
    (tmp_path / "line.txt").write_text("\ufeffHello!", encoding="utf-8")
    out = tmp_path / "line.wav"
    status, _, _ = run("say", "--text-file", tmp_path / "line.txt", "--out", out, converter=False)
    assert status == 0
    torch.testing.assert_close(
        Audio.read(out).samples, buzz(150, 1.2).samples, atol=1 / 32_768, rtol=0
    )
    assert record(out)["voice"] == {"name": "buzz", "kind": "the engine's own"}
    run("say", "Hello!", "--pitch", "7", "--out", out, converter=False)
    assert abs(12 * np.log2(median_pitch(Audio.read(out)) / 150) - 7) < 0.4


def test_chinese_is_spoken_offline(run, tmp_path):
    if not espeak.is_installed():
        pytest.skip("the extra `speech` is not installed")
    out = tmp_path / "你好.ogg"
    status, _, _ = run("say", "你好,世界。", "--language", "cmn", "--voice", "bruno", "--out", out)
    assert status == 0 and Audio.read(out).duration_s > 1.0
    assert record(out)["settings"]["speaking"]["language"] == "cmn"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["say"], "give one text"),
        (["say", "Hi", "--text-file", __file__], "give one text"),
        (["say", "  "], "has no word to say"),
        (["say", "你好"], "choose a language such as 'cmn'"),
        (["say", "Hi", "--voice", "arya"], "did you mean 'aria'?"),
        (["say", "Hi", "--voice", "aria", "--out", "a.aiff"], "does not end in one of .wav"),
        (["say", "Hi", "--loudness", "3"], "lufs=3.0 is out of range"),
        (["say", "Hi", "--speed", "9"], "speed=9.0 is out of range"),
        (["say", "Hi", "--seed", "-1"], "seed=-1"),
        (["convert", __file__, "--out", "a.wav"], "name one voice"),
        (["convert", "nowhere.wav", "--out", "a.wav", "--voice", "aria"], "no recording at nowh"),
        (["convert", __file__, "--out", "a.wav", "--voice", "aria"], "cannot be read as sound"),
        (["convert", __file__, "--out", "d", "--voice", "aria", "--format", "au"], "'.au' is not"),
        (["voices", "--sheet", "a.jpg"], "does not end in .png"),
    ],
)
def test_a_mistake_is_one_sentence_status_2_and_writes_nothing(
    run, tmp_path, monkeypatch, words, sentence
):
    monkeypatch.chdir(tmp_path)
    status, lines, said = run(*words)
    assert (status, lines) == (2, [])
    assert said.splitlines()[-1].startswith("avatar: ") and sentence in said.splitlines()[-1]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_cannot_be_written_is_told_before_the_work(run, clip, tmp_path):
    (tmp_path / "file").write_text("x")
    status, _, said = run("convert", clip, "--voice", "aria", "--out", tmp_path / "file" / "a.wav")
    assert status == 2 and "is a file, not a folder" in said and "load the voice" not in said
    status, _, said = run("convert", clip, "--voice", "aria", "--out", clip)
    assert status == 2 and "is one of the recordings themselves" in said


def test_convert_keeps_the_length_and_gives_the_same_for_the_same_seed(run, clip, tmp_path):
    options = ("--voice", "aria", "--seed", "4", "--gate", "-60")
    assert run("convert", clip, "--out", tmp_path / "a.wav", *options)[0] == 0
    assert run("convert", clip, "--out", tmp_path / "b.wav", *options)[0] == 0
    one, other = Audio.read(tmp_path / "a.wav"), Audio.read(tmp_path / "b.wav")
    assert one.samples.shape == Audio.read(clip).samples.shape
    assert torch.equal(one.samples, other.samples)
    told = record(tmp_path / "a.wav")
    assert told["settings"]["gate_db"] == -60.0 and told["seeds"] == {"convert": 4}
    assert told["register"]["source_hz"] > 100


def test_of_many_recordings_the_bad_ones_are_told_and_the_others_converted(run, tmp_path):
    recordings = tmp_path / "in"
    recordings.mkdir()
    buzz(150, 0.4).save(recordings / "a.wav")
    soundfile.write(recordings / "a.flac", buzz(180, 0.4).samples[0].numpy(), SAMPLE_RATE)
    (recordings / "text.wav").write_text("hello")
    (recordings / "notes.txt").write_text("not a recording")
    out = tmp_path / "out"
    status, lines, said = run(
        "convert", recordings, "--voice", "bruno", "--out", out, "--format", "flac"
    )
    assert status == 2 and "1 of 3 recordings were not converted: text.wav" in said
    assert lines == [str(out / "a.flac"), str(out / "a-2.flac")]
    assert record(out / "a-2.flac")["voice"]["name"] == "bruno"
    status, _, said = run("convert", recordings, "--voice", "bruno", "--out", tmp_path / "a.wav")
    assert status == 2 and "give a folder as --out" in said


def test_silence_stays_silence_and_is_told(run, tmp_path):
    Audio(torch.zeros(1, 30_000)).save(tmp_path / "none.wav")
    out = tmp_path / "out.wav"
    status, _, said = run("convert", tmp_path / "none.wav", "--voice", "aria", "--out", out)
    assert status == 0 and "is silent, and stays so" in said
    assert not Audio.read(out).samples.any()
    assert record(out)["warnings"]


def test_a_reference_clip_stands_for_a_voice(run, clip, tmp_path):
    buzz(220, 2.5).save(tmp_path / "reference.wav")
    out = tmp_path / "out.wav"
    status, _, said = run("convert", clip, "--reference", tmp_path / "reference.wav", "--out", out)
    assert status == 0 and "have the consent of who is heard" in said
    told = record(out)
    assert told["voice"]["kind"] == "reference" and abs(told["voice"]["f0_hz"] - 220) < 10
    assert set(told["inputs"]) == {"recording", "reference"}


def test_the_table_tells_every_voice(run):
    status, lines, _ = run("voices")
    assert status == 0
    assert lines[0].split() == ["name", "gender", "pitch", "kind", "description", "source"]
    assert lines[1].split()[:5] == ["aria", "female", "205", "Hz", "shipped"]
    assert len(lines) == 3


def test_without_a_converter_the_commands_say_so(run, clip, tmp_path, monkeypatch):
    from assets.errors import AssetError

    def missing(name):
        raise AssetError(f"{name} is missing")

    monkeypatch.setattr("voice.voices.shipped", missing)
    for words in (
        ["voices"],
        ["say", "Hi", "--voice", "aria", "--out", tmp_path / "a.wav"],
        ["convert", clip, "--voice", "aria", "--out", tmp_path / "a.wav"],
        ["voice", "add", "ada", clip, "--consent", CONSENT],
    ):
        status, _, said = run(*words, converter=False)
        assert status == 2 and "no voice converter is installed" in said.splitlines()[-1]


@pytest.mark.parametrize("picture", [True, False])
def test_the_sheet_has_every_voice_as_sound_and_picture(run, spoken, tmp_path, picture):
    out = tmp_path / "sheet.png" if picture else tmp_path / "sheet"
    status, lines, _ = run("voices", "--sheet", out)
    assert status == 0
    image = Path(lines[0])
    assert image == (out if picture else out / "voices.png")
    assert [Path(line).name for line in lines[1:]] == ["aria.wav", "bruno.wav"]
    assert is_marked_ai(image)
    assert np.asarray(Image.open(image)).std() > 10
    assert all(Audio.read(line).samples.any() for line in lines[1:])


def test_a_voice_is_added_shown_used_and_removed(run, spoken, tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(2):
        buzz(210 + 5 * number, 2.0).save(clips / f"{number}.wav")
    status, lines, said = run("voice", "add", "ada", clips, "--consent", CONSENT)
    assert status == 0 and "give a better likeness" in said
    status, shown, _ = run("voice", "show", "ADA", converter=False)
    assert status == 0 and shown == lines
    assert "for          our game" in shown
    out = tmp_path / "line.wav"
    assert run("say", "Hi", "--voice", "ada", "--out", out)[0] == 0
    told = record(out)["voice"]
    assert told["kind"] == "added"
    assert told["consent"] == {"who": "Ada Berg", "scope": "our game", "date": "2026-05-31"}
    status, lines, _ = run("voice", "remove", "ada", converter=False)
    assert status == 0 and all(line.startswith("removed ") for line in lines)
    status, _, said = run("voice", "show", "ada", converter=False)
    assert status == 2 and "those that were: none" in said


@pytest.mark.parametrize(
    ("name", "consent", "sentence"),
    [
        ("ada", "", "a voice is a person's: say with --consent"),
        ("ada", "yes", "does not tell who attests"),
        ("../ada", CONSENT, "cannot be a voice's name"),
        ("Aria", CONSENT, "is a voice of the converter itself"),
    ],
)
def test_a_voice_without_consent_or_a_name_of_its_own_is_refused(
    run, clip, home, name, consent, sentence
):
    status, lines, said = run("voice", "add", name, clip, "--consent", consent)
    assert (status, lines) == (2, []) and sentence in said.splitlines()[-1]
    assert not home.exists()


def test_an_avatars_song_is_in_the_voice_and_its_lips_follow_the_lyrics(
    folder, tmp_path, generator, monkeypatch
):
    song = Speech(buzz(220, 1.5), (Phoneme("AA1", 0.2, 1.2),), "la", "en-us", "sung")

    class Sung:
        speech = song

    monkeypatch.setattr("avatar.voicing.sing", lambda *_, **__: Sung)
    (tmp_path / "song.txt").write_text("C4 1 la\n")
    monkeypatch.setattr("avatar.voicing.Score.read", lambda path: None)
    settings = CreateSettings(voice="bruno", converter=folder).voicing()
    voiced = voiced_speech(
        None, None, tmp_path / "song.txt", settings, generator=generator, progress=Progress()
    )
    assert voiced.speech.phonemes == song.phonemes
    assert voiced.speech.audio.samples.shape == song.audio.samples.shape
    names = [model.name.split(":")[0] for model in voiced.models]
    assert names == ["speech", "voice", "voice converter", "voice f0", "voice vocoder"]
    own = voiced_speech(
        None, None, tmp_path / "song.txt", CreateSettings().voicing(),
        generator=generator, progress=Progress(),
    )  # fmt: skip
    assert own.speech is song and own.models[-1].name == "voice: as sung"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--voice", "aria"], "--voice has nothing to speak"),
        (["--say", "a", "--sing", __file__], "--say and --sing were both given"),
        (["--sing", "nowhere.mid"], "nowhere.mid is not there"),
        (["--say", "a", "--voice", "zzz"], "there is no voice 'zzz'"),
    ],
)
def test_create_refuses_a_voice_it_cannot_use(run, tmp_path, words, sentence):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (300, 300), "grey").save(photo)
    status, _, said = run("create", "--photo", photo, "--out", tmp_path / "out", *words)
    assert status == 2 and sentence in said.splitlines()[-1]
    assert not (tmp_path / "out").exists()
