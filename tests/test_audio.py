"""Reading, writing and levelling sound."""

from __future__ import annotations

import math
import tracemalloc
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assets import AssetError
from voice.audio import SAMPLE_RATE, Audio, read_blocks, resample
from voice.loudness import loudness_lufs, normalized, true_peak


def sine(hertz: float, rate_hz: int, seconds: float = 1.0, level: float = 0.5) -> np.ndarray:
    return (
        level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate_hz)) / rate_hz)
    ).astype(np.float32)


def test_sixteen_bit_samples_survive_saving_and_reading_bit_for_bit(tmp_path, generator):
    whole = torch.randint(-32_768, 32_768, (1, 4_800), generator=generator)
    audio = Audio(whole.float() / 32_768)
    again = Audio.read(audio.save(tmp_path / "line.wav"))
    assert torch.equal(again.samples, audio.samples)


def test_a_saved_file_is_what_the_standard_library_calls_a_mono_wav(tmp_path):
    Audio(torch.tensor([[0.0, 1.0, -1.0, 2.0, -2.0, 0.5]]).repeat(1, 300)).save(tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
        first = np.frombuffer(file.readframes(6), "<i2")
    assert first.tolist() == [0, 32_767, -32_768, 32_767, -32_768, 16_384]  # clipped, not wrapped
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_the_frequency_level_and_phase_of_a_sine(tmp_path, rate_hz):
    soundfile.write(tmp_path / "tone.flac", sine(1000.0, rate_hz), rate_hz)
    audio = Audio.read(tmp_path / "tone.flac")
    assert audio.samples.shape == (1, SAMPLE_RATE)
    middle = slice(2_400, -2_400)  # filters ring at both ends
    expected = torch.from_numpy(sine(1000.0, SAMPLE_RATE))[middle]
    torch.testing.assert_close(audio.samples[0, middle], expected, atol=2e-3, rtol=0)


def test_what_lies_above_the_new_rate_is_filtered_out_rather_than_folded_down():
    high = torch.from_numpy(sine(15_000.0, 48_000))[None]
    assert resample(high, 48_000, 24_000)[0, 2_400:-2_400].abs().max() < 1e-3


def test_channels_are_averaged(tmp_path):
    left, right = sine(300.0, 24_000), sine(700.0, 24_000)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), 24_000, "FLOAT")
    expected = torch.from_numpy((left + right) / 2)[None]
    torch.testing.assert_close(Audio.read(tmp_path / "stereo.wav").samples, expected)


def test_compressed_formats_are_read(tmp_path):
    for suffix in ("ogg", "mp3", "aiff"):
        soundfile.write(tmp_path / f"tone.{suffix}", sine(440.0, 24_000), 24_000)
        spectrum = torch.fft.rfft(Audio.read(tmp_path / f"tone.{suffix}").samples[0, :24_000])
        assert abs(int(spectrum.abs().argmax()) - 440) <= 1


def bad_files(folder: Path) -> dict[str, str]:
    """File names, each with a word that its message must have."""
    (folder / "notes.txt").write_text("this is no sound at all, only words " * 20)
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "short.wav", np.zeros(10), 24_000)
    tone = sine(440.0, 24_000)
    tone[100] = np.nan
    soundfile.write(folder / "nan.wav", tone, 24_000, "FLOAT")
    soundfile.write(folder / "slow.wav", sine(10.0, 100, 5.0), 100)
    return {
        "notes.txt": "cannot be read",
        "empty.wav": "cannot be read",
        "short.wav": "at least",
        "nan.wav": "not numbers",
        "slow.wav": "100 samples a second",
        "missing.wav": "no sound file",
    }


def test_every_bad_file_is_refused_in_one_sentence_that_names_it(tmp_path):
    for name, words in bad_files(tmp_path).items():
        with pytest.raises(AssetError, match=words) as caught:
            Audio.read(tmp_path / name)
        message = str(caught.value)
        assert name in message and "\n" not in message and len(message) < 300


def test_a_file_longer_than_the_limit_is_refused_by_its_header(tmp_path):
    soundfile.write(tmp_path / "long.flac", np.zeros(4_000 * 31 * 60, np.int16), 4_000)
    with pytest.raises(AssetError, match="31 min, the limit is 30 min"):
        Audio.read(tmp_path / "long.flac")


def test_only_one_signal_goes_into_a_wav(tmp_path):
    with pytest.raises(ValueError, match="holds one signal"):
        Audio(torch.zeros(2, 2_400)).save(tmp_path / "two.wav")
    with pytest.raises(ValueError, match=r"end in \.wav"):
        Audio(torch.zeros(1, 2_400)).save(tmp_path / "one.mp3")


def test_a_full_scale_sine_at_997_hz_measures_minus_3_01_lufs():
    # the calibration point that BS.1770 itself gives
    tone = Audio(torch.from_numpy(sine(997.0, 24_000, 3.0, level=1.0))[None])
    assert loudness_lufs(tone) == pytest.approx(-3.01, abs=0.03)


def test_the_gate_leaves_silence_out_of_the_loudness():
    tone = torch.from_numpy(sine(997.0, 24_000, 4.0, level=0.25))[None]
    padded = Audio(torch.cat([tone, torch.zeros(1, 24_000 * 8)], dim=1))
    assert loudness_lufs(padded) == pytest.approx(loudness_lufs(Audio(tone)), abs=0.2)
    assert loudness_lufs(Audio(torch.zeros(1, 24_000))) == -math.inf


def test_true_peak_sees_between_the_samples():
    # a sine at a quarter of the rate, sampled at 45 degrees: samples reach 0.707 of its peak
    at = torch.arange(24_000, dtype=torch.float64)
    tone = torch.sin(math.pi / 2 * at + math.pi / 4).float()[None] * torch.hann_window(24_000)
    assert tone.abs().max() < 0.72
    assert true_peak(Audio(tone)) == pytest.approx(1.0, abs=0.01)


@settings(max_examples=15, deadline=None)
@given(st.floats(-50.0, 0.0), st.integers(0, 5))
def test_levelled_noise_has_the_wanted_loudness_and_no_peak_above_the_ceiling(level_db, seed):
    noise = torch.randn(1, 36_000, generator=torch.Generator().manual_seed(seed))
    levelled = normalized(Audio(0.25 * 10 ** (level_db / 20) * noise), -18.0)
    assert loudness_lufs(levelled) == pytest.approx(-18.0, abs=0.5)
    assert true_peak(levelled) <= 10 ** (-1 / 20) + 1e-3


def test_peaky_sound_is_limited_and_silence_stays_silence():
    clicks = torch.zeros(1, 48_000)
    clicks[0, ::2_000] = 1.0
    assert true_peak(normalized(Audio(clicks), -10.0)) <= 10 ** (-1 / 20) + 1e-3
    silence = Audio(torch.zeros(1, 24_000))
    assert torch.equal(normalized(silence).samples, silence.samples)


def write_with_codec(path: Path, channels: np.ndarray, rate_hz: int, codec: str) -> Path:
    """Channels [C, N] as AAC in MP4 or Opus in WebM."""
    layout = "stereo" if len(channels) == 2 else "mono"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        frame = av.AudioFrame.from_ndarray(channels.astype(np.float32), "fltp", layout)
        frame.sample_rate, frame.pts = rate_hz, 0
        fitted = av.AudioResampler(
            stream.codec_context.format, layout, rate_hz, stream.codec_context.frame_size or 1024
        )
        for piece in [*fitted.resample(frame), *fitted.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.webm", "libopus")])
def test_phone_and_browser_recordings_are_read(tmp_path, name, codec):
    tone = sine(440.0, 48_000, 2.0)
    path = write_with_codec(tmp_path / name, np.stack([tone, tone]), 48_000, codec)
    samples = Audio.read(path).samples[0]
    assert abs(len(samples) - 48_000) < 1_600  # codecs pad
    spectrum = torch.fft.rfft(samples[4_800:28_800])
    assert abs(int(spectrum.abs().argmax()) - 440) <= 1
    assert samples[4_800:28_800].abs().max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("rate_hz", [8_000, 192_000])
def test_every_depth_and_rate_gives_the_same_tone(tmp_path, subtype, rate_hz):
    soundfile.write(tmp_path / "a.wav", sine(440.0, rate_hz), rate_hz, subtype)
    middle = slice(2_400, -2_400)
    found = Audio.read(tmp_path / "a.wav").samples[0, middle]
    expected = torch.from_numpy(sine(440.0, SAMPLE_RATE))[middle]
    torch.testing.assert_close(
        found, expected, atol=1.2e-2 if subtype == "PCM_U8" else 1e-3, rtol=0
    )


def test_a_voice_in_the_centre_of_surround_is_not_lost(tmp_path):
    channels = np.zeros((24_000, 6), np.float32)
    channels[:, 2] = sine(440.0, 24_000)  # left, right, centre, bass, behind left, behind right
    channels[:, 3] = 0.9 * sine(40.0, 24_000)
    soundfile.write(tmp_path / "film.wav", channels, 24_000, "FLOAT")
    expected = torch.from_numpy(channels[:, 2])[None] * math.sqrt(0.5)
    torch.testing.assert_close(Audio.read(tmp_path / "film.wav").samples, expected)


@pytest.mark.parametrize("rate_hz", [24_000, 44_100])
def test_blocks_joined_are_the_whole(tmp_path, rate_hz):
    noise = np.random.default_rng(0).standard_normal(7 * rate_hz).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "a.wav", noise, rate_hz, "FLOAT")
    blocks = [block.samples for block in read_blocks(tmp_path / "a.wav", 0.7)]
    assert all(block.shape == (1, 16_800) for block in blocks[:-1])
    whole = Audio.read(tmp_path / "a.wav").samples
    torch.testing.assert_close(torch.cat(blocks, dim=1), whole, atol=1e-5, rtol=0)


def test_long_files_are_read_in_blocks_with_bounded_memory(tmp_path):
    part = np.zeros(8_000 * 1_200, np.int16)
    with soundfile.SoundFile(tmp_path / "long.flac", "w", 8_000, 1) as file:
        for _ in range(2):
            file.write(part)
    del part
    tracemalloc.start()
    seconds = sum(block.duration_s for block in read_blocks(tmp_path / "long.flac"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds == pytest.approx(2_400, abs=0.01)
    assert peak < 20e6  # bytes; the whole would be 230 MB
    with pytest.raises(AssetError, match="40 min, the limit is 30 min"):
        Audio.read(tmp_path / "long.flac")


def test_a_recorder_that_crashed_leaves_its_sound_readable(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(440.0, 24_000), 24_000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    for length in (b"\0\0\0\0", b"\xff\xff\xff\xff"):
        content[40:44] = length
        (tmp_path / "b.wav").write_bytes(content)
        expected = Audio.read(tmp_path / "a.wav").samples
        torch.testing.assert_close(Audio.read(tmp_path / "b.wav").samples, expected)


def test_what_only_claims_to_be_sound_is_refused_and_never_followed(tmp_path):
    soundfile.write(tmp_path / "real.wav", sine(440.0, 24_000), 24_000)
    real = (tmp_path / "real.wav").read_bytes()
    files = {
        "text.wav": b"this is a text\n" * 200,
        "list.wav": b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nreal.wav\n",
        "concat.wav": b"ffconcat version 1.0\nfile real.wav\n",
        "head.wav": real[:30],
        "tail.wav": real[20:],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AssetError, match="cannot be read as sound") as caught:
            Audio.read(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_breaks_off_is_refused_and_a_clipped_one_is_read_and_logged(tmp_path, caplog):
    noise = np.random.default_rng(0).standard_normal(48_000).clip(-1, 1) * 0.999
    soundfile.write(tmp_path / "a.flac", 0.1 * noise, 24_000)
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) // 2])
    with pytest.raises(AssetError, match="breaks off"):
        Audio.read(tmp_path / "cut.flac")
    soundfile.write(tmp_path / "loud.wav", sine(440.0, 24_000, level=3.0).clip(-1, 1), 24_000)
    Audio.read(tmp_path / "loud.wav")
    assert "clipped" in caplog.text
