"""Convolutions of pictures that arrive a few columns at a time.

Pictures are laid out [H, W, C], as small convolutions are quickest: H bands, W columns in time.
What a convolution is given is written straight into its `room`, beside what it remembers.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


class StreamedConv:
    """A 3 x 3 convolution that remembers the last column behind the next ones.

    Of each picture, some first columns are computed for good; those after them come again.
    """

    def __init__(
        self, weight: Float[Tensor, "D C 3 3"], bias: Float[Tensor, " D"] | None = None
    ) -> None:
        self._weight = weight.detach().contiguous(memory_format=torch.channels_last)
        self._bias = None if bias is None else bias.detach()
        self._wide = weight.detach().new_zeros(0, 2, weight.shape[1])
        self._seen = self._wide
        self._kept = 0  # the column that the next picture follows, where it is not the first

    def room(self, height: int, width: int) -> Float[Tensor, "H W2 C"]:
        """Where to put the next picture, from the second column to the last but one.

        Before that, the column `take_kept` is to become the first.
        """
        if self._wide.shape[:2] != (height, width + 2):
            wide = self._wide.new_zeros(height, width + 2, self._wide.shape[2])
            if self._wide.shape[0] == height:
                wide[:, 0] = self._wide[:, self._kept]
                self._kept = 0
            self._wide, self._seen = wide, wide.permute(2, 0, 1)[None]
        return self._wide

    def take_kept(self) -> int:
        """Number of the column to keep, 0 where it is there."""
        kept, self._kept = self._kept, 0
        return kept

    def made(self, columns: int) -> Float[Tensor, "H W D"]:
        """The convolution of what is in the room, of which `columns` are there for good."""
        self._kept = columns
        out = F.conv2d(self._seen, self._weight, self._bias, padding=(1, 0))
        return out[0].permute(1, 2, 0)

    def step(self, x: Float[Tensor, "H W C"], columns: int) -> Float[Tensor, "H W D"]:
        """The convolution of a picture."""
        wide = self.room(*x.shape[:2])
        if kept := self.take_kept():
            wide[:, 0] = wide[:, kept]
        wide[:, 1:-1] = x
        return self.made(columns)


def pooled(x: Float[Tensor, "H W C"], step: tuple[int, int]) -> Float[Tensor, "H2 W2 C"]:
    """Means over neighbouring bands and columns; an odd last one is dropped."""
    if step == (1, 1):
        return x
    return F.avg_pool2d(x.permute(2, 0, 1)[None], step)[0].permute(1, 2, 0)


def repeated(x: Float[Tensor, "H W C"]) -> Float[Tensor, "H 1 W 1 C"]:
    """A picture ready to go into `cells` of a larger one."""
    return x[:, None, :, None]


def cells(x: Float[Tensor, "H W C"], step: tuple[int, int]) -> Float[Tensor, "H2 A W2 B C"]:
    """A picture as cells of `step` bands and columns."""
    height, width, channels = x.shape
    return x.view(height // step[0], step[0], width // step[1], step[1], channels)
