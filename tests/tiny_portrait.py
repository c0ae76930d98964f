"""A portrait model that trains in seconds, and pictures of colours for it to learn."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from assets.image import write_image
from diffusion import train_portrait, train_vae
from diffusion.train_shapes import PortraitShape

COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.1), "blue": (0.1, 0.1, 0.9),
           "white": (0.95, 0.95, 0.95)}  # fmt: skip
TINY = PortraitShape(
    side=16,
    vae_widths=(8, 16, 16, 16),
    unet_widths=(32, 32),
    head_width=8,
    text_width=32,
    text_layers=1,
    words=600,
    vae_groups=2,
    groups=2,
)


def write_colours(folder: Path) -> Path:
    """A picture of each colour, named by its caption, with a condition that has the same colour."""
    lines = []
    (folder / "conditions").mkdir()
    for name, rgb in COLOURS.items():
        # on grey, as GroupNorm takes most of what a flat picture has
        picture = torch.full((1, 3, 32, 32), 0.5)
        picture[..., 8:24, 8:24] = torch.tensor(rgb)[None, :, None, None]
        write_image(folder / f"{name}.png", picture)
        write_image(folder / "conditions" / f"{name}.png", picture)
        row = {"file": f"{name}.png", "caption": name, "condition": f"conditions/{name}.png"}
        lines.append(json.dumps(row))
    (folder / "people.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def trained(stage: Any, pictures: Path, run: Path, *more: str, **shape: Any) -> Path:
    """What a stage of training wrote."""
    parser = argparse.ArgumentParser()
    stage.add_options(parser)
    given = ["--pictures", str(pictures), "--run", str(run), "--cpu", *more]
    made: Path = stage.run(parser.parse_args(given), **shape)
    return made


def train_tiny(pictures: Path, runs: Path) -> Path:
    """The folder of a model that was shown the pictures a few hundred times."""
    vae = trained(train_vae, pictures, runs / "vae", "--steps", "50", "--batch", "8", "--rate",
                  "4e-3", "--judge", "0", shape=TINY)  # fmt: skip
    return trained(train_portrait, pictures, runs / "portrait", "--steps", "60", "--batch", "8",
                   "--rate", "4e-3", "--vae", str(vae), shape=TINY)  # fmt: skip
