"""Options that every stage of `python -m diffusion.train` has, and what is made of them."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from diffusion.train_run import RunConfig

_NAMES = {"rate": "learning_rate"}
_GIVEN = ("steps", "batch", "rate", "descent", "accumulate", "seed", "save_every")


def add_run_options(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """The options; `defaults` are shown and used where one is not given."""
    add = parser.add_argument
    add("--run", type=Path, required=True, help="folder of checkpoints, loss.csv and previews; "
        "a run that is there goes on")  # fmt: skip
    add("--steps", type=int, default=defaults["steps"])
    add("--batch", type=int, default=defaults["batch"])
    add("--rate", type=float, default=defaults["rate"], help="learning rate")
    add("--descent", choices=("adam", "muon"), default="adam", help="muon takes fewer steps")
    add("--accumulate", type=int, default=1, help="batches for one step")
    add("--seed", type=int, default=0)
    add("--save-every", type=int, default=defaults["save_every"], help="steps")
    add("--minutes", type=float, help="of the whole run; the rate falls in time")
    add("--pause-after", type=float, help="minutes of this call; the next goes on")
    add("--precision", choices=("no", "bf16", "fp16"), help="default: bf16 on accelerators")
    add("--threads", type=int, help="of the processor")
    add("--cpu", action="store_true", help="leave accelerators alone")


def run_config(options: argparse.Namespace, *, warm_up: int = 0, **more: Any) -> RunConfig:
    """The settings of the loop; the rate rises over a tenth of the steps at most."""
    from diffusion.train_run import RunConfig

    given = {_NAMES.get(name, name): getattr(options, name) for name in _GIVEN}
    known = {entry.name for entry in dataclasses.fields(RunConfig)}
    assert given.keys() | more.keys() <= known
    return RunConfig(**{**given, **more}, warm_up=min(warm_up, options.steps // 10))


def accelerator_of(options: argparse.Namespace) -> Any:
    """Where and how precisely a run computes."""
    from accelerate import Accelerator

    if options.threads:
        torch.set_num_threads(options.threads)
    if options.precision is None:
        options.precision = "bf16" if torch.cuda.is_available() and not options.cpu else "no"
    if options.precision != "no" and torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = True
    return Accelerator(mixed_precision=options.precision, cpu=options.cpu)
