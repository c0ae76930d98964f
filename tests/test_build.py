"""A head model out of a folder of registered meshes, made here from modes that are known."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from assets.errors import AssetError
from flame.arkit import ARKIT_NAMES
from flame.build import build, main
from flame.load import load_head
from flame.params import Params

SIDE = 9
# a two-level design: columns are orthogonal and sum to zero
FIRST = np.array([1, 1, 1, 1, -1, -1, -1, -1])
SECOND = np.array([1, -1, 1, -1, 1, -1, 1, -1])
DEVIATION = np.sqrt(8 / 7)  # of such a column, with n - 1 in the denominator


def mask():
    x, y = np.meshgrid(np.linspace(-0.08, 0.08, SIDE), np.linspace(-0.1, 0.1, SIDE), indexing="ij")
    z = 0.05 - 4 * x**2 - 2 * y**2
    return np.stack([x, y, z], axis=-1).reshape(-1, 3)


def polygons():
    index = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    corners = (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:])
    return np.stack([corner.ravel() for corner in corners], axis=1)


def modes():
    """A wide head and a long nose: one vector each, orthogonal as their vertices differ."""
    verts = mask()
    wide, nose = np.zeros_like(verts), np.zeros_like(verts)
    rim = np.abs(verts[:, 0]) > 0.05
    wide[rim, 0] = 0.1 * verts[rim, 0]
    middle = np.hypot(verts[:, 0], verts[:, 1]) < 0.03
    nose[middle, 2] = 0.002
    assert np.linalg.norm(wide) > np.linalg.norm(nose) > 0
    return wide, nose


def write_obj(path, verts, faces=None, uv=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in verts.tolist()]
    lines += [f"vt {u!r} {v!r}" for u, v in (() if uv is None else uv.tolist())]
    for face in (polygons() if faces is None else faces) + 1:
        lines.append("f " + " ".join(f"{k}/{k}" if uv is not None else f"{k}" for k in face))
    path.write_text("\n".join(["# a test's mesh", *lines]) + "\n")


@pytest.fixture
def folder(tmp_path):
    where = tmp_path / "meshes"
    wide, nose = modes()
    uv = mask()[:, :2] * [5, 4] + 0.5
    for index, (a, b) in enumerate(zip(FIRST, SECOND, strict=True)):
        write_obj(where / f"face{index}.obj", mask() + a * wide + b * nose, uv=uv)
    smile = np.zeros_like(mask())
    smile[10] = [0.003, 0.004, 0]
    write_obj(where / "expressions" / "mouthSmileLeft.obj", mask() + smile)
    jaw = np.zeros_like(mask())
    jaw[:20, 1] = -0.02
    write_obj(where / "expressions" / "jawOpen.obj", mask() + jaw)
    return where


@pytest.fixture
def built(folder, tmp_path):
    build(folder, tmp_path / "out")
    return load_head(tmp_path / "out" / "head.safetensors")


def test_principal_components_of_the_meshes_are_the_modes_they_were_made_of(built):
    torch.testing.assert_close(built.template, torch.tensor(mask()).float(), atol=1e-7, rtol=0)
    assert built.n_shape == 2
    for found, mode in zip(built.shapedirs, modes(), strict=True):
        expected = torch.tensor(mode * DEVIATION).float()
        sign = torch.sign((found * expected).sum())
        torch.testing.assert_close(found * sign, expected, atol=5e-6, rtol=1e-3)


def test_expressions_are_displacements_and_missing_ones_do_nothing(built):
    head = built.head(torch.zeros(2))
    assert head.morph_names == ARKIT_NAMES
    moved = {
        name
        for name, morph in zip(head.morph_names, head.morphs, strict=True)
        if morph.abs().max() > 1e-6
    }
    assert moved == {"jawOpen", "mouthSmileLeft"}
    smile = head.morphs[ARKIT_NAMES.index("mouthSmileLeft")]
    torch.testing.assert_close(smile[10], torch.tensor([0.003, 0.004, 0]), atol=5e-6, rtol=0)
    opened = head.morphs[ARKIT_NAMES.index("jawOpen")]
    torch.testing.assert_close(opened[:20, 1], torch.full((20,), -0.02), atol=2e-5, rtol=0)
    assert opened[20:].abs().max() < 1e-6


def test_joints_lie_in_the_head_and_the_neck_carries_it(built):
    posed = built(Params.zeros(1, 2, 52))
    low, high = built.template.amin(0), built.template.amax(0)
    assert ((posed.joints[0] >= low - 1e-5) & (posed.joints[0] <= high + 1e-5)).all()
    left, right = posed.joints[0, 3:]
    assert left[0] > 0 > right[0]  # the subject's left is at +x
    nodding = Params.zeros(1, 2, 52)
    nodding.neck[0, 0] = np.pi / 2
    turned = built(nodding).verts[0] - posed.joints[0, 1]
    rest = built.template - posed.joints[0, 1]
    # a quarter turn about x takes y to z and z to -y
    expected = torch.stack([rest[:, 0], -rest[:, 2], rest[:, 1]], dim=1)
    torch.testing.assert_close(turned, expected, atol=1e-6, rtol=0)


def test_uv_of_the_files_is_kept_and_a_symmetric_mesh_gets_its_mirror_map(built):
    uv = torch.tensor(mask()[:, :2] * [5, 4] + 0.5).float()
    torch.testing.assert_close(built.topology.uv, uv)
    assert torch.equal(built.topology.uv_polygons, torch.tensor(polygons()))
    index = torch.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    assert torch.equal(built.topology.mirror, index.flip(0).ravel())


def test_meshes_without_uv_are_unwrapped(folder, tmp_path):
    pytest.importorskip("xatlas", reason="packing needs the extra 'build'")
    for path in folder.glob("*.obj"):
        kept = [line for line in path.read_text().splitlines() if not line.startswith("vt")]
        path.write_text("\n".join(_bare(line) for line in kept))
    build(folder, tmp_path / "out")
    topology = load_head(tmp_path / "out" / "head.safetensors").topology
    assert ((topology.uv >= 0) & (topology.uv <= 1)).all()
    corners = topology.uv[topology.uv_polygons[:, :3]]
    one, other = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    assert (one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0] > 0).all()


def _bare(line):
    if not line.startswith("f "):
        return line
    return " ".join(corner.split("/")[0] for corner in line.split())


def test_a_rig_file_sets_unit_joints_and_landmarks(folder, tmp_path):
    marks = list(range(68))
    (folder / "rig.toml").write_text(
        f"unit_m = 0.1\nlandmarks68 = {marks}\n[joints]\njaw = [0.0, -0.02, 0.01]\n"
    )
    build(folder, tmp_path / "out")
    flame = load_head(tmp_path / "out" / "head.safetensors")
    torch.testing.assert_close(flame.template, torch.tensor(mask() * 0.1).float())
    jaw = flame(Params.zeros(1, 2, 52)).joints[0, 2]
    torch.testing.assert_close(jaw, torch.tensor([0, -0.002, 0.001]), atol=1e-6, rtol=0)
    points = flame.landmarks68(flame.template[None])[0]
    torch.testing.assert_close(points, flame.template[:68])


def test_without_landmarks_the_model_says_how_to_give_them(built):
    with pytest.raises(ValueError, match=r"landmarks68 in rig\.toml"):
        built.landmarks68(built.template[None])


def spoiled_count(folder):
    write_obj(folder / "face3.obj", mask()[:-1], polygons()[:-1])


def spoiled_faces(folder):
    write_obj(folder / "face3.obj", mask(), np.roll(polygons(), 1, axis=0))


def spoiled_number(folder):
    verts = mask()
    verts[4, 1] = np.nan
    write_obj(folder / "face3.obj", verts)


def spoiled_index(folder):
    write_obj(folder / "face3.obj", mask()[:40])


def spoiled_text(folder):
    (folder / "face3.obj").write_text("v 1 2 three\nf 1 1 1\n")


def spoiled_corner(folder):
    (folder / "face3.obj").write_text("v 0 0 0\n" * 5 + "f 1 2 3 4 5\n")


def no_faces(folder):
    (folder / "face3.obj").write_text("v 0 0 0\n")


def few(folder):
    for path in sorted(folder.glob("*.obj"))[2:]:
        path.unlink()


def same(folder):
    for path in folder.glob("*.obj"):
        write_obj(path, mask())


def strange_shape(folder):
    write_obj(folder / "expressions" / "grin.obj", mask())


def strange_key(folder):
    (folder / "rig.toml").write_text("units = 1\n")


def bad_unit(folder):
    (folder / "rig.toml").write_text("unit_m = 0\n")


def bad_landmarks(folder):
    (folder / "rig.toml").write_text(f"landmarks68 = {[99] * 68}\n")


def bad_joint(folder):
    (folder / "rig.toml").write_text("[joints]\njaw = [1.0, 2.0]\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoiled_count, r"face3.obj has 80 vertices, face0.obj has 81; register"),
        (spoiled_faces, r"face3.obj and face0.obj have different faces; export"),
        (spoiled_number, r"face3.obj has 1 vertices that are not finite; repair"),
        (spoiled_index, r"face3.obj has a face that points past its last vertex; export"),
        (spoiled_text, r"face3.obj cannot be read as OBJ: .*three.*; export it again"),
        (spoiled_corner, r"face3.obj has a face of 5 corners; use 3 or 4"),
        (no_faces, r"face3.obj has no faces; export"),
        (few, r"meshes holds 2 .obj meshes of identities; a model needs 3 or more"),
        (same, r"all identities are the same mesh; give faces that differ"),
        (strange_shape, r"grin.obj is no ARKit shape; name it like eyeBlinkLeft.obj"),
        (strange_key, r"rig.toml has units; known are unit_m, landmarks68, joints"),
        (bad_unit, r"unit_m in .*rig.toml is 0; give metres a unit, 0.001 for mm"),
        (bad_landmarks, r"landmarks68 in .*rig.toml must lie in 0..80"),
        (bad_joint, r"joint jaw in .*rig.toml is \[1.0, 2.0\]; give three finite"),
    ],
)
def test_faults_are_told_in_one_sentence_and_nothing_is_written(folder, tmp_path, spoil, message):
    spoil(folder)
    with pytest.raises(AssetError, match=message) as caught:
        build(folder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_command_builds_and_names_the_folder(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "own"
    monkeypatch.setattr(sys, "argv", ["build", "--meshes", str(folder), "--out", str(out)])
    main()
    assert capsys.readouterr().out == f"{out}\n"
    assert len(load_head(out / "head.safetensors").template) == SIDE * SIDE


def test_the_command_answers_a_missing_file_with_one_line_and_status_two(
    tmp_path, monkeypatch, capsys
):
    missing = tmp_path / "nothing.npz"
    monkeypatch.setattr(sys, "argv", ["build", "--meshes", str(missing)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
