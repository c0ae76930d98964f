"""Sculpting of identity: named symmetric sliders over shape codes, blends, random people.

`python -m flame.sliders --sheet sliders.jpg` draws every slider at its two ends.
"""

from __future__ import annotations

import argparse
import difflib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from flame.measures import MEASURES, FacePoints, face_points, skin_verts
from flame.model import Flame

CODE_LIMIT = 3.5  # standard deviations; beyond it heads look like no one
RANDOM_LIMIT = 2.5
# What a slider's direction pays for moving another measure by one standard deviation, and for
# moving the skin by one millimetre (root mean square), in units of one standard deviation of a
# shape component: more of either gives purer and stranger faces.
_CROSS_COST = 10.0
_SPREAD_COST = 1.0


@dataclass(frozen=True, eq=False)
class Sliders:
    """Directions in shape space that each change one measure of the face."""

    names: tuple[str, ...]
    units: tuple[str, ...]  # of the measures: mm, deg or %
    deviations: Float[Tensor, " N"]  # of the measures over the population, in these units
    directions: Float[Tensor, "N S"]  # codes that add one of these deviations to the mean head
    points: FacePoints

    def apply(
        self, shape: Float[Tensor, "B S"], amounts: Mapping[str, float]
    ) -> Float[Tensor, "B S"]:
        """Codes with some sliders moved by `amounts` standard deviations, held to CODE_LIMIT.

        Amounts add up: moves in any order, or all at once, end at the same head within the limit.
        """
        self._check(shape)
        moved = shape
        for name, amount in amounts.items():
            if name not in self.names:
                near = difflib.get_close_matches(name, self.names, n=3, cutoff=0.4)
                choice = " or ".join(map(repr, near)) or f"one of {', '.join(self.names)}"
                raise ValueError(f"there is no slider {name!r}; choose {choice}")
            if not math.isfinite(amount):
                raise ValueError(f"the slider {name!r} is {amount}; give a number, mostly -3 to 3")
            moved = moved + amount * self.directions[self.names.index(name)].to(shape)
        return moved.clamp(-CODE_LIMIT, CODE_LIMIT)

    def measure(self, shape: Float[Tensor, "B S"]) -> dict[str, Float[Tensor, " B"]]:
        """Every slider's measure of some heads, in its unit."""
        self._check(shape)
        points = self.points.at(shape.to(self.points.mean))
        return {measure.name: measure.of(points).to(shape) for measure in MEASURES}

    def _check(self, shape: Tensor) -> None:
        own = self.directions.shape[1]
        if shape.shape[1] != own:
            raise ValueError(
                f"shape has {shape.shape[1]} coefficients, these sliders move {own}; "
                "make sliders of the same head model"
            )


def sliders(flame: Flame) -> Sliders:
    """The sliders of a head model.

    Each direction moves its own measure by one standard deviation and is, among all that do, the
    least sum of squares of its codes, of the other measures' changes and of the skin's motion.
    """
    points = face_points(flame)
    origin = points.mean.new_zeros(1, flame.n_shape)

    def measured(shape: Tensor) -> Tensor:
        places = points.at(shape)
        return torch.cat([measure.of(places) for measure in MEASURES])

    slopes: Tensor = torch.autograd.functional.jacobian(  # type: ignore[no-untyped-call]
        measured, origin
    )[:, 0]  # [N, S]
    # codes are N(0, 1) each, so a measure's deviation is the length of its slope
    deviations = slopes.norm(dim=1)
    rows = slopes / deviations[:, None]
    basis = 1e3 * flame.shapedirs[:, skin_verts(flame)].double().flatten(1)
    spread = 3 * basis @ basis.T / basis.shape[1]  # mean square of the skin's motion, mm²
    prior = torch.eye(flame.n_shape).to(rows) + _SPREAD_COST * spread
    directions = []
    for index, row in enumerate(rows):
        others = torch.cat([rows[:index], rows[index + 1 :]])
        moved = torch.linalg.solve(prior + _CROSS_COST * others.T @ others, row)
        directions.append(moved / (row @ moved))
    return Sliders(
        names=tuple(measure.name for measure in MEASURES),
        units=tuple(measure.unit for measure in MEASURES),
        deviations=deviations,
        directions=torch.stack(directions),
        points=points,
    )


def blend(a: Float[Tensor, "*B S"], b: Float[Tensor, "*B S"], t: float) -> Float[Tensor, "*B S"]:
    """Codes on the straight way from identity `a` (t=0) to `b` (t=1)."""
    if not 0 <= t <= 1:
        raise ValueError(f"t={t} is no blend; choose 0 (the first identity) to 1 (the second)")
    return torch.lerp(a, b, t)


def random_identity(n_shape: int, *, generator: torch.Generator) -> Float[Tensor, " S"]:
    """Codes of one person of the population, held to RANDOM_LIMIT standard deviations."""
    if n_shape < 1:
        raise ValueError(f"n_shape={n_shape}; give the head model's count, flame.n_shape")
    drawn = torch.randn(n_shape, generator=generator, device=generator.device)
    return drawn.clamp(-RANDOM_LIMIT, RANDOM_LIMIT)


def main() -> None:
    """Draw the sheet of all sliders of the shipped head."""
    from assets.errors import AssetError
    from assets.image import write_image
    from flame.slider_sheet import slider_sheet

    parser = argparse.ArgumentParser(prog="python -m flame.sliders", description=main.__doc__)
    parser.add_argument("--sheet", type=Path, required=True, help="picture to write, .jpg or .png")
    given = parser.parse_args()
    try:
        if given.sheet.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            raise ValueError(f"{given.sheet} must end in .jpg or .png, so that its format is known")
        write_image(given.sheet, slider_sheet(), quality=82)
    except (AssetError, ValueError) as error:
        sys.stderr.write(f"flame.sliders: {error}\n")
        sys.exit(2)
    sys.stdout.write(f"{given.sheet}\n")


if __name__ == "__main__":
    main()
