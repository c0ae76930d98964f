"""The pitch network of StarGANv2-VC: joint detection and classification (Kum and Nam 2019).

Attributes carry the published checkpoints' names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voice.mel import N_MELS

SLOPE = 0.01


@dataclass(frozen=True)
class F0Config:
    """Sizes of the pitch network; defaults are the release's."""

    channels: tuple[int, int, int, int] = (64, 128, 192, 256)
    hidden: int = 256  # of each direction of the recurrent layers
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if min(self.channels) < 1 or self.hidden < 1 or not 0 <= self.dropout < 1:
            raise ValueError("channels and hidden must be positive, dropout 0 <= p < 1")


@dataclass(frozen=True, eq=False)
class Pitch:
    """What the pitch network says of B mels."""

    f0: Float[Tensor, "B T"]  # Hz, also where nothing is voiced
    feature: Float[Tensor, "B C 10 T"]  # what the generator takes
    pooled: Float[Tensor, "B C T 2"]  # what the cycle loss compares


class F0Net(nn.Module):
    """Normalised mels of any length to pitch in Hz, the generator's feature, and voicing."""

    def __init__(self, config: F0Config | None = None) -> None:
        super().__init__()
        self.config = config = config or F0Config()
        first, second, third, last = config.channels
        self.conv_block = nn.Sequential(
            _conv(1, first), nn.BatchNorm2d(first), nn.LeakyReLU(SLOPE), _conv(first, first)
        )
        self.res_block1 = PooledBlock(first, second)
        self.res_block2 = PooledBlock(second, third)
        self.res_block3 = PooledBlock(third, last)
        self.pool_block = nn.Sequential(
            nn.BatchNorm2d(last),
            nn.LeakyReLU(SLOPE),
            nn.MaxPool2d((1, 4)),
            nn.Dropout(config.dropout),
        )
        self.detector_conv = nn.Sequential(
            nn.Conv2d(sum(config.channels), last, 1, bias=False),
            nn.BatchNorm2d(last),
            nn.LeakyReLU(SLOPE),
        )
        self.bilstm_classifier = _recurrent(2 * last, config.hidden)
        self.bilstm_detector = _recurrent(2 * last, config.hidden)
        self.classifier = nn.Linear(2 * config.hidden, 1)
        self.detector = nn.Linear(2 * config.hidden, 2)

    def forward(self, mel: Float[Tensor, "B 1 M T"]) -> Pitch:
        """Pitch of each frame and the generator's feature."""
        return self._pitch(*self._head(self._maps(mel)[-1]))

    def feature(self, mel: Float[Tensor, "B 1 M T"]) -> Float[Tensor, "B C 10 T"]:
        """The generator's feature alone, without the recurrent layers: half of the work."""
        return self._head(self._maps(mel)[-1])[0]

    def silence(self, mel: Float[Tensor, "B 1 M T"]) -> Float[Tensor, "B T"]:
        """Logit of a frame without voice."""
        maps = self._maps(mel)
        return self._silence(maps, self._head(maps[-1])[1])

    def pitch_and_silence(
        self, mel: Float[Tensor, "B 1 M T"]
    ) -> tuple[Pitch, Float[Tensor, "B T"]]:
        """Both answers, their common layers computed once."""
        maps = self._maps(mel)
        feature, pooled = self._head(maps[-1])
        return self._pitch(feature, pooled), self._silence(maps, pooled)

    def _pitch(self, feature: Tensor, pooled: Tensor) -> Pitch:
        sequence, _ = self.bilstm_classifier(_sequence(pooled))
        f0 = cast(Tensor, self.classifier(sequence))[..., 0].abs()
        return Pitch(f0, feature, pooled)

    def _silence(self, maps: tuple[Tensor, Tensor, Tensor, Tensor], pooled: Tensor) -> Tensor:
        first, second, third, _ = maps
        parts = [
            F.max_pool2d(first, (1, 40)),
            F.max_pool2d(second, (1, 20)),
            F.max_pool2d(third, (1, 10)),
            pooled,
        ]
        sequence, _ = self.bilstm_detector(_sequence(self.detector_conv(torch.cat(parts, dim=1))))
        return cast(Tensor, self.detector(sequence)).sum(dim=-1)

    def _maps(self, mel: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if mel.shape[-2] != N_MELS:
            raise ValueError(f"the mel has {mel.shape[-2]} bands, the pitch network takes {N_MELS}")
        first = self.conv_block(mel.transpose(-1, -2))  # [B, C, T, 80]
        second = self.res_block1(first)
        third = self.res_block2(second)
        return first, second, third, self.res_block3(third)

    def _head(self, last: Tensor) -> tuple[Tensor, Tensor]:
        norm, rectify, pool, dropout = self.pool_block
        rectified = rectify(norm(last))  # [B, C, T, 10]
        return rectified.transpose(-1, -2), dropout(pool(rectified))


class PooledBlock(nn.Module):
    """Residual block that halves the bands before its convolutions."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.pre_conv = nn.Sequential(
            nn.BatchNorm2d(dim_in), nn.LeakyReLU(SLOPE), nn.MaxPool2d((1, 2))
        )
        self.conv = nn.Sequential(
            _conv(dim_in, dim_out),
            nn.BatchNorm2d(dim_out),
            nn.LeakyReLU(SLOPE),
            _conv(dim_out, dim_out),
        )
        self.conv1by1 = nn.Conv2d(dim_in, dim_out, 1, bias=False)

    def forward(self, x: Float[Tensor, "B C T K"]) -> Float[Tensor, "B D T K2"]:
        """The block's output at half of the bands."""
        x = self.pre_conv(x)
        return cast(Tensor, self.conv(x) + self.conv1by1(x))


def _conv(dim_in: int, dim_out: int) -> nn.Conv2d:
    return nn.Conv2d(dim_in, dim_out, 3, padding=1, bias=False)


def _recurrent(dim_in: int, hidden: int) -> nn.LSTM:
    return nn.LSTM(dim_in, hidden, batch_first=True, bidirectional=True)


def _sequence(x: Tensor) -> Tensor:
    """[B, C, T, K] as [B, T, C * K], the channel's index before the band's."""
    return x.transpose(1, 2).flatten(2)
