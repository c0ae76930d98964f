"""Renders a GLB or OBJ file with Blender's Cycles, for a look at what artists will see.

Run it in an interpreter that has `bpy`:
python tests/judges/blender_render.py head.glb out.png --yaw 30 --shape jawOpen=1
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import bpy
from mathutils import Vector


def load(path: Path) -> list[bpy.types.Object]:
    """Empty the scene and import `path`; its meshes."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    if path.suffix == ".obj":
        bpy.ops.wm.obj_import(filepath=str(path))
    else:
        bpy.ops.import_scene.gltf(filepath=str(path), disable_bone_shape=True)
    return [item for item in bpy.data.objects if item.type == "MESH"]


def set_shapes(meshes: list[bpy.types.Object], shapes: dict[str, float]) -> None:
    """Set shape keys by name on every mesh that has them; an unknown name is an error."""
    for name, weight in shapes.items():
        blocks = [
            mesh.data.shape_keys.key_blocks[name]
            for mesh in meshes
            if mesh.data.shape_keys and name in mesh.data.shape_keys.key_blocks
        ]
        if not blocks:
            raise SystemExit(f"no mesh has a shape named {name}")
        for block in blocks:
            block.value = weight


def bounds(meshes: list[bpy.types.Object]) -> tuple[Vector, Vector]:
    """Lowest and highest corner of everything, in Blender's axes."""
    points = [mesh.matrix_world @ Vector(corner) for mesh in meshes for corner in mesh.bound_box]
    low = Vector([min(point[axis] for point in points) for axis in range(3)])
    high = Vector([max(point[axis] for point in points) for axis in range(3)])
    return low, high


def add_camera(centre: Vector, radius: float, yaw_deg: float) -> None:
    """A portrait lens in front (Blender's front is -y), turned by `yaw_deg` to the right."""
    camera = bpy.data.cameras.new("camera")
    camera.angle = math.radians(20)
    distance = radius / math.sin(camera.angle / 2)
    yaw = math.radians(yaw_deg)
    holder = bpy.data.objects.new("camera", camera)
    holder.location = centre + distance * Vector((math.sin(yaw), -math.cos(yaw), 0))
    holder.rotation_euler = (math.pi / 2, 0, yaw)
    bpy.context.collection.objects.link(holder)
    bpy.context.scene.camera = holder


def add_lights(centre: Vector, radius: float) -> None:
    """Key, fill and rim lights as large areas, and a dim grey world."""
    for name, place, power in (
        ("key", (-1.5, -3, 2), 90),
        ("fill", (2.5, -2.5, 0.5), 35),
        ("rim", (1, 3, 2.5), 70),
    ):
        light = bpy.data.lights.new(name, "AREA")
        light.size = 2 * radius
        light.energy = power * radius**2  # watts: distance and size both follow the head's
        holder = bpy.data.objects.new(name, light)
        holder.location = centre + radius * Vector(place)
        holder.rotation_euler = (centre - holder.location).to_track_quat("-Z", "Y").to_euler()
        bpy.context.collection.objects.link(holder)
    world = bpy.data.worlds.new("world")
    world.use_nodes = True
    world.node_tree.nodes["Background"].inputs[0].default_value = (0.6, 0.62, 0.65, 1)
    world.node_tree.nodes["Background"].inputs[1].default_value = 0.5
    bpy.context.scene.world = world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--yaw", type=float, default=0.0, help="degrees")
    parser.add_argument("--frame", type=int, help="frame of the clip (24 a second)")
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=WEIGHT")
    parser.add_argument("--clay", action="store_true", help="grey surfaces without textures")
    options = parser.parse_args()

    meshes = load(options.file)
    shapes = dict(text.split("=") for text in options.shape)
    set_shapes(meshes, {name: float(weight) for name, weight in shapes.items()})
    scene = bpy.context.scene
    if options.frame is not None:
        scene.frame_set(options.frame)
    low, high = bounds(meshes)
    radius = (high - low).length / 2
    add_camera((low + high) / 2, radius, options.yaw)
    add_lights((low + high) / 2, radius)
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.samples = options.samples
    scene.cycles.use_denoising = True
    scene.render.threads_mode = "FIXED"
    scene.render.threads = min(2, os.cpu_count() or 1)
    scene.render.resolution_x = scene.render.resolution_y = options.size
    scene.view_settings.view_transform = "Standard"  # sRGB as viewers show it, not film-like
    scene.render.filepath = str(options.image.resolve())
    if options.clay:
        bpy.context.view_layer.material_override = bpy.data.materials.new("clay")
    bpy.ops.render.render(write_still=True)


main()
