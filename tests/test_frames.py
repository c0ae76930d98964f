"""Inputs of every kind as frames: files, folders, lists, videos, and what cannot be read."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from assets.errors import AssetError
from avatar.frames import Frame, Unreadable, _stems, read_inputs
from avatar.video import read_video, write_video
from voice.audio import Audio

RED, BLUE = (200, 40, 30), (20, 60, 220)


def picture(path: Path, colour=RED, size=(80, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def film(path: Path, count: int = 10, size=(96, 64)) -> Path:
    """Red above, blue below; brighter with time."""
    frames = []
    for index in range(count):
        frame = np.zeros((size[1], size[0], 3), np.uint8)
        frame[: size[1] // 2], frame[size[1] // 2 :] = RED, BLUE
        frames.append(np.clip(frame.astype(int) + 2 * index, 0, 255).astype(np.uint8))
    return write_video(path, frames, 25.0, Audio(torch.zeros(1, 2400)))


def kinds(items) -> list[tuple[str, str]]:
    return [(type(item).__name__, item.stem) for item in items]


def test_a_folder_gives_its_pictures_with_numbers_by_value_and_nothing_else(tmp_path):
    for name in ("b10.png", "b9.jpg", "A.bmp", "._b1.png", "c.webp", "d.tiff"):
        picture(tmp_path / name) if name[0] != "." else (tmp_path / name).write_text("x")
    (tmp_path / "notes.txt").write_text("not a picture")
    picture(tmp_path / "inner" / "e.png")
    assert [item.stem for item in read_inputs([tmp_path])] == ["A", "b9", "b10", "c", "d"]


def test_pixels_are_those_of_the_file_and_upright(tmp_path):
    tall = Image.new("RGB", (64, 90), BLUE)
    exif = tall.getexif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    tall.save(tmp_path / "turned.png", exif=exif)
    (frame,) = read_inputs([tmp_path / "turned.png"])
    assert isinstance(frame, Frame) and frame.image.shape == (1, 3, 64, 90)
    torch.testing.assert_close(frame.image[0, :, 5, 5], torch.tensor(BLUE) / 255)
    assert frame.time_s is None and frame.source == tmp_path / "turned.png"


def test_a_bad_file_is_told_in_a_sentence_and_the_next_one_is_read(tmp_path):
    whole = picture(tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "prose.jpg").write_text("no picture")
    (tmp_path / "empty").mkdir()
    inputs = ["half.png", "prose.jpg", "gone.png", "empty", "whole.png"]
    found = list(read_inputs([tmp_path / name for name in inputs]))
    assert kinds(found) == [
        ("Unreadable", "half"), ("Unreadable", "prose"), ("Unreadable", "gone"),
        ("Unreadable", "empty"), ("Frame", "whole"),
    ]  # fmt: skip
    words = ["damaged", "not an image", "is not there", "holds no picture"]
    for item, word in zip(found, words, strict=False):
        assert word in item.reason and str(item.source) in item.reason and "\n" not in item.reason


def test_a_list_is_relative_to_itself_and_keeps_going_past_what_is_missing(tmp_path):
    picture(tmp_path / "lists" / "near.png")
    far = picture(tmp_path / "far.png")
    listed = tmp_path / "lists" / "all.txt"
    listed.write_text(f"# pictures\n\n near.png \ngone.png\n{far}\n", encoding="utf-8-sig")
    assert kinds(read_inputs([listed])) == [
        ("Frame", "near"), ("Unreadable", "gone"), ("Frame", "far"),
    ]  # fmt: skip


@pytest.mark.parametrize("content", [b"Dear reader,\nhow are you?\n", b"\xff\xfe\x00\x01\x80", b""])
def test_a_text_that_is_no_list_is_one_mistake(tmp_path, content):
    path = tmp_path / "letter.txt"
    path.write_bytes(content)
    (item,) = read_inputs([path])
    assert isinstance(item, Unreadable) and str(path) in item.reason


@given(st.lists(st.sampled_from(["a.png", "A.jpg", "x/a.png", "a-2.png", "v.mp4", "v-000001.png"])))
def test_no_two_results_share_a_name_in_any_case(names):
    paths = [Path(name) for name in names]
    stems = _stems(paths)
    assert len({stem.casefold() for stem in stems}) == len(stems)
    videos = [stem for path, stem in zip(paths, stems, strict=True) if path.suffix == ".mp4"]
    assert not {f"{stem}-000001" for stem in videos} & set(stems)
    for path in set(paths):  # the first of a name keeps it
        first = stems[paths.index(path)]
        if path.suffix != ".mp4" and not any(
            other.stem.casefold() == path.stem.casefold() for other in paths[: paths.index(path)]
        ):
            assert first == path.stem


def test_a_video_gives_every_nth_picture_with_its_time_and_number(tmp_path):
    path = film(tmp_path / "clip.mp4")
    frames = list(read_inputs([path], sample_step=4))
    assert [frame.stem for frame in frames] == ["clip-000000", "clip-000004", "clip-000008"]
    assert [frame.time_s for frame in frames] == pytest.approx([0.0, 0.16, 0.32])
    assert [frame.index for frame in frames] == [0, 4, 8]
    above, below = frames[0].image[0, :, 8, 40], frames[0].image[0, :, 56, 40]
    torch.testing.assert_close(above * 255, torch.tensor(RED).float(), atol=6, rtol=0)
    torch.testing.assert_close(below * 255, torch.tensor(BLUE).float(), atol=6, rtol=0)


def test_a_video_filmed_sideways_stands_upright(tmp_path):
    path = film(tmp_path / "phone.mp4", count=2)
    content = path.read_bytes()
    identity = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    quarter = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 64 << 16, 0, 0x40000000)
    at = content.index(identity, content.index(b"tkhd"))
    path.write_bytes(content[:at] + quarter + content[at + 36 :])
    shot = next(read_video(path))
    # a quarter clockwise: what was above is on the right
    assert shot.pixels.shape == (96, 64, 3)
    assert shot.pixels[40, 60, 0] > 150 and shot.pixels[40, 4, 2] > 150


def test_what_is_no_video_is_told_and_a_broken_one_gives_what_it_has(tmp_path):
    (tmp_path / "fake.mp4").write_bytes(b"\x00" * 2000)
    (item,) = read_inputs([tmp_path / "fake.mp4"])
    assert isinstance(item, Unreadable) and "cannot be read as a video" in item.reason
    with pytest.raises(AssetError, match="is not there"):
        next(read_video(tmp_path / "gone.mp4"))
    with pytest.raises(ValueError, match="sample_step=0"):
        next(read_inputs([], sample_step=0))


def test_frames_of_a_video_are_decoded_only_when_they_are_asked_for(tmp_path, monkeypatch):
    import avatar.video

    path = film(tmp_path / "long.mp4", count=30)
    turned = []
    plain = avatar.video._upright
    monkeypatch.setattr(avatar.video, "_upright", lambda f: turned.append(1) or plain(f))
    frames = read_inputs([path])
    next(frames), next(frames)
    assert len(turned) == 2
