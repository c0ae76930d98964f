"""Train the pitch network: pitch in Hz and voicing of mels."""

from __future__ import annotations

import argparse
import copy
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from voice.corpus import Corpus
from voice.jdc import F0Config, F0Net
from voice.shipped import save_net
from voice.train_crops import Batch, clip_weights, draw_crops, noisy
from voice.train_run import Run, apply_gradients, learning_rate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class F0Training:
    """Settings of one run; loss and rate as published, the network smaller."""

    steps: int = 20_000
    batch: int = 16
    frames: int = 192
    learning_rate: float = 3e-4
    warm_up: int = 100
    decay_share: float = 0.3
    weight_decay: float = 1e-4
    pitch_weight: float = 0.1
    noisy_share: float = 0.4  # crops with noise or a room
    ema: float = 0.999
    seed: int = 0
    save_every: int = 250


def fresh(sizes: F0Config) -> F0Net:
    """An untrained network whose answers are spread like voices' pitch.

    The output is in Hz: from the usual small start, its last layer would need thousands of steps.
    """
    net = F0Net(sizes)
    torch.nn.init.normal_(net.classifier.weight, std=150.0 * net.config.hidden**-0.5)
    torch.nn.init.constant_(net.classifier.bias, 150.0)
    return net


def loss_of(
    net: F0Net, mel: Float[Tensor, "B M T"], f0: Float[Tensor, "B T"], pitch_weight: float
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Smooth L1 of the pitch, 0 Hz where unvoiced, and cross-entropy of silence."""
    given = mel[:, None]
    pitch = F.smooth_l1_loss(net(given).f0, f0)
    silent = F.binary_cross_entropy_with_logits(net.silence(given), (f0 == 0).to(mel))
    figures = {"pitch": float(pitch.detach()), "silence": float(silent.detach())}
    return pitch_weight * pitch + silent, figures


def train(
    corpus: Corpus,
    folder: Path,
    config: F0Training,
    sizes: F0Config,
    *,
    minutes: float | None = None,
    export: Path | None = None,
) -> F0Net:
    """The averaged network after `config.steps`, or when `minutes` of this call are over."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = fresh(sizes)
        averaged = copy.deepcopy(net).requires_grad_(False)
        optimizer = torch.optim.AdamW(
            net.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        generator = torch.Generator().manual_seed(config.seed)
        run = Run(folder, {"f0": net}, {"f0": optimizer}, {"f0": averaged}, generator)
        run.resume()
        indices = corpus.indices(held_out=False)
        weights = clip_weights(corpus, indices)
        started, before = time.monotonic(), run.spent_s
        net.train()
        while run.step < config.steps:
            if minutes is not None and time.monotonic() - started > 60 * minutes:
                break
            # the step's number seeds dropout, so that a resumed run goes on as it would have
            torch.manual_seed(config.seed + run.step)
            batch = draw_crops(
                corpus, indices, weights, config.frames, config.batch, generator=generator
            )
            mel = noisy(batch, config.noisy_share, generator=generator)
            loss, figures = loss_of(net, mel, batch.f0, config.pitch_weight)
            loss.backward()  # type: ignore[no-untyped-call]
            rate = learning_rate(
                run.step,
                config.steps,
                peak=config.learning_rate,
                warm_up=config.warm_up,
                decay_share=config.decay_share,
            )
            skipped = not apply_gradients(optimizer, rate, 5.0)
            run.step += 1
            run.average(config.ema)
            run.spent_s = before + time.monotonic() - started
            if run.step % 20 == 0 or run.step in (1, config.steps):
                run.record({**figures, "rate": rate, "skipped": float(skipped)})
                log.info("step %d: %s", run.step, {n: round(v, 4) for n, v in figures.items()})
            if run.step % config.save_every == 0 or run.step == config.steps:
                run.save()
                if export is not None:
                    save_net(averaged, export)
        run.save()
    return averaged.eval()


@torch.no_grad()
def held_out_figures(net: F0Net, corpus: Corpus, clips: int = 40) -> dict[str, float]:
    """Errors on clips never trained on: pitch within 50 cents, voicing, correlation."""
    cents, agree, found, wanted = [], [], [], []
    for index in corpus.indices(held_out=True)[:clips]:
        samples, f0 = corpus.samples(index)[None], corpus.f0(index)
        batch = Batch.of(samples, f0)
        pitch = net(batch.mel[:, None]).f0[0]
        voiced = net.silence(batch.mel[:, None])[0] < 0
        agree.append((voiced == (batch.f0[0] > 0)).float())
        both = (batch.f0[0] > 0) & (pitch > 30)
        cents.append(1200 * torch.log2(pitch[both] / batch.f0[0][both]))
        found.append(pitch[both].log())
        wanted.append(batch.f0[0][both].log())
    off = torch.cat(cents).abs()
    both = torch.stack([torch.cat(found), torch.cat(wanted)])
    return {
        "within 50 cents": float((off < 50).float().mean()),
        "median cents": float(off.median()),
        "voicing agreement": float(torch.cat(agree).mean()),
        "log pitch correlation": float(torch.corrcoef(both)[0, 1]),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m voice.train f0`."""
    defaults = F0Training()
    parser.add_argument("--corpus", type=Path, required=True, help="what the stage corpus wrote")
    parser.add_argument("--run", type=Path, default=Path("out/f0"), help="checkpoints")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--width", type=int, default=16, help="first channels; published: 64")
    parser.add_argument("--minutes", type=float, help="stop in time, whatever the step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export", type=Path, help="write the averaged network here as it learns")
    parser.add_argument("--ship", action="store_true", help="write it under assets/ at the end")


def run(options: argparse.Namespace) -> None:
    """Train, and ship if asked."""
    from voice.shipped import ship

    torch.set_num_threads(options.threads)
    corpus = Corpus.open(options.corpus)
    width = options.width
    sizes = F0Config((width, 2 * width, 3 * width, 4 * width), 4 * width)
    config = F0Training(steps=options.steps, batch=options.batch, seed=options.seed)
    net = train(corpus, options.run, config, sizes, minutes=options.minutes, export=options.export)
    if options.ship:
        figures = held_out_figures(net, corpus)
        ship("f0", lambda path: save_net(net, path), corpus, options.run, options.seed, figures)
