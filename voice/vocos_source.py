"""Excitations of the vocoder, pulses and noise, and its STFT, written so that frames can stream."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from voice.audio import SAMPLE_RATE

TOP_HZ = 11_800.0  # no harmonic above


def frame_phases(f0: Float[Tensor, "B T"], hop: int) -> Float[Tensor, "B T"]:
    """Turns, 0..1, at each frame's centre, for a pitch that moves linearly between frames."""
    f0 = f0.double()
    after = torch.cat([f0[:, 1:], f0[:, -1:]], dim=1)
    turns = _turns_within(f0, after, torch.full_like(f0[0, :1], hop), hop)[..., 0]
    return F.pad(turns.cumsum(dim=1)[:, :-1], (1, 0)) % 1.0


def excitations(
    f0: Float[Tensor, "B T"],
    voiced: Float[Tensor, "B T"],
    phases: Float[Tensor, "B T"],
    frames: Int[Tensor, " T"],
    hop: int,
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Pulses, as loud as `voiced` says, and noise, both of unit power density; `hop` a frame.

    `frames` are the frames' numbers in the whole signal, which the noise depends on. The last
    frame's pitch is held to its end.
    """
    after = torch.cat([f0[:, 1:], f0[:, -1:]], dim=1)
    step = torch.arange(hop, device=f0.device, dtype=torch.float64)
    turns = phases[..., None] + _turns_within(f0.double(), after.double(), step, hop)
    turns = (turns - turns.round()).to(f0.dtype)  # [B, T, hop], -0.5..0.5
    count = torch.floor(TOP_HZ / f0).clamp(min=1)[..., None]
    # the sum of cosines 1..count in closed form; where it is 0 / 0 all cosines are 1
    sine = torch.sin(math.pi * turns)
    is_peak = sine.abs() < 1e-5
    ratio = torch.sin((2 * count + 1) * math.pi * turns) / torch.where(is_peak, 1.0, 2 * sine)
    pulses = torch.where(is_peak, count, ratio - 0.5) * torch.sqrt(f0 * 4 / SAMPLE_RATE)[..., None]
    voiced_after = torch.cat([voiced[:, 1:], voiced[:, -1:]], dim=1)
    share = (step / hop).to(f0.dtype)
    loud = voiced[..., None] + (voiced_after - voiced)[..., None] * share
    positions = (frames[:, None] * hop + torch.arange(hop, device=f0.device)).flatten()
    return (pulses * loud).flatten(1), position_noise(positions).to(f0).expand(len(f0), -1)


def position_noise(positions: Int[Tensor, " N"], seed: int = 0) -> Float[Tensor, " N"]:
    """White noise of unit variance that is a fixed function of the sample's number.

    An integer hash (Wellons' lowbias32): streams and whole signals, on any device, hear the same.
    """
    low = 0xFFFFFFFF
    x = (positions + seed * 0x9E3779B1) & low
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & low
    x = ((x ^ (x >> 15)) * 0x846CA68B) & low
    x = x ^ (x >> 16)
    return (x.double() / 2**32 - 0.5).mul(math.sqrt(12.0)).float()


def spectra(
    signal: Float[Tensor, "B N"],
    n_fft: int,
    hop: int,
    *,
    first: bool = True,
    last: bool = True,
) -> Float[Tensor, "B T K 2"]:
    """Hann-windowed spectra of frames centred on samples 0, hop, ...; zeros lie outside.

    Where the signal is not the line's `first` part, the first frame is the first one that lies
    inside, and where it is not its `last`, the last one is.
    """
    padded = F.pad(signal, (n_fft // 2 if first else 0, n_fft // 2 - hop if last else 0))
    frames = padded.unfold(-1, n_fft, hop) * _window(n_fft, signal)
    return torch.view_as_real(torch.fft.rfft(frames))


def overlap_add(spectrum: Float[Tensor, "B T K 2"], n_fft: int, hop: int) -> Float[Tensor, "B N"]:
    """The signal of such spectra, `hop` samples a frame, exact where all frames are there."""
    window = _window(n_fft, spectrum)
    frames = torch.fft.irfft(torch.view_as_complex(spectrum.contiguous()), n_fft) * window
    weights = window.square().expand(frames.shape[1], -1)[None]
    both = torch.cat([frames, weights])
    count = frames.shape[1]
    length = (count - 1) * hop + n_fft
    summed = F.fold(both.transpose(1, 2), (1, length), (1, n_fft), stride=(1, hop))[:, 0, 0]
    inside = summed[:, n_fft // 2 : n_fft // 2 + count * hop]
    return inside[:-1] / inside[-1:]


def _turns_within(start_hz: Tensor, end_hz: Tensor, step: Tensor, hop: int) -> Tensor:
    """Turns made `step` samples after a frame's centre, [B, T, steps]."""
    slope = (end_hz - start_hz)[..., None] / hop
    return (start_hz[..., None] * step + slope * step * (step - 1) / 2) / SAMPLE_RATE


def _window(n_fft: int, like: Tensor) -> Tensor:
    return _made_window(n_fft, like.dtype, like.device)


@lru_cache(maxsize=8)
def _made_window(n_fft: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.hann_window(n_fft, dtype=dtype, device=device)
