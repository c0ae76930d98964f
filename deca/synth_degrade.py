"""Rendered people as training crops: backgrounds, random framing, what cameras do to them."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from deca.landmarks import CROP_VIEW


@dataclass(frozen=True)
class FramingConfig:
    """How far crops may be off; close ones are like those of the second look."""

    view: float = CROP_VIEW  # the crop's side over the bounding square of the points
    close_share: float = 0.65
    close: tuple[float, float, float] = (0.08, 0.03, 6.0)  # ln scale, shift, roll in degrees
    wide: tuple[float, float, float] = (0.30, 0.12, 28.0)


def framing(
    points: Float[Tensor, "B L 2"],
    config: FramingConfig,
    *,
    flip: Int[Tensor, " L"],
    generator: torch.Generator,
) -> tuple[Float[Tensor, "B 2 3"], Float[Tensor, "B L 2"]]:
    """Random crops round faces: affine maps from crop units (0..1) to pixels, and crop points.

    Half of the crops are mirrored, with their labels.
    """
    batch = len(points)

    def normal() -> Tensor:
        return torch.randn(batch, generator=generator).clamp(-2, 2)

    line = points[:, 42:48].mean(1) - points[:, 36:42].mean(1)
    roll = torch.atan2(line[:, 1], line[:, 0])
    upright = _turn(roll)
    turned = torch.einsum("bij,blj->bli", upright, points)
    low, high = turned.amin(1), turned.amax(1)
    center = torch.einsum("bji,bj->bi", upright, (low + high) / 2)
    side = config.view * (high - low).amax(1)
    is_close = torch.rand(batch, generator=generator) < config.close_share
    close, wide = torch.tensor(config.close), torch.tensor(config.wide)
    spread = torch.where(is_close[:, None], close, wide)
    side = side * torch.exp(spread[:, 0] * normal())
    center = center + side[:, None] * spread[:, 1:2] * torch.stack([normal(), normal()], -1)
    # a wide crop is not yet upright: it keeps the head's own roll
    roll = torch.where(is_close, roll, 0.0) + torch.deg2rad(spread[:, 2] * normal())
    mirror = torch.rand(batch, generator=generator) < 0.5
    axes = _turn(roll).transpose(1, 2) * side[:, None, None]  # columns: the crop's right and down
    axes = axes * torch.where(mirror[:, None], torch.tensor([-1.0, 1.0]), torch.ones(2))[:, None]
    matrix = torch.cat([axes, center[..., None] - axes.sum(2, keepdim=True) / 2], dim=2)
    inverse = axes.inverse()
    crop_points = torch.einsum("bij,blj->bli", inverse, points - matrix[:, None, :, 2])
    crop_points = torch.where(mirror[:, None, None], crop_points[:, flip], crop_points)
    return matrix, crop_points


def _turn(angle: Tensor) -> Tensor:
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cosine, sine], -1), torch.stack([-sine, cosine], -1)], -2)


def cut(
    people: UInt8[Tensor, "B H W 4"],
    backgrounds: UInt8[Tensor, "B K K 3"],
    matrix: Float[Tensor, "B 2 3"],
) -> Float[Tensor, "B 3 K K"]:
    """The crops that `framing` chose, 0..1, before backgrounds; pictures go on as in a mirror."""
    batch, side = backgrounds.shape[:2]
    crops = torch.empty(batch, 3, side, side)
    from deca.synth_kernels import cut_people  # compiles at the first import

    cut_people(  # type: ignore[no-untyped-call]
        people.contiguous().numpy(),
        backgrounds.contiguous().numpy(),
        matrix.double().contiguous().numpy(),
        crops.numpy(),
    )
    return crops


def degrade(
    crops: Float[Tensor, "B 3 K K"], *, generator: torch.Generator
) -> Float[Tensor, "B 3 K K"]:
    """What exposure, white balance, lenses, sensors, scaling and JPEG do; one in seven is grey."""
    batch, side = len(crops), crops.shape[-1]

    def uniform() -> Tensor:
        return torch.rand(batch, 1, 1, 1, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator)

    level = crops.mean((1, 2, 3), keepdim=True).clamp(0.05, 0.9)
    gamma = torch.exp(0.25 * normal(1, 1, 1)).clamp(0.5, 1.9)
    # dark pictures are more often lifted than bright ones
    gamma = gamma * torch.where(level < 0.3, 0.8, 1.0)
    crops = crops.clamp(1e-4, 1) ** gamma
    crops = crops * torch.exp(0.08 * normal(3, 1, 1)) * torch.exp(0.15 * normal(1, 1, 1))
    contrast = torch.exp(0.2 * normal(1, 1, 1))
    crops = (crops - 0.45) * contrast + 0.45 + 0.05 * normal(1, 1, 1)
    grey = (crops * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    saturation = torch.where(uniform() < 0.15, 0.0, torch.exp(0.3 * normal(1, 1, 1)))
    crops = grey + saturation * (crops - grey)
    crops = crops.clamp(0, 1)

    kind = torch.rand(batch, generator=generator)
    for low, high, factor in ((0.0, 0.08, 4), (0.08, 0.20, 3), (0.20, 0.36, 2)):
        chosen = ((kind >= low) & (kind < high)).nonzero()[:, 0]
        if len(chosen):  # small or out of focus
            small = F.interpolate(crops[chosen], size=(side // factor,) * 2, mode="area")
            grown = F.interpolate(small, size=(side, side), mode="bicubic", align_corners=False)
            crops[chosen] = grown.clamp(0, 1)
    soft = (kind > 0.7).nonzero()[:, 0]
    if len(soft):
        crops[soft] = _blur(crops[soft], float(torch.rand((), generator=generator)) + 0.5)
    crops = crops + normal(3, side, side) * 0.05 * uniform() ** 3
    crops = crops.clamp(0, 1)
    pressed = (torch.rand(batch, generator=generator) < 0.2).nonzero()[:, 0]
    for index in pressed.tolist():
        quality = int(torch.randint(25, 90, (), generator=generator))
        crops[index] = _jpeg(crops[index], quality)
    return crops


def sense(
    image: Float[np.ndarray, "H W 3"], noise: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """An sRGB picture 0..1 as a sensor reads it: shot noise of variance noise x linear light.

    A hundredth of `noise` comes with no light at all; neighbours share a part, as demosaicking and
    the camera's own smoothing leave it. 0 only rounds.
    """
    if noise == 0:
        return np.asarray((image * 255).round().clip(0, 255).astype(np.uint8))
    # sRGB's curve as a cubic, exact to a thousandth
    linear = image * (0.012523 + image * (0.682171 + 0.305306 * image))
    grain = rng.standard_normal(image.shape, np.float32)
    grain = 0.8 * grain + 0.4 * np.roll(grain, 1, 0) + 0.4 * np.roll(grain, 1, 1)
    slope = 0.012523 + image * (1.364342 + 0.915918 * image)
    stored = image + grain * np.sqrt(noise * (linear + 0.01)) / np.maximum(slope, 0.12)
    return np.asarray((stored * 255).round().clip(0, 255).astype(np.uint8))


def _blur(images: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(2.5 * sigma)
    offset = torch.arange(-reach, reach + 1, dtype=images.dtype)
    kernel = torch.exp(-(offset**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[:, :, None], groups=3)
    return F.conv2d(rows, kernel[..., None], groups=3)


def _jpeg(image: Tensor, quality: int) -> Tensor:
    stream = io.BytesIO()
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    decoded = np.array(Image.open(stream))
    return torch.from_numpy(decoded).permute(2, 0, 1).float() / 255


def on_background(
    people: UInt8[Tensor, "B H W 4"], backgrounds: UInt8[Tensor, "B H W 3"]
) -> Float[Tensor, "B 3 H W"]:
    """Pictures 0..1 of people before backgrounds."""
    alpha = people[..., 3:].float() / 255
    mixed = people[..., :3].float() * alpha + backgrounds.float() * (1 - alpha)
    return (mixed / 255).permute(0, 3, 1, 2).contiguous()
