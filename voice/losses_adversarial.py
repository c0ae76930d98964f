"""Discriminators of waveforms and their losses, for the last part of a vocoder's training.

Of periods (Kong et al. 2020, HiFi-GAN, section 2.3) and of spectrograms at several resolutions
(Jang et al. 2021, UnivNet, section 2.3), narrower than published, with Vocos' hinge losses.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

PERIODS = (2, 3, 5, 7, 11)
WINDOWS = (512, 1024, 2048)
_SLOPE = 0.1
Judgement = tuple[Tensor, list[Tensor]]  # logits, and the features on the way to them


class WaveJudge(nn.Module):
    """All discriminators; each gives logits and features of a signal."""

    def __init__(
        self,
        width: int = 16,
        periods: Sequence[int] = PERIODS,
        windows: Sequence[int] = WINDOWS,
    ) -> None:
        super().__init__()
        parts = [PeriodJudge(period, width) for period in periods]
        self.parts = nn.ModuleList([*parts, *(SpectrumJudge(size, width) for size in windows)])

    def forward(self, samples: Float[Tensor, "B N"]) -> list[Judgement]:
        """What every discriminator says."""
        return [part(samples) for part in self.parts]


class PeriodJudge(nn.Module):
    """Convolutions over a signal folded at a period."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        sizes = [1, width, 2 * width, 4 * width, 8 * width]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0)))
            for a, b in itertools.pairwise(sizes)
        )
        self.out = weight_norm(nn.Conv2d(sizes[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, samples: Float[Tensor, "B N"]) -> Judgement:
        """Logits and features; the end is mirrored to fill the last period."""
        rest = -samples.shape[1] % self.period
        row = F.pad(samples[:, None], (0, rest), mode="reflect")
        return _judged(row.reshape(len(row), 1, -1, self.period), self.layers, self.out)


class SpectrumJudge(nn.Module):
    """Convolutions over a magnitude spectrogram."""

    def __init__(self, window: int, width: int) -> None:
        super().__init__()
        self.window = window
        sizes = [1, width, width, 2 * width, 2 * width]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (3, 9), (1, 1 if a == 1 else 2), (1, 4)))
            for a, b in itertools.pairwise(sizes)
        )
        self.out = weight_norm(nn.Conv2d(sizes[-1], 1, 3, padding=1))

    def forward(self, samples: Float[Tensor, "B N"]) -> Judgement:
        """Logits and features of [frames, bins]."""
        window = torch.hann_window(self.window, dtype=samples.dtype, device=samples.device)
        spectrum = torch.stft(
            samples, self.window, self.window // 4, window=window, return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        picture = (power + 1e-9).sqrt().transpose(1, 2)[:, None]
        return _judged(picture, self.layers, self.out)


def judge_loss(real: Sequence[Judgement], fake: Sequence[Judgement]) -> Float[Tensor, ""]:
    """Hinge loss of the discriminators: real above 1, made below -1; mean over them."""
    terms = [
        F.relu(1 - r[0]).mean() + F.relu(1 + f[0]).mean() for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean()


def convincing_loss(fake: Sequence[Judgement]) -> Float[Tensor, ""]:
    """What the vocoder lowers to be taken for real."""
    return torch.stack([F.relu(1 - logits).mean() for logits, _ in fake]).mean()


def feature_loss(real: Sequence[Judgement], fake: Sequence[Judgement]) -> Float[Tensor, ""]:
    """L1 of the discriminators' features, relative to the real ones' size."""
    terms = [
        F.l1_loss(b, a.detach()) / a.detach().abs().mean().clamp(min=1e-3)
        for (_, first), (_, second) in zip(real, fake, strict=True)
        for a, b in zip(first, second, strict=True)
    ]
    return torch.stack(terms).mean()


def _judged(x: Tensor, layers: nn.ModuleList, out: nn.Module) -> Judgement:
    features = []
    for layer in layers:
        x = F.leaky_relu(layer(x), _SLOPE)
        features.append(x)
    return out(x).flatten(1), features
