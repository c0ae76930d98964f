"""Pictures drawn anew in the manner of a medium: oil, watercolour, pencil, cel, clay, neon.

Pure functions on sRGB images 0..1: the same picture gives the same result. A flat picture stays
flat but for paper and canvas, and every value stays in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from deca.prompt_wish import STYLES

Filter = Callable[[Tensor], Tensor]
_USUAL_SIDE = 768  # px at which strokes have the sizes below
_LUMA = (0.299, 0.587, 0.114)


def stylize(image: Float[Tensor, "B 3 H W"], style: str) -> Float[Tensor, "B 3 H W"]:
    """The picture in a style of STYLES; "realistic" leaves it as it is."""
    if style not in STYLES:
        raise ValueError(f"style {style!r} is not known; choose one of {', '.join(STYLES)}")
    if style == "realistic":
        return image
    known: dict[str, Filter] = {
        "anime": anime, "oil": oil, "pencil": pencil, "watercolour": watercolour, "clay": clay,
        "neon": neon,
    }  # fmt: skip
    with torch.no_grad():
        return known[style](image).clamp(0, 1)


def luma(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
    """Rec. 601 luma of sRGB values."""
    weights = image.new_tensor(_LUMA)[:, None, None]
    return (image * weights).sum(1, keepdim=True)


def blur(image: Float[Tensor, "B C H W"], sigma: float | int) -> Float[Tensor, "B C H W"]:
    """Gaussian blur; beyond the border the picture goes on as in a mirror."""
    reach = max(1, math.ceil(3 * sigma))
    reach = min(reach, min(image.shape[-2:]) - 1)
    if sigma <= 0 or reach < 1:
        return image
    steps = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = image.shape[1]
    padded = F.pad(image, (reach, reach, reach, reach), mode="reflect")
    rows = F.conv2d(padded, kernel.expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(rows, kernel[:, None].expand(channels, 1, -1, 1), groups=channels)


def line_art(
    image: Float[Tensor, "B C H W"],
    sigma: float | int,
    *,
    sharpness: float | int = 30.0,
    least: float = 0.012,
) -> Float[Tensor, "B 1 H W"]:
    """Ink where a difference of Gaussians dips below nothing: 1 on lines, 0 elsewhere."""
    narrow, wide = blur(image, sigma), blur(image, 1.6 * sigma)
    # the channel that dips the most draws the line
    dip = (wide - narrow).amax(1, keepdim=True)
    return torch.tanh(sharpness * (dip - least).clamp(min=0))


def evened(
    image: Float[Tensor, "B C H W"], sigma: float | int, *, floor: float = 0.05
) -> Float[Tensor, "B C H W"]:
    """The same contrast everywhere, about 0.5: faint forms in shadow stand out as those in light.

    Differences far below `floor` stay faint, so that a flat picture stays flat.
    """
    away = image - blur(image, sigma)
    spread = blur(away.square().mean(1, keepdim=True), sigma).clamp(min=0).sqrt()
    return (0.5 + 0.2 * away / (spread + floor)).clamp(0, 1)


def smooth(
    image: Float[Tensor, "B 3 H W"], *, sigma: float | int, tolerance: float, passes: int = 2
) -> Float[Tensor, "B 3 H W"]:
    """Edge-keeping blur: a guided filter (He et al. 2013), the picture its own guide."""
    for _ in range(passes):
        guide = luma(image)
        mean, mean_guide = blur(image, sigma), blur(guide, sigma)
        spread = blur(guide * guide, sigma) - mean_guide * mean_guide
        joint = blur(guide * image, sigma) - mean_guide * mean
        slope = joint / (spread.clamp(min=0) + tolerance**2)
        offset = mean - slope * mean_guide
        image = blur(slope, sigma) * guide + blur(offset, sigma)
    return image


def kuwahara(
    image: Float[Tensor, "B 3 H W"], radius: int, *, sharpness: float | int = 8.0
) -> Float[Tensor, "B 3 H W"]:
    """Each pixel the mean of its calmest neighbouring sectors (Papari et al. 2007): blots of paint.

    Eight sectors of a disc, weighted by one over their variance to the power `sharpness` / 2.
    """
    sectors = _sectors(radius).to(image)
    batch, _, height, width = image.shape
    reach = sectors.shape[-1] // 2
    both = torch.cat([image, image * image], dim=1).reshape(batch * 6, 1, height, width)
    mode = "reflect" if reach < min(height, width) else "replicate"
    sums = F.conv2d(F.pad(both, (reach,) * 4, mode=mode), sectors)
    sums = sums.reshape(batch, 6, 8, height, width)
    mean, square = sums[:, :3], sums[:, 3:]
    spread = (square - mean * mean).clamp(min=0).sum(1, keepdim=True).sqrt()
    weight = 1 / (1 + (255 * spread) ** (sharpness / 2))
    return (mean * weight).sum(2) / weight.sum(2)


@lru_cache(maxsize=8)
def _sectors(radius: int) -> Float[Tensor, "8 1 K K"]:
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    away = (x**2 + y**2).sqrt()
    inside = torch.exp(-0.5 * (away / (0.5 * radius)) ** 2) * (away <= radius + 0.5)
    angle = torch.atan2(y, x)
    made = []
    for k in range(8):
        off = torch.remainder(angle - k * math.pi / 4 + math.pi, 2 * math.pi) - math.pi
        part = inside * ((off.abs() < math.pi / 8 + 0.05) | (away < 0.5))
        made.append(part / part.sum())
    return torch.stack(made)[:, None]


def strokes(
    image: Float[Tensor, "B 3 H W"], field: Float[Tensor, "B 1 H W"], length: int
) -> Float[Tensor, "B 1 H W"]:
    """A field smeared along the picture's edges, `length` pixels each way: traces of a brush."""
    grey = blur(luma(image), 2.0)
    across = grey.new_tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    gx, gy = F.conv2d(padded, across[None, None]), F.conv2d(padded, across.T[None, None])
    sigma = 0.012 * min(image.shape[-2:]) + 1.0
    xx, yy, xy = blur(gx * gx, sigma), blur(gy * gy, sigma), blur(gx * gy, sigma)
    # half the angle of the structure tensor's minor axis: along the edge
    angle = 0.5 * torch.atan2(2 * xy, xx - yy) + math.pi / 2
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, dtype=grey.dtype), torch.arange(width, dtype=grey.dtype), indexing="ij"
    )
    dx, dy = angle.cos()[:, 0], angle.sin()[:, 0]
    total = torch.zeros_like(field)
    for step in range(-length, length + 1, 2):
        grid = torch.stack(
            [(x + step * dx + 0.5) / width * 2 - 1, (y + step * dy + 0.5) / height * 2 - 1], -1
        )
        total += F.grid_sample(field, grid, padding_mode="reflection", align_corners=False)
    return total / len(range(-length, length + 1, 2))


@lru_cache(maxsize=8)
def grain(height: int, width: int, cell: float, seed: int) -> Float[Tensor, "1 1 H W"]:
    """Noise with features of `cell` pixels, mean 0, deviation 1; the same for the same numbers."""
    rng = np.random.default_rng(seed)
    raw = torch.from_numpy(rng.standard_normal((1, 1, height, width)).astype(np.float32))
    soft = blur(raw, cell) if cell > 0 else raw
    return (soft - soft.mean()) / soft.std().clamp(min=1e-6)


def _unit(image: Tensor) -> float:
    """Pixels for what is one pixel at the usual side."""
    return float(min(image.shape[-2:])) / _USUAL_SIDE


def _boost(image: Tensor, saturation: float) -> Tensor:
    grey = luma(image)
    return (grey + (image - grey) * saturation).clamp(0, 1)


def oil(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Blots of paint along the forms, with the relief that a brush leaves."""
    unit = _unit(image)
    blots = kuwahara(image, max(2, round(7 * unit)))
    blots = kuwahara(blots, max(2, round(4 * unit)))
    noise = grain(*image.shape[-2:], 0.9 * unit, 11).to(image).expand(len(image), -1, -1, -1)
    relief = strokes(blots, noise, max(2, round(11 * unit)))
    relief = relief / relief.std(dim=(-2, -1), keepdim=True).clamp(min=1e-6)
    # light from the upper left on the ridges
    ridge = relief - torch.roll(relief, (1, 1), (-2, -1))
    painted = _boost(blots, 1.28)
    painted = (painted - 0.5) * 1.06 + 0.5 + 0.012 * relief
    return painted * (1 + 0.075 * ridge)


def watercolour(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Thin washes in few tones whose pigment gathers at the edges, on rough white paper."""
    unit = _unit(image)
    size = image.shape[-2:]
    dx, dy = (1.6 * unit * grain(*size, 7 * unit, seed).to(image) for seed in (3, 4))
    washed = _shifted(smooth(image, sigma=2.6 * unit, tolerance=0.05, passes=3), dx, dy)
    grey = luma(washed)
    tones = _steps(grey, 6, 0.6)
    washed = washed * (tones / grey.clamp(min=0.02)).clamp(0.6, 1.5)
    washed = 1 - (1 - _boost(washed, 1.5)) * 0.80  # the paper shines through
    edge = (washed - blur(washed, 1.8 * unit)).abs().amax(1, keepdim=True)
    blooms = blur(grain(*size, 22 * unit, 5).to(image), 3 * unit)
    density = 1 + 3.2 * blur(edge, 0.6 * unit) + 0.10 * blooms
    density = density * (1 + 0.045 * grain(*size, 1.1 * unit, 6).to(image))
    return washed.clamp(1e-3, 1) ** density.clamp(0.4, 2.5)


def _shifted(image: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """The picture seen through displacements in pixels."""
    batch, _, height, width = image.shape
    y, x = torch.meshgrid(
        torch.arange(height, dtype=image.dtype), torch.arange(width, dtype=image.dtype),
        indexing="ij",
    )  # fmt: skip
    grid = torch.stack([(x + dx[:, 0] + 0.5) / width * 2 - 1,
                        (y + dy[:, 0] + 0.5) / height * 2 - 1], -1)  # fmt: skip
    return F.grid_sample(image, grid.expand(batch, -1, -1, -1), padding_mode="reflection",
                         align_corners=False)  # fmt: skip


def _steps(grey: Tensor, count: int, hardness: float) -> Tensor:
    """Grey in `count` tones; at hardness 0 unchanged, at 1 with sharp borders."""
    scaled = grey * count
    floor = scaled.floor()
    inside = scaled - floor
    bent = torch.sigmoid((inside - 0.5) * 24)
    return (floor + inside + hardness * (bent - inside)) / count


def pencil(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Graphite on paper: dodged contours, and hatching that gets denser where it is dark."""
    unit = _unit(image)
    size = image.shape[-2:]
    grey = luma(image)
    soft = blur(1 - grey, 9 * unit)
    dodged = (grey / (1 - soft).clamp(min=0.02)).clamp(0, 1)  # colour dodge with its negative
    contours = dodged**1.6
    lines = 1 - 0.75 * line_art(evened(grey, 24 * unit), 1.1 * unit, sharpness=40, least=0.012)
    tone = blur(grey, 1.2 * unit)
    shade = torch.ones_like(grey)
    for angle, least, seed in ((0.9, 0.72, 21), (0.35, 0.50, 22), (2.2, 0.33, 23), (1.5, 0.18, 24)):
        hatch = _hatch(size, angle, 3.4 * unit, seed).to(image)
        depth = ((least - tone) / 0.28).clamp(0, 1)
        shade = shade * (1 - 0.42 * depth * hatch)
    shade = shade * (0.80 + 0.20 * (tone / 0.75).clamp(0, 1))
    tooth = grain(*size, 0.7 * unit, 31).to(image)
    drawn = contours * lines * shade
    drawn = drawn + (1 - drawn) * (0.10 * tooth).clamp(-0.25, 0.25)
    paper = image.new_tensor([0.965, 0.955, 0.93])[:, None, None]
    graphite = image.new_tensor([0.16, 0.16, 0.18])[:, None, None]
    sheet = paper * (1 + 0.012 * grain(*size, 1.2 * unit, 32).to(image))
    return graphite + (sheet - graphite) * drawn.clamp(0, 1)


@lru_cache(maxsize=16)
def _hatch(size: tuple[int, int], angle: float, period: float, seed: int) -> Tensor:
    """Uneven parallel strokes at an angle, 0..1, [1, 1, H, W]."""
    height, width = size
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32), torch.arange(width, dtype=torch.float32),
        indexing="ij",
    )  # fmt: skip
    wobble = grain(height, width, 9 * period, seed)[0, 0] * 0.35 * period
    across = x * math.sin(angle) - y * math.cos(angle) + wobble
    wave = 0.5 + 0.5 * torch.cos(2 * math.pi * across / max(period, 1.5))
    pressure = (0.85 + 0.12 * grain(height, width, 2 * period, seed + 100)[0, 0]).clamp(0, 1.2)
    return (wave**1.5 * pressure)[None, None]


def anime(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Cel shading: flat colours in three tones, dark outlines."""
    unit = _unit(image)
    flat = smooth(image, sigma=4 * unit, tolerance=0.07, passes=4)
    tones = _cel_tones(luma(flat))
    colour = flat * (tones / luma(flat).clamp(min=0.02)).clamp(0.3, 2.5)
    ink = line_art(blur(image, 0.6 * unit), 1.3 * unit, sharpness=42, least=0.016)
    return _boost(colour, 1.35) * (1 - 0.88 * ink)


def _cel_tones(grey: Tensor) -> Tensor:
    """Grey in five tones with sharp borders."""
    return (_steps(grey.clamp(0, 1), 5, 1.0) * 5).round() / 5 * 0.9 + 0.08


def cel(
    unlit: Float[Tensor, "B 3 H W"],
    lit: Float[Tensor, "B 3 H W"],
    alpha: Float[Tensor, "B 1 H W"],
    image: Float[Tensor, "B 3 H W"],
) -> Float[Tensor, "B 3 H W"]:
    """Cel shading of a rendered person from colours, light on white, outline and the picture.

    Three tones: shade, half shade and light; `unlit` goes on outside the person.
    """
    unit = _unit(unlit)
    base = smooth(unlit, sigma=1.5 * unit, tolerance=0.06, passes=3)
    light = blur(luma(lit), 2.2 * unit)
    inside = light[alpha > 0.9]
    bright = float(inside.quantile(0.7)) if len(inside) else 0.5
    half, full = (torch.sigmoid((light - share * bright) * 80) for share in (0.55, 0.88))
    shade = unlit.new_tensor([0.62, 0.50, 0.62])[:, None, None]
    between = unlit.new_tensor([0.86, 0.78, 0.82])[:, None, None]
    tones = shade + (between - shade) * half + (1 - between) * full
    person = _boost(base, 1.3) * 1.14 * tones
    ink = torch.maximum(
        line_art(blur(unlit, 0.7 * unit), 1.3 * unit, sharpness=34, least=0.020),
        line_art(evened(luma(image), 14 * unit), 1.5 * unit, sharpness=20, least=0.038),
    )
    outline = (3.2 * (blur(alpha, 2.2 * unit) * (1 - blur(alpha, 2.2 * unit))) - 0.25).clamp(0, 1)
    ink = torch.maximum(0.92 * ink * (blur(alpha, 0.8 * unit) > 0.6), outline)
    dark = unlit.new_tensor([0.13, 0.07, 0.10])[:, None, None]
    drawn = person.clamp(0, 1) * (1 - ink) + dark * ink
    return (drawn * alpha + (unlit + (dark - unlit) * outline) * (1 - alpha)).clamp(0, 1)


def clay(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Modelling clay: one warm colour under the picture's relief, thumbed smooth."""
    unit = _unit(image)
    grey = smooth(luma(image).expand(-1, 3, -1, -1), sigma=2.5 * unit, tolerance=0.05)[:, :1]
    # what differs broadly is taken for paint, what differs near for relief
    height = evened(grey, 30 * unit, floor=0.12)
    slope = (height - torch.roll(blur(height, 0.8 * unit), (2, 2), (-2, -1))) * 0.5
    light = 0.60 + 0.42 * (height - 0.5) + slope + 0.15 * (grey - grey.mean((-2, -1), True))
    thumb = grain(*image.shape[-2:], 3.0 * unit, 41).to(image)
    return modelled((light + 0.010 * thumb).clamp(0, 1.2))


def modelled(light: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Clay under light 0..1: terracotta whose shadows run warm."""
    body = light.new_tensor([0.80, 0.56, 0.43])[:, None, None]
    warm = light.new_tensor([0.92, 1.05, 1.15])[:, None, None]
    return (body * light.clamp(min=1e-3) ** warm * 1.22).clamp(0, 1)


def neon(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Edges glowing from magenta to cyan over a night-blue ghost of the picture."""
    unit = _unit(image)
    calm = smooth(image, sigma=2 * unit, tolerance=0.05)
    drawn = evened(calm, 26 * unit, floor=0.035)
    ink = line_art(drawn, 1.4 * unit, sharpness=34, least=0.012)
    ink = torch.maximum(ink, line_art(1 - drawn, 1.4 * unit, sharpness=26, least=0.016))
    glow = ink + 1.3 * blur(ink, 4 * unit) + 1.1 * blur(ink, 14 * unit)
    height = torch.linspace(0, 1, image.shape[-2], dtype=image.dtype)[:, None]
    across = torch.linspace(0, 1, image.shape[-1], dtype=image.dtype)[None]
    share = (0.5 + 0.9 * (0.6 * across + 0.4 * height - 0.5)).clamp(0, 1)[None, None].to(image)
    pink = image.new_tensor([1.0, 0.16, 0.72])[:, None, None]
    cyan = image.new_tensor([0.10, 0.88, 1.0])[:, None, None]
    tube = pink * (1 - share) + cyan * share
    ghost = (0.5 * luma(calm) + 0.5 * evened(luma(calm), 60 * unit)) ** 1.3
    night = image.new_tensor([0.17, 0.10, 0.34])[:, None, None] * ghost
    night = night + image.new_tensor([0.015, 0.012, 0.05])[:, None, None]
    lit = night + tube * glow * 0.85
    # the middle of a tube is white
    return 1 - torch.exp(-1.35 * (lit + 0.55 * ink**3))
