"""Prints, as JSON, what Blender sees in a GLB or OBJ file.

Run it in an interpreter that has `bpy` (one of its own: bpy pins an old numpy, and it is GPL, so
nothing of ours imports it):  python tests/judges/blender_check.py FILE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bpy


def load(path: Path) -> None:
    """Empty the scene and import `path`."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    if path.suffix == ".obj":
        bpy.ops.wm.obj_import(filepath=str(path))
    else:
        bpy.ops.import_scene.gltf(filepath=str(path), disable_bone_shape=True)


def describe_mesh(item: bpy.types.Object) -> dict[str, object]:
    """Counts and texture sizes of one mesh, and its size in Blender's axes (z up)."""
    keys = item.data.shape_keys
    corners = [item.matrix_world @ vertex.co for vertex in item.data.vertices]
    images = [
        {"name": node.image.name, "size": list(node.image.size), "into": link.to_socket.name}
        for slot in item.material_slots
        if slot.material is not None
        for node in slot.material.node_tree.nodes
        if node.type == "TEX_IMAGE" and node.image is not None
        for output in node.outputs
        for link in output.links
    ]
    return {
        "name": item.name,
        "vertices": len(item.data.vertices),
        "polygons": {
            str(sides): sum(len(p.vertices) == sides for p in item.data.polygons)
            for sides in (3, 4)
        },
        "shape_keys": [block.name for block in keys.key_blocks] if keys else [],
        "low": [min(corner[axis] for corner in corners) for axis in range(3)],
        "high": [max(corner[axis] for corner in corners) for axis in range(3)],
        "materials": [slot.material.name for slot in item.material_slots if slot.material],
        "images": images,
        "vertex_groups": [group.name for group in item.vertex_groups],
    }


def main() -> None:
    load(Path(sys.argv[1]))
    items = bpy.data.objects
    seen = {
        "meshes": [describe_mesh(item) for item in items if item.type == "MESH"],
        "bones": [bone.name for o in items if o.type == "ARMATURE" for bone in o.data.bones],
        "actions": [action.name for action in bpy.data.actions],
    }
    sys.stdout.write("\n" + json.dumps(seen) + "\n")  # on a line of its own, after Blender's notes


main()
