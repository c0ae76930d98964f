"""Square crops round a face."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from deca.codes import Crop


def crop_square(
    image: Float[Tensor, "1 3 H W"],
    center: Float[Tensor, 2],
    side: float,
    size: int,
    roll_rad: float = 0.0,
) -> Crop:
    """The square of `side` pixels round `center`, turned by `roll_rad`, at `size` x `size` pixels.

    Beyond the picture its border goes on. Large shrinking is done in area means, so that no detail
    aliases.
    """
    scale = size / side
    cosine, sine = torch.cos(torch.tensor(roll_rad)), torch.sin(torch.tensor(roll_rad))
    turn = scale * torch.stack([torch.stack([cosine, sine]), torch.stack([-sine, cosine])])
    matrix = torch.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = size / 2 - turn @ center
    height, width = image.shape[-2:]
    finer = max(1, int(side / size + 0.5))
    place = (torch.arange(size * finer) + 0.5) / finer
    grid_y, grid_x = torch.meshgrid(place, place, indexing="ij")
    wanted = torch.stack([grid_x, grid_y], dim=-1)
    inverse = matrix.inverse()
    source = wanted @ inverse[:2, :2].T + inverse[:2, 2]
    grid = source / torch.tensor([width, height]) * 2 - 1
    sampled = torch.nn.functional.grid_sample(
        image, grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    if finer > 1:
        sampled = torch.nn.functional.avg_pool2d(sampled, finer)
    return Crop(sampled, matrix)
