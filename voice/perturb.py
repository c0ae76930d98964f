"""Mels of a clip as if another speaker had said it: inputs for a converter whose answer is known.

Formants, colour, channel and noise change; time and melody stay (information perturbation, as in
NANSY, Choi et al. 2021). The pitch is what `transpose.transposed_mel` makes of a speaker with
another one: it is at the clip's, but the harmonics are as sharp or blurred as they come out there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from voice.mel import N_MELS, MelConfig
from voice.transpose import log_power, smoothed, stretched, to_mel


@dataclass(frozen=True)
class Perturbation:
    """How far a clip is changed; ratios are drawn evenly on the logarithmic scale."""

    formants: float = 1.38  # at most times and divided by
    pitch: float = 1.9  # of the imagined speaker to the clip's
    lowest_hz: float = 75.0  # of the imagined speaker
    highest_hz: float = 330.0
    colour: float = 1.0  # deviation of the random equaliser's knots, natural log of power
    knots: int = 6
    narrow_share: float = 0.5  # as recorded at 16 kHz
    noise_share: float = 0.35
    noise_db: tuple[float, float] = (-80.0, -48.0)  # of the clip's loudest band

    def __post_init__(self) -> None:
        if self.formants < 1 or self.pitch < 1 or self.knots < 2:
            raise ValueError("formants and pitch must be at least 1, knots at least 2")


def perturbed_mel(
    samples: Float[Tensor, "B N"],
    f0_hz: Float[Tensor, " B"],
    config: Perturbation,
    *,
    generator: torch.Generator,
) -> Float[Tensor, "B M T"]:
    """Natural-log mels of the signals in random other voices, frame for frame."""
    mel = MelConfig()
    count = len(samples)
    formants = _ratio(count, config.formants, generator)
    pitch = _ratio(count, config.pitch, generator)
    hz = f0_hz.clamp(min=50.0)
    imagined = (hz * pitch).clamp(config.lowest_hz, config.highest_hz)
    pitch = (imagined / hz).clamp(1 / config.pitch, config.pitch)
    envelope = smoothed(log_power(samples, mel), hz * pitch, mel)
    envelope = stretched(envelope, formants)
    rows = []
    for row, ratio, own in zip(samples, pitch.tolist(), hz, strict=True):
        # a speaker `ratio` times as high, brought back to this pitch, is seen through a window
        # that is so much longer against the period
        length = min(mel.n_fft, 2 * round(mel.win_length * ratio / 2))
        power = log_power(row[None], mel, length)
        fine = power - smoothed(power, own[None], mel)
        fine[:, math.ceil(fine.shape[1] / max(1.0, ratio)) :] = 0.0
        rows.append(fine)
    made = to_mel(envelope + torch.cat(rows), mel)
    return through_channel(made, config, generator=generator)


def through_channel(
    mel: Float[Tensor, "B M T"], config: Perturbation, *, generator: torch.Generator
) -> Float[Tensor, "B M T"]:
    """Natural-log mels as other microphones and rooms would have them, some of 16 kHz."""
    count = len(mel)
    knots = config.colour * torch.randn(count, 1, config.knots, generator=generator)
    curve = F.interpolate(knots, size=N_MELS, mode="linear", align_corners=True)
    mel = mel + curve[:, 0, :, None]
    loudest = mel.amax(dim=(1, 2), keepdim=True)
    low, high = config.noise_db
    level_db = low + (high - low) * torch.rand(count, 1, 1, generator=generator)
    slope = 2 * torch.rand(count, 1, 1, generator=generator) - 1.5  # falling, more often
    tilt = slope * torch.linspace(0, 3, N_MELS)[:, None]
    draw = torch.rand(mel.shape, generator=generator).clamp(min=1e-4)
    # the power of noise in a band is about exponentially distributed
    noise = loudest + level_db * math.log(10) / 10 + tilt + torch.log(-torch.log(draw) + 1e-3)
    is_noisy = torch.rand(count, 1, 1, generator=generator) < config.noise_share
    mel = torch.where(is_noisy, torch.logaddexp(mel, noise), mel)
    narrow = torch.rand(count, 1, 1, generator=generator) < config.narrow_share
    top = torch.arange(N_MELS)[:, None] >= _first_band_over(8_000.0)
    return torch.where(narrow & top, math.log(MelConfig().floor), mel)


def _first_band_over(hertz: float) -> int:
    mel = MelConfig()
    as_banked = hertz * mel.bank_rate_hz / mel.sample_rate
    ends = [2595 * math.log10(1 + f / 700) for f in (mel.f_min_hz, mel.f_max_hz)]
    place = (2595 * math.log10(1 + as_banked / 700) - ends[0]) / (ends[1] - ends[0])
    return round(place * (mel.n_mels + 1))


def _ratio(count: int, most: float, generator: torch.Generator) -> Tensor:
    return torch.exp(math.log(most) * (2 * torch.rand(count, generator=generator) - 1))
