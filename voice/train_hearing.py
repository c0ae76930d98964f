"""Train the network that hears, on clips of all speakers and on what teachers make of them."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from voice.converter_parallel import ParallelClips
from voice.hearing_net import HearingNet
from voice.train_converter_step import freeze
from voice.train_run import Run
from voice.training_loop import descend_for

_BATCH, _FRAMES = 16, 128
_RATE = 2e-3
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

    def loss() -> tuple[Tensor, dict[str, float]]:
        misheard = net.misheard(*heard(clips, frames, generator=generator))
        return misheard, {"misheard": float(misheard.detach())}

    descend_for(run, "hearing", loss, minutes=minutes, rate=_RATE)
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
