"""StarGANv2-VC's generator on mels that arrive hop by hop.

Two things keep the published networks from streaming: convolutions that look ahead for a second,
and instance norms over the whole line. Here a hop is computed once, with what lies behind it
remembered at the input of every convolution and as much ahead of it as the caller waits for, and a
norm's mean and variance are those of a fading memory of the line so far, the present included. A
line of one hop comes out as the networks give it whole.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voice.jdc import F0Net
from voice.jdc_stream import PitchStream
from voice.stargan import COMMON_BANDS, Generator, with_loudness
from voice.stargan_blocks import SLOPE, AdaIN, AdainResBlk, ResBlk
from voice.stream_layers import StreamedConv, cells, pooled, repeated
from voice.stream_norms import EPS, Moments, NormMemory, StreamedNorm

_SHARE = math.sqrt(0.5)  # of each of a block's two paths


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
        memory = self._memory = NormMemory(memory_frames)
        self._pitch = None if pitch is None else PitchStream(pitch)
        self._stem = StreamedConv(generator.stem.weight, generator.stem.bias)
        self._encode = [
            _Block(cast(ResBlk, block), memory, style, up=False) for block in generator.encode
        ]
        self._decode = [
            _Block(cast(AdainResBlk, block), memory, style, up=True) for block in generator.decode
        ]
        if pitch is not None:
            self._narrow = _Block(cast(ResBlk, generator.F0_conv[0]), memory, style, up=False)
        norm, _, last = generator.to_out
        self._last_norm = _norm(norm, memory, style)
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        self._last = last.weight.detach().flatten(1), last.bias.detach()
        self._colour: _Colour | None = None
        if generator.config.residual:
            self._colour = _Colour(generator, memory, style)
        self._finish = generator.finish if generator.config.finish else None
        self._style = style
        # compiled now, not while somebody waits for the first hop
        ones = style.new_ones(1)
        StreamedNorm(generator, ones, ones, NormMemory(1.0)).step(style.new_zeros(1, 1, 1))

    @property
    def moments(self) -> dict[nn.Module, Moments]:
        """What the norms remember; the generator's own are of the bands that it colours."""
        return self._memory.moments

    @torch.no_grad()
    def step(
        self, mel: Float[Tensor, "1 1 M T"], frames: int, *, speaks: bool = True
    ) -> Float[Tensor, "1 1 M T"]:
        """The converted mel of the next frames; those after the first `frames` come again.

        T and `frames` are multiples of the generator's `frame_step`.
        """
        self._memory.begin(frames, mel.shape[-1], speaks=speaks)
        picture = mel[0].permute(1, 2, 0)
        x = self._stem.step(picture, frames)
        for block in self._encode:
            x = block.step(x)
        if self._pitch is not None:
            narrow = self._pitch.picture(picture, frames)
            narrow = self._narrow.step(narrow)
            narrow = F.adaptive_avg_pool2d(narrow.permute(2, 0, 1), (x.shape[0], x.shape[1]))
            x = torch.cat([x, narrow.permute(1, 2, 0)], dim=2)
        for block in self._decode:
            x = block.step(x)
        channels = self._last_norm.step(x)
        made = F.linear(channels, *self._last).permute(2, 0, 1)[None]
        if self._colour is not None:
            made = made + self._colour.step(mel)
        if self._finish is not None:
            made = self._finish(channels.permute(2, 0, 1)[None], made, mel, self._style)
        return made


class _Colour:
    """`Generator.coloured` with the line's remembered moments."""

    def __init__(self, generator: Generator, memory: NormMemory, style: Tensor) -> None:
        ones = style.new_ones(COMMON_BANDS)
        # the generator itself is the key of what all recordings have
        self._common = StreamedNorm(generator, ones, 0 * ones, memory)
        self._bands = _norm(generator.bands, memory, style, slope=1.0)

    def step(self, mel: Tensor) -> Tensor:
        self._common.step(mel[0, :, :COMMON_BANDS].transpose(1, 2))
        mean, variance = self._common.found.unbind()
        told = self._bands.step(with_loudness(mel)[0].transpose(1, 2))
        spread = torch.sqrt(variance + EPS).mean()
        return torch.addcmul(mean.mean(), spread, told.transpose(1, 2)[None])


class _Block:
    """A residual block that scales its picture down, or up by repetition."""

    def __init__(
        self, block: ResBlk | AdainResBlk, memory: NormMemory, style: Tensor, *, up: bool
    ) -> None:
        self._memory = memory
        self._up = block.step if up else (1, 1)
        self._down = (1, 1) if up else block.step
        self._norm1 = _norm(block.norm1, memory, style)
        self._norm2 = _norm(block.norm2, memory, style)
        self._conv1 = StreamedConv(block.conv1.weight, block.conv1.bias)
        bias = block.conv2.bias
        assert bias is not None
        self._conv2 = StreamedConv(_SHARE * block.conv2.weight, _SHARE * bias)
        self._shortcut: Tensor | None = None
        if isinstance(block.conv1x1, nn.Conv2d):
            self._shortcut = (_SHARE * block.conv1x1.weight.detach()[:, :, 0, 0]).T.contiguous()

    def step(self, x: Float[Tensor, "H W C"]) -> Float[Tensor, "H2 W2 D"]:
        """The next picture."""
        columns = self._memory.columns(x)
        self._norm1.into(self._conv1, x, self._up)
        y = pooled(self._conv1.made(columns * self._up[1]), self._down)
        self._norm2.into(self._conv2, y, (1, 1))
        y = self._conv2.made(columns * self._up[1] // self._down[1])
        x = pooled(x, self._down)
        if self._shortcut is None:
            cells(y, self._up).add_(repeated(x), alpha=_SHARE)
        else:
            cells(y, self._up).add_(repeated(torch.matmul(x, self._shortcut)))
        return y


def _norm(
    layer: nn.Module, memory: NormMemory, style: Tensor, slope: float = SLOPE
) -> StreamedNorm:
    """A norm of a line, under a style or not."""
    if isinstance(layer, AdaIN):
        gamma, beta = layer.fc(style).detach()[0].chunk(2)
        return StreamedNorm(layer, 1 + gamma, beta, memory, slope)
    assert isinstance(layer, nn.InstanceNorm2d)
    return StreamedNorm(layer, layer.weight, layer.bias, memory, slope)
