"""Parallel WaveGAN's generator (Yamamoto et al. 2020): noise and mel to a waveform.

Attributes carry the published checkpoints' names, with weight norm folded in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class PwgConfig:
    """Sizes of the generator under the published config's names; defaults are the release's."""

    layers: int = 30
    stacks: int = 3
    kernel_size: int = 3
    residual_channels: int = 64
    gate_channels: int = 128
    skip_channels: int = 64
    aux_channels: int = 80  # mel bands
    aux_context_window: int = 2  # frames
    upsample_scales: tuple[int, ...] = (4, 5, 3, 5)

    def __post_init__(self) -> None:
        if self.layers < 1 or self.stacks < 1 or self.layers % self.stacks:
            raise ValueError(f"layers={self.layers} must be a multiple of stacks={self.stacks}")
        if self.kernel_size % 2 == 0 or self.gate_channels % 2:
            raise ValueError("kernel_size must be odd and gate_channels even")
        if not self.upsample_scales or min(self.upsample_scales) < 1:
            raise ValueError(f"upsample_scales={self.upsample_scales} must be positive")

    @property
    def hop_length(self) -> int:
        """Samples of a frame."""
        return math.prod(self.upsample_scales)

    @property
    def context_frames(self) -> int:
        """Frames on either side beyond which nothing acts on a frame's samples."""
        smoothing = 2  # one frame by the first filter, a fraction by the others
        reach = math.ceil((self.receptive_field // 2) / self.hop_length)
        return reach + smoothing + self.aux_context_window

    @property
    def receptive_field(self) -> int:
        """Samples of noise that one sample of the output depends on."""
        per_stack = self.layers // self.stacks
        reach = sum(1 << (layer % per_stack) for layer in range(self.layers))
        return (self.kernel_size - 1) * reach + 1


class ParallelWaveGan(nn.Module):
    """WaveNet blocks without causality that turn noise into sound, all samples at once."""

    def __init__(self, config: PwgConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PwgConfig()
        self.first_conv = nn.Conv1d(1, config.residual_channels, 1)
        self.upsample_net = ConvUpsample(config)
        per_stack = config.layers // config.stacks
        self.conv_layers = nn.ModuleList(
            GatedBlock(config, dilation=2 ** (layer % per_stack)) for layer in range(config.layers)
        )
        self.last_conv_layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv1d(config.skip_channels, config.skip_channels, 1),
            nn.ReLU(),
            nn.Conv1d(config.skip_channels, 1, 1),
        )

    def forward(
        self, mel: Float[Tensor, "B M T"], noise: Float[Tensor, "B N"]
    ) -> Float[Tensor, "B N"]:
        """The waveform of a normalised mel; N is T times `config.hop_length`.

        `noise` is drawn from the normal distribution; it decides the fine structure.
        """
        bands, frames = mel.shape[1:]
        wanted = frames * self.config.hop_length
        if bands != self.config.aux_channels or noise.shape[-1] != wanted:
            raise ValueError(
                f"a mel of {bands} bands and {frames} frames came with {noise.shape[-1]} samples "
                f"of noise; wanted are {self.config.aux_channels} bands and {wanted} samples"
            )
        conditions = self.upsample_net(mel)
        x = self.first_conv(noise[:, None])
        skips = x.new_zeros(len(x), self.config.skip_channels, wanted)
        for block in self.conv_layers:
            x, skip = block(x, conditions)
            skips = skips + skip
        skips = skips * math.sqrt(1 / len(self.conv_layers))
        return cast(Tensor, self.last_conv_layers(skips))[:, 0]


class GatedBlock(nn.Module):
    """One dilated convolution with a gate, as in WaveNet."""

    def __init__(self, config: PwgConfig, *, dilation: int) -> None:
        super().__init__()
        half = config.gate_channels // 2
        self.conv = nn.Conv1d(
            config.residual_channels,
            config.gate_channels,
            config.kernel_size,
            padding=dilation * (config.kernel_size - 1) // 2,
            dilation=dilation,
        )
        self.conv1x1_aux = nn.Conv1d(config.aux_channels, config.gate_channels, 1, bias=False)
        self.conv1x1_out = nn.Conv1d(half, config.residual_channels, 1)
        self.conv1x1_skip = nn.Conv1d(half, config.skip_channels, 1)

    def forward(
        self, x: Float[Tensor, "B C N"], conditions: Float[Tensor, "B M N"]
    ) -> tuple[Float[Tensor, "B C N"], Float[Tensor, "B S N"]]:
        """What the next block sees, and this block's part of the output."""
        wave, gate = (self.conv(x) + self.conv1x1_aux(conditions)).chunk(2, dim=1)
        gated = torch.tanh(wave) * torch.sigmoid(gate)
        return (self.conv1x1_out(gated) + x) * math.sqrt(0.5), self.conv1x1_skip(gated)


class ConvUpsample(nn.Module):
    """Frames to samples: a look at the neighbours, then repetition and smoothing by turns."""

    def __init__(self, config: PwgConfig) -> None:
        super().__init__()
        self.context = config.aux_context_window
        channels = config.aux_channels
        self.conv_in = nn.Conv1d(channels, channels, 2 * self.context + 1, bias=False)
        self.upsample = Smoothed(config.upsample_scales)

    def forward(self, mel: Float[Tensor, "B M T"]) -> Float[Tensor, "B M N"]:
        """The mel at the rate of the waveform; the outermost frames are repeated past the ends."""
        padded = F.pad(mel, (self.context, self.context), mode="replicate")
        return cast(Tensor, self.upsample(self.conv_in(padded)))


class Smoothed(nn.Module):
    """Repetition in time, each followed by one filter over the repeated values."""

    def __init__(self, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.up_layers = nn.ModuleList()
        for scale in scales:
            self.up_layers.append(nn.Upsample(scale_factor=(1.0, float(scale)), mode="nearest"))
            self.up_layers.append(
                nn.Conv2d(1, 1, (1, 2 * scale + 1), padding=(0, scale), bias=False)
            )

    def forward(self, x: Float[Tensor, "B M T"]) -> Float[Tensor, "B M N"]:
        """Each band stretched by the product of all scales."""
        picture = x[:, None]
        for layer in self.up_layers:
            picture = layer(picture)
        return picture[:, 0]
