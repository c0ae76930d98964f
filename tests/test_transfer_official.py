"""`avatar transfer --model`: a photo's expression on another photo's FLAME head, or on ours."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from published import write_models
from scipy.io import loadmat

from assets.errors import AssetError
from avatar.expression_gains import Gains
from avatar.face_models import FaceModel, open_model
from avatar.looks import TextureWishes
from avatar.motion_files import load_npz
from avatar.official_looks import OfficialLooks
from avatar.transfer import TransferSettings, transfer
from avatar.transfer_official import PublishedReader
from flame.arkit import ARKIT_INDEX
from flame.official import load_flame
from flame.params import Params

BOX = torch.tensor([50.0, 40.0, 150.0, 140.0])


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A user's folder with made-up FLAME and SMIRK files."""
    return write_models(tmp_path_factory.mktemp("home"))


@pytest.fixture
def placed(home, monkeypatch) -> Path:
    monkeypatch.setenv("AVATAR_HOME", str(home))
    monkeypatch.setattr(FaceModel, "find", lambda self, image: [BOX])
    return home


def photo(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(40, 220, (20, 20, 3)), np.ones((10, 10, 1)))
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def test_the_person_keeps_all_but_expression_jaw_and_eyelids(placed, tmp_path):
    reader = PublishedReader("smirk")
    _, expression = reader.read(photo(tmp_path / "one.png", 1))
    image, person = reader.read(photo(tmp_path / "two.png", 2))
    found = reader.model.wearing(person, expression, jaw_gain=0.5)
    flame = load_flame(placed / "flame" / "generic_model.pkl")
    own, other = person.params, expression.params
    params = Params(own.shape, other.expression, own.root, own.neck, 0.5 * other.jaw, own.eyes)
    with torch.no_grad():
        wanted = flame(params, expression.codes["eyelids"][None]).verts
    torch.testing.assert_close(found.posed, wanted, atol=1e-6, rtol=0)
    assert float((found.posed - person.posed).abs().max()) > 1e-4
    torch.testing.assert_close(found.neutral_vertices, person.neutral_vertices)
    assert torch.equal(found.crop.matrix, person.crop.matrix)
    assert torch.equal(found.camera.scale, person.camera.scale)
    # the skin is that of the photo under the person's own expression
    texture = OfficialLooks(reader.model, found, image, TextureWishes()).texture()
    own_texture = OfficialLooks(reader.model, person, image, TextureWishes()).texture()
    assert torch.equal(texture, own_texture)
    moved = dataclasses.replace(found, seen=None)
    assert not torch.equal(
        OfficialLooks(reader.model, moved, image, TextureWishes()).texture(), texture
    )


def test_the_dumps_of_the_published_demo_are_written(placed, tmp_path):
    settings = TransferSettings(
        model="smirk", save=frozenset({"vis", "kpt", "depth", "shape", "mat"}), size=96
    )
    out = tmp_path / "out"
    files = transfer(
        photo(tmp_path / "one.png", 1), photo(tmp_path / "two.png", 2), out=out, settings=settings
    )
    names = {path.relative_to(out).as_posix() for path in files}
    assert {
        "animation.jpg", "transfer.npz", "transfer_vis.jpg", "transfer/transfer.obj",
        "transfer/transfer.glb", "transfer/transfer_kpt2d.txt", "transfer/transfer_kpt3d.txt",
        "transfer/transfer_depth.jpg", "transfer/transfer_shape.png", "transfer/transfer.mat",
    } <= names  # fmt: skip
    assert all(path.is_file() for path in files)
    model = open_model("smirk")
    reader = PublishedReader("smirk")
    _, one = reader.read(tmp_path / "one.png")
    _, two = reader.read(tmp_path / "two.png")
    with np.load(out / "transfer.npz") as file:
        np.testing.assert_allclose(file["expression"], one.params.expression[0], atol=1e-6)
        np.testing.assert_allclose(file["shape"], two.params.shape[0], atol=1e-6)
        np.testing.assert_allclose(file["root"], two.params.root[0], atol=1e-6)
        assert str(file["model"]) == model.name and file["vertices"].shape == (5023, 3)
    np.testing.assert_allclose(
        loadmat(out / "transfer" / "transfer.mat")["jaw"][0], one.params.jaw[0], atol=1e-6
    )
    with Image.open(out / "animation.jpg") as sheet:
        assert sheet.width == 5 * (96 + 12) + 12


def test_our_heads_perform_the_nearest_arkit_weights(placed, tmp_path, monkeypatch):
    """The fit itself is pinned elsewhere: here the bridge is asked with the photo's codes."""
    asked = []

    class Bridge:
        def arkit_from_params(self, codes):
            asked.append(codes)
            weights = torch.zeros(1, 52)
            weights[0, ARKIT_INDEX["mouthSmileLeft"]] = 0.7
            return weights

    monkeypatch.setattr("avatar.transfer_official.arkit_bridge", lambda flame: Bridge())
    settings = TransferSettings(model="smirk", size=64, gains=Gains(mouth=0.5))
    out = tmp_path / "out"
    transfer(photo(tmp_path / "one.png", 1), out=out, settings=settings)
    reader = PublishedReader("smirk")
    _, one = reader.read(tmp_path / "one.png")
    torch.testing.assert_close(asked[0].params.expression, one.params.expression)
    torch.testing.assert_close(asked[0].eyelids[0], one.codes["eyelids"])
    motion = load_npz(out / "motion.npz")
    assert float(motion.weights[0, ARKIT_INDEX["mouthSmileLeft"]]) == pytest.approx(0.35, abs=1e-4)
    # neck and head share the head's turn in the picture
    turn = motion.rotations[0].sum(0)
    torch.testing.assert_close(turn, one.codes["rotation"], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gains": Gains(brows=2.0)}, "gains other than the jaw's"),
        ({"relative_to": "first"}, "its first frame is itself"),
    ],
)
def test_what_flame_heads_cannot_do_is_said(settings, words, placed, tmp_path):
    one, two = photo(tmp_path / "one.png", 1), photo(tmp_path / "two.png", 2)
    with pytest.raises(ValueError, match=words):
        transfer(one, two, out=tmp_path, settings=TransferSettings(model="smirk", **settings))


def test_settings_that_do_not_go_together_are_refused(placed, tmp_path):
    with pytest.raises(ValueError, match="refine works with the model 'shipped' only"):
        TransferSettings(model="deca", refine=True)
    with pytest.raises(ValueError, match="save=vis is of published models"):
        TransferSettings(save=frozenset({"vis"}))
    one = photo(tmp_path / "one.png", 1)
    with pytest.raises(ValueError, match="save is of FLAME heads"):
        transfer(
            one,
            out=tmp_path,
            settings=TransferSettings(model="smirk", save=frozenset({"vis"})),
        )
    table = tmp_path / "weights.csv"
    table.write_text("jawOpen\n0\n")
    with pytest.raises(AssetError, match="smirk reads photos only"):
        transfer(table, one, out=tmp_path, settings=TransferSettings(model="smirk"))
    with pytest.raises(AssetError, match=r"is missing: .*put it there"):
        transfer(one, one, out=tmp_path, settings=TransferSettings(model="deca"))
