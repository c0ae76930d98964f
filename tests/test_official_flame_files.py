"""Published FLAME files of every kind: what is read from them, and what is refused."""

from __future__ import annotations

import dataclasses
import io
import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from published import published_flame

from assets.arrays import array_of, read_arrays
from assets.errors import AssetError
from flame import official_arrays
from flame.embeddings import read_embeddings
from flame.masks import read_masks
from flame.official import load_flame
from flame.official_arrays import load_official_arrays
from flame.params import Params
from flame.synthetic import write_bfm_albedo, write_companions, write_flame, write_texture_space
from flame.texture_space import read_mesh_uv, read_texture_space

FACES = 9976


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
