"""The invisible mark: unseen, found again after what happens to pictures, and in no other one."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from assets.image import is_marked_ai
from diffusion.mark import THRESHOLD, mark, psnr, read_mark
from diffusion.recipe import Recipe
from diffusion.write import COMPOSITE, GENERATED, write_picture

ROOT = Path(__file__).resolve().parent.parent


def tensor(image):
    array = np.array(image, dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)[None]


def picture(tensor):
    array = (tensor[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return Image.fromarray(array)


def jpeg(image, quality):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def scaled(image, by):
    return image.resize(
        (round(image.width * by), round(image.height * by)), Image.Resampling.BICUBIC
    )


@pytest.fixture(scope="module")
def face():
    """A face of 256 pixels."""
    return tensor(Image.fromarray(skimage.data.astronaut()).crop((100, 0, 356, 256)))


@pytest.fixture(scope="module")
def marked(face):
    return picture(mark(face))


def test_the_mark_is_weak_and_always_the_same(face):
    first = mark(face)
    assert 42 <= psnr(face, first) < 46
    assert torch.equal(mark(face), first)
    steps = first * 255
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
    # grey: the colour of no pixel turns
    change = (first - face)[0]
    inner = ((face > 0.1) & (face < 0.9)).all(dim=1)[0]  # where nothing was cut off
    torch.testing.assert_close(change[0][inner], change[1][inner], atol=1.1 / 255, rtol=0)


@pytest.mark.parametrize("level", [0, 3, 128, 254, 255])
def test_flat_pictures_take_the_mark_too(level):
    flat = torch.full((1, 3, 128, 128), level / 255)
    found = mark(flat)
    assert psnr(flat, found) >= 42
    assert read_mark(found).marked


CHANGES = {
    "nothing": lambda image: image,
    "JPEG 70": lambda image: jpeg(image, 70),
    "JPEG 50": lambda image: jpeg(image, 50),
    "scaled 0.7": lambda image: scaled(image, 0.7),
    "scaled 0.853": lambda image: scaled(image, 0.853),
    "scaled 1.3": lambda image: scaled(image, 1.3),
    "cropped": lambda image: image.crop((13, 31, 240, 236)),
    "cropped, JPEG 70": lambda image: jpeg(image.crop((5, 9, 250, 244)), 70),
    "half of it": lambda image: image.crop((64, 40, 192, 168)),
    "brighter": lambda image: image.point(lambda value: min(255, round(value * 1.2 + 5))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_mark_is_found_after(change, marked):
    found = read_mark(tensor(CHANGES[change](marked)))
    assert found.marked, found
    by = {"scaled 0.7": 0.7, "scaled 0.853": 0.853, "scaled 1.3": 1.3}.get(change, 1.0)
    assert found.scale == pytest.approx(by, rel=0.015)


def test_pictures_without_the_mark_score_far_below_the_threshold(face):
    generator = np.random.default_rng(0)
    others = [
        face,
        tensor(skimage.data.chelsea()[:160, 100:260]),
        tensor(generator.integers(0, 256, (128, 128, 3))),
        torch.zeros(1, 3, 128, 128),
        # another pattern of the same period
        tensor(np.tile(generator.integers(100, 150, (64, 64, 3)), (2, 2, 1))),
    ]
    scores = [read_mark(other).score for other in others]
    assert max(scores) < THRESHOLD - 1, scores


def test_chance_alone_stays_within_its_bound():
    """At one place and scale: a fifth of a million noise pictures' worth of shifts."""
    from diffusion.mark import _correlation

    generator = np.random.default_rng(1)
    highest = [_correlation(generator.standard_normal((64, 64))) for _ in range(50)]
    values = np.stack(highest)
    assert abs(float(values.std()) - 1) < 0.02
    assert float(values.max()) < 5.8  # exp(-z²/2) of 200 000 tries


def test_written_pictures_carry_both_marks(face, tmp_path):
    for name, kind, source in [
        ("a.png", "txt2img", GENERATED),
        ("b.jpg", "img2img", GENERATED),
        ("c.png", "inpaint", COMPOSITE),
    ]:
        path = write_picture(tmp_path / name, face, Recipe("a woman", kind=kind))
        assert source.encode() in path.read_bytes()
        assert is_marked_ai(path)
        assert read_mark(tensor(Image.open(path).convert("RGB"))).marked


def test_what_cannot_be_written_is_said(face, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.png"):
        write_picture(tmp_path / "a.bmp", face, Recipe("x"))
    with pytest.raises(ValueError, match="contains NaN"):
        write_picture(tmp_path / "a.png", face * float("nan"), Recipe("x"))
    assert not list(tmp_path.iterdir())


WAYS = {"save", "imsave", "imwrite", "write_image", "write_bytes", "tofile", "write_png"}
# What these write are networks, not pictures.
NO_PICTURES = {"save_pretrained", "save_config", "save_file"}


def test_generated_pictures_reach_the_disk_in_one_way_only():
    def writes(path):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func).split(".")[-1]
                if name in WAYS - NO_PICTURES:
                    yield f"{path.name}:{node.lineno} {ast.unparse(node)[:60]}"

    drawing = [*ROOT.glob("diffusion/*.py"), ROOT / "avatar" / "portrait.py"]
    assert len(drawing) > 20
    training = {path for path in drawing if path.name.startswith("train")}
    found = [one for path in set(drawing) - training for one in writes(path)]
    assert all(one.startswith("write.py:") for one in found), found
    assert len(found) == 2  # as PNG and as JPEG
