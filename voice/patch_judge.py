"""A judge of mels, patch by patch, that keeps a converter's answers from being blurred averages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

_SLOPE = 0.2


@dataclass(frozen=True, eq=False)
class Judged:
    """What the judge says of B mels."""

    logits: Float[Tensor, "B H W"]
    features: tuple[Tensor, ...]  # of every layer, each [B, C, H, W]


class PatchJudge(nn.Module):
    """Whether each patch of a normalised mel is a recording, of this speaker (Miyato 2018)."""

    def __init__(self, speakers: int, dim: int = 32) -> None:
        super().__init__()
        sizes = ((1, dim, (2, 1)), (dim, 2 * dim, (2, 2)), (2 * dim, 4 * dim, (2, 2)))
        layers = [
            nn.Conv2d(dim_in, dim_out, 5 if dim_in == 1 else 3, step, 2 if dim_in == 1 else 1)
            for dim_in, dim_out, step in sizes
        ]
        layers.append(nn.Conv2d(4 * dim, 4 * dim, 3, 1, 1))
        self.layers = nn.ModuleList(nn.utils.parametrizations.spectral_norm(x) for x in layers)
        self.last = nn.Conv2d(4 * dim, 1, 1)
        self.speaker = nn.Embedding(speakers, 4 * dim)
        nn.init.zeros_(self.speaker.weight)

    def forward(self, mel: Float[Tensor, "B 1 M T"], speaker: Int[Tensor, " B"]) -> Judged:
        """Logits of patches of about 25 bands and 20 frames."""
        features = []
        x = mel
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        whose = self.speaker(speaker) / x.shape[1] ** 0.5
        match = torch.einsum("bc,bchw->bhw", whose, x)
        return Judged(cast(Tensor, self.last(x))[:, 0] + match, tuple(features))


def judge_loss(real: Judged, fake: Judged) -> Float[Tensor, ""]:
    """Hinge loss of the judge: 2 where it cannot tell."""
    return F.relu(1 - real.logits).mean() + F.relu(1 + fake.logits).mean()


def feature_loss(real: Judged, fake: Judged) -> Float[Tensor, ""]:
    """How far the judge sees the two apart, as a share of the recording's own size."""
    terms = [
        (f - r.detach()).abs().mean() / r.detach().abs().mean().clamp(min=1e-3)
        for r, f in zip(real.features, fake.features, strict=True)
    ]
    return torch.stack(terms).mean()
