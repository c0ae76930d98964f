"""What all trainings here share: the loop, its schedule, averaged weights, checkpoints, the curve.

A step draws everything by its number, so that a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from assets.errors import AssetError
from assets.files import replacing
from assets.muon import Muon
from assets.weights import read_metadata, read_tensors, write_tensors

log = logging.getLogger(__name__)

Figures: TypeAlias = dict[str, Tensor]
LossOf: TypeAlias = Callable[[int], tuple[Tensor, Figures]]  # of the draw of a number
Accelerate: TypeAlias = Any  # accelerate.Accelerator, which comes without types


@dataclass(frozen=True)
class RunConfig:
    """Settings that every training has."""

    steps: int = 1000
    batch: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    warm_up: int = 0  # steps in which the rate rises
    fall: Literal["constant", "cosine"] = "constant"  # after that; cosine falls to 1 %
    ema: float = 0.0  # share of the averaged weights that a step keeps; 0 averages nothing
    accumulate: int = 1  # batches for one step
    largest_norm: float = 1.0  # of gradients
    descent: Literal["adam", "muon"] = "adam"
    seed: int = 0
    save_every: int = 250  # steps between checkpoints with their previews
    row_every: int = 10  # steps between rows of loss.csv

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "save_every", "row_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema={self.ema} must be from 0 to below 1")


def generator_at(seed: int, number: int) -> torch.Generator:
    """The source of chance of one draw: another for every number and seed."""
    return torch.Generator().manual_seed(seed * 15_485_863 + number)


def rate_at(progress: float, step: int, config: RunConfig) -> float:
    """The learning rate of a step, `progress` being the share of the run that is over."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warm_up))
    if config.fall == "cosine":
        rate *= max(0.01, 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)))
    return rate


@dataclass
class Run:
    """The weights that a training in a folder moves, and how far it has come."""

    folder: Path
    weights: Mapping[str, nn.Parameter]
    config: RunConfig
    told: Mapping[str, object] = field(default_factory=dict)  # what it may not change on the way
    shares: Mapping[str, float] = field(default_factory=dict)  # of the rate, by start of name
    step: int = 0
    spent_s: float = 0.0
    averaged: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError("nothing would be trained; name layers that the model has")
        follows = self.config.ema > 0
        self.averaged = {n: w.detach().clone() for n, w in self.weights.items() if follows}

    @property
    def checkpoint(self) -> Path:
        """Where everything is kept that going on needs, in shards where it is large."""
        return self.folder / "checkpoint.safetensors"

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam or Muon with decoupled decay; each group's rate is its share of the run's."""
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, weight in self.weights.items():
            share = next((s for start, s in self.shares.items() if name.startswith(start)), 1.0)
            # what meets pixels, latents or numbers of words has no use for equal singular values
            ends = ("conv_in.weight", "conv_out.weight", "embedding.weight")
            matrix = self.config.descent == "muon" and weight.ndim > 1 and not name.endswith(ends)
            groups.setdefault((share, matrix), []).append(weight)
        given = [
            {"params": params, "share": share, "orthogonal": matrix}
            for (share, matrix), params in groups.items()
        ]
        rate, decay = self.config.learning_rate, self.config.weight_decay
        if self.config.descent == "muon":
            return Muon(given, lr=rate, weight_decay=decay)
        return torch.optim.AdamW(given, lr=rate, weight_decay=decay)

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        """Write the checkpoint."""
        tensors = {"progress": torch.tensor([self.step, self.spent_s], dtype=torch.float64)}
        tensors |= {f"weights/{name}": weight.detach() for name, weight in self.weights.items()}
        tensors |= {f"averaged/{name}": value for name, value in self.averaged.items()}
        for number, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"moments/{number}/{k}": torch.as_tensor(m) for k, m in moments.items()}
        write_tensors(tensors, self.checkpoint, {"settings": json.dumps(dict(self.told))})

    def resume(self, optimizer: torch.optim.Optimizer) -> bool:
        """Put everything as the checkpoint has it; False where there is none."""
        index = self.checkpoint.with_name(f"{self.checkpoint.name}.index.json")
        if not (self.checkpoint.is_file() or index.is_file()):
            return False
        before = json.loads(read_metadata(self.checkpoint).get("settings", "{}"))
        now = json.loads(json.dumps(dict(self.told)))
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise AssetError(
                    f"{self.folder} holds a run with {name}={before.get(name)}, now it is "
                    f"{now.get(name)}; give the same to go on, or another folder to start anew"
                )
        tensors = read_tensors(self.checkpoint)
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(tensors[f"weights/{name}"])
            for name, value in self.averaged.items():
                value.copy_(tensors.get(f"averaged/{name}", tensors[f"weights/{name}"]))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("moments/"):
                _, number, kind = key.split("/")
                moments.setdefault(int(number), {})[kind] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        step, self.spent_s = tensors["progress"].tolist()
        self.step = int(step)
        self._forget_later_rows()
        log.info("going on from step %d", self.step)
        return True

    @torch.no_grad()
    def average(self) -> None:
        """Move the averaged weights toward the run's."""
        if self.averaged:
            # the first steps would otherwise weigh for a thousand
            keep = min(self.config.ema, (1 + self.step) / (10 + self.step))
            weights = [self.weights[name].detach() for name in self.averaged]
            torch._foreach_lerp_(list(self.averaged.values()), weights, 1 - keep)

    @contextmanager
    def at_average(self) -> Iterator[None]:
        """While it lasts, the networks have the averaged weights, where the run averages."""
        own = {name: self.weights[name].detach().clone() for name in self.averaged}
        try:
            self._put(self.averaged)
            yield
        finally:
            self._put(own)

    def record(self, figures: Mapping[str, float]) -> None:
        """Append a row to loss.csv."""
        path = self.folder / "loss.csv"
        row = {"step": self.step, "seconds": f"{self.spent_s:.1f}"}
        row |= {name: f"{value:.6g}" for name, value in figures.items()}
        is_new = not path.is_file()
        with open(path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if is_new:
                writer.writeheader()
            writer.writerow(row)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.weights[name].copy_(value)

    def _forget_later_rows(self) -> None:
        """Rows that a stopped run wrote after its last checkpoint are written again."""
        path = self.folder / "loss.csv"
        if path.is_file():
            with open(path, encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))
            kept = rows[:1] + [row for row in rows[1:] if int(row[0]) <= self.step]
            with replacing(path) as beside, open(beside, "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(kept)


def descend(
    run: Run,
    loss_of: LossOf,
    accelerator: Accelerate,
    *,
    minutes: float | None = None,
    pause_minutes: float | None = None,
    on_save: Callable[[], object] | None = None,
) -> int:
    """Train to `config.steps`, or until `minutes` of the run or `pause_minutes` of this call pass.

    The rate falls by steps or by `minutes`, whichever is ahead; a pause leaves it alone. Every
    process of accelerate draws its own numbers. Returns the step; raises ValueError where the loss
    is not finite, and leaves the last checkpoint as it was.
    """
    config = run.config
    run.folder.mkdir(parents=True, exist_ok=True)
    optimizer = run.optimizer()
    run.resume(optimizer)
    prepared = accelerator.prepare_optimizer(optimizer)
    weights = list(run.weights.values())
    began, before = time.monotonic(), run.spent_s
    since_row: list[tuple[Tensor, Figures]] = []

    def keep() -> None:
        if accelerator.is_main_process:
            run.save(optimizer)
            if on_save is not None:
                with run.at_average(), torch.no_grad():
                    on_save()
        accelerator.wait_for_everyone()

    saved = run.step
    while run.step < config.steps:
        progress = run.step / config.steps
        if minutes is not None:
            progress = max(progress, run.spent_s / 60 / minutes)
        here = (run.spent_s - before) / 60
        if progress >= 1 or (pause_minutes is not None and here >= pause_minutes):
            break
        for group in optimizer.param_groups:
            group["lr"] = rate_at(progress, run.step, config) * group["share"]
        for part in range(config.accumulate):
            number = run.step * config.accumulate + part
            number = number * accelerator.num_processes + accelerator.process_index
            loss, figures = loss_of(number)
            accelerator.backward(loss / config.accumulate)
            since_row.append((loss.detach(), figures))
        if accelerator.num_processes > 1:
            for weight in weights:
                if weight.grad is not None:
                    weight.grad = accelerator.reduce(weight.grad, "mean")
        norm = accelerator.clip_grad_norm_(weights, config.largest_norm)
        if accelerator.mixed_precision != "fp16" and not bool(torch.isfinite(norm)):
            raise ValueError(
                f"the loss of step {run.step + 1} is not finite; lower the rate (now "
                f"{config.learning_rate}) and go on from the last checkpoint"
            )
        prepared.step()
        optimizer.zero_grad(set_to_none=True)
        run.step += 1
        run.spent_s = before + time.monotonic() - began
        run.average()
        if run.step % config.row_every == 0 or run.step == 1:
            if accelerator.is_main_process:
                said = _means(since_row)
                run.record(said)
                log.info("step %d %s", run.step, ", ".join(f"{k} {v:.4g}" for k, v in said.items()))
            since_row.clear()
        if run.step % config.save_every == 0:
            keep()
            saved = run.step
    if saved != run.step:
        keep()
    return run.step


def _means(seen: list[tuple[Tensor, Figures]]) -> dict[str, float]:
    rows = [{"loss": loss} | figures for loss, figures in seen]
    return {
        name: float(torch.stack([row[name].float() for row in rows]).mean()) for name in rows[0]
    }
