"""GLB files, read by a reader of our own: what is in them, and what is refused."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from glb_reader import Glb, source_of
from sphere_head import (
    CENTER,
    RADIUS,
    make_clip,
    make_icosphere_head,
    make_materials,
    make_sphere_head,
)

from flame.arkit import ARKIT_NAMES
from flame.gltf import Animation, glb_bytes, save_glb
from flame.head import JOINT_NAMES, Head


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
