"""The networks of StarGANv2-VC against the published sizes and a second implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.fft import dct
from torch import Tensor
from torch.nn import functional as F

from voice.asr_net import TOKENS, AsrConfig, AsrNet
from voice.jdc import F0Config, F0Net
from voice.stargan import Discriminator, Generator, MappingNetwork, StarganConfig, StyleEncoder
from voice.stargan_blocks import AdaIN
from voice.synthetic import random_weights

SMALL = StarganConfig(
    dim_in=3, style_dim=4, latent_dim=3, num_domains=3, max_conv_dim=8, F0_channel=6
)
SMALL_F0 = F0Config((3, 4, 5, 6), 4)
STEP = {"half": (2, 2), "freq": (2, 1)}


def made(build, config, generator):
    """A network in float64, in evaluation mode, with every entry random."""
    network = build(config)
    network.load_state_dict(random_weights(network, generator))
    return network.double().eval()


def noise(generator, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


# The second implementation: plain functions of a state dict, in the order of the description.


def norm(x: Tensor) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) / ((x - mean) ** 2).mean((2, 3), keepdim=True).add(1e-5).sqrt()


def lrelu(x: Tensor, slope: float = 0.2) -> Tensor:
    return torch.where(x > 0, x, slope * x)


def conv(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = p[f"{name}.weight"]
    return F.conv2d(x, weight, p.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def pooled(x: Tensor, scale: str) -> Tensor:
    if scale == "none":
        return x
    b, c, h, w = x.shape
    fh, fw = STEP[scale]
    cut = x[:, :, : h // fh * fh, : w // fw * fw]
    return cut.reshape(b, c, h // fh, fh, w // fw, fw).mean((3, 5))


def repeated(x: Tensor, scale: str) -> Tensor:
    if scale == "none":
        return x
    fh, fw = STEP[scale]
    return x.repeat_interleave(fh, 2).repeat_interleave(fw, 3)


def res_block(p: dict[str, Tensor], at: str, x: Tensor, scale: str) -> Tensor:
    def gained(name: str, y: Tensor) -> Tensor:
        if f"{at}.{name}.weight" not in p:
            return y
        w, b = (p[f"{at}.{name}.{key}"][:, None, None] for key in ("weight", "bias"))
        return norm(y) * w + b

    short = conv(p, f"{at}.conv1x1", x) if f"{at}.conv1x1.weight" in p else x
    y = pooled(conv(p, f"{at}.conv1", lrelu(gained("norm1", x))), scale)
    y = conv(p, f"{at}.conv2", lrelu(gained("norm2", y)))
    return (pooled(short, scale) + y) / math.sqrt(2)


def styled(p: dict[str, Tensor], at: str, x: Tensor, style: Tensor) -> Tensor:
    both = style @ p[f"{at}.fc.weight"].T + p[f"{at}.fc.bias"]
    c = x.shape[1]
    return norm(x) * (1 + both[:, :c, None, None]) + both[:, c:, None, None]


def styled_block(p: dict[str, Tensor], at: str, x: Tensor, style: Tensor, scale: str) -> Tensor:
    short = repeated(x, scale)
    short = conv(p, f"{at}.conv1x1", short) if f"{at}.conv1x1.weight" in p else short
    y = repeated(lrelu(styled(p, f"{at}.norm1", x, style)), scale)
    y = lrelu(styled(p, f"{at}.norm2", conv(p, f"{at}.conv1", y), style))
    return (short + conv(p, f"{at}.conv2", y)) / math.sqrt(2)


def convert(p: dict[str, Tensor], mel: Tensor, style: Tensor, pitch: Tensor | None) -> Tensor:
    x = conv(p, "stem", mel)
    for i, scale in enumerate(["half", "freq", "half", "freq", "none", "none"]):
        x = res_block(p, f"encode.{i}", x, scale)
    scales = ["none", "none", "freq", "half", "freq", "half"]
    if pitch is not None:
        y = res_block(p, "F0_conv.0", pitch, "half")
        x = torch.cat([x, F.adaptive_avg_pool2d(y, x.shape[-2:])], 1)
        scales.insert(0, "none")
    for i, scale in enumerate(scales):
        x = styled_block(p, f"decode.{i}", x, style, scale)
    w, b = (p[f"to_out.0.{key}"][:, None, None] for key in ("weight", "bias"))
    return conv(p, "to_out.2", lrelu(norm(x) * w + b))


# Sizes


@pytest.mark.parametrize(
    ("build", "parameters", "entries"),
    [
        (Generator, 45_972_993, 126),
        (MappingNetwork, 17_212_672, 168),
        (StyleEncoder, 14_426_816, 63),
        (Discriminator, 2 * 13_780_436, 50),
        (F0Net, 5_248_067, 77),
        (AsrNet, 7_625_696, 143),
    ],
)
def test_the_released_sizes_are_those_published(build, parameters, entries):
    with torch.device("meta"):
        network = build()
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == entries


@pytest.mark.parametrize(("build", "values"), [(F0Net, 3_081), (AsrNet, 3_200)])
def test_buffers_are_those_published(build, values):
    with torch.device("meta"):
        assert sum(buffer.numel() for buffer in build().buffers()) == values


def test_the_table_of_tokens_has_its_published_corners():
    assert len(TOKENS) == 80
    assert TOKENS[:10] == ("<pad>", "<sos>", "<eos>", "<unk>", " ", ",", ".", ":", "!", "?")
    assert (TOKENS[10], TOKENS[79]) == ("AA0", "ZH")
    assert TOKENS.index("UW") + 1 == TOKENS.index("UW0")


# Converter


def test_adain_gives_each_channel_the_styles_mean_and_deviation(generator):
    block = made(lambda _: AdaIN(4, 5), None, generator)
    style = noise(generator, 2, 4)
    out = block(3 + 7 * noise(generator, 2, 5, 6, 9), style)
    gamma, beta = (style @ block.fc.weight.T + block.fc.bias).chunk(2, 1)
    torch.testing.assert_close(out.mean((2, 3)), beta)
    deviation = out.std((2, 3), unbiased=False)
    torch.testing.assert_close(deviation, (1 + gamma).abs(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("frames", [4, 80, 83, 97])
def test_the_generator_is_the_second_implementations(frames, generator):
    network = made(Generator, SMALL, generator)
    mel, style = noise(generator, 2, 1, 80, frames), noise(generator, 2, 4)
    pitch = noise(generator, 2, 6, 10, frames)
    with torch.no_grad():
        out = network(mel, style, pitch)
        expected = convert(dict(network.state_dict()), mel, style, pitch)
    assert out.shape == (2, 1, 80, 4 * (frames // 4))
    torch.testing.assert_close(out, expected, atol=1e-9, rtol=0)


def test_a_generator_without_pitch_takes_none(generator):
    network = made(Generator, StarganConfig(dim_in=3, max_conv_dim=8, F0_channel=0), generator)
    mel, style = noise(generator, 1, 1, 80, 20), noise(generator, 1, 64)
    with torch.no_grad():
        expected = convert(dict(network.state_dict()), mel, style, None)
        torch.testing.assert_close(network(mel, style, None), expected, atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match="F0_channel=0"):
        network(mel, style, noise(generator, 1, 6, 10, 20))
    with pytest.raises(ValueError, match="F0_channel=6"):
        made(Generator, SMALL, generator)(mel, noise(generator, 1, 4), None)


def test_batch_items_do_not_touch_each_other(generator):
    network = made(Generator, SMALL, generator)
    mel, style = noise(generator, 3, 1, 80, 24), noise(generator, 3, 4)
    pitch = noise(generator, 3, 6, 10, 24)
    with torch.no_grad():
        together = network(mel, style, pitch)
        alone = [network(mel[i : i + 1], style[i : i + 1], pitch[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-10, rtol=0)


def test_style_encoder_and_judges_differ_only_in_where_they_bend(generator):
    encoder = made(StyleEncoder, SMALL, generator)
    judge = made(Discriminator, SMALL, generator)
    mel = noise(generator, 2, 1, 80, 91)

    def trunk(p: dict[str, Tensor], at: str) -> Tensor:
        x = conv(p, f"{at}.0", mel)
        for i in range(1, 5):
            x = res_block(p, f"{at}.{i}", x, "half")
        return F.conv2d(lrelu(x), p[f"{at}.6.weight"], p[f"{at}.6.bias"])

    with torch.no_grad():
        p = dict(encoder.state_dict())
        seen = lrelu(trunk(p, "shared").mean((2, 3)))
        expected = [
            seen[i] @ p[f"unshared.{d}.weight"].T + p[f"unshared.{d}.bias"]
            for i, d in enumerate((2, 0))
        ]
        got = encoder(mel, torch.tensor([2, 0]))
        torch.testing.assert_close(got, torch.stack(expected), atol=1e-9, rtol=0)
        p = dict(judge.state_dict())
        for part in ("dis", "cls"):
            seen = lrelu(trunk(p, f"{part}.main")).mean((2, 3))
            weight = p[f"{part}.main.9.weight"][:, :, 0, 0]
            logits = seen @ weight.T + p[f"{part}.main.9.bias"]
            if part == "cls":
                torch.testing.assert_close(judge.classify(mel), logits, atol=1e-9, rtol=0)
            else:
                chosen = torch.stack([logits[0, 1], logits[1, 2]])
                got = judge(mel, torch.tensor([1, 2]))
                torch.testing.assert_close(got, chosen, atol=1e-9, rtol=0)


def test_each_latent_goes_through_its_own_domains_head(generator):
    network = made(MappingNetwork, SMALL, generator)
    p, latent = dict(network.state_dict()), noise(generator, 4, 3)
    domain = torch.tensor([2, 0, 2, 1])
    rows = []
    for z, d in zip(latent, domain.tolist(), strict=True):
        for i in (0, 2, 4, 6):
            z = torch.relu(p[f"shared.{i}.weight"] @ z + p[f"shared.{i}.bias"])
        for i in (0, 2, 4, 6):
            z = p[f"unshared.{d}.{i}.weight"] @ z + p[f"unshared.{d}.{i}.bias"]
            z = z if i == 6 else torch.relu(z)
        rows.append(z)
    with torch.no_grad():
        torch.testing.assert_close(network(latent, domain), torch.stack(rows), atol=1e-10, rtol=0)


@pytest.mark.parametrize("domain", [-1, 3])
def test_an_unknown_domain_is_refused(domain, generator):
    with pytest.raises(ValueError, match=r"domains must be 0\.\.2"):
        MappingNetwork(SMALL)(torch.zeros(1, 3), torch.tensor([domain]))


def test_a_reference_under_one_second_is_refused(generator):
    StyleEncoder(SMALL)(torch.zeros(1, 1, 80, 80), torch.tensor([0]))
    with pytest.raises(ValueError, match="79 frames, a style or a judgement needs 80"):
        StyleEncoder(SMALL)(torch.zeros(1, 1, 80, 79), torch.tensor([0]))
    with pytest.raises(ValueError, match="needs 80"):
        Discriminator(SMALL).classify(torch.zeros(1, 1, 80, 79))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"w_hpf": 1}, "80 bands into 64"),
        ({"n_repeat": 5}, "n_repeat=5"),
        ({"F0_channel": 3}, "F0_channel=3"),
        ({"finish": -1}, "finish=-1"),
        ({"dim_in": 0}, "dim_in must be at least 1"),
    ],
)
def test_sizes_that_cannot_be_are_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        StarganConfig(**wrong)


# Pitch network


def test_pitch_of_192_frames_is_the_published_views(generator):
    network = made(F0Net, SMALL_F0, generator)
    mel = noise(generator, 2, 1, 80, 192)
    with torch.no_grad():
        pitch = network(mel)
        # as published: one row of 192 frames an item, the channel's index before the band's
        rows = pitch.pooled.permute(0, 2, 1, 3).contiguous().view(-1, 192, 12)
        expected = network.classifier(network.bilstm_classifier(rows)[0]).squeeze(-1).abs()
    torch.testing.assert_close(pitch.f0, expected)
    assert (pitch.f0 >= 0).all()


@pytest.mark.parametrize("frames", [1, 7, 191, 500])
def test_pitch_of_any_length_has_a_value_a_frame(frames, generator):
    network = made(F0Net, SMALL_F0, generator)
    mel = noise(generator, 1, 1, 80, frames)
    with torch.no_grad():
        pitch = network(mel)
        assert pitch.f0.shape == network.silence(mel).shape == (1, frames)
        torch.testing.assert_close(network.feature(mel), pitch.feature)
    assert pitch.feature.shape == (1, 6, 10, frames)


def test_the_feature_of_a_long_mel_is_that_of_chunks_away_from_their_ends(generator):
    network = made(F0Net, SMALL_F0, generator)
    mel = noise(generator, 1, 1, 80, 384)
    reach = 8  # two convolutions of three frames in each of four blocks
    with torch.no_grad():
        whole = network.feature(mel)
        chunks = [network.feature(mel[..., i : i + 192]) for i in (0, 192)]
    torch.testing.assert_close(chunks[0][..., :-reach], whole[..., : 192 - reach])
    torch.testing.assert_close(chunks[1][..., reach:], whole[..., 192 + reach :])
    assert not torch.allclose(chunks[0][..., -1], whole[..., 191])


# Recogniser


def test_the_recognisers_features_are_the_second_implementations(generator):
    network = made(AsrNet, AsrConfig(hidden_dim=16, n_layers=2), generator)
    p, mel = dict(network.state_dict()), noise(generator, 2, 80, 75)

    def conv1(name: str, x: Tensor, dilation: int = 1, stride: int = 1) -> Tensor:
        weight = p[f"{name}.conv.weight"]
        pad = dilation * (weight.shape[-1] // 2)
        return F.conv1d(x, weight, p[f"{name}.conv.bias"], stride, pad, dilation)

    def grouped(name: str, x: Tensor, groups: int) -> Tensor:
        parts = x.reshape(len(x), groups, -1)
        mean, variance = parts.mean(2, keepdim=True), parts.var(2, unbiased=False, keepdim=True)
        flat = ((parts - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
        return flat * p[f"{name}.weight"][:, None] + p[f"{name}.bias"][:, None]

    cepstrum = dct(mel.numpy(), type=2, axis=1, norm="ortho")[:, :40]
    x = conv1("init_cnn", torch.from_numpy(np.ascontiguousarray(cepstrum)), stride=2)
    for layer in range(2):
        for block, dilation in enumerate((1, 3, 9)):
            at = f"cnns.{layer}.0.blocks.{block}"
            y = grouped(f"{at}.2", torch.relu(conv1(f"{at}.0", x, dilation)), 8)
            x = x + torch.relu(conv1(f"{at}.4", y))
        x = grouped(f"cnns.{layer}.1", x, 1)
    content = conv1("projection", x)
    hidden = torch.relu(
        content.transpose(1, 2) @ p["ctc_linear.0.linear_layer.weight"].T
        + p["ctc_linear.0.linear_layer.bias"]
    )
    logits = hidden @ p["ctc_linear.2.linear_layer.weight"].T + p["ctc_linear.2.linear_layer.bias"]
    with torch.no_grad():
        seen = network(mel)
    assert seen.content.shape == (2, 8, 38)
    # the published basis is in single precision
    torch.testing.assert_close(seen.content, content, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.ctc_logits, logits, atol=1e-5, rtol=0)


@pytest.fixture
def decoder(generator):
    return made(AsrNet, AsrConfig(hidden_dim=16, token_embedding_dim=6), generator).asr_s2s


def test_a_token_is_foretold_from_those_before_it_alone(decoder, generator):
    content, text = noise(generator, 1, 8, 9), torch.tensor([[5, 20, 30, 40]])
    other = text.clone()
    other[0, 2] = 77
    with torch.no_grad():
        first, second = decoder(content, text).logits, decoder(content, other).logits
    assert first.shape == (1, 5, 80)
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert not torch.allclose(first[:, 3], second[:, 3])


def test_what_is_past_a_clips_end_is_not_looked_at(decoder, generator):
    content, text = noise(generator, 1, 8, 9), torch.tensor([[5, 20, 30]])
    longer = torch.cat([content, noise(generator, 1, 8, 4)], 2)
    padding = torch.arange(13)[None] >= 9
    with torch.no_grad():
        short, padded = decoder(content, text), decoder(longer, text, padding)
    torch.testing.assert_close(padded.logits, short.logits)
    torch.testing.assert_close(padded.attention[..., :9], short.attention)
    torch.testing.assert_close(short.attention.sum(-1), torch.ones(1, 4, dtype=torch.float64))


def test_hidden_tokens_come_from_the_generator(decoder, generator):
    content, text = noise(generator, 1, 8, 9), torch.full((1, 60), 20)
    with torch.no_grad():
        plain = decoder(content, text).logits
        one, again = (
            decoder(content, text, generator=torch.Generator().manual_seed(3)).logits
            for _ in range(2)
        )
    torch.testing.assert_close(one, again)
    assert not torch.allclose(one, plain)
