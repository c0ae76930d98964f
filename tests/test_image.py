"""Photos as people have them: turned, grey, deep, transparent, printed, animated, or no photos."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from skimage import data, img_as_float32

from assets import image as image_module
from assets.errors import AssetError
from assets.image import (
    is_marked_ai,
    read_image,
    read_text,
    read_texture,
    to_8bit,
    write_image,
)

# A colour of its own in each corner, so that a turn or flip shows.
CORNERS = np.zeros((64, 96, 3), np.uint8)
CORNERS[:32, :48] = (255, 0, 0)
CORNERS[:32, 48:] = (0, 255, 0)
CORNERS[32:, :48] = (0, 0, 255)
CORNERS[32:, 48:] = (255, 255, 0)


def as_tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)[None].float() / 255


def test_the_astronaut_is_read_as_scikit_image_has_it(tmp_path):
    Image.fromarray(data.astronaut()).save(tmp_path / "a.png")
    expected = torch.from_numpy(img_as_float32(data.astronaut())).permute(2, 0, 1)[None]
    torch.testing.assert_close(read_image(tmp_path / "a.png"), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_phone_photo_is_read_upright(tmp_path, orientation):
    # How a camera stores an upright scene under each EXIF orientation (TIFF 6.0, tag 274).
    stored = {
        1: CORNERS,
        2: CORNERS[:, ::-1],
        3: CORNERS[::-1, ::-1],
        4: CORNERS[::-1],
        5: CORNERS.transpose(1, 0, 2),
        6: np.rot90(CORNERS, 1),
        7: CORNERS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(CORNERS, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "p.png", exif=exif)
    torch.testing.assert_close(read_image(tmp_path / "p.png"), as_tensor(CORNERS), atol=0, rtol=0)


def test_transparent_parts_are_white(tmp_path):
    rgba = np.full((64, 64, 4), (255, 0, 0, 0), np.uint8)
    rgba[:32, :, 3] = 255
    rgba[32:48, :, 3] = 51  # a fifth
    Image.fromarray(rgba).save(tmp_path / "t.png")
    image = read_image(tmp_path / "t.png")[0, :, :, 0]
    torch.testing.assert_close(image[:, 0], torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(image[:, 40], torch.tensor([1.0, 0.8, 0.8]), atol=1e-6, rtol=0)
    torch.testing.assert_close(image[:, 63], torch.ones(3), atol=1e-6, rtol=0)


def test_grey_of_16_bits_keeps_its_depth(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "g.png")
    image = read_image(tmp_path / "g.png")
    expected = torch.from_numpy(ramp.astype(np.float32) / 65535).expand(1, 3, 64, 64)
    torch.testing.assert_close(image, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("mode", "suffix"), [("L", "jpg"), ("P", "png"), ("CMYK", "jpg")])
def test_grey_palette_and_printers_colours_keep_their_look(tmp_path, mode, suffix):
    flat = Image.new("RGB", (64, 64), (90, 90, 90))
    stored = flat.quantize() if mode == "P" else flat.convert(mode)
    stored.save(tmp_path / f"m.{suffix}")
    image = read_image(tmp_path / f"m.{suffix}")
    torch.testing.assert_close(image, torch.full((1, 3, 64, 64), 90 / 255), atol=0.01, rtol=0)


def test_a_colour_profile_is_followed(tmp_path):
    # Lab (50, 80, 67) is red near the edge of sRGB; as bare numbers it would be another colour.
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    srgb = ImageCms.createProfile("sRGB")
    square = Image.new("RGB", (64, 64), (200, 60, 40))
    turned = ImageCms.profileToProfile(square, srgb, lab, outputMode="LAB")
    back = ImageCms.profileToProfile(turned, lab, srgb, outputMode="RGB")
    assert np.abs(np.asarray(back, int) - (200, 60, 40)).max() <= 2  # the profiles work here
    swapped = _with_swapped_primaries(tmp_path)
    image = read_image(swapped)[0, :, 32, 32] * 255
    assert image[0] < image[1]  # stored (200, 60, 40) under a profile whose first primary is green


def _with_swapped_primaries(folder):
    """A red square whose embedded profile says that its first channel is sRGB's green."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {}
    for n in range(int.from_bytes(profile[128:132], "big")):
        at = 132 + 12 * n
        tags[bytes(profile[at : at + 4])] = slice(at + 4, at + 12)
    red, green = bytes(profile[tags[b"rXYZ"]]), bytes(profile[tags[b"gXYZ"]])
    profile[tags[b"rXYZ"]], profile[tags[b"gXYZ"]] = green, red
    renamed = bytes(profile).replace("sRGB".encode("utf-16-be"), "sXGB".encode("utf-16-be"))
    path = folder / "swapped.png"
    Image.new("RGB", (64, 64), (200, 60, 40)).save(path, icc_profile=renamed)
    return path


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    red, blue = (Image.new("RGB", (64, 64), color) for color in ("red", "blue"))
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    image = read_image(tmp_path / "a.gif")
    torch.testing.assert_close(image[0, :, 5, 5], torch.tensor([1.0, 0, 0]), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not an image"),
        (b"%PDF-1.7 no image", "is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "is not an image"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(80), "HEIC photo; export it as JPEG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "is not an image|is damaged"),
    ],
)
def test_what_is_no_photo_is_refused_in_one_sentence(tmp_path, content, words):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(AssetError, match=words) as caught:
        read_image(tmp_path / "x.jpg")
    assert "\n" not in str(caught.value)


def test_a_photo_cut_short_is_damaged(tmp_path):
    Image.fromarray(data.astronaut()).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AssetError, match="is damaged"):
        read_image(tmp_path / "a.jpg")


def test_tiny_and_huge_pictures_are_refused_with_their_size(tmp_path, monkeypatch):
    Image.new("RGB", (63, 400)).save(tmp_path / "tiny.png")
    with pytest.raises(AssetError, match=r"63x400 pixels, too small.*at least 64"):
        read_image(tmp_path / "tiny.png")
    Image.new("1", (12_000, 6_000)).save(tmp_path / "huge.png")
    with pytest.raises(AssetError, match="12000x6000 pixels, more than the 64 megapixels"):
        read_image(tmp_path / "huge.png")
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    with pytest.raises(AssetError, match="scale it down"):
        read_image(tmp_path / "bomb.png")


def test_a_missing_photo_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(AssetError, match="is not there"):
            read_image(path)


@given(st.lists(st.floats(-0.5, 1.5, width=32), min_size=1, max_size=64))
def test_8_bit_values_are_multiples_of_1_in_255_and_stay_themselves(values):
    rounded = to_8bit(torch.tensor(values))
    steps = rounded.double() * 255
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
    assert torch.equal(to_8bit(rounded), rounded)
    clamped = torch.tensor(values).clamp(0, 1)
    assert (rounded - clamped).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_png_gives_back_every_8_bit_value(tmp_path, channels, generator):
    texture = to_8bit(torch.rand(1, channels, 40, 50, generator=generator))
    write_image(tmp_path / "t.png", texture)
    assert torch.equal(read_texture(tmp_path / "t.png"), texture[0])


def test_a_jpeg_is_close_and_no_half_file_is_left_by_a_failure(tmp_path, monkeypatch):
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    path = tmp_path / "r.jpg"
    write_image(path, ramp)
    torch.testing.assert_close(read_image(path), ramp, atol=0.02, rtol=0)
    before = path.read_bytes()

    def fails(self, file, *_, **__):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(image_module.Image.Image, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        write_image(path, 1 - ramp)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_text_and_the_mark_of_a_model_are_read_back(tmp_path, suffix):
    text = {"prompt": "a smile, “très” 笑", "seed": "7"}
    plain, marked = tmp_path / f"plain{suffix}", tmp_path / f"marked{suffix}"
    write_image(plain, torch.zeros(1, 3, 8, 8))
    write_image(marked, torch.zeros(1, 3, 8, 8), text=text, ai_generated=True)
    assert (read_text(plain), is_marked_ai(plain)) == ({}, False)
    assert (read_text(marked), is_marked_ai(marked)) == (text, True)
    # other programs find the mark as XMP
    assert b"ns.adobe.com/xap" in marked.read_bytes() or b"XML:com.adobe.xmp" in marked.read_bytes()


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("x.gif", (1, 3, 8, 8), "must end in .png"),
        ("x.jpg", (1, 4, 8, 8), "4 channels"),
        ("x.png", (1, 2, 8, 8), "2 channels"),
    ],
)
def test_what_cannot_be_written_is_said(tmp_path, name, shape, words):
    with pytest.raises(ValueError, match=words):
        write_image(tmp_path / name, torch.zeros(shape))
    with pytest.raises(ValueError, match="NaN"):
        write_image(tmp_path / "n.png", torch.full((1, 3, 8, 8), torch.nan))
    assert not list(tmp_path.iterdir())
