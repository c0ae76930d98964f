"""The picture of prompts: portraits in several styles above the heads made of them.

`python -m avatar.prompt_sheet --out prompts.png` draws it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from assets.errors import AssetError
from assets.files import replacing
from avatar.clip import Stage
from avatar.config import CreateSettings
from avatar.pipeline import dressed
from avatar.sheet import Panel, SheetConfig, lay_out
from avatar.source import source_of
from deca.code_net import load_code_net
from deca.reconstruct import locate, reconstruct
from flame.head import JOINT_NAMES
from flame.load import load_head
from flame.outfit import load_outfit
from flame.shoulders import broadened

# prompt and the caption beneath its portrait
PROMPTS = (
    ("a cheerful young woman with a silver bob and blue eyes, anime style, park", "anime"),
    ("smiling old man with a white beard and glasses, warm light, room", "realistic"),
    ("young woman with long auburn hair, green eyes, freckles, oil painting", "oil painting"),
    ("laughing man with dark skin, short black hair, pencil sketch, fair background", "pencil"),
    ("young woman with a pink bob and fair skin, neon, city at night", "neon"),
)
_YAW_DEG = 14.0
_MOST_BYTES = 500_000


def prompt_sheet(
    prompts: Sequence[tuple[str, str]] = PROMPTS, *, width: int = 1200, seed: int = 3
) -> UInt8[np.ndarray, "H W 3"]:
    """Portraits of prompts, and below each the head that `avatar create` makes of it."""
    flame, outfit, net = load_head(), load_outfit(), load_code_net()
    config = SheetConfig(width=width, margin=20, gap=12, caption=17)
    above, below = [], []
    for prompt, caption in prompts:
        generator = torch.Generator().manual_seed(seed)
        source = source_of(None, prompt, seed=seed)
        found = reconstruct(source.portrait, locate(source.portrait, flame, net), flame, outfit)
        head, materials = dressed(found, flame, outfit, CreateSettings(), generator, source)
        stage = Stage(head, materials, config.side(len(prompts)), supersample=2)
        weights = torch.zeros(1, len(head.morph_names))
        rest = head.pose(weights, torch.zeros(1, len(JOINT_NAMES), 3))
        shown = (source.shown[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        above.append(Panel(shown, caption))
        below.append(Panel(stage.photograph(broadened(rest, head), _YAW_DEG), "its head"))
    return lay_out([above, below], config, footer="AI-generated")


def main() -> None:
    """Draw the sheet into a PNG of at most 500 kB."""
    parser = argparse.ArgumentParser(prog="python -m avatar.prompt_sheet", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    given = parser.parse_args()
    try:
        if given.out.suffix.lower() != ".png":
            raise ValueError(f"{given.out} must end in .png")
        sheet = Image.fromarray(prompt_sheet())
    except (AssetError, ValueError) as error:
        sys.stderr.write(f"avatar.prompt_sheet: {error}\n")
        sys.exit(2)
    for share in (1.0, 0.9, 0.8, 0.7, 0.6):
        size = (round(sheet.width * share), round(sheet.height * share))
        small = sheet.resize(size, Image.Resampling.LANCZOS)
        indexed = small.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
        with replacing(given.out) as written:
            indexed.save(written, "PNG", optimize=True)
        if given.out.stat().st_size <= _MOST_BYTES:
            break
    sys.stdout.write(f"{given.out}\n")


if __name__ == "__main__":
    main()
