"""Official FLAME models with the shipped head's interface: parameters to vertices and landmarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from assets.arrays import read_array
from assets.errors import AssetError
from assets.store import official_file
from flame.embeddings import (
    Embedding,
    Embeddings,
    contour_row,
    contour_sign,
    read_embeddings,
    yaw_deg,
)
from flame.head import Head
from flame.masks import read_masks
from flame.model import PARENTS, Flame, FlameArrays, Posed, joint_transforms, skin
from flame.official_arrays import N_SHAPE, load_official_arrays
from flame.official_topology import official_topology
from flame.params import Params
from flame.records import TensorRecord
from flame.rotation import axis_angle_to_matrix
from flame.texture_space import MeshUv, read_mesh_uv

GEOMETRIES = (  # in the order of preference where several are placed
    "flame/flame2023_Open.pkl",
    "flame/generic_model.pkl",
    "flame/flame2023.pkl",
    "flame/flame2023_no_jaw.pkl",
    "flame/flame2019/generic_model.pkl",
)
_LANDMARKS = (
    "landmark_embedding.npy",
    "flame_static_embedding.pkl",
    "flame_dynamic_embedding.npy",
    "mediapipe_landmark_embedding.npz",
)
_UV = ("head_template.obj", "FLAME_texture.npz", "albedoModel2020_FLAME_albedoPart.npz")
_EYELIDS = ("l_eyelid.npy", "r_eyelid.npy")
_MASKS = "FLAME_masks.pkl"


@dataclass(frozen=True, eq=False)
class Companions(TensorRecord):
    """What is published beside FLAME's geometry; each part may be absent."""

    embeddings: Embeddings = field(default_factory=Embeddings)
    masks: dict[str, Tensor] = field(default_factory=dict)
    eyelids: Float[Tensor, "2 V 3"] | None = None  # left, right: displacements that close one lid
    uv: MeshUv | None = None


class OfficialFlame(Flame):
    """A published FLAME model; `Params.expression` are its own components, not ARKit weights.

    `contour_sign` says which way the rows of the moving jaw line turn: 1 as DECA, EMOCA and SMIRK
    read them, -1 as FLAME_PyTorch and smplx do. By default the file's own geometry decides.
    With `eyelids_after_skinning` lids are moved along the world's axes, as the published trackers
    do, instead of with the head.
    """

    faces: Tensor
    eyelids: Tensor | None

    def __init__(
        self,
        arrays: FlameArrays,
        faces: Int[Tensor, "F 3"],
        companions: Companions | None = None,
        *,
        contour_sign: int | None = None,
        eyelids_after_skinning: bool = False,
    ) -> None:
        companions = companions or Companions()
        topology = official_topology(arrays.template, faces, companions.embeddings, companions.uv)
        super().__init__(arrays, topology)
        if contour_sign not in (None, 1, -1):
            raise ValueError(f"contour_sign={contour_sign} must be 1, -1 or None")
        self.register_buffer("faces", faces)
        self.register_buffer("eyelids", companions.eyelids)
        self.embeddings = companions.embeddings
        self.masks = companions.masks
        self.has_uv = companions.uv is not None
        self.contour_sign = contour_sign or _measured_sign(arrays, faces, self.embeddings)
        self.eyelids_after_skinning = eyelids_after_skinning

    def forward(self, params: Params, eyelids: Float[Tensor, "B 2"] | None = None) -> Posed:
        """Posed vertices and rest joints; `eyelids` closes the left and right lid, 0..1."""
        if eyelids is None:
            return super().forward(params)
        lids = self._lids(eyelids)
        if self.eyelids_after_skinning:
            posed = super().forward(params)
            return Posed(posed.verts + lids, posed.joints)
        shaped = self.shaped(params)
        joints = torch.einsum("jv,bvk->bjk", self.joint_regressor, shaped)
        rotations = _rotations(params)
        identity = torch.eye(3, dtype=shaped.dtype, device=shaped.device)
        features = (rotations[:, 1:] - identity).flatten(1)  # [B, 36]
        corrective = (features @ self.posedirs.flatten(1)).reshape(shaped.shape)
        transforms = joint_transforms(rotations, joints, PARENTS)
        return Posed(skin(shaped + corrective + lids, transforms, self.lbs_weights), joints)

    def landmarks68(self, verts: Float[Tensor, "B V 3"]) -> Float[Tensor, "B 68 3"]:
        """The 68 iBUG points with a jaw line fixed to the surface (DECA's 3D set)."""
        if self.embeddings.fixed is None:
            raise AssetError(
                "this FLAME model came without its 68 fixed landmarks; put landmark_embedding.npy "
                "beside it or into the folder that `avatar doctor` names"
            )
        return self._points("fixed", verts)

    def landmarks51(self, verts: Float[Tensor, "B V 3"]) -> Float[Tensor, "B 51 3"]:
        """The last 51 iBUG points: all but the jaw line."""
        return self._points("static", verts)

    def landmarks105(self, verts: Float[Tensor, "B V 3"]) -> Float[Tensor, "B 105 3"]:
        """MediaPipe's points on brows, eyes, nose and lips, named by `embeddings.mediapipe_ids`."""
        return self._points("mediapipe", verts)

    def contour_landmarks68(
        self, verts: Float[Tensor, "B V 3"], yaw_deg: Float[Tensor, " B"]
    ) -> Float[Tensor, "B 68 3"]:
        """The 68 points with the jaw line where the outline is under `yaw_deg` (DECA's 2D set).

        Positive yaw turns the face to the viewer's right; beyond +-39 degrees the last row holds.
        """
        lines = self._points("contour", verts)  # [B, 79, 17, 3]
        row = contour_row(yaw_deg * self.contour_sign)
        jaw = lines[torch.arange(len(verts), device=verts.device), row]
        return torch.cat([jaw, self.landmarks51(verts)], dim=1)

    def head_yaw_deg(self, params: Params) -> Float[Tensor, " B"]:
        """How far root and neck turn the face to the viewer's right, degrees."""
        return yaw_deg(axis_angle_to_matrix(params.root) @ axis_angle_to_matrix(params.neck))

    @torch.no_grad()
    def head(
        self,
        shape: Float[Tensor, " S"],
        morphs: Float[Tensor, "M V 3"] | None = None,
        morph_names: tuple[str, ...] = (),
    ) -> Head:
        """One identity at rest with six joints, ready for export.

        Published FLAME has no ARKit shapes: those of the caller are taken, none by default.
        """
        if morphs is None:
            morphs = self.template.new_zeros(0, *self.template.shape)
        if len(morphs) != len(morph_names):
            raise ValueError(f"{len(morphs)} morphs have {len(morph_names)} names; name each once")
        params = _at_rest(shape[None], self.n_expression)
        posed = self(params)
        rest = posed.verts[0]
        root, neck, jaw, left, right = posed.joints[0]
        own = self.lbs_weights
        weights = torch.stack(
            [
                own[:, 0],
                own[:, 1] * (1 - self.head_share),
                own[:, 1] * self.head_share,
                own[:, 2],
                own[:, 3],
                own[:, 4],
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
            morphs=morphs,
            morph_names=morph_names,
            joints=torch.stack([root, neck, self.head_joint_regressor @ rest, jaw, left, right]),
            lbs_weights=weights,
        )

    def _lids(self, eyelids: Float[Tensor, "B 2"]) -> Float[Tensor, "B V 3"]:
        if self.eyelids is None:
            raise AssetError(
                "this FLAME model came without eyelids; put l_eyelid.npy and r_eyelid.npy beside "
                "it or into the folder that `avatar doctor` names"
            )
        return torch.einsum("bl,lvk->bvk", eyelids.clamp(0, 1), self.eyelids)

    def _points(self, name: str, verts: Float[Tensor, "B V 3"]) -> Float[Tensor, "B ... 3"]:
        embedding: Embedding | None = getattr(self.embeddings, name)
        if embedding is None:
            wanted = "mediapipe_landmark_embedding.npz" if name == "mediapipe" else _LANDMARKS[0]
            raise AssetError(
                f"this FLAME model came without its {name} landmarks; put {wanted} beside it or "
                "into the folder that `avatar doctor` names"
            )
        return embedding.to(verts.device).points(verts, self.faces)


def load_flame(
    path: Path | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    contour_sign: int | None = None,
    eyelids_after_skinning: bool = False,
) -> OfficialFlame:
    """The FLAME model of a published file (any year, any kind), on the CPU.

    Without a path the first of `GEOMETRIES` that the user has placed. Landmarks, masks, eyelids and
    UV are taken from files of their published names beside it, else from the user's folder. Raises
    AssetError that lists every missing, unexpected and misshapen key.
    """
    source = _placed() if path is None else Path(path)
    tensors = load_official_arrays(source)
    # copies, as what comes from the cache is a view of its file
    real = {n: t.to(dtype, copy=True) for n, t in tensors.items() if t.is_floating_point()}
    directions = real["shapedirs"].permute(2, 0, 1)  # [400, V, 3]
    regressor = real["J_regressor"]
    arrays = FlameArrays(
        template=real["v_template"],
        shapedirs=directions[:N_SHAPE].contiguous(),
        expressiondirs=directions[N_SHAPE:].contiguous(),
        posedirs=real["posedirs"].permute(2, 0, 1).contiguous(),
        joint_regressor=regressor,
        lbs_weights=real["weights"],
        # FLAME has no head joint: the exported skeleton's is half way between neck and jaw
        head_joint_regressor=regressor[1:3].mean(0),
        head_share=torch.ones_like(real["v_template"][:, 0]),
    )
    faces = tensors["f"].long()
    companions = read_companions(source.parent, faces, len(arrays.template), dtype=dtype)
    return OfficialFlame(
        arrays,
        faces,
        companions,
        contour_sign=contour_sign,
        eyelids_after_skinning=eyelids_after_skinning,
    )


def read_companions(
    folder: Path, faces: Int[Tensor, "F 3"], n_verts: int, *, dtype: torch.dtype = torch.float32
) -> Companions:
    """Landmarks, masks, eyelids and UV from a folder, else from the user's own."""
    embeddings = Embeddings()
    for name in _LANDMARKS:
        if (found := _beside(folder, name)) is not None:
            embeddings = embeddings.merged(read_embeddings(found, len(faces)))
    masks_path = _beside(folder, _MASKS)
    lid_paths = [_beside(folder, name) for name in _EYELIDS]
    left, right = lid_paths
    uv_path = next((p for name in _UV if (p := _beside(folder, name)) is not None), None)
    return Companions(
        embeddings=embeddings,
        masks={} if masks_path is None else read_masks(masks_path, n_verts),
        eyelids=None
        if left is None or right is None
        else torch.stack([_eyelid(path, n_verts).to(dtype) for path in (left, right)]),
        uv=None if uv_path is None else read_mesh_uv(uv_path, faces),
    )


def _eyelid(path: Path, n_verts: int) -> Tensor:
    array = read_array(path)
    if array.shape != (n_verts, 3) or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise AssetError(
            f"{path} is no eyelid shape: {'x'.join(map(str, array.shape))} of {array.dtype}, "
            f"wanted {n_verts}x3 finite floats; fetch it again"
        )
    return torch.from_numpy(np.array(array))


def _beside(folder: Path, name: str) -> Path | None:
    path = folder / name
    return path if path.is_file() else official_file(f"flame/{name}")


def _placed() -> Path:
    for name in GEOMETRIES:
        if (path := official_file(name)) is not None:
            return path
    raise AssetError(
        f"no FLAME model is placed (looked for {', '.join(GEOMETRIES)}); they cannot be shipped: "
        "get one from https://flame.is.tue.mpg.de, `avatar doctor` says where it goes"
    )


def _measured_sign(arrays: FlameArrays, faces: Tensor, embeddings: Embeddings) -> int:
    if embeddings.contour is None:
        return 1
    return contour_sign(embeddings.contour, arrays.template, faces)


def _rotations(params: Params) -> Float[Tensor, "B 5 3 3"]:
    pose = torch.stack([params.root, params.neck, params.jaw], dim=1)
    return axis_angle_to_matrix(torch.cat([pose, params.eyes], dim=1))


def _at_rest(shape: Float[Tensor, "B S"], n_expression: int) -> Params:
    return Params(
        shape=shape,
        expression=shape.new_zeros(len(shape), n_expression),
        root=shape.new_zeros(len(shape), 3),
        neck=shape.new_zeros(len(shape), 3),
        jaw=shape.new_zeros(len(shape), 3),
        eyes=shape.new_zeros(len(shape), 2, 3),
    )
