"""A turntable shows what DECA's teaser shows, in the order that was asked for."""

from __future__ import annotations

import math

import av
import numpy as np
import pytest
import torch
from PIL import Image
from sphere_head import make_materials, make_sphere_head

from assets.errors import AssetError
from assets.image import is_marked_ai
from avatar.bundle import Avatar, Manifest
from avatar.clay import clay
from avatar.progress import Progress
from avatar.transfer import Target
from avatar.transfer_source import FaceReader
from avatar.turntable import (
    Film,
    TurntableSettings,
    perform,
    plan,
    read_expressions,
    sweep_deg,
    turntable,
)
from flame.arkit import ARKIT_INDEX
from flame.head import JOINT_NAMES
from flame.load import load_head

NONE = torch.zeros(0, 52)


def faces(*names: str) -> torch.Tensor:
    weights = torch.zeros(len(names), 52)
    for row, name in enumerate(names):
        weights[row, ARKIT_INDEX[name]] = 0.8
    return weights


@pytest.fixture(scope="module")
def sphere(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sphere")
    Avatar(make_sphere_head(), tuple(make_materials()), {}, Manifest()).save(folder)
    return folder


def test_the_sweep_is_the_teasers():
    expected = [*range(0, 31, 5), *range(25, -31, -5), *range(-25, 0, 5)]
    assert sweep_deg() == expected and len(expected) == 24


def test_the_jaw_opens_by_thirty_degrees_and_closes_again():
    shots = plan(TurntableSettings(sweep=False), NONE)
    assert shots.jaw_deg[:16].tolist() == list(range(0, 31, 2))
    assert shots.jaw_deg[-1] == 0 and bool((shots.jaw_deg[15:].diff() < 0).all())
    assert shots.yaw_deg.abs().max() == 0 and shots.weights.abs().max() == 0


def test_each_expression_is_held_in_turn_and_reached_without_a_jump():
    worn = faces("mouthPucker", "browInnerUp")
    shots = plan(TurntableSettings(sweep=False, jaw=False), worn)
    held = [[k for k in range(len(shots)) if torch.equal(shots.weights[k], face)] for face in worn]
    assert all(len(frames) >= 5 for frames in held) and held[0][-1] < held[1][0]
    assert shots.weights.diff(dim=0).abs().max() < 0.8 / 2
    assert shots.weights[-1].abs().max() == 0


@pytest.mark.parametrize(("turn", "step", "count"), [(360, 5, 72), (-360, 10, 36), (720, 45, 16)])
def test_a_full_turn_passes_every_side_once(turn, step, count):
    settings = TurntableSettings(sweep=False, jaw=False, turn_deg=turn, step_deg=step)
    yaws = plan(settings, NONE).yaw_deg.tolist()
    assert yaws == [math.copysign(1, turn) * step * k for k in range(count)]


def test_the_jaw_turns_by_the_angle_that_was_asked_for():
    flame = load_head()
    head = flame.head(torch.zeros(flame.n_shape))
    shots = plan(TurntableSettings(sweep=False), NONE)
    # the lower teeth ride on the jaw alone
    teeth = torch.unique(flame.topology.part_polygons("teeth_lower").clamp_min(0))
    jaw = head.lbs_weights[:, JOINT_NAMES.index("jaw")]
    teeth = teeth[jaw[teeth] > 0.99]
    for index, degrees in ((0, 0.0), (6, 12.0), (15, 30.0)):
        moved = perform(head, shots, index)[0, teeth].double().numpy()
        rest = head.verts[teeth].double().numpy()
        u, _, vt = np.linalg.svd((rest - rest.mean(0)).T @ (moved - moved.mean(0)))
        angle = math.degrees(math.acos(min(1.0, (np.trace((u @ vt).T) - 1) / 2)))
        assert angle == pytest.approx(degrees, abs=1.0)


def test_the_camera_goes_to_the_viewers_right():
    """A head with a red left half, which is at the viewer's right, shows more of it from there."""
    head, materials = make_sphere_head(), make_materials()
    film = Film(
        Target(head, tuple(materials)),
        plan(TurntableSettings(jaw=False, turn_deg=360, step_deg=90, size=64), NONE),
        TurntableSettings(look="shape", size=64),
        None,
    )
    pictures = list(film)
    assert len(pictures) == 24 + 4 and pictures[0].shape == (64, 64, 3)
    np.testing.assert_array_equal(pictures[0], pictures[24])
    assert not np.array_equal(pictures[6], pictures[18])


def test_clay_shows_all_surfaces_but_hair_and_lashes():
    flame = load_head()
    head = flame.head(torch.zeros(flame.n_shape))
    bare, materials = clay(head)
    left = {head.material_names[k] for k in bare.material_ids.unique().tolist()}
    assert left == set(head.material_names) - {"lashes"}
    for material in materials:
        assert float(material.base_color.std(0).max()) < 0.01  # grey
    torch.testing.assert_close(bare.verts, head.verts)


def test_both_looks_stand_side_by_side(sphere, tmp_path):
    settings = {"jaw": False, "sweep": False, "turn_deg": 360, "step_deg": 90, "size": 64}
    found = {}
    for look in ("both", "shape", "textured"):
        folder = tmp_path / look
        paths = turntable(sphere, folder, settings=TurntableSettings(look=look, **settings))
        assert [path.name for path in paths] == [f"frame-{k:03d}.png" for k in range(4)]
        assert all(is_marked_ai(path) for path in paths)
        found[look] = np.asarray(Image.open(paths[1]))
    np.testing.assert_array_equal(
        found["both"], np.concatenate([found["shape"], found["textured"]], axis=1)
    )


@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_films_have_every_frame_at_its_time(sphere, tmp_path, name):
    settings = TurntableSettings(jaw=False, size=32, fps=10, look="textured")
    (path,) = turntable(sphere, tmp_path / name, settings=settings)
    if name.endswith("gif"):
        with Image.open(path) as film:
            assert (film.n_frames, film.size) == (24, (32, 32))
            assert film.info["duration"] == 100 and film.info["loop"] == 0
            assert b"AI-generated" in film.info["comment"]
    else:
        with av.open(str(path)) as film:
            times = [float(frame.time) for frame in film.decode(video=0)]
        np.testing.assert_allclose(times, np.arange(24) / 10, atol=1e-3)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"look": "wire"}, "look='wire' is not known; use textured, shape, both"),
        ({"size": 33}, "size=33 must be an even number"),
        ({"fps": float("nan")}, "fps=nan"),
        ({"turn_deg": float("inf")}, "turn_deg=inf"),
        ({"step_deg": 0.0}, "step_deg=0.0"),
    ],
)
def test_a_setting_out_of_range_is_named(chosen, words):
    with pytest.raises(ValueError, match=words):
        TurntableSettings(**chosen)


def test_what_cannot_be_filmed_is_one_sentence(sphere, tmp_path):
    with pytest.raises(ValueError, match=r"a\.avi is none of \.gif, \.mp4 or a folder"):
        turntable(sphere, tmp_path / "a.avi")
    with pytest.raises(ValueError, match="nothing is left to show"):
        turntable(sphere, tmp_path / "a.gif", settings=TurntableSettings(sweep=False, jaw=False))
    with pytest.raises(AssetError, match="is not there"):
        turntable(tmp_path / "none", tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


class Blind(FaceReader):
    def read(self, image):
        raise ValueError("there is no face")


def test_expressions_without_a_face_are_passed_over_unless_there_is_no_other(tmp_path):
    Image.new("RGB", (80, 80)).save(tmp_path / "wall.png")
    progress = Progress()
    with pytest.raises(AssetError, match="shows no face whose expression"):
        read_expressions(tmp_path, Blind(), progress)
    assert len(progress.warnings) == 1 and "wall.png: there is no face" in progress.warnings[0]
