"""FLAME's formulation: shape and expression blendshapes, pose correctives, skinning."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flame.arkit import ARKIT_NAMES
from flame.head import Head
from flame.params import Params, params_from_arkit
from flame.records import TensorRecord
from flame.rotation import axis_angle_to_matrix
from flame.topology import Topology

PARENTS = (-1, 0, 1, 1, 1)  # root, neck, jaw, left eye, right eye


@dataclass(frozen=True, eq=False)
class FlameArrays(TensorRecord):
    """The learned arrays of a head model; bases are per standard deviation, metres."""

    template: Float[Tensor, "V 3"]
    shapedirs: Float[Tensor, "S V 3"]
    expressiondirs: Float[Tensor, "E V 3"]
    posedirs: Float[Tensor, "36 V 3"]
    joint_regressor: Float[Tensor, "5 V"]
    lbs_weights: Float[Tensor, "V 5"]
    # the exported skeleton has a head joint between neck and jaw: its place and its share
    head_joint_regressor: Float[Tensor, " V"]
    head_share: Float[Tensor, " V"]


@dataclass(frozen=True, eq=False)
class Posed(TensorRecord):
    """Heads in space, metres."""

    verts: Float[Tensor, "B V 3"]
    joints: Float[Tensor, "B 5 3"]  # where the joints are at rest


def skin(
    verts: Float[Tensor, "B V 3"],
    transforms: Float[Tensor, "B J 4 4"],
    lbs_weights: Float[Tensor, "V J"],
) -> Float[Tensor, "B V 3"]:
    """Move each vertex by the weighted mean of its joints' transforms."""
    batch, joints = transforms.shape[:2]
    flat = transforms[:, :, :3].reshape(batch, joints, 12).transpose(1, 2)
    blended = (flat @ lbs_weights.T).transpose(1, 2)  # [B, V, 12]
    blended = blended.reshape(batch, -1, 3, 4)
    return torch.einsum("bvik,bvk->bvi", blended[..., :3], verts) + blended[..., 3]


def joint_transforms(
    rotations: Float[Tensor, "B J 3 3"],
    joints: Float[Tensor, "B J 3"],
    parents: tuple[int, ...],
) -> Float[Tensor, "B J 4 4"]:
    """World transforms relative to rest of a chain of joints (Li et al. 2017, equation 2)."""
    world: list[Tensor] = []
    for joint, parent in enumerate(parents):
        offset = joints[:, joint] if parent < 0 else joints[:, joint] - joints[:, parent]
        local = torch.cat([rotations[:, joint], offset[..., None]], dim=-1)
        last = local.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(local), 1, 4)
        local = torch.cat([local, last], dim=1)
        world.append(local if parent < 0 else world[parent] @ local)
    chain = torch.stack(world, dim=1)
    moved = torch.einsum("bjik,bjk->bji", chain[..., :3, :3], joints)
    shift = chain[..., :3, 3] - moved
    top = torch.cat([chain[..., :3, :3], shift[..., None]], dim=-1)
    return torch.cat([top, chain[..., 3:, :]], dim=2)


class Flame(nn.Module):
    """A statistical head: parameters to vertices, joints and landmarks."""

    template: Tensor
    shapedirs: Tensor
    expressiondirs: Tensor
    posedirs: Tensor
    joint_regressor: Tensor
    lbs_weights: Tensor
    head_joint_regressor: Tensor
    head_share: Tensor

    def __init__(self, arrays: FlameArrays, topology: Topology) -> None:
        super().__init__()
        for name in FlameArrays.__dataclass_fields__:
            self.register_buffer(name, getattr(arrays, name))
        self.topology = topology

    @property
    def n_shape(self) -> int:
        return len(self.shapedirs)

    @property
    def n_expression(self) -> int:
        return len(self.expressiondirs)

    def shaped(self, params: Params) -> Float[Tensor, "B V 3"]:
        """Vertices with identity and expression, before posing."""
        for given, own, name in (
            (params.shape.shape[1], self.n_shape, "shape"),
            (params.expression.shape[1], self.n_expression, "expression"),
        ):
            if given > own:
                raise ValueError(
                    f"{name} has {given} coefficients, this head model has {own}; "
                    f"pass {name}[..., :{own}]"
                )
        # two products, since joining the bases would copy tens of megabytes a call
        shape = params.shape @ self.shapedirs[: params.shape.shape[1]].flatten(1)
        expression = params.expression @ self.expressiondirs[: params.expression.shape[1]].flatten(
            1
        )
        return self.template + (shape + expression).reshape(len(shape), -1, 3)

    def forward(self, params: Params) -> Posed:
        """Posed vertices and rest joints."""
        shaped = self.shaped(params)
        joints = torch.einsum("jv,bvk->bjk", self.joint_regressor, shaped)
        pose = torch.stack([params.root, params.neck, params.jaw], dim=1)
        rotations = axis_angle_to_matrix(torch.cat([pose, params.eyes], dim=1))
        identity = torch.eye(3, dtype=shaped.dtype, device=shaped.device)
        features = (rotations[:, 1:] - identity).flatten(1)  # [B, 36]
        corrected = shaped + (features @ self.posedirs.flatten(1)).reshape(shaped.shape)
        transforms = joint_transforms(rotations, joints, PARENTS)
        return Posed(skin(corrected, transforms, self.lbs_weights), joints)

    def restricted(self, kept: Int[Tensor, " K"]) -> Flame:
        """The same model of a few vertices, plus five last ones that stand at the rest joints.

        For fits to points: cost falls with the number of vertices, results are those of the whole.
        """

        def narrowed(per_vertex: Tensor) -> Tensor:
            return torch.cat([per_vertex[kept], self.joint_regressor @ per_vertex])

        count = len(kept) + len(PARENTS)
        regressor = torch.zeros(len(PARENTS), count, dtype=self.template.dtype)
        regressor[:, len(kept) :] = torch.eye(len(PARENTS))
        arrays = FlameArrays(
            template=narrowed(self.template),
            shapedirs=torch.stack([narrowed(basis) for basis in self.shapedirs]),
            expressiondirs=torch.stack([narrowed(basis) for basis in self.expressiondirs]),
            posedirs=torch.cat([self.posedirs[:, kept], self.posedirs.new_zeros(36, 5, 3)], 1),
            joint_regressor=regressor.to(self.template.device),
            lbs_weights=torch.cat([self.lbs_weights[kept], self.lbs_weights.new_zeros(5, 5)]),
            head_joint_regressor=self.template.new_zeros(count),
            head_share=self.template.new_zeros(count),
        )
        return Flame(arrays, self.topology)

    def landmarks68(self, verts: Float[Tensor, "B V 3"]) -> Float[Tensor, "B 68 3"]:
        """The 68 iBUG points with a jaw line fixed to the surface."""
        if int(self.topology.landmark_verts[0, 0]) < 0:
            raise ValueError(
                "this head model has no landmarks; build it again with landmarks68 in rig.toml"
            )
        corners = verts[:, self.topology.landmark_verts]  # [B, 68, 3, 3]
        return torch.einsum("bnck,nc->bnk", corners, self.topology.landmark_bary)

    def contour_landmarks68(
        self, verts: Float[Tensor, "B V 3"], yaw_deg: Float[Tensor, " B"]
    ) -> Float[Tensor, "B 68 3"]:
        """The 68 points with the jaw line where the outline is under `yaw_deg` (DECA's 2D set).

        Positive yaw turns the face to the viewer's right; beyond +-39 degrees the last row holds.
        """
        fixed = self.landmarks68(verts)
        turn = yaw_deg.round().clamp(-39, 39).long()
        row = torch.where(turn >= 0, turn, 39 - turn)
        chosen = self.topology.contour_verts[row]  # [B, 17]
        jaw = torch.gather(verts, 1, chosen[..., None].expand(-1, -1, 3))
        return torch.cat([jaw, fixed[:, 17:]], dim=1)

    @torch.no_grad()
    def head(self, shape: Float[Tensor, " S"]) -> Head:
        """One identity at rest with its 52 morphs and six joints, ready for export."""
        names = ARKIT_NAMES[: self.n_expression]
        weights = torch.cat([shape.new_zeros(1, len(names)), torch.eye(len(names))])
        params = params_from_arkit(shape.expand(len(weights), -1), weights)
        # mouthClose corrects an open jaw: taken at rest it must be the plain linear shape
        close = names.index("mouthClose") + 1
        params.expression[close, close - 1] = 1.0
        posed = self(params)
        rest = posed.verts[0]
        head_joint = self.head_joint_regressor @ rest
        root, neck, jaw, left, right = posed.joints[0]
        weights6 = torch.stack(
            [
                self.lbs_weights[:, 0],
                self.lbs_weights[:, 1] * (1 - self.head_share),
                self.lbs_weights[:, 1] * self.head_share,
                self.lbs_weights[:, 2],
                self.lbs_weights[:, 3],
                self.lbs_weights[:, 4],
            ],
            dim=1,
        )
        return Head(
            verts=rest,
            polygons=self.topology.polygons,
            uv=self.topology.uv,
            uv_polygons=self.topology.uv_polygons,
            material_ids=self.topology.material_ids,
            material_names=self.topology.material_names,
            morphs=_without_traces(posed.verts[1:] - rest),
            morph_names=tuple(names),
            joints=torch.stack([root, neck, head_joint, jaw, left, right]),
            lbs_weights=weights6,
        )


def _without_traces(morphs: Float[Tensor, "M V 3"]) -> Float[Tensor, "M V 3"]:
    """Morphs without displacements below 20 micrometres, which nobody sees and every file holds."""
    return torch.where(morphs.norm(dim=-1, keepdim=True) > 2e-5, morphs, 0.0)


def jaw_posedirs(corrective: Float[Tensor, "V 3"], angle_deg: float) -> Float[Tensor, "36 V 3"]:
    """Pose correctives that add `corrective` in full when the jaw has turned `angle_deg` about x.

    A turn by t about x shows in R - I as -sin t at (1, 2) and sin t at (2, 1); the corrective hangs
    on these two, so FLAME's linear form holds with no special case.
    """
    posedirs = corrective.new_zeros(36, *corrective.shape)
    share = corrective / (2 * math.sin(math.radians(angle_deg)))
    posedirs[9 + 3 * 1 + 2] = -share
    posedirs[9 + 3 * 2 + 1] = share
    return posedirs
