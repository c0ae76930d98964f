"""A wider converter made from a narrower one computes the same."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from voice.converter_grow import widened
from voice.mel import N_MELS
from voice.stargan import Generator, MappingNetwork, StarganConfig, StyleEncoder

NARROW = StarganConfig(
    dim_in=2, style_dim=6, latent_dim=3, num_domains=2, max_conv_dim=18, F0_channel=4, residual=True
)
WIDE = dataclasses.replace(NARROW, dim_in=3, max_conv_dim=25)
MEL = torch.randn(2, 1, N_MELS, 96, generator=torch.Generator().manual_seed(3))
DOMAIN = torch.tensor([0, 1])


def grown(kind: type[nn.Module]) -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        narrow, wide = kind(NARROW), kind(WIDE)
    generator = torch.Generator().manual_seed(7)
    wide.load_state_dict(widened(wide, narrow.state_dict(), NARROW, WIDE, generator=generator))
    return narrow, wide


@torch.no_grad()
def test_a_wider_generator_begins_as_the_narrower_one() -> None:
    narrow, wide = grown(Generator)
    style, pitch = torch.randn(2, 6), torch.randn(2, 4, 10, 96)
    before, after = narrow(MEL, style, pitch), wide(MEL, style, pitch)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("before", [0, 5])
def test_the_last_frames_network_grows_too(before: int) -> None:
    old, new = (dataclasses.replace(c, finish=w) for c, w in ((NARROW, before), (WIDE, 5)))
    generator = torch.Generator().manual_seed(7)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        narrow, wide = Generator(old), Generator(new)
        for weight in narrow.parameters():  # a fresh last layer is 0
            weight.data += 0.1 * torch.randn(weight.shape)
        style, pitch = torch.randn(2, 6), torch.randn(2, 4, 10, 96)
    wide.load_state_dict(widened(wide, narrow.state_dict(), old, new, generator=generator))
    torch.testing.assert_close(
        wide(MEL, style, pitch), narrow(MEL, style, pitch), rtol=1e-4, atol=1e-3
    )


@torch.no_grad()
def test_wider_styles_begin_as_the_narrower_ones() -> None:
    narrow, wide = grown(StyleEncoder)
    torch.testing.assert_close(wide(MEL, DOMAIN), narrow(MEL, DOMAIN), rtol=0, atol=1e-6)
    narrow, wide = grown(MappingNetwork)
    latent = torch.randn(2, 3)
    torch.testing.assert_close(wide(latent, DOMAIN), narrow(latent, DOMAIN), rtol=0, atol=1e-6)


@torch.no_grad()
def test_copies_part() -> None:
    """Two copies of a channel weigh differently in what comes after, so that they can learn."""
    _, wide = grown(Generator)
    weight = wide.get_parameter("to_out.2.weight")[0, :, 0, 0]  # channel 2 is a copy of 0
    assert abs(float(weight[0] - weight[2])) > 1e-3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"style_dim": 8}, "style_dim must be those"),
        ({"dim_in": 1}, "no smaller"),
        ({"max_conv_dim": 24}, "above eight times dim"),
    ],
)
def test_what_cannot_be_widened_is_refused(change: dict[str, int], said: str) -> None:
    other = dataclasses.replace(WIDE, **change)
    narrow = Generator(NARROW).state_dict()
    with pytest.raises(ValueError, match=said):
        widened(Generator(other), narrow, NARROW, other, generator=torch.Generator())
