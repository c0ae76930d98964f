"""The network that finishes mels frame by frame."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from voice.frame_net import FrameNet, StyledMlp
from voice.mel import N_MELS


def learnt(net: torch.nn.Module) -> torch.nn.Module:
    """The network with every weight moved from where fresh ones are 0."""
    generator = torch.Generator().manual_seed(1)
    for weight in net.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return net.double().eval()


@pytest.fixture
def seen() -> tuple[Tensor, ...]:
    """Channels, the mel made of them, the source's mel, a style; two lines of nine frames."""
    generator = torch.Generator().manual_seed(2)
    shapes = ((2, 3, N_MELS, 9), (2, 1, N_MELS, 9), (2, 1, N_MELS, 9), (2, 4))
    return tuple(torch.randn(shape, generator=generator).double() for shape in shapes)


def test_a_fresh_one_leaves_the_mel_as_it_is(seen):
    torch.testing.assert_close(FrameNet(3, 4, 6).double()(*seen), seen[1])


def test_each_frame_depends_on_no_other(seen):
    net = learnt(FrameNet(3, 4, 6))
    whole = net(*seen)
    parts = [net(*(x[..., at : at + 3] for x in seen[:3]), seen[3]) for at in (0, 3, 6)]
    torch.testing.assert_close(torch.cat(parts, dim=-1), whole)


@pytest.mark.parametrize("which", range(4))
def test_everything_it_is_given_counts(seen, which):
    net = learnt(FrameNet(3, 4, 6))
    changed = list(seen)
    changed[which] = changed[which] + 1
    moved = (net(*changed) - net(*seen)).detach()
    # the mel itself comes through whatever the network makes of it
    assert float((moved - int(which == 1)).abs().max()) > 1e-4


def test_a_styled_layer_is_its_formula(seen):
    net, style = learnt(StyledMlp(5, 4)), seen[3]
    x = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(3)).double()
    spread = (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    near = (x - x.mean(-1, keepdim=True)) / spread * net.norm.weight + net.norm.bias
    gain, shift = (style @ net.style.weight.T + net.style.bias).split(5, dim=1)
    near = near * (1 + gain[:, None]) + shift[:, None]
    wide = near @ net.wide.weight.T + net.wide.bias
    wide = wide * 0.5 * (1 + torch.erf(wide / 2**0.5))
    wanted = wide @ net.narrow.weight.T + net.narrow.bias
    torch.testing.assert_close(net(x, style), wanted)
