"""Parameters of a head in FLAME's formulation, and the ARKit weights they stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flame.arkit import ARKIT_INDEX
from flame.records import TensorRecord

JAW_OPEN_DEG = 25.33  # jaw angle at jawOpen = 1, measured on the statistics' lower teeth
LOOK_DEG = {"Up": 25.0, "Down": 30.0, "In": 30.0, "Out": 30.0}  # eye turn at eyeLook* = 1


@dataclass(frozen=True, eq=False)
class Params(TensorRecord):
    """FLAME parameters of B heads (Li et al. 2017, section 3); rotations are axis-angle, rad."""

    shape: Float[Tensor, "B S"]  # standard deviations
    expression: Float[Tensor, "B E"]
    root: Float[Tensor, "B 3"]
    neck: Float[Tensor, "B 3"]
    jaw: Float[Tensor, "B 3"]  # positive x opens
    eyes: Float[Tensor, "B 2 3"]  # left, right

    @classmethod
    def zeros(cls, batch: int, n_shape: int, n_expression: int) -> Params:
        """The mean head at rest, `batch` times."""
        return cls(
            shape=torch.zeros(batch, n_shape),
            expression=torch.zeros(batch, n_expression),
            root=torch.zeros(batch, 3),
            neck=torch.zeros(batch, 3),
            jaw=torch.zeros(batch, 3),
            eyes=torch.zeros(batch, 2, 3),
        )


def params_from_arkit(shape: Float[Tensor, "B S"], weights: Float[Tensor, "B 52"]) -> Params:
    """Parameters of heads of the given shapes under ARKit weights, 0..1.

    `jawOpen` becomes jaw rotation and `eyeLook*` also turn the eyes; `mouthClose` is held to
    `jawOpen`, the opening it corrects.
    """
    open_index, close_index = ARKIT_INDEX["jawOpen"], ARKIT_INDEX["mouthClose"]
    opening = weights[:, open_index]
    expression = weights.clone()
    expression[:, open_index] = 0
    expression[:, close_index] = torch.minimum(weights[:, close_index], opening)
    zero = torch.zeros_like(opening)
    # tongueOut opens the jaw to let the tongue through, but that share is in its own shape
    jaw = torch.stack([opening * math.radians(JAW_OPEN_DEG), zero, zero], dim=-1)
    return Params(
        shape=shape,
        expression=expression,
        root=torch.zeros_like(jaw),
        neck=torch.zeros_like(jaw),
        jaw=jaw,
        eyes=gaze_from_arkit(weights),
    )


def gaze_from_arkit(weights: Float[Tensor, "B 52"]) -> Float[Tensor, "B 2 3"]:
    """Turns of the left and right eye, axis-angle in radians, that `eyeLook*` stand for."""

    def turn(direction: str, side: str) -> Tensor:
        column = weights[:, ARKIT_INDEX[f"eyeLook{direction}{side}"]]
        return column * math.radians(LOOK_DEG[direction])

    eyes = []
    # the subject's left eye is at +x: looking in, toward the nose, turns it to -x
    for side, outward in (("Left", 1.0), ("Right", -1.0)):
        pitch = turn("Down", side) - turn("Up", side)
        yaw = outward * (turn("Out", side) - turn("In", side))
        eyes.append(torch.stack([pitch, yaw, torch.zeros_like(pitch)], dim=-1))
    return torch.stack(eyes, dim=1)


def arkit_from_params(params: Params) -> Float[Tensor, "B 52"]:
    """The ARKit weights of the shipped head's parameters; the inverse of `params_from_arkit`.

    Eyes and lids have one weight each way: where they differ the eyes decide. Opposite looks at
    once, which turn the eye by their difference alone, are read from the lids.
    """
    weights = params.expression.clone()
    weights[:, ARKIT_INDEX["jawOpen"]] = params.jaw[:, 0] / math.radians(JAW_OPEN_DEG)
    return arkit_from_gaze(params.eyes, weights).clamp(0, 1)


def arkit_from_gaze(
    eyes: Float[Tensor, "B 2 3"], weights: Float[Tensor, "B 52"]
) -> Float[Tensor, "B 52"]:
    """Weights whose `eyeLook*` stand for the turns of the eyes, axis-angle in radians.

    Of opposite looks that both are above zero in `weights`, the share in which they cancel stays.
    """
    found = weights.clone()
    for eye, (side, outward) in enumerate((("Left", 1.0), ("Right", -1.0))):
        turns = (("Down", "Up", eyes[:, eye, 0]), ("Out", "In", outward * eyes[:, eye, 1]))
        for plus, minus, angle in turns:
            columns = [ARKIT_INDEX[f"eyeLook{way}{side}"] for way in (plus, minus)]
            ranges = [math.radians(LOOK_DEG[way]) for way in (plus, minus)]
            both = torch.minimum(
                *(weights[:, c].clamp(0, 1) * r for c, r in zip(columns, ranges, strict=True))
            )
            for column, range_rad, share in zip(columns, ranges, (angle, -angle), strict=True):
                found[:, column] = (both + share.clamp(min=0)) / range_rad
    return found
