"""A network that knows speakers by their mels, whose opinion of conversions trains the converter.

An x-vector network (Snyder et al. 2018) in small, with cosine margins (CosFace, Wang et al. 2018).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from voice.converter_pairs import PairedClips
from voice.mel import MelConfig

_DILATIONS = (1, 2, 3)
_SCALE, _MARGIN = 20.0, 0.15
_SHORTEST = 64  # frames of what it learns to know speakers by


class SpeakerNet(nn.Module):
    """Normalised mels, whatever their loudness, to unit vectors that are alike for one speaker."""

    def __init__(self, speakers: int, dim: int = 96, width: int = 160) -> None:
        super().__init__()
        self.first = nn.Conv1d(MelConfig().n_mels, width, 5, padding=2)
        self.layers = nn.ModuleList(
            nn.Conv1d(width, width, 3, padding=d, dilation=d) for d in _DILATIONS
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in _DILATIONS)
        self.last = nn.Linear(2 * width, dim)
        self.own = nn.Parameter(torch.randn(speakers, dim))  # what is most like each speaker

    def forward(self, mel: Float[Tensor, "B 1 M T"]) -> Float[Tensor, "B D"]:
        """What the speaker of each mel is like."""
        x = F.gelu(self.first(mel[:, 0] - mel.mean(dim=(1, 2, 3))[:, None, None]))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + F.gelu(norm(layer(x)))
        spread, mean = torch.std_mean(x, dim=2)
        return F.normalize(self.last(torch.cat([mean, spread], dim=1)), dim=1)

    def likeness(
        self, mel: Float[Tensor, "B 1 M T"], speaker: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """The cosine between each mel and the speaker, -1..1."""
        own = F.normalize(self.own, dim=1)[speaker]
        return torch.einsum("bd,bd->b", self(mel), own)

    def loss(
        self, mel: Float[Tensor, "B 1 M T"], speaker: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, ""], float]:
        """Cross entropy of the speakers with a margin, and the share that is known."""
        likeness = self(mel) @ F.normalize(self.own, dim=1).T
        known = float((likeness.argmax(1) == speaker).float().mean())
        off = _MARGIN * F.one_hot(speaker, likeness.shape[1])
        return F.cross_entropy(_SCALE * (likeness - off), speaker), known


def recordings(
    clips: PairedClips, count: int, frames: int, *, generator: torch.Generator
) -> tuple[Float[Tensor, "B 1 M T"], Int[Tensor, " B"]]:
    """Pieces of clips, some as smooth as conversions are, and whose they are."""
    speaker = clips.speakers(count, 0.5, generator=generator)
    mel = clips.crops(clips.clips_of(speaker, generator=generator), frames, generator=generator).mel
    length = int(torch.randint(_SHORTEST, frames + 1, (1,), generator=generator))
    mel = mel[..., :length]
    share = torch.rand(count, 1, 1, 1, generator=generator)
    smooth = F.avg_pool2d(mel, 3, 1, 1, count_include_pad=False)
    mel = share * smooth + (1 - share) * mel
    return mel + 0.05 * torch.randn(mel.shape, generator=generator), speaker
