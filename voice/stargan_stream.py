"""StarGANv2-VC's generator and pitch feature on mels that arrive hop by hop.

Two things keep the published networks from streaming: convolutions that look ahead for a second,
and instance norms over the whole line. Here a hop is computed once, with what lies behind it
remembered at the input of every convolution and as much ahead of it as the caller waits for, and a
norm's mean and variance are those of a fading memory of the line so far, the present included. A
line of one hop comes out as the networks give it whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voice.jdc import F0Net, PooledBlock
from voice.stargan import COMMON_BANDS, Generator, with_loudness
from voice.stargan_blocks import SLOPE, AdaIN, AdainResBlk, ResBlk

_EPS = 1e-5  # of every norm
_HEARD = 0.01  # weight in the memory of a hop in which nobody speaks


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance of channels, with their weight against others in mel frames."""

    weight: float
    mean: Float[Tensor, "1 C 1 1"]
    variance: Float[Tensor, "1 C 1 1"]

    def times(self, factor: float) -> Moments:
        """The same moments, weighing more or less against others."""
        return Moments(factor * self.weight, self.mean, self.variance)

    def joined(self, other: Moments) -> Moments:
        """The moments of both parts together."""
        weight = self.weight + other.weight
        share = other.weight / weight
        apart = other.mean - self.mean
        within = torch.lerp(self.variance, other.variance, share)
        return Moments(
            weight, self.mean + share * apart, within + share * (1 - share) * apart.square()
        )


class GeneratorStream:
    """Feed normalised mels of one line with `step`: some frames to convert, and those ahead.

    `memory_frames` is how long the norms remember, to 1/e. Their memory stands still while `step`
    is told that nobody speaks, so that a pause does not turn room noise into a voice.
    """

    def __init__(
        self,
        generator: Generator,
        pitch: F0Net | None,
        style: Float[Tensor, "1 S"],
        memory_frames: float,
    ) -> None:
        self.generator = generator
        self.style = style
        self.memory_frames = memory_frames
        self.moments: dict[nn.Module, Moments] = {}
        self._weights = _channels_last(generator)
        self._pitch = PitchStream(pitch) if pitch is not None else None
        self._past: dict[nn.Module, Tensor] = {}
        self._frames, self._width, self._speaks = 1, 1, True  # of this step

    @torch.no_grad()
    def step(
        self, mel: Float[Tensor, "1 1 M T"], frames: int, *, speaks: bool = True
    ) -> Float[Tensor, "1 1 M T"]:
        """The converted mel of the next frames; those after the first `frames` come again.

        T and `frames` are multiples of the generator's `frame_step`.
        """
        self._frames, self._width, self._speaks = frames, mel.shape[-1], speaks
        x = self._convolved(self.generator.stem, mel)
        for block in self.generator.encode:
            x = self._encoded(cast(ResBlk, block), x)
        if self._pitch is not None:
            narrow = self._encoded(
                cast(ResBlk, self.generator.F0_conv[0]), self._pitch.step(mel, frames)
            )
            height, width = x.shape[-2:]
            x = torch.cat([x, F.adaptive_avg_pool2d(narrow, (height, width))], dim=1)
        for block in self.generator.decode:
            x = self._decoded(cast(AdainResBlk, block), x)
        norm, rectify, last = self.generator.to_out
        made = cast(Tensor, last(rectify(self._normed(norm, x))))
        return made + self._coloured(mel) if self.generator.config.residual else made

    def _coloured(self, mel: Tensor) -> Tensor:
        """`Generator.coloured` with the line's remembered moments."""
        common, _ = self._found(self.generator, mel[:, :, :COMMON_BANDS].transpose(1, 2))
        level = common.mean.mean(dim=1, keepdim=True)
        spread = torch.sqrt(common.variance + _EPS).mean(dim=1, keepdim=True)
        bands = self._normed(self.generator.bands, with_loudness(mel).transpose(1, 2))
        return level + spread * bands.transpose(1, 2)

    def _encoded(self, block: ResBlk, x: Tensor) -> Tensor:
        shortcut = _down(block, block.conv1x1(x))
        x = self._convolved(block.conv1, F.leaky_relu(self._normed(block.norm1, x), SLOPE))
        x = F.leaky_relu(self._normed(block.norm2, _down(block, x)), SLOPE)
        return (shortcut + self._convolved(block.conv2, x)) / math.sqrt(2)

    def _decoded(self, block: AdainResBlk, x: Tensor) -> Tensor:
        shortcut = _up(block, block.conv1x1(x))
        x = _up(block, F.leaky_relu(self._normed(block.norm1, x), SLOPE))
        x = self._convolved(block.conv1, x)
        x = F.leaky_relu(self._normed(block.norm2, x), SLOPE)
        return (shortcut + self._convolved(block.conv2, x)) / math.sqrt(2)

    def _convolved(self, layer: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(layer, nn.Conv2d)
        columns = self._columns(x)
        before = self._past.get(layer, x.new_zeros(*x.shape[:-1], 1))
        self._past[layer] = x[..., columns - 1 : columns].clone()
        wide = F.pad(torch.cat([before, x], dim=-1), (0, 1))
        return F.conv2d(wide, self._weights[layer], layer.bias, padding=(1, 0))

    def _found(self, layer: nn.Module, x: Tensor) -> tuple[Moments, Tensor]:
        """Moments of the channels until now, and the channels about their means."""
        past = self.moments.get(layer)
        columns = self._columns(x)
        means = x.mean(dim=2, keepdim=True)  # [1, C, 1, W], of each column
        centre = means.mean(dim=3, keepdim=True)
        if past is not None:
            centre = torch.lerp(past.mean, centre, self._width / (past.weight + self._width))
        centred = x - centre
        squares = centred.square().mean(dim=2, keepdim=True)
        now = _about(centre, means, squares, float(self._width))
        done = _about(centre, means[..., :columns], squares[..., :columns], float(self._frames))
        found = now if past is None else past.joined(now)
        # in a pause, time passes slowly: the memory keeps to speech
        heard = 1.0 if self._speaks else _HEARD
        fading = math.exp(-heard * self._frames / self.memory_frames)
        done = done.times(heard)
        self.moments[layer] = done if past is None else past.times(fading).joined(done)
        return found, centred

    def _normed(self, layer: nn.Module, x: Tensor) -> Tensor:
        found, centred = self._found(layer, x)
        deviation = torch.sqrt(found.variance + _EPS)
        if isinstance(layer, AdaIN):
            gamma, beta = layer.fc(self.style)[:, :, None, None].chunk(2, dim=1)
            return torch.addcmul(beta, centred, (1 + gamma) / deviation)
        assert isinstance(layer, nn.InstanceNorm2d)
        gain = layer.weight[:, None, None] / deviation
        return torch.addcmul(layer.bias[:, None, None], centred, gain)

    def _columns(self, x: Tensor) -> int:
        """Columns of a layer's picture that are computed for good."""
        return self._frames * x.shape[-1] // self._width


class PitchStream:
    """The pitch network's feature for the generator, hop by hop; its norms are fixed."""

    def __init__(self, net: F0Net) -> None:
        self.net = net
        self._weights = _channels_last(net)
        self._past: dict[nn.Module, Tensor] = {}

    @torch.no_grad()
    def step(self, mel: Float[Tensor, "1 1 M T"], frames: int) -> Float[Tensor, "1 C 10 T"]:
        """The feature of the next frames; those after the first `frames` come again."""
        first, norm, rectify, second = self.net.conv_block
        x = self._convolved(first, mel.transpose(-1, -2), frames)
        x = self._convolved(second, rectify(norm(x)), frames)
        for block in (self.net.res_block1, self.net.res_block2, self.net.res_block3):
            x = self._pooled(block, x, frames)
        norm, rectify, *_ = self.net.pool_block
        return cast(Tensor, rectify(norm(x))).transpose(-1, -2)

    def _pooled(self, block: PooledBlock, x: Tensor, frames: int) -> Tensor:
        x = block.pre_conv(x)
        first, norm, rectify, second = block.conv
        y = rectify(norm(self._convolved(first, x, frames)))
        return self._convolved(second, y, frames) + cast(Tensor, block.conv1by1(x))

    def _convolved(self, layer: nn.Module, x: Tensor, frames: int) -> Tensor:
        assert isinstance(layer, nn.Conv2d)
        before = self._past.get(layer, x.new_zeros(*x.shape[:2], 1, x.shape[-1]))
        self._past[layer] = x[:, :, frames - 1 : frames].clone()
        wide = F.pad(torch.cat([before, x], dim=2), (0, 0, 0, 1))
        return F.conv2d(wide, self._weights[layer], layer.bias, padding=(0, 1))


def _channels_last(net: nn.Module) -> dict[nn.Module, Tensor]:
    """Weights of the convolutions, laid out as is quickest for pictures of few columns."""
    return {
        layer: layer.weight.detach().contiguous(memory_format=torch.channels_last)
        for layer in net.modules()
        if isinstance(layer, nn.Conv2d)
    }


def _about(centre: Tensor, means: Tensor, squares: Tensor, weight: float) -> Moments:
    """Moments of columns from their means and their mean squares about a centre."""
    mean = means.mean(dim=3, keepdim=True)
    return Moments(weight, mean, squares.mean(dim=3, keepdim=True) - (mean - centre).square())


def _down(block: ResBlk, x: Tensor) -> Tensor:
    return x if block.step == (1, 1) else F.avg_pool2d(x, block.step)


def _up(block: AdainResBlk, x: Tensor) -> Tensor:
    if block.step == (1, 1):
        return x
    return F.interpolate(x, scale_factor=block.step, mode="nearest")
