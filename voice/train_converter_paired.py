"""Supervised training of the converter, for little data and a small computer.

The networks are StarGANv2-VC's. What they learn from are pairs with a known answer: a clip as
another speaker might have said it (`voice.perturb`), or as the network itself converts it, and the
clip. Late in the training a judge of patches sharpens the mels, and clips of other speakers, for
which no answer is known, must come out with the same sounds in the asked style.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voice.converter_colour import Colours, begin_with, find_colours
from voice.converter_pairs import PairBatch, PairedClips
from voice.jdc import F0Net
from voice.mel import denormalised
from voice.patch_judge import PatchJudge, feature_loss, judge_loss
from voice.phoneme_net import PhonemeNet
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
    style: float = 0.2  # of clips without an answer
    sounds: float = 0.05


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
    converted_from: float = 0.25  # share of the run after which own conversions are heard as well
    converted_share: float = 0.35  # of the batch
    judged_from: float = 0.65
    unpaired: int = 2  # clips without an answer in a batch, from `judged_from` on
    seed: int = 0
    save_every: int = 100
    weights: PairWeights = field(default_factory=PairWeights)

    def __post_init__(self) -> None:
        if self.batch < 2 or min(self.frames, self.reference_frames) < 80 or self.frames % 4:
            raise ValueError(
                f"batch={self.batch} must be at least 2, reference_frames={self.reference_frames} "
                f"and frames={self.frames} at least 80, frames a multiple of 4"
            )

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
    sounds: PhonemeNet | None

    @classmethod
    def fresh(
        cls, config: StarganConfig, speakers: int, pitch: F0Net, sounds: PhonemeNet | None
    ) -> PairNets:
        """Untrained networks around trained ones."""
        freeze(pitch)
        if sounds is not None:
            freeze(sounds)
        generator, reads = Generator(config), nn.Linear(config.style_dim, 1)
        last = generator.to_out[-1]
        assert isinstance(last, nn.Conv2d)
        with torch.no_grad():
            # begin near `Generator.coloured`
            last.weight *= 0.3
        nn.init.constant_(reads.bias, math.log2(160.0))
        return cls(
            *(generator, MappingNetwork(config), StyleEncoder(config), reads),
            *(PatchJudge(speakers), pitch, sounds),
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


def reconstruction(
    fake: Float[Tensor, "B 1 M T"], wanted: Float[Tensor, "B 1 M T"], slope: float
) -> Float[Tensor, ""]:
    """L1 of the mels, and of their differences along both axes."""
    off = fake - wanted
    terms = off.abs().mean() + slope * (
        off.diff(dim=-1).abs().mean() + off.diff(dim=-2).abs().mean()
    )
    return terms


@torch.no_grad()
def converted_first(
    nets: PairNets, batch: PairBatch, style: Float[Tensor, "B S"], share: float
) -> Float[Tensor, "B 1 M T"]:
    """What is heard, the first items of it converted into the voices of other items."""
    count = round(share * len(style))
    if count == 0:
        return batch.heard
    heard = batch.heard[:count]
    other = style.detach().roll(1, dims=0)[:count]
    converted = nets.generator(heard, other, nets.pitch.feature(heard))
    return torch.cat([converted, batch.heard[count:]])


def paired_loss(
    nets: PairNets, batch: PairBatch, config: PairedTraining, progress: float
) -> tuple[Float[Tensor, ""], Figures, Float[Tensor, "B 1 M T"], Float[Tensor, "B S"]]:
    """The supervised loss, its figures, and the conversions and styles that it is of."""
    style = styles(nets, batch)
    share = config.converted_share if progress >= config.converted_from else 0.0
    heard = converted_first(nets, batch, style, share)
    with torch.no_grad():
        feature = nets.pitch.feature(heard)
    fake = nets.generator(heard, style, feature)
    off = nets.style_pitch(style)[:, 0] - batch.log2_hz
    figures = {
        "mel": float((fake - batch.wanted).abs().mean().detach()),
        "octaves": float(off.abs().mean().detach()),
    }
    loss = reconstruction(fake, batch.wanted, config.weights.slope)
    return loss + config.weights.pitch * off.abs().mean(), figures, fake, style


def unpaired_loss(
    nets: PairNets,
    clips: PairedClips,
    batch: PairBatch,
    style: Float[Tensor, "B S"],
    config: PairedTraining,
    *,
    generator: torch.Generator,
) -> tuple[Float[Tensor, ""], Figures, Float[Tensor, "U 1 M T"]]:
    """Clips of anyone in the batch's last styles: the same sounds, and heard as that style."""
    count = config.unpaired
    style, domain = style[-count:].detach(), batch.domain[-count:]
    source, heard = clips.sources(batch.log2_hz[-count:], config.frames, generator=generator)
    with torch.no_grad():
        feature = nets.pitch.feature(heard)
    fake = nets.generator(heard, style, feature)
    # a judgement, not a lesson: the encoder must not learn to hear what the generator makes
    nets.style_encoder.requires_grad_(False)
    found = nets.style_encoder(fake, domain)
    nets.style_encoder.requires_grad_(True)
    parts = {"style": config.weights.style * F.l1_loss(found, style)}
    if nets.sounds is not None:
        with torch.no_grad():
            said = nets.sounds(denormalised(source[:, 0])).softmax(dim=1)
        logits = nets.sounds(denormalised(fake[:, 0]))
        parts["sounds"] = config.weights.sounds * F.cross_entropy(logits, said)
    figures = {name: float(part.detach()) for name, part in parts.items()}
    return torch.stack(list(parts.values())).sum(), figures, fake


def step(
    nets: PairNets,
    clips: PairedClips,
    config: PairedTraining,
    optimizers: dict[str, torch.optim.AdamW],
    number: int,
    progress: float,
    colours: Colours | None,
    *,
    generator: torch.Generator,
) -> Figures:
    """One batch: the converter, and from `judged_from` on the judge."""
    batch = clips.batch(
        *(config.batch, config.frames, config.reference_frames),
        nets.generator.config.latent_dim,
        generator=generator,
    )
    loss, figures, fake, style = paired_loss(nets, batch, config, progress)
    if colours is not None:
        known = colours.components[batch.reference_clip]
        off = (style[:, : known.shape[1]] - known).abs().mean()
        figures["colour"] = float(off.detach())
        loss = loss + config.weights.colour * off
    is_judged = progress >= config.judged_from
    if is_judged:
        weights = config.weights
        more, found, other = unpaired_loss(nets, clips, batch, style, config, generator=generator)
        nets.judge.requires_grad_(False)
        real = nets.judge(batch.wanted, batch.speaker)
        seen = nets.judge(fake, batch.speaker)
        free = nets.judge(other, batch.speaker[-config.unpaired :])
        nets.judge.requires_grad_(True)
        features = weights.features * feature_loss(real, seen)
        fooled = -weights.adversarial * (seen.logits.mean() + free.logits.mean()) / 2
        loss = loss + more + features + fooled
        figures |= found | {"features": float(features.detach())}
    loss.backward()  # type: ignore[no-untyped-call]
    rate = config.learning_rate * _shape(progress) * min(1.0, (number + 1) / config.warm_up)
    done = apply_gradients(optimizers["converter"], rate, config.largest_norm)
    figures["skipped"] = float(not done)
    if is_judged:
        everything = torch.cat([fake, other]).detach()
        whose = torch.cat([batch.speaker, batch.speaker[-config.unpaired :]])
        judged = judge_loss(nets.judge(batch.wanted, batch.speaker), nets.judge(everything, whose))
        judged.backward()  # type: ignore[no-untyped-call]
        apply_gradients(optimizers["judge"], config.judge_rate * _shape(progress), 5.0)
        figures["judge"] = float(judged.detach())
    return figures


def _shape(progress: float) -> float:
    """A cosine from 1 to 1/100 over the run."""
    return max(0.01, 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)))


def train_paired(
    clips: PairedClips, nets: PairNets, folder: Path, config: PairedTraining
) -> dict[str, nn.Module]:
    """The averaged converter after the run, which goes on from its last checkpoint."""
    converters = nets.converters()
    colours = None
    if nets.generator.config.residual:
        start = torch.Generator().manual_seed(config.seed)
        count = nets.generator.config.style_dim // 2
        colours = find_colours(clips, count, generator=start)
        begin_with(colours, nets.generator, nets.style_encoder, nets.mapping_network)
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
    shown = clips.batch(
        *(4, config.frames, config.reference_frames),
        nets.generator.config.latent_dim,
        named_share=1.0,
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
