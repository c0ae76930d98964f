"""Parallel WaveGAN and HiFi-GAN against their published sizes and a second implementation."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import voice
from assets.errors import AssetError
from voice.hifigan import V1, V2, V3, HifiGan, HifiGanConfig
from voice.parallel_wavegan import ParallelWaveGan, PwgConfig, Smoothed
from voice.synthetic import (
    Sizes,
    pwg_yaml,
    random_weights,
    with_weight_norm,
    write_hifigan,
    write_pwg,
)
from voice.vocoder import Vocoder
from voice.weight_norm import folded

PWG = PwgConfig(
    layers=4, stacks=2, residual_channels=3, gate_channels=8, skip_channels=5, aux_channels=6
)
HIFI = {
    "1": HifiGanConfig("1", (5, 4), (11, 8), 16, (3, 5), ((1, 3), (1, 5)), 6),
    "2": HifiGanConfig("2", (5, 4), (11, 8), 16, (3, 5), ((1, 3), (1, 5)), 6),
}


def made(build, config, generator):
    network = build(config)
    network.load_state_dict(random_weights(network, generator))
    return network.double().eval()


def noise(generator, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def lrelu(x: Tensor, slope: float) -> Tensor:
    return torch.where(x > 0, x, slope * x)


# Parallel WaveGAN


def test_the_released_parallel_wavegan_has_its_published_size():
    with torch.device("meta"):
        network = ParallelWaveGan()
    assert sum(p.numel() for p in network.parameters()) == 1_334_311
    assert len(network.state_dict()) == 221
    assert (network.config.hop_length, network.config.receptive_field) == (300, 6_139)


def test_with_weight_norm_it_has_the_published_size_too(generator):
    apart = with_weight_norm(ParallelWaveGan().state_dict(), generator)
    assert sum(tensor.numel() for tensor in apart.values()) == 1_346_044
    assert len(apart) == 349


def test_parallel_wavegan_is_the_second_implementations(generator):
    network = made(ParallelWaveGan, PWG, generator)
    p, mel, z = dict(network.state_dict()), noise(generator, 2, 6, 5), noise(generator, 2, 1_500)

    def conv(name: str, x: Tensor, dilation: int = 1) -> Tensor:
        weight, bias = p[f"{name}.weight"], p.get(f"{name}.bias")
        return F.conv1d(
            x, weight, bias, padding=dilation * (weight.shape[-1] // 2), dilation=dilation
        )

    c = torch.cat([mel[..., :1], mel[..., :1], mel, mel[..., -1:], mel[..., -1:]], 2)
    c = F.conv1d(c, p["upsample_net.conv_in.weight"])
    for i, scale in enumerate((4, 5, 3, 5)):
        kernel = p[f"upsample_net.upsample.up_layers.{2 * i + 1}.weight"][0, 0, 0]
        long = F.pad(c.repeat_interleave(scale, 2), (scale, scale))
        c = (long.unfold(2, 2 * scale + 1, 1) * kernel).sum(-1)
    x, skips = conv("first_conv", z[:, None]), 0
    for layer in range(4):
        at = f"conv_layers.{layer}"
        both = conv(f"{at}.conv", x, 2 ** (layer % 2)) + conv(f"{at}.conv1x1_aux", c)
        gated = torch.tanh(both[:, :4]) * torch.sigmoid(both[:, 4:])
        skips = skips + conv(f"{at}.conv1x1_skip", gated)
        x = (conv(f"{at}.conv1x1_out", gated) + x) * math.sqrt(0.5)
    y = conv("last_conv_layers.1", torch.relu(skips * math.sqrt(1 / 4)))
    expected = conv("last_conv_layers.3", torch.relu(y))[:, 0]
    with torch.no_grad():
        torch.testing.assert_close(network(mel, z), expected, atol=1e-10, rtol=0)


def test_upsampling_with_filters_that_do_nothing_repeats_each_frame(generator):
    smooth = Smoothed((4, 5, 3, 5)).double()
    for layer in smooth.up_layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
            layer.weight.data[..., layer.weight.shape[-1] // 2] = 1
    mel = noise(generator, 1, 6, 7)
    torch.testing.assert_close(smooth(mel), mel.repeat_interleave(300, 2))


def test_nothing_beyond_the_receptive_field_is_heard(generator):
    network = made(ParallelWaveGan, PWG, generator)
    reach = PWG.receptive_field // 2
    mel, z = noise(generator, 1, 6, 4), noise(generator, 1, 1_200).requires_grad_()
    network(mel, z)[0, 600].backward()
    heard = z.grad[0].nonzero()[:, 0]
    assert (int(heard.min()), int(heard.max())) == (600 - reach, 600 + reach)


def test_noise_of_another_length_is_refused_with_the_right_one(generator):
    with pytest.raises(ValueError, match=r"599 samples of noise.*600 samples"):
        ParallelWaveGan(PWG)(torch.zeros(1, 6, 2), torch.zeros(1, 599))


# HiFi-GAN


@pytest.mark.parametrize(("config", "millions"), [(V1, 13.92), (V2, 0.92), (V3, 1.46)])
def test_the_three_hifigans_have_their_published_sizes(config, millions):
    with torch.device("meta"):
        network = HifiGan(config)
    count = sum(p.numel() for p in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)
    assert config.hop_length == 256


@pytest.mark.parametrize("kind", ["1", "2"])
def test_hifigan_is_the_second_implementations(kind, generator):
    config = HIFI[kind]
    network = made(HifiGan, config, generator)
    p, mel = dict(network.state_dict()), noise(generator, 2, 6, 9)

    def conv(name: str, x: Tensor, dilation: int = 1) -> Tensor:
        weight = p[f"{name}.weight"]
        pad = dilation * (weight.shape[-1] // 2)
        return F.conv1d(x, weight, p[f"{name}.bias"], padding=pad, dilation=dilation)

    def stretched(name: str, x: Tensor, rate: int) -> Tensor:
        """A transposed convolution as zeros between the samples and a turned filter."""
        weight = p[f"{name}.weight"].flip(-1).transpose(0, 1)
        sparse = x.new_zeros(*x.shape[:2], (x.shape[2] - 1) * rate + 1)
        sparse[..., ::rate] = x
        kernel = weight.shape[-1]
        pad = kernel - 1 - (kernel - rate) // 2
        return F.conv1d(sparse, weight, p[f"{name}.bias"], padding=pad)

    x = conv("conv_pre", mel)
    for stage, rate in enumerate(config.upsample_rates):
        x = stretched(f"ups.{stage}", lrelu(x, 0.1), rate)
        total = torch.zeros_like(x)
        for block, dilations in enumerate(config.resblock_dilation_sizes):
            at, y = f"resblocks.{2 * stage + block}", x
            for i, dilation in enumerate(dilations):
                if kind == "1":
                    z = conv(f"{at}.convs1.{i}", lrelu(y, 0.1), dilation)
                    y = y + conv(f"{at}.convs2.{i}", lrelu(z, 0.1))
                else:
                    y = y + conv(f"{at}.convs.{i}", lrelu(y, 0.1), dilation)
            total = total + y
        x = total / 2
    expected = torch.tanh(conv("conv_post", lrelu(x, 0.01)))[:, 0]
    with torch.no_grad():
        out = network(mel)
    assert out.shape == (2, 9 * 20)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("frames", [1, 2, 37])
@pytest.mark.parametrize("kind", ["1", "2"])
def test_a_frame_is_always_a_hop(kind, frames, generator):
    assert made(HifiGan, HIFI[kind], generator)(noise(generator, 1, 6, frames)).shape == (
        1,
        20 * frames,
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"resblock": "3"}, "must be '1' or '2'"),
        ({"upsample_kernel_sizes": (16, 16, 4)}, "exceed its rate"),
        ({"upsample_kernel_sizes": (16, 16, 4, 3)}, "exceed its rate"),
        ({"resblock_kernel_sizes": (3, 7)}, "differ in length"),
        ({"upsample_initial_channel": 8}, "cannot be halved 4 times"),
    ],
)
def test_hifigan_sizes_that_cannot_be_are_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        HifiGanConfig(**wrong)


# Weight norm


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("modern", [False, True])
@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Conv1d(3, 4, 5),
        lambda: nn.ConvTranspose1d(3, 4, 5),
        lambda: nn.Conv2d(2, 3, (1, 4)),
    ],
)
def test_folded_weights_are_those_that_pytorch_computes(build, modern, generator):
    norm = nn.utils.parametrizations.weight_norm if modern else nn.utils.weight_norm
    layer = norm(build())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(1, 2 if isinstance(layer, nn.Conv2d) else 3, *([9, 9][: layer.weight.ndim - 2]))
    layer(x)  # PyTorch computes the weight when the layer runs
    plain = folded({f"a.{name}": t for name, t in layer.state_dict().items()}, "file")
    assert plain.keys() == {"a.weight", "a.bias"}
    torch.testing.assert_close(plain["a.weight"], layer.weight.detach())


def test_half_a_pair_is_refused_and_a_filter_of_zeros_stays(generator):
    with pytest.raises(AssetError, match=r"has no a\.weight_g that fits a.weight_v"):
        folded({"a.weight_v": torch.ones(2, 3)}, "file")
    zeros = {"a.weight_v": torch.zeros(2, 3), "a.weight_g": torch.ones(2, 1)}
    assert not folded(zeros, "file")["a.weight"].any()


# As one value


@pytest.mark.parametrize("kind", ["pwg", "1", "2"])
def test_a_line_in_chunks_sounds_as_the_line_at_once(kind, generator, monkeypatch):
    network = (
        made(ParallelWaveGan, PWG, generator)
        if kind == "pwg"
        else made(HifiGan, HIFI[kind], generator)
    )
    vocoder, mel = Vocoder(network), noise(generator, 1, 6, 75)
    whole = vocoder.waveform(mel, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr("voice.vocoder.CHUNK_FRAMES", 16)
    chunks = vocoder.waveform(mel, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(chunks, whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["pwg", "1", "2"])
def test_no_context_is_taken_that_cannot_be_heard(kind, generator):
    config = PWG if kind == "pwg" else HIFI[kind]
    network = made(ParallelWaveGan if kind == "pwg" else HifiGan, config, generator)
    mel = noise(generator, 1, 6, 81).requires_grad_()
    inputs = (mel, noise(generator, 1, 81 * config.hop_length)) if kind == "pwg" else (mel,)
    middle = slice(40 * config.hop_length, 41 * config.hop_length)
    network(*inputs)[0, middle].sum().backward()
    heard = mel.grad.abs().sum((0, 1)).nonzero()[:, 0]
    needed = max(40 - int(heard.min()), int(heard.max()) - 40)
    assert needed <= config.context_frames <= needed + 5


def test_noise_comes_from_the_generator(generator):
    vocoder = Vocoder(made(ParallelWaveGan, PWG, generator))
    mel = noise(generator, 1, 6, 4)
    one, same, other = (
        vocoder.waveform(mel, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_a_vocoder_of_another_mel_is_refused():
    with pytest.raises(ValueError, match=r"256 samples a frame at 22050 Hz.*300 at 24000 Hz"):
        Vocoder(HifiGan(V3), 22_050).synthesise(torch.zeros(1, 80, 5), generator=torch.Generator())


# Their files

SIZES = Sizes(
    pwg=PwgConfig(layers=4, stacks=2, residual_channels=2, gate_channels=4, skip_channels=2),
    hifigan=HifiGanConfig("2", (5, 5, 4, 3), (11, 11, 8, 5), 16, (3,), ((1, 2),)),
)


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def pwg_file(tmp_path, generator, own_cache):
    file = tmp_path / "Vocoder" / "checkpoint-400000steps.pkl"
    write_pwg(file, SIZES, generator=generator)
    (file.parent / "config.yml").write_text(pwg_yaml(SIZES.pwg))
    return file


def test_the_vocoders_weight_norm_is_folded(pwg_file):
    network = voice.load_vocoder(pwg_file).network
    tensors = torch.load(pwg_file, weights_only=True)["model"]["generator"]
    for name in ("first_conv", "conv_layers.3.conv", "upsample_net.upsample.up_layers.5"):
        v, g = tensors[f"{name}.weight_v"], tensors[f"{name}.weight_g"]
        axes = tuple(range(1, v.ndim))
        expected = g * v / v.square().sum(axes, keepdim=True).sqrt()
        torch.testing.assert_close(network.state_dict()[f"{name}.weight"], expected)


def test_hifigan_takes_its_sizes_from_config_json_else_from_the_published_three(
    tmp_path, generator, own_cache
):
    write_hifigan(tmp_path / "a" / "g_02500000", SIZES, generator=generator)
    vocoder = voice.load_vocoder(tmp_path / "a" / "g_02500000")
    assert (vocoder.network.config, vocoder.sample_rate_hz) == (SIZES.hifigan, 24_000)
    (tmp_path / "a" / "config.json").unlink()
    with pytest.raises(AssetError, match=r"neither V1, V2 nor V3; put its config\.json"):
        voice.load_vocoder(tmp_path / "a" / "g_02500000")
    write_hifigan(tmp_path / "b" / "g_02500000", Sizes(hifigan=V3), generator=generator)
    (tmp_path / "b" / "config.json").unlink()
    vocoder = voice.load_vocoder(tmp_path / "b")
    assert (vocoder.network.config, vocoder.sample_rate_hz) == (V3, 22_050)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("layers: 4", "layers: 5", "it says layers 5"),
        ("stacks: 2", "stacks: 3", "multiple of stacks=3"),
        ("dropout: 0.0", "dropping: 0.0", r"unknown keys generator_params\.dropping"),
        ("in_channels: 1", "in_channels: 2", "another network than Parallel WaveGAN"),
    ],
)
def test_a_vocoders_config_that_does_not_belong_is_refused(pwg_file, old, new, words):
    config = pwg_file.with_name("config.yml")
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    with pytest.raises(AssetError, match=words):
        voice.load_vocoder(pwg_file.parent)


def test_a_hifigan_config_with_unknown_keys_is_refused(tmp_path, generator, own_cache):
    write_hifigan(tmp_path / "g", SIZES, generator=generator)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"istft": True}))
    with pytest.raises(AssetError, match="unknown keys istft"):
        voice.load_vocoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings | {"hop_size": 256}))
    with pytest.raises(AssetError, match="hop_size 256, its rates multiply to 300"):
        voice.load_vocoder(tmp_path)


def test_of_two_checkpoints_in_a_folder_one_must_be_named(tmp_path, generator, own_cache):
    write_pwg(tmp_path / "b.pkl", SIZES, generator=generator)
    write_pwg(tmp_path / "a.pkl", SIZES, generator=generator)
    with pytest.raises(AssetError, match=r"more than one vocoder \(a.pkl, b.pkl\)"):
        voice.load_vocoder(tmp_path)
