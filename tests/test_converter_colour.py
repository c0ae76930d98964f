"""The colour of a voice: a generator that knows it gives a mel back, and styles begin with it."""

from __future__ import annotations

import torch

from voice.audio import SAMPLE_RATE, Audio
from voice.converter_colour import begin_with, colour, find_colours
from voice.converter_pairs import PairedClips
from voice.converter_plan import planned_voices
from voice.corpus import Take, write_corpus
from voice.stargan import Generator, MappingNetwork, StarganConfig, StyleEncoder, with_loudness

SIZES = StarganConfig(
    dim_in=4, style_dim=8, latent_dim=3, num_domains=3, max_conv_dim=8, F0_channel=0, residual=True
)


def mels(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    slope = torch.linspace(0.5, -1.0, 80)[:, None]
    return slope + 0.5 * torch.randn(count, 1, 80, 200, generator=generator)


def generator_that_knows(colours: torch.Tensor) -> Generator:
    net = Generator(SIZES)
    with torch.no_grad():
        net.bands.fc.weight.zero_()
        net.bands.fc.bias.copy_(colours)
    return net


def test_a_mel_in_its_own_colour_comes_back():
    mel = mels(1)
    with torch.no_grad():
        made = generator_that_knows(colour(mel)[0]).coloured(mel, torch.zeros(1, 8))
    heard = with_loudness(mel)
    trace = heard - mel - (heard - mel).mean(dim=3, keepdim=True)
    torch.testing.assert_close(made, mel + trace, atol=2e-2, rtol=0)


def test_a_mel_takes_the_colour_of_another_and_keeps_its_loudness():
    mel, other = mels(2).split(1)
    other = other.flip(2) * 1.5
    with torch.no_grad():
        made = generator_that_knows(colour(other)[0]).coloured(mel, torch.zeros(1, 8))
    torch.testing.assert_close(colour(made), colour(other), atol=0.1, rtol=0)
    assert abs(float(made[:, :, :64].mean() - mel[:, :, :64].mean())) < 0.02


def test_bands_that_a_source_lacks_move_with_its_loudness():
    mel = mels(1)
    mel = mel + torch.sin(torch.arange(200) / 5.0)
    full = colour(mel)[0]
    mel[:, :, 70:] = -1.878
    with torch.no_grad():
        made = generator_that_knows(full).coloured(mel, torch.zeros(1, 8))
    pair = torch.stack([made[0, 0, 75], mel[0, 0, :70].mean(dim=0)])
    assert torch.corrcoef(pair)[0, 1] > 0.99 and made[0, 0, 75].std() > 0.3


def test_published_generators_have_no_part_for_it():
    plain = StarganConfig(dim_in=4, max_conv_dim=8, F0_channel=0)
    assert not [name for name in Generator(plain).state_dict() if "bands" in name]


def test_styles_begin_with_the_colours_of_their_voices(tmp_path):
    noise = torch.Generator().manual_seed(0)
    takes = []
    for speaker, sharp in (("dull", 0.97), ("sharp", 0.0)):
        for held in (False, False, False, True):
            wave = 0.1 * torch.randn(1, 2 * SAMPLE_RATE, generator=noise)
            wave[:, 1:] -= sharp * -wave[:, :-1]
            buzz = torch.cos(torch.arange(2 * SAMPLE_RATE) * 2 * torch.pi * 150 / SAMPLE_RATE)
            takes.append(
                Take(Audio(wave + 0.3 * buzz), speaker, "made", "CC0", style=speaker, held_out=held)
            )
    corpus = write_corpus(takes, tmp_path)
    clips = PairedClips.of(corpus, planned_voices(corpus))
    colours = find_colours(clips, 4, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = Generator(SIZES), StyleEncoder(SIZES), MappingNetwork(SIZES)
    begin_with(colours, *nets)
    again = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for number, own in enumerate(clips.clips):
            mel = clips.crops(own, 128, generator=again).mel
            style = nets[1](mel, torch.full((len(mel),), number)).mean(dim=0, keepdim=True)
            style[:, 4:] = 0.0
            wanted = colour(mel).mean(dim=0)
            found = nets[0].bands.fc(style)[0]
            other = nets[0].bands.fc(torch.cat([colours.voices[1 - number], torch.zeros(4)]))
            assert (found - wanted).abs().mean() < 0.5 * (other - wanted).abs().mean()
