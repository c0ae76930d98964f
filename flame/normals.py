"""Normals of faces and vertices."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def face_normals(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"]
) -> Float[Tensor, "B F 3"]:
    """Outward normals, not normalised: their length is twice the face's area."""
    # index_select adds its gradients in order, where verts[:, faces] would not on many threads
    corners = verts.index_select(1, faces.reshape(-1)).view(len(verts), len(faces), 3, 3)
    first, second, third = corners.unbind(2)
    normals: Tensor = torch.linalg.cross(second - first, third - first)
    return normals


def vertex_normals(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"]
) -> Float[Tensor, "B V 3"]:
    """Unit normals: the area-weighted mean over a vertex's faces, zero where it has none."""
    normals = face_normals(verts, faces).repeat_interleave(3, dim=1)
    total = torch.zeros_like(verts).index_add(1, faces.reshape(-1), normals)
    # areas may be as small as square micrometres: DECA's eps of 1e-6 would show there
    return torch.nn.functional.normalize(total, dim=-1, eps=1e-20)
