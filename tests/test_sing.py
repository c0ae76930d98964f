"""Singing: in tune, on the beat, and mixed without clipping."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
from scipy import signal
from tiny_voice import write_converter
from typer.testing import CliRunner

from assets import AssetError
from voice import espeak
from voice.audio import SAMPLE_RATE, Audio
from voice.corpus_pitch import pitch_track
from voice.phonemes import SILENCE, is_vowel
from voice.revoice import RevoiceConfig
from voice.revoice_long import revoice_audio
from voice.score import MELISMA, Note, Score
from voice.sing import SingConfig, Song, sing
from voice.sing_line import Vibrato, pitch_line
from voice.sing_mix import limited, mixed, true_peaks
from voice.sing_words import words_of
from voice.speak import SpeakConfig
from voice.speech import Phoneme, Speech
from voice.voices import open_book

needs_engine = pytest.mark.skipif(not espeak.is_installed(), reason="needs espeakng-loader")
ESPEAK = SpeakConfig(engine=espeak.ENGINE)
SCALE = (60, 62, 64, 65, 67, 69, 71, 72)


def score_of(*notes: tuple[float, float, float, str]) -> Score:
    return Score(tuple(Note(float(pitch), start, end, text) for pitch, start, end, text in notes))


def sung(score: Score, **settings) -> Song:
    config = SingConfig(ESPEAK, **settings)
    return sing(score, config, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def scale() -> Song:
    beat = 0.6
    notes = [(p, i * beat, (i + 1) * beat, "la") for i, p in enumerate(SCALE)]
    return sung(score_of(*notes))


@pytest.fixture(scope="module")
def steps() -> Song:
    """Notes with rests between, beginning in a stop."""
    return sung(score_of(*[(p, i * 0.9, i * 0.9 + 0.6, "ta") for i, p in enumerate((60, 67, 64))]))


def row_of(song: Song) -> np.ndarray:
    return song.speech.audio.samples[0].double().numpy()


def cents_of(song: Song) -> tuple[np.ndarray, np.ndarray]:
    """Times and pitch in cents over middle C, by another tracker than singing uses."""
    found = pitch_track(row_of(song))
    cents = 1200 * np.log2(np.maximum(found, 1.0) / 261.6255653)
    return np.arange(len(found)) / 80 - song.lead_s, np.where(found > 0, cents, np.nan)


def in_tune(times: np.ndarray, cents: np.ndarray) -> None:
    """Every note of the scale to 30 cents."""
    for index, pitch in enumerate(SCALE):
        steady = (times > index * 0.6 + 0.15) & (times < index * 0.6 + 0.45)
        assert abs(np.nanmedian(cents[steady]) - 100 * (pitch - 60)) < 30


def on_the_beat(times: np.ndarray, cents: np.ndarray, within_s: float = 0.04) -> None:
    """Every change of pitch, between the first frame above halfway and the last one below."""
    for index in range(1, len(SCALE)):
        halfway = 50.0 * (SCALE[index - 1] + SCALE[index] - 120)
        near = (np.abs(times - index * 0.6) < 0.2) & np.isfinite(cents)
        above, below = times[near][cents[near] > halfway], times[near][cents[near] <= halfway]
        assert abs((above[0] + below[-1]) / 2 - index * 0.6) < within_s


@needs_engine
def test_a_sung_scale_is_in_tune_to_thirty_cents(scale):
    in_tune(*cents_of(scale))


@needs_engine
def test_a_sung_scale_changes_its_pitch_on_the_beat_to_forty_milliseconds(scale):
    on_the_beat(*cents_of(scale))


@needs_engine
def test_vowels_begin_on_the_beat_to_forty_milliseconds_and_their_consonants_before(steps):
    low = signal.sosfiltfilt(
        signal.butter(4, (150, 1_000), "band", fs=SAMPLE_RATE, output="sos"), row_of(steps)
    )
    level = np.sqrt(signal.convolve(low**2, np.ones(240) / 240, "same"))
    for index in range(3):
        beat = steps.lead_s + index * 0.9
        around = slice(int((beat - 0.2) * SAMPLE_RATE), int((beat + 0.3) * SAMPLE_RATE))
        rise = np.flatnonzero(level[around] > 0.5 * np.median(level[around][-4_800:]))[0]
        assert abs(rise / SAMPLE_RATE - 0.2) < 0.04
    starts = {p.symbol: p.start_s for p in reversed(steps.speech.phonemes)}
    assert starts["T"] < steps.lead_s - 0.01


@needs_engine
def test_rests_are_silent_and_the_phonemes_follow_the_song(steps):
    row = row_of(steps)
    for index in range(2):
        gap = steps.lead_s + index * 0.9 + np.array([0.68, 0.72])
        begin, end = (gap * SAMPLE_RATE).astype(int)
        assert np.abs(row[begin:end]).max() < 0.02 * np.abs(row).max()
    symbols = [p.symbol.rstrip("012") for p in steps.speech.phonemes]
    assert symbols.count("T") == 3 and symbols[0] == symbols[-1] == SILENCE
    vowels = [p for p in steps.speech.phonemes if is_vowel(p.symbol)]
    assert [round(p.start_s - steps.lead_s, 2) for p in vowels] == [0.0, 0.9, 1.8]


@needs_engine
def test_no_click_stands_at_the_joins_of_notes(scale):
    # a click is a step that prediction from the samples around it misses by far
    row = row_of(scale)
    jerk = np.abs(np.diff(row, 3))
    usual = np.sqrt(np.maximum(signal.convolve(jerk**2, np.ones(2_400) / 2_400, "same"), 1e-8))
    assert (jerk / usual).max() < 30


@needs_engine
def test_a_melisma_keeps_its_vowel_and_moves_its_pitch():
    song = sung(score_of((60, 0.0, 0.6, "la"), (64, 0.6, 1.2, MELISMA)))
    times, cents = cents_of(song)
    assert abs(np.nanmedian(cents[(times > 0.2) & (times < 0.5)])) < 30
    assert abs(np.nanmedian(cents[(times > 0.8) & (times < 1.1)]) - 400) < 30
    assert sum(is_vowel(p.symbol) for p in song.speech.phonemes) == 1


@needs_engine
def test_transposing_and_tempo_reach_the_sound():
    notes = score_of((64, 0.0, 1.0, "la"), (62, 1.0, 2.0, "no"))
    song = sung(notes, transpose=-5.0, tempo=2.0, vibrato=Vibrato(depth_semitones=0.0))
    times, cents = cents_of(song)
    assert abs(np.nanmedian(cents[(times > 0.15) & (times < 0.4)]) + 100) < 30
    assert abs(np.nanmedian(cents[(times > 0.65) & (times < 0.9)]) + 300) < 30


@needs_engine
def test_notes_out_of_reach_are_refused_with_the_octave_that_mends_it():
    with pytest.raises(ValueError, match=r"transpose by -12"):
        sung(score_of((90, 0.0, 1.0, "la")))
    with pytest.raises(ValueError, match=r"transpose by \+24"):
        sung(score_of((20, 0.0, 1.0, "la")))


def test_the_line_glides_holds_and_swings():
    notes = [Note(60.0, 0.5, 1.5, "a"), Note(64.0, 1.5, 3.5, "b")]
    times = np.arange(800) * 0.005
    line = pitch_line(
        notes, times, Vibrato(6.0, 0.5, 0.5), generator=torch.Generator().manual_seed(0)
    )
    assert abs(np.median(line[(times > 0.7) & (times < 1.0)]) - 60) < 0.15
    swing = line[(times > 2.4) & (times < 3.4)] - 64
    power = np.abs(np.fft.rfft(swing - swing.mean()))
    assert power.argmax() == pytest.approx(6, abs=1)
    assert np.ptp(swing) == pytest.approx(1.0, abs=0.25)
    assert np.abs(np.diff(line)).max() < 0.5  # four semitones in a glide, not in a step


def test_syllables_take_the_consonants_that_can_begin_them():
    symbols = ("W", "IH1", "N", "T", "ER0", "AH0", "B", "R", "AY2", "T")
    sounds = tuple(Phoneme(s, 0.1 * i, 0.1 * (i + 1)) for i, s in enumerate(symbols))
    speech = Speech(Audio(torch.zeros(1, 24_000)), sounds)
    notes = [
        Note(60.0, i * 1.0, i + 1.0, text, joined=i > 0)
        for i, text in enumerate(("win", "ter", "a", "bright"))
    ]
    (word,) = words_of(notes, lambda text: speech)
    spelt = [[p.symbol for p in syllable.phonemes] for syllable in word.syllables]
    assert spelt == [["W", "IH1", "N"], ["T", "ER0"], ["AH0"], ["B", "R", "AY2", "T"]]


def test_words_are_spoken_whole_and_once():
    said: list[str] = []
    sounds = (Phoneme("L", 0.0, 0.1), Phoneme("AA1", 0.1, 0.4))

    def speaker(text: str) -> Speech:
        said.append(text)
        return Speech(Audio(torch.zeros(1, 12_000)), sounds)

    lyrics = [("Twin", False), ("kle", True), ("LOVE", False), ("love", False), ("...", False)]
    notes = [Note(60.0, float(i), i + 1.0, t, j) for i, (t, j) in enumerate(lyrics)]
    words = words_of(notes, speaker)
    assert said == ["twinkle", "love", "la"]
    assert sum(len(group) for word in words for group in word.notes) == len(notes)


def test_a_mix_keeps_stereo_levels_and_its_peaks_under_the_ceiling(tmp_path):
    rate = 44_100
    at = np.arange(2 * rate) / rate
    left = 0.9 * np.sin(2 * np.pi * 997 * at + 0.3)
    soundfile.write(tmp_path / "back.flac", np.stack([left, 0.1 * left], 1), rate)
    voice = Audio(
        torch.from_numpy(0.9 * np.sin(2 * np.pi * 400 * np.arange(24_000) / 24_000))[None]
    )
    mix = mixed(voice, tmp_path / "back.flac", voice_db=0.0, backing_db=0.0, lead_s=0.5)
    assert mix.samples.shape == (round(2.5 * rate), 2) and mix.rate_hz == rate
    fine = signal.resample_poly(mix.samples, 16, 1, axis=0)
    assert np.abs(fine).max() <= 10 ** (-1 / 20) + 2e-3
    # where the voice alone sounds, it is as loud on both sides, at its own level
    alone = mix.samples[4_410:17_640]
    np.testing.assert_allclose(alone[:, 0], alone[:, 1], atol=1e-9)
    path = mix.save(tmp_path / "mix.wav")
    assert soundfile.info(str(path)).channels == 2


def test_what_needs_no_limiting_is_left_bit_for_bit():
    quiet = 0.3 * np.random.default_rng(0).standard_normal((24_000, 2)).clip(-1.5, 1.5)
    np.testing.assert_array_equal(limited(quiet, 48_000), quiet)
    loud = limited(quiet * 6, 48_000)
    assert true_peaks(loud, 48_000).max() <= 10 ** (-1 / 20) + 1e-6


@needs_engine
def test_the_command_sings_a_score_over_a_backing_track(tmp_path: Path):
    from avatar.cli import app

    (tmp_path / "song.txt").write_text("tempo 120\nC4 1 la\nE4 1 la\n")
    soundfile.write(tmp_path / "back.wav", np.zeros((24_000, 2)), 48_000)
    out = tmp_path / "song.wav"
    command = ["sing", str(tmp_path / "song.txt"), "--out", str(out), "--engine", "espeak-ng"]
    done = CliRunner().invoke(app, [*command, "--backing", str(tmp_path / "back.wav")])
    assert done.exit_code == 0, done.output
    assert str(out) in done.output
    assert soundfile.info(str(out)).samplerate == 48_000
    assert np.abs(soundfile.read(str(out))[0]).max() > 0.05


@needs_engine
def test_the_command_sings_a_score_in_a_named_voice_and_records_it(tmp_path: Path, monkeypatch):
    from avatar.cli import app

    monkeypatch.setenv("AVATAR_HOME", str(tmp_path / "home"))
    folder = write_converter(tmp_path / "converter")
    (tmp_path / "song.txt").write_text("tempo 120\nC4 1 la\nE4 1 la\n")
    out = tmp_path / "song.wav"
    command = ["sing", str(tmp_path / "song.txt"), "--out", str(out), "--engine", "espeak-ng"]
    command += ["--converter", str(folder)]
    done = CliRunner().invoke(app, [*command, "--voice", "bruno"])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "song.wav.json").read_text())
    assert (record["voice"]["name"], record["voice"]["kind"]) == ("bruno", "shipped")
    assert [model["name"].split(":")[0] for model in record["models"]] == [
        "speech", "voice converter", "voice f0", "voice vocoder",
    ]  # fmt: skip
    assert set(record["inputs"]) == {"score"} and record["seeds"] == {"sing": 0}
    assert record["ai_generated"] and record["settings"]["voice"]["keep_melody"]
    assert record["register"]["source_moved"] % 12 == 0
    own = CliRunner().invoke(app, [*command[:-2], "--out", str(tmp_path / "own.wav")])
    assert own.exit_code == 0, own.output
    plain, voiced = (soundfile.read(tmp_path / name)[0] for name in ("own.wav", "song.wav"))
    assert len(plain) == len(voiced) and np.abs(plain - voiced).max() > 0.01
    wrong = CliRunner().invoke(app, [*command, "--voice", "nobody"])
    assert isinstance(wrong.exception, ValueError) and "nobody" in str(wrong.exception)


@needs_engine
@pytest.mark.parametrize("voice", ["clara", "felix", "hugo", "mia"])
def test_a_score_stays_in_tune_and_on_the_beat_in_a_shipped_voice(voice, scale):
    book = open_book()
    made = revoice_audio(
        scale.speech.audio,
        book.converter,
        book.find(voice),
        RevoiceConfig(keep_melody=True, gate_db=-50.0),
        generator=torch.Generator().manual_seed(0),
    )
    # a third tracker tells the octave: the second takes low, breathy voices for deeper ones
    row = made.audio.samples[0].double().numpy()
    hertz, _, _ = librosa.pyin(row, fmin=50, fmax=1000, sr=24_000, hop_length=300)
    sure = 1200 * np.log2(hertz / 261.6255653)
    song = dataclasses.replace(scale, speech=dataclasses.replace(scale.speech, audio=made.audio))
    times, cents = cents_of(song)
    cents += 1200 * np.round((sure - cents) / 1200) - 100 * round(made.register.source_moved)
    assert made.register.source_moved == (-12 if voice in ("felix", "hugo") else 0)
    in_tune(times, cents)
    on_the_beat(times, cents, 0.06)


def test_a_sung_take_keeps_its_melody_transposed(tmp_path):
    from avatar.sing import SingSettings, sing_file

    at = np.arange(24_000) / 24_000
    take = np.sum([np.sin(2 * np.pi * 220 * k * at) / k for k in range(1, 9)], axis=0) * 0.2
    soundfile.write(tmp_path / "take.flac", take, 24_000)
    settings = SingSettings(SingConfig(transpose=3.0))
    out = sing_file(
        tmp_path / "take.flac", tmp_path / "out.wav", settings=settings,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    found = pitch_track(soundfile.read(str(out))[0])[10:-10]
    assert abs(1200 * np.log2(np.median(found) / (220 * 2**0.25))) < 5


def test_what_is_neither_is_refused_in_one_sentence(tmp_path):
    from avatar.sing import SingSettings, sing_file

    (tmp_path / "song.mid").write_bytes(b"\x00\x01\x02\xff" * 30)
    for source, backing, words in (
        ("song.mid", None, "is no score"),
        ("none.mid", None, "there is no score"),
        ("song.mid", "none.wav", "no backing track"),
    ):
        with pytest.raises(AssetError, match=words):
            sing_file(
                tmp_path / source, tmp_path / "out.wav",
                backing=None if backing is None else tmp_path / backing,
                settings=SingSettings(), generator=torch.Generator(),
            )  # fmt: skip
