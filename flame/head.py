"""A head of one identity: geometry, skeleton and morphs, ready to pose, draw and export."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame.records import TensorRecord
from flame.rotation import axis_angle_to_matrix

JOINT_NAMES = ("root", "neck", "head", "jaw", "leftEye", "rightEye")
JOINT_PARENTS = (-1, 0, 1, 2, 2, 2)


@dataclass(frozen=True, eq=False)
class Head(TensorRecord):
    """One identity at rest, with everything an exporter needs; no batch axis, lengths in metres.

    Polygons are quads with a fourth index of -1 where they are triangles, counter-clockwise from
    outside. Morphs are full displacements at weight 1 and are added before skinning, as glTF does.
    """

    verts: Float[Tensor, "V 3"]
    polygons: Int[Tensor, "P 4"]
    uv: Float[Tensor, "T 2"]  # origin bottom left, each material has its own 0..1 square
    uv_polygons: Int[Tensor, "P 4"]
    material_ids: Int[Tensor, " P"]  # index into material_names
    material_names: tuple[str, ...]
    morphs: Float[Tensor, "M V 3"]
    morph_names: tuple[str, ...]
    joints: Float[Tensor, "J 3"]  # rest positions, in the order of JOINT_NAMES
    lbs_weights: Float[Tensor, "V J"]  # rows sum to 1

    def triangles(
        self,
    ) -> tuple[Int[Tensor, "F 3"], Int[Tensor, "F 3"], Int[Tensor, " F"]]:
        """Faces, UV faces and material of each face, quads split along their first diagonal."""
        first = torch.tensor([0, 1, 2], device=self.polygons.device)
        second = torch.tensor([0, 2, 3], device=self.polygons.device)
        is_quad = self.polygons[:, 3] >= 0

        def split(polygons: Int[Tensor, "P 4"]) -> Int[Tensor, "F 3"]:
            return torch.cat([polygons[:, first], polygons[is_quad][:, second]])

        materials = torch.cat([self.material_ids, self.material_ids[is_quad]])
        return split(self.polygons), split(self.uv_polygons), materials

    def pose(
        self,
        weights: Float[Tensor, "B M"],
        rotations: Float[Tensor, "B J 3"],
    ) -> Float[Tensor, "B V 3"]:
        """Vertices under morph weights and local joint rotations (axis-angle, radians)."""
        morphed = self.verts + torch.einsum("bm,mvk->bvk", weights, self.morphs)
        local = axis_angle_to_matrix(rotations)
        world: list[Tensor] = []
        origins: list[Tensor] = []
        for joint, parent in enumerate(JOINT_PARENTS):
            if parent < 0:
                world.append(local[:, joint])
                origins.append(self.joints[joint].expand(len(weights), 3))
                continue
            offset = self.joints[joint] - self.joints[parent]
            world.append(world[parent] @ local[:, joint])
            origins.append(origins[parent] + world[parent] @ offset)
        turn = torch.stack(world, dim=1)  # [B, J, 3, 3]
        shift = torch.stack(origins, dim=1) - torch.einsum("bjik,jk->bji", turn, self.joints)
        blended = torch.einsum("vj,bjik->bvik", self.lbs_weights, turn)  # [B, V, 3, 3]
        moved = torch.einsum("bvik,bvk->bvi", blended, morphed)
        return moved + torch.einsum("vj,bjk->bvk", self.lbs_weights, shift)
