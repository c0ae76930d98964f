"""What is around and in front of random people: backgrounds, glasses, hats, passing hands."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from deca.synth_words import color_word, with_article

Rng = np.random.Generator
Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

# Pictures without a face in scikit-image's wheel.
_TEXTURES = (
    "brick", "cell", "chelsea", "coffee", "coins", "grass", "gravel", "hubble_deep_field",
    "immunohistochemistry", "moon", "page", "retina", "rocket", "text",
)  # fmt: skip
_SCENES = (
    "a brick wall", "a microscope's picture", "a cat", "a cup of coffee", "coins", "grass",
    "gravel", "stars", "a microscope's picture", "the moon", "a printed page", "a retina",
    "a rocket", "printed text",
)  # fmt: skip


def random_color(rng: Rng) -> tuple[int, int, int]:
    """sRGB bytes: half of them greyish, as most cloth and walls are."""
    grey = rng.uniform(0, 255)
    spread = 20 if rng.random() < 0.5 else 90
    red, green, blue = np.clip(grey + rng.normal(0, spread, 3), 0, 255)
    return int(red), int(green), int(blue)


@cache
def _texture(index: int) -> Image.Image:
    from skimage import data

    image = np.asarray(getattr(data, _TEXTURES[index])())
    return Image.fromarray(image).convert("RGB")


def random_background(size: int, rng: Rng, *, cuttings: bool = True) -> Bytes:
    """A picture [H, W, 3] with no face in it: plain, gradient, noise, shapes or a real texture."""
    return draw_background(size, rng, cuttings=cuttings)[0]


def draw_background(size: int, rng: Rng, *, cuttings: bool = True) -> tuple[Bytes, str]:
    """A random background and what to call it."""
    kind = rng.choice(5, p=[0.15, 0.2, 0.2, 0.25, 0.2] if cuttings else [0.1, 0.2, 0.3, 0.4, 0])
    if kind == 0:
        color = random_color(rng)
        image, word = Image.new("RGB", (size, size), color), f"a plain {color_word(color)} wall"
    elif kind == 1:
        image, word = _gradient(size, rng), "a gradient"
    elif kind == 2:
        image, word = _noise(size, rng), "a mottled backdrop"
    elif kind == 3:
        image, word = _gradient(size, rng), "coloured shapes"
        _draw_shapes(image, rng)
    else:
        image, word = _cutting(size, rng)
    if rng.random() < 0.5:
        radius = rng.uniform(0.5, 6)
        image = image.filter(ImageFilter.GaussianBlur(radius))
        if radius > 2 and kind > 1:
            word += ", out of focus"
    return np.array(image), word


def _gradient(size: int, rng: Rng) -> Image.Image:
    corners = np.array([random_color(rng) for _ in range(4)], np.uint8).reshape(2, 2, 3)
    return Image.fromarray(corners).resize((size, size), Image.Resampling.BICUBIC)


def _noise(size: int, rng: Rng) -> Image.Image:
    """Colour noise summed over several scales."""
    total = np.zeros((size, size, 3))
    slope = rng.uniform(0.3, 1.2)
    for side in (2, 4, 9, 20, 45, 100):
        grain = rng.normal(0, 1, (side, side, 3))
        grain = grain + rng.normal(0, 1, (side, side, 1))
        layer = [
            np.asarray(
                Image.fromarray(grain[..., c].astype(np.float32)).resize(
                    (size, size), Image.Resampling.BICUBIC
                )
            )
            for c in range(3)
        ]
        total += np.stack(layer, -1) / side**slope
    total *= rng.uniform(15, 60) / max(total.std(), 1e-6)
    return Image.fromarray(np.clip(total + random_color(rng), 0, 255).astype(np.uint8))


def _draw_shapes(image: Image.Image, rng: Rng) -> None:
    draw = ImageDraw.Draw(image)
    size = image.width
    for _ in range(rng.integers(3, 25)):
        x, y = rng.uniform(-0.2, 1.2, 2) * size
        w, h = rng.uniform(0.02, 0.5, 2) * size
        color = random_color(rng)
        shape = rng.integers(4)
        if shape == 0:
            draw.ellipse((x, y, x + w, y + h), fill=color)
        elif shape == 1:
            draw.rectangle((x, y, x + w, y + h), fill=color)
        elif shape == 2:
            points = rng.uniform(-0.5, 0.5, (5, 2)) * [w, h] + [x, y]
            draw.polygon([tuple(point) for point in points], fill=color)
        else:
            end = rng.uniform(0, size, 2)
            draw.line((x, y, *end), fill=color, width=int(rng.integers(1, 12)))


def _cutting(size: int, rng: Rng) -> tuple[Image.Image, str]:
    """A piece of a real picture, mirrored and tinted, and what it shows."""
    index = int(rng.integers(len(_TEXTURES)))
    image = _texture(index)
    side = int(min(image.size) * rng.uniform(0.2, 1.0))
    left, top = (int(rng.integers(0, extent - side + 1)) for extent in image.size)
    piece = image.crop((left, top, left + side, top + side)).resize((size, size))
    pixels = np.asarray(piece).astype(np.float64)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    pixels = pixels * rng.uniform(0.4, 1.2, 3) * rng.uniform(0.6, 1.2) + rng.uniform(-30, 30)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), _SCENES[index]


def over(below: Bytes, above: Bytes) -> Bytes:
    """RGBA over RGBA, straight alpha, [H, W, 4]."""
    return np.array(Image.alpha_composite(Image.fromarray(below), Image.fromarray(above)))


def draw_glasses(
    size: int, outlines: list[Floats], temples: list[Floats], rng: Rng
) -> tuple[Bytes, bool]:
    """An RGBA layer with spectacles whose rims and side pieces lie along these pixel paths.

    Also says whether the glass is dark.
    """
    fine = 3
    layer = Image.new("RGBA", (size * fine, size * fine), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    dark = rng.random() < 0.12  # sunglasses
    if dark:
        glass = (*(int(v) for v in rng.uniform(5, 70, 3)), int(rng.uniform(190, 252)))
    else:
        glass = (*(int(v) for v in rng.uniform(120, 255, 3)), int(rng.uniform(0, 45)))
    frame = (*random_color(rng), int(rng.uniform(200, 255))) if rng.random() < 0.4 else (
        *(int(v) for v in rng.uniform(5, 80) + rng.normal(0, 8, 3).clip(-5, 25)), 255
    )  # fmt: skip
    width = max(1, int(fine * size * rng.choice([0.005, 0.008, 0.014, 0.022])))
    for path in temples:
        draw.line([tuple(p) for p in path * fine], fill=frame, width=width, joint="curve")
    for number, path in enumerate(outlines):
        points = [tuple(p) for p in path * fine]
        closed = number < 2  # the third path is the bridge
        if closed:
            draw.polygon(points, fill=glass)
            points.append(points[0])
        draw.line(points, fill=frame, width=width, joint="curve")
    return np.asarray(layer.resize((size, size), Image.Resampling.BOX)), bool(dark)


def draw_hat(
    size: int, crown: Floats, brim: Floats, rng: Rng
) -> tuple[Bytes, tuple[int, int, int]]:
    """An RGBA layer with a cap over the hull of these pixels and, often, a brim; and its colour."""
    from scipy.spatial import ConvexHull, QhullError

    layer = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    color = random_color(rng)
    try:
        hull = crown[ConvexHull(crown).vertices]
        edge = brim[ConvexHull(brim).vertices]
    except QhullError:
        return np.asarray(layer), color
    draw.polygon([tuple(point) for point in hull], fill=(*color, 255))
    if rng.random() < 0.6:
        shade = rng.uniform(0.5, 1.1)
        dark = tuple(int(min(255, shade * c)) for c in color)
        draw.polygon([tuple(point) for point in edge], fill=(*dark, 255))
    pixels = np.asarray(layer).astype(np.float64)
    light = np.asarray(
        Image.fromarray(rng.uniform(0.6, 1.15, (4, 4)).astype(np.float32)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
    )
    pixels[..., :3] = np.clip(pixels[..., :3] * light[..., None], 0, 255)
    return pixels.astype(np.uint8), color


def draw_occluder(size: int, skin: tuple[int, int, int], rng: Rng) -> tuple[Bytes, str]:
    """An RGBA layer with a hand-like or boxy thing reaching in from the edge, and its name."""
    fine = 2
    layer = Image.new("RGBA", (size * fine, size * fine), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    angle = rng.uniform(0, 2 * np.pi)
    toward = np.array([np.cos(angle), np.sin(angle)])
    tip = size * fine * (0.5 + toward * rng.uniform(0.12, 0.42) + rng.normal(0, 0.06, 2))
    kind = rng.integers(3)
    color = (*skin, 255) if kind == 0 else (*random_color(rng), 255)
    across = np.array([-toward[1], toward[0]])
    if kind == 0:  # fingers
        thick = size * fine * rng.uniform(0.05, 0.08)
        count = int(rng.integers(1, 5))
        for finger in range(count):
            start = tip + across * thick * 1.05 * (finger - count / 2) + toward * rng.normal(0, 6)
            end = start + toward * size * fine
            shade = rng.uniform(0.85, 1.1)
            tone = (*(int(min(255, shade * c)) for c in skin), 255)
            draw.line((*start, *end), fill=tone, width=int(thick))
            radius = thick / 2
            draw.ellipse((*(start - radius), *(start + radius)), fill=tone)
    elif kind == 1:  # a box: phone, microphone, paper
        w, h = size * fine * rng.uniform(0.1, 0.35, 2)
        corners = [
            tip + toward * h * i + across * w * j for i, j in ((0, -1), (0, 1), (2, 1), (2, -1))
        ]
        draw.polygon([tuple(corner) for corner in corners], fill=color)
    else:
        reach = size * fine * rng.uniform(0.06, 0.2, 2)
        draw.ellipse((*(tip - reach), *(tip + reach)), fill=color)
    if rng.random() < 0.5:
        layer = layer.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2.5)))
    thing = f"{color_word((color[0], color[1], color[2]))} {'board' if kind == 1 else 'ball'}"
    name = "fingers" if kind == 0 else with_article(thing)
    return np.asarray(layer.resize((size, size), Image.Resampling.BOX)), name
