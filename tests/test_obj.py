"""OBJ files, read by trimesh, Pillow and line by line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from sphere_head import make_icosphere_head, make_materials, make_sphere_head

from assets.image import is_marked_ai
from flame.head import Head
from flame.obj import save_obj


@pytest.fixture(scope="module")
def head() -> Head:
    return make_sphere_head()


@pytest.fixture(scope="module")
def path(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("obj") / "head.obj"
    save_obj(head, make_materials(), path)
    return path


def rows(path: Path, keyword: str) -> list[list[str]]:
    return [
        line.split()[1:] for line in path.read_text().splitlines() if line.split()[:1] == [keyword]
    ]


def test_the_files_are_those_that_people_expect(path: Path) -> None:
    assert {file.name for file in path.parent.iterdir()} == {
        "head.obj",
        "head.mtl",
        "head.png",
        "head_normal.png",
        "head_roughness.png",
        "head_eyes.png",
        "head_shirt.png",
    }
    assert rows(path, "mtllib") == [["head.mtl"]]
    mtl = path.with_suffix(".mtl")
    assert rows(mtl, "newmtl") == [["skin"], ["eyes"], ["shirt"]]
    assert rows(mtl, "map_Kd") == [["head.png"], ["head_eyes.png"], ["head_shirt.png"]]
    assert rows(mtl, "map_d") == [["head_eyes.png"]]
    assert "metres" in path.read_text().splitlines()[0]


def test_vertices_and_quads_are_the_heads_in_its_order(head: Head, path: Path) -> None:
    verts = np.array(rows(path, "v"), dtype=float)
    np.testing.assert_allclose(verts, head.verts.numpy(), atol=1e-7)
    corners = [[corner.split("/") for corner in face] for face in rows(path, "f")]
    expected = [
        [(v + 1, t + 1) for v, t in zip(polygon, uv_polygon, strict=True) if v >= 0]
        for polygon, uv_polygon in zip(
            head.polygons.tolist(), head.uv_polygons.tolist(), strict=True
        )
    ]
    assert [[(int(v), int(t)) for v, t, _ in face] for face in corners] == expected
    assert all(v == n for face in corners for v, _, n in face)
    assert sum(len(face) == 4 for face in corners) > 0 < sum(len(face) == 3 for face in corners)


def test_trimesh_reads_positions_uv_and_texture(head: Head, path: Path) -> None:
    scene = trimesh.load_scene(path, process=False)
    faces, uv_faces, material_ids = head.triangles()
    meshes = {mesh.visual.material.name: mesh for mesh in scene.geometry.values()}
    for index, name in enumerate(("skin", "eyes", "shirt")):
        mesh = meshes[name]
        chosen = material_ids == index
        seen = np.concatenate([mesh.vertices[mesh.faces], mesh.visual.uv[mesh.faces]], axis=-1)
        expected = torch.cat([head.verts[faces[chosen]], head.uv[uv_faces[chosen]]], dim=-1)
        # a quad may be cut along either diagonal: its corners are the same set
        np.testing.assert_allclose(
            np.unique(seen.reshape(-1, 5).round(5), axis=0),
            np.unique(expected.reshape(-1, 5).numpy().astype(float).round(5), axis=0),
            atol=2e-5,
        )
        assert len(mesh.faces) == int(chosen.sum())
    assert meshes["skin"].visual.material.image.size == (96, 96)


def test_normals_of_a_sphere_are_its_directions(tmp_path: Path) -> None:
    head = make_icosphere_head()
    save_obj(head, make_materials(), tmp_path / "head.obj")
    normals = np.array(rows(tmp_path / "head.obj", "vn"), dtype=float)
    np.testing.assert_allclose(normals, head.verts.numpy(), atol=6e-6)


def test_textures_are_stored_without_loss_and_marked(path: Path) -> None:
    given = make_materials()
    for file, material in (("head.png", given[0]), ("head_eyes.png", given[1])):
        pixels = np.array(Image.open(path.with_name(file)))
        expected = material.base_color.permute(1, 2, 0).numpy() * 255
        np.testing.assert_allclose(pixels, expected, atol=0.51)
        assert is_marked_ai(path.with_name(file))


def test_an_expression_differs_in_positions_and_normals_only(head: Head, path: Path) -> None:
    weights = torch.zeros(1, 52)
    weights[0, 17] = 1
    posed = head.pose(weights, torch.zeros(1, 6, 3))[0]
    target = path.with_name("jawOpen.obj")
    save_obj(head, make_materials(), target, posed)
    verts = np.array(rows(target, "v"), dtype=float)
    np.testing.assert_allclose(verts, (head.verts + head.morphs[17]).numpy(), atol=2e-7)
    for keyword in ("f", "vt", "usemtl"):
        assert rows(target, keyword) == rows(path, keyword)
    for file in path.parent.glob("jawOpen*"):
        file.unlink()


def test_names_that_would_leave_the_folder_are_refused(head: Head, tmp_path: Path) -> None:
    names = ("skin", "../eyes", "shirt", "hair")
    materials = [
        dataclasses.replace(material, name=name)
        for material, name in zip(make_materials(), names, strict=True)
    ]
    with pytest.raises(ValueError, match="becomes part of a file name"):
        save_obj(dataclasses.replace(head, material_names=names), materials, tmp_path / "head.obj")
    with pytest.raises(ValueError, match=r"must end in \.obj"):
        save_obj(head, make_materials(), tmp_path / "head")
    assert list(tmp_path.iterdir()) == []
