"""GLB files, judged by a reader of our own, Khronos' validator, three.js, trimesh and Blender."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import math
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from numpy.typing import NDArray
from PIL import Image
from sphere_head import (
    CENTER,
    RADIUS,
    make_icosphere_head,
    make_materials,
    make_sphere_head,
)

from flame.arkit import ARKIT_NAMES
from flame.gltf import Animation, glb_bytes, save_glb
from flame.head import JOINT_NAMES, Head

JUDGES = Path(__file__).parent / "judges"
node = pytest.mark.skipif(
    shutil.which("node") is None or not (JUDGES / "node_modules").is_dir(),
    reason="needs node and `npm ci --prefix tests/judges`",
)

_COMPONENTS = {5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_SHAPES = {"SCALAR": (), "VEC2": (2,), "VEC3": (3,), "VEC4": (4,), "MAT4": (4, 4)}


class Glb:
    """A reader written from the glTF 2.0 specification alone."""

    def __init__(self, content: bytes) -> None:
        magic, version, length = struct.unpack_from("<4sII", content)
        assert (magic, version, length) == (b"glTF", 2, len(content))
        json_length, json_kind = struct.unpack_from("<I4s", content, 12)
        blob_length, blob_kind = struct.unpack_from("<I4s", content, 20 + json_length)
        assert (json_kind, blob_kind) == (b"JSON", b"BIN\0")
        assert length == 28 + json_length + blob_length
        assert json_length % 4 == blob_length % 4 == 0
        self.document = json.loads(content[20 : 20 + json_length])
        self.blob = content[28 + json_length :]

    def __getitem__(self, name: str) -> Any:
        return self.document[name]

    def view(self, index: int) -> bytes:
        view = self["bufferViews"][index]
        assert view["byteOffset"] % 4 == 0
        return self.blob[view["byteOffset"] :][: view["byteLength"]]

    def accessor(self, index: int) -> NDArray[Any]:
        accessor = self["accessors"][index]
        shape = (accessor["count"], *_SHAPES[accessor["type"]])
        kind = _COMPONENTS[accessor["componentType"]]
        array = np.zeros(shape, kind)
        if "bufferView" in accessor:
            array[:] = np.frombuffer(self.view(accessor["bufferView"]), kind).reshape(shape)
        if "sparse" in accessor:
            count, rows, values = (
                accessor["sparse"][key] for key in ("count", "indices", "values")
            )
            row_kind = _COMPONENTS[rows["componentType"]]
            where = np.frombuffer(
                self.view(rows["bufferView"]), row_kind, count, rows["byteOffset"]
            )
            assert (np.diff(where.astype(int)) > 0).all()
            found = np.frombuffer(
                self.view(values["bufferView"]), kind, count * shape[1], values["byteOffset"]
            )
            array[where] = found.reshape(count, shape[1])
        if "min" in accessor:
            flat = array.reshape(len(array), -1)
            assert accessor["min"] == flat.min(0).tolist()
            assert accessor["max"] == flat.max(0).tolist()
        return array

    def mesh(self, name: str) -> Any:
        return next(mesh for mesh in self["meshes"] if mesh["name"] == name)

    def attribute(self, mesh: str, name: str) -> NDArray[Any]:
        return self.accessor(self.mesh(mesh)["primitives"][0]["attributes"][name])

    def targets(self, mesh: str, name: str) -> NDArray[Any]:
        targets = self.mesh(mesh)["primitives"][0]["targets"]
        return np.stack([self.accessor(target[name]) for target in targets])

    def image(self, texture: Any) -> NDArray[Any]:
        image = self["images"][self["textures"][texture["index"]]["source"]]
        picture = Image.open(io.BytesIO(self.view(image["bufferView"])))
        assert picture.get_format_mimetype() == image["mimeType"]
        return np.array(picture)

    def skinned(self, mesh: str, weights: NDArray[Any], key: int) -> NDArray[Any]:
        """The mesh under morph weights and the first clip's rotations at one of its keys."""
        rotations = {}
        for channel in self["animations"][0]["channels"]:
            sampler = self["animations"][0]["samplers"][channel["sampler"]]
            if channel["target"]["path"] == "rotation":
                rotations[channel["target"]["node"]] = self.accessor(sampler["output"])[key]
        world: dict[int, NDArray[Any]] = {}

        def visit(index: int, parent: NDArray[Any]) -> None:
            local = np.eye(4)
            local[:3, :3] = _matrix(rotations.get(index, np.array([0, 0, 0, 1])))
            local[:3, 3] = self["nodes"][index].get("translation", [0, 0, 0])
            world[index] = parent @ local
            for child in self["nodes"][index].get("children", []):
                visit(child, world[index])

        for root in self["scenes"][0]["nodes"]:
            visit(root, np.eye(4))
        skin = self["skins"][0]
        # matrices are stored column by column
        binds = self.accessor(skin["inverseBindMatrices"]).transpose(0, 2, 1)
        joints = np.stack([world[node] for node in skin["joints"]]) @ binds
        points = self.attribute(mesh, "POSITION").astype(float)
        if "targets" in self.mesh(mesh)["primitives"][0]:
            points += np.einsum("m,mvk->vk", weights, self.targets(mesh, "POSITION"))
        influences = joints[self.attribute(mesh, "JOINTS_0")]  # [N, 4, 4, 4]
        blend = np.einsum("vi,vijk->vjk", self.attribute(mesh, "WEIGHTS_0"), influences)
        return np.einsum("vjk,vk->vj", blend, np.c_[points, np.ones(len(points))])[:, :3]


def _matrix(quaternion: NDArray[Any]) -> NDArray[Any]:
    """The rotation that v -> q v q* makes, written out."""
    x, y, z, w = quaternion.astype(float)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


@pytest.fixture(scope="module")
def head() -> Head:
    return make_sphere_head()


@pytest.fixture(scope="module")
def clip() -> Animation:
    generator = torch.Generator().manual_seed(4)
    return Animation(
        times=torch.tensor([0.0, 0.25, 0.5, 1.0]),
        weights=torch.rand(4, 52, generator=generator),
        rotations=0.4 * torch.randn(4, 6, 3, generator=generator),
    )


@pytest.fixture(scope="module")
def path(head: Head, clip: Animation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("glb") / "head.glb"
    save_glb(head, make_materials(), path, animation=clip, copyright_notice="us", extras={"s": 3})
    return path


@pytest.fixture(scope="module")
def glb(path: Path) -> Glb:
    return Glb(path.read_bytes())


def source_of(glb: Glb, mesh: str, head: Head) -> list[int]:
    """The head's vertex of each exported one, found by position alone."""
    points = glb.attribute(mesh, "POSITION")
    distance = np.abs(points[:, None] - head.verts.numpy()[None]).max(-1)
    assert (np.sort(distance, axis=1)[:, 1] > 0).all()
    assert (distance.min(axis=1) == 0).all()
    return distance.argmin(axis=1).tolist()


def run_node(script: str, *arguments: object) -> Any:
    command = ["node", str(JUDGES / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


# What is in the file, read by our own reader


def test_morphs_come_back_to_the_bit(head: Head, glb: Glb) -> None:
    for mesh in ("skin", "eyes"):
        expected = head.morphs[:, source_of(glb, mesh, head)].numpy()
        np.testing.assert_array_equal(glb.targets(mesh, "POSITION"), expected)


def test_skinning_and_morphing_as_gltf_says_is_pose(head: Head, clip: Animation, glb: Glb) -> None:
    posed = head.pose(clip.weights, clip.rotations)
    for key in range(len(clip.times)):
        for mesh in ("skin", "eyes", "shirt"):
            np.testing.assert_allclose(
                glb.skinned(mesh, clip.weights[key].numpy(), key),
                posed[key, source_of(glb, mesh, head)].numpy(),
                atol=1e-6,
            )


def test_every_triangle_of_the_head_is_there_with_its_uv(head: Head, glb: Glb) -> None:
    faces, uv_faces, material_ids = head.triangles()
    for index, mesh in enumerate(("skin", "eyes", "shirt")):
        corners = glb.accessor(glb.mesh(mesh)["primitives"][0]["indices"]).reshape(-1, 3)
        chosen = material_ids == index
        np.testing.assert_array_equal(
            glb.attribute(mesh, "POSITION")[corners], head.verts[faces[chosen]].numpy()
        )
        bottom_left = glb.attribute(mesh, "TEXCOORD_0")[corners] * [1, -1] + [0, 1]
        np.testing.assert_allclose(bottom_left, head.uv[uv_faces[chosen]].numpy(), atol=1e-7)


def test_a_seam_does_not_shade(head: Head, glb: Glb) -> None:
    source = np.array(source_of(glb, "skin", head))
    normals = glb.attribute("skin", "NORMAL")
    turned = normals + glb.targets("skin", "NORMAL")[ARKIT_NAMES.index("jawOpen")]
    split = [np.flatnonzero(source == vertex) for vertex in np.unique(source)]
    assert max(map(len, split)) == 12  # the poles
    assert sum(len(rows) == 2 for rows in split) == 6  # the seam, one vertex a ring
    for rows in split:
        np.testing.assert_array_equal(normals[rows], normals[rows[[0]]].repeat(len(rows), 0))
        np.testing.assert_array_equal(turned[rows], turned[rows[[0]]].repeat(len(rows), 0))


def test_normals_of_a_sphere_are_its_directions_and_turn_with_it() -> None:
    glb = Glb(glb_bytes(make_icosphere_head(), make_materials()))
    directions = glb.attribute("skin", "POSITION")
    assert len(directions) == 80 * 3  # its uv is cut along every edge
    normals = glb.attribute("skin", "NORMAL")
    np.testing.assert_allclose(normals, directions, atol=1e-6)
    turns = glb.targets("skin", "NORMAL")
    turned = np.stack([directions[:, 0], -directions[:, 2], directions[:, 1]], axis=1)
    np.testing.assert_allclose(normals + turns[ARKIT_NAMES.index("jawOpen")], turned, atol=1e-6)


def test_tangents_of_a_sphere_run_along_its_parallels() -> None:
    head = make_sphere_head(n_around=24, n_rings=13)
    points = torch.tensor(Glb(glb_bytes(head, make_materials())).attribute("skin", "POSITION"))
    x, y, z = ((points - CENTER) / RADIUS).unbind(1)
    east = torch.stack([z, torch.zeros_like(y), -x], dim=1)  # u grows from +z to +x
    inner = y.abs() < 0.8  # at the poles all directions are east
    for mirror in (1, -1):
        uv = head.uv * torch.tensor([mirror, 1]) + torch.tensor([mirror < 0, 0])
        glb = Glb(glb_bytes(dataclasses.replace(head, uv=uv), make_materials()))
        tangents = torch.tensor(glb.attribute("skin", "TANGENT"))[inner]
        unit_east = torch.nn.functional.normalize(east[inner], dim=1)
        # vertices on the seam have faces on one side only, whose middle is half a step away
        half_step = math.pi / 24
        torch.testing.assert_close(tangents[:, :3], mirror * unit_east, atol=half_step, rtol=0)
        assert (tangents[:, 3] == mirror).all()
    assert "TANGENT" not in glb.mesh("eyes")["primitives"][0]["attributes"]  # no normal map


def test_the_skeleton_rests_where_the_head_says(head: Head, glb: Glb) -> None:
    joints = glb["skins"][0]["joints"]
    assert tuple(glb["nodes"][node]["name"] for node in joints) == JOINT_NAMES
    binds = glb.accessor(glb["skins"][0]["inverseBindMatrices"])
    np.testing.assert_array_equal(binds[:, 3, :3], -head.joints.numpy())
    roots = glb["scenes"][0]["nodes"]
    assert roots == [0, 1, 2, joints[0]]


def test_weights_fall_and_sum_to_one_and_idle_joints_are_zero(glb: Glb) -> None:
    for mesh in ("skin", "eyes", "shirt"):
        weights = glb.attribute(mesh, "WEIGHTS_0")
        np.testing.assert_allclose(weights.sum(1), 1, atol=3e-7)
        assert (np.diff(weights, axis=1) <= 0).all()
        assert (glb.attribute(mesh, "JOINTS_0")[weights == 0] == 0).all()


def test_five_influences_become_the_four_largest_and_it_is_said(
    head: Head, caplog: pytest.LogCaptureFixture
) -> None:
    rows = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.1, 0.0]).expand(len(head.verts), 6)
    with caplog.at_level(logging.WARNING):
        glb = Glb(glb_bytes(dataclasses.replace(head, lbs_weights=rows), make_materials()))
    expected = np.array([0.4, 0.25, 0.15, 0.1]) / 0.9
    np.testing.assert_allclose(glb.attribute("skin", "WEIGHTS_0")[0], expected, atol=1e-7)
    assert "sum to 0.900 over its four largest joints" in caplog.text


def test_a_mesh_that_nothing_moves_has_no_targets(glb: Glb) -> None:
    assert "targets" not in glb.mesh("shirt")["primitives"][0]
    for mesh in ("skin", "eyes"):
        assert glb.mesh(mesh)["extras"]["targetNames"] == list(ARKIT_NAMES)
        assert glb.mesh(mesh)["weights"] == [0] * 52
    assert [mesh["name"] for mesh in glb["meshes"]] == ["skin", "eyes", "shirt"]  # there is no hair


def test_targets_that_do_not_touch_a_mesh_cost_no_bytes(glb: Glb) -> None:
    still = {
        target[key]
        for target in glb.mesh("eyes")["primitives"][0]["targets"]
        for key in ("POSITION", "NORMAL")
        if "bufferView" not in (found := glb["accessors"][target[key]]) and "sparse" not in found
    }
    # one for POSITION and one for NORMAL, shared by 51 and 52 targets
    assert len(still) == 2


def test_materials_keep_their_textures_and_modes(glb: Glb) -> None:
    skin, eyes, shirt = glb["materials"]
    given = make_materials()
    surface = skin["pbrMetallicRoughness"]
    expected = given[0].base_color.permute(1, 2, 0).numpy() * 255
    color = glb.image(surface["baseColorTexture"]).astype(float)
    assert np.abs(color - expected).mean() < 2  # JPEG
    packed = glb.image(surface["metallicRoughnessTexture"])
    rough = given[0].roughness
    assert isinstance(rough, torch.Tensor)
    np.testing.assert_allclose(packed[..., 1], rough[0].numpy() * 255, atol=0.51)
    assert (packed[..., 2] == 0).all()
    assert glb.image(skin["normalTexture"])[0, 0].tolist() == [128, 128, 255]
    assert "alphaMode" not in skin
    assert all(m["pbrMetallicRoughness"]["metallicFactor"] == 0 for m in glb["materials"])

    alpha = glb.image(eyes["pbrMetallicRoughness"]["baseColorTexture"])
    expected = given[1].base_color.permute(1, 2, 0).numpy() * 255
    np.testing.assert_allclose(alpha, expected, atol=0.51)
    assert eyes["pbrMetallicRoughness"]["roughnessFactor"] == 0.1
    assert (eyes["alphaMode"], eyes["doubleSided"]) == ("BLEND", True)
    assert (shirt["alphaMode"], shirt["alphaCutoff"]) == ("MASK", 0.5)


def test_the_file_says_that_it_was_made_by_ai(head: Head, glb: Glb) -> None:
    assert glb["asset"]["copyright"] == "us"
    extras = glb["asset"]["extras"]
    assert extras["aiGenerated"] is True
    assert extras["digitalSourceType"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert extras["s"] == 3
    with pytest.raises(ValueError, match="must not set aiGenerated"):
        glb_bytes(head, make_materials(), extras={"aiGenerated": False})


def test_turns_through_more_than_half_a_circle_go_the_short_way(head: Head) -> None:
    rotations = torch.zeros(3, 6, 3)
    rotations[:, 1, 1] = torch.tensor([3.0, 3.3, 3.6])
    # the same turns, as someone who keeps axis-angle short would write the last two
    rotations[1:, 1, 1] -= 2 * math.pi
    clip = Animation(torch.arange(3.0), torch.zeros(3, 52), rotations)
    glb = Glb(glb_bytes(head, make_materials(), animation=clip))
    channels = glb["animations"][0]["channels"]
    neck = next(c for c in channels if glb["nodes"][c["target"]["node"]]["name"] == "neck")
    keys = glb.accessor(glb["animations"][0]["samplers"][neck["sampler"]]["output"])
    np.testing.assert_allclose((keys[1:] * keys[:-1]).sum(1), math.cos(0.15), atol=1e-6)


# Bad input


def test_equal_heads_give_equal_files(head: Head, clip: Animation, path: Path) -> None:
    again = glb_bytes(
        head, make_materials(), animation=clip, copyright_notice="us", extras={"s": 3}
    )
    assert again == path.read_bytes()


def test_a_missing_material_is_named(head: Head, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"materials lack eyes.*one Material for each of skin"):
        save_glb(head, [m for m in make_materials() if m.name != "eyes"], tmp_path / "head.glb")
    assert list(tmp_path.iterdir()) == []


def test_nan_is_refused_before_anything_is_written(head: Head, tmp_path: Path) -> None:
    verts = head.verts.clone()
    verts[3] = math.nan
    with pytest.raises(ValueError, match=r"head\.verts holds NaN"):
        save_glb(dataclasses.replace(head, verts=verts), make_materials(), tmp_path / "head.glb")
    assert list(tmp_path.iterdir()) == []


def test_a_clip_for_another_head_is_refused(head: Head) -> None:
    clip = Animation(torch.arange(2.0), torch.zeros(2, 15), torch.zeros(2, 6, 3))
    with pytest.raises(ValueError, match=r"weights is \(2, 15\).*52 morphs.*give \(2, 52\)"):
        glb_bytes(head, make_materials(), animation=clip)
    with pytest.raises(ValueError, match="strictly rise"):
        Animation(torch.zeros(2), torch.zeros(2, 52), torch.zeros(2, 6, 3))


def test_faces_without_area_still_give_unit_normals(head: Head) -> None:
    verts = head.verts.clone()
    verts[-4:] = verts[-1]
    content = glb_bytes(dataclasses.replace(head, verts=verts), make_materials())
    assert Glb(content).attribute("shirt", "NORMAL").tolist() == [[0.0, 0.0, 1.0]] * 4


# Second programs


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
