"""Streamed conversion: the same for any blocks, and what the plain networks give where they can."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import voice.audio
from assets.errors import AssetError
from voice.audio import Audio, save_blocks
from voice.converter import LONGEST_WHOLE_S, Converter
from voice.hifigan import HifiGan, HifiGanConfig
from voice.jdc import F0Config, F0Net
from voice.jdc_stream import PitchStream
from voice.mel import MelConfig, log_mel, mel_bank, normalised
from voice.parallel_wavegan import ParallelWaveGan, PwgConfig
from voice.stargan import COMMON_BANDS, Generator, MappingNetwork, StarganConfig, StyleEncoder
from voice.stargan_blocks import AdaIN
from voice.stargan_stream import GeneratorStream
from voice.stream import (
    FILE,
    LIVE,
    ConverterStream,
    StreamConfig,
    convert_file,
    convert_long,
    convert_stream,
    latency_s,
)
from voice.stream_ends import Front, vocoding
from voice.stream_norms import Moments
from voice.vocoder import Vocoder
from voice.vocos import Vocos, VocosConfig

SIZES = StarganConfig(
    dim_in=4, style_dim=3, num_domains=2, max_conv_dim=8, F0_channel=4, residual=True,
    finish=6,
)  # fmt: skip
SHORT = StreamConfig(hop_s=0.25, ahead_s=0.1)


@pytest.fixture(scope="module")
def converter() -> Converter:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vocos = Vocos(VocosConfig(dim=16, hidden=24, layers=4, pitch_layers=2))
        # one bin stands out, so that rounding cannot tip the pitch from one bin to another
        nn.init.zeros_(vocos.pitch_head.weight)
        with torch.no_grad():
            vocos.pitch_head.bias.copy_(-((torch.arange(225) - 90.0) / 3).square())
        nn.init.normal_(vocos.head.weight, std=0.05)
        nets = (Generator(SIZES), MappingNetwork(SIZES), StyleEncoder(SIZES))
        pitch = F0Net(F0Config((2, 2, 3, 4), 3))
        for net in (*nets, pitch):
            _unsettled(net)
        nn.init.normal_(nets[0].finish.last.weight, std=0.1)
    nets = tuple(net.eval() for net in nets)
    return Converter(*nets, pitch.eval(), ("a", "b"), vocos.eval())


def _unsettled(net: nn.Module) -> None:
    """Norms whose gains and offsets are seen in the result."""
    for name, values in [*net.named_parameters(), *net.named_buffers()]:
        if values.ndim == 1 and values.is_floating_point():
            nn.init.uniform_(values, 0.5, 1.5) if "var" in name else nn.init.normal_(values, 0.3, 1)


@pytest.fixture(scope="module")
def style() -> Tensor:
    return torch.tensor([[0.7, -0.4, 0.2]])


def murmur(duration_s: float, seed: int = 3) -> Tensor:
    """Noise that swells and sinks like syllables."""
    count = round(24_000 * duration_s)
    generator = torch.Generator().manual_seed(seed)
    swell = 0.55 + 0.45 * torch.sin(torch.arange(count) * (2 * math.pi * 3 / 24_000))
    return 0.3 * swell * torch.randn(count, generator=generator).clamp(-3, 3)


def streamed(converter, blocks, style, config=SHORT, semitones=None) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    sounds = convert_stream(
        converter, blocks, style, config=config, semitones=semitones, generator=generator
    )
    return torch.cat(list(sounds))


@settings(max_examples=6, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3_000), min_size=1, max_size=12),
    config=st.sampled_from([LIVE, SHORT, StreamConfig(hop_s=0.0125, ahead_s=0.0)]),
)
def test_the_result_does_not_depend_on_the_blocks(converter, style, sizes, config):
    line = murmur(0.6)
    rest, at = line[100:], 0
    blocks = list(line[:100].split(1))
    for size in sizes:
        blocks.append(rest[at : at + size])
        at += size
    blocks.append(rest[at:])
    cut = streamed(converter, blocks, style, config)
    torch.testing.assert_close(cut, streamed(converter, [line], style, config), atol=1e-4, rtol=0)


@pytest.mark.parametrize("semitones", [None, 3.0])
@pytest.mark.parametrize("wanted_hz", [None, 330.0])
def test_a_line_of_one_hop_is_what_the_networks_give_whole(converter, style, semitones, wanted_hz):
    if wanted_hz is not None:
        known = nn.Linear(3, 1)
        nn.init.zeros_(known.weight)
        nn.init.constant_(known.bias, math.log2(wanted_hz))
        converter = dataclasses.replace(
            converter, style_pitch=known, pitch=_hearing(converter), keeps_pitch=True,
            hushes_pauses=True,
        )  # fmt: skip
    line = murmur(1.7)
    config = StreamConfig(hop_s=1.0, ahead_s=1.0, peak=float(line.abs().max()))
    whole = converter.convert(
        Audio(line[None]), style, semitones=semitones, generator=torch.Generator()
    )
    cut = streamed(converter, line.split(777), style, config, semitones=semitones)
    torch.testing.assert_close(cut, whole.samples[0], atol=1e-4, rtol=1e-4)
    if semitones or wanted_hz:
        still = streamed(converter, [line], style, config, semitones=0.0)
        assert float((cut - still).abs().max()) > 1e-2


def _hearing(converter: Converter) -> F0Net:
    """The pitch network, sure of a voice whose pitch is between 100 and 300 Hz."""
    net = copy.deepcopy(converter.pitch)
    with torch.no_grad():
        net.classifier.weight.mul_(100)
        net.classifier.bias.fill_(200)
        net.detector.bias.fill_(-100)
    return net


def test_with_the_whole_lines_norms_hops_join_to_what_the_generator_gives_whole(
    converter, style, generator
):
    """A second ahead is all that the convolutions see, so nothing but the norms is left."""
    mel = torch.randn(1, 1, 80, 400, generator=generator)
    net = converter.generator
    stream = GeneratorStream(net, converter.pitch, style, memory_frames=300.0)
    handles = []
    for layer in net.modules():
        if isinstance(layer, (AdaIN, nn.InstanceNorm2d)):

            def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                var, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
                stream.moments[layer] = Moments(1e9, mean, var)

            handles.append(layer.register_forward_pre_hook(keep))
    with torch.no_grad():
        whole = net(mel, style, converter.pitch.feature(mel))
    for handle in handles:
        handle.remove()
    common = mel[:, :, :COMMON_BANDS].transpose(1, 2)
    var, mean = torch.var_mean(common, dim=(0, 2, 3), correction=0)
    stream.moments[net] = Moments(1e9, mean, var)
    parts = [stream.step(mel[..., at : at + 120], 40)[..., :40] for at in range(0, 281, 40)]
    parts.append(stream.step(mel[..., 320:], 80))
    torch.testing.assert_close(torch.cat(parts, dim=-1), whole, atol=1e-4, rtol=0)


def test_the_pitch_feature_streams_as_it_is_whole(converter, generator):
    mel = torch.randn(1, 1, 80, 60, generator=generator)
    stream = PitchStream(converter.pitch)
    parts = [stream.step(mel[..., at : at + 18], 10)[..., :10] for at in range(0, 41, 10)]
    parts.append(stream.step(mel[..., 50:], 10))
    whole = converter.pitch.feature(mel).detach()
    torch.testing.assert_close(torch.cat(parts, dim=-1), whole, atol=1e-5, rtol=0)


def test_norms_remember_a_fading_mean_of_the_line(converter, style, generator):
    mel = torch.randn(1, 1, 80, 68, generator=generator).cumsum(-1) / 4
    stream = GeneratorStream(converter.generator, converter.pitch, style, memory_frames=40.0)
    for at in range(0, 64, 16):
        stream.step(mel[..., at : at + 20], 16)
    with torch.no_grad():
        seen = converter.generator.stem(mel)[..., :64].double()
    weights = torch.exp(torch.tensor([-48.0, -32.0, -16.0, 0.0]).double() / 40)
    weights = weights.repeat_interleave(16) / weights.sum() / 16
    mean = (seen.mean(2) * weights).sum(-1)
    variance = (seen.square().mean(2) * weights).sum(-1) - mean.square()
    found = stream.moments[converter.generator.encode[0].norm1]
    torch.testing.assert_close(found.mean.double(), mean[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.variance.double(), variance[0], atol=0, rtol=1e-3)


def test_a_long_pause_leaves_the_norms_where_speech_put_them(converter, style):
    def last_mean(line: Tensor) -> Tensor:
        stream = ConverterStream(converter, style, SHORT, generator=torch.Generator())
        stream.push(line)
        return stream._converting.moments[converter.generator.encode[0].norm1].mean

    speech, room = murmur(1.5), 1e-4 * murmur(4.0)
    # half a second, so that all of the speech has been converted
    spoken, later = (last_mean(torch.cat([speech, room[:n]])) for n in (12_000, 96_000))
    assert (later - spoken).abs().max() < 0.05 * (last_mean(room) - spoken).abs().max()


def test_no_sample_waits_longer_than_the_latency_says(converter, style):
    stream = ConverterStream(converter, style, generator=torch.Generator())
    line, step, given_out, longest = murmur(0.7), 50, 0, 0
    for taken in range(step, len(line) + 1, step):
        came = len(stream.push(line[taken - step : taken]))
        if came:
            longest = max(longest, taken - given_out)
        given_out += came
    said = latency_s(converter) * 24_000
    assert said - 1 <= longest <= said + step
    assert latency_s(dataclasses.replace(converter, vocoder=Vocos())) <= 0.25


@pytest.mark.parametrize("count", [0, 1, 599, 600, 1_024, 1_025, 7_777])
def test_as_many_samples_come_out_as_went_in(count, converter, style):
    line = murmur(1.0)[:count]
    for config in (LIVE, FILE):
        sound = streamed(converter, line.split(311), style, config)
        assert len(sound) == count
        assert bool(sound.isfinite().all())


@pytest.mark.parametrize("line", [torch.zeros(30_000), torch.ones(30_000)], ids=["silence", "dc"])
def test_what_is_not_speech_converts_to_finite_samples(line, converter, style):
    assert bool(streamed(converter, [line], style, LIVE).isfinite().all())


def test_samples_that_are_not_numbers_are_refused(converter, style):
    line = murmur(0.5)
    line[3_000] = math.nan
    with pytest.raises(ValueError, match="not a number"):
        streamed(converter, line.split(1_000), style)


def test_the_level_of_a_line_does_not_matter(converter, style):
    line = murmur(1.5)
    config = dataclasses.replace(SHORT, first_peak=1e-6, quietest_peak=1e-6)
    loud, soft = (streamed(converter, [gain * line], style, config) for gain in (1.0, 0.125))
    torch.testing.assert_close(soft, loud, atol=1e-4, rtol=0)


def test_frames_are_those_of_the_whole_lines_mel():
    line = murmur(0.6)
    front, power, peaks = Front(), [], []
    for block in line.split(913):
        front.push(block)
        power.append(front.take(front.frames)[0])
    front.finish()
    last, peaks = front.take(front.frames)
    mel = torch.log(mel_bank(MelConfig()).float().T @ torch.cat([*power, last], dim=1) + 1e-5)
    torch.testing.assert_close(mel, log_mel(line[None])[0], atol=1e-4, rtol=0)
    assert float(peaks[0]) == float(
        line[len(line) // 300 * 300 - 300 * (len(peaks) - 1) :][:300].abs().max()
    )


def small_wavegan() -> ParallelWaveGan:
    return ParallelWaveGan(
        PwgConfig(layers=6, stacks=2, residual_channels=4, gate_channels=8, skip_channels=4)
    )


def small_hifigan() -> HifiGan:
    return HifiGan(HifiGanConfig("2", (5, 5, 4, 3), (11, 11, 8, 5), 16, (3,), ((1, 2),)))


@pytest.mark.parametrize("build", [small_wavegan, small_hifigan])
@pytest.mark.parametrize("sizes", [[2] * 30, [7, 30, 23]])
def test_convolutional_vocoders_stream_as_they_sound_whole(build, sizes, generator):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build().eval()
    mel = torch.randn(1, 80, 60, generator=generator)
    state = vocoding(Vocoder(net), torch.Generator().manual_seed(2))
    parts = [*map(state.push, mel.split(sizes, dim=-1)), state.flush()]
    again = torch.Generator().manual_seed(2)
    noise = torch.cat([torch.randn(1, 300, generator=again) for _ in range(60)], dim=1)
    inputs = (normalised(mel), noise) if build is small_wavegan else (normalised(mel),)
    with torch.no_grad():
        whole = net(*inputs)[0].clamp(-1, 1)
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-4, rtol=0)


def test_a_line_over_a_minute_is_converted_as_a_stream(converter, style):
    line = murmur(LONGEST_WHOLE_S + 1)
    whole = converter.convert(Audio(line[None]), style, generator=torch.Generator())
    parts = convert_long(converter, line.split(100_003), style, generator=torch.Generator())
    torch.testing.assert_close(torch.cat(list(parts)), whole.samples[0], atol=1e-4, rtol=0)


def test_a_stream_holds_as_much_after_minutes_as_after_seconds(converter, style):
    stream = ConverterStream(converter, style, FILE, generator=torch.Generator())
    block = murmur(10.0)
    held = []
    for _ in range(6):
        stream.push(block)
        held.append(_bytes_of(stream, set()))
    assert max(held[1:]) <= 1.2 * min(held[1:])


def _bytes_of(value: object, seen: set[int]) -> int:
    """Memory of all tensors that an object reaches, networks apart."""
    if id(value) in seen or isinstance(value, (nn.Module, Converter)):
        return 0
    seen.add(id(value))
    if isinstance(value, Tensor):
        return value.untyped_storage().nbytes()
    if isinstance(value, dict):
        return sum(_bytes_of(part, seen) for part in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_bytes_of(part, seen) for part in value)
    return sum(_bytes_of(part, seen) for part in getattr(value, "__dict__", {}).values())


def test_files_longer_than_one_line_may_be_are_converted(converter, style, tmp_path, monkeypatch):
    monkeypatch.setattr(voice.audio, "LONGEST_S", 1.0)
    source = save_blocks(murmur(2.5).split(9_999), tmp_path / "long.wav")
    with pytest.raises(AssetError, match="the limit is"):
        Audio.read(source)
    target = convert_file(
        converter, source, tmp_path / "made.wav", style, generator=torch.Generator()
    )
    monkeypatch.undo()
    parts = convert_long(converter, Audio.read(source).samples, style, generator=torch.Generator())
    made = Audio.read(target).samples[0]
    torch.testing.assert_close(made, torch.cat(list(parts)).clamp(-1, 1), atol=1e-4, rtol=0)


def test_a_file_that_breaks_off_leaves_no_half_result(converter, style, tmp_path):
    (tmp_path / "text.wav").write_text("not a sound", encoding="utf-8")
    with pytest.raises(AssetError, match="cannot be read as sound"):
        convert_file(
            converter,
            tmp_path / "text.wav",
            tmp_path / "made.wav",
            style,
            generator=torch.Generator(),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["text.wav"]


class WholeLines:
    """A vocoder that cannot stream."""

    def synthesise(self, mel: Tensor, *, generator: torch.Generator, melody=None) -> Audio:
        return Audio(torch.zeros(1, 300 * mel.shape[-1]))


@pytest.mark.parametrize("vocoder", [None, WholeLines()])
def test_a_vocoder_that_cannot_stream_is_named(vocoder, converter, style):
    with pytest.raises(ValueError, match="vocoder"):
        streamed(dataclasses.replace(converter, vocoder=vocoder), [murmur(0.1)], style)


def test_a_vocoder_that_cannot_stream_is_given_long_lines_whole(converter, style):
    line = torch.zeros(1, round(24_000 * LONGEST_WHOLE_S) + 300)
    whole = dataclasses.replace(converter, vocoder=WholeLines())
    made = whole.convert(Audio(line), style, generator=torch.Generator())
    assert made.samples.shape == line.shape


@pytest.mark.parametrize(
    "wrong",
    [{"hop_s": 0.0}, {"ahead_s": -1.0}, {"memory_s": 0.0}, {"peak": 0.0}, {"first_peak": 0.0}],
)
def test_settings_that_cannot_be_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StreamConfig(**wrong)


def test_the_pitch_of_a_known_voice_is_listened_to_now_and_then(monkeypatch):
    from voice import stream_pitch
    from voice.shipped import load_converter, shipped_voices

    converter, style = load_converter(), shipped_voices()[0].style
    heard = []
    listen = converter.pitch.pitch_and_silence
    monkeypatch.setattr(
        converter.pitch,
        "pitch_and_silence",
        lambda mel: (heard.append(mel.shape[-1]), listen(mel))[1],
    )
    monkeypatch.setattr(stream_pitch, "_KNOWN", 100)
    followed = stream_pitch.FollowedPitch(converter, style, None)
    # harmonics of 150 Hz, a thousand frames of them
    bins = torch.arange(MelConfig().n_fft // 2 + 1) * 24_000 / MelConfig().n_fft
    comb = torch.exp(-(((bins + 75) % 150 - 75) / 12).square())
    power = (100 * comb / (1 + bins / 500).square() + 1e-6)[:, None].expand(-1, 8)
    for _ in range(125):
        followed.moved_mel(power, 8)
    assert abs(12 * math.log2(followed._median_hz / 150)) < 1
    # a first guess, then whole seconds: two until a hundred frames are known, then one of three
    assert 300 < sum(heard[1:]) < 500
