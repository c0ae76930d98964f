"""Train the vocoder: sound from mels.

The loss compares spectrograms at several resolutions as the ear weighs them. Discriminators can
join from a step on (`--adversarial-from`).
"""

from __future__ import annotations

import argparse
import copy
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from voice.corpus import Corpus
from voice.losses_adversarial import WaveJudge, convincing_loss, feature_loss, judge_loss
from voice.losses_spectral import peak_excess, sound_distance
from voice.mel import denormalised, log_mel, normalised
from voice.shipped import save_net
from voice.train_crops import Batch, blurred, clip_weights, draw_crops
from voice.train_options import add_net_options
from voice.train_previews import save_mels, save_sounds
from voice.train_run import Run, apply_gradients
from voice.training_loop import descend
from voice.vocos import Filters, Vocos, VocosConfig, filled, gaussian_targets
from voice.vocos_source import excitations, frame_phases, overlap_add, spectra

log = logging.getLogger(__name__)

_PREVIEW_FRAMES = 240
_EDGE = 2  # frames


@dataclass(frozen=True)
class VocoderTraining:
    """Settings of one run."""

    steps: int = 60_000
    batch: int = 4
    frames: int = 72  # of a crop
    pitch_batch: int = 12  # further crops that the pitch alone is learnt from
    learning_rate: float = 1e-3
    warm_up: int = 200
    decay_share: float = 0.6
    weight_decay: float = 1e-4
    ema: float = 0.998
    blurred_share: float = 0.35  # of crops whose mel is as smooth as a converter's
    narrow_share: float = 0.3  # how often, for its length, sound without a top octave is drawn
    pitch_weight: float = 0.3
    mel_weight: float = 1.0
    peak_weight: float = 0.5
    adversarial_from: int = 0  # 0: never
    adversarial_weight: float = 0.1
    seed: int = 0
    save_every: int = 250


def made_of(
    net: Vocos, filters: Filters, f0: Float[Tensor, "B T"], *, generator: torch.Generator
) -> Float[Tensor, "B N"]:
    """The sound of filters at a known pitch, with noise that is drawn."""
    hop, n_fft = net.config.hop_length, net.config.n_fft
    pitch_hz, voiced = filled(f0)
    frames = torch.arange(f0.shape[1])
    pulses, _ = excitations(pitch_hz, voiced, frame_phases(pitch_hz, hop), frames, hop)
    noise = torch.randn(pulses.shape, generator=generator).to(pulses)
    out = net.spectrum(filters, spectra(pulses, n_fft, hop), spectra(noise, n_fft, hop))
    return overlap_add(net.refined(out, filters), n_fft, hop)


def pitch_loss(
    net: Vocos,
    logits: Float[Tensor, "B T P"],
    voicing: Float[Tensor, "B T"],
    f0: Float[Tensor, "B T"],
) -> Float[Tensor, ""]:
    """Cross-entropy of the pitch where voiced, and of voicing everywhere."""
    voiced = (f0 > 0).to(voicing)
    targets = gaussian_targets(f0, net.config)
    entropy = -(targets * logits.log_softmax(-1)).sum(-1)
    pitch = (entropy * voiced).sum() / voiced.sum().clamp(min=1)
    return pitch + F.binary_cross_entropy_with_logits(voicing, voiced)


def loss_of(
    net: Vocos,
    batch: Batch,
    config: VocoderTraining,
    others: Batch | None = None,
    *,
    generator: torch.Generator,
) -> tuple[Float[Tensor, ""], dict[str, float], Float[Tensor, "B N"]]:
    """Training loss, figures for the log, and the sound that was made.

    Of `others` the pitch alone is learnt, which costs little.
    """
    mel = blurred(batch.mel, config.blurred_share, generator=generator)
    filters = net.filters(mel, batch.f0)
    made = made_of(net, filters, batch.f0, generator=generator)
    # at the ends of a crop the frames that share its samples are missing
    inside = slice(_EDGE * net.config.hop_length, -_EDGE * net.config.hop_length)
    distance = sound_distance(batch.samples[:, inside], made[:, inside])
    peaks = peak_excess(batch.samples[:, inside], made[:, inside])
    wanted = denormalised(batch.mel).transpose(1, 2)
    fitted = (filters.log_power - wanted).abs().mean()
    logits, voicing, f0 = filters.pitch_logits, filters.voicing_logit, batch.f0
    if others is not None:
        more = blurred(others.mel, config.blurred_share, generator=generator)
        _, more_logits, more_voicing = net.heard(more)
        logits, voicing = torch.cat([logits, more_logits]), torch.cat([voicing, more_voicing])
        f0 = torch.cat([f0, others.f0])
    pitch = pitch_loss(net, logits, voicing, f0)
    parts = {"spectral": distance, "mel": fitted, "peaks": peaks, "pitch": pitch}
    figures = {name: float(part.detach()) for name, part in parts.items()}
    loss = distance + config.pitch_weight * pitch + config.mel_weight * fitted
    loss = loss + config.peak_weight * peaks
    return loss, figures, made


@torch.no_grad()
def preview(net: Vocos, corpus: Corpus, folder: Path, clips: int = 3) -> None:
    """Mels of held-out clips above those of their resynthesis, and the sounds."""
    chosen = (corpus.indices(held_out=True) or corpus.indices(held_out=False))[:clips]
    rows = []
    for index in chosen:
        samples = corpus.samples(index)[None, : _PREVIEW_FRAMES * 300]
        samples = F.pad(samples, (0, max(0, _PREVIEW_FRAMES * 300 - samples.shape[1])))
        mel = normalised(log_mel(samples))[..., :_PREVIEW_FRAMES]
        rows.append((mel, net(mel)))
    made = [sound for _, sound in rows]
    again = torch.cat([normalised(log_mel(sound))[..., :_PREVIEW_FRAMES] for sound in made])
    save_mels([torch.cat([mel for mel, _ in rows]), again], folder / "preview.png")
    save_sounds(made, folder, "preview")


@dataclass(frozen=True, eq=False)
class Rival:
    """The discriminators and what trains them."""

    judge: WaveJudge
    optimizer: torch.optim.AdamW

    @classmethod
    def of(cls, config: VocoderTraining) -> Rival:
        """Untrained ones, the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1)
            judge = WaveJudge()
        return cls(judge, torch.optim.AdamW(judge.parameters(), 2e-4, (0.8, 0.99)))

    def learn(self, real: Float[Tensor, "B N"], made: Float[Tensor, "B N"]) -> float:
        """One step of the discriminators; their loss."""
        loss = judge_loss(self.judge(real), self.judge(made))
        loss.backward()  # type: ignore[no-untyped-call]
        apply_gradients(self.optimizer, None, 10.0)
        return float(loss.detach())

    def loss(self, real: Float[Tensor, "B N"], made: Float[Tensor, "B N"]) -> Float[Tensor, ""]:
        """The vocoder's: to convince, with features as in the recording."""
        self.judge.requires_grad_(False)
        with torch.no_grad():
            wanted = self.judge(real)
        found = self.judge(made)
        self.judge.requires_grad_(True)
        return convincing_loss(found) + 2 * feature_loss(wanted, found)


def train(
    corpus: Corpus,
    folder: Path,
    config: VocoderTraining,
    sizes: VocosConfig,
    *,
    minutes: float | None = None,
    export: Path | None = None,
) -> Vocos:
    """The averaged vocoder after `config.steps`, or when `minutes` of this call are over.

    Writes checkpoint, loss.csv and previews into the folder and goes on from what lies there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = Vocos(sizes)
    averaged = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        net.parameters(), config.learning_rate, (0.85, 0.99), weight_decay=config.weight_decay
    )
    generator = torch.Generator().manual_seed(config.seed)
    run = Run(folder, {"vocoder": net}, {"vocoder": optimizer}, {"vocoder": averaged}, generator)
    rival = Rival.of(config) if config.adversarial_from else None
    if rival is not None:
        # a run that began without discriminators may be given them later
        run.nets = {**run.nets, "judge": rival.judge}
        run.optimizers = {**run.optimizers, "judge": rival.optimizer}
    if run.resume():
        log.info("going on from step %d", run.step)
    indices = corpus.indices(held_out=False)
    weights = clip_weights(corpus, indices, config.narrow_share)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = draw_crops(
            corpus, indices, weights, config.frames, config.batch, generator=generator
        )
        others = draw_crops(
            corpus, indices, weights, config.frames, config.pitch_batch, generator=generator
        )
        found, figures, made = loss_of(net, batch, config, others, generator=generator)
        if rival is not None and step >= config.adversarial_from:
            figures["judge"] = rival.learn(batch.samples, made.detach())
            found = found + config.adversarial_weight * rival.loss(batch.samples, made)
        return found, figures

    def keep() -> None:
        preview(averaged, corpus, folder)
        if export is not None:
            save_net(averaged, export)

    descend(run, "vocoder", loss, config, minutes=minutes, row_every=50, keep=keep)
    return averaged.eval()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m voice.train vocoder`."""
    defaults = VocoderTraining()
    add_net_options(parser, "vocoder", defaults)
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--frames", type=int, default=defaults.frames, help="of a crop")
    parser.add_argument("--rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--adversarial-from", type=int, default=0, help="step; 0: never")
    parser.add_argument("--save-every", type=int, default=defaults.save_every)


def run(options: argparse.Namespace) -> None:
    """Train, and ship if asked."""
    from voice.shipped import ship

    torch.set_num_threads(options.threads)
    corpus = Corpus.open(options.corpus)
    config = VocoderTraining(
        steps=options.steps,
        batch=options.batch,
        frames=options.frames,
        learning_rate=options.rate,
        adversarial_from=options.adversarial_from,
        seed=options.seed,
        save_every=options.save_every,
    )
    net = train(
        corpus,
        options.run,
        config,
        VocosConfig(),
        minutes=options.minutes,
        export=options.export,
    )
    if options.ship:
        ship("vocoder", lambda path: save_net(net, path), corpus, options.run, options.seed)
