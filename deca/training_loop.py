"""The loop that trainings of one network share: schedule, averaged weights, checkpoints, curve."""

from __future__ import annotations

import argparse
import csv
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from assets.muon import Muon
from deca.training import ahead, average, has_checkpoint, resume, save_checkpoint

log = logging.getLogger(__name__)

_Net = TypeVar("_Net", bound=nn.Module)
Batch: TypeAlias = tuple[Any, ...]  # what the loss takes; each training has its own
Loss: TypeAlias = Callable[..., tuple[Tensor, dict[str, Tensor]]]  # and figures for the curve

_LEAST_RATE = 1e-5
_LARGEST_NORM = 5.0  # of gradients
_ROW_EVERY, _WORD_EVERY = 20, 100  # steps


@dataclass(frozen=True)
class TrainingConfig:
    """Settings that every run has."""

    steps: int = 5000
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warm_up: int = 150  # steps
    ema: float = 0.998  # share of the averaged weights that a step keeps
    seed: int = 0
    save_every: int = 400
    descent: str = "adam"  # or "muon", which takes fewer steps


def descend(
    net: _Net,
    averaged: _Net,
    groups: list[dict[str, Any]],
    make_batch: Callable[[], Batch],
    loss_of: Loss,
    folder: Path,
    config: TrainingConfig,
    *,
    generator: torch.Generator,
    minutes: float | None = None,
    save: Callable[[_Net], object] | None = None,
) -> _Net:
    """The averaged network after `config.steps`, or when `minutes` of this run are over.

    Adam with decoupled weight decay, or Muon, which orthogonalizes the steps of those groups'
    matrices that say "orthogonal"; the rate falls as half a cosine by steps or by the clock,
    whichever is ahead, times each group's "share". `make_batch` runs in a second thread and draws
    from `generator`, whose state goes into `checkpoint.safetensors` in the folder; a run that finds
    one goes on from it. `loss.csv` gets the figures, `save` the averaged network at each checkpoint
    and at the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    averaged.load_state_dict(net.state_dict())
    optimizer = _optimizer(groups, config)
    checkpoint = folder / "checkpoint.safetensors"
    step, spent = 0, 0.0
    if has_checkpoint(checkpoint):
        step, spent = resume(checkpoint, net, averaged, optimizer, generator)
        log.info("going on from step %d", step)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.train()
    started, first = time.monotonic() - spent, step

    def keep() -> None:
        seconds = time.monotonic() - started
        save_checkpoint(checkpoint, net, averaged, optimizer, step, seconds, chance)
        if save is not None:
            save(averaged)

    batches = ahead(lambda: (make_batch(), generator.get_state()))
    chance = generator.get_state()
    while step < config.steps:
        progress = step / config.steps
        if minutes is not None:
            progress = max(progress, (time.monotonic() - started) / 60 / minutes)
        if progress >= 1:
            break
        rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        rate = max(rate * min(1.0, (step + 1) / config.warm_up), _LEAST_RATE)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        batch, chance = next(batches)
        loss, figures = loss_of(*batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), _LARGEST_NORM)
        optimizer.step()
        step += 1
        average(averaged, net, min(config.ema, (1 + step) / (10 + step)))
        said = {name: float(value) for name, value in ({"loss": loss.detach()} | figures).items()}
        seconds = time.monotonic() - started
        if step % _ROW_EVERY == 0 or step == 1:
            _record(folder / "loss.csv", step, said, rate, seconds)
        if step % _WORD_EVERY == 0:
            speed = (step - first) * config.batch / (seconds - spent)
            text = ", ".join(f"{name} {value:.4f}" for name, value in said.items())
            log.info("step %d %s, %.0f a second", step, text, speed)
        if step % config.save_every == 0:
            keep()
    batches.close()
    keep()
    return averaged.eval()


def _optimizer(groups: list[dict[str, Any]], config: TrainingConfig) -> torch.optim.Optimizer:
    """Adam, or Muon for the matrices of the groups that ask for it."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.descent == "adam":
        plain = [{n: v for n, v in group.items() if n != "orthogonal"} for group in groups]
        return torch.optim.AdamW(plain, rate, weight_decay=decay)
    parted = []
    for group in groups:
        for many in (True, False):
            params = [weight for weight in group["params"] if (weight.ndim > 1) is many]
            turned = many and bool(group.get("orthogonal"))
            parted.append({**group, "params": params, "orthogonal": turned})
    return Muon([group for group in parted if group["params"]], rate, decay)


def add_run_options(
    parser: argparse.ArgumentParser, config: type[TrainingConfig], folder: Path
) -> None:
    """Options of every training; their defaults are those of its settings."""
    parser.add_argument("--run", type=Path, default=folder, help="checkpoints")
    parser.add_argument("--steps", type=int, default=config.steps)
    parser.add_argument("--batch", type=int, default=config.batch)
    parser.add_argument("--rate", type=float, default=config.learning_rate)
    parser.add_argument("--descent", choices=("adam", "muon"), default=config.descent)
    parser.add_argument("--minutes", type=float, help="stop in time, whatever the step")
    parser.add_argument("--seed", type=int, default=config.seed)
    parser.add_argument("--threads", type=int, default=1, help="beside the one that makes batches")
    parser.add_argument("--ship", action="store_true", help="write it under assets/ at the end")


def chosen(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that `add_run_options` read, by their names in TrainingConfig."""
    return {
        "steps": options.steps,
        "batch": options.batch,
        "learning_rate": options.rate,
        "seed": options.seed,
        "descent": options.descent,
    }


def _record(path: Path, step: int, figures: dict[str, float], rate: float, seconds: float) -> None:
    is_new = not path.is_file()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(["step", *figures, "rate", "seconds"])
        row = [f"{value:.4f}" for value in figures.values()]
        writer.writerow([step, *row, f"{rate:.2e}", f"{seconds:.0f}"])
