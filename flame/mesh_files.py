"""Plain triangle meshes with or without vertex colours as OBJ and GLB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from assets.files import replacing
from flame.gltf_buffer import ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER, GlbBuffer, Json, float32_array
from flame.normals import vertex_normals
from flame.srgb import srgb_to_linear

_CLAY = (0.62, 0.60, 0.57, 1.0)  # linear; of meshes without colours
_ROUGHNESS = 0.75


def save_mesh_obj(
    path: Path,
    verts: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    colours: Float[Tensor, "V 3"] | None = None,
) -> None:
    """Write an OBJ of the vertices as they are; colours (sRGB, 0..1) follow each position."""
    rows = verts if colours is None else torch.cat([verts, colours], dim=1)
    pattern = "v %.7g %.7g %.7g" + ("" if colours is None else " %.4f %.4f %.4f")
    lines = [pattern % tuple(row) for row in rows.detach().double().cpu().tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).cpu().tolist()]
    with replacing(Path(path)) as written:
        written.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def save_mesh_glb(
    path: Path,
    verts: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    colours: Float[Tensor, "V 3"] | None = None,
    *,
    z_up: bool = False,
) -> None:
    """Write a GLB with smooth normals; where z is up, a node turns the mesh to glTF's y.

    Colours are sRGB, 0..1; glTF's are linear, so they are converted.
    """
    buffer = GlbBuffer()
    normals = vertex_normals(verts[None].double(), faces)[0]
    # glTF wants unit normals; a vertex without faces gets some direction
    loose = normals.norm(dim=1) < 0.5
    normals[loose] = normals.new_tensor([0.0, 0.0, 1.0])
    attributes = {
        "POSITION": buffer.add(float32_array(verts), target=ARRAY_BUFFER, bounds=True),
        "NORMAL": buffer.add(float32_array(normals), target=ARRAY_BUFFER),
    }
    if colours is not None:
        linear = srgb_to_linear(colours.clamp(0, 1))
        attributes["COLOR_0"] = buffer.add(float32_array(linear), target=ARRAY_BUFFER)
    corners = faces.detach().cpu().numpy().astype(np.uint32).ravel()
    indices = buffer.add(corners, target=ELEMENT_ARRAY_BUFFER)
    base = [1.0] * 4 if colours is not None else list(_CLAY)
    node: Json = {"name": "sculpture", "mesh": 0}
    if z_up:
        half = float(np.sqrt(0.5))
        node["rotation"] = [-half, 0.0, 0.0, half]
    document: Json = {
        "asset": {"version": "2.0", "generator": "prompt-to-avatar"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [node],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": indices, "material": 0}]}],
        "materials": [
            {
                "pbrMetallicRoughness": {
                    "baseColorFactor": base,
                    "metallicFactor": 0.0,
                    "roughnessFactor": _ROUGHNESS,
                }
            }
        ],
    }
    with replacing(Path(path)) as written:
        written.write_bytes(buffer.glb(document))
