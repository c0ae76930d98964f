"""Distances between sounds by their spectrograms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from voice.audio import SAMPLE_RATE
from voice.mel import log_mel

WINDOWS = (256, 768, 1536)  # samples; each is moved by a quarter of itself
_MEL_KNEE_HZ = 700.0
_FLOOR = 1e-4  # of the magnitude, before the logarithm; recordings' own noise is above


def magnitudes(
    samples: Float[Tensor, "B N"], windows: Sequence[int] = WINDOWS
) -> list[Float[Tensor, "B K T"]]:
    """Magnitude spectrograms, white noise of variance 1 giving about 1 at every window."""
    found = []
    for size in windows:
        window = torch.hann_window(size, dtype=samples.dtype, device=samples.device)
        spectrum = torch.stft(
            samples, size, size // 4, size, window, center=True, return_complex=True
        )
        # the gradient of a magnitude at zero is not finite
        power = spectrum.real.square() + spectrum.imag.square()
        found.append((power / window.square().sum() + 1e-12).sqrt())
    return found


def spectral_distance(
    first: Sequence[Float[Tensor, "B _ _"]],
    second: Sequence[Float[Tensor, "B _ _"]],
    scales: Sequence[Float[Tensor, "B 1 1"]],
) -> Float[Tensor, ""]:
    """Mean of |a - b| / scale and |ln a - ln b| over windows, frames and bins as the ear has them.

    Bins weigh by the share of the basilar membrane that they take, the mel scale's slope.
    """
    total = first[0].new_zeros(())
    for a, b, scale in zip(first, second, scales, strict=True):
        hertz = torch.linspace(0, SAMPLE_RATE / 2, a.shape[1], device=a.device, dtype=a.dtype)
        weight = 1 / (1 + hertz / _MEL_KNEE_HZ)
        weight = (weight / weight.mean())[:, None]
        total = total + ((a - b).abs() * weight / scale).mean()
        total = total + (((a + _FLOOR).log() - (b + _FLOOR).log()).abs() * weight).mean()
    return total / len(first)


def sound_distance(
    real: Float[Tensor, "B N"], made: Float[Tensor, "B N"], windows: Sequence[int] = WINDOWS
) -> Float[Tensor, ""]:
    """Distance of a sound to a recording by their spectrograms, each recording counting alike."""
    spectra = magnitudes(real, windows)
    scales = [s.mean(dim=(1, 2), keepdim=True) + 1e-3 for s in spectra]
    return spectral_distance(spectra, magnitudes(made, windows), scales)


def peak_excess(real: Float[Tensor, "B N"], made: Float[Tensor, "B N"]) -> Float[Tensor, ""]:
    """How much further than a recording a sound goes from 0, by fourth-power means; 0 if less."""
    reach = [(x.pow(4).mean(dim=1) + 1e-12).pow(0.25) for x in (real, made)]
    return (reach[1] / (reach[0] + 1e-3) - 1).clamp(min=0).mean()


def mel_distance(real: Float[Tensor, "B N"], other: Float[Tensor, "B N"]) -> float:
    """Mean difference of the published log-mels in dB, for reports."""
    off = (log_mel(real) - log_mel(other)).abs().mean()
    return float(off) * 10 / math.log(10)


def mel_loss(
    made: Float[Tensor, "B 1 M T"], wanted: Float[Tensor, "B 1 M T"], slope: float
) -> Float[Tensor, ""]:
    """Mean absolute difference of mels, and `slope` times that of their differences both ways."""
    off = made - wanted
    return off.abs().mean() + slope * (
        off.diff(dim=-1).abs().mean() + off.diff(dim=-2).abs().mean()
    )
