"""GLB files, judged by Khronos' validator, three.js, trimesh and Blender."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from glb_reader import Glb, source_of
from sphere_head import make_clip, make_materials, make_sphere_head

from flame.arkit import ARKIT_NAMES
from flame.gltf import Animation, save_glb
from flame.head import JOINT_NAMES, Head

JUDGES = Path(__file__).parent / "judges"
node = pytest.mark.skipif(
    shutil.which("node") is None or not (JUDGES / "node_modules").is_dir(),
    reason="needs node and `npm ci --prefix tests/judges`",
)


@pytest.fixture(scope="module")
def head() -> Head:
    return make_sphere_head()


@pytest.fixture(scope="module")
def clip() -> Animation:
    return make_clip()


@pytest.fixture(scope="module")
def path(head: Head, clip: Animation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("glb") / "head.glb"
    save_glb(head, make_materials(), path, animation=clip, copyright_notice="us", extras={"s": 3})
    return path


@pytest.fixture(scope="module")
def glb(path: Path) -> Glb:
    return Glb(path.read_bytes())


def run_node(script: str, *arguments: object) -> Any:
    command = ["node", str(JUDGES / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_trimesh_reads_the_same_positions_and_texture(head: Head, path: Path, glb: Glb) -> None:
    scene = trimesh.load_scene(path, process=False)
    for name in ("skin", "eyes", "shirt"):
        mesh = scene.geometry[name]
        expected = head.verts[source_of(glb, name, head)].numpy()
        np.testing.assert_allclose(mesh.vertices, expected, atol=1e-6)
    texture = scene.geometry["skin"].visual.material.baseColorTexture
    assert texture.size == (96, 96)


@node
def test_the_khronos_validator_finds_nothing(head: Head, path: Path, tmp_path: Path) -> None:
    still = tmp_path / "still.glb"
    save_glb(head, make_materials(), still)
    for file in (path, still):
        report = run_node("validate.mjs", file)
        assert report["numErrors"] == report["numWarnings"] == report["numHints"] == 0, report
    assert report["resources"]


@node
def test_the_validator_would_find_a_wrong_bound(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    at = content.index(b'"min":[') + len(b'"min":[')
    planted = tmp_path / "planted.glb"
    planted.write_bytes(content[:at] + b"9" + content[at + 1 :])
    assert run_node("validate.mjs", planted)["numErrors"] > 0


@node
def test_three_js_plays_the_clip(head: Head, clip: Animation, path: Path, glb: Glb) -> None:
    seen = run_node("load_three.mjs", path, 0.25, 0.375, 1)
    names = {mesh["name"]: mesh["targets"] for mesh in seen["meshes"]}
    assert names == {"skin": list(ARKIT_NAMES), "eyes": list(ARKIT_NAMES), "shirt": []}
    assert all(mesh["skinned"] for mesh in seen["meshes"])
    assert seen["bones"] == list(JOINT_NAMES)
    assert seen["clip"] == {"name": "speech", "duration": 1}
    first, between, last = seen["samples"]
    halfway = (clip.weights[1] + clip.weights[2]) / 2
    for sample, weights in ((first, clip.weights[1]), (between, halfway), (last, clip.weights[3])):
        for mesh in ("skin", "eyes"):
            influences = sample["influences"][mesh]
            np.testing.assert_allclose(influences, weights.numpy(), atol=1e-6)
    # and the vertices that it would draw are where Head.pose puts them
    posed = head.pose(clip.weights, clip.rotations)
    for sample, key in ((first, 1), (last, 3)):
        for mesh, points in sample["firstVertices"].items():
            expected = posed[key, source_of(glb, mesh, head)[:4]].numpy()
            np.testing.assert_allclose(points, expected, atol=1e-6)


def blender() -> str | None:
    """An interpreter with bpy: named by BLENDER_PYTHON, or of the folder .venv-bpy."""
    beside = JUDGES.parent.parent / ".venv-bpy" / "bin" / "python"
    return os.environ.get("BLENDER_PYTHON") or (str(beside) if beside.is_file() else None)


@pytest.mark.slow
@pytest.mark.skipif(blender() is None, reason="needs bpy: set BLENDER_PYTHON or make .venv-bpy")
def test_blender_imports_shape_keys_and_armature(head: Head, tmp_path: Path) -> None:
    path = tmp_path / "head.glb"
    save_glb(head, make_materials(), path)
    command = [str(blender()), str(JUDGES / "blender_check.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    meshes = {mesh["name"]: mesh for mesh in seen["meshes"]}
    assert meshes["skin"]["shape_keys"] == ["Basis", *ARKIT_NAMES]
    assert meshes["shirt"]["shape_keys"] == []
    assert set(seen["bones"]) == set(JOINT_NAMES)
    # Blender's z is our y, its -y our z
    low, high = (np.array(meshes["skin"][key]) for key in ("low", "high"))
    ours = head.verts[: 6 * 12 + 2].numpy()
    np.testing.assert_allclose(low[[0, 2]], ours.min(0)[[0, 1]], atol=1e-6)
    np.testing.assert_allclose(high[[0, 2]], ours.max(0)[[0, 1]], atol=1e-6)
    np.testing.assert_allclose([-high[1], -low[1]], [ours[:, 2].min(), ours[:, 2].max()], atol=1e-6)
    textures = {(image["name"], tuple(image["size"])) for image in meshes["skin"]["images"]}
    assert ("skin_base_color", (96, 96)) in textures
