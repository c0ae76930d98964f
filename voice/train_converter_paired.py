"""Supervised training of the converter, for little data and a small computer.

The networks are StarGANv2-VC's. What they learn from are pairs with a known answer: a clip as
another speaker might have said it (`voice.perturb`) and the clip, and a clip of one speaker and
what a teacher makes of it in the voice of another (`voice.converter_parallel`). Late in the
training a judge of patches, which knows the speakers' recordings, sharpens the mels. A network that
knows speakers may say how like the wanted one conversions are (YourTTS, Casanova et al. 2022).
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voice.converter_colour import Colours, begin_with, find_colours
from voice.converter_pairs import PairBatch
from voice.converter_parallel import ParallelClips
from voice.hearing_net import HearingNet
from voice.jdc import F0Net
from voice.losses_spectral import mel_loss
from voice.patch_judge import Judged, PatchJudge, feature_loss, judge_loss
from voice.speaker_net import SpeakerNet
from voice.stargan import Generator, MappingNetwork, StarganConfig, StyleEncoder
from voice.train_converter_step import freeze
from voice.train_previews import save_mels
from voice.train_run import Run, apply_gradients

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairWeights:
    """Weights of the losses."""

    slope: float = 0.5  # of the mel's differences between neighbouring bands and frames
    colour: float = 0.05  # of the style's first entries
    pitch: float = 0.1  # reading a style's pitch
    features: float = 0.5  # of the judge
    adversarial: float = 0.05
    unlike: float = 0.1  # how unlike the wanted speaker conversions are
    misheard: float = 0.5  # how else conversions are heard than what is said


@dataclass(frozen=True)
class PairedTraining:
    """Settings of one run; it ends after `steps` or `minutes`, whichever comes first."""

    steps: int = 20_000
    minutes: float | None = None  # of all calls together; the rate falls toward their end
    batch: int = 8
    frames: int = 128
    reference_frames: int = 128
    learning_rate: float = 1.5e-3
    judge_rate: float = 4e-4
    warm_up: int = 30
    weight_decay: float = 1e-4
    ema: float = 0.995
    largest_norm: float = 2.0
    own: int = 3  # of the batch: clips to be found again; the others are the teacher's
    judged_from: float = 0.5  # share of the run
    seed: int = 0
    save_every: int = 100
    halves: bool = False  # compute in bfloat16, on processors that have it; weights stay whole
    weights: PairWeights = field(default_factory=PairWeights)

    def __post_init__(self) -> None:
        if min(self.frames, self.reference_frames) < 80 or self.frames % 4:
            raise ValueError(
                f"reference_frames={self.reference_frames} and frames={self.frames} must be at "
                "least 80, frames a multiple of 4"
            )
        if not 1 <= self.own < self.batch:
            raise ValueError(f"batch={self.batch} must be above own={self.own}, and that above 0")

    def progress(self, step: int, spent_s: float) -> float:
        """Share of the run that is done."""
        share = step / self.steps
        return share if self.minutes is None else max(share, spent_s / (60 * self.minutes))


@dataclass(frozen=True, eq=False)
class PairNets:
    """The networks that learn, those that help, and what reads a style's pitch."""

    generator: Generator
    mapping_network: MappingNetwork
    style_encoder: StyleEncoder
    style_pitch: nn.Linear  # style to log2 Hz
    judge: PatchJudge
    pitch: F0Net
    speakers: SpeakerNet | None = None  # frozen
    hearing: HearingNet | None = None  # frozen

    @classmethod
    def fresh(cls, config: StarganConfig, speakers: int, pitch: F0Net) -> PairNets:
        """Untrained networks around a trained one."""
        freeze(pitch)
        generator, reads = Generator(config), nn.Linear(config.style_dim, 1)
        last = generator.to_out[-1]
        assert isinstance(last, nn.Conv2d)
        with torch.no_grad():
            # begin near `Generator.coloured`
            last.weight *= 0.3
        nn.init.constant_(reads.bias, math.log2(160.0))
        return cls(
            *(generator, MappingNetwork(config), StyleEncoder(config), reads),
            *(PatchJudge(speakers), pitch),
        )

    def converters(self) -> dict[str, nn.Module]:
        """What the product is made of."""
        return {
            "generator": self.generator,
            "mapping_network": self.mapping_network,
            "style_encoder": self.style_encoder,
            "style_pitch": self.style_pitch,
        }


Figures = dict[str, float]


def styles(nets: PairNets, batch: PairBatch) -> Float[Tensor, "B S"]:
    """Styles heard in the references, some drawn from the mapping network instead."""
    heard = nets.style_encoder(batch.reference, batch.domain)
    if not bool(batch.is_drawn.any()):
        return torch.as_tensor(heard)
    drawn = nets.mapping_network(batch.latent, batch.domain)
    return torch.where(batch.is_drawn[:, None], drawn, heard)


def paired_loss(
    nets: PairNets, batch: PairBatch, config: PairedTraining
) -> tuple[Float[Tensor, ""], Figures, Float[Tensor, "B 1 M T"], Float[Tensor, "B S"]]:
    """The supervised loss, its figures, and the conversions and styles that it is of."""
    style = styles(nets, batch)
    with torch.no_grad():
        feature = nets.pitch.feature(batch.heard)
    fake = nets.generator(batch.heard, style, feature)
    off = nets.style_pitch(style)[:, 0] - batch.log2_hz
    each = (fake - batch.wanted).abs().mean(dim=(1, 2, 3)).detach()
    figures = {
        "mel": float(each[: config.own].mean()),
        "across": float(each[config.own :].mean()),
        "octaves": float(off.abs().mean().detach()),
    }
    loss = mel_loss(fake, batch.wanted, config.weights.slope)
    return loss + config.weights.pitch * off.abs().mean(), figures, fake, style


def fooling_loss(
    nets: PairNets, batch: PairBatch, fake: Float[Tensor, "B 1 M T"], config: PairedTraining
) -> tuple[Float[Tensor, ""], Figures]:
    """What the judge has against the conversions; only the clips' own answers are recordings."""
    own, weights = config.own, config.weights
    nets.judge.requires_grad_(False)
    real = nets.judge(batch.wanted[:own], batch.speaker[:own])
    seen = nets.judge(fake, batch.speaker)
    nets.judge.requires_grad_(True)
    ours = Judged(seen.logits[:own], tuple(layer[:own] for layer in seen.features))
    features = weights.features * feature_loss(real, ours)
    fooled = -weights.adversarial * seen.logits.mean()
    return features + fooled, {"features": float(features.detach())}


def step(
    nets: PairNets,
    clips: ParallelClips,
    config: PairedTraining,
    optimizers: dict[str, torch.optim.AdamW],
    number: int,
    progress: float,
    colours: Colours | None,
    *,
    generator: torch.Generator,
) -> Figures:
    """One batch: the converter, and from `judged_from` on the judge."""
    batch = clips.mixed(
        *(config.own, config.batch, config.frames, config.reference_frames),
        nets.generator.config.latent_dim,
        generator=generator,
    )
    with _halves(config):
        loss, figures, fake, style = paired_loss(nets, batch, config)
    if colours is not None:
        known = colours.components[batch.reference_clip]
        off = (style[:, : known.shape[1]] - known).abs().mean()
        figures["colour"] = float(off.detach())
        loss = loss + config.weights.colour * off
    if nets.speakers is not None:
        with _halves(config):
            unlike = 1 - nets.speakers.likeness(fake, batch.speaker).float().mean()
        figures["unlike"] = float(unlike.detach())
        loss = loss + config.weights.unlike * unlike
    if nets.hearing is not None and batch.sounds is not None:
        with _halves(config):
            misheard = nets.hearing.misheard(fake[-len(batch.sounds) :], batch.sounds)
        figures["misheard"] = float(misheard.detach())
        loss = loss + config.weights.misheard * misheard
    is_judged = progress >= config.judged_from
    if is_judged:
        with _halves(config):
            more, found = fooling_loss(nets, batch, fake, config)
        loss = loss + more
        figures |= found
    loss.backward()  # type: ignore[no-untyped-call]
    rate = config.learning_rate * _shape(progress) * min(1.0, (number + 1) / config.warm_up)
    done = apply_gradients(optimizers["converter"], rate, config.largest_norm)
    figures["skipped"] = float(not done)
    if is_judged:
        with _halves(config):
            real = nets.judge(batch.wanted[: config.own], batch.speaker[: config.own])
            judged = judge_loss(real, nets.judge(fake.detach(), batch.speaker))
        judged.backward()  # type: ignore[no-untyped-call]
        apply_gradients(optimizers["judge"], config.judge_rate * _shape(progress), 5.0)
        figures["judge"] = float(judged.detach())
    return figures


def _halves(config: PairedTraining) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=config.halves)


def _shape(progress: float) -> float:
    """A cosine from 1 to 1/100 over the run."""
    return max(0.01, 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)))


def train_paired(
    clips: ParallelClips,
    nets: PairNets,
    folder: Path,
    config: PairedTraining,
    begin: Callable[[dict[str, nn.Module]], object] | None = None,
) -> dict[str, nn.Module]:
    """The averaged converter after the run, which goes on from its last checkpoint.

    `begin` may fill the fresh networks with those of a converter.
    """
    converters = nets.converters()
    colours = None
    if nets.generator.config.residual:
        start = torch.Generator().manual_seed(config.seed)
        count = nets.generator.config.style_dim // 2
        colours = find_colours(clips.clips, count, generator=start)
        begin_with(colours, nets.generator, nets.style_encoder, nets.mapping_network)
    if begin is not None:
        begin(converters)
        colours = None  # its styles have their own, which another corpus would give other numbers
    averaged = {n: copy.deepcopy(x).requires_grad_(False).eval() for n, x in converters.items()}
    colour = list(nets.generator.bands.parameters()) if nets.generator.config.residual else []
    known = {id(p) for p in colour}
    learning = [p for n in converters.values() for p in n.parameters() if id(p) not in known]
    groups: list[dict[str, object]] = [{"params": learning}]
    if colour:
        # a single layer, which moves the whole mel and may move faster
        groups.append({"params": colour, "share": 2.0})
    optimizers = {
        "converter": torch.optim.AdamW(
            groups, config.learning_rate, (0.9, 0.99), weight_decay=config.weight_decay
        ),
        "judge": torch.optim.AdamW(nets.judge.parameters(), config.judge_rate, (0.5, 0.99)),
    }
    generator = torch.Generator().manual_seed(config.seed)
    run = Run(folder, {**converters, "judge": nets.judge}, optimizers, averaged, generator)
    if run.resume():
        log.info("going on from step %d", run.step)
    started, before = time.monotonic(), run.spent_s
    shown = clips.mixed(
        *(1, 4, config.frames, config.reference_frames),
        nets.generator.config.latent_dim,
        generator=torch.Generator().manual_seed(1),
    )
    total: Figures = {}
    since = 0
    while (progress := config.progress(run.step, run.spent_s)) < 1:
        figures = step(
            nets, clips, config, optimizers, run.step, progress, colours, generator=generator
        )
        for name, value in figures.items():
            total[name] = total.get(name, 0.0) + value
        since += 1
        run.step += 1
        run.average(config.ema)
        run.spent_s = before + time.monotonic() - started
        if run.step % 20 == 0 or run.step in (1, config.steps):
            means = {name: value / since for name, value in total.items()}
            run.record(means)
            log.info("step %d: %s", run.step, {n: round(v, 4) for n, v in means.items()})
            total, since = {}, 0
        if run.step % config.save_every == 0 or run.step == config.steps:
            run.save()
            preview(averaged, nets, shown, folder / "preview.png")
    run.save()
    preview(averaged, nets, shown, folder / "preview.png")
    return averaged


@torch.no_grad()
def preview(averaged: dict[str, nn.Module], nets: PairNets, batch: PairBatch, path: Path) -> None:
    """A picture: what is heard, what is made of it, the answer, what it is in the next voice."""
    style = averaged["style_encoder"](batch.reference, batch.domain)
    feature = nets.pitch.feature(batch.heard)
    fake = averaged["generator"](batch.heard, style, feature)
    other = averaged["generator"](batch.heard, style.roll(1, dims=0), feature)
    save_mels([x[:, 0] for x in (batch.heard, fake, batch.wanted, other)], path)
