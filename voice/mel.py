"""The log-mel spectrogram that converter, pitch network, recogniser and vocoder share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

N_MELS = 80
MEAN, SPREAD = -4.0, 4.0  # of the natural log over speech; fixed by the published weights


@dataclass(frozen=True)
class MelConfig:
    """Front end of the published StarGANv2-VC and of its vocoder.

    `bank_rate_hz` is the rate for which the bank's triangles were laid out. Its 16 kHz, on sound
    of 24 kHz, is a slip in the published system which puts every band 1.5 times higher than
    `f_max_hz` says; all released weights depend on it.
    """

    sample_rate: int = 24_000  # Hz
    n_fft: int = 2048
    win_length: int = 1200  # samples, centred in n_fft
    hop_length: int = 300  # samples; 12.5 ms
    n_mels: int = N_MELS
    f_min_hz: float = 0.0
    f_max_hz: float = 8_000.0
    bank_rate_hz: int = 16_000
    floor: float = 1e-5  # added to the power before the logarithm

    def __post_init__(self) -> None:
        if not 0 < self.win_length <= self.n_fft:
            raise ValueError(f"win_length={self.win_length} must be 1..n_fft={self.n_fft}")
        if not 0 < self.hop_length <= self.win_length:
            raise ValueError(f"hop_length={self.hop_length} must be 1..{self.win_length}")
        if not 0 <= self.f_min_hz < self.f_max_hz <= self.bank_rate_hz / 2:
            raise ValueError(
                f"f_min_hz={self.f_min_hz} and f_max_hz={self.f_max_hz} must rise within "
                f"0..{self.bank_rate_hz / 2}"
            )
        if self.n_mels < 1 or self.sample_rate < 1 or self.floor <= 0:
            raise ValueError("n_mels, sample_rate and floor must be positive")


def log_mel(
    samples: Float[Tensor, "B N"], config: MelConfig | None = None
) -> Float[Tensor, "B M T"]:
    """Natural log of the mel power, 1 + N // hop_length frames, the first centred on sample 0.

    Differentiable everywhere, silence included (ln floor). The signal must be longer than half of
    n_fft, as its ends are mirrored.
    """
    config = config or MelConfig()
    half = config.n_fft // 2
    if samples.shape[-1] <= half:
        raise ValueError(
            f"{samples.shape[-1]} samples are too few for a spectrogram; "
            f"pad them to more than {half}"
        )
    window = torch.hann_window(config.win_length, dtype=samples.dtype, device=samples.device)
    spectrum = torch.stft(
        samples,
        config.n_fft,
        config.hop_length,
        config.win_length,
        window,
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )  # [B, n_fft/2 + 1, T]
    power = spectrum.real.square() + spectrum.imag.square()  # abs() has no gradient at silence
    bank = mel_bank(config).to(samples)
    return torch.log(torch.einsum("km,bkt->bmt", bank, power) + config.floor)


def normalised(mel: Float[Tensor, "*B M T"]) -> Float[Tensor, "*B M T"]:
    """The log-mel as the networks take it: (x + 4) / 4, about -1.88 for silence."""
    return (mel - MEAN) / SPREAD


def denormalised(mel: Float[Tensor, "*B M T"]) -> Float[Tensor, "*B M T"]:
    """The natural log-mel of what `normalised` returns."""
    return mel * SPREAD + MEAN


@lru_cache(maxsize=8)
def mel_bank(config: MelConfig) -> Float[Tensor, "K M"]:
    """Triangles of height 1 on the HTK mel scale, float64; the same tensor each time."""
    bins_hz = np.linspace(0, config.bank_rate_hz / 2, config.n_fft // 2 + 1)
    ends_mel = 2595 * np.log10(1 + np.array([config.f_min_hz, config.f_max_hz]) / 700)
    points_hz = 700 * (10 ** (np.linspace(ends_mel[0], ends_mel[1], config.n_mels + 2) / 2595) - 1)
    widths = np.diff(points_hz)
    rising = (bins_hz[:, None] - points_hz[:-2]) / widths[:-1]
    falling = (points_hz[2:] - bins_hz[:, None]) / widths[1:]
    return torch.from_numpy(np.maximum(0, np.minimum(rising, falling)))
