"""Random pieces of a corpus, each with its mel and pitch, for all trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from voice.corpus import Corpus
from voice.mel import MelConfig, log_mel, normalised

_MARGIN = 4  # frames beside a crop that its mel sees
_RANGE_DB = (-14.0, 5.0)  # of a random gain


@dataclass(frozen=True, eq=False)
class Batch:
    """B crops of T frames."""

    samples: Float[Tensor, "B N"]  # 300 a frame
    mel: Float[Tensor, "B M T"]  # normalised
    f0: Float[Tensor, "B T"]  # Hz, 0 where unvoiced
    clips: Int[Tensor, " B"]  # which clip of the corpus
    starts: Int[Tensor, " B"]  # the clip's frame with which the crop begins

    @classmethod
    def of(cls, samples: Float[Tensor, "1 N"], f0: Float[Tensor, " T"]) -> Batch:
        """A whole clip; its last samples that fill no frame are cut."""
        frames = samples.shape[1] // MelConfig().hop_length
        mel = normalised(log_mel(samples))[..., :frames]
        inside = samples[:, : frames * MelConfig().hop_length]
        zero = torch.zeros(1, dtype=torch.int64)
        return cls(inside, mel, f0[None, :frames], zero, zero)


def draw_crops(
    corpus: Corpus,
    indices: Sequence[int],
    weights: Float[Tensor, " C"],
    frames: int,
    count: int,
    *,
    generator: torch.Generator,
) -> Batch:
    """Crops of clips chosen by weight, anywhere in the clip, at a random loudness.

    Mels of crops inside a clip are those of the clip. Clips too short are put into silence.
    """
    chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
    clips = torch.tensor(indices)[chosen]
    rows, curves, starts = [], [], []
    hop = MelConfig().hop_length
    wide = frames + 2 * _MARGIN
    for clip in clips.tolist():
        samples, f0 = corpus.samples(clip), corpus.f0(clip)
        room = max(0, len(samples) // hop - wide)
        first = int(torch.randint(room + 1, (1,), generator=generator))
        starts.append(first + _MARGIN)
        row = samples[first * hop : (first + wide) * hop]
        curve = f0[first : first + wide]
        rows.append(torch.nn.functional.pad(row, (0, wide * hop - len(row))))
        curves.append(torch.nn.functional.pad(curve, (0, wide - len(curve))))
    samples = torch.stack(rows)
    low, high = _RANGE_DB
    gain_db = low + (high - low) * torch.rand(count, 1, generator=generator)
    gain = 10 ** (gain_db / 20)
    loudest = samples.abs().amax(dim=1, keepdim=True)
    samples = samples * torch.minimum(gain, 0.98 / loudest.clamp(min=1e-3))
    mel = normalised(log_mel(samples))[..., _MARGIN : _MARGIN + frames]
    inside = samples[:, _MARGIN * hop : (_MARGIN + frames) * hop]
    f0 = torch.stack(curves)[:, _MARGIN : _MARGIN + frames]
    return Batch(inside, mel, f0, clips, torch.tensor(starts))


def clip_weights(
    corpus: Corpus, indices: Sequence[int], narrow_share: float = 1.0
) -> Float[Tensor, " C"]:
    """How often each clip is drawn: by its length; rates under 22 kHz by this share of it."""
    weights = [
        corpus.clips[i].seconds * (1.0 if corpus.clips[i].top_hz >= 11_000 else narrow_share)
        for i in indices
    ]
    return torch.tensor(weights)


def noisy(batch: Batch, share: float, *, generator: torch.Generator) -> Float[Tensor, "B M T"]:
    """The batch's mels, this share of them as in a noisy room: 5 to 30 dB of noise, and echo."""
    chosen = (torch.rand(len(batch.mel), generator=generator) < share).nonzero()[:, 0]
    if not len(chosen):
        return batch.mel
    samples = batch.samples[chosen]
    level = samples.square().mean(dim=1, keepdim=True).sqrt()
    count = samples.shape[1]
    noise = torch.randn(samples.shape, generator=generator)
    # between white and brown
    slope = torch.rand(len(chosen), 1, generator=generator)
    hertz = torch.fft.rfftfreq(count, 1 / MelConfig().sample_rate).clamp(min=50.0)
    noise = torch.fft.irfft(torch.fft.rfft(noise) * (hertz / 50.0) ** -slope, count)
    noise = noise / noise.square().mean(dim=1, keepdim=True).sqrt()
    ratio_db = 5 + 25 * torch.rand(len(chosen), 1, generator=generator)
    reach = MelConfig().sample_rate // 5
    times = torch.arange(reach) / MelConfig().sample_rate
    decay_s = 0.02 + 0.06 * torch.rand(len(chosen), 1, generator=generator)
    echo = torch.randn(len(chosen), reach, generator=generator) * torch.exp(-times / decay_s)
    wet = 0.5 * torch.rand(len(chosen), 1, generator=generator)
    echo = echo * (wet / echo.square().sum(dim=1, keepdim=True).sqrt())
    echo[:, 0] += 1
    size = count + reach
    room = torch.fft.irfft(torch.fft.rfft(samples, size) * torch.fft.rfft(echo, size), size)
    mixed = room[:, :count] + noise * level * 10 ** (-ratio_db / 20)
    mel = batch.mel.clone()
    mel[chosen] = normalised(log_mel(mixed))[..., : mel.shape[-1]]
    return mel


def blurred(
    mel: Float[Tensor, "B M T"], share: float, *, generator: torch.Generator
) -> Float[Tensor, "B M T"]:
    """The mels, this share of them as smooth and as uncertain as a network's.

    Smoothed over up to 2 frames and 1.5 bands (one standard deviation), and off by up to 0.08.
    """
    count = len(mel)
    chosen = torch.rand(count, 1, 1, generator=generator) < share
    out = mel
    for axis, widest in ((2, 2.0), (1, 1.5)):
        width = 0.2 + widest * torch.rand(count, 1, generator=generator).square()
        taps = torch.exp(-0.5 * (torch.arange(-4, 5) / width).square())
        taps = (taps / taps.sum(1, keepdim=True)).to(mel)
        pad = (4, 4, 0, 0) if axis == 2 else (0, 0, 4, 4)
        shape = (count, 1, 1, 9) if axis == 2 else (count, 1, 9, 1)
        padded = torch.nn.functional.pad(out[None], pad, mode="replicate")
        out = torch.nn.functional.conv2d(padded, taps.reshape(shape), groups=count)[0]
    off = 0.08 * torch.rand(count, 1, 1, generator=generator)
    out = out + (off * torch.randn(mel.shape, generator=generator)).to(mel)
    return torch.where(chosen.to(mel.device), out, mel)
