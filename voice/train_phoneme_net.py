"""Train the phoneme network: sounds of mels, for lips from sound alone.

`render` makes speech with known sounds (voice/phoneme_corpus.py); `train` learns from it with
rooms, noise, telephones, microphones and speakers put in; `real` writes recordings with text,
aligned by the network that was learnt so far, into the same folder for more of `train`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.signal import lfilter
from torch import Tensor, nn

from assets.errors import AssetError
from assets.store import PACKAGE, register
from voice.phoneme_corpus import Labelled, read_shard, real_clips, render, write_shard
from voice.phoneme_measure import figures_of
from voice.phoneme_net import MEL, SHIPPED, PhonemeNet, load_phoneme_net, save_phoneme_net
from voice.train_run import Run
from voice.training_loop import descend

log = logging.getLogger(__name__)

_FLOOR = MEL.floor
_OFTEN = {"real": 4.0, "hibari": 2.0, "flite": 2.0}


@dataclass(frozen=True)
class TrainConfig:
    """How long and on how much at once; the rest of the recipe is in the code."""

    steps: int = 6_000
    batch: int = 16
    frames: int = 320  # 4 s
    learning_rate: float = 2.5e-3
    warm_up: int = 100
    decay_share: float = 0.6
    ema: float = 0.995
    weight_decay: float = 0.01
    smoothing: float = 0.05  # of the targets: rendered borders are not that certain
    seed: int = 0
    save_every: int = 100


class Crops:
    """Batches of stretched, spoilt pieces of clips."""

    def __init__(self, clips: Sequence[Labelled], config: TrainConfig) -> None:
        self._clips = clips
        self._config = config
        lengths = torch.tensor([clip.mel.shape[1] for clip in clips], dtype=torch.float64)
        # recordings are few and real: they are heard more often than their length says
        often = [_OFTEN.get(clip.kind.split("/")[0], 1.0) for clip in clips]
        self._weights = lengths * torch.tensor(often)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Log-mels [B, 80, T] and sounds [B, T]."""
        config = self._config
        chosen = torch.multinomial(
            self._weights, config.batch, replacement=True, generator=generator
        )
        pieces = [self._piece(self._clips[k], generator) for k in chosen.tolist()]
        mel = torch.stack([piece[0] for piece in pieces])
        return spoilt(mel, generator), torch.stack([piece[1] for piece in pieces])

    def _piece(self, clip: Labelled, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        count = self._config.frames
        chance = torch.rand(4, generator=generator).tolist()
        # slower or faster; now and then as slow as singing
        rate = 2.0 ** (-0.35 + 0.7 * chance[0]) if chance[1] > 0.1 else 0.3 + 0.3 * chance[0]
        span = round(count * rate)
        # a piece may begin before its clip or end after it: silence is heard there
        start = int(chance[2] * (clip.mel.shape[1] - span * 0.6) - span * 0.2)
        at = start + torch.arange(count) * rate
        inside = (at >= 0) & (at <= clip.mel.shape[1] - 1)
        at = at.clamp(0, clip.mel.shape[1] - 1)
        low = at.floor().long()
        high = (low + 1).clamp_max(clip.mel.shape[1] - 1)
        share = (at - low).float()
        mel = torch.lerp(clip.mel[:, low].float(), clip.mel[:, high].float(), share)
        # a vocal tract of another length: the mel axis stretched
        bands = (torch.arange(80) * (0.92 + 0.16 * chance[3])).clamp_max(79)
        mel = torch.lerp(mel[bands.long()], mel[bands.ceil().long()], bands.frac()[:, None])
        mel = torch.where(inside, mel, torch.full_like(mel, np.log(_FLOOR)))
        return mel, torch.where(inside, clip.sounds[at.round().long()], 0)


def spoilt(mel: Float[Tensor, "B 80 T"], generator: torch.Generator) -> Float[Tensor, "B 80 T"]:
    """Mels as a room, noise, another speaker, a microphone, a telephone and gaps leave them."""
    count, bands, frames = mel.shape

    def chance(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    power = (mel.exp() - _FLOOR).clamp_min(0.0)
    for k in torch.nonzero(chance(count) < 0.4).flatten().tolist():
        # reverberation adds what was heard before, falling by 60 dB in 0.12 to 0.7 s
        fall = 10.0 ** (-6.0 * 0.0125 / (0.12 + 0.58 * float(chance(1))))
        wet = 10.0 ** (-0.4 - 1.4 * float(chance(1))) * (1.0 - fall)
        tail = lfilter([0.0, wet], [1.0, -fall], power[k].numpy(), axis=1)
        power[k] += torch.from_numpy(tail.astype(np.float32))
    level = power.mean(dim=(1, 2), keepdim=True)
    axis = torch.linspace(-1.0, 1.0, bands)
    # noise of a random colour, rough from frame to frame, 0 to 50 dB below the speech
    color = 10.0 ** ((chance(count, 1, 1) - 0.7) * 2.0 * axis[:, None])
    rough = -torch.log(chance(count, bands, frames).clamp_min(1e-6)) * 0.5 + 0.5
    noise = color * rough / color.mean(dim=1, keepdim=True)
    snr_db = 3.0 + 47.0 * chance(count, 1, 1)
    power = power + level * noise * 10.0 ** (-snr_db / 10.0) * (chance(count, 1, 1) < 0.8)
    babble = power.roll(1, 0) / level.roll(1, 0).clamp_min(1e-9) * level
    below_db = 12.0 + 13.0 * chance(count, 1, 1)
    power = power + babble * 10.0 ** (-below_db / 10.0) * (chance(count, 1, 1) < 0.15)
    # microphone: a slope and a few gentle waves over the spectrum
    tilt = 0.8 * (2 * chance(count, 1, 1) - 1) * axis[:, None]
    waves = 1 + 5 * chance(count, 1, 1)
    wave = 0.3 * torch.sin(axis[:, None] * waves + 6.3 * chance(count, 1, 1))
    power = power * 10.0 ** (tilt + wave)
    top = torch.where(chance(count, 1, 1) < 0.35, 44 + 34 * chance(count, 1, 1), 80.0)
    bottom = torch.where(chance(count, 1, 1) < 0.2, 9 * chance(count, 1, 1), -1.0)
    band = torch.arange(bands)[:, None]
    power = power * torch.where((band > top) | (band < bottom), 10.0**-4.5, 1.0)
    power = power * 10.0 ** (1.2 * (2 * chance(count, 1, 1) - 1))
    gaps = chance(count, 1, 1) < 0.08
    begin = frames * chance(count, 1, 1)
    frame = torch.arange(frames)
    power = torch.where(gaps & (frame >= begin) & (frame < begin + 4), 0.0, power)
    return torch.log(power + _FLOOR)


def train(
    clips: Sequence[Labelled], folder: Path, config: TrainConfig, minutes: float | None = None
) -> PhonemeNet:
    """The averaged network after the steps, or after so many minutes; goes on where it stopped."""
    torch.manual_seed(config.seed)  # the initial weights
    net, averaged = PhonemeNet(), PhonemeNet().requires_grad_(False)
    averaged.load_state_dict(net.state_dict())
    optimizer = torch.optim.AdamW(
        net.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        betas=(0.9, 0.98),
    )
    generator = torch.Generator().manual_seed(config.seed)
    progress = Run(folder, {"net": net}, {"net": optimizer}, {"net": averaged}, generator)
    progress.resume()
    crops = Crops(clips, config)

    def loss(_: int) -> tuple[Tensor, dict[str, float]]:
        mel, sounds = crops.draw(generator)
        logits = net.train()(mel)
        found = nn.functional.cross_entropy(logits, sounds, label_smoothing=config.smoothing)
        right = (logits.argmax(1) == sounds).float().mean()
        return found, {"loss": float(found.detach()), "accuracy": float(right)}

    descend(progress, "net", loss, config, minutes=minutes, keep=lambda: None)
    return averaged.eval()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m voice.train phonemes`."""
    parser.add_argument("what", choices=("render", "real", "train", "measure"))
    parser.add_argument("--data", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--run", type=Path, default=Path("out/phonemes"), help="checkpoints")
    parser.add_argument("--recordings", type=Path, help="folder with manifest.csv, for `real`")
    parser.add_argument("--espeak", type=int, default=760, help="clips to render")
    parser.add_argument("--english", type=int, default=80, help="sentences of each other voice")
    parser.add_argument("--steps", type=int, default=TrainConfig.steps)
    parser.add_argument("--minutes", type=float, help="stop in time, at any step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ship", action="store_true", help="put the network into the package")


def run(options: argparse.Namespace) -> None:
    """Do one of the four."""
    torch.set_num_threads(1)
    if options.what == "render":
        render(options.data, options.espeak, options.english, seed=options.seed)
        return
    path = options.run / "phonemes.safetensors"
    if options.what == "real":
        if options.recordings is None:
            raise ValueError("real needs --recordings, a folder with clips and their manifest.csv")
        held, learnt = real_clips(options.recordings, load_phoneme_net(path))
        write_shard(held, options.data / "held-real.safetensors")
        write_shard(learnt, options.data / "train-real.safetensors")
        return
    config = replace(TrainConfig(), steps=options.steps, seed=options.seed)
    if options.what == "train":
        clips = [c for file in _shards(options.data, "train") for c in read_shard(file)]
        save_phoneme_net(train(clips, options.run, config, options.minutes), path)
    held_out = {file.stem: read_shard(file) for file in _shards(options.data, "held")}
    figures = figures_of(load_phoneme_net(path), held_out)
    for name, value in figures.items():
        log.info("%s: %.3f", name, value)
    if options.ship:
        _ship(load_phoneme_net(path), config, figures)


def _ship(net: PhonemeNet, config: TrainConfig, figures: dict[str, float]) -> None:
    register(
        name="phonemes",
        purpose="which sound of speech is heard at each moment, for lips from sound alone",
        licence="MIT",
        attribution=(
            "trained on speech rendered with eSpeak NG, flite and hibari-tts, and on LJSpeech "
            "(public domain)"
        ),
        recipe=(
            f"python -m voice.train phonemes train --steps {config.steps} --ship, after the stages "
            "render, train and real"
        ),
        files=save_phoneme_net(net, PACKAGE / SHIPPED),
        seed=config.seed,
        steps=config.steps,
        figures={name: round(value, 3) for name, value in figures.items()},
    )


def _shards(folder: Path, side: str) -> list[Path]:
    found = sorted(folder.glob(f"{side}-*.safetensors"))
    if not found:
        raise AssetError(
            f"{folder} has no {side}-*.safetensors; make them with: "
            f"python -m voice.train phonemes render --data {folder}"
        )
    return found
