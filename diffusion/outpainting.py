"""A picture continued beyond its edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from diffusion.conduct import OnStep
from diffusion.inpainting import inpaint
from diffusion.recipe import Recipe
from diffusion.record import Pipeline

_NEAR = 8  # px; the radius of the new part's blur


@dataclass(frozen=True)
class Margins:
    """Pixels to add at each side."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def __post_init__(self) -> None:
        sides = (self.left, self.right, self.top, self.bottom)
        if min(sides) < 0 or max(sides) == 0:
            raise ValueError(f"margins of {sides} pixels add nothing; give at least one above 0")


def outpaint(
    pipeline: Pipeline,
    recipe: Recipe,
    image: Float[Tensor, "1 3 H W"],
    margins: Margins,
    *,
    on_step: OnStep | None = None,
) -> Float[Tensor, "B 3 H2 W2"]:
    """The image grown by its margins; the old part stays byte for byte what it was.

    The new part starts from a blurred mirror image, so that with a strength below 1 colours go on.
    """
    height, width = image.shape[-2:]
    rows = _mirrored(height, margins.top, margins.bottom)
    columns = _mirrored(width, margins.left, margins.right)
    canvas = image[..., rows, :][..., columns]
    inside = (
        slice(margins.top, margins.top + height),
        slice(margins.left, margins.left + width),
    )
    mask = torch.ones_like(canvas[:, :1])
    mask[..., inside[0], inside[1]] = 0
    soft = F.avg_pool2d(F.pad(canvas, (_NEAR,) * 4, mode="replicate"), 2 * _NEAR + 1, 1)
    canvas = canvas.where(mask == 0, soft)
    return inpaint(pipeline, recipe.change(size=None), canvas, mask, on_step=on_step)


def _mirrored(length: int, before: int, after: int) -> Int[Tensor, " N"]:
    """Places along a side that go on beyond its ends as in facing mirrors."""
    period = max(1, 2 * (length - 1))
    place = torch.arange(-before, length + after) % period
    return torch.minimum(place, period - place).clamp(max=length - 1)
