"""What the trainings of this package share: checkpoints, averaged weights, logs, schedules."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from assets.files import replacing
from assets.weights import read_tensors, write_tensors

Optimizers = Mapping[str, torch.optim.Optimizer]
Nets = Mapping[str, nn.Module]


@dataclass
class Run:
    """A training in a folder that can stop at any step and go on as if it had not."""

    folder: Path
    nets: Nets
    optimizers: Optimizers
    averaged: Nets = field(default_factory=dict)  # by the names of the nets they follow
    generator: torch.Generator = field(default_factory=torch.Generator)
    step: int = 0
    spent_s: float = 0.0

    @property
    def checkpoint(self) -> Path:
        """Where everything is kept that going on needs."""
        return self.folder / "checkpoint.safetensors"

    def save(self) -> None:
        """Write the checkpoint."""
        tensors = {"progress": torch.tensor([self.step, self.spent_s], dtype=torch.float64)}
        tensors["chance"] = self.generator.get_state()
        for kind, nets in (("net", self.nets), ("averaged", self.averaged)):
            for name, net in nets.items():
                tensors |= {f"{kind}/{name}/{key}": t for key, t in net.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            for number, moments in optimizer.state_dict()["state"].items():
                for key, moment in moments.items():
                    tensors[f"optimizer/{name}/{number}/{key}"] = torch.as_tensor(moment)
        write_tensors(tensors, self.checkpoint)

    def resume(self) -> bool:
        """Put everything as the checkpoint has it; False where there is none."""
        index = self.checkpoint.with_name(f"{self.checkpoint.name}.index.json")
        if not (self.checkpoint.is_file() or index.is_file()):
            return False
        tensors = read_tensors(self.checkpoint)
        for kind, nets in (("net", self.nets), ("averaged", self.averaged)):
            for name, net in nets.items():
                # what joined the training after this checkpoint starts as it is
                if found := _under(tensors, f"{kind}/{name}/"):
                    net.load_state_dict(found)
        for name, optimizer in self.optimizers.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for key, tensor in _under(tensors, f"optimizer/{name}/").items():
                number, moment = key.split("/")
                moments.setdefault(int(number), {})[moment] = tensor
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        self.generator.set_state(tensors["chance"])
        step, self.spent_s = tensors["progress"].tolist()
        self.step = int(step)
        self._forget_later_rows()
        return True

    def record(self, figures: Mapping[str, float]) -> None:
        """Append a row to loss.csv: the step, the seconds spent, and these figures.

        Figures that rows before did not have get a column of their own.
        """
        path = self.folder / "loss.csv"
        self.folder.mkdir(parents=True, exist_ok=True)
        rows: list[dict[str, str]] = []
        if path.is_file():
            with open(path, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        row = {"step": str(self.step), "seconds": f"{self.spent_s:.1f}"}
        rows.append(row | {name: f"{value:.6g}" for name, value in figures.items()})
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with replacing(path) as beside, open(beside, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="0")
            writer.writeheader()
            writer.writerows(rows)

    def average(self, keep: float) -> None:
        """Move the averaged weights toward the nets', keeping this share of them."""
        # the first steps would otherwise weigh for a thousand
        keep = min(keep, (1 + self.step) / (10 + self.step))
        for name, averaged in self.averaged.items():
            move_average(averaged, self.nets[name], keep)

    def _forget_later_rows(self) -> None:
        """Rows that a stopped run wrote after its last checkpoint are written again."""
        path = self.folder / "loss.csv"
        if not path.is_file():
            return
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        kept = rows[:1] + [row for row in rows[1:] if int(row[0]) <= self.step]
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(kept)


@torch.no_grad()
def move_average(averaged: nn.Module, net: nn.Module, keep: float) -> None:
    """Averaged weights nearer to the network's; what is no weight is copied."""
    new = net.state_dict()
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            value.lerp_(new[name].to(value), 1 - keep)
        else:
            value.copy_(new[name])


def learning_rate(step: int, steps: int, *, peak: float, warm_up: int, decay_share: float) -> float:
    """Rising, then level, then falling to 1 % over the last share of the steps.

    A run can be made longer as long as its fall has not begun.
    """
    if step < warm_up:
        return peak * (step + 1) / warm_up
    left = (steps - step) / max(1.0, decay_share * steps)
    return peak * max(0.01, 0.5 - 0.5 * math.cos(math.pi * min(1.0, left)))


def apply_gradients(
    optimizer: torch.optim.Optimizer, rate: float | None, largest_norm: float
) -> bool:
    """One step on gradients cut to a norm; False, and no step, where they are not finite."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, largest_norm)
    is_finite = bool(torch.isfinite(norm))
    if is_finite:
        for group in optimizer.param_groups:
            if rate is not None:
                group["lr"] = rate * group.get("share", 1.0)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return is_finite


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
