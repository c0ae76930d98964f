"""A network that finishes a mel frame by frame, with all bands and channels of a frame at once.

Small convolutions over bands and frames see little of a frame; how a speaker's formants lie over
the whole of it is told by matrices, which cost a processor less than they do.
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voice.mel import N_MELS

_DEPTH = 3


class StyledMlp(nn.Module):
    """Two layers on each frame, scaled and shifted by a style; fresh ones give 0."""

    def __init__(self, width: int, style_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.style = nn.Linear(style_dim, 2 * width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)
        for layer in (self.style, self.narrow):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.style.bias)

    def forward(
        self, x: Float[Tensor, "B T W"], style: Float[Tensor, "B S"]
    ) -> Float[Tensor, "B T W"]:
        """What is to be added to x, or to what x was made of."""
        gain, shift = self.style(style)[:, None].chunk(2, dim=-1)
        near = self.norm(x) * (1 + gain) + shift
        return cast(Tensor, self.narrow(F.gelu(self.wide(near))))


class FrameNet(nn.Module):
    """The generator's last channels, the mel made of them and the source's: a better mel."""

    def __init__(self, channels: int, style_dim: int, width: int) -> None:
        super().__init__()
        self.channels = nn.Linear(channels * N_MELS, width)
        self.mels = nn.Linear(2 * N_MELS, width)
        self.blocks = nn.ModuleList(StyledMlp(width, style_dim) for _ in range(_DEPTH))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, N_MELS)
        # a fresh one leaves the mel as it is
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self,
        channels: Float[Tensor, "B C M T"],
        made: Float[Tensor, "B 1 M T"],
        source: Float[Tensor, "B 1 M T"],
        style: Float[Tensor, "B S"],
    ) -> Float[Tensor, "B 1 M T"]:
        """`made`, finished in the style; each frame depends on no other."""
        mels = torch.cat([made, source], dim=2)[:, 0].transpose(1, 2)
        x = self.channels(channels.flatten(1, 2).transpose(1, 2)) + self.mels(mels)
        for block in self.blocks:
            x = x + block(x, style)
        change = self.last(F.gelu(self.norm(x))).transpose(1, 2)[:, None]
        return cast(Tensor, made + change)
