"""The shipped head's 52 ARKit shapes on a published FLAME's topology, by deformation transfer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from assets.errors import AssetError
from flame.deformation_transfer import DeformationTransfer
from flame.load import load_head
from flame.model import Flame
from flame.official import OfficialFlame
from flame.params import gaze_from_arkit
from flame.registration import (
    RegistrationConfig,
    Surface,
    correspondence,
    outer_faces,
    register,
)
from flame.remesh import Bools, Floats, Ints, triangulate
from flame.rotation import axis_angle_to_matrix

_SKIN = ("face", "neck", "mouth_bag", "eye_socket")
_BALLS = ("eye_left", "eye_right")
_STILL_PARTS = ("scalp", "neck", "left_ear", "right_ear", "boundary")
# iBUG points of the upper lid and those under them on the lower one
_LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))
_STILL = 1e-4  # metres: less is rest
_STILL_IN_PARTS = 1e-3  # what scalp, neck and ears may be denied


@dataclass(frozen=True)
class TransferredShapes:
    """The 52 shapes on a FLAME mesh, with what the registration says of them."""

    morphs: Floats  # [52, V, 3] metres at weight 1; eyeballs do not move
    face: Floats  # [V] shares of the visible, moving face, which sum to 1
    focus: Floats  # [V] shares with more for eyes and mouth, for fits
    distance_mm: float  # mean way between the registered surfaces over that face


def transfer_arkit(
    flame: OfficialFlame, config: RegistrationConfig | None = None
) -> TransferredShapes:
    """The shipped head's shapes on a published model's template.

    The two heads are registered by the 68 (else 51) landmarks, then by closest points. Scalp, neck
    and ears stay still. Raises AssetError where the model came without landmarks.
    """
    ours = load_head()
    surface, skin = _shipped_surface(ours)
    morphs = ours.head(torch.zeros(ours.n_shape)).morphs.double().numpy()
    verts = flame.template.detach().double().cpu().numpy()
    faces = flame.faces.cpu().numpy()
    ball = flame.topology.part_ids.cpu().numpy() > 0
    own_marks, first = _landmarks(flame)
    seen = outer_faces(verts, faces)
    head_faces, outer = faces[~ball], seen[~ball]
    own = Surface(verts, head_faces, outer, own_marks)
    onto = Surface(surface.verts, surface.faces, surface.outer, surface.marks[first:])
    trust = np.ones(len(verts))
    for part in ("left_ear", "right_ear"):
        if part in flame.masks:
            trust[flame.masks[part].numpy()] = 0.2
    laid = register(own, onto, still_ways=trust, config=config)
    match = correspondence(laid.verts, head_faces, outer, onto)
    moves = np.linalg.norm(morphs[:, skin], axis=2).max(0)  # of each of our vertices
    reach = moves[onto.faces[match.vert_faces]].max(1)
    still = (reach < _STILL) & (match.vert_confidence > 0.1)
    for part in _STILL_PARTS:
        if part in flame.masks:
            chosen = flame.masks[part].numpy()
            still[chosen] |= reach[chosen] < _STILL_IN_PARTS
    transfer = DeformationTransfer(
        surface.verts,
        surface.faces,
        verts,
        head_faces,
        match,
        still=still,
        scale=1 / laid.scale,
        rotation=laid.rotation.T,
        gaps=_lid_pairs(own_marks, verts, head_faces, first),
    )
    shapes = transfer.transfer(morphs[:, skin])
    face = _face(verts, head_faces, outer, reach)
    near = np.where(np.isfinite(laid.distance), laid.distance, 0)
    return TransferredShapes(
        shapes, face, _focused(face, verts, own_marks[36 - first :]), 1e3 * float(face @ near)
    )


def with_eyes(
    morphs: Float[Tensor, "52 V 3"],
    flame: OfficialFlame,
    verts: Float[Tensor, "V 3"],
    joints: Float[Tensor, "5 3"],
) -> Float[Tensor, "52 V 3"]:
    """The shapes with eyeballs that turn rigidly about their joints under `eyeLook*`."""
    turned = morphs.clone()
    gaze = axis_angle_to_matrix(gaze_from_arkit(torch.eye(52).to(morphs)))  # [52, 2, 3, 3]
    for eye in (0, 1):
        ball = torch.unique(flame.faces[flame.topology.part_ids == eye + 1])
        arm = (verts[ball] - joints[3 + eye]).to(morphs)
        turned[:, ball] = torch.einsum("mij,vj->mvi", gaze[:, eye], arm) - arm
    return turned


def _shipped_surface(ours: Flame) -> tuple[Surface, Ints]:
    """Our skin as a surface of its own vertices, and which of the head's these are."""
    skin = triangulate(ours.topology.part_polygons(*_SKIN).numpy())
    balls = triangulate(ours.topology.part_polygons(*_BALLS).numpy())
    verts = ours.template.double().numpy()
    outer = outer_faces(verts, np.concatenate([skin, balls]))[: len(skin)]
    used, packed = np.unique(skin, return_inverse=True)
    marks = ours.landmarks68(ours.template[None])[0].double().numpy()
    return Surface(verts[used], packed.reshape(skin.shape), outer, marks), used


def _landmarks(flame: OfficialFlame) -> tuple[Floats, int]:
    """Points on the template, and which of the 68 is their first."""
    verts = flame.template[None]
    if flame.embeddings.fixed is not None:
        return flame.landmarks68(verts)[0].double().cpu().numpy(), 0
    if flame.embeddings.static is not None:
        return flame.landmarks51(verts)[0].double().cpu().numpy(), 17
    raise AssetError(
        "this FLAME model came without landmarks, which lay the ARKit shapes onto it; put "
        "landmark_embedding.npy beside it or into the folder that `avatar doctor` names"
    )


def _lid_pairs(marks: Floats, verts: Floats, faces: Ints, first: int) -> Ints:
    """Vertices of upper lids and those under them, so that a blink closes eyes of any height."""
    used = np.unique(faces)
    _, near = cKDTree(verts[used]).query(marks[np.array(_LIDS) - first])
    return np.asarray(used[near], dtype=np.int64)


def _face(verts: Floats, faces: Ints, outer: Bools, reach: Floats) -> Floats:
    """Shares of the visible surface that some shape moves by half a millimetre or more."""
    corners = verts[faces]
    area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    share = np.bincount(faces[outer].ravel(), np.repeat(area[outer], 3), minlength=len(verts)) * (
        reach > 5e-4
    )
    return np.asarray(share / share.sum())


def _focused(face: Floats, verts: Floats, points: Floats) -> Floats:
    """Shares that weigh lids (the first 12 points) and lips more: they are small, and all look."""
    share = face.copy()
    for chosen, gain in ((points[:12], 20.0), (points[12:], 5.0)):
        way, _ = cKDTree(chosen).query(verts)
        share += gain * face * np.exp(-np.square(way / 0.008))
    return np.asarray(share / share.sum())
