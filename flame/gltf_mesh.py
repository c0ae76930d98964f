"""Vertex arrays, morph targets and skinning weights of a GLB file."""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from flame.gltf_buffer import (
    ARRAY_BUFFER,
    ELEMENT_ARRAY_BUFFER,
    GlbBuffer,
    Json,
    float32_array,
)
from flame.head import Head
from flame.submesh import Submesh, unit_normals
from flame.tangents import vertex_tangents

log = logging.getLogger(__name__)

_INFLUENCES = 4  # what one glTF JOINTS_0/WEIGHTS_0 pair holds, and what engines read
_LARGE_LOSS = 0.05  # share of a vertex' weight beyond its four largest that is worth a warning


def add_meshes(
    head: Head, submeshes: list[Submesh], bumpy: set[str], buffer: GlbBuffer
) -> list[Json]:
    """glTF meshes of `submeshes`; their arrays go into `buffer`. Mesh i uses material i.

    Submeshes of the materials named in `bumpy`, those with a normal map, get tangents.
    """
    verts = torch.from_numpy(float32_array(head.verts))
    morphs = torch.from_numpy(float32_array(head.morphs))
    faces = head.triangles()[0].cpu()
    normals = unit_normals(verts, faces)
    turns = torch.zeros_like(morphs)
    for target, morph in enumerate(morphs):
        if bool(morph.any()):
            turns[target] = unit_normals(verts + morph, faces) - normals
    joints, weights = _influences(head)
    uv = float32_array(head.uv).copy()
    uv[:, 1] = 1 - uv[:, 1]  # glTF's v points down

    meshes = []
    for index, submesh in enumerate(submeshes):
        rows = submesh.vertex_ids
        attributes = {
            "POSITION": buffer.add(verts[rows].numpy(), target=ARRAY_BUFFER, bounds=True),
            "NORMAL": buffer.add(normals[rows].numpy(), target=ARRAY_BUFFER),
            "TEXCOORD_0": buffer.add(uv[submesh.uv_ids.numpy()], target=ARRAY_BUFFER),
            "JOINTS_0": buffer.add(joints[rows.numpy()], target=ARRAY_BUFFER),
            "WEIGHTS_0": buffer.add(weights[rows.numpy()], target=ARRAY_BUFFER),
        }
        if submesh.material in bumpy:
            tangents = vertex_tangents(
                verts[rows],
                normals[rows],
                head.uv.detach().float().cpu()[submesh.uv_ids],
                submesh.triangles,
            )
            attributes["TANGENT"] = buffer.add(tangents.numpy(), target=ARRAY_BUFFER)
        # the largest index of a type is reserved: some graphics interfaces restart a strip there
        index_type = np.uint16 if len(rows) < 65535 else np.uint32
        corners = submesh.triangles.numpy().astype(index_type).reshape(-1)
        primitive: Json = {
            "attributes": attributes,
            "indices": buffer.add(corners, target=ELEMENT_ARRAY_BUFFER),
            "material": index,
        }
        mesh: Json = {"name": submesh.material, "primitives": [primitive]}
        moved = morphs[:, rows].numpy()
        if moved.any():
            shifts = buffer.add_displacements(moved)
            turned = buffer.add_displacements(turns[:, rows].numpy())
            primitive["targets"] = [
                {"POSITION": shift, "NORMAL": turn}
                for shift, turn in zip(shifts, turned, strict=True)
            ]
            mesh["weights"] = [0] * len(moved)
            mesh["extras"] = {"targetNames": list(head.morph_names)}
        meshes.append(mesh)
    return meshes


def _influences(head: Head) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The four largest weights of each vertex, falling, summing to 1, and their joints.

    Joints of zero weight are set to 0, as the glTF specification asks.
    """
    dense = head.lbs_weights.detach().double().cpu().numpy()
    joints = np.argsort(-dense, axis=1, kind="stable")[:, :_INFLUENCES]
    weights = np.take_along_axis(dense, joints, axis=1).clip(min=0)
    total = weights.sum(axis=1, keepdims=True)
    if float(total.min()) <= 0:
        raise ValueError("head.lbs_weights has a row without weight; every row must sum to 1")
    if float(total.min()) < 1 - _LARGE_LOSS:
        log.warning(
            "a vertex' weights sum to %.3f over its four largest joints; glTF skinning will "
            "differ from Head.pose there",
            float(total.min()),
        )
    single = (weights / total).astype(np.float32)
    return np.where(single > 0, joints, 0).astype(np.uint8), single
