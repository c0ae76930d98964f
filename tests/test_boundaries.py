"""Which package may import which, and where heavy libraries may be: read from the sources."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "assets": set(),
    "flame": {"assets"},
    "voice": {"assets"},
    "diffusion": {"assets"},
    "deca": {"flame", "assets"},
    "avatar": {"deca", "flame", "voice", "diffusion", "assets"},
}
# Slow to import or optional: each has one home, a package or a file.
HOMES = {
    "accelerate": ("diffusion/", "deca/train_photos.py", "voice/train"),
    "diffusers": "diffusion/",
    "transformers": "diffusion/",
    "peft": "diffusion/",
    "face_alignment": "deca/",
    "mediapipe": "deca/",
    "paddle": "voice/",
    "espeakng_loader": "voice/",
    "av": ("avatar/video.py", "voice/decode.py"),  # pictures with sound, and sound alone
    "pytorch3d": "flame/",
    "igl": "flame/",
    "xatlas": "flame/",
    "trimesh": "flame/",
    "pxr": "flame/",
    "fastapi": "avatar/",
    "uvicorn": "avatar/",
    "ray": "avatar/",
}
IN_ONE_FILE = ["face_alignment", "mediapipe", "librosa", "espeakng_loader", "ray"]
SOURCES = sorted(
    path.relative_to(ROOT) for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py")
)


@functools.cache
def imported(path: Path) -> tuple[tuple[str, bool], ...]:
    """Every module that a file imports, and whether that happens as soon as the file loads."""
    return tuple(_imported(path))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def _imported(path: Path) -> Iterator[tuple[str, bool]]:
    tree = parsed(path)
    late = {
        child
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node not in late
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                package = ".".join(path.parts[: len(path.parts) - node.level])
                yield f"{package}.{node.module or ''}".rstrip("."), node not in late
            else:
                yield node.module or "", node not in late


def test_every_package_has_sources():
    found = {path.parts[0] for path in SOURCES if path.name == "__init__.py"}
    assert found == set(MAY_IMPORT)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_between_packages_follow_the_arrows(path):
    package = path.parts[0]
    ours = {name.split(".")[0] for name, _ in imported(path)} & MAY_IMPORT.keys()
    assert ours - {package} <= MAY_IMPORT[package]


@pytest.mark.parametrize("library", HOMES)
def test_heavy_libraries_stay_in_their_package(library):
    users = [
        str(path)
        for path in SOURCES
        if library in {name.split(".")[0] for name, _ in imported(path)}
    ]
    assert all(user.startswith(HOMES[library]) for user in users), users


@pytest.mark.parametrize("library", IN_ONE_FILE)
def test_some_libraries_are_used_by_one_file_alone(library):
    users = [
        str(path)
        for path in SOURCES
        if library in {name.split(".")[0] for name, _ in imported(path)}
    ]
    assert len(users) <= 1, users


@pytest.mark.parametrize("path", ["avatar/__init__.py", "avatar/cli.py", "avatar/doctor.py"])
def test_what_answers_at_once_loads_nothing_heavy(path):
    heavy = {"torch", "numpy", "scipy", "skimage", "librosa", "PIL", *HOMES}
    at_once = {name.split(".")[0] for name, early in imported(Path(path)) if early}
    assert not at_once & heavy


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_nothing_read_from_a_file_is_run(path):
    source = (ROOT / path).read_text(encoding="utf-8")
    tree = parsed(path)
    calls = {ast.unparse(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not {"eval", "exec", "pickle.load", "pickle.loads", "joblib.load"} & calls.keys()
    if "torch.load" in calls:
        assert str(path) == "assets/weights.py"
        assert "weights_only=True" in ast.unparse(calls["torch.load"])
    assert "allow_pickle=True" not in source
