"""Train the network that knows speakers, on the clips that the converter learns from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from voice.converter_pairs import PairedClips
from voice.speaker_net import SpeakerNet, recordings
from voice.train_converter_step import freeze
from voice.train_run import Run
from voice.training_loop import descend_for

_BATCH, _FRAMES = 40, 128
_RATE = 2e-3


def knowing_speakers(
    clips: PairedClips, folder: Path, *, minutes: float, seed: int = 0
) -> SpeakerNet:
    """The frozen network after so many minutes in all; a run that is there goes on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SpeakerNet(len(clips.clips))
    optimizer = torch.optim.AdamW(net.parameters(), _RATE, (0.9, 0.99), weight_decay=0.02)
    generator = torch.Generator().manual_seed(seed)
    run = Run(folder, {"speakers": net}, {"speakers": optimizer}, generator=generator)
    run.resume()

    def loss() -> tuple[Tensor, dict[str, float]]:
        mel, speaker = recordings(clips, _BATCH, _FRAMES, generator=generator)
        unlike, known = net.loss(mel, speaker)
        return unlike, {"loss": float(unlike.detach()), "known": known}

    descend_for(run, "speakers", loss, minutes=minutes, rate=_RATE)
    freeze(net)
    return net
