"""Distances between sounds by their spectrograms, fair to noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from voice.mel import log_mel

WINDOWS = (128, 256, 512, 1024, 2048)  # samples; each is moved by a quarter of itself
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
    """Mean of |a - b| / scale and |ln a - ln b| over windows, bins and frames."""
    total = first[0].new_zeros(())
    for a, b, scale in zip(first, second, scales, strict=True):
        total = total + ((a - b).abs() / scale).mean()
        total = total + ((a + _FLOOR).log() - (b + _FLOOR).log()).abs().mean()
    return total / len(first)


def energy_distance(
    real: Float[Tensor, "B N"],
    draw: Float[Tensor, "B N"],
    other_draw: Float[Tensor, "B N"],
    windows: Sequence[int] = WINDOWS,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Generalised energy distance of two draws to a recording, and their plain distance to it.

    What the draws differ in among themselves is taken off (Gritsenko et al. 2020, equation 3). A
    plain distance is least for the median spectrum, which has no noise in it and buzzes; this one
    is least when noise is as loud and as random as in the recording.
    """
    spectra = [magnitudes(signal, windows) for signal in (real, draw, other_draw)]
    scales = [s.mean(dim=(1, 2), keepdim=True) + 1e-3 for s in spectra[0]]
    mels = [log_mel(signal) for signal in (real, draw, other_draw)]

    def distance(i: int, j: int) -> Tensor:
        return spectral_distance(spectra[i], spectra[j], scales) + (mels[i] - mels[j]).abs().mean()

    plain = (distance(0, 1) + distance(0, 2)) / 2
    return 2 * plain - distance(1, 2), plain.detach()


def mel_distance(real: Float[Tensor, "B N"], other: Float[Tensor, "B N"]) -> float:
    """Mean difference of the published log-mels in dB, for reports."""
    off = (log_mel(real) - log_mel(other)).abs().mean()
    return float(off) * 10 / math.log(10)
