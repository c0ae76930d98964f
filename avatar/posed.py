"""A head whose rest is an expression: what exporters without animation can show."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from flame.head import JOINT_PARENTS, Head
from flame.rotation import axis_angle_to_matrix


@torch.no_grad()
def posed_head(
    head: Head, weights: Float[Tensor, "1 M"], rotations: Float[Tensor, "1 J 3"]
) -> Head:
    """The head with this expression and pose as its rest, still rigged.

    Morphs turn with the pose and joints stand where it brings them, so that the result under
    further weights dw is the head under weights + dw, exactly.
    """
    local = axis_angle_to_matrix(rotations[0])
    turns: list[Tensor] = []
    places: list[Tensor] = []
    for joint, parent in enumerate(JOINT_PARENTS):
        rest = head.joints[joint]
        turns.append(local[joint] if parent < 0 else turns[parent] @ local[joint])
        moved = (
            rest if parent < 0 else places[parent] + turns[parent] @ (rest - head.joints[parent])
        )
        places.append(moved)
    blended = torch.einsum("vj,jik->vik", head.lbs_weights, torch.stack(turns))
    return dataclasses.replace(
        head,
        verts=head.pose(weights, rotations)[0],
        morphs=torch.einsum("vik,mvk->mvi", blended, head.morphs),
        joints=torch.stack(places),
    )
