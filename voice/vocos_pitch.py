"""How well each pitch explains a mel: the harmonics that a mel still shows, compared to combs."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from voice.mel import MelConfig, mel_bank
from voice.vocos_fit import pooling_of_bands

_LOCAL_HZ = 350.0  # what is as wide as this is envelope, not harmonics
_STEEPEST = 2.5  # nepers that a band can stand above its surroundings


def combs_of(
    mel: MelConfig, hertz: Float[Tensor, " P"]
) -> tuple[Float[Tensor, "M M"], Float[Tensor, "M P"]]:
    """What `salience` takes: weights of a band's surroundings, and unit combs of each pitch."""
    pooling = pooling_of_bands(mel, _LOCAL_HZ)
    combs = local_contrast(_log_mel_of_combs(mel, hertz).float(), pooling)
    combs = combs - combs.mean(dim=1, keepdim=True)
    return pooling, (combs / combs.norm(dim=1, keepdim=True)).T.contiguous()


def local_contrast(
    log_mel: Float[Tensor, "*T M"], pooling: Float[Tensor, "M M"]
) -> Float[Tensor, "*T M"]:
    """Natural-log bands relative to those around them, within +-2.5."""
    return (log_mel - log_mel @ pooling).clamp(-_STEEPEST, _STEEPEST)


def salience(
    log_mel: Float[Tensor, "*T M"], pooling: Float[Tensor, "M M"], combs: Float[Tensor, "M P"]
) -> Float[Tensor, "*T P"]:
    """Likeness -1..1 of each frame to the comb of each pitch."""
    local = local_contrast(log_mel, pooling)
    size: Tensor = local.norm(dim=-1, keepdim=True)
    return local @ combs / (size + 1.0)


def _log_mel_of_combs(mel: MelConfig, hertz: Tensor) -> Tensor:
    """Natural-log mel [P, M] of equally loud harmonics, with a little noise between them."""
    bank = mel_bank(mel)
    bins_hz = torch.arange(len(bank), dtype=torch.float64) * mel.sample_rate / mel.n_fft
    rows = []
    for pitch in hertz.double().tolist():
        count = max(1, math.floor(6_000 / pitch))
        numbers = torch.arange(1, count + 1, dtype=torch.float64)
        off = bins_hz[:, None] - pitch * numbers
        power = _hann_spectrum(off * mel.win_length / mel.sample_rate).square().sum(1)
        rows.append(((power + 0.03) @ bank).log())
    return torch.stack(rows)


def _hann_spectrum(bins: Tensor) -> Tensor:
    """Transform of a Hann window, 1 at 0, over distance in units of 1 / its length."""
    return torch.sinc(bins) + 0.5 * (torch.sinc(bins - 1) + torch.sinc(bins + 1))
