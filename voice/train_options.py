"""Options that the stages of `python -m voice.train` which train one network share."""

from __future__ import annotations

import argparse
from pathlib import Path

from voice.training_loop import Schedule


def add_net_options(parser: argparse.ArgumentParser, name: str, defaults: Schedule) -> None:
    """What goes in, how long, and where it goes; `defaults` of steps are shown."""
    add = parser.add_argument
    add("--corpus", type=Path, required=True, help="what the stage corpus wrote")
    add("--run", type=Path, default=Path("out") / name, help="checkpoints")
    add("--steps", type=int, default=defaults.steps)
    add("--minutes", type=float, help="stop in time, whatever the step")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    add("--export", type=Path, help="write the averaged network here as it learns")
    add("--ship", action="store_true", help="write it under assets/ at the end")
