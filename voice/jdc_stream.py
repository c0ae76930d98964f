"""The pitch network's feature for the generator, from mels that arrive hop by hop."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voice.jdc import SLOPE, F0Net, PooledBlock
from voice.stream_layers import StreamedConv


class PitchStream:
    """Feed normalised mels of one line with `step`: some frames to convert, and those ahead.

    The norms are fixed, so that each is one with the convolution before it.
    """

    def __init__(self, net: F0Net) -> None:
        first, norm, _, second = net.conv_block
        blocks = [net.res_block1, net.res_block2, net.res_block3]
        after = [*(block.pre_conv[0] for block in blocks), net.pool_block[0]]
        self._first = _conv(first, norm)
        self._second = _conv(second, after[0])
        self._blocks = [_Block(block, norm) for block, norm in zip(blocks, after[1:], strict=True)]

    @torch.no_grad()
    def step(self, mel: Float[Tensor, "1 1 M T"], frames: int) -> Float[Tensor, "1 C 10 T"]:
        """The feature of the next frames; those after the first `frames` come again."""
        return self.picture(mel[0].permute(1, 2, 0), frames).permute(2, 0, 1)[None]

    def picture(self, mel: Float[Tensor, "M T 1"], frames: int) -> Float[Tensor, "10 T C"]:
        """`step` on a picture laid out for `StreamedConv`."""
        x = F.leaky_relu_(self._first.step(mel, frames), SLOPE)
        x = F.leaky_relu_(self._second.step(x, frames), SLOPE)
        for block in self._blocks:
            x = F.leaky_relu_(block.step(x, frames), SLOPE)
        return x


class _Block:
    """A residual block without the norm and the rectifier that it begins with, with the next."""

    def __init__(self, block: PooledBlock, after: nn.Module) -> None:
        first, norm, _, second = block.conv
        self._first, self._second = _conv(first, norm), _conv(second, after)
        gain, _ = _affine(after)
        self._shortcut = (block.conv1by1.weight.detach()[:, :, 0, 0] * gain[:, None]).T

    def step(self, x: Tensor, frames: int) -> Tensor:
        x = torch.maximum(x[0::2], x[1::2])
        y = F.leaky_relu_(self._first.step(x, frames), SLOPE)
        y = self._second.step(y, frames)
        return torch.addmm(y.flatten(0, 1), x.flatten(0, 1), self._shortcut).view(y.shape)


def _conv(layer: nn.Module, norm: nn.Module) -> StreamedConv:
    """A convolution without offset and the norm after it, bands before frames."""
    gain, offset = _affine(norm)
    weight = cast(nn.Conv2d, layer).weight.detach().transpose(2, 3)
    return StreamedConv(weight * gain[:, None, None, None], offset)


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Gain and offset of a norm in evaluation mode."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    gain = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
    return gain, (norm.bias - gain * norm.running_mean).detach()
