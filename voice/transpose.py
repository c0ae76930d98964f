"""The mel of a voice with its harmonics moved and its formants kept, frame by frame.

Each frame's log spectrum is a smooth envelope plus what is left, its fine structure (the cepstral
source-filter model). The fine structure alone is stretched along the frequency axis. That is rough
as sound, but a converter that learnt from such mels hears the right pitch in them.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from voice.mel import MelConfig, mel_bank

_CUT = 0.55  # of a pitch period: what changes faster along the frequency axis is fine structure
_LOWEST_S, _HIGHEST_S = 0.0012, 0.006  # of that cut
_RATIOS = (0.2, 5.0)


def transposed_mel(
    samples: Float[Tensor, "B N"],
    ratio: Float[Tensor, " B"],
    f0_hz: Float[Tensor, " B"],
    config: MelConfig | None = None,
) -> Float[Tensor, "B M T"]:
    """Natural log of the mel power with pitch times `ratio`; a ratio of 1 gives `log_mel`.

    `f0_hz` is about the voice's pitch; it decides what counts as harmonics.
    """
    config = config or MelConfig()
    if bool((ratio < _RATIOS[0]).any()) or bool((ratio > _RATIOS[1]).any()):
        raise ValueError(f"the ratio {ratio.tolist()} is out of range; choose 0.2 to 5")
    power = log_power(samples, config)
    envelope = smoothed(power, f0_hz, config)
    fine = stretched(power - envelope, ratio, outside=0.0)
    return to_mel(envelope + fine, config)


def log_power(
    samples: Float[Tensor, "B N"], config: MelConfig, win_length: int | None = None
) -> Float[Tensor, "B K T"]:
    """Natural log of the power spectrum, the front end's frames; quiet bins are floored."""
    if samples.shape[-1] <= config.n_fft // 2:
        raise ValueError(
            f"{samples.shape[-1]} samples are too few for a spectrogram; "
            f"pad them to more than {config.n_fft // 2}"
        )
    length = config.win_length if win_length is None else win_length
    window = torch.hann_window(length, dtype=samples.dtype, device=samples.device)
    spectrum = torch.stft(
        samples,
        config.n_fft,
        config.hop_length,
        length,
        window,
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    power = spectrum.real.square() + spectrum.imag.square()
    # the mel's floor is for a whole band; a hundredth of it per bin leaves silence as it is
    return torch.log(power + config.floor / 100)


def smoothed(
    power: Float[Tensor, "B K T"], f0_hz: Float[Tensor, " B"], config: MelConfig
) -> Float[Tensor, "B K T"]:
    """The envelope: the log spectrum without what repeats at the pitch or faster."""
    cepstrum = torch.fft.irfft(power, dim=1)  # [B, n_fft, T]
    count = cepstrum.shape[1]
    quefrency_s = torch.arange(count, device=power.device, dtype=power.dtype) / config.sample_rate
    quefrency_s = torch.minimum(quefrency_s, count / config.sample_rate - quefrency_s)
    cut_s = (_CUT / f0_hz.clamp(min=1.0)).clamp(_LOWEST_S, _HIGHEST_S)[:, None]
    # from 1 at 0.7 of the cut to 0 at 1.3 of it
    place = ((quefrency_s / cut_s - 0.7) / 0.6).clamp(0, 1)
    lifter = 0.5 + 0.5 * torch.cos(torch.pi * place)
    smooth: Tensor = torch.fft.rfft(cepstrum * lifter[..., None], dim=1).real
    return smooth


def stretched(
    spectrum: Float[Tensor, "B K T"], ratio: Float[Tensor, " B"], outside: float | None = None
) -> Float[Tensor, "B K T"]:
    """What was at f now at ratio * f; beyond the last bin `outside`, or the last bin held."""
    count = spectrum.shape[1]
    bins = torch.arange(count, device=spectrum.device, dtype=spectrum.dtype)
    place = bins / ratio.to(spectrum)[:, None]  # [B, K]
    lower = place.floor().clamp(max=count - 1)
    share = (place - lower).clamp(max=1.0)[..., None]
    low = lower.long()
    high = (low + 1).clamp(max=count - 1)
    rows = torch.arange(len(spectrum), device=spectrum.device)[:, None]
    moved = torch.lerp(spectrum[rows, low], spectrum[rows, high], share)
    if outside is None:
        return moved
    return torch.where((place > count - 1)[..., None], outside, moved)


def to_mel(power: Float[Tensor, "B K T"], config: MelConfig) -> Float[Tensor, "B M T"]:
    """The log-mel of a log power spectrum."""
    bank = _bank(config, power.dtype, power.device)
    linear = (power.exp() - config.floor / 100).clamp(min=0.0)
    return torch.log(torch.einsum("km,bkt->bmt", bank, linear) + config.floor)


def median_pitch(
    f0: Float[Tensor, "B T"], silence: Float[Tensor, "B T"] | None = None
) -> Float[Tensor, " B"]:
    """Median pitch of the voiced frames in Hz; 0 where there is none.

    Voiced is what has a pitch of at least 50 Hz and, if `silence` is given, a logit below 0.
    """
    voiced = f0 >= 50.0
    if silence is not None:
        voiced &= silence < 0
    rows = [row[keep] for row, keep in zip(f0, voiced, strict=True)]
    return torch.stack([row.median() if len(row) else row.new_zeros(()) for row in rows])


@lru_cache(maxsize=8)
def _bank(config: MelConfig, dtype: torch.dtype, device: torch.device) -> Tensor:
    return mel_bank(config).to(device, dtype)
