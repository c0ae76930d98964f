"""Shipped files are whole and accounted for; official ones are found where users put them."""

from __future__ import annotations

import hashlib
import tomllib

import pytest

from assets import store
from assets.errors import AssetError
from assets.files import contained, replacing, safe_name, sha256_of
from assets.store import official, official_models, register, shipped, shipped_models, user_folder

MODEL_SUFFIXES = {".safetensors", ".npz", ".npy", ".onnx", ".pt", ".bin"}


def test_every_shipped_model_is_whole_and_says_whence_it_comes():
    for model in shipped_models():
        assert model.fault() is None
        assert model.licence and model.recipe and model.purpose


def test_every_model_file_in_the_folder_is_in_the_manifest():
    listed = {name for model in shipped_models() for name in model.files}
    there = {
        path.relative_to(store.PACKAGE).as_posix()
        for path in store.PACKAGE.rglob("*")
        if path.suffix in MODEL_SUFFIXES
    }
    assert there <= listed


def test_no_shipped_file_is_over_16_megabytes():
    large = [p for p in store.PACKAGE.rglob("*") if p.is_file() and p.stat().st_size > 16e6]
    assert not large


def test_the_checksum_is_the_standards_own(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "abc") == expected


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An assets folder of our own, empty."""
    monkeypatch.setattr(store, "PACKAGE", tmp_path)
    monkeypatch.setattr(store, "MANIFEST", tmp_path / "manifest.toml")
    return tmp_path


def enter(package, name, content, **more):
    (package / f"{name}.bin").write_bytes(content)
    return register(
        name=name,
        purpose='say "hello"\\',
        licence="MIT",
        attribution="us\nand you",
        recipe="python -m x",
        files=[package / f"{name}.bin"],
        **more,
    )


def test_a_registered_model_is_read_back_as_it_was(package):
    first = enter(package, "one", b"1", seed=3, steps=200, figures={"error, mm": 0.12})
    second = enter(package, "another", b"2")
    assert shipped_models() == (second, first)
    again = enter(package, "one", b"11")
    assert shipped_models() == (second, again)
    assert again.files == {"one.bin": hashlib.sha256(b"11").hexdigest()}
    tomllib.loads((package / "manifest.toml").read_text())


def test_damage_and_loss_of_a_shipped_file_are_said(package):
    model = enter(package, "one", b"1")
    assert model.fault() is None
    (package / "one.bin").write_bytes(b"2")
    assert "SHA-256" in model.fault()
    (package / "one.bin").unlink()
    assert "missing from this installation" in model.fault()
    with pytest.raises(AssetError, match="install prompt-to-avatar again"):
        shipped("one.bin")


def test_files_from_elsewhere_are_not_registered(package, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "x.bin"
    outside.write_bytes(b"x")
    with pytest.raises(ValueError, match="is not under"):
        register(name="x", purpose="", licence="", attribution="", recipe="", files=[outside])


def test_the_users_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path))
    assert user_folder() == tmp_path
    monkeypatch.delenv("AVATAR_HOME")
    assert user_folder().name == "prompt-to-avatar"


def test_a_missing_official_file_says_where_it_goes_whence_it_comes_and_its_licence(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path))
    with pytest.raises(AssetError) as caught:
        official("flame/flame2023_Open.pkl")
    message = str(caught.value)
    assert str(tmp_path / "flame" / "flame2023_Open.pkl") in message
    assert "CC BY 4.0" in message and "flame.is.tue.mpg.de" in message
    (tmp_path / "flame").mkdir()
    (tmp_path / "flame" / "flame2023_Open.pkl").write_bytes(b"x")
    assert official("flame/flame2023_Open.pkl") == tmp_path / "flame" / "flame2023_Open.pkl"
    with pytest.raises(ValueError, match="not a file of any model"):
        official("flame/other.pkl")


def test_official_files_have_names_of_their_own():
    names = [name for model in official_models() for name in model.files]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Ada Lovelace", "Ada-Lovelace"),
        ("../../etc/passwd", "etc-passwd"),
        ("a\\b:c*?", "a-b-c"),
        ("CON", "CON_"),
        ("com1.png", "com1.png_"),
        ("微笑 2", "微笑-2"),
        (".hidden", "hidden"),
        ("x" * 300, "x" * 80),
    ],
)
def test_any_text_becomes_a_name_that_stays_in_its_folder(text, name, tmp_path):
    assert safe_name(text) == name
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()


def test_text_without_letters_is_no_name():
    with pytest.raises(ValueError, match="no letter or digit"):
        safe_name("../..")


@pytest.mark.parametrize("relative", ["../x", "/etc/passwd", "a/../../x", "", "link/x"])
def test_a_path_that_leaves_its_folder_is_refused(tmp_path, relative):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    with pytest.raises(AssetError, match="leads out"):
        contained(tmp_path / "in", relative)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "x.txt"
    with replacing(path) as written:
        assert written.suffix == ".txt"
        written.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), replacing(path) as written:
        written.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]
