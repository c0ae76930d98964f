"""The recogniser of StarGANv2-VC: what was said, without who said it.

Attributes carry the published checkpoints' names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voice.asr_decoder import AttentionDecoder
from voice.mel import N_MELS

N_MFCC = 40
BLANK = 4  # CTC's blank; the space between words too
_VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
_CONSONANTS = (
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S"),
    *("SH", "T", "TH", "V", "W", "Y", "Z", "ZH"),
)
# the published table has one vowel without stress
ARPABET = sorted([f"{v}{stress}" for v in _VOWELS for stress in "012"] + ["UW", *_CONSONANTS])
TOKENS = ("<pad>", "<sos>", "<eos>", "<unk>", " ", ",", ".", ":", "!", "?", *ARPABET)


@dataclass(frozen=True)
class AsrConfig:
    """Sizes of the recogniser under the published config's names; defaults are the release's."""

    input_dim: int = N_MELS
    hidden_dim: int = 256
    n_token: int = 80
    token_embedding_dim: int = 256
    n_layers: int = 6
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if self.input_dim != N_MELS:
            raise ValueError(f"input_dim={self.input_dim}; mels here have {N_MELS} bands")
        if self.hidden_dim < 8 or self.hidden_dim % 8:
            raise ValueError(f"hidden_dim={self.hidden_dim} must be a multiple of 8")
        if min(self.n_token - 4, self.token_embedding_dim, self.n_layers) < 1:
            raise ValueError("n_token must be over 4, token_embedding_dim and n_layers positive")


@dataclass(frozen=True, eq=False)
class Recognised:
    """What the recogniser makes of B mels; a step is two frames, 25 ms."""

    content: Float[Tensor, "B C L"]
    ctc_logits: Float[Tensor, "B L N"]


class AsrNet(nn.Module):
    """Normalised mels to content features and CTC logits over phonemes."""

    def __init__(self, config: AsrConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AsrConfig()
        hidden = config.hidden_dim
        self.to_mfcc = Cepstrum()
        self.init_cnn = _Conv(N_MFCC, hidden, 7, stride=2)
        self.cnns = nn.Sequential(
            *(
                nn.Sequential(ConvBlock(hidden, config.dropout), nn.GroupNorm(1, hidden))
                for _ in range(config.n_layers)
            )
        )
        self.projection = _Conv(hidden, hidden // 2, 1)
        self.ctc_linear = nn.Sequential(
            _Linear(hidden // 2, hidden), nn.ReLU(), _Linear(hidden, config.n_token)
        )
        self.asr_s2s = AttentionDecoder(hidden // 2, config.token_embedding_dim, config.n_token)

    def forward(self, mel: Float[Tensor, "B M T"]) -> Recognised:
        """Content features and logits, ceil(T / 2) steps."""
        content = self.content(mel)
        return Recognised(content, self.ctc_linear(content.transpose(1, 2)))

    def content(self, mel: Float[Tensor, "B M T"]) -> Float[Tensor, "B C L"]:
        """The features that conversion must keep."""
        return cast(Tensor, self.projection(self.cnns(self.init_cnn(self.to_mfcc(mel)))))


class Cepstrum(nn.Module):
    """The first 40 coefficients of the orthonormal DCT-II over the mel bands."""

    dct_mat: Tensor

    def __init__(self) -> None:
        super().__init__()
        band = torch.arange(N_MELS, dtype=torch.float64) + 0.5
        order = torch.arange(N_MFCC, dtype=torch.float64)
        basis = torch.cos(math.pi / N_MELS * band[:, None] * order) * math.sqrt(2 / N_MELS)
        basis[:, 0] /= math.sqrt(2)
        self.register_buffer("dct_mat", basis.to(torch.get_default_dtype()))

    def forward(self, mel: Float[Tensor, "B M T"]) -> Float[Tensor, "B K T"]:
        """Coefficients of each frame."""
        if mel.shape[1] != N_MELS:
            raise ValueError(f"the mel has {mel.shape[1]} bands, the recogniser takes {N_MELS}")
        return torch.einsum("mk,bmt->bkt", self.dct_mat, mel)


class ConvBlock(nn.Module):
    """Three residual pairs of convolutions, the first of each dilated by 1, 3 and 9 steps."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                _Conv(hidden, hidden, 3, dilation=dilation),
                nn.ReLU(),
                nn.GroupNorm(8, hidden),
                nn.Dropout(dropout),
                _Conv(hidden, hidden, 3),
                nn.ReLU(),
                nn.Dropout(dropout),
            )
            for dilation in (1, 3, 9)
        )

    def forward(self, x: Float[Tensor, "B C L"]) -> Float[Tensor, "B C L"]:
        """The sum of the input and each pair's answer to what came before it."""
        for block in self.blocks:
            x = x + block(x)
        return x


class _Conv(nn.Module):
    """A convolution over time that keeps the length, but for its stride."""

    def __init__(
        self, dim_in: int, dim_out: int, kernel: int, *, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv1d(dim_in, dim_out, kernel, stride, padding, dilation)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv(x))


class _Linear(nn.Module):
    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.linear_layer = nn.Linear(dim_in, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.linear_layer(x))
