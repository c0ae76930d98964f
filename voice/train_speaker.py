"""Train the network that knows speakers, on the clips that the converter learns from."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

import torch

from voice.converter_pairs import PairedClips
from voice.speaker_net import SpeakerNet, recordings
from voice.train_converter_step import freeze
from voice.train_run import Run, apply_gradients

log = logging.getLogger(__name__)

_BATCH, _FRAMES = 40, 128
_RATE, _WARM_UP = 2e-3, 50


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
    started, before = time.monotonic(), run.spent_s
    while (progress := run.spent_s / (60 * minutes)) < 1:
        mel, speaker = recordings(clips, _BATCH, _FRAMES, generator=generator)
        loss, known = net.loss(mel, speaker)
        loss.backward()  # type: ignore[no-untyped-call]
        falling = 0.5 + 0.5 * math.cos(math.pi * progress)
        apply_gradients(optimizer, _RATE * falling * min(1.0, (run.step + 1) / _WARM_UP), 5.0)
        run.step += 1
        run.spent_s = before + time.monotonic() - started
        if run.step % 50 == 0:
            run.record({"loss": float(loss.detach()), "known": known})
            log.info("speakers, step %d: loss %.3f, known %.2f", run.step, float(loss), known)
    run.save()
    freeze(net)
    return net
