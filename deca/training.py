"""What the trainings of networks share: batches made ahead, averaged weights, checkpoints."""

from __future__ import annotations

import csv
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assets.files import sha256_of
from assets.store import PACKAGE
from assets.weights import read_tensors, write_tensors
from deca.landmark_points import LandmarkPoints

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Raised:
    """An error on its way from the thread in which it happened."""

    error: BaseException


def ahead(make: Callable[[], _T]) -> Generator[_T, None, None]:
    """What `make` returns, over and over, made by a second thread that is up to three ahead.

    What `make` raises is raised here, when its turn comes.
    """
    waiting: Queue[_T | _Raised] = Queue(maxsize=3)
    ended = Event()

    def work() -> None:
        made: _T | _Raised | None = None
        while not ended.is_set() and not isinstance(made, _Raised):
            try:
                made = make()
            except BaseException as error:
                made = _Raised(error)
            while not ended.is_set():
                try:
                    waiting.put(made, timeout=0.5)
                    break
                except Full:
                    continue

    worker = Thread(target=work, daemon=True)
    worker.start()
    try:
        while True:
            made = waiting.get(timeout=600)
            if isinstance(made, _Raised):
                raise made.error
            yield made
    finally:
        ended.set()
        worker.join()


def point_weights(points: LandmarkPoints) -> Float[Tensor, " L"]:
    """Eyes, mouth and pupils count double."""
    weights = torch.ones(len(points))
    weights[36:68] = 2
    weights[-2:] = 2
    return weights


@torch.no_grad()
def average(averaged: nn.Module, net: nn.Module, keep: float) -> None:
    """Move the averaged weights toward the network's, keeping this share of them."""
    new = net.state_dict()
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            value.lerp_(new[name], 1 - keep)
        else:
            value.copy_(new[name])


def save_checkpoint(
    path: Path,
    net: nn.Module,
    averaged: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    step: int,
    spent: float,
    chance: Tensor | None,
) -> None:
    """Write all that a stopped run needs; `chance` is the state of its generator.

    A run without averaged weights, or one that draws by the number of its step, has None there.
    """
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    if averaged is not None:
        tensors |= {f"averaged.{name}": value for name, value in averaged.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    if chance is not None:
        tensors["chance"] = chance
    tensors["progress"] = torch.tensor([step, spent], dtype=torch.float64)
    write_tensors(tensors, path)


def has_checkpoint(path: Path) -> bool:
    """Whether there is a checkpoint here, in one file or in several."""
    return path.is_file() or path.with_name(f"{path.name}.index.json").is_file()


def resume(
    path: Path,
    net: nn.Module,
    averaged: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator | None,
) -> tuple[int, float]:
    """Put everything as it was; returns the step and the seconds spent."""
    tensors = read_tensors(path)

    def under(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    net.load_state_dict(under("net."))
    if averaged is not None:
        averaged.load_state_dict(under("averaged."))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in under("optimizer.").items():
        number, kind = name.split(".")
        moments.setdefault(int(number), {})[kind] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    if generator is not None:
        generator.set_state(tensors["chance"])
    step, spent = tensors["progress"].tolist()
    return int(step), spent


def last_step(folder: Path) -> int:
    """How many steps the run in a folder has made."""
    with open(folder / "loss.csv", encoding="utf-8") as file:
        return max(int(row["step"]) for row in csv.DictReader(file))


def head_metadata() -> dict[str, str]:
    """Which head file the network was trained on, for the record."""
    parts = sorted((PACKAGE / "head").glob("head*.safetensors*"))
    return {f"sha256 of {part.name}": sha256_of(part) for part in parts}
