"""Which of the shipped hairdos a portrait shows, and its colour.

A hairdo divides the picture into hair, skin and what is behind. The right one divides it into parts
that are of few colours each: the style is taken under which the colours, told part by part, take
the fewest nats (a minimum description length, as in Leclerc 1989), so that no colour need be known.
People's hair has more body than the hairdos, and other lengths: each is tried fuller and shorter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from deca.appearance import Rgb, bounded_rgb
from deca.codes import Codes
from deca.face_region import face_region
from flame.hair import HairStyle, attach
from flame.interpolate import interpolate
from flame.model import Flame
from flame.raster import rasterize
from flame.rotation import axis_angle_to_matrix
from flame.srgb import srgb_to_lab, srgb_to_linear

_DEFAULT_HAIR: Rgb = (0.25, 0.17, 0.11)
_CELL = (24.0, 12.0, 12.0)  # of a histogram in CIELAB
_CELLS = (5, 16, 16)
_PRIOR = 0.5  # pixels in every cell before any is seen (Krichevsky and Trofimov 1981)
_NEAR = 1 / 15  # share of the picture's side round the widest hairdo that still tells
_FULLER = 1 / 27  # of the picture's side, all round
_LENGTHS = (1.0, 0.6, 0.25, 0.0)  # from the nose to the chin
_SURELY_BALD = 0.05  # nats a pixel of short hair, by which a bare scalp must be likelier


@dataclass(frozen=True)
class HairGuess:
    """Style name or None where the scalp shows, and colour."""

    style: str | None
    color: Rgb


@torch.no_grad()
def hair_guess(
    flame: Flame, codes: Codes, crop: Float[Tensor, "1 3 H W"], styles: dict[str, HairStyle]
) -> HairGuess:
    """The likeliest of the styles, of which "short" is one, and the colour of its hair.

    `crop` shows the whole head with room round it, and `codes.camera` is its camera.
    """
    size = (crop.shape[-2], crop.shape[-1])
    region = face_region(flame)
    verts = flame(codes.params).verts
    bald = rasterize(codes.camera.clip(verts, size), region.faces, size)
    share = interpolate(region.share, region.faces, bald)[0, ..., 0]
    skin = bald.face_id[0] >= 0
    lines = _Lines.of(flame, codes, verts, size)
    cover = {
        name: _cover(flame, codes, style, region.faces, size) for name, style in styles.items()
    }
    # a face is of many colours under any hair
    face = (share > 0.6) & ~lines.over_brows
    style = _style(_cells(crop[0]), skin, face, lines, cover)
    # inside the bald head's own outline hair is certain where there is any
    scalp = cover[style or "short"] & skin & (share < 0.05) & lines.over_brows
    if int(scalp.sum()) < 30:
        return HairGuess(style, _DEFAULT_HAIR)
    pixels = srgb_to_linear(crop[0][:, scalp])
    # neither the gaps between strands nor their highlights are the hair's colour
    level = pixels.mean(0)
    usual = (level >= level.quantile(0.35)) & (level <= level.quantile(0.85))
    light = float(codes.light[0, 0].mean()) * 0.282 + 0.25
    return HairGuess(style, bounded_rgb(pixels[:, usual].median(1).values / light, 0.012, 0.75))


@dataclass(frozen=True, eq=False)
class _Lines:
    """Which pixels are over lines across the face, as it is tilted."""

    over_brows: Bool[Tensor, "H W"]
    over: tuple[Bool[Tensor, "H W"], ...]  # each of `_LENGTHS`; the first is the chin's

    @classmethod
    def of(cls, flame: Flame, codes: Codes, verts: Tensor, size: tuple[int, int]) -> _Lines:
        marks = codes.camera.project(flame.landmarks68(verts), size)[0, :, :2]
        brows, nose, chin = marks[17:27].mean(0), marks[33], marks[8]
        up = (brows - chin) / (brows - chin).norm()
        y, x = torch.meshgrid(
            torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij"
        )
        height = x * up[0] + y * up[1]
        ends = [torch.lerp(nose, chin, length) @ up for length in _LENGTHS]
        return cls(height > brows @ up, tuple(height > end for end in ends))


def _style(
    cells: Int[Tensor, "H W"],
    skin: Bool[Tensor, "H W"],
    face: Bool[Tensor, "H W"],
    lines: _Lines,
    cover: dict[str, Bool[Tensor, "H W"]],
) -> str | None:
    """The style of the cheapest division; None for a bare scalp."""
    side = len(skin)
    told = (_grown(torch.stack(list(cover.values())).any(0), _NEAR * side) | skin) & ~face

    def nats(hair: Bool[Tensor, "H W"], where: Bool[Tensor, "H W"]) -> float:
        parts = (hair, skin & ~hair, ~skin & ~hair)
        return sum(_description_nats(cells[part & where]) for part in parts)

    # clothes may be of the hair's colour, and are under the chin
    high = told & lines.over[0]
    best: dict[str, tuple[float, Bool[Tensor, "H W"]]] = {}
    for name, close in cover.items():
        for hair in (close, close | _grown(close, _FULLER * side) & ~skin):
            for line in lines.over[: 1 if name == "short" else None]:
                cost = nats(hair & line, high)
                if name not in best or cost < best[name][0]:
                    best[name] = cost, hair
    style = min(best, key=lambda name: best[name][0])
    bare = nats(torch.zeros_like(skin), high)
    if bare < best[style][0] - _SURELY_BALD * int(cover["short"].sum()):
        return None
    if style in ("bob", "long"):
        return min(("bob", "long"), key=lambda name: nats(best[name][1], told))
    return style


def _grown(mask: Bool[Tensor, "H W"], reach: float) -> Bool[Tensor, "H W"]:
    """With what is within so many pixels across and down."""
    whole = max(1, round(reach))
    wide = F.max_pool2d(mask[None, None].float(), (1, 2 * whole + 1), 1, (0, whole))
    return F.max_pool2d(wide, (2 * whole + 1, 1), 1, (whole, 0))[0, 0] > 0


def _cells(picture: Float[Tensor, "3 H W"]) -> Int[Tensor, "H W"]:
    """The number of each pixel's cell in CIELAB."""
    light, green_red, blue_yellow = (
        (channel / side + (count / 2 if number else 0)).floor().long().clamp(0, count - 1)
        for number, (channel, side, count) in enumerate(
            zip(srgb_to_lab(picture), _CELL, _CELLS, strict=True)
        )
    )
    cells: Tensor = (light * _CELLS[1] + green_red) * _CELLS[2] + blue_yellow
    return cells


def _description_nats(cells: Int[Tensor, " N"]) -> float:
    """The code length of cells told one after another, each by those before it."""
    count = _CELLS[0] * _CELLS[1] * _CELLS[2]
    seen = torch.bincount(cells, minlength=count).double()
    before = seen.new_tensor(_PRIOR)
    told = torch.lgamma(seen + before) - torch.lgamma(before)
    whole = torch.lgamma(count * before + len(cells)) - torch.lgamma(count * before)
    return float(whole - told.sum())


def _cover(
    flame: Flame, codes: Codes, style: HairStyle, faces: Tensor, size: tuple[int, int]
) -> Bool[Tensor, "H W"]:
    """Pixels that the style would cover, in front of the skin."""
    params = codes.params
    rest = flame.shaped(params)[0]
    hair = attach(style, rest)
    root = flame.joint_regressor[0] @ rest
    turn = axis_angle_to_matrix(params.root)[0]
    hair = (hair - root) @ turn.T + root
    verts = flame(params).verts[0]
    both = torch.cat([verts, hair])[None]
    joined = torch.cat([faces, style.faces + len(verts)])
    seen = rasterize(codes.camera.clip(both, size), joined, size).face_id[0]
    return seen >= len(faces)
