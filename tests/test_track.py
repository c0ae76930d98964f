"""`avatar track`: frames in, one identity's motion out, and what is said of bad input."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from assets.errors import AssetError
from assets.image import write_image
from avatar.motion_files import load_npz
from avatar.track import TrackSettings, track, track_of
from avatar.track_files import fitted, read_sound
from avatar.track_frames import Reel, Source, open_sources
from avatar.video import write_video
from deca.sequence import Sequence
from flame.arkit import ARKIT_INDEX
from flame.head import JOINT_NAMES
from flame.rotation import axis_angle_to_matrix
from voice.audio import SAMPLE_RATE, Audio


def solved(count=50, rate_hz=25.0, **changes):
    times = torch.arange(count, dtype=torch.float64) / rate_hz
    fields = {
        "times_s": times,
        "seen": torch.ones(count, dtype=torch.bool),
        "confidence": torch.full((count,), 0.9),
        "shape": torch.zeros(100),
        "shape_sigma": torch.ones(60),
        "albedo": torch.zeros(43),
        "weights": torch.zeros(count, 52),
        "rotations": torch.zeros(count, 3),
        "scale_px": torch.ones(count),
        "root_px": torch.zeros(count, 2),
        "tangent_px": torch.ones(count),
        "residual": torch.zeros(count),
        "cuts": (),
        "strangers": (),
        "keyframes": (0,),
        "views": (),
    }
    return Sequence(**{**fields, **changes})


def test_the_heads_joints_together_turn_as_the_head_was_seen_to(generator):
    turns = 0.4 * torch.randn(12, 3, generator=generator)
    found = track_of(solved(12, rotations=turns), TrackSettings(smooth=0.0))
    together = torch.eye(3)
    for joint in ("root", "neck", "head"):
        moved = found.motion.rotations[:, JOINT_NAMES.index(joint)]
        together = together @ axis_angle_to_matrix(moved)
    torch.testing.assert_close(together, axis_angle_to_matrix(turns), atol=1e-5, rtol=0)
    assert found.motion.rate_hz == 25


def test_frames_without_a_face_are_bridged_and_marked():
    seen = torch.ones(50, dtype=torch.bool)
    seen[20:26] = False
    weights = torch.full((50, 52), 0.0)
    weights[:20, 0], weights[26:, 0] = 0.2, 0.6
    found = track_of(solved(seen=seen, weights=weights), TrackSettings(smooth=0.0))
    assert found.missing.nonzero()[:, 0].tolist() == list(range(20, 26))
    bridged = found.motion.weights[19:27, 0]
    assert bool((bridged.diff() > 0).all()) and float(bridged.diff().max()) < 0.12


def test_nothing_is_smoothed_across_a_cut():
    weights = torch.zeros(50, 52)
    weights[25:, ARKIT_INDEX["browInnerUp"]] = 0.03
    plain = track_of(solved(weights=weights), TrackSettings(smooth=1.0))
    cut = track_of(solved(weights=weights, cuts=(25,)), TrackSettings(smooth=1.0))
    column = ARKIT_INDEX["browInnerUp"]
    torch.testing.assert_close(cut.motion.weights[:, column], weights[:, column], atol=1e-6, rtol=0)
    assert float((plain.motion.weights - weights)[:, column].abs().max()) > 0.003


def test_a_gaze_that_crosses_the_middle_is_told_by_one_eyelook_at_a_time():
    times = torch.arange(50) / 25
    swing = 0.4 * torch.sin(2 * math.pi * times)
    weights = torch.zeros(50, 52)
    out, toward = ARKIT_INDEX["eyeLookOutLeft"], ARKIT_INDEX["eyeLookInLeft"]
    weights[:, out], weights[:, toward] = swing.clamp(min=0), (-swing).clamp(min=0)
    found = track_of(solved(weights=weights), TrackSettings(smooth=0.4)).motion.weights
    assert float((found[:, out] * found[:, toward]).max()) == 0
    assert float((found[:, out] - found[:, toward] - swing).abs().max()) < 0.05


def test_a_video_of_uneven_times_is_told_at_a_steady_rate():
    times = torch.tensor([0.0, 0.03, 0.08, 0.12, 0.2, 0.24, 0.28, 0.36, 0.4], dtype=torch.float64)
    weights = torch.zeros(9, 52)
    weights[:, 3] = times.float()
    found = track_of(solved(9, times_s=times, weights=weights), TrackSettings(smooth=0.0))
    assert found.motion.rate_hz == 25
    steps = torch.arange(len(found)) / 25
    torch.testing.assert_close(found.motion.weights[:, 3], steps, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.times_s.float(), steps, atol=1e-6, rtol=0)


def test_fewer_frames_a_second_can_be_asked_for():
    found = track_of(solved(51), TrackSettings(fps=10.0))
    assert found.motion.rate_hz == 10 and len(found) == 21


class _Frames(Source):
    def frames(self):
        for index in range(6):
            yield index / 10, np.full((2, 2, 3), index, np.uint8)


def test_previews_show_the_frame_nearest_in_time():
    reel = Reel(_Frames([], False), torch.tensor([0.0, 0.04, 0.06, 0.31, 0.5, 0.9]))
    assert [int(pixels[0, 0, 0]) for pixels in reel] == [0, 0, 1, 3, 5, 5]


def test_previews_keep_a_pictures_proportions():
    assert fitted(np.zeros((100, 200, 3), np.uint8), 64).shape == (64, 128, 3)
    assert fitted(np.zeros((300, 100, 3), np.uint8), 64).shape == (64, 22, 3)
    assert fitted(np.zeros((10, 900, 3), np.uint8), 64).shape == (64, 128, 3)


def film(path, frames, rate_hz=25.0, seconds=0.2):
    tone = 0.2 * torch.sin(2 * math.pi * 440 * torch.arange(int(seconds * SAMPLE_RATE)) / 24_000)
    return write_video(path, frames, rate_hz, Audio(tone[None]), ai_generated=False)


def test_the_sound_of_a_video_is_read(tmp_path):
    path = film(tmp_path / "a.mp4", [np.full((64, 64, 3), 90, np.uint8)] * 10, seconds=0.4)
    sound = read_sound(path)
    assert 0.38 < sound.duration_s < 0.5
    assert 0.12 < float(sound.samples[0, 2000:8000].square().mean().sqrt()) < 0.16
    assert read_sound(path, 0.2).duration_s < 0.3


def test_a_video_that_shows_no_face_is_one_sentence_and_writes_nothing(tmp_path):
    path = film(tmp_path / "wall.mp4", [np.full((96, 96, 3), 90, np.uint8)] * 3)
    with pytest.raises(AssetError, match=r"wall\.mp4: no face was found in any of its 3 frames"):
        track(path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "cannot be read as a video"), (b"hello" * 99, "cannot be read as a video")],
)
def test_what_is_no_video_is_one_sentence(tmp_path, content, words):
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    source = open_sources([path], TrackSettings())
    with pytest.raises(AssetError, match=words):
        list(source.frames())


def test_inputs_that_cannot_be_meant_are_said(tmp_path):
    film(tmp_path / "a.mp4", [np.zeros((64, 64, 3), np.uint8)] * 2)
    for paths, words in (
        ([tmp_path / "none.mp4"], "is not there"),
        ([tmp_path / "a.mp4", tmp_path / "a.mp4"], "one video at a time"),
        ([], "nothing to track"),
    ):
        with pytest.raises((AssetError, ValueError), match=words):
            open_sources(paths, TrackSettings())
    late = open_sources([tmp_path / "a.mp4"], TrackSettings(start_s=5.0))
    with pytest.raises(AssetError, match="no frame after 5 s"):
        list(late.frames())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"smooth": 2.0}, "smooth=2"),
        ({"start_s": -1.0}, "start=-1"),
        ({"start_s": 3.0, "end_s": 2.0}, "end=2"),
        ({"fps": 0.1}, "fps=0.1"),
        ({"size": 63}, "size=63"),
    ],
)
def test_settings_out_of_range_are_said(settings, words):
    with pytest.raises(ValueError, match=words):
        TrackSettings(**settings)


def test_only_the_asked_part_and_rate_of_a_video_is_looked_at(tmp_path):
    path = film(tmp_path / "a.mp4", [np.zeros((64, 64, 3), np.uint8)] * 20, seconds=0.8)
    source = open_sources([path], TrackSettings(start_s=0.2, end_s=0.6, fps=12.5))
    times = [round(time, 2) for time, _ in source.frames()]
    assert times == [0.2, 0.28, 0.36, 0.44, 0.52, 0.6]


def test_a_folder_of_photos_lists_what_cannot_be_read(tmp_path):
    write_image(tmp_path / "2.png", torch.full((1, 3, 80, 80), 0.2))
    write_image(tmp_path / "10.png", torch.full((1, 3, 80, 80), 0.4))
    (tmp_path / "3.jpg").write_bytes(b"no picture")
    source = open_sources([tmp_path], TrackSettings())
    assert [int(pixels[0, 0, 0]) for _, pixels in source.frames()] == [51, 102]
    assert source.files == ["2.png", "10.png"]
    (fault,) = source.faults
    assert "3.jpg" in fault


@pytest.fixture(scope="module")
def head_pictures():
    """A drawn head that opens its mouth and turns, in five small frames."""
    from avatar.clip import Stage
    from flame.load import load_head
    from flame.outfit import load_outfit

    outfit = load_outfit()
    generator = torch.Generator().manual_seed(0)
    skin = outfit.albedo.decode(torch.zeros(1, 43), 512)[0]
    materials = outfit.materials(skin, "brown", hair=None, generator=generator)
    stage = Stage(load_head().head(torch.zeros(100)), materials, 160, supersample=1)
    pictures = []
    for opening in (0.0, 0.35, 0.7, 0.35, 0.0):
        weights, rotations = torch.zeros(1, 52), torch.zeros(1, 6, 3)
        weights[:, ARKIT_INDEX["jawOpen"]] = opening
        rotations[:, JOINT_NAMES.index("head"), 1] = 0.5 * (opening - 0.35)
        pictures.append(stage.photograph(stage.head.pose(weights, rotations)))
    return pictures


@pytest.mark.slow
def test_a_drawn_head_is_tracked_from_video_to_files(head_pictures, tmp_path):
    path = film(tmp_path / "talk.mp4", head_pictures)
    found = track(path, out=tmp_path / "out", settings=TrackSettings(smooth=0.2, size=64))
    jaw = found.motion.weights[:, ARKIT_INDEX["jawOpen"]]
    assert int(jaw.argmax()) == 2 and float(jaw[2] - jaw[[0, 4]].mean()) > 0.25
    turned = torch.rad2deg(found.rotation[:, 1])
    assert 12 < float(turned[2] - turned[0]) < 28  # 20.1 by its joints
    assert not bool(found.missing.any())
    record = json.loads((tmp_path / "out" / "track.json").read_text())
    assert record["frames"] == 5 and record["missing_frames"] == [] and record["fps"] == 25
    assert set(record["files"]) == {
        "motion.npz", "motion.csv", "motion.glb", "head.glb", "identity.npz", "preview.mp4",
    }  # fmt: skip
    again = load_npz(tmp_path / "out" / "motion.npz")
    torch.testing.assert_close(again.weights, found.motion.weights)
    assert len((tmp_path / "out" / "motion.csv").read_text().splitlines()) == 6
