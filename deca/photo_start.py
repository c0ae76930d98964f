"""Networks before any training, whose first answers are sensible ones."""

from __future__ import annotations

import torch
from torch import nn

from deca.code_net import N_WEIGHTS, CodeNet
from deca.detail import N_DETAIL, DetailDecoder
from deca.landmarks import LandmarkNet
from deca.official_deca import LAYOUT, DecaNetworks
from deca.resnet import ResnetEncoder
from flame.light import SH_CONSTANTS
from flame.model import Flame

_START_SCALE = 1.6  # of a crop over its face, in the middle of what training draws


class DetailNetworks(nn.Module):
    """The networks of the second stage, under DECA's names."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.E_detail = encoder
        self.D_detail = decoder


def fresh_code_net(points: LandmarkNet, *, generator: torch.Generator) -> CodeNet:
    """An untrained regressor on a trained landmark network; it begins with the mean face."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        net = CodeNet(points)
    start = net.config.n_shape + N_WEIGHTS
    with torch.no_grad():
        # upright, at the distance of a portrait, lit from everywhere
        net.out_mean[start : start + 7] = torch.tensor([1.0, 0, 0, 0, 1, 0, 1.2])
        net.out_mean[-27:-24] = 1.0
        net.out_scale[net.config.n_shape : start] = 0.25
        net.out_scale[start : start + 7] = 0.3
        net.out_scale[-27:] = 0.3
    return net


def fresh_detail(*, generator: torch.Generator) -> DetailNetworks:
    """Untrained detail networks; the decoder begins with no displacement at all."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        networks = DetailNetworks(ResnetEncoder(N_DETAIL), DetailDecoder())
    _even_start(networks)
    # the decoder's last convolution, before the hyperbolic tangent
    last = [m for m in networks.D_detail.modules() if isinstance(m, nn.Conv2d)][-1]
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return networks


def fresh_deca(flame: Flame, *, generator: torch.Generator) -> DecaNetworks:
    """Untrained networks whose first answer is the mean face in white light, in its place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        networks = DecaNetworks(True)
    _even_start(networks)
    detail = fresh_detail(generator=generator)
    assert networks.E_detail is not None and networks.D_detail is not None
    networks.E_detail.load_state_dict(detail.E_detail.state_dict())
    networks.D_detail.load_state_dict(detail.D_detail.state_dict())
    marks = flame.landmarks68(flame.template[None])[0, :, :2]
    low, high = marks.amin(0), marks.amax(0)
    last = networks.E_flame.layers[-1]
    assert isinstance(last, nn.Linear)
    camera = sum(length for name, length in LAYOUT if name != "camera")
    with torch.no_grad():
        last.weight.mul_(0.05)
        last.bias.zero_()
        last.bias[camera] = 2 / (_START_SCALE * (high - low).mean())
        last.bias[camera + 1 : camera + 3] = -(low + high) / 2
        last.bias[camera + 3 : camera + 6] = 1 / SH_CONSTANTS[0]
    return networks


def _even_start(networks: nn.Module) -> None:
    """Convolutions that neither raise nor lower the strength of signals (He et al. 2015)."""
    for module in networks.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
