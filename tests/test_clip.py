"""Clips: what is seen and heard in the file is what was performed, when it was performed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import av
import numpy as np
import pytest
import scipy.signal
import torch
from sphere_head import make_materials, make_sphere_head

from assets.image import AI_SOURCE_TYPE
from avatar.clip import (
    Clip,
    _at_frames,
    _with_morphs,
    backdrop,
    frame_portrait,
    light_from,
    look_aside,
    make_clip,
)
from avatar.motion import Motion
from avatar.video import VideoConfig, write_video
from flame.arkit import ARKIT_INDEX, ARKIT_NAMES
from flame.light import sh_shading, studio_lights
from flame.load import load_head
from flame.material import Material
from flame.params import gaze_from_arkit
from flame.rotation import axis_angle_to_matrix
from voice.audio import SAMPLE_RATE, Audio

JAW = ARKIT_INDEX["jawOpen"]


def noise(duration_s: float) -> Audio:
    """A murmur whose loudness goes up and down, so that no shift of it looks like it."""
    generator = torch.Generator().manual_seed(5)
    count = round(duration_s * SAMPLE_RATE)
    samples = torch.randn(1, count + 16, generator=generator).unfold(1, 17, 1).mean(-1)
    loudness = torch.sin(torch.arange(count) / SAMPLE_RATE * 21.0) ** 2
    return Audio((1.5 * samples * loudness).clamp(-1, 1))


def still(duration_s: float, rate_hz: float = 60.0) -> Motion:
    count = round(duration_s * rate_hz) + 1
    return Motion(rate_hz, torch.zeros(count, 52), torch.zeros(count, 6, 3))


def sound_of(path: Path) -> tuple[np.ndarray, int]:
    with av.open(str(path)) as container:
        rate_hz = container.streams.audio[0].rate
        pieces = [frame.to_ndarray().mean(0) for frame in container.decode(audio=0)]
    return np.concatenate(pieces), rate_hz


def pictures_of(path: Path) -> list[tuple[float, np.ndarray]]:
    """(time in seconds, RGB) of every frame."""
    with av.open(str(path)) as container:
        return [
            (float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
        ]


@pytest.fixture(scope="module")
def spheres():
    return make_sphere_head(), make_materials()


@pytest.fixture(scope="module")
def shipped():
    flame = load_head()
    head = flame.head(torch.zeros(flame.n_shape))
    tones = {"skin": 0.7, "mouth": 0.3}
    materials = [
        Material(name, torch.full((3, 2, 2), tones.get(name, 0.5))) for name in head.material_names
    ]
    return head, materials


# ------------------------------------------------------------------------------------- the file


@pytest.fixture(scope="module")
def saved(spheres, tmp_path_factory):
    audio = noise(1.03)
    steps: list[tuple[int, int]] = []
    clip = make_clip(
        *spheres,
        still(0.5),
        audio,
        size=64,
        fps=25,
        progress=lambda done, total: steps.append((done, total)),
    )
    path = clip.save(tmp_path_factory.mktemp("clip") / "talk.mp4", title="Ein Gruß")
    return path, audio, steps


def test_a_saved_clip_shows_every_frame_at_its_size_and_rate(saved):
    path, _, steps = saved
    frames = pictures_of(path)
    assert len(frames) == 26  # 1.03 s at 25 a second, the last one begun
    assert all(picture.shape == (64, 64, 3) for _, picture in frames)
    np.testing.assert_allclose([time for time, _ in frames], np.arange(26) / 25, atol=1e-6)
    with av.open(str(path)) as container:
        picture = container.streams.video[0]
        assert picture.average_rate == 25
        assert picture.codec_context.name == "h264"
        assert picture.codec_context.pix_fmt == "yuv420p"
    assert steps == [(done, 26) for done in range(1, 27)]


def test_a_saved_clip_lasts_as_long_as_its_sound_to_within_a_frame(saved):
    path, audio, _ = saved
    with av.open(str(path)) as container:
        for stream in (container.streams.video[0], container.streams.audio[0]):
            lasts = float(stream.duration * stream.time_base)
            assert 0 <= lasts - audio.duration_s < 1 / 25
        assert container.duration / 1e6 - audio.duration_s < 1 / 25


def test_the_sound_of_a_saved_clip_is_the_one_given_and_starts_with_it(saved):
    path, audio, _ = saved
    heard, rate_hz = sound_of(path)
    given = scipy.signal.resample_poly(audio.samples[0].numpy(), rate_hz, SAMPLE_RATE)
    count = min(len(heard), len(given))
    likeness = scipy.signal.correlate(heard[:count], given[:count], method="fft")
    assert abs(likeness.argmax() - (count - 1)) / rate_hz < 0.001
    assert np.corrcoef(heard[:count], given[:count])[0, 1] > 0.98


def test_a_saved_clip_says_that_it_is_generated(saved):
    with av.open(str(saved[0])) as container:
        assert container.metadata["title"] == "Ein Gruß"
        assert "AI-generated" in container.metadata["comment"]
        assert AI_SOURCE_TYPE in container.metadata["comment"]


def test_the_index_comes_first_so_that_players_start_while_they_load(saved):
    content = saved[0].read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_a_flash_and_a_click_stay_together(tmp_path):
    # both at 0.48 s, where a frame of 25 a second starts
    frames = np.zeros((26, 32, 32, 3), np.uint8)
    frames[12] = 255
    samples = torch.zeros(1, SAMPLE_RATE)
    start = round(0.48 * SAMPLE_RATE)
    samples[0, start : start + 48] = 0.8
    path = Clip(frames, 25.0, Audio(samples)).save(tmp_path / "clap.mp4")
    flash = max(pictures_of(path), key=lambda item: item[1].mean())[0]
    heard, rate_hz = sound_of(path)
    click = int(np.abs(heard).argmax()) / rate_hz
    assert flash == pytest.approx(0.48)
    assert abs(click - flash) < 0.005


def test_colours_come_back_as_they_were_and_are_tagged(tmp_path):
    colours = [(230, 40, 30), (30, 200, 60), (40, 60, 220), (255, 255, 255), (0, 0, 0)]
    patches = np.repeat(np.array(colours, np.uint8), 32, axis=0)
    frames = np.broadcast_to(patches[None, None], (4, 32, 160, 3))
    path = write_video(tmp_path / "c.mp4", frames, 25.0, noise(0.1), config=VideoConfig(crf=4))
    seen = pictures_of(path)[2][1][16, 16::32].astype(int)
    np.testing.assert_allclose(seen, colours, atol=3)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        tags = (context.colorspace, context.color_primaries, context.color_trc)
        assert tags == (1, 1, 1)  # BT.709 in ITU-T H.273
        assert context.color_range == 1  # studio range


def test_fractional_rates_are_kept(tmp_path):
    frames = np.zeros((5, 16, 16, 3), np.uint8)
    path = Clip(frames, 30_000 / 1001, noise(0.1)).save(tmp_path / "ntsc.mp4")
    times = [time for time, _ in pictures_of(path)]
    np.testing.assert_allclose(times, np.arange(5) * 1001 / 30_000, atol=1e-4)


def test_a_clip_that_fails_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "talk.mp4"
    path.write_bytes(b"yesterday")

    def frames():
        yield np.zeros((16, 16, 3), np.uint8)
        raise RuntimeError("the light went out")

    with pytest.raises(RuntimeError, match="light went out"):
        write_video(path, frames(), 25.0, noise(0.1))
    assert path.read_bytes() == b"yesterday"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "frames", "signals", "words"),
    [
        ("a.avi", [(16, 16)], 1, "does not end in .mp4"),
        ("a.mp4", [(16, 15)], 1, "15x16 pixels; H.264 wants even sides"),
        ("a.mp4", [(16, 16), (16, 32)], 1, "frame 1 has shape"),
        ("a.mp4", [], 1, "there is no frame to write"),
        ("a.mp4", [(16, 16)], 2, "this Audio has 2 signals"),
    ],
)
def test_what_no_video_can_hold_is_refused_in_one_sentence(tmp_path, name, frames, signals, words):
    pictures = [np.zeros((*shape, 3), np.uint8) for shape in frames]
    audio = Audio(noise(0.1).samples.expand(signals, -1))
    with pytest.raises(ValueError, match=words):
        write_video(tmp_path / name, pictures, 25.0, audio)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------ the moment


def test_each_frame_shows_the_middle_of_its_time_and_then_the_end_is_held():
    times = torch.arange(31, dtype=torch.float64) / 60  # half a second
    weights = torch.zeros(31, 52)
    weights[:, JAW] = times.float()
    moments = _at_frames(Motion(60.0, weights, torch.zeros(31, 6, 3)), 20, 25.0)
    expected = ((np.arange(20) + 0.5) / 25).clip(max=0.5)
    np.testing.assert_allclose(moments.weights[:, JAW], expected, atol=1e-6)


def test_posing_only_the_morphs_in_use_is_posing_the_head(spheres, generator):
    head, _ = spheres
    weights = torch.rand(4, 52, generator=generator)
    weights[:, torch.rand(52, generator=generator) < 0.6] = 0
    rotations = 0.3 * torch.randn(4, 6, 3, generator=generator)
    used = weights.ne(0).any(0).nonzero()[:, 0]
    posed = _with_morphs(head, used).pose(weights[:, used], rotations)
    torch.testing.assert_close(posed, head.pose(weights, rotations), atol=1e-6, rtol=0)


def test_the_jaw_moves_the_mouth_and_not_the_forehead(shipped):
    head, materials = shipped
    weights = torch.zeros(13, 52)
    weights[6:, JAW] = 0.8
    clip = make_clip(
        head,
        materials,
        Motion(60.0, weights, torch.zeros(13, 6, 3)),
        noise(0.2),
        size=96,
        fps=10,
        yaw_deg=0.0,
    )
    closed, opened = (frame.astype(int) for frame in clip.frames)
    change = np.abs(opened - closed).max(-1)
    camera = frame_portrait(head)
    marks = camera.project(load_head().landmarks68(head.verts[None]), (96, 96))[0]
    left, right = marks[[48, 54], 0].round().long().tolist()
    lips = int(marks[62:66, 1].mean())
    assert change[lips : lips + 6, left:right].mean() > 15
    assert change[: int(marks[19, 1])].max() <= 6  # above the brows


def test_a_still_face_does_not_flicker(spheres):
    frames = list(make_clip(*spheres, still(0.1), noise(0.12), size=48).frames)
    assert len(frames) == 3
    assert all(np.array_equal(frame, frames[0]) for frame in frames)


def test_a_clip_can_be_gone_through_twice(spheres):
    motion = dataclasses.replace(still(0.1), weights=torch.linspace(0, 1, 7)[:, None].expand(7, 52))
    clip = make_clip(*spheres, motion, noise(0.1), size=48)
    first, second = list(clip.frames), list(clip.frames)
    assert len(first) == len(clip.frames) == 3
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first[0], first[2])


def test_eyes_turn_to_a_camera_at_the_side():
    weights = look_aside(torch.zeros(1, 52), 12.0)
    expected = torch.tensor([0.0, np.radians(12.0), 0.0]).float().expand(1, 2, 3)
    torch.testing.assert_close(gaze_from_arkit(weights), expected, atol=1e-6, rtol=0)
    # a glance to the same side and the camera's place add up
    glance = gaze_from_arkit(look_aside(weights, -20.0))
    torch.testing.assert_close(glance, expected * (-8 / 12), atol=1e-6, rtol=0)


# ----------------------------------------------------------------------------------- the picture


@pytest.mark.parametrize("yaw_deg", [0.0, 9.0, 90.0])
def test_portraits_show_head_and_shoulders_with_the_eyes_above_the_middle(shipped, yaw_deg):
    head, _ = shipped
    camera = frame_portrait(head, yaw_deg)
    eyes = camera.project(head.joints[None, 4:6], (1, 1))[0, :, 1]
    body = camera.project(head.verts[None], (1, 1))[0]
    assert 0.30 < float(eyes.mean()) < 0.46
    assert 0.02 < float(body[:, 1].min()) < 0.15  # air above the head
    assert float(body[:, 1].max()) > 1.0  # the bust runs out of the picture
    skull = body[head.verts[:, 1] > head.joints[4, 1] - 0.02]
    assert float(skull[:, 0].min()) > 0.05 and float(skull[:, 0].max()) < 0.95


def test_the_light_goes_round_with_the_camera(generator):
    turn = axis_angle_to_matrix(torch.tensor([0.0, np.radians(50.0), 0.0]).float())
    normals = torch.nn.functional.normalize(torch.randn(1, 40, 3, generator=generator), dim=-1)
    before, after = studio_lights(), light_from(50.0)
    torch.testing.assert_close(
        sh_shading(normals @ turn.T, after.sh), sh_shading(normals, before.sh), atol=1e-6, rtol=0
    )
    # what each lamp gives to a surface that turned with it stays
    torch.testing.assert_close(
        (normals @ turn.T) @ after.directions.mT,
        normals @ before.directions.mT,
        atol=1e-6,
        rtol=0,
    )


def test_a_background_of_ones_own_is_seen_beside_the_head(spheres):
    plain = torch.tensor([1.0, 0.0, 0.0])
    image = plain[:, None, None].expand(3, 20, 20)
    for background in (plain, image):
        clip = make_clip(*spheres, still(0.1), noise(0.05), size=48, background=background)
        assert next(iter(clip.frames))[0, 0].tolist() == [255, 0, 0]


def test_the_backdrop_is_brightest_behind_the_head_and_has_no_steps():
    wall = backdrop(256)
    corners = wall[:, ::255, ::255]
    assert float(wall[:, 100:140, 100:160].mean()) > float(corners.mean()) + 0.2
    assert float(wall.diff(dim=1).abs().max()) < 2 / 255
    assert float(wall.diff(dim=2).abs().max()) < 2 / 255


def test_supersampling_changes_edges_alone(spheres):
    def frame(supersample: float) -> np.ndarray:
        clip = make_clip(
            *spheres,
            still(0.1),
            noise(0.04),
            size=48,
            background=torch.ones(3),
            supersample=supersample,
        )
        return next(iter(clip.frames)).astype(int)

    finest = frame(4.0)
    for supersample in (1.0, 1.25, 2.0):
        away = np.abs(frame(supersample) - finest).max(-1)
        assert np.median(away) <= 3
        assert (away > 40).mean() < 0.08


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 63}, "size=63 must be an even number"),
        ({"fps": 0}, "fps=0 must be from 1 to 120"),
        ({"supersample": 5}, "supersample=5 is out of range"),
        ({"background": torch.zeros(3, 10, 20)}, "20x10 pixels, but pictures are square"),
    ],
)
def test_settings_that_make_no_clip_are_refused(spheres, settings, words):
    with pytest.raises(ValueError, match=words):
        make_clip(*spheres, still(0.1), noise(0.1), **settings)


def test_video_settings_are_checked():
    for settings, words in (
        ({"crf": 60}, "crf=60 is out of range"),
        ({"preset": "best"}, "preset='best' is unknown"),
        ({"audio_kbps": 8}, "audio_kbps=8 is out of range"),
    ):
        with pytest.raises(ValueError, match=words):
            VideoConfig(**settings)
    assert len(ARKIT_NAMES) == 52
