"""A wardrobe that needs no painting: grey skin, grey eyes, no hair."""

from __future__ import annotations

import torch

from deca.synth_wardrobe import Wardrobe
from flame.albedo import AlbedoModel


class PlainSkin(AlbedoModel):
    """One grey for all, so that no test waits for paint."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.names = ("melanin",)

    def sample(self, count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(count, 1, generator=generator)

    def decode(self, codes: torch.Tensor, size: int | None = None) -> torch.Tensor:
        return torch.full((len(codes), 3, size or 8, size or 8), 0.6)

    def tone(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.full((len(codes), 3), 0.6)


def plain_wardrobe() -> Wardrobe:
    blank = torch.full((3, 4, 4), 0.5)
    return Wardrobe(PlainSkin(), {"blue": [blank]}, blank, [torch.zeros(4, 4, 4)], {})
