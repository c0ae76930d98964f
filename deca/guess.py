"""A first guess of one head, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from flame.camera import Camera
from flame.params import Params


@dataclass(frozen=True, eq=False)
class Guess:
    """Codes of one head to start from, and how far off they are on average."""

    params: Params
    camera: Camera
    shape_sigma: Float[Tensor, " S"]  # of the shape coefficients
    weight_sigma: Float[Tensor, " 52"]  # of the ARKit weights
