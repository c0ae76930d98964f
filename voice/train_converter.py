"""Train the converter: StarGANv2-VC on the styles of a corpus.

It needs a trained pitch network (stage f0); the published recipe a recogniser (asr) as well, the
paired one a teacher (teacher).
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from assets.weights import write_tensors
from voice.converter_parallel import DETAIL
from voice.corpus import Corpus
from voice.recogniser_sounds import RECOGNISER_HELP
from voice.shipped import ShippedVoice, voices_entry
from voice.stargan import StarganConfig
from voice.train_converter_step import (
    ConverterBatch,
    ConverterNets,
    Phase,
    Weights,
    beta1,
    discriminator_loss,
    generator_loss,
    learners,
)
from voice.train_crops import clip_weights, draw_crops
from voice.train_previews import save_mels
from voice.train_run import Run, apply_gradients

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

AVERAGED = ("generator", "mapping_network", "style_encoder")


@dataclass(frozen=True)
class ConverterTraining:
    """Settings of one run, as published but for the momentum (see `beta1`)."""

    epochs: int = 150
    steps_per_epoch: int = 0  # 0: once through the corpus
    batch: int = 5
    frames: int = 192
    classify_epoch: int = 50
    consistency_epoch: int = 30
    learning_rate: float = 1e-4
    mapping_rate: float = 2e-6
    weight_decay: float = 1e-4
    ema: float = 0.999
    largest_norm: float = 100.0
    seed: int = 0
    save_every: int = 200
    weights: Weights = field(default_factory=Weights)

    def __post_init__(self) -> None:
        if self.batch < 2 or self.frames < 80 or self.frames % 4:
            raise ValueError(
                f"batch={self.batch} must be at least 2, frames={self.frames} a multiple of 4 "
                "of at least 80"
            )

    def phase(self, epoch: int) -> Phase:
        """What is on in an epoch, counted from 0."""
        return Phase(epoch >= self.classify_epoch, epoch >= self.consistency_epoch)


@dataclass(frozen=True, eq=False)
class StyledClips:
    """The clips of a corpus that have a style, by style."""

    corpus: Corpus
    styles: tuple[str, ...]
    clips: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, corpus: Corpus) -> StyledClips:
        """Training clips of every style; ValueError with fewer than two styles."""
        styles = corpus.styles()
        if len(styles) < 2:
            raise ValueError(
                f"the corpus has {len(styles)} styles, a converter needs two; give --speakers a "
                "folder with one sub-folder a speaker, or render some with --render"
            )
        chosen = [
            tuple(i for i in corpus.indices(held_out=False) if corpus.clips[i].style == style)
            for style in styles
        ]
        if empty := [s for s, clips in zip(styles, chosen, strict=True) if not clips]:
            raise ValueError(f"style {empty[0]} has no clip to train on; record more of it")
        return cls(corpus, styles, tuple(chosen))

    def batch(
        self, count: int, frames: int, latent_dim: int, *, generator: torch.Generator
    ) -> ConverterBatch:
        """Sources of random styles, targets of random styles, two references and two latents."""
        source, target = (
            torch.randint(len(self.styles), (count,), generator=generator) for _ in range(2)
        )
        mels = [self._mels(domain, frames, generator) for domain in (source, target, target)]
        first, second = (torch.randn(count, latent_dim, generator=generator) for _ in range(2))
        return ConverterBatch(mels[0], source, target, (mels[1], mels[2]), (first, second))

    def _mels(self, domain: torch.Tensor, frames: int, generator: torch.Generator) -> torch.Tensor:
        rows = []
        for number in domain.tolist():
            clips = self.clips[number]
            weights = clip_weights(self.corpus, clips)
            crop = draw_crops(self.corpus, clips, weights, frames, 1, generator=generator)
            rows.append(crop.mel)
        return torch.stack(rows)


def train(
    corpus: Corpus,
    nets: ConverterNets,
    folder: Path,
    config: ConverterTraining,
    accelerator: Accelerator,
    *,
    minutes: float | None = None,
    export: Path | None = None,
) -> dict[str, nn.Module]:
    """The averaged networks after `config.epochs`, or when `minutes` of this call are over."""
    clips = StyledClips.of(corpus)
    sizes = nets.generator.config
    if sizes.num_domains != len(clips.styles):
        raise ValueError(
            f"num_domains={sizes.num_domains}, but the corpus has {len(clips.styles)} styles"
        )
    device = accelerator.device
    trained = nets.trained()
    for net in (*trained.values(), nets.pitch, nets.recogniser):
        net.to(device)
    averaged = {n: copy.deepcopy(trained[n]).requires_grad_(False).eval() for n in AVERAGED}
    optimizers = {
        name: torch.optim.AdamW(
            net.parameters(),
            config.mapping_rate if name == "mapping_network" else config.learning_rate,
            (beta1(0.0), 0.99),
            eps=1e-9,
            weight_decay=config.weight_decay,
        )
        for name, net in trained.items()
    }
    generator = torch.Generator().manual_seed(config.seed)
    run = Run(folder, trained, optimizers, averaged, generator)
    if run.resume():
        log.info("going on from step %d", run.step)
    per_epoch = config.steps_per_epoch or max(1, sum(map(len, clips.clips)) // config.batch)
    total = per_epoch * config.epochs
    started, before = time.monotonic(), run.spent_s
    shown = clips.batch(4, config.frames, sizes.latent_dim, generator=torch.Generator())
    while run.step < total:
        if minutes is not None and time.monotonic() - started > 60 * minutes:
            break
        momentum = (beta1(run.step / total), 0.99)
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["betas"] = momentum
        batch = _moved(
            clips.batch(config.batch, config.frames, sizes.latent_dim, generator=generator), device
        )
        phase = config.phase(run.step // per_epoch)
        figures = step(nets, batch, phase, config, optimizers, accelerator, generator=generator)
        run.step += 1
        run.average(config.ema)
        run.spent_s = before + time.monotonic() - started
        if run.step % 20 == 0 or run.step in (1, total):
            run.record(_columns(figures))
            log.info("step %d: %s", run.step, {n: round(v, 3) for n, v in figures.items()})
        if run.step % config.save_every == 0 or run.step == total:
            run.save()
            preview(averaged, nets, _moved(shown, device), folder / "preview.png")
            if export is not None:
                save_converter(averaged, sizes, clips.styles, export)
    run.save()
    if export is not None:
        save_converter(averaged, sizes, clips.styles, export)
    return averaged


def step(
    nets: ConverterNets,
    batch: ConverterBatch,
    phase: Phase,
    config: ConverterTraining,
    optimizers: dict[str, torch.optim.AdamW],
    accelerator: Accelerator,
    *,
    generator: torch.Generator,
) -> dict[str, float]:
    """Discriminator, then generator, each with drawn and then with heard styles."""
    figures: dict[str, float] = {"skipped": 0.0}

    def learn(loss: torch.Tensor, names: tuple[str, ...]) -> None:
        accelerator.backward(loss)
        for name in names:
            done = apply_gradients(optimizers[name], None, config.largest_norm)
            figures["skipped"] += not done
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    for latent in (True, False):
        with accelerator.autocast():
            loss, found = discriminator_loss(
                nets, batch, phase, config.weights, latent=latent, generator=generator
            )
        figures |= found
        learn(loss, ("discriminator",))
    for latent in (True, False):
        with accelerator.autocast():
            loss, found = generator_loss(nets, batch, phase, config.weights, latent=latent)
        figures |= found
        learn(loss, learners(latent))
    return figures


@torch.no_grad()
def preview(
    averaged: dict[str, nn.Module], nets: ConverterNets, batch: ConverterBatch, path: Path
) -> None:
    """A picture: sources, their conversions, references of the targets."""
    style = averaged["style_encoder"](batch.references[0], batch.target)
    fake = averaged["generator"](batch.mel, style, nets.pitch.feature(batch.mel))
    save_mels([batch.mel[:, 0], fake[:, 0], batch.references[0][:, 0]], path)


def save_converter(
    averaged: dict[str, nn.Module],
    config: StarganConfig,
    styles: tuple[str, ...],
    path: Path,
    voices: Sequence[ShippedVoice] = (),
) -> list[Path]:
    """The averaged networks in one file, or in shards, with their sizes, styles and voices."""
    tensors = {
        f"{name}.{key}": tensor.half() if tensor.is_floating_point() else tensor
        for name, net in averaged.items()
        for key, tensor in net.state_dict().items()
    }
    named, told = voices_entry(voices)
    sizes = {"sizes": json.dumps(asdict(config)), "styles": json.dumps(styles)}
    return write_tensors(tensors | named, path, sizes | told)


def _columns(figures: dict[str, float]) -> dict[str, float]:
    """The same columns in every row, whatever the schedule has turned on."""
    names = (
        *("d real", "d fake", "r1", "d source", "consistency", "g adversarial", "style"),
        *("diversity", "cycle", "norm", "speech", "f0", "g source", "mean f0", "skipped"),
    )
    return {name: figures.get(name, 0.0) for name in names}


def _moved(batch: ConverterBatch, device: torch.device) -> ConverterBatch:
    first, second = batch.references
    z, other_z = batch.latents
    return ConverterBatch(
        batch.mel.to(device),
        batch.source.to(device),
        batch.target.to(device),
        (first.to(device), second.to(device)),
        (z.to(device), other_z.to(device)),
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m voice.train converter`."""
    defaults = ConverterTraining()
    parser.add_argument("--corpus", type=Path, required=True, help="what the stage corpus wrote")
    parser.add_argument("--run", type=Path, default=Path("out/converter"), help="checkpoints")
    parser.add_argument(
        *("--recipe",),
        choices=("paired", "published"),
        default="paired",
        help="paired: supervised, for small data and computers; published: StarGANv2-VC's losses",
    )
    parser.add_argument("--f0", type=Path, help="pitch network; without it the shipped one")
    parser.add_argument("--asr", type=Path, help="of the recipe published: the stage asr's file")
    parser.add_argument(
        *("--teacher",),
        type=Path,
        action="append",
        default=[],
        help="of the stage teacher, for the recipe paired; the mean of several",
    )
    parser.add_argument(
        "--detail",
        type=float,
        help="of the recipe paired: share of what teachers leave out of a source that is to stay; "
        f"{DETAIL:g} by default",
    )
    parser.add_argument("--recogniser", type=Path, help=RECOGNISER_HELP)
    parser.add_argument("--start", type=Path, help="a converter to start from, by the same recipe")
    parser.add_argument("--steps", type=int, default=20_000, help="of the recipe paired")
    parser.add_argument(
        "--judged-from", type=float, default=0.5, help="share of a run of the recipe paired"
    )
    parser.add_argument("--rate", type=float, default=1.5e-3, help="of the recipe paired")
    parser.add_argument(
        "--own",
        type=int,
        default=3,
        help="of a batch of the recipe paired: clips to be found again",
    )
    parser.add_argument(
        "--heard",
        type=float,
        default=0.0,
        help="minutes in which the recipe paired first trains a network that hears sounds in mels, "
        "and then says how else conversions are heard than what is said; 0: none",
    )
    parser.add_argument(
        "--listen",
        type=float,
        default=0.0,
        help="minutes in which the recipe paired first trains a network that knows speakers, and "
        "then says how like the wanted one conversions are; 0: none",
    )
    parser.add_argument(
        *("--leave-out",),
        action="append",
        default=[],
        help="a corpus that the recipe paired does not learn from, to measure with",
    )
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--steps-per-epoch", type=int, default=defaults.steps_per_epoch)
    parser.add_argument("--classify-epoch", type=int, default=defaults.classify_epoch)
    parser.add_argument("--consistency-epoch", type=int, default=defaults.consistency_epoch)
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--frames", type=int, default=defaults.frames)
    parser.add_argument("--dim", type=int, default=32, help="first width; published: 64")
    parser.add_argument("--max-dim", type=int, default=256, help="widest; published: 512")
    parser.add_argument(
        "--finish", type=int, default=320, help="width of the last frames' network; 0: none"
    )
    parser.add_argument("--precision", choices=("no", "fp16", "bf16"), default="no")
    parser.add_argument("--cpu", action="store_true", help="leave accelerators alone")
    parser.add_argument("--minutes", type=float, help="stop in time, whatever the step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export", type=Path, help="write the averaged networks here")
    parser.add_argument("--ship", action="store_true", help="write them under assets/ at the end")


def run(options: argparse.Namespace) -> None:
    """Train, and ship if asked."""
    from accelerate import Accelerator

    from voice.shipped import load_f0, load_recogniser, ship

    torch.set_num_threads(options.threads)
    if options.recipe == "paired":
        from voice.train_converter_voices import run_paired

        return run_paired(options)
    paired_alone = ("teacher", "recogniser", "detail", "heard", "listen", "start")
    if given := [f"--{name}" for name in paired_alone if getattr(options, name)]:
        raise ValueError(f"the recipe published has no {given[0]}; leave it out")
    if options.asr is None:
        raise ValueError(
            "the recipe published needs --asr FILE, which python -m voice.train asr "
            "--export FILE writes"
        )
    corpus = Corpus.open(options.corpus)
    pitch, recogniser = load_f0(options.f0), load_recogniser(options.asr)
    sizes = StarganConfig(
        dim_in=options.dim,
        max_conv_dim=options.max_dim,
        num_domains=len(corpus.styles()),
        F0_channel=pitch.config.channels[-1],
    )
    config = ConverterTraining(
        epochs=options.epochs,
        steps_per_epoch=options.steps_per_epoch,
        batch=options.batch,
        frames=options.frames,
        classify_epoch=options.classify_epoch,
        consistency_epoch=options.consistency_epoch,
        seed=options.seed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        nets = ConverterNets.fresh(sizes, pitch, recogniser)
    accelerator = Accelerator(mixed_precision=options.precision, cpu=options.cpu)
    averaged = train(
        corpus,
        nets,
        options.run,
        config,
        accelerator,
        minutes=options.minutes,
        export=options.export,
    )
    if options.ship:
        ship(
            "converter",
            lambda path: save_converter(averaged, sizes, corpus.styles(), path),
            corpus,
            options.run,
            options.seed,
        )
