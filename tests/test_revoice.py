"""Recordings in another voice: register, key, level, length, silence, and files of any length."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import soundfile
import torch
from tiny_voice import VOICES, buzz, tiny_converter
from torch import nn

from voice.audio import SAMPLE_RATE, Audio
from voice.converter import Converter
from voice.effects import gate_gain
from voice.loudness import loudness_lufs
from voice.profiles import median_pitch
from voice.revoice import RevoiceConfig, loudest_piece, pieces, revoice, transposed
from voice.revoice_long import revoice_audio, revoice_file
from voice.sound_files import write_sound
from voice.voices import Voice


def voice(hertz: float) -> Voice:
    return Voice("aria", "", "", hertz, "", VOICES[0].style)


@dataclass(frozen=True, eq=False)
class Stand(Converter):
    """A converter that gives back what it hears, its pitch treated in a way that is known."""

    to_hz: float = 0.0  # moves the median there; 0: not
    by: float = 0.0  # semitones, always
    told: list[float] = field(default_factory=list)

    def convert(self, source, style, *, generator=None, semitones=None):
        if self.style_pitch is not None:  # such a converter is told how far to move
            self.told.append(semitones)
            return transposed(source, semitones)
        move = self.by
        if self.to_hz and (now := median_pitch(source)):
            move += 12 * math.log2(self.to_hz / now)
        return transposed(source, move)


def semitones_between(one: float, other: float) -> float:
    return 12 * math.log2(other / one)


def test_the_result_is_as_long_as_its_source_and_at_the_wanted_level(generator):
    source = buzz(120, 2.0)
    made = revoice(source, tiny_converter(Stand), voice(0.0), generator=generator)
    assert made.audio.samples.shape == source.samples.shape
    assert abs(loudness_lufs(made.audio) + 16.0) < 0.2
    faster = RevoiceConfig(speed=1.25, lufs=-23.0)
    made = revoice(source, tiny_converter(Stand), voice(0.0), faster, generator=generator)
    assert made.audio.samples.shape[1] == round(source.samples.shape[1] / 1.25)
    assert abs(loudness_lufs(made.audio) + 23.0) < 0.2


@pytest.mark.parametrize("to_hz", [0.0, 205.0])
def test_the_voice_speaks_in_its_register_whether_the_converter_moves_pitch_or_not(
    generator, to_hz
):
    converter = tiny_converter(Stand, to_hz=to_hz)
    made = revoice(buzz(110, 2.0), converter, voice(205.0), generator=generator)
    assert abs(semitones_between(205.0, median_pitch(made.audio))) < 0.6
    assert bool(made.register.source_moved) == (to_hz == 0.0)
    assert abs(semitones_between(110.0, made.register.source_hz)) < 0.3


def test_a_song_stays_in_its_key_at_most_octaves_away(generator):
    song = RevoiceConfig(keep_melody=True)
    converter = tiny_converter(Stand, by=8.6)
    source = buzz(150, 2.0)
    made = revoice(source, converter, voice(300.0), song, generator=generator)
    assert abs(semitones_between(median_pitch(source), median_pitch(made.audio)) - 12.0) < 0.1
    assert abs(made.register.result_moved - 3.4) < 0.2


@pytest.mark.parametrize(
    ("config", "semitones"),
    [
        (RevoiceConfig(), 12 * math.log2(205 / 110)),
        (RevoiceConfig(pitch_semitones=-3.0), 12 * math.log2(205 / 110) - 3),
        # a voice sings about a fourth above the pitch that it speaks at
        (RevoiceConfig(keep_melody=True), 12.0),
        (RevoiceConfig(keep_melody=True, pitch_semitones=2.0), 14.0),
    ],
)
def test_a_converter_that_moves_pitch_as_told_is_told_once(generator, config, semitones):
    converter = tiny_converter(Stand, style_pitch=nn.Linear(6, 1))
    source = buzz(110, 2.0)
    spoken_hz = 140.0 if config.keep_melody else 205.0
    made = revoice(source, converter, voice(spoken_hz), config, generator=generator)
    assert [round(told, 6) for told in converter.told] == [round(made.register.source_moved, 6)]
    assert abs(made.register.source_moved - semitones) < 0.35
    moved = semitones_between(median_pitch(source), median_pitch(made.audio))
    assert abs(moved - made.register.source_moved) < 0.15


def test_a_long_line_is_moved_once_for_all_its_pieces(generator, monkeypatch):
    monkeypatch.setattr("voice.revoice_long.LONGEST_AT_ONCE_S", 5.0)
    told = []

    def same(converter, source, style, *, config, generator):
        told.append(converter.style_pitch)
        yield from source

    monkeypatch.setattr("voice.revoice_long.convert_long", same)
    converter = tiny_converter(Stand, style_pitch=nn.Linear(6, 1))
    made = revoice_audio(buzz(110, 6.0), converter, voice(205.0), generator=generator)
    assert told == [None]  # the stream is not to move it again
    assert abs(semitones_between(205.0, median_pitch(made.audio))) < 0.4


def test_pitch_is_moved_from_the_voices_register(generator):
    config = RevoiceConfig(pitch_semitones=-5.0)
    made = revoice(buzz(150, 2.0), tiny_converter(Stand), voice(0.0), config, generator=generator)
    assert abs(semitones_between(150.0, median_pitch(made.audio)) + 5.0) < 0.3


@pytest.mark.parametrize(
    "samples", [torch.zeros(1, 30_000), torch.full((1, 30_000), 0.5), 1e-6 * torch.ones(1, 30_000)]
)
def test_silence_and_a_constant_become_silence_and_are_told(samples, generator):
    made = revoice(Audio(samples), tiny_converter(), voice(200.0), generator=generator)
    assert made.is_silent and not made.audio.samples.any()
    assert made.audio.samples.shape == samples.shape


def test_where_the_gate_shuts_the_result_is_silent(generator):
    count = SAMPLE_RATE
    noise = 0.001 * torch.randn(1, count, generator=generator)
    loud = buzz(150, 1.0).samples
    source = Audio(torch.cat([noise, loud, noise], dim=1))
    converter = tiny_converter(Stand)
    open_ = revoice(source, converter, voice(0.0), generator=generator).audio.samples[0]
    shut = revoice(
        source, converter, voice(0.0), RevoiceConfig(gate_db=-45.0), generator=generator
    ).audio.samples[0]
    assert open_[: count // 2].abs().amax() > 0
    assert not shut[: count // 2].any() and not shut[-count // 2 :].any()
    assert shut[count : 2 * count].abs().amax() > 0.1


def test_a_gate_is_open_for_what_is_loud_and_lets_it_ring_out():
    row = np.concatenate([np.zeros(24_000), 0.5 * np.ones(2_400), np.zeros(24_000)])
    gain = gate_gain(row, -40.0, hold_s=0.1, fade_s=0.01)
    assert (gain[24_000:26_400] > 0.99).all()
    assert gain[26_400 + 1_200] > 0.99 and not gain[26_400 + 4_800 :].any()
    assert not gain[: 24_000 - 1_000].any()


def test_the_loudest_piece_is_where_the_sound_is():
    silence = torch.zeros(1, 10 * SAMPLE_RATE)
    row = torch.cat([silence, buzz(150, 3.0).samples, silence], dim=1)
    found = loudest_piece(Audio(row), 3.0)
    torch.testing.assert_close(
        found.samples.square().mean(), buzz(150, 3.0).samples.square().mean(), rtol=0.05, atol=0
    )


def test_pieces_join_to_the_whole_and_are_cut_where_it_is_quiet():
    row = torch.rand(1, 5 * SAMPLE_RATE) + 0.1
    row[:, 30_000:31_000] = 0.0
    parts = list(pieces([Audio(row[:, :50_000]), Audio(row[:, 50_000:])], 1.0, 0.5))
    assert torch.equal(torch.cat([part.samples for part in parts], dim=1), row)
    assert 30_000 <= parts[0].samples.shape[1] <= 31_000
    assert all(part.duration_s <= 1.5 for part in parts)


def test_a_long_recording_is_levelled_as_one_and_keeps_its_length(tmp_path, monkeypatch):
    monkeypatch.setattr("voice.revoice_long.LONGEST_AT_ONCE_S", 10.0)
    # so that the sound that comes out is known
    monkeypatch.setattr(
        "voice.revoice_long.convert_long",
        lambda converter, source, style, *, config, generator: (row / 3 for row in source),
    )
    parts = [buzz(150, 14.0).samples, torch.zeros(1, 60_000), 0.4 * buzz(160, 14.0).samples]
    row = torch.cat(parts, dim=1)
    soundfile.write(tmp_path / "long.flac", row[0].numpy(), SAMPLE_RATE)
    done = revoice_file(
        tmp_path / "long.flac", tmp_path / "out.wav", tiny_converter(), voice(0.0),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    made = Audio.read(tmp_path / "out.wav")
    assert made.samples.shape == row.shape and abs(done.seconds - row.shape[1] / 24_000) < 1e-6
    assert abs(loudness_lufs(made) + 16.0) < 0.5
    both = [one[0, 24_000:300_000].double() for one in (made.samples, row)]
    gain = float(both[0] @ both[1] / (both[1] @ both[1]))
    assert float((both[0] - gain * both[1]).abs().amax()) < 0.02 * float(both[0].abs().amax())
    again = revoice_audio(
        Audio(row), tiny_converter(), voice(0.0), generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(again.audio.samples, made.samples, atol=1e-3, rtol=0)
    assert {path.name for path in tmp_path.iterdir()} == {"long.flac", "out.wav"}


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_every_format_is_written_and_says_that_it_is_synthetic(tmp_path, suffix):
    source = buzz(200, 1.5)
    path = write_sound(tmp_path / f"a{suffix}", [source], comment="AI-generated: a voice")
    with soundfile.SoundFile(path) as file:
        assert file.comment == "AI-generated: a voice"
        assert file.samplerate == SAMPLE_RATE
    again = Audio.read(path).samples
    if suffix in (".wav", ".flac"):
        torch.testing.assert_close(again, source.samples, atol=1 / 32_768, rtol=0)
    else:
        assert abs(again.shape[1] - source.samples.shape[1]) <= 2_400
        assert abs(semitones_between(200, median_pitch(Audio(again)))) < 0.1


def test_other_formats_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"does not end in one of \.wav, \.flac, \.ogg, \.mp3"):
        write_sound(tmp_path / "a.aiff", [buzz(200, 0.2)])
