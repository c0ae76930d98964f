"""DECA's codes: everything that is regressed or fitted from one portrait."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from flame.camera import Camera
from flame.params import Params
from flame.records import TensorRecord


@dataclass(frozen=True, eq=False)
class Codes(TensorRecord):
    """Codes of B portraits (Feng et al. 2021, section 3), for a crop of each."""

    params: Params
    albedo: Float[Tensor, "B A"]  # standard deviations
    camera: Camera  # of the crop
    light: Float[Tensor, "B 9 3"]  # spherical harmonics, linear light


@dataclass(frozen=True, eq=False)
class Crop(TensorRecord):
    """A square of the picture, upright or tilted; `matrix` takes picture pixels to crop pixels."""

    image: Float[Tensor, "1 3 K K"]
    matrix: Float[Tensor, "3 3"]

    def points(self, points: Float[Tensor, "*N 2"]) -> Float[Tensor, "*N 2"]:
        """Picture points in the crop."""
        return points @ self.matrix[:2, :2].T + self.matrix[:2, 2]

    def picture_points(self, points: Float[Tensor, "*N 2"]) -> Float[Tensor, "*N 2"]:
        """Crop points in the picture."""
        inverse = self.matrix.inverse()
        return points @ inverse[:2, :2].T + inverse[:2, 2]
