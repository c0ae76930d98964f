"""Settings files, the device, and what stages report."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from assets.errors import AssetError
from avatar.config import CreateSettings, choose_device, read_settings
from avatar.progress import Progress


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    needed: int
    inner: Inner = field(default_factory=Inner)
    path: Path | None = None


def written(tmp_path, text):
    path = tmp_path / "s.toml"
    path.write_text(text)
    return path


def test_a_file_fills_nested_settings_and_leaves_the_rest_at_defaults(tmp_path):
    path = written(tmp_path, 'needed = 2\npath = "a/b"\n[inner]\nrate = 3\nnames = ["x", "y"]')
    assert read_settings(path, Outer) == Outer(2, Inner(3.0, ("x", "y")), Path("a/b"))


def test_a_section_is_read_alone(tmp_path):
    path = written(tmp_path, '[create]\nhair = "bob"\nbox = [1, 2, 30, 40]\n[other]\nx = 1')
    settings = read_settings(path, CreateSettings, "create")
    assert settings == CreateSettings(hair="bob", box=(1.0, 2.0, 30.0, 40.0))
    assert read_settings(path, CreateSettings, "absent") == CreateSettings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("needed = 1\nspeed = 2", "unknown key speed; known are needed, inner, path"),
        ("needed = 1\n[inner]\nrates = 2", "inner has unknown key rates; known are rate, names"),
        ('needed = "1"', "needed = '1' must be of type int"),
        ("needed = true", "needed = True must be of type int"),
        ("", "lacks the key needed"),
    ],
)
def test_a_slip_in_a_file_is_named(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        read_settings(written(tmp_path, text), Outer)


def test_of_a_choice_the_possible_values_are_named(tmp_path):
    path = written(tmp_path, 'hair = "mohawk"')
    with pytest.raises(
        ValueError, match="'mohawk' is not known; use auto, none, short, bob, fringe or"
    ):
        read_settings(path, CreateSettings)


def test_what_is_no_toml_and_what_is_not_there_are_file_errors(tmp_path):
    with pytest.raises(AssetError, match="not valid TOML"):
        read_settings(written(tmp_path, "a = = b"), Outer)
    with pytest.raises(AssetError, match="cannot be read"):
        read_settings(tmp_path / "none.toml", Outer)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hair_color": "#12345"}, "#rrggbb"),
        ({"seed": -1}, "seed=-1"),
        ({"size": 65}, "even number"),
        ({"box": (0.0, 0.0, 0.0, 5.0)}, "above 0"),
        ({"box": (0.0, 0.0, 5.0, 5.0), "landmarks": Path("x")}, "both given"),
    ],
)
def test_settings_out_of_range_are_refused_where_they_enter(settings, words):
    with pytest.raises(ValueError, match=words):
        CreateSettings(**settings)


def test_the_device_is_the_named_one_or_the_best_there_is():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}
    with pytest.raises(ValueError, match="use auto, cpu, cuda or mps"):
        choose_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="cannot be used on this machine"):
        choose_device("cuda")


def test_stages_are_remembered_in_order_with_what_they_cost():
    log = io.StringIO()
    progress = Progress(log)
    with progress.stage("allocate"):
        held = torch.ones(50_000_000)  # 200 MB, touched
    del held
    with progress.stage("rest"):
        progress.step(1, 2)
    progress.warn("two faces")
    assert [stage.name for stage in progress.stages] == ["allocate", "rest"]
    assert all(stage.seconds >= 0 for stage in progress.stages)
    assert progress.warnings == ("two faces",)
    lines = log.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["allocate", "rest", "warning:"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells memory alone")
def test_the_peak_is_that_of_the_stage_and_not_of_an_earlier_one():
    progress = Progress()
    with progress.stage("large"):
        held = torch.ones(50_000_000)  # 200 MB
    del held
    with progress.stage("small"):
        pass
    large, small = progress.stages
    assert large.peak_mb - small.peak_mb == pytest.approx(200e6 / 2**20, abs=40)


def test_a_stage_that_fails_is_not_remembered():
    progress = Progress()
    with pytest.raises(RuntimeError), progress.stage("fails"):
        raise RuntimeError
    assert progress.stages == ()
