"""What the face detector must not take for a face, and what covers faces in photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from deca import synth_scene as scene
from deca.synth_scene import Bytes, Floats, Rng

_SKINS = ((244, 208, 177), (224, 172, 140), (198, 134, 96), (141, 85, 56), (84, 52, 38))


class Scenery:
    """Pictures without a face: painted ones, and pieces of a folder's photographs if there is one.

    The pictures that come with scikit-image are never among them: tests look for faces in those.
    """

    def __init__(self, folder: Path | None, rng: Rng) -> None:
        self._rng = rng
        paths = sorted(folder.glob("*.png")) if folder is not None else []
        self._photos = [Image.open(path).convert("RGB") for path in paths]

    def draw(self, size: int) -> Bytes:
        """One picture [size, size, 3]."""
        rng = self._rng
        chance = rng.random()
        if self._photos and chance < 0.45:
            image = self._piece(size)
        elif chance < 0.65:
            image = Image.fromarray(scene.random_background(size, rng, cuttings=False))
        else:
            painters = (_stripes, _letters, _blobs, _grain)
            image = painters[int(rng.integers(len(painters)))](size, rng)
        for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.5 else 0):
            kinds: tuple[Callable[[Image.Image, Rng], None], ...] = (
                _ball, _limb, _pair, _fingers, _pane,
            )  # fmt: skip
            kinds[int(rng.integers(len(kinds)))](image, rng)
        if rng.random() < 0.2:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 4)))
        return np.array(image)

    def _piece(self, size: int) -> Image.Image:
        rng = self._rng
        photo = self._photos[int(rng.integers(len(self._photos)))]
        side = int(min(photo.size) * rng.uniform(0.25, 1.0))
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in photo.size)
        piece = photo.crop((left, top, left + side, top + side))
        piece = piece.rotate(90 * int(rng.integers(4))) if rng.random() < 0.3 else piece
        pixels = np.asarray(piece.resize((size, size))).astype(np.float64)
        pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
        if rng.random() < 0.15:
            pixels = 255 - pixels
        pixels = pixels * rng.uniform(0.7, 1.15, 3) * rng.uniform(0.6, 1.3)
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def skin_color(rng: Rng) -> tuple[int, int, int]:
    """sRGB bytes of some skin in some light."""
    first, second = (np.array(_SKINS[int(rng.integers(len(_SKINS)))]) for _ in range(2))
    share = rng.random()
    color = (first * share + second * (1 - share)) * rng.uniform(0.6, 1.15)
    red, green, blue = np.clip(color + rng.normal(0, 6, 3), 0, 255)
    return int(red), int(green), int(blue)


def _any_color(rng: Rng) -> tuple[int, int, int]:
    return skin_color(rng) if rng.random() < 0.5 else scene.random_color(rng)


def _stripes(size: int, rng: Rng) -> Image.Image:
    """Stripes, checks and bricks, turned a little."""
    period, share = rng.uniform(4, 48, 2), rng.uniform(0.1, 0.9, 2)
    angle = rng.normal(0, 0.5)
    y, x = np.mgrid[:size, :size]
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    row = np.floor(across / period[1])
    first = ((along + (row % 2) * period[0] / 2) % period[0]) / period[0] < share[0]
    second = (across % period[1]) / period[1] < share[1]
    mask = (first, second, first & second, first ^ second)[int(rng.integers(4))]
    colors = np.array([_any_color(rng), _any_color(rng)])
    pixels = colors[mask.astype(int)] + rng.normal(0, rng.uniform(0, 14), (size, size, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _letters(size: int, rng: Rng) -> Image.Image:
    """Lines of signs of one size."""
    image = Image.new("RGB", (size, size), scene.random_color(rng))
    draw = ImageDraw.Draw(image)
    high = float(rng.uniform(6, 30))
    color = scene.random_color(rng)
    for row in np.arange(0, size, high * 1.6):
        x = rng.uniform(0, high)
        while x < size:
            wide = high * rng.uniform(0.2, 0.9)
            width = max(1, int(high / 7))
            box = (x, row, x + wide, row + high)
            kind = rng.integers(4)
            if kind == 0:
                draw.arc(box, rng.uniform(0, 360), rng.uniform(0, 720), fill=color, width=width)
            elif kind == 1:
                draw.ellipse(box, outline=color, width=width)
            elif kind == 2:
                draw.line((x, row, x + wide, row + high), fill=color, width=width)
            else:
                draw.line((x, row, x, row + high, x + wide, row + high), fill=color, width=width)
            x += wide + high * (0.25 if rng.random() < 0.8 else 0.9)
    return image


def _blobs(size: int, rng: Rng) -> Image.Image:
    """Round things, leaves or stones, in a few colours, each shaded."""
    image = Image.new("RGB", (size, size), _any_color(rng))
    colors = [_any_color(rng) for _ in range(3)]
    for _ in range(int(rng.integers(10, 80))):
        _ball(image, rng, colors[int(rng.integers(3))], rng.uniform(0.03, 0.25))
    return image


def _grain(size: int, rng: Rng) -> Image.Image:
    """Fine grain in one direction: fur, hair, grass, wood."""
    long = int(rng.integers(1, 24))
    noise = rng.normal(0, 1, (size // 2, max(2, size // (2 * long)), 1)).astype(np.float32)
    layer = Image.fromarray(noise[..., 0]).resize((size, size), Image.Resampling.BICUBIC)
    layer = layer.rotate(rng.uniform(0, 180), Image.Resampling.BILINEAR)
    broad = Image.fromarray(rng.normal(0, 1, (5, 5)).astype(np.float32))
    wave = np.asarray(broad.resize((size, size), Image.Resampling.BICUBIC))
    value = np.asarray(layer) * rng.uniform(8, 45) + wave * rng.uniform(5, 45)
    pixels = np.array(_any_color(rng)) + value[..., None] * rng.uniform(0.6, 1, 3)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _ball(
    image: Image.Image,
    rng: Rng,
    color: tuple[int, int, int] | None = None,
    radius: float | None = None,
) -> None:
    """A shaded ellipse, as large as a head may be."""
    size = image.width
    reach = (rng.uniform(0.04, 0.3) if radius is None else radius) * size
    wide, high = max(2, int(2 * reach)), max(2, int(2 * reach * rng.uniform(0.7, 1.5)))
    y, x = np.mgrid[:high, :wide] + 0.5
    u, v = 2 * x / wide - 1, 2 * y / high - 1
    inside = u**2 + v**2 < 1
    depth = np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))
    toward = rng.normal(0, 0.6, 2)
    shade = np.clip(0.75 + 0.35 * (u * toward[0] + v * toward[1]) + 0.25 * (depth - 0.5), 0.2, 1.4)
    pixels = np.array(color or _any_color(rng)) * shade[..., None]
    layer = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    left, top = (int(value) for value in rng.uniform(-0.1, 0.9, 2) * size)
    image.paste(layer, (left, top), Image.fromarray((inside * 255).astype(np.uint8)))


def _limb(image: Image.Image, rng: Rng) -> None:
    """An arm, leg or neck: a long round thing in skin or cloth."""
    size = image.width
    color, middle = np.array(_any_color(rng)), rng.uniform(0, size, 2)
    angle, width, bend = rng.uniform(0, np.pi), rng.uniform(0.04, 0.25) * size, rng.normal(0, 0.4)
    steps = np.linspace(-0.7, 0.7, 12) * size
    path = middle + np.stack(
        [np.cos(angle + bend * steps / size) * steps, np.sin(angle + bend * steps / size) * steps],
        -1,
    )
    draw = ImageDraw.Draw(image)
    for share in np.linspace(1, 0.1, 6):
        tone = np.clip(color * (1.15 - 0.5 * share), 0, 255).astype(int)
        red, green, blue = (int(channel) for channel in tone)
        line = [(float(x), float(y)) for x, y in path]
        draw.line(line, fill=(red, green, blue), width=max(1, int(width * share)), joint="curve")


def _pair(image: Image.Image, rng: Rng) -> None:
    """Two like rings or discs side by side: wheels, knobs, lamps, windows."""
    size, draw = image.width, ImageDraw.Draw(image)
    radius = rng.uniform(0.01, 0.08) * size
    apart = radius * rng.uniform(2.2, 6)
    angle, middle = rng.normal(0, 0.5), rng.uniform(0.1, 0.9, 2) * size
    colors = [_any_color(rng) for _ in range(2)]
    square = rng.random() < 0.3
    for side in (-0.5, 0.5):
        x, y = middle + side * apart * np.array([np.cos(angle), np.sin(angle)])
        for share, color in zip((1.0, rng.uniform(0.2, 0.8)), colors, strict=True):
            reach = radius * share
            box = (x - reach, y - reach, x + reach, y + reach)
            if square:
                draw.rectangle(box, fill=color)
            else:
                draw.ellipse(box, fill=color)


def _fingers(image: Image.Image, rng: Rng) -> None:
    """A few limbs side by side in one skin."""
    size, draw, color = image.width, ImageDraw.Draw(image), np.array(skin_color(rng))
    angle, thick = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.1) * size
    toward = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-toward[1], toward[0]])
    tip = rng.uniform(0.1, 0.9, 2) * size
    for finger in range(int(rng.integers(2, 6))):
        x, y = tip + across * thick * 1.06 * finger + toward * rng.normal(0, 0.6) * thick
        red, green, blue = (int(v) for v in np.clip(color * rng.uniform(0.85, 1.1), 0, 255))
        end = np.array([x, y]) + toward * size * rng.uniform(0.2, 1)
        draw.line((x, y, *end), fill=(red, green, blue), width=int(thick))
        reach = thick / 2
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=(red, green, blue))


def _pane(image: Image.Image, rng: Rng) -> None:
    """A flat box with an edge: doors, books, screens."""
    size, draw = image.width, ImageDraw.Draw(image)
    x, y = rng.uniform(-0.2, 0.9, 2) * size
    w, h = rng.uniform(0.05, 0.6, 2) * size
    draw.rectangle(
        (x, y, x + w, y + h), fill=_any_color(rng), outline=_any_color(rng),
        width=int(rng.integers(1, 7)),
    )  # fmt: skip


def dress_up(person: Bytes, points: Floats, rng: Rng) -> Bytes:
    """The RGBA picture with a beard, a mask, or cloth round the face drawn over it.

    `points` are the 68 landmarks, px. Renders have none of these, photographs do.
    """
    side = len(person)
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    middle = points.mean(0)
    span = float(np.ptp(points, axis=0).max())
    kind = rng.choice(["beard", "stubble", "mask", "hood"], p=[0.35, 0.2, 0.2, 0.25])
    colors = np.array(scene.random_color(rng), np.float64)
    if kind in ("beard", "stubble"):
        high = int(rng.integers(1, 4))
        jaw = points[high : 17 - high]
        grown = middle + (jaw - middle) * (1 + rng.uniform(0, 0.12))
        lip = points[[54, 53, 52, 51, 50, 49, 48]] + [0, -0.05 * span]
        draw.polygon(_path(np.concatenate([grown, lip])), fill=255)
        draw.polygon(_path(points[48:60]), fill=0)
        colors = np.array([60, 45, 35]) * rng.uniform(0.3, 3.2) + rng.normal(0, 8, 3)
    elif kind == "mask":
        top = points[29] * rng.uniform(0.5, 1) + points[33] * 0.4
        top = top / (top[1] / max(float(points[29:31, 1].mean()), 1))
        first = int(rng.integers(1, 4))
        draw.polygon(_path(np.concatenate([points[first : 17 - first], top[None]])), fill=255)
        colors = colors if rng.random() < 0.5 else np.array([200, 220, 235]) * rng.uniform(0.6, 1.1)
    else:
        reach = span * rng.uniform(0.75, 1.0, 2)
        crown = middle - [0, 0.12 * span]
        draw.ellipse((*(crown - reach), *(crown + reach)), fill=255)
        inner = span * rng.uniform(0.5, 0.62, 2) * [0.9, 1.05]
        hole = middle - [0, rng.uniform(0.02, 0.12) * span]
        draw.ellipse((*(hole - inner), *(hole + inner)), fill=0)
    soft = mask.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 3 if "b" in str(kind) else 1)))
    strength = rng.uniform(0.2, 0.7) if kind == "stubble" else rng.uniform(0.85, 1)
    grain = _coarse(side, rng)
    cover = np.asarray(soft).astype(np.float64)[..., None] / 255 * strength
    light = person[..., :3].astype(np.float64).mean(2, keepdims=True) / 160
    tint = colors * (0.35 + 0.65 * light if rng.random() < 0.7 else 0.9) * grain[..., None]
    pixels = person.astype(np.float64)
    pixels[..., :3] = pixels[..., :3] * (1 - cover) + tint * cover
    pixels[..., 3:] = np.maximum(pixels[..., 3:], cover * 255)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _coarse(side: int, rng: Rng) -> NDArray[np.float64]:
    """A factor near one that varies over the picture."""
    cells = int(rng.choice([4, 12, 60]))
    noise = Image.fromarray(rng.uniform(0.7, 1.25, (cells, cells)).astype(np.float32))
    return np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC)).astype(np.float64)


def _path(points: Floats) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points]
