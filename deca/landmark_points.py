"""Which points of the head the landmark network predicts, and what says that it is this head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from assets.errors import AssetError
from flame.model import Flame
from flame.records import TensorRecord

N_LANDMARKS = 68
AGREEMENT_M = 0.0005  # points of another build of the same head lie closer than this

# Mirror partners of the 68 iBUG points, in order.
_FLIP_68 = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31),
    *range(35, 30, -1),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
    *(64, 63, 62, 61, 60, 67, 66, 65),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class LandmarkPoints(TensorRecord):
    """The 68 iBUG points, then dense vertices, then the subject's left and right pupil.

    A point is a weighted mean of three vertices; `rest` is where it lies on the mean head.
    """

    corners: Int[Tensor, "L 3"]
    bary: Float[Tensor, "L 3"]
    flip: Int[Tensor, " L"]  # each point's mirror partner
    rest: Float[Tensor, "L 3"]  # metres

    def __len__(self) -> int:
        return len(self.corners)

    @property
    def verts(self) -> Int[Tensor, " D"]:
        """The vertices that the points after the 68 are."""
        return self.corners[N_LANDMARKS:, 0]

    def on(self, verts: Float[Tensor, "B V 3"]) -> Float[Tensor, "B L 3"]:
        """The points on posed heads; differentiable."""
        return torch.einsum("blck,lc->blk", verts[:, self.corners], self.bary)

    def check(self, flame: Flame) -> None:
        """Raise AssetError unless the points lie on this head where they lay in training."""
        if int(self.corners.max()) >= len(flame.template):
            raise AssetError(
                f"the landmark network was trained on a head with other vertices than this one of "
                f"{len(flame.template)}; train it again with `python -m deca.train landmarks`"
            )
        moved = float((self.on(flame.template[None])[0] - self.rest).norm(dim=1).max())
        if moved > AGREEMENT_M:
            raise AssetError(
                f"the landmark network was trained on another head: a point lies {1e3 * moved:.1f} "
                "mm away on this one; train it again with `python -m deca.train landmarks`"
            )


def landmark_points(flame: Flame) -> LandmarkPoints:
    """The points of a head model: its 68, its dense vertices, its pupils."""
    topology = flame.topology
    single = torch.cat([topology.dense_verts, pupil_verts(flame)])
    corners = torch.cat([topology.landmark_verts, single[:, None].expand(-1, 3)])
    sure = torch.tensor([[1.0, 0.0, 0.0]]).expand(len(single), 3)
    bary = torch.cat([topology.landmark_bary, sure])
    index_of = torch.full((len(flame.template),), -1)
    index_of[single] = torch.arange(len(single)) + N_LANDMARKS
    flip = torch.cat([torch.tensor(_FLIP_68), index_of[topology.mirror[single]]])
    if bool((flip < 0).any()):
        raise ValueError(
            "the head's dense points are not symmetric; choose dense_verts in mirror pairs"
        )
    rest = torch.einsum("lck,lc->lk", flame.template[corners], bary)
    return LandmarkPoints(corners, bary, flip, rest)


def pupil_verts(flame: Flame) -> Int[Tensor, 2]:
    """The foremost vertex of the left and of the right eyeball."""
    found = []
    for part in ("eye_left", "eye_right"):
        verts = flame.topology.part_polygons(part).unique()  # type: ignore[no-untyped-call]
        verts = verts[verts >= 0]
        front = flame.template[verts, 2]
        # the optical axis is +z, so the pupil's vertex is the highest along it
        found.append(verts[front.argmax()])
    return torch.stack(found)
