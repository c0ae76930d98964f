"""Published FLAME files, stood in for by synthetic ones of the same layout, against the paper."""

from __future__ import annotations

import dataclasses
import io
import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.spatial.transform import Rotation

from assets.arrays import array_of, read_arrays
from assets.errors import AssetError
from flame import official_arrays
from flame.embeddings import contour_row, read_embeddings, yaw_deg
from flame.masks import read_masks
from flame.normals import face_normals
from flame.official import load_flame
from flame.official_arrays import load_official_arrays
from flame.params import Params
from flame.synthetic import (
    synthetic_flame,
    write_bfm_albedo,
    write_companions,
    write_flame,
    write_texture_space,
)
from flame.texture_space import read_mesh_uv, read_texture_space

FACES = 9976


@pytest.fixture(scope="module")
def model():
    return synthetic_flame(np.random.default_rng(0))


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


class Ch:
    """What chumpy's class is for Python's own unpickler: a bag for the state."""


class Plain(pickle.Unpickler):
    def find_class(self, module, name):
        return Ch if module == "chumpy.ch" else super().find_class(module, name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_stand_in_is_a_pickle_to_pythons_own_reader(model, folder):
    content = (folder / "generic_model.pkl").read_bytes()
    found = Plain(io.BytesIO(content), encoding="latin1").load()
    assert isinstance(found["shapedirs"], Ch) and b"chumpy.ch" in content
    assert scipy.sparse.issparse(found["J_regressor"])
    assert found["kintree_table"][0, 0] == 2**32 - 1 and found["bs_type"] == "lrotmin"
    for name, array in model.arrays.items():
        value = found[name]
        value = value.x if isinstance(value, Ch) else value
        value = value.toarray() if scipy.sparse.issparse(value) else value
        assert value.dtype == array.dtype
        np.testing.assert_array_equal(value, array)


@pytest.mark.parametrize("kind", ["npz", "safetensors", "npy", "pickle 2", "pickle 5"])
def test_every_kind_of_file_gives_the_same_arrays_whatever_its_suffix(
    model, folder, tmp_path, kind
):
    path = tmp_path / "model.jpg"
    arrays = {
        **model.arrays,
        "shapedirs": np.asfortranarray(model.arrays["shapedirs"].round(3)),
        "J_regressor": scipy.sparse.csc_matrix(model.arrays["J_regressor"]),
    }
    if kind in ("npz", "safetensors"):
        write_flame(model, path, kind=kind)
    elif kind == "npy":
        with open(path, "wb") as file:
            np.save(file, np.array(arrays, dtype=object))
    else:
        path.write_bytes(pickle.dumps(arrays, int(kind[-1])))
    found = official_arrays.read_official_arrays(path)
    for name in official_arrays.KEYS:
        wanted = model.arrays[name]
        if name == "shapedirs" and kind not in ("npz", "safetensors"):
            wanted = wanted.round(3)
        np.testing.assert_array_equal(found[name], wanted, err_msg=name)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_pickle_protocol_are_read(tmp_path, protocol):
    rng = np.random.default_rng(0)
    value = {
        "c": rng.normal(size=(3, 4)),
        "fortran": np.asfortranarray(rng.normal(size=(3, 4)).astype("f4")),
        "big-endian": np.array([1, 2**31], ">u4"),
        "empty": np.zeros((0, 3)),
        "list": [1, 2, 3],
        "number": np.float64(3.5),
        "csc": scipy.sparse.random(5, 9, 0.3, format="csc", random_state=0),
        "csr": scipy.sparse.csr_matrix(np.eye(3)),
        "tensor": torch.arange(12).reshape(3, 4).T,
    }
    (tmp_path / "p").write_bytes(pickle.dumps(value, protocol))
    found = read_arrays(tmp_path / "p")
    for name, wanted in value.items():
        given = found[name]
        if scipy.sparse.issparse(wanted):
            given, wanted = given.dense(), wanted.toarray()
        np.testing.assert_array_equal(array_of(given), np.asarray(wanted), err_msg=name)
        assert array_of(given).dtype == np.asarray(wanted).dtype.newbyteorder("=")


def test_all_faults_of_a_file_are_listed_at_once(model, tmp_path):
    arrays = dict(model.arrays)
    del arrays["weights"]
    arrays["posedirs"] = arrays["posedirs"][..., :27]
    arrays["f"] = arrays["f"].astype(np.float32)
    arrays["albedo"] = np.zeros(3)
    arrays["shapedirs"] = np.zeros((5023, 3, 10))
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(AssetError) as caught:
        load_flame(tmp_path / "m.npz")
    message = str(caught.value)
    for words in (
        "missing weights",
        "unexpected albedo",
        "misshapen posedirs 5023x3x27, wanted 5023x3x36",
        "misshapen shapedirs 5023x3x10, wanted 5023x3x400",
        "misshapen f of float32, wanted integers",
    ):
        assert words in message


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("f", lambda a: a + 1, "f leaves 0..5022"),
        ("kintree_table", lambda a: a[:, ::-1].copy(), "kintree_table has parents"),
        ("v_template", lambda a: a * np.nan, "v_template that are not finite"),
        ("weights", lambda a: a * 2, "do not sum to 1"),
    ],
)
def test_values_that_lead_nowhere_are_refused(model, tmp_path, home, name, change, words):
    arrays = {**model.arrays, name: change(model.arrays[name])}
    np.savez(tmp_path / "m.npz", **arrays)
    before = sorted(home.rglob("*"))
    with pytest.raises(AssetError, match=words):
        load_official_arrays(tmp_path / "m.npz")
    assert sorted(home.rglob("*")) == before


def test_a_file_is_converted_once_and_again_when_the_copy_is_damaged(
    model, folder, home, monkeypatch
):
    path = folder / "generic_model.pkl"
    first = load_official_arrays(path)
    (copy,) = (home / "cache" / "flame").glob("*.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(official_arrays, "read_arrays", lambda path: pytest.fail("read again"))
        again = load_official_arrays(path)
    for name in official_arrays.KEYS:
        assert first[name].dtype == again[name].dtype
        np.testing.assert_array_equal(again[name], model.arrays[name])
    damaged = copy.read_bytes()[:-9]
    copy.unlink()
    copy.write_bytes(damaged)
    third = load_official_arrays(path)
    assert torch.equal(third["shapedirs"], first["shapedirs"])
    assert torch.equal(load_official_arrays(path)["f"], first["f"])


def test_without_a_path_the_users_folder_is_used(model, folder, home, monkeypatch, tmp_path):
    with pytest.raises(AssetError, match=r"no FLAME model is placed .*flame2023_Open\.pkl"):
        load_flame()
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path))
    (tmp_path / "flame").mkdir()
    (tmp_path / "flame" / "generic_model.pkl").hardlink_to(folder / "generic_model.pkl")
    assert load_flame().n_shape == 300


def test_a_model_without_companions_says_what_to_put_beside_it(model, tmp_path):
    posedirs = model.arrays["posedirs"].copy()
    posedirs[..., 9:18] = 0
    without = dataclasses.replace(model, arrays={**model.arrays, "posedirs": posedirs})
    write_flame(without, tmp_path / "flame2023_no_jaw.pkl")
    flame = load_flame(tmp_path / "flame2023_no_jaw.pkl")
    assert not flame.posedirs[9:18].any() and flame.posedirs[:9].any()
    with pytest.raises(AssetError, match=r"put landmark_embedding\.npy"):
        flame.landmarks68(flame.template[None])
    with pytest.raises(AssetError, match="contour landmarks"):
        flame.contour_landmarks68(flame.template[None], torch.zeros(1))
    with pytest.raises(AssetError, match="mediapipe_landmark_embedding"):
        flame.landmarks105(flame.template[None])
    with pytest.raises(AssetError, match=r"l_eyelid\.npy"):
        flame(Params.zeros(1, 1, 1), torch.zeros(1, 2))


def test_both_published_landmark_files_say_the_same(folder):
    whole = read_embeddings(folder / "landmark_embedding.npy", FACES)
    static = read_embeddings(folder / "flame_static_embedding.pkl", FACES).static
    contour = read_embeddings(folder / "flame_dynamic_embedding.npy", FACES).contour
    assert torch.equal(whole.static.faces, static.faces)
    assert torch.equal(whole.static.bary, static.bary)
    assert torch.equal(whole.contour.faces, contour.faces)
    torch.testing.assert_close(whole.contour.bary, contour.bary, atol=1e-6, rtol=0)
    assert torch.equal(whole.fixed.faces[17:], static.faces)


def test_irises_are_the_last_two_points_of_the_file_that_has_them(model, tmp_path):
    mesh = model.mesh
    full = np.append(mesh.landmark_faces, [7, 8])
    bary = np.concatenate([mesh.landmark_bary, np.full((2, 3), 1 / 3)])
    value = {
        "static_lmk_faces_idx": full[17:],
        "static_lmk_bary_coords": bary[17:],
        "dynamic_lmk_faces_idx": mesh.contour_faces,
        "dynamic_lmk_bary_coords": mesh.contour_bary,
        "full_lmk_faces_idx": full[None],
        "full_lmk_bary_coords": bary[None],
    }
    np.save(tmp_path / "e.npy", np.array(value, dtype=object))
    found = read_embeddings(tmp_path / "e.npy", FACES)
    assert found.iris.faces.tolist() == [7, 8]
    assert found.static.faces.shape == (51,) and found.fixed.bary.shape == (68, 3)


def test_a_landmark_file_of_another_mesh_is_refused_with_all_its_faults(model, tmp_path):
    value = {
        "static_lmk_faces_idx": np.full(51, FACES),
        "static_lmk_bary_coords": np.full((51, 3), 1 / 3),
        "dynamic_lmk_faces_idx": np.zeros((79, 16), dtype=np.int64),
        "dynamic_lmk_bary_coords": np.full((79, 17, 3), 1 / 3),
        "full_lmk_bary_coords": np.full((68, 3), 1 / 3),
        "more": 1,
    }
    np.save(tmp_path / "e.npy", np.array(value, dtype=object))
    with pytest.raises(AssetError) as caught:
        read_embeddings(tmp_path / "e.npy", FACES)
    for words in (
        "missing full_lmk_faces_idx",
        "unexpected more",
        "misshapen dynamic_lmk_faces_idx 79x16",
        "static_lmk_faces_idx leaves 0..9975",
    ):
        assert words in str(caught.value)


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


def test_masks_have_the_published_sizes_and_bad_ones_are_listed(folder, tmp_path):
    masks = read_masks(folder / "FLAME_masks.pkl", 5023)
    sizes = {"face": 1787, "left_eyeball": 546, "lips": 254, "boundary": 114, "neck": 253}
    assert {name: len(masks[name]) for name in sizes} == sizes and len(masks) == 14
    given = {name: verts.numpy() for name, verts in masks.items()}
    del given["nose"]
    given |= {"beard": np.arange(3), "lips": np.array([5023]), "face": np.zeros((2, 2), dtype=int)}
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(given))
    with pytest.raises(AssetError) as caught:
        read_masks(tmp_path / "m.pkl", 5023)
    for words in ("missing nose", "unexpected beard", "lips leaves 0..5022", "misshapen face"):
        assert words in str(caught.value)


def test_texture_codes_decode_to_rgb_of_the_nearest_texel(model, tmp_path):
    rng = np.random.default_rng(0)
    path = write_texture_space(model, tmp_path / "FLAME_texture.npz", rng, n_components=4)
    with np.load(path) as archive:
        mean, directions = archive["mean"], archive["tex_dir"]
    space = read_texture_space(path, n_components=3)
    code = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, 0.0]])
    for item in range(2):
        bgr = (mean + directions[..., :3] @ code[item].numpy()) / 255
        wanted = bgr[..., ::-1].transpose(2, 0, 1)
        np.testing.assert_allclose(space.decode(code)[item], wanted, atol=1e-5)
        np.testing.assert_allclose(
            space.decode(code, side=256)[item], wanted[:, ::2, ::2], atol=1e-5
        )
    assert space.decode(code[:, :1])[0, 0].mean() > 0.6  # red is strongest in skin
    with pytest.raises(ValueError, match="pass at most 4"):
        read_texture_space(path, n_components=9)
    layout = read_mesh_uv(path, torch.from_numpy(model.mesh.faces))
    np.testing.assert_array_equal(layout.uv_faces, model.mesh.uv_faces)


def test_the_albedo_of_the_basel_model_is_read_in_its_own_unit(tmp_path):
    path = write_bfm_albedo(tmp_path / "b.npz", np.random.default_rng(0), n_components=2)
    albedo = read_texture_space(path, n_components=2).decode(torch.zeros(1, 2))
    wanted = torch.tensor([0.75, 0.55, 0.45])[:, None, None].expand(3, 512, 512)
    torch.testing.assert_close(albedo[0], wanted, atol=1e-6, rtol=0)
    np.savez(tmp_path / "c.npz", MU=np.zeros(7), extra=np.zeros(1))
    with pytest.raises(AssetError, match=r"missing PC; unexpected extra; misshapen MU 7"):
        read_texture_space(tmp_path / "c.npz")


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
