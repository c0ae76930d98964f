"""An invisible mark in the luminance of generated pictures, and the detector that finds it.

A fixed band-limited pattern repeats every 64 pixels, too weak to be seen. The detector needs
neither the original nor the picture's position: it folds a picture onto one tile, keeps the phases
only and correlates with the pattern at every shift, for a range of scales.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from scipy.ndimage import uniform_filter
from torch import Tensor

_TILE = 64  # px; the pattern's period
_BAND = (4.0, 13.0)  # cycles a tile: JPEG keeps them, the eye hardly sees them
_KEY = b"prompt-to-avatar generated picture 1"
_LUMA = np.array([0.299, 0.587, 0.114])
# What the mark costs: the more pixels there are to look at, the weaker it may be.
_PSNR_DB = {128: 42.2, 256: 43.6, 512: 45.0}
THRESHOLD = 7.5  # standard deviations of the correlation by chance
_IN_PLACE = 2.1  # a mark just where it was put is one guess, not half a million: as sure with less
SMALLEST = 96  # px a side; a smaller picture has too few pixels to tell the mark from chance
_SEARCHED = 512  # px a side that the search over scales looks at
_SCALES = np.exp(np.arange(math.log(0.66), math.log(1.40), 0.005))

Plane: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float64]]
Spectrum: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.complex128]]


@dataclass(frozen=True)
class MarkReading:
    """What the detector found: `score` in standard deviations of chance, `scale` of the picture."""

    marked: bool
    score: float
    scale: float


def mark(picture: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 3 H W"]:
    """The picture with the mark in it, in steps of 1/255, 42 to 45 dB from the original.

    Textured parts take more of it than smooth ones. The same picture always gives the same result.
    """
    pixels = _to_bytes(picture).astype(np.float64)  # [H, W, 3]
    height, width, _ = pixels.shape
    tile = _pattern()
    repeats = (-(-height // _TILE), -(-width // _TILE))
    pattern = np.tile(tile, repeats)[:height, :width] * _room(pixels @ _LUMA)
    side = math.log2(math.sqrt(height * width))
    psnr_db = float(np.interp(side, [math.log2(key) for key in _PSNR_DB], [*_PSNR_DB.values()]))
    wanted = 255 / 10 ** (psnr_db / 20)  # root mean square, in levels
    low, high = 0.0, 8 * wanted / math.sqrt(float((pattern**2).mean()))
    for _ in range(20):  # rounding and clipping have no inverse
        middle = (low + high) / 2
        changed = _add(pixels, middle * pattern)
        if float(((changed - pixels) ** 2).mean()) <= wanted**2:
            low = middle
        else:
            high = middle
    marked = torch.from_numpy(_add(pixels, low * pattern)).permute(2, 0, 1)[None]
    return (marked / 255).to(picture.device, picture.dtype)


def read_mark(picture: Float[Tensor, "1 3 H W"]) -> MarkReading:
    """Whether a picture carries the mark, also cropped, or scaled by 0.7 to 1.3.

    A picture without it scores over the threshold less than once in a million: a sum of n random
    phases exceeds z standard deviations with a probability under exp(-z²/2), and about 150 scales
    of 64 x 64 shifts are tried. One that was neither cropped nor scaled needs 5.4 only.
    """
    even = _evened(_to_bytes(picture).astype(np.float64) @ _LUMA)
    correlation = _correlation(even)
    in_place = float(correlation[0, 0]) + _IN_PLACE
    best = MarkReading(False, max(float(correlation.max()), in_place), 1.0)
    if best.score < THRESHOLD:
        top, left = (max(0, (side - _SEARCHED) // 2) for side in even.shape)
        part = even[top : top + _SEARCHED, left : left + _SEARCHED]
        image = Image.fromarray(part.astype(np.float32))
        for scale in _SCALES:
            size = (round(part.shape[1] / scale), round(part.shape[0] / scale))
            scaled = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float64)
            score = float(_correlation(scaled).max())
            if score > best.score:
                best = MarkReading(False, score, float(scale))
    return MarkReading(best.score >= THRESHOLD, best.score, best.scale)


def psnr(a: Float[Tensor, "1 3 H W"], b: Float[Tensor, "1 3 H W"]) -> float:
    """Peak signal to noise ratio of two pictures, decibels; infinite where they are equal."""
    error = float(((a.double() - b.double()) ** 2).mean())
    return math.inf if error == 0 else -10 * math.log10(error)


@cache
def _spectrum() -> Spectrum:
    """Unit phases of the pattern inside the band, zero elsewhere; that of a real picture."""
    frequency = np.fft.fftfreq(_TILE, 1 / _TILE)
    fy, fx = np.meshgrid(frequency, frequency, indexing="ij")
    radius = np.hypot(fx, fy)
    band = (radius >= _BAND[0]) & (radius <= _BAND[1])
    band &= (fy % 8 != 0) | (fx % 8 != 0)  # where JPEG's own blocks are
    band &= (fy > 0) | ((fy == 0) & (fx > 0))
    words = np.frombuffer(hashlib.shake_256(_KEY).digest(2 * _TILE * _TILE), "<u2")
    phases = words.reshape(_TILE, _TILE) * (2 * math.pi / 65536)
    half = np.where(band, np.exp(1j * phases), 0)
    mirrored = np.roll(half[::-1, ::-1], (1, 1), axis=(0, 1)).conj()
    spectrum: Spectrum = half + mirrored
    return spectrum


@cache
def _rings() -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Each coefficient's frequency, cycles a tile, rounded."""
    frequency = np.fft.fftfreq(_TILE, 1 / _TILE)
    fy, fx = np.meshgrid(frequency, frequency, indexing="ij")
    rings: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    rings = np.rint(np.hypot(fx, fy)).astype(np.int64)
    return rings


@cache
def _pattern() -> Plane:
    """The tile, of unit variance."""
    tile = np.fft.ifft2(_spectrum()).real
    unit: Plane = tile / tile.std()
    return unit


def _correlation(even: Plane) -> Plane:
    """Correlation with the pattern at all shifts, in standard deviations of random phases."""
    height, width = even.shape
    padded = np.zeros((-(-height // _TILE) * _TILE, -(-width // _TILE) * _TILE))
    padded[:height, :width] = even
    tiles = padded.reshape(padded.shape[0] // _TILE, _TILE, padded.shape[1] // _TILE, _TILE)
    folded = np.fft.fft2(tiles.sum(axis=(0, 2)))
    size = np.abs(folded)
    spectrum, rings = _spectrum(), _rings()
    # the mark is equally strong in every ring, so it is clearest where the picture itself is weak
    power = np.bincount(rings.ravel(), (size**2).ravel()) / np.bincount(rings.ravel())
    trust = (1 / np.sqrt(power + 1e-12))[rings] * (spectrum != 0)
    phases = trust * folded / np.maximum(size, 1e-9)
    sums = np.fft.ifft2(phases * spectrum.conj()).real * _TILE**2
    correlation: Plane = sums / np.linalg.norm(trust)
    return correlation


def _evened(luma: Plane) -> Plane:
    """Only what differs from the neighbourhood, everywhere of about the same strength."""
    flat = luma - uniform_filter(luma, 15, mode="reflect")
    power = np.maximum(uniform_filter(flat**2, 15, mode="reflect"), 0)  # its sums run, and drift
    even: Plane = flat / (np.sqrt(power) + 1.0)
    return even


def _room(luma: Plane) -> Plane:
    """How much of the mark each pixel takes: more where neighbours differ anyway."""
    mean = uniform_filter(luma, 9, mode="reflect")
    spread = np.sqrt(np.maximum(uniform_filter(luma**2, 9, mode="reflect") - mean**2, 0))
    room: Plane = 0.75 + np.minimum(spread / 16, 1.25)
    return room


def _add(pixels: np.ndarray, change: Plane) -> np.ndarray:
    return np.clip(np.rint(pixels + change[..., None]), 0, 255)


def _to_bytes(picture: Float[Tensor, "1 3 H W"]) -> np.ndarray:
    texels = (picture[0].detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return texels.permute(1, 2, 0).cpu().numpy()
