"""Which pixels of a crop show the skin of the face, told by its points and its own colours."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flame.srgb import srgb_to_lab

_FOREHEAD = 0.35  # of the distance from brows to chin that the mask rises over the brows
_CHROMA, _DARK, _BRIGHT = 14.0, 30.0, 35.0  # least tolerances in CIELAB
_SPREADS = 3.5  # tolerances in median deviations, where the face's own light varies more


@torch.no_grad()
def skin_mask(
    image: Float[Tensor, "3 K K"], points: Float[Tensor, "68 2"]
) -> Float[Tensor, "1 K K"]:
    """1 on skin, 0 elsewhere, of a face whose 68 points are given in pixels.

    A simple rule, for photos without masks of their own: the outline of jaw and brows, raised over
    the forehead, less eyes and the inside of the mouth; of that, what is coloured as cheeks and
    nose are, in majority of its neighbourhood.
    """
    side = image.shape[-1]
    brows, chin = points[17:27], points[8]
    up = brows.mean(0) - chin
    outline = torch.cat([points[:17], (brows + _FOREHEAD * up).flip(0)])
    inside = _filled(outline, side)
    for hole in (points[36:42], points[42:48], points[60:68]):
        inside = inside & ~_filled(hole, side)
    middle = _filled(torch.cat([points[[2, 4, 12, 14]], points[[46, 41]]]), side) & inside
    if int(middle.sum()) < 16:  # a face turned so far that its middle is a line
        middle = inside
    if not bool(middle.any()):
        return image.new_zeros(1, side, side)
    lab = srgb_to_lab(image)
    usual = lab[:, middle].median(1).values[:, None, None]
    off = lab - usual
    spread = off[:, middle].abs().median(1).values
    chroma = off[1:].norm(dim=0) <= max(_CHROMA, _SPREADS * float(spread[1:].norm()))
    light = (off[0] >= -max(_DARK, _SPREADS * float(spread[0]))) & (
        off[0] <= max(_BRIGHT, _SPREADS * float(spread[0]))
    )
    skin = (inside & chroma & light).to(image.dtype)[None]
    most = F.avg_pool2d(skin[None], 5, 1, padding=2)[0] > 0.5
    return (most & inside).to(image.dtype)


def _filled(corners: Float[Tensor, "N 2"], side: int) -> Tensor:
    """Pixels whose centres are inside a polygon [K, K]."""
    from skimage.draw import polygon2mask

    at = corners.flip(1).double().numpy() - 0.5  # rows and columns of pixel centres
    return torch.from_numpy(np.asarray(polygon2mask((side, side), at)))
