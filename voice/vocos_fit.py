"""Spectra brought to a mel: what a sound made of frames must be to measure as the mel says.

A spectrum per frame says too much: frames overlap by three quarters, so frames whose phases do not
agree cancel where they meet, and the sum no longer has the power that the frames had. Projecting
in turn on what some sound has (Griffin and Lim 1984) and on the mel's power, a few times, leaves a
sound that agrees with itself and with the mel. Every step is differentiable.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from voice.mel import MelConfig, mel_bank

OVERLAP = 4  # frames that each sample lies in
BACK = OVERLAP - 1  # frames before a frame that share samples with it
_LEAST = 1e-6  # power of a band; 10 dB under the mel's own floor
_FURTHEST = 6.0  # nepers; what one step may change a band's power by


def fitted(
    spectrum: Float[Tensor, "B T K 2"],
    log_power: Float[Tensor, "B T M"],
    bank: Float[Tensor, "K M"],
    interpolation: Float[Tensor, "M K"],
    strength: float | Float[Tensor, ""] = 1.0,
    pooling: Float[Tensor, "M M"] | None = None,
) -> Float[Tensor, "B T K 2"]:
    """Spectra with gains, smooth over frequency, that bring each band's power to the mel's.

    A strength above 1 goes further than that, as far again as the share above it. With `pooling`
    the powers of neighbouring bands are compared, not each band's own.
    """
    real, imaginary = spectrum.unbind(-1)
    power = (real.square() + imaginary.square()) @ bank
    wanted = (log_power.exp() - MelConfig().floor).clamp(min=_LEAST)
    if pooling is not None:
        power, wanted = power @ pooling, wanted @ pooling
    off = (wanted / (power + _LEAST)).log().clamp(-_FURTHEST, _FURTHEST)
    gain = (strength / 2 * (off @ interpolation)).exp()
    return spectrum * gain[..., None]


def agreeing(
    spectrum: Float[Tensor, "B T K 2"], ahead: int, back: int = BACK
) -> Float[Tensor, "B C K 2"]:
    """Spectra of the sum of the frames, as far as frame t and `ahead` more tell it.

    The first `back` frames and the last `ahead` are context alone, C = T - back - ahead; `back` is
    at most 3. Frames that are not there count as silent.
    """
    count = spectrum.shape[1] - back - ahead
    n_fft = 2 * (spectrum.shape[2] - 1)
    window, weight = _window_and_weight(n_fft, ahead, back, spectrum.dtype, spectrum.device)
    frames = torch.fft.irfft(torch.view_as_complex(spectrum.contiguous()), n_fft) * window
    parts = frames.unflatten(2, (OVERLAP, -1))  # [B, T, 4, hop]
    sound = parts[:, back : back + count].clone()
    for shift in [*range(-back, 0), *range(1, ahead + 1)]:
        # of frames that begin so many hops after this one
        before, after = max(0, shift), max(0, -shift)
        other = parts[:, back + shift : back + shift + count, after : OVERLAP - before]
        sound[:, :, before : OVERLAP - after] += other
    return torch.view_as_real(torch.fft.rfft(sound.flatten(2) * weight))


@lru_cache(maxsize=32)
def _window_and_weight(
    n_fft: int, ahead: int, back: int, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """A frame's window, and the window over what the frames around it add up to."""
    window = torch.hann_window(n_fft, dtype=dtype, device=device)
    hop = n_fft // OVERLAP
    weight = torch.zeros_like(window)
    for shift in range(-back, ahead + 1):
        before, after = max(0, shift) * hop, max(0, -shift) * hop
        weight += F.pad(window.square()[after : n_fft - before], (before, after))
    return window, window / weight.clamp(min=1e-4)


def refined(
    spectrum: Float[Tensor, "B T K 2"],
    log_power: Float[Tensor, "B T M"],
    bank: Float[Tensor, "K M"],
    interpolation: Float[Tensor, "M K"],
    strengths: Float[Tensor, " R"],
    looking_ahead: int,
    pooling: Float[Tensor, "M M"] | None = None,
) -> Float[Tensor, "B T K 2"]:
    """Spectra fitted to the mel, made to agree and fitted again, once for each strength.

    The first `looking_ahead` rounds see one frame after each, the others none.
    """
    spectrum = fitted(spectrum, log_power, bank, interpolation, 1.0, pooling)
    for number, strength in enumerate(strengths.unbind()):
        ahead = int(number < looking_ahead)
        there = F.pad(spectrum, (0, 0, 0, 0, BACK, ahead))
        there = agreeing(there, ahead)
        spectrum = fitted(there, log_power, bank, interpolation, strength, pooling)
    return spectrum


@lru_cache(maxsize=8)
def bank_of_frames(mel: MelConfig, n_fft: int) -> Float[Tensor, "K M"]:
    """The mel's bank for spectra of `n_fft` points instead of the mel's own padded ones."""
    bank = mel_bank(mel)
    own = torch.arange(len(bank), dtype=torch.float64) / mel.n_fft
    place = torch.arange(n_fft // 2 + 1, dtype=torch.float64) / n_fft
    left = (place * mel.n_fft).floor().long().clamp(max=len(bank) - 2)
    share = ((place - own[left]) * mel.n_fft)[:, None]
    density = mel.n_fft / n_fft  # fewer bins share the same power
    return ((1 - share) * bank[left] + share * bank[left + 1]).float() * density


@lru_cache(maxsize=8)
def pooling_of_bands(mel: MelConfig, reach_hz: float) -> Float[Tensor, "M M"]:
    """Weights that add up bands within this distance, near ones more, those of a column summing 1.

    Wider than the distance of harmonics it leaves a mel's envelope and takes its pitch away.
    """
    bank = mel_bank(mel)
    hertz = torch.arange(len(bank), dtype=torch.float64) * mel.sample_rate / mel.n_fft
    centres = (bank * hertz[:, None]).sum(0) / bank.sum(0)
    near = (1 - (centres[:, None] - centres).abs() / reach_hz).clamp(min=0.0)
    return (near / near.sum(0)).float()
