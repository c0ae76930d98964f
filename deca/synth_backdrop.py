"""What is behind a portrait: studios, parks, streets and rooms out of focus; sRGB pictures."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from deca import synth_scene as scene
from deca.prompt_colors import CLOTH
from deca.prompt_wish import Wish

Rng = np.random.Generator
Floats = NDArray[np.float64]
# names of the backgrounds that are cut from scikit-image's photos
_PHOTOS = {
    "brick": "brick", "grass": "grass", "gravel": "gravel", "coins": "coins",
    "stars": "hubble_deep_field", "microscope": "cell", "cat": "chelsea", "moon": "moon",
    "coffee": "coffee", "page": "page", "text": "text", "retina": "retina", "rocket": "rocket",
}  # fmt: skip
_WORK = 384  # px at which scenes are made
_LIT = {"dim": 0.62, "bright": 1.28}  # of its usual brightness


def draw_backdrop(wish: Wish, size: int, rng: Rng) -> Float[Tensor, "3 S S"]:
    """The background that a settled wish names; blurred as by a portrait lens where it says so."""
    kind = str(wish.background)
    # nobody's grey is another's
    color = (np.array(CLOTH[str(wish.background_color)]) / 255 * rng.uniform(0.92, 1.08)).clip(0, 1)
    if kind in _PHOTOS:
        picture = _photo(_PHOTOS[kind])
    else:
        picture = {
            "plain": _plain, "studio": _studio, "gradient": _gradient, "mottled": _mottled,
            "shapes": _shapes, "park": _park, "city": _city, "sea": _sea, "sky": _sky,
            "sunset": _sunset, "snow": _snow, "room": _room,
        }[kind](color, rng)  # fmt: skip
    if wish.blurred and kind not in ("plain", "studio", "gradient", "sky"):
        picture = _defocused(picture, 0.012)
    bytes_ = (picture.clip(0, 1) * 255).astype(np.uint8)
    large = Image.fromarray(bytes_).resize((size, size), Image.Resampling.BICUBIC)
    # a grain below what is seen keeps smooth gradients from banding
    pixels = np.asarray(large).astype(np.float32) + rng.uniform(-0.8, 0.8, (size, size, 1))
    return lit(torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1), wish)


def lit(picture: Float[Tensor, "*B 3 S S"], wish: Wish) -> Float[Tensor, "*B 3 S S"]:
    """The background in the wish's light, which falls on more than the sitter."""
    return (picture * _LIT.get(str(wish.light_level), 1.0)).clamp(0, 1)


def _grid() -> tuple[Floats, Floats]:
    across = (np.arange(_WORK) + 0.5) / _WORK
    x, y = np.meshgrid(across, across)
    return x, y


def _vertical(
    *stops: tuple[float, tuple[float, float, float]], rng: Rng, play: float = 0.09
) -> Floats:
    """Colours at heights from the top, blended between; higher or lower, lighter or darker.

    `play` is how much lower or higher what is in the middle may be.
    """
    _, y = _grid()
    moved = rng.uniform(-play, play)
    # the ends stay, what is between them moves
    places = [place + moved * 4 * place * (1 - place) for place, _ in stops]
    tone = rng.uniform(0.84, 1.14) * (1 + rng.uniform(-0.05, 0.05) * np.array([1.0, 0.0, -1.0]))
    return np.stack(
        [tone[k] * np.interp(y, places, [rgb[k] for _, rgb in stops]) for k in range(3)], -1
    )


def _plain(color: Floats, rng: Rng) -> Floats:
    x, y = _grid()
    across, down = rng.uniform(0.25, 0.75), rng.uniform(0.2, 0.6)
    lit = 1.06 - rng.uniform(0.16, 0.34) * np.hypot(x - across, y - down)
    return np.clip(color * lit[..., None], 0, 1)


def _studio(color: Floats, rng: Rng) -> Floats:
    x, y = _grid()
    across, down, reach = rng.uniform(0.36, 0.68), rng.uniform(0.3, 0.56), rng.uniform(0.6, 0.86)
    away = np.clip(np.hypot(x - across, (y - down) * 0.92) / reach, 0, 1)
    share = (away**2 * (3 - 2 * away))[..., None]
    lit = 0.45 * color + rng.uniform(0.38, 0.5)
    return np.asarray(lit * (1 - share) + (0.55 * color + 0.06) * share)


def _gradient(color: Floats, rng: Rng) -> Floats:
    x, y = _grid()
    other = np.array(CLOTH[str(rng.choice(list(CLOTH)))]) / 255
    turn = rng.uniform(0, 2 * np.pi)
    share = (0.5 + (x - 0.5) * np.cos(turn) + (y - 0.5) * np.sin(turn)).clip(0, 1)[..., None]
    return np.asarray(color * (1 - share) + other * share)


def _noise(rng: Rng, cell: float, octaves: int = 3) -> Floats:
    total = np.zeros((_WORK, _WORK))
    for octave in range(octaves):
        side = gaussian_filter(rng.standard_normal((_WORK, _WORK)), cell / 2**octave, mode="wrap")
        total += side / max(float(side.std()), 1e-9) / 2**octave
    return np.asarray(total / total.std())


def _mottled(color: Floats, rng: Rng) -> Floats:
    base = _studio(color, rng)
    strength, cell = rng.uniform(0.11, 0.2), rng.uniform(15.0, 32.0)
    return np.asarray(base * (1 + strength * _noise(rng, cell)[..., None]))


def _shapes(color: Floats, rng: Rng) -> Floats:
    image = Image.fromarray((_gradient(color, rng) * 255).astype(np.uint8))
    scene._draw_shapes(image, rng)
    return np.asarray(image) / 255


def _photo(name: str) -> Floats:
    from skimage import data

    image = Image.fromarray(np.asarray(getattr(data, name)())).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((_WORK, _WORK))
    return np.asarray(np.asarray(square) / 255 * 0.9)


def _discs(picture: Floats, count: int, colors: list[tuple[float, float, float]],
           radius: tuple[float, float], strength: tuple[float, float],
           rng: Rng, top: float = 0.0, bottom: float = 1.0) -> Floats:  # fmt: skip
    """Lights out of focus: soft-edged discs with a slightly brighter rim."""
    x, y = _grid()
    for _ in range(count):
        at = rng.uniform(0, 1), rng.uniform(top, bottom)
        size = rng.uniform(*radius)
        away = np.hypot(x - at[0], y - at[1]) / size
        cover = np.clip((1 - away) * size * _WORK / 1.5, 0, 1) * (0.8 + 0.2 * away**4)
        color = np.array(colors[int(rng.integers(len(colors)))])
        picture = picture + (rng.uniform(*strength) * cover)[..., None] * color
    return picture


def _park(color: Floats, rng: Rng) -> Floats:
    picture = _vertical((0.0, (0.72, 0.80, 0.72)), (0.35, (0.42, 0.55, 0.34)),
                        (0.7, (0.20, 0.33, 0.16)), (1.0, (0.30, 0.42, 0.20)),
                        rng=rng, play=0.16)  # fmt: skip
    x, y = _grid()
    for _ in range(int(rng.integers(0, 4))):  # trunks
        at, wide = rng.uniform(-0.05, 1.05), rng.uniform(0.015, 0.05)
        bent = at + rng.uniform(-0.12, 0.12) * (y - 0.5)
        cover = np.clip((wide - np.abs(x - bent)) / 0.02, 0, 1) * rng.uniform(0.45, 0.8)
        bark = rng.uniform(0.1, 0.24) * np.array([1.0, 0.85, 0.66])
        picture = picture * (1 - cover[..., None]) + cover[..., None] * bark
    leaves = _noise(rng, rng.uniform(9.0, 26.0))[..., None]
    autumn = rng.uniform(0.0, 0.1)
    picture = picture * (1 + 0.22 * leaves) + np.array([0.02 + autumn, 0.04, 0.0]) * leaves
    return _discs(picture, int(rng.integers(25, 90)), [(0.9, 1.0, 0.65), (0.6, 0.85, 0.4)],
                  (0.012, rng.uniform(0.03, 0.06)), (0.05, 0.28), rng, bottom=0.7)  # fmt: skip


def _city(color: Floats, rng: Rng) -> Floats:
    picture = _vertical((0.0, (0.03, 0.04, 0.10)), (0.6, (0.09, 0.08, 0.16)),
                        (1.0, (0.05, 0.05, 0.09)), rng=rng)  # fmt: skip
    colors = [(1.0, 0.72, 0.35), (1.0, 0.85, 0.6), (0.35, 0.6, 1.0), (1.0, 0.3, 0.45),
              (0.3, 0.95, 0.9), (0.95, 0.45, 0.95)]  # fmt: skip
    # one street is mostly amber, another mostly blue
    colors += [colors[int(rng.integers(len(colors)))]] * int(rng.integers(0, 9))
    largest = rng.uniform(0.035, 0.07)
    picture = _discs(picture, int(rng.integers(24, 64)), colors, (0.018, largest), (0.18, 0.6),
                     rng, 0.1, 0.95)  # fmt: skip
    return _discs(picture, int(rng.integers(20, 60)), colors, (0.006, 0.014), (0.3, 0.8),
                  rng, 0.3, 0.9)  # fmt: skip


def _sky(color: Floats, rng: Rng) -> Floats:
    picture = _vertical((0.0, (0.30, 0.52, 0.82)), (1.0, (0.72, 0.83, 0.93)), rng=rng)
    cover = rng.uniform(-0.25, 0.15)
    clouds = np.clip(_noise(rng, rng.uniform(26.0, 56.0), 4) * 0.45 + cover, 0, 1)[..., None]
    return np.asarray(picture * (1 - 0.85 * clouds) + 0.97 * 0.85 * clouds)


def _sea(color: Floats, rng: Rng) -> Floats:
    picture = _vertical((0.0, (0.50, 0.70, 0.88)), (0.46, (0.84, 0.90, 0.93)),
                        (0.47, (0.16, 0.42, 0.55)), (0.74, (0.25, 0.58, 0.66)),
                        (0.80, (0.86, 0.90, 0.86)), (0.84, (0.83, 0.74, 0.57)),
                        (1.0, (0.72, 0.61, 0.44)), rng=rng)  # fmt: skip
    return np.asarray(picture * (1 + 0.03 * _noise(rng, 9.0)[..., None]))


def _sunset(color: Floats, rng: Rng) -> Floats:
    picture = _vertical((0.0, (0.24, 0.22, 0.42)), (0.4, (0.78, 0.42, 0.38)),
                        (0.62, (0.98, 0.68, 0.36)), (0.66, (0.30, 0.20, 0.22)),
                        (1.0, (0.12, 0.09, 0.12)), rng=rng, play=0.03)  # fmt: skip
    clouds = np.clip(_noise(rng, 30.0, 4), 0, 2)[..., None]
    picture = picture * (1 - rng.uniform(0.0, 0.16) * clouds)
    return _discs(picture, 1, [(1.0, 0.85, 0.5)], (0.08, 0.13), (0.5, 0.6), rng, 0.52, 0.58)


def _snow(color: Floats, rng: Rng) -> Floats:
    picture = _vertical((0.0, (0.62, 0.70, 0.80)), (0.45, (0.78, 0.83, 0.88)),
                        (0.55, (0.42, 0.50, 0.56)), (0.68, (0.86, 0.90, 0.94)),
                        (1.0, (0.93, 0.95, 0.97)), rng=rng, play=0.12)  # fmt: skip
    picture = picture * (1 + 0.06 * _noise(rng, 18.0)[..., None])
    return _discs(picture, int(rng.integers(30, 110)), [(1.0, 1.0, 1.0)],
                  (0.004, rng.uniform(0.01, 0.022)), (0.15, 0.5), rng)  # fmt: skip


def _room(color: Floats, rng: Rng) -> Floats:
    picture = _vertical((0.0, (0.40, 0.33, 0.27)), (0.75, (0.52, 0.43, 0.34)),
                        (1.0, (0.25, 0.19, 0.15)), rng=rng)  # fmt: skip
    x, y = _grid()
    for _ in range(int(rng.integers(5, 14))):  # shelves, frames, a window
        left, top = rng.uniform(0, 0.9), rng.uniform(0.05, 0.7)
        inside = (x > left) & (x < left + rng.uniform(0.05, 0.2))
        inside &= (y > top) & (y < top + rng.uniform(0.08, 0.3))
        tone = rng.uniform(0.12, 0.7) * np.array([1.0, rng.uniform(0.75, 0.98), 0.7])
        picture = np.where(inside[..., None], tone, picture)
    return _discs(picture, 9, [(1.0, 0.8, 0.5)], (0.02, 0.05), (0.3, 0.7), rng, 0.05, 0.6)


def _defocused(picture: Floats, radius: float) -> Floats:
    """A lens's blur: means over a disc, in linear light so that bright spots stay bright."""
    light = np.clip(picture, 0, 1.6) ** 2.2
    reach = max(1, round(radius * _WORK))
    soft = np.stack([gaussian_filter(light[..., k], reach, mode="nearest") for k in range(3)], -1)
    return np.asarray(soft ** (1 / 2.2))
