"""Published FLAME models, stood in for by a synthetic one of the same layout, against the paper."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from published import published_flame
from scipy.spatial.transform import Rotation

from flame.embeddings import contour_row, yaw_deg
from flame.normals import face_normals
from flame.official import load_flame
from flame.params import Params
from flame.synthetic import write_companions, write_flame


@pytest.fixture(scope="module")
def model():
    return published_flame()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A published set of files."""
    place = tmp_path_factory.mktemp("flame")
    write_flame(model, place / "generic_model.pkl")
    write_companions(model, place)
    return place


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("home")
        patch.setenv("AVATAR_HOME", str(place))
        yield place


@pytest.fixture(scope="module")
def flame(folder):
    return load_flame(folder / "generic_model.pkl", dtype=torch.float64)


def random_params(generator, batch=2, n_shape=300, n_expression=100):
    def normal(*size):
        return torch.randn(batch, *size, generator=generator, dtype=torch.float64)

    turns = {name: 0.4 * normal(3) for name in ("root", "neck", "jaw")}
    return Params(
        shape=normal(n_shape), expression=normal(n_expression), eyes=0.4 * normal(2, 3), **turns
    )


def paper(arrays, params, item):
    """Li et al. 2017, equations 1 to 6: M = W(T + B_S + B_P + B_E, J, theta, W), with matrices."""
    beta = np.zeros(400)
    beta[: params.shape.shape[1]] = params.shape[item]
    beta[300 : 300 + params.expression.shape[1]] = params.expression[item]
    shaped = arrays["v_template"] + np.einsum("vkc,c->vk", arrays["shapedirs"], beta)
    joints = arrays["J_regressor"] @ shaped
    vectors = [params.root, params.neck, params.jaw, params.eyes[:, 0], params.eyes[:, 1]]
    turns = [Rotation.from_rotvec(v[item].numpy()).as_matrix() for v in vectors]
    features = np.concatenate([(turn - np.eye(3)).ravel() for turn in turns[1:]])
    posed = shaped + np.einsum("vkp,p->vk", arrays["posedirs"], features)
    chain = []
    for joint, parent in enumerate((None, 0, 1, 1, 1)):
        local = np.eye(4)
        local[:3, :3] = turns[joint]
        local[:3, 3] = joints[joint] - (0 if parent is None else joints[parent])
        chain.append(local if parent is None else chain[parent] @ local)
    verts = np.zeros_like(posed)
    for joint, matrix in enumerate(chain):
        back = np.eye(4)
        back[:3, 3] = -joints[joint]
        moved = np.c_[posed, np.ones(len(posed))] @ (matrix @ back).T
        verts += arrays["weights"][:, joint, None] * moved[:, :3]
    return verts, joints


def on_triangles(verts, faces, face_ids, bary):
    return np.array([w @ verts[faces[f]] for f, w in zip(face_ids, bary, strict=True)])


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_vertices_joints_and_landmarks_are_those_of_the_paper(
    model, folder, generator, dtype, within
):
    flame = load_flame(folder / "generic_model.pkl", dtype=dtype)
    params = random_params(generator)
    cast = params._map(lambda tensor: tensor.to(dtype))
    posed = flame(cast)
    marks = flame.landmarks68(posed.verts)
    dense = flame.landmarks105(posed.verts)
    mesh = model.mesh
    for item in range(2):
        verts, joints = paper(model.arrays, params, item)
        np.testing.assert_allclose(posed.verts[item], verts, atol=within, rtol=0)
        np.testing.assert_allclose(posed.joints[item], joints, atol=within, rtol=0)
        wanted = on_triangles(verts, mesh.faces, mesh.landmark_faces, mesh.landmark_bary)
        np.testing.assert_allclose(marks[item], wanted, atol=within, rtol=0)
        wanted = on_triangles(verts, mesh.faces, mesh.mediapipe_faces, mesh.mediapipe_bary)
        np.testing.assert_allclose(dense[item], wanted, atol=within, rtol=0)


def test_codes_of_a_hundred_and_fifty_are_the_first_components(model, flame, generator):
    params = random_params(generator, n_shape=100, n_expression=50)
    verts, _ = paper(model.arrays, params, 1)
    np.testing.assert_allclose(flame(params).verts[1], verts, atol=1e-12, rtol=0)


@pytest.mark.parametrize("at_rest", [True, False])
def test_gradients_are_those_of_finite_differences(flame, generator, at_rest):
    params = random_params(generator, batch=1, n_shape=20, n_expression=10)
    if at_rest:  # where fitting starts
        params = params._map(torch.zeros_like)
    weight = torch.randn(1, 5023, 3, generator=generator, dtype=torch.float64)

    def loss(given):
        posed = flame(given)
        return (posed.verts * weight).sum() + flame.landmarks68(posed.verts).square().sum()

    names = [field.name for field in dataclasses.fields(Params)]
    leaves = {name: getattr(params, name).clone().requires_grad_() for name in names}
    gradients = torch.autograd.grad(loss(Params(**leaves)), list(leaves.values()))
    for name, gradient in zip(names, gradients, strict=True):
        value = getattr(params, name)
        way = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            ahead = loss(dataclasses.replace(params, **{name: value + 1e-5 * way}))
            behind = loss(dataclasses.replace(params, **{name: value - 1e-5 * way}))
        slope = (ahead - behind) / 2e-5
        torch.testing.assert_close((gradient * way).sum(), slope, rtol=1e-6, atol=1e-7)


# the rows as published: whole degrees up to 39 each way, half degrees to the even one
ROWS = {0: 0, 0.4: 0, 0.5: 0, 1.5: 2, 17: 17, 39: 39, 60: 39, -0.4: 0, -1: 40, -39: 78, -70: 78}


def test_the_contour_follows_yaw_by_whole_degrees():
    found = contour_row(torch.tensor(list(ROWS), dtype=torch.float64))
    assert found.tolist() == list(ROWS.values())


def test_yaw_is_the_turn_to_the_viewers_right():
    for degrees in (-80.0, -12.0, 0.0, 33.0):
        turn = torch.from_numpy(Rotation.from_euler("y", degrees, degrees=True).as_matrix())
        nose = turn @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        assert torch.sign(nose[0]) == np.sign(degrees)
        tilted = turn @ torch.from_numpy(Rotation.from_euler("x", 20, degrees=True).as_matrix())
        assert float(yaw_deg(tilted[None])) == pytest.approx(degrees, abs=1e-9)


def test_the_moving_jaw_line_is_that_of_its_row_in_either_convention(model, folder):
    mesh = model.mesh
    verts = torch.from_numpy(model.arrays["v_template"])[None]
    turned = Params.zeros(1, 1, 1)._map(torch.Tensor.double)
    turned.root[0, 1], turned.neck[0, 1] = np.radians(12.0), np.radians(8.0)
    for sign, row in ((1, 20), (-1, 59)):
        flame = load_flame(folder / "generic_model.pkl", dtype=torch.float64, contour_sign=sign)
        yaw = flame.head_yaw_deg(turned)
        assert float(yaw) == pytest.approx(20.0, abs=1e-9)
        found = flame.contour_landmarks68(verts, yaw)[0]
        wanted = on_triangles(
            verts[0].numpy(), mesh.faces, mesh.contour_faces[row], mesh.contour_bary[row]
        )
        np.testing.assert_allclose(found[:17], wanted, atol=1e-7)
        torch.testing.assert_close(found[17:], flame.landmarks68(verts)[0, 17:])


def test_the_file_itself_tells_which_way_its_rows_turn(model, folder, tmp_path):
    assert load_flame(folder / "generic_model.pkl").contour_sign == 1
    mesh = model.mesh
    swapped = [0, *range(40, 79), *range(1, 40)]
    other = dataclasses.replace(
        model,
        mesh=dataclasses.replace(
            mesh, contour_faces=mesh.contour_faces[swapped], contour_bary=mesh.contour_bary[swapped]
        ),
    )
    write_companions(other, tmp_path)
    (tmp_path / "generic_model.pkl").symlink_to(folder / "generic_model.pkl")
    assert load_flame(tmp_path / "generic_model.pkl").contour_sign == -1


def test_eyelids_close_with_the_head_and_by_choice_along_the_world(folder, flame, generator):
    lids = flame.eyelids
    assert [int(lid.any(1).sum()) for lid in lids] == [409, 409]
    rest = random_params(generator, batch=1)._map(torch.zeros_like)
    half = torch.tensor([[0.5, 7.0]], dtype=torch.float64)  # beyond 1 is held at 1
    wanted = flame.template + 0.5 * lids[0] + lids[1]
    torch.testing.assert_close(flame(rest, half).verts[0], wanted, atol=1e-12, rtol=0)
    turn = torch.tensor([[0.0, 0.0, np.pi / 2]], dtype=torch.float64)
    turned = dataclasses.replace(rest, root=turn)
    moved = flame(turned, half).verts - flame(turned).verts
    lid = 0.5 * lids[0] + lids[1]
    sideways = torch.stack([-lid[:, 1], lid[:, 0], lid[:, 2]], dim=1)
    # in front the head follows the neck rigidly, so that a lid turns as the head does
    torch.testing.assert_close(moved[0], sideways, atol=1e-12, rtol=0)
    published = load_flame(
        folder / "generic_model.pkl", dtype=torch.float64, eyelids_after_skinning=True
    )
    along = published(turned, half).verts - published(turned).verts
    torch.testing.assert_close(along[0], lid, atol=1e-12, rtol=0)


def test_the_mesh_has_flames_parts_and_faces_outward(model, flame):
    assert flame.topology.part_ids.bincount().tolist() == [7800, 1088, 1088]
    eye = torch.unique(flame.faces[flame.topology.part_ids == 1])
    assert len(eye) == 546 and (flame.template[eye, 0] > 0).all()  # the subject's left is +x
    verts = flame.template[None]
    normals = face_normals(verts, flame.faces)[0]
    centres = verts[0][flame.faces].mean(1)
    # the sum of centre . normal is six times the volume, for each eye its own
    for part in range(3):
        here = flame.topology.part_ids == part
        middle = centres[here].mean(0)
        assert ((centres[here] - middle) * normals[here]).sum() > 0
    assert flame.topology.uv.shape == (5118, 2)


def test_the_exported_head_is_the_neutral_and_takes_morphs(flame, generator):
    shape = torch.randn(300, generator=generator, dtype=torch.float64)
    rest = Params.zeros(1, 300, 100)._map(torch.Tensor.double)
    neutral = flame(dataclasses.replace(rest, shape=shape[None]))
    head = flame.head(shape)
    torch.testing.assert_close(head.verts, neutral.verts[0], atol=1e-14, rtol=0)
    torch.testing.assert_close(head.joints[[0, 1, 3, 4, 5]], neutral.joints[0])
    torch.testing.assert_close(head.lbs_weights.sum(1), torch.ones(5023, dtype=torch.float64))
    turned = dataclasses.replace(rest, shape=shape[None])
    turned.root[0] = torch.tensor([0.1, 0.5, -0.2])
    rotations = torch.zeros(1, 6, 3, dtype=torch.float64)
    rotations[0, 0] = turned.root[0]
    weights = torch.zeros(1, 0, dtype=torch.float64)
    torch.testing.assert_close(head.pose(weights, rotations), flame(turned).verts)
    morph = flame.expressiondirs[:1]
    smiling = flame.head(shape, morph, ("mouthSmileLeft",))
    assert smiling.morph_names == ("mouthSmileLeft",) and torch.equal(smiling.morphs, morph)
    with pytest.raises(ValueError, match="1 morphs have 0 names"):
        flame.head(shape, morph)
