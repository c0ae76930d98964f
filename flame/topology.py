"""What does not change with identity: polygons, UV, materials, parts, landmarks, mirror map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame.records import TensorRecord


@dataclass(frozen=True, eq=False)
class Topology(TensorRecord):
    """Connectivity of a head model; polygons are counter-clockwise, padded with -1 to quads."""

    polygons: Int[Tensor, "P 4"]
    uv: Float[Tensor, "T 2"]
    uv_polygons: Int[Tensor, "P 4"]
    material_ids: Int[Tensor, " P"]
    material_names: tuple[str, ...]
    part_ids: Int[Tensor, " P"]
    part_names: tuple[str, ...]
    mirror: Int[Tensor, " V"]
    landmark_verts: Int[Tensor, "68 3"]  # corners of the triangle that carries each point
    landmark_bary: Float[Tensor, "68 3"]
    contour_verts: Int[Tensor, "R 17"]  # jaw contour per whole degree of yaw, FLAME's row order
    dense_verts: Int[Tensor, " L"]  # vertices of the dense landmarks

    def faces(self) -> Int[Tensor, "F 3"]:
        """All polygons as triangles, quads split along their first diagonal."""
        quads = self.polygons[self.polygons[:, 3] >= 0]
        return torch.cat([self.polygons[:, :3], quads[:, [0, 2, 3]]])

    def part_polygons(self, *names: str) -> Int[Tensor, "p 4"]:
        """Polygons of the named parts."""
        wanted = torch.tensor([self.part_names.index(name) for name in names])
        return self.polygons[torch.isin(self.part_ids, wanted)]
