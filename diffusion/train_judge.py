"""A network that tells pictures from copies of them, patch by patch."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Judge(nn.Module):
    """Tells real patches from copied ones (Isola et al. 2017, section 3.2.2): above 0 is real."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.GroupNorm(4, after), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """A verdict for each patch."""
        found: Tensor = self.layers(images)
        return found


def judged(
    judge: nn.Module, made: Float[Tensor, "B 3 H W"], images: Float[Tensor, "B 3 H W"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The judge's mean verdict on what was made, and the hinge loss that it learns by itself.

    The verdict comes from a frozen twin, so that one backward pass serves both networks.
    """
    frozen = {name: weight.detach() for name, weight in judge.named_parameters()}
    fooled: Tensor = torch.func.functional_call(judge, frozen, (made,))
    real, copied = judge(images), judge(made.detach())
    return fooled.mean(), F.relu(1 - real).mean() + F.relu(1 + copied).mean()
