"""The command, run as its users run it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "avatar.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_help_answers_in_half_a_second():
    def once() -> float:
        before = os.times()
        assert run("--help").returncode == 0
        after = os.times()
        # the processor's time, as one thread does all: a busy machine adds to the clock's
        return (after.children_user - before.children_user) + (
            after.children_system - before.children_system
        )

    assert min(once() for _ in range(3)) < 0.5


@pytest.mark.parametrize("arguments", [["--help"], ["create", "--help"], ["version"], ["doctor"]])
def test_commands_that_compute_nothing_load_no_heavy_library(arguments):
    code = (
        "import sys; from avatar.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit: pass\n"
        "print('LOADED', sorted({'torch', 'numpy', 'PIL'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stderr


def test_the_public_names_load_on_first_use():
    code = (
        "import sys, avatar\n"
        "assert 'torch' not in sys.modules\n"
        "assert {'create', 'Avatar', 'Motion', 'Clip'} <= set(dir(avatar))\n"
        "from avatar import create, Avatar\n"
        "assert callable(create) and callable(avatar.create)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--photo", "nowhere.jpg"], "nowhere.jpg is not there"),
        (["--photo", __file__, "--box", "1,2,3"], "'1,2,3' is not four numbers"),
        (["--photo", __file__, "--hair-color", "brown"], "'brown' is not a colour"),
        (["--photo", __file__, "--say", "a", "--audio", "b"], "both given"),
        (["--photo", __file__, "--size", "63"], "size=63"),
        (["--photo", __file__, "--fps", "0"], "fps=0"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, words, tmp_path):
    done = run("create", *arguments, "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert words in line
    assert not (tmp_path / "out").exists()


def test_what_is_no_photo_is_one_line_and_status_2(tmp_path):
    done = run("create", "--photo", __file__, "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "is not an image" in done.stderr.splitlines()[-1]


def test_doctor_says_where_official_files_belong_and_under_which_licence(tmp_path):
    done = run("doctor", AVATAR_HOME=str(tmp_path))
    assert str(tmp_path / "flame" / "generic_model.pkl") in done.stdout
    assert "MPI non-commercial research; no commercial use" in done.stdout
    (tmp_path / "flame").mkdir()
    (tmp_path / "flame" / "generic_model.pkl").write_bytes(b"x")
    done = run("doctor", AVATAR_HOME=str(tmp_path))
    assert str(tmp_path / "flame" / "generic_model.pkl") not in done.stdout


def test_version_is_the_one_in_pyproject(root):
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert run("version").stdout.strip() == project["version"]
