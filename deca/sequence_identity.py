"""One identity out of several answers of the encoder."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

ALIKE = 0.8  # correlation of the encoder's errors between pictures of one person
_TOLD, _WANDER = 0.02, 0.6  # least variance that answers tell; most of it that one person's take


def shared_shape(
    shapes: Float[Tensor, "N S"],
    weight: Float[Tensor, " N"],
    shape_sigma: Float[Tensor, " S"],
    alike: float = ALIKE,
) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
    """The best linear estimate of an identity that was regressed several times; its sigmas.

    A regression answers with the mean of what may be, so it falls short of the truth by as much as
    it is unsure. The mean of N answers is surer than each and is drawn out by the ratio of
    covariances: v / (v - w (1 - 1/N)), with v the variance of answers over people and w that over
    pictures of one person, `1 - alike` of the error's. The sigmas are a little larger than what is
    left of the error if that holds. `weight` sums to one.
    """
    independent = float(1 / weight.square().sum())
    error = shape_sigma[: shapes.shape[1]].square()
    told = 1 - error
    # of what is hardly told at all neither variance is known
    wander = torch.where(told > _TOLD, (1 - alike) * error / told.clamp(min=_TOLD), 0.0)
    gain = 1 / (1 - wander.clamp(max=_WANDER) * (1 - 1 / independent))
    mean = torch.einsum("n,ns->s", weight, shapes)
    return gain * mean, error.sqrt() * math.sqrt(alike + (1 - alike) / independent)
