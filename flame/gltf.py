"""GLB files: a skinned, morphing, textured head that any glTF 2.0 player can show and animate.

What is in the file, and why:

- One mesh a material, named after it, at the scene's root (a skinned node elsewhere is a validator
  warning); nodes root/neck/head/jaw/leftEye/rightEye as joints of one skin. Rest rotations are
  the identity, so inverse binds are pure translations.
- All morphs on every mesh that any of them moves, in one order and named in
  `mesh.extras.targetNames`, so that one array of weights drives skin, eyes, mouth and lashes alike.
  Displacements are sparse; those that do not touch a mesh share one accessor without bytes. A mesh
  that nothing moves (a shirt, hair) has no targets: players expand them to dense arrays, which for
  52 still targets would cost tens of megabytes of graphics memory.
- Normals of whole surfaces, computed before vertices are split at UV seams: seams do not shade.
- Tangents where a material has a normal map, and only there: without them players build their own,
  which differ (the validator warns of that).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from assets.files import replacing
from assets.image import AI_SOURCE_TYPE
from flame.gltf_animation import Animation, add_clip, check_animation
from flame.gltf_buffer import GlbBuffer, Json, float32_array
from flame.gltf_material import MaterialWriter
from flame.gltf_mesh import add_meshes
from flame.head import JOINT_NAMES, JOINT_PARENTS, Head
from flame.material import Material
from flame.submesh import Submesh, check_finite, materials_by_name, split_submeshes

__all__ = ["Animation", "Extras", "glb_bytes", "save_glb"]

Extras = Mapping[str, str | int | float | bool]

GENERATOR = "prompt-to-avatar"
# Article 50 of the EU AI Act asks for a machine-readable mark; the second is IPTC's term for it.
AI_MARK: Extras = {"aiGenerated": True, "digitalSourceType": AI_SOURCE_TYPE}


def save_glb(
    head: Head,
    materials: Sequence[Material],
    path: str | Path,
    *,
    animation: Animation | None = None,
    copyright_notice: str | None = None,
    extras: Extras | None = None,
) -> None:
    """Write `head` to `path` as GLB: metres, y up, facing +z; the file appears whole or not at all.

    `extras` go into the file's `asset.extras` beside the mark that says it was made by AI, which
    cannot be left out. Mesh vertices are in the order of `flame.submesh.Submesh`. Skinning keeps
    the four largest weights of each vertex, normalised again.
    """
    content = glb_bytes(
        head, materials, animation=animation, copyright_notice=copyright_notice, extras=extras
    )
    with replacing(Path(path)) as written:
        written.write_bytes(content)


def glb_bytes(
    head: Head,
    materials: Sequence[Material],
    *,
    animation: Animation | None = None,
    copyright_notice: str | None = None,
    extras: Extras | None = None,
) -> bytes:
    """The content of the file that `save_glb` writes; equal input gives equal bytes."""
    check_finite(head)
    by_name = materials_by_name(head, materials)
    if animation is not None:
        check_animation(head, animation)
    buffer = GlbBuffer()
    submeshes = split_submeshes(head)
    surfaces = MaterialWriter(buffer)
    bumpy = {material.name for material in materials if material.normal is not None}
    meshes = add_meshes(head, submeshes, bumpy, buffer)
    first_joint = len(submeshes)
    document: Json = {
        "asset": _asset(copyright_notice, extras),
        "scene": 0,
        "scenes": [{"nodes": [*range(len(submeshes)), first_joint]}],
        "nodes": _nodes(head, submeshes),
        "meshes": meshes,
        "materials": [surfaces.add(by_name[submesh.material]) for submesh in submeshes],
        "skins": [_skin(head, first_joint, buffer)],
        **surfaces.document(),
    }
    if animation is not None:
        moving = [index for index, mesh in enumerate(meshes) if "weights" in mesh]
        document["animations"] = [add_clip(animation, moving, first_joint, buffer)]
    return buffer.glb(document)


def _asset(copyright_notice: str | None, extras: Extras | None) -> Json:
    reserved = sorted(AI_MARK.keys() & (extras or {}).keys())
    if reserved:
        raise ValueError(f"extras must not set {', '.join(reserved)}, the mark of generated media")
    asset: Json = {"version": "2.0", "generator": GENERATOR}
    if copyright_notice is not None:
        asset["copyright"] = copyright_notice
    asset["extras"] = {**AI_MARK, **(extras or {})}
    return asset


def _nodes(head: Head, submeshes: list[Submesh]) -> list[Json]:
    meshes: list[Json] = [
        {"name": submesh.material, "mesh": index, "skin": 0}
        for index, submesh in enumerate(submeshes)
    ]
    joints: list[Json] = []
    rest = head.joints.detach().double().cpu()
    for joint, (name, parent) in enumerate(zip(JOINT_NAMES, JOINT_PARENTS, strict=True)):
        offset = rest[joint] - rest[parent] if parent >= 0 else rest[joint]
        joints.append({"name": name, "translation": offset.tolist()})
        if parent >= 0:
            joints[parent].setdefault("children", []).append(len(submeshes) + joint)
    return meshes + joints


def _skin(head: Head, first_joint: int, buffer: GlbBuffer) -> Json:
    inverse_binds = np.tile(np.eye(4, dtype=np.float32), (len(JOINT_NAMES), 1, 1))
    inverse_binds[:, 3, :3] = -float32_array(
        head.joints
    )  # column by column: the shift is row 3 here
    return {
        "name": "Armature",
        "skeleton": first_joint,
        "joints": [first_joint + joint for joint in range(len(JOINT_NAMES))],
        "inverseBindMatrices": buffer.add(inverse_binds),
    }
