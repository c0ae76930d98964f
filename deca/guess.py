"""A first guess of one head, how sure it is, and the camera that suits points best."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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


def seen_camera(
    placed: Float[Tensor, "B L 3"],
    seen: Float[Tensor, "B L 2"],
    log_sigma: Float[Tensor, "B L"],
    nearness: Float[Tensor, " B"],
) -> tuple[Float[Tensor, " B"], Float[Tensor, "B 2"]]:
    """Scale and shift of the camera under which points of a head lie where they were seen.

    `seen` is in crops 0..1, y down, with standard deviations of its own; `nearness` is
    `Camera.nearness`, 1/m. Weighted least squares of scale * X + offset = w * seen, two rows a
    point; keeps gradients.
    """
    w = 1 - placed[..., 2] * nearness[:, None]
    half = seen * 2 - 1
    target = torch.stack([half[..., 0], -half[..., 1]], -1)  # y up, half crops
    trust = torch.softmax(-2 * log_sigma, dim=1)[..., None]
    flat, one = placed[..., :2] / w[..., None], (1 / w)[..., None].expand(-1, -1, 2)
    xx = (trust * flat * flat).sum((1, 2))
    x1, ones = (trust * flat * one).sum(1), (trust * one * one).sum(1)
    xt, t1 = (trust * flat * target).sum((1, 2)), (trust * one * target).sum(1)
    scale = (xt - (x1 * t1 / ones).sum(1)) / (xx - (x1.square() / ones).sum(1)).clamp(min=1e-9)
    scale = scale.clamp(min=1e-3)
    return scale, (t1 - scale[:, None] * x1) / ones / scale[:, None]
