"""Renders the accuracy test's people with Blender's Cycles: a renderer that is not ours.

Run it in an interpreter that has `bpy`: python tests/judges/now_render.py out/now [--size 320].
Reads NAME.glb and NAME.json of `now_people.py`, writes NAME.png; what is there is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any

import bpy
from mathutils import Matrix, Vector


def render(folder: Path, name: str, size: int, samples: int) -> None:
    """One picture: the head turned before a wall, the camera on its face."""
    told: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.import_scene.gltf(filepath=str(folder / f"{name}.glb"), disable_bone_shape=True)
    meshes = [item for item in bpy.data.objects if item.type == "MESH"]
    for mesh in meshes:
        keys = mesh.data.shape_keys
        for shape, weight in told["shapes"].items():
            if keys and shape in keys.key_blocks:
                keys.key_blocks[shape].value = weight
    scene = bpy.context.scene
    yaw, pitch, roll = (math.radians(angle) for angle in told["turn_deg"])
    turn = Matrix.Rotation(yaw, 4, "Z") @ Matrix.Rotation(pitch, 4, "X")
    turn = turn @ Matrix.Rotation(roll, 4, "Y")
    for item in list(bpy.data.objects):
        if item.parent is None:
            item.matrix_world = turn @ item.matrix_world
    centre = turn @ Vector((0.0, -0.075, 0.0))  # the face's middle
    camera = bpy.data.cameras.new("camera")
    distance = told["distance_m"]
    camera.angle = 2 * math.atan(0.21 / distance)
    holder = bpy.data.objects.new("camera", camera)
    holder.location = centre + Vector((0, -distance, 0))
    holder.rotation_euler = (math.pi / 2, 0, 0)
    scene.collection.objects.link(holder)
    scene.camera = holder
    light = bpy.data.lights.new("key", "AREA")
    light.size = told["key_size"] * 0.3
    place = Vector(told["key"]) * 0.35
    light.energy = 9 * told["key_power"] * place.length_squared
    lamp = bpy.data.objects.new("key", light)
    lamp.location = centre + place
    lamp.rotation_euler = (centre - lamp.location).to_track_quat("-Z", "Y").to_euler()
    scene.collection.objects.link(lamp)
    world = bpy.data.worlds.new("world")
    world.use_nodes = True
    background = world.node_tree.nodes["Background"]
    background.inputs[0].default_value = (*told["world"], 1)
    background.inputs[1].default_value = told["world_power"]
    scene.world = world
    bpy.ops.mesh.primitive_plane_add(size=6, location=(0, 0.6, 0), rotation=(math.pi / 2, 0, 0))
    wall = bpy.data.materials.new("wall")
    wall.use_nodes = True
    wall.node_tree.nodes["Principled BSDF"].inputs["Base Color"].default_value = (*told["wall"], 1)
    bpy.context.object.data.materials.append(wall)
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.samples = samples
    scene.cycles.use_denoising = True
    scene.render.threads_mode = "FIXED"
    scene.render.threads = min(2, os.cpu_count() or 1)
    scene.render.resolution_x = scene.render.resolution_y = size
    scene.view_settings.view_transform = "Standard"
    scene.render.filepath = str((folder / f"{name}.png").resolve())
    bpy.ops.render.render(write_still=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--samples", type=int, default=24)
    options = parser.parse_args()
    for path in sorted(options.folder.glob("*.json")):
        if path.stem.isdigit() and not path.with_suffix(".png").is_file():
            render(options.folder, path.stem, options.size, options.samples)


main()
