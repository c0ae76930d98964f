"""How closely the shipped portrait model follows a head through the shipped ControlNet.

`python tests/benchmarks/bench_portrait_control.py --count 40` renders people it was never trained
on, draws each one's caption over its render as `avatar portrait` does, held to its normals and
contours alone, and free, reads the drawings with the shipped encoder and prints JSON: the error of
the 68 points over the distance of the eyes' outer corners (median, and the share within 0.05) of
each, and of the renders themselves, which is what the encoder would say of a perfect drawing.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from assets.image import write_image
from avatar.portrait_like import CLOSE, normalized_error
from avatar.transfer_source import FaceReader
from deca.synth import open_studio
from deca.synth_captioned import SIDE, CaptionedStudio
from diffusion import Recipe, load_pipeline, txt2img
from diffusion import shipped_portrait as own
from diffusion.conditioned import conditioned
from diffusion.refiner import in_sketch_colours
from flame.outfit import load_outfit


def error(reader: FaceReader, picture: Tensor, wanted: Tensor) -> float | None:
    """Of a picture's points; None where no face is found."""
    try:
        return normalized_error(reader.read(picture).landmarks2d, wanted)
    except ValueError:
        return None


def told(errors: list[float | None]) -> dict[str, Any]:
    """Figures of many pictures; those without a face do not follow."""
    found = [one for one in errors if one is not None]
    return {
        "median": round(statistics.median(found), 4) if found else None,
        "within": round(sum(one <= CLOSE for one in found) / len(errors), 3),
        "face found": round(len(found) / len(errors), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=4040)
    parser.add_argument("--model", type=Path, default=own.place_of(own.NAME))
    parser.add_argument("--control", type=Path)
    parser.add_argument("--strict", type=float, default=1.0, help="the ControlNet's scale")
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    side = own.SKETCHED * own.SIDE
    studio = CaptionedStudio(open_studio(side), load_outfit(), side=side, conditions=True)
    net = options.control or own.control_of(own.NAME)
    free, held = load_pipeline(options.model), load_pipeline(options.model, controlnets=(net,))
    reader, errors, rows, person = FaceReader(), {}, [], 0
    while len(rows) < options.count:
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + person)
        person += 1
        one = next(iter(studio.shoot(1, takes=1, generator=generator)))
        if one.wish.hat or one.shown is None:
            continue
        recipe = Recipe(prompt=one.captions[0], seed=person, sampler=own.SAMPLER, steps=own.STEPS,
                        cfg=own.CFG, strength=own.STRENGTH, size=(own.SIDE, own.SIDE))  # fmt: skip
        condition = F.avg_pool2d(one.shown.condition, SIDE // own.SIDE)
        sketch, scales = F.avg_pool2d(one.image, own.SKETCHED), [options.strict]
        over = conditioned(held, recipe, [condition], scales=scales, image=sketch)
        drawn = {
            "renders": one.image,
            "over renders": own.enlarged(
                in_sketch_colours(over, sketch, recipe.strength), recipe, one.image
            ),
            "held": own.enlarged(conditioned(held, recipe, [condition], scales=scales), recipe),
            "free": own.enlarged(txt2img(free, recipe), recipe),
        }
        drawn = {name: F.interpolate(made, (SIDE, SIDE), mode="area")
                 for name, made in drawn.items()}  # fmt: skip
        for name, picture in drawn.items():
            errors.setdefault(name, []).append(error(reader, picture, one.shown.points))
        rows.append(torch.cat([one.shown.condition, *drawn.values()], -2))
    if options.sheet:
        write_image(options.sheet, torch.cat(rows[:12], -1))
    print(json.dumps({name: told(found) for name, found in errors.items()}, indent=1))


if __name__ == "__main__":
    main()
