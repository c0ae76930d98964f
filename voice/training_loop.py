"""The loop that trainings of one network share: schedule, averaged weights, checkpoints, curve."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from voice.train_run import Run, apply_gradients, learning_rate

log = logging.getLogger(__name__)

Loss: TypeAlias = Callable[[int], tuple[Tensor, dict[str, float]]]  # of a step, and figures of it

_LARGEST_NORM = 5.0  # of gradients


@runtime_checkable
class Schedule(Protocol):
    """What the loop reads of a training's settings."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def warm_up(self) -> int: ...
    @property
    def decay_share(self) -> float: ...
    @property
    def ema(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def save_every(self) -> int: ...


def descend(
    run: Run,
    name: str,
    loss_of: Loss,
    config: Schedule,
    *,
    minutes: float | None = None,
    row_every: int = 20,
    keep: Callable[[], None],
) -> None:
    """Take `config.steps` steps in all, or as many as `minutes` of this call allow.

    The optimizer called `name` moves by the loss, its rate falling by steps or by the clock,
    whichever is ahead. Every `row_every` steps the figures' means since the row before go into
    loss.csv. At checkpoints and at the end the run is saved and `keep` called.
    """
    started, before = time.monotonic(), run.spent_s
    sums: dict[str, float] = {}
    count, skipped, saved = 0, 0, -1

    def save() -> None:
        run.save()
        keep()

    while run.step < config.steps:
        spent = 0.0 if minutes is None else (time.monotonic() - started) / (60 * minutes)
        if spent > 1:
            break
        # the step's number seeds dropout, so that a resumed run goes on as it would have
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + run.step)
            loss, figures = loss_of(run.step)
            loss.backward()  # type: ignore[no-untyped-call]
        ahead = int(spent * config.steps) if run.step >= config.warm_up else 0
        rate = learning_rate(
            max(run.step, ahead),
            config.steps,
            peak=config.learning_rate,
            warm_up=config.warm_up,
            decay_share=config.decay_share,
        )
        skipped += not apply_gradients(run.optimizers[name], rate, _LARGEST_NORM)
        run.step += 1
        run.average(config.ema)
        run.spent_s = before + time.monotonic() - started
        count += 1
        sums = {name: sums.get(name, 0.0) + value for name, value in figures.items()}
        if run.step % row_every == 0 or run.step in (1, config.steps):
            means = {name: value / count for name, value in sums.items()}
            run.record({**means, "rate": rate, "skipped": float(skipped)})
            log.info("step %d: %s", run.step, {n: round(v, 4) for n, v in means.items()})
            sums, count = {}, 0
        if run.step % config.save_every == 0:
            saved = run.step
            save()
    if saved != run.step:
        save()


def descend_for(
    run: Run,
    name: str,
    loss_of: Callable[[], tuple[Tensor, dict[str, float]]],
    *,
    minutes: float,
    rate: float,
    warm_up: int = 50,
    row_every: int = 50,
) -> None:
    """Take steps until the run has taken so many minutes in all, and save it.

    The rate of the optimizer called `name` falls along a cosine.
    """
    started, before = time.monotonic(), run.spent_s
    while (progress := run.spent_s / (60 * minutes)) < 1:
        loss, figures = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
        falling = 0.5 + 0.5 * math.cos(math.pi * progress)
        warm = min(1.0, (run.step + 1) / warm_up)
        apply_gradients(run.optimizers[name], rate * falling * warm, _LARGEST_NORM)
        run.step += 1
        run.spent_s = before + time.monotonic() - started
        if run.step % row_every == 0:
            run.record(figures)
            log.info(
                "%s, step %d: %s", name, run.step, {n: round(v, 3) for n, v in figures.items()}
            )
    run.save()
