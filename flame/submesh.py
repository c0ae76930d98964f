"""The head as renderers want it: one submesh a material, one vertex a (position, uv) pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame.head import Head
from flame.material import Material
from flame.normals import vertex_normals


@dataclass(frozen=True, eq=False)
class Submesh:
    """Triangles of one material, whose vertices are split where the UV layout has a seam.

    Vertices are in order of the head's vertex index, then of its uv index, so that the order
    depends on the topology alone: two heads of one topology give submeshes that match vertex by
    vertex. Indices are on the CPU.
    """

    material: str
    vertex_ids: Int[Tensor, " N"]  # into Head.verts
    uv_ids: Int[Tensor, " N"]  # into Head.uv
    triangles: Int[Tensor, "F 3"]  # into the two above


def split_submeshes(head: Head) -> list[Submesh]:
    """The submeshes of `head` in order of its material names; unused materials give none."""
    faces, uv_faces, materials = head.triangles()
    n_uv = len(head.uv)
    submeshes = []
    for index, name in enumerate(head.material_names):
        chosen = materials == index
        if not bool(chosen.any()):
            continue
        corners = faces[chosen].long() * n_uv + uv_faces[chosen].long()  # [F, 3]
        unique, inverse = np.unique(corners.cpu().numpy(), return_inverse=True)
        pairs = torch.from_numpy(unique)
        triangles = torch.from_numpy(inverse.reshape(-1, 3))
        submeshes.append(Submesh(name, pairs // n_uv, pairs % n_uv, triangles))
    return submeshes


def used_materials(head: Head) -> list[str]:
    """Names of the materials that polygons use, in the order of the head's material names."""
    return [head.material_names[index] for index in sorted(set(head.material_ids.tolist()))]


def materials_by_name(head: Head, materials: Sequence[Material]) -> dict[str, Material]:
    """The given materials by name, after a check that each one the head's polygons use is there.

    Materials that no polygon uses are left aside: a head without hair may be given hair's.
    """
    given = {material.name: material for material in materials}
    if len(given) < len(materials):
        names = sorted(material.name for material in materials)
        raise ValueError(f"materials {names} name one material twice; give each name once")
    used = used_materials(head)
    missing = [name for name in used if name not in given]
    if missing:
        raise ValueError(
            f"materials lack {', '.join(missing)}, which the head's polygons use; "
            f"pass one Material for each of {', '.join(used)}"
        )
    return given


def check_finite(head: Head) -> None:
    """Refuse a head with NaN or infinity in it, before half a file is written."""
    for field in ("verts", "uv", "morphs", "joints", "lbs_weights"):
        if not bool(torch.isfinite(getattr(head, field)).all()):
            raise ValueError(
                f"head.{field} holds NaN or infinity, which no file format can carry; "
                "check the codes that the head was made from"
            )


def unit_normals(verts: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "V 3"]:
    """Vertex normals for files, which refuse any that is not of unit length.

    Where a vertex has no faces, or only ones without area, the normal is +z.
    """
    # in float64, so that vertices which a morph leaves alone keep their normals to the last bit
    normals = vertex_normals(verts.double()[None], faces)[0]
    forward = normals.new_tensor([0.0, 0.0, 1.0])
    known = normals.norm(dim=-1, keepdim=True) > 0.5
    return torch.where(known, normals, forward).to(verts.dtype)
