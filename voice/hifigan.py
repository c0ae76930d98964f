"""HiFi-GAN's generator (Kong et al. 2020): a mel to a waveform.

Attributes carry the published checkpoints' names, with weight norm folded in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE, LAST_SLOPE = 0.1, 0.01


@dataclass(frozen=True)
class HifiGanConfig:
    """Sizes of the generator under the published config's names; defaults are V1's."""

    resblock: str = "1"
    upsample_rates: tuple[int, ...] = (8, 8, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (16, 16, 4, 4)
    upsample_initial_channel: int = 512
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    num_mels: int = 80

    def __post_init__(self) -> None:
        if self.resblock not in ("1", "2"):
            raise ValueError(f"resblock={self.resblock!r} must be '1' or '2'")
        if not self.upsample_rates or min(self.upsample_rates) < 1:
            raise ValueError(f"upsample_rates={self.upsample_rates} must be positive")
        pairs = list(zip(self.upsample_kernel_sizes, self.upsample_rates, strict=False))
        if len(self.upsample_kernel_sizes) != len(self.upsample_rates) or any(
            kernel < rate or (kernel - rate) % 2 for kernel, rate in pairs
        ):
            raise ValueError(
                f"upsample_kernel_sizes={self.upsample_kernel_sizes} must each exceed its rate in "
                f"{self.upsample_rates} by an even number, so that frames keep their length"
            )
        if len(self.resblock_kernel_sizes) != len(self.resblock_dilation_sizes):
            raise ValueError("resblock_kernel_sizes and resblock_dilation_sizes differ in length")
        if any(size % 2 == 0 for size in self.resblock_kernel_sizes):
            raise ValueError(f"resblock_kernel_sizes={self.resblock_kernel_sizes} must be odd")
        if self.upsample_initial_channel >> len(self.upsample_rates) < 1:
            raise ValueError(
                f"upsample_initial_channel={self.upsample_initial_channel} cannot be halved "
                f"{len(self.upsample_rates)} times"
            )

    @property
    def hop_length(self) -> int:
        """Samples of a frame."""
        return math.prod(self.upsample_rates)

    @property
    def context_frames(self) -> int:
        """Frames on either side beyond which nothing acts on a frame's samples."""
        reach, step = 3.0, 1.0  # frames; length of a sample at the stage's rate, in frames
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True):
            reach += step * kernel / rate
            step /= rate
            widest = 0
            for size, dilations in zip(
                self.resblock_kernel_sizes, self.resblock_dilation_sizes, strict=True
            ):
                plain = len(dilations) if self.resblock == "1" else 0
                widest = max(widest, (size // 2) * (sum(dilations) + plain))
            reach += step * widest
        return math.ceil(reach + 3 * step) + 1


V1 = HifiGanConfig()
V2 = replace(V1, upsample_initial_channel=128)
V3 = HifiGanConfig("2", (8, 8, 4), (16, 16, 8), 256, (3, 5, 7), ((1, 2), (2, 6), (3, 12)))


class HifiGan(nn.Module):
    """Transposed convolutions, each followed by the mean of residual blocks of several widths."""

    def __init__(self, config: HifiGanConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or V1
        width = config.upsample_initial_channel
        self.conv_pre = nn.Conv1d(config.num_mels, width, 7, padding=3)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        block = PairedBlock if config.resblock == "1" else SingleBlock
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            padding = (kernel - rate) // 2
            self.ups.append(nn.ConvTranspose1d(width, width // 2, kernel, rate, padding))
            width //= 2
            for size, dilations in zip(
                config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True
            ):
                self.resblocks.append(block(width, size, dilations))
        self.conv_post = nn.Conv1d(width, 1, 7, padding=3)

    def forward(self, mel: Float[Tensor, "B M T"]) -> Float[Tensor, "B N"]:
        """The waveform, -1..1; N is T times `config.hop_length`."""
        if mel.shape[1] != self.config.num_mels:
            raise ValueError(
                f"the mel has {mel.shape[1]} bands, this vocoder takes {self.config.num_mels}"
            )
        x = self.conv_pre(mel)
        kinds = len(self.config.resblock_kernel_sizes)
        for index, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            blocks = [self.resblocks[index * kinds + kind] for kind in range(kinds)]
            total = blocks[0](x)
            for block in blocks[1:]:
                total = total + block(x)
            x = total / kinds
        return torch.tanh(self.conv_post(F.leaky_relu(x, LAST_SLOPE)))[:, 0]


class PairedBlock(nn.Module):
    """Residual pairs of a dilated and a plain convolution (V1 and V2)."""

    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_conv(width, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_conv(width, kernel, 1) for _ in dilations)

    def forward(self, x: Float[Tensor, "B C N"]) -> Float[Tensor, "B C N"]:
        """The input with each pair's answer added."""
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            x = x + plain(F.leaky_relu(dilated(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class SingleBlock(nn.Module):
    """Residual dilated convolutions (V3)."""

    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(width, kernel, dilation) for dilation in dilations)

    def forward(self, x: Float[Tensor, "B C N"]) -> Float[Tensor, "B C N"]:
        """The input with each convolution's answer added."""
        for dilated in self.convs:
            x = x + dilated(F.leaky_relu(x, SLOPE))
        return x


def _conv(width: int, kernel: int, dilation: int) -> nn.Conv1d:
    padding = dilation * (kernel - 1) // 2
    return nn.Conv1d(width, width, kernel, padding=padding, dilation=dilation)
