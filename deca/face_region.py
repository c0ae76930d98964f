"""The skin of the face proper on a head model: what is compared with pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame.model import Flame


@dataclass(frozen=True, eq=False)
class FaceRegion:
    """The skin of the face proper: what is compared with the picture."""

    faces: Int[Tensor, "F 3"]  # all skin, since all of it hides
    uv_faces: Int[Tensor, "F 3"]
    uv: Float[Tensor, "T 2"]
    share: Float[Tensor, "V 1"]  # 1 on the face proper, 0 on scalp, ears, neck


def face_region(flame: Flame) -> FaceRegion:
    """The region of a head model, told by its landmarks and dense points."""
    topology = flame.topology
    skin = topology.material_names.index("skin")
    chosen = topology.material_ids == skin
    polygons, uv_polygons = topology.polygons[chosen], topology.uv_polygons[chosen]
    quads = polygons[:, 3] >= 0
    faces = torch.cat([polygons[:, :3], polygons[quads][:, [0, 2, 3]]])
    uv_faces = torch.cat([uv_polygons[:, :3], uv_polygons[quads][:, [0, 2, 3]]])
    rest = flame.template
    marks = flame.landmarks68(rest[None])[0]
    brow_top = float(marks[17:27, 1].max())
    chin = float(marks[8, 1])
    # an upright ellipse from chin to mid forehead, as wide as the jaw, on the front half
    middle_y = (brow_top + 0.03 + chin) / 2
    half_height = (brow_top + 0.03 - chin) / 2 + 0.004
    half_width = 0.92 * float(marks[16, 0] - marks[0, 0]) / 2
    x, y = rest[:, 0] / half_width, (rest[:, 1] - middle_y) / half_height
    front = ((rest[:, 2] - 0.02) / 0.03).clamp(0, 1)
    share = ((1.0 - (x.square() + y.square()).sqrt()) / 0.12).clamp(0, 1) * front
    return FaceRegion(faces, uv_faces, topology.uv, share[:, None])
