"""Coverage whose gradient does not depend on how large triangles are on the screen.

Antialiasing needs a silhouette edge to belong to a face that a pixel sees; on dense meshes the
outline runs through slivers that no pixel centre hits, and most of the gradient would be lost.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame.camera import clip_to_screen
from flame.raster import Fragments


def coverage(
    fragments: Fragments, clip: Float[Tensor, "B V 4"], faces: Int[Tensor, "F 3"]
) -> Float[Tensor, "B 1 H W"]:
    """1 where a pixel's centre is covered and 0 elsewhere, with gradients to the clip-space points.

    The outline passes between neighbours of which one is covered; when the surface seen there
    moves across it, both gain or lose half of the area it sweeps (Pidhorskyi et al. 2024,
    "Rasterized Edge Gradients", section 4).
    """
    covered = fragments.face_id >= 0
    batch, height, width = covered.shape
    image = covered.to(clip)
    flat = image.new_zeros(batch * height * width)
    for axis in (0, 1):  # x, y
        dim = 2 - axis
        length = covered.shape[dim]
        one = covered.narrow(dim, 0, length - 1)
        two = covered.narrow(dim, 1, length - 1)
        item, row, column = torch.nonzero(one != two, as_tuple=True)
        next_row, next_column = row + axis, column + 1 - axis
        first_covered = covered[item, row, column]
        seen_row = torch.where(first_covered, row, next_row)
        seen_column = torch.where(first_covered, column, next_column)
        face = fragments.face_id[item, seen_row, seen_column]
        bary = fragments.bary[item, seen_row, seen_column].detach().to(clip)
        index = item[:, None] * clip.shape[1] + faces.long()[face]
        corners = clip.flatten(0, 1).index_select(0, index.reshape(-1)).view(-1, 3, 4)
        point = clip_to_screen((corners * bary[..., None]).sum(1), (height, width))[:, axis]
        # zero in value, a pixel a pixel in gradient
        moved = (point - point.detach()) * torch.where(first_covered, 0.5, -0.5).to(clip)
        pixel = (item * height + row) * width + column
        neighbour = (item * height + next_row) * width + next_column
        flat = flat.index_add(0, pixel, moved).index_add(0, neighbour, moved)
    return (image + flat.view_as(image))[:, None]
