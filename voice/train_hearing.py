"""Train the network that hears, on clips of all speakers and on what teachers make of them."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from voice.converter_parallel import ParallelClips
from voice.hearing_net import HearingNet
from voice.train_converter_step import freeze
from voice.train_run import Run, apply_gradients

log = logging.getLogger(__name__)

_BATCH, _FRAMES = 16, 128
_RATE, _WARM_UP = 2e-3, 50
_NAMED_SHARE = 0.3  # of the clips that are planned voices'
_LOUDER = 1.0  # at most, in normalised units; 17 dB


def hearing_sounds(
    clips: ParallelClips, folder: Path, *, minutes: float, frames: int = _FRAMES, seed: int = 0
) -> HearingNet:
    """The frozen network after so many minutes in all; a run that is there goes on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = HearingNet(sum(teacher.sounds.out_features for teacher in clips.teachers))
    optimizer = torch.optim.AdamW(net.parameters(), _RATE, (0.9, 0.99), weight_decay=0.02)
    generator = torch.Generator().manual_seed(seed)
    run = Run(folder, {"hearing": net}, {"hearing": optimizer}, generator=generator)
    run.resume()
    started, before = time.monotonic(), run.spent_s
    while (progress := run.spent_s / (60 * minutes)) < 1:
        misheard = net.misheard(*heard(clips, frames, generator=generator))
        misheard.backward()  # type: ignore[no-untyped-call]
        falling = 0.5 + 0.5 * math.cos(math.pi * progress)
        apply_gradients(optimizer, _RATE * falling * min(1.0, (run.step + 1) / _WARM_UP), 5.0)
        run.step += 1
        run.spent_s = before + time.monotonic() - started
        if run.step % 50 == 0:
            run.record({"misheard": float(misheard.detach())})
            log.info("hearing, step %d: misheard %.3f", run.step, float(misheard.detach()))
    run.save()
    freeze(net)
    return net


@torch.no_grad()
def heard(
    clips: ParallelClips, frames: int, *, generator: torch.Generator
) -> tuple[Float[Tensor, "B 1 M T"], Float[Tensor, "B T S"]]:
    """Pieces of clips and of teachers' conversions, some smooth or noisy, and what is said there.

    Conversions are smoother than recordings; no smoothness may count as a sound.
    """
    half = _BATCH // 2
    said, own, _ = clips.said.batch(half, frames, _NAMED_SHARE, generator=generator)
    louder = _LOUDER * (2 * torch.rand(half, 1, 1, 1, generator=generator) - 1)
    made = clips.batch(half, frames, frames, 1, generator=generator)
    assert made.sounds is not None
    mel = torch.cat([own + louder, made.wanted])
    sounds = torch.cat([clips.told(said), made.sounds])
    share = torch.rand(_BATCH, 1, 1, 1, generator=generator)
    smooth = F.avg_pool2d(mel, 3, 1, 1, count_include_pad=False)
    mel = torch.lerp(mel, smooth, share)
    return mel + 0.05 * torch.randn(mel.shape, generator=generator), sounds
