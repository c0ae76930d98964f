"""`avatar sliders`: what it starts from, what it writes, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from assets.errors import AssetError
from avatar.bundle import Avatar, Manifest
from avatar.cli import app
from avatar.sliders_command import (
    VALUES,
    Identity,
    SliderSettings,
    _dressed,
    make_head,
    parse_amount,
    read_identity,
    slider_lines,
)
from flame.load import load_head
from flame.outfit import load_outfit
from flame.sliders import random_identity, sliders


@pytest.fixture(scope="module")
def flame():
    return load_head()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("sliders")
    settings = SliderSettings(random_seed=5, amounts={"nose width": 1.5, "chin width": -1}, size=64)
    return out, make_head(out, settings)


def positions(path):
    rows = [line.split()[1:] for line in path.read_text().splitlines() if line.startswith("v ")]
    return torch.tensor([[float(x) for x in row] for row in rows])


def test_a_random_head_with_sliders_is_written_as_flame_shapes_it(written, flame):
    out, paths = written
    assert all(path.is_file() for path in paths)
    assert {"head.obj", "head.glb", "preview.png", VALUES} <= {path.name for path in paths}
    assert (out / "head.glb").read_bytes()[:4] == b"glTF"
    shape = random_identity(flame.n_shape, generator=torch.Generator().manual_seed(5))
    moved = sliders(flame).apply(shape[None], {"nose width": 1.5, "chin width": -1.0})[0]
    wanted = flame.template + torch.einsum("s,svk->vk", moved, flame.shapedirs)
    torch.testing.assert_close(positions(out / "head.obj"), wanted, atol=2e-6, rtol=0)


def test_the_values_say_what_was_set_and_what_came_of_it(written, flame):
    out, _ = written
    values = json.loads((out / VALUES).read_text())
    assert values["sliders"] == {"nose width": 1.5, "chin width": -1}
    assert values["random_seed"] == 5 and values["ai_generated"] is True
    assert len(values["measures"]) == len(sliders(flame).names)
    shape = random_identity(flame.n_shape, generator=torch.Generator().manual_seed(5))
    before = float(sliders(flame).measure(shape[None])["nose width"])
    assert values["measures"]["nose width"]["value"] > before + 3  # mm


def test_its_own_values_are_a_place_to_start(written, flame):
    out, _ = written
    again = read_identity(str(out / VALUES), flame.n_shape).shape
    stored = torch.tensor(json.loads((out / VALUES).read_text())["shape"])
    torch.testing.assert_close(again, stored)


def test_a_reconstruction_gives_its_shape_and_other_models_are_refused(tmp_path, flame):
    shape = np.linspace(-1, 1, flame.n_shape, dtype=np.float32)
    np.savez(tmp_path / "face.npz", shape=shape, model=np.array("shipped"))
    found = read_identity(str(tmp_path / "face.npz"), flame.n_shape)
    np.testing.assert_array_equal(found.shape.numpy(), shape)
    np.savez(tmp_path / "deca.npz", shape=shape, model=np.array("deca"))
    with pytest.raises(AssetError, match="has the codes of 'deca'"):
        read_identity(str(tmp_path / "deca.npz"), flame.n_shape)
    np.savez(tmp_path / "short.npz", shape=shape[:9])
    with pytest.raises(AssetError, match="no `shape` of 100 finite numbers"):
        read_identity(str(tmp_path / "short.npz"), flame.n_shape)


def test_an_avatar_keeps_its_looks_and_its_hair_moves_with_the_head(tmp_path, flame):
    outfit = load_outfit()
    shape = torch.zeros(flame.n_shape)
    skin = torch.full((3, 8, 8), 0.5)
    generator = torch.Generator().manual_seed(0)
    head = outfit.wear_hair(flame.head(shape), "short")
    materials = outfit.materials(skin, "blue", hair="short", generator=generator)
    avatar = Avatar(head, materials, {"shape": shape[None]}, Manifest())
    wider = sliders(flame).apply(shape[None], {"face width": 3.0})[0]
    moved, kept = _dressed(flame, Identity(shape, avatar), wider)
    assert kept == avatar.materials
    count = len(flame.template)
    torch.testing.assert_close(moved.verts[:count], flame.head(wider).verts, atol=1e-6, rtol=0)
    # hair is carried by what it stands on: as much wider as the skin near it
    change = moved.verts - head.verts
    assert float(change[count:].norm(dim=1).max()) <= float(change[:count].norm(dim=1).max())
    right = head.verts[count:, 0] > 0.05
    assert float(change[count:][right, 0].mean()) > 5e-4
    avatar.save(tmp_path)
    found = read_identity(str(tmp_path), flame.n_shape)
    torch.testing.assert_close(found.shape, shape)
    assert found.avatar is not None


def test_amounts_are_a_name_and_a_number():
    assert parse_amount("nose  width = -1.5") == ("nose width", -1.5)
    for text in ("nose width", "nose width=wide", "=="):
        with pytest.raises(ValueError, match=r"write such as 'nose width=1\.5'"):
            parse_amount(text)


def test_the_list_names_every_slider_with_its_unit(flame):
    lines = slider_lines(flame)
    assert len(lines) == len(sliders(flame).names) >= 30
    assert any(line.startswith("nose width ") and line.endswith(" mm") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--random", "--from", "mean"], "--from and --random each give an identity"),
        (["--set", "nose width=1", "--set", "nose width=2"], "is set twice"),
        (["--set", "nose widht=1"], "choose 'nose width'"),
        (["--set", "nose width=nan"], "is nan; give a number"),
        (["--from", "nowhere"], "nowhere is not there"),
        (["--blend", "mean", "mean", "1.5"], "t=1.5 is no blend"),
        (["--size", "10"], "size=10 is out of range"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(tmp_path, arguments, words):
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["sliders", *arguments, "--out", str(out)])
    assert isinstance(done.exception, (ValueError, AssetError))
    assert words in str(done.exception)
    assert not out.exists()


def test_flame_gives_the_reader_of_official_models_on_first_use():
    import flame as package
    from flame.official import load_flame

    assert package.load_flame is load_flame
    assert "load_flame" in dir(package)
    with pytest.raises(AttributeError, match="has no attribute 'load_head_of'"):
        _ = package.load_head_of
