"""DECA's detail decoder: jaw, expression and detail codes to a displacement map in UV space."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

N_DETAIL = 128
N_LATENT = 181  # jaw 3, expression 50, detail 128
MAP_SIDE = 256
LARGEST_DISPLACEMENT = 0.01  # metres
_EPS = 0.8  # of every norm after an upsampling; published code passes it where momentum was meant


class DetailDecoder(nn.Module):
    """The generator D_detail (Feng et al. 2021, section 4.2), under its published key names."""

    def __init__(self) -> None:
        super().__init__()
        self.l1 = nn.Sequential(nn.Linear(N_LATENT, 128 * 8 * 8))
        layers: list[nn.Module] = [nn.BatchNorm2d(128)]
        widths = (128, 128, 64, 64, 32, 16)
        for n_in, n_out in pairwise(widths):
            layers += [
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                nn.Conv2d(n_in, n_out, 3, padding=1),
                nn.BatchNorm2d(n_out, eps=_EPS),
                nn.LeakyReLU(0.2),
            ]
        layers += [nn.Conv2d(16, 1, 3, padding=1), nn.Tanh()]
        self.conv_blocks = nn.Sequential(*layers)

    def forward(self, latent: Float[Tensor, "B 181"]) -> Float[Tensor, "B 1 256 256"]:
        """Displacement along the normal, metres, within +-1 cm; neither masked nor corrected."""
        grid = self.l1(latent).view(-1, 128, 8, 8)
        raised: Tensor = self.conv_blocks(grid)
        return raised * LARGEST_DISPLACEMENT


def detail_latent(
    jaw: Float[Tensor, "B 3"],
    expression: Float[Tensor, "B E"],
    detail: Float[Tensor, "B 128"],
) -> Float[Tensor, "B 181"]:
    """The decoder's input: jaw, expression, detail, in that order."""
    if expression.shape[1] != 50:
        raise ValueError(
            f"expression has {expression.shape[1]} coefficients, the detail decoder takes 50; "
            "pass expression[:, :50]"
        )
    return torch.cat([jaw, expression, detail], dim=1)
