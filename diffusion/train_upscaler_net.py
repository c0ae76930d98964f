"""A small network that makes pictures twice as large, for the portrait model of 128 pixels."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from assets.weights import load_weights, read_metadata


class Upscaler(nn.Module):
    """What bicubic enlarging lacks, by residual blocks without normalization (Lim et al. 2017)."""

    def __init__(self, width: int = 48, blocks: int = 8) -> None:
        super().__init__()
        self.width = width
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in range(blocks)
        )
        self.leave = nn.Conv2d(width, 12, 3, padding=1)
        nn.init.zeros_(self.leave.weight)  # the start is bicubic enlarging
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H2 W2"]:
        """The images, 0..1, twice as large; slightly out of range where edges overshoot."""
        found = self.enter(images - 0.5)
        for block in self.blocks:
            found = found + 0.2 * block(found)
        larger = F.interpolate(images, scale_factor=2, mode="bicubic", align_corners=False)
        return larger + F.pixel_shuffle(self.leave(found), 2)


def load_upscaler(path: Path) -> Upscaler:
    """A trained one."""
    told = read_metadata(path)
    net = Upscaler(int(told.get("width", 48)), int(told.get("blocks", 8)))
    load_weights(net, path)
    return net.eval().requires_grad_(False)


@torch.no_grad()
def enlarge(net: Upscaler, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H2 W2"]:
    """Pictures, 0..1, twice as large."""
    weight = net.enter.weight
    larger: Tensor = net(images.to(weight))
    return larger.clamp(0, 1).to(images)
