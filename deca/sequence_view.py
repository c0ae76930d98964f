"""Kept pictures of a person and the heads and cameras that they show."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from deca.sequence_model import PointModel, Poses
from flame.camera import Camera
from flame.params import Params, params_from_arkit


@dataclass(frozen=True, eq=False)
class View:
    """One kept picture of the person and the pose that it shows."""

    index: int
    image: Float[Tensor, "1 3 K K"]
    weights: Float[Tensor, " 52"]
    rotation: Float[Tensor, " 3"]  # in this picture
    camera: Camera
    score: float  # 0..1: sharp, sure, eyes open


def whole_camera(
    pose: Poses, model: PointModel, shape: Tensor
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 2"], Float[Tensor, " N"]]:
    """Scale, shift and tangent of `flame.camera.Camera` for heads that stand at their root."""
    root = model.root(shape.double(), pose.weights)
    scale = pose.log_scale.exp()
    scale = scale / (1 + root[:, 2] * scale * pose.tangent)
    return scale, pose.shift - root[:, :2], pose.tangent


def view_params(view: View, shape: Float[Tensor, " S"]) -> Params:
    """The head of a view as the head model takes it."""
    params = params_from_arkit(shape[None], view.weights[None])
    return dataclasses.replace(params, root=view.rotation[None])
