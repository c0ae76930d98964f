"""What the face model does not carry, read off the portrait: iris colour, hair style and colour."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from deca.codes import Codes
from deca.face_region import face_region
from deca.landmark_points import pupil_verts
from flame.hair import HairStyle, attach
from flame.interpolate import interpolate
from flame.light import sh_shading
from flame.model import Flame
from flame.raster import rasterize
from flame.rotation import axis_angle_to_matrix
from flame.srgb import linear_to_srgb, srgb_to_linear

Rgb = tuple[float, float, float]

IRIS_RADIUS = 0.0055  # metres, on the shipped head's eyes
_DEFAULT_IRIS: Rgb = (0.30, 0.20, 0.12)
_DEFAULT_HAIR: Rgb = (0.25, 0.17, 0.11)
_SAME_HAIR = 17.0  # CIELAB distance within which a pixel may be hair
_SAME_SKIN = 11.0


@dataclass(frozen=True)
class HairGuess:
    """Style name or None where the scalp shows, and colour."""

    style: str | None
    color: Rgb


@torch.no_grad()
def iris_color(flame: Flame, codes: Codes, crop: Float[Tensor, "1 3 H W"]) -> Rgb:
    """Median colour of both irises with the light taken out; brown where they are too small."""
    size = (crop.shape[-2], crop.shape[-1])
    verts = flame(codes.params).verts
    centers = codes.camera.project(verts[:, pupil_verts(flame)], size)[0, :, :2]
    radius = float(codes.camera.scale[0]) * IRIS_RADIUS * size[0] / 2
    if radius < 2.5:
        return _DEFAULT_IRIS
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    rings = []
    for center in centers:
        distance = ((x - center[0]) ** 2 + (y - center[1]) ** 2).sqrt() / radius
        # the lid shades the upper half
        rings.append((distance > 0.5) & (distance < 0.85) & (y > center[1] - 0.25 * radius))
    pixels = srgb_to_linear(crop[0].movedim(0, -1)[rings[0] | rings[1]])
    if len(pixels) < 8:
        return _DEFAULT_IRIS
    front = torch.tensor([[[0.0, 0.0, 1.0]]])
    light = sh_shading(front, codes.light)[0, 0].clamp(min=0.1)
    # lids and lashes keep some of that light from the iris
    return _rgb(pixels.median(0).values / (0.75 * light), 0.03, 0.55)


@torch.no_grad()
def hair_guess(
    flame: Flame, codes: Codes, crop: Float[Tensor, "1 3 H W"], styles: dict[str, HairStyle]
) -> HairGuess:
    """The style whose silhouette the hair-coloured pixels fill best.

    `crop` shows the whole head with room round it, and `codes.camera` is its camera.
    """
    size = (crop.shape[-2], crop.shape[-1])
    lab = to_lab(crop[0])  # [3, H, W]
    region = face_region(flame)
    verts = flame(codes.params).verts
    bald = rasterize(codes.camera.clip(verts, size), region.faces, size)
    share = interpolate(region.share, region.faces, bald)[0, ..., 0]
    skin = bald.face_id[0] >= 0
    skin_outline = skin & (share < 0.05)
    cover = {
        name: _cover(flame, codes, style, region.faces, size) for name, style in styles.items()
    }
    # inside the bald head's own outline hair is certain where there is any
    scalp = cover["short"] & skin_outline & _above_brows(flame, codes, verts, size)
    wall = _backdrop(lab)
    scalp = scalp & ((lab - wall[:, None, None]).norm(dim=0) > _SAME_SKIN)
    if int(scalp.sum()) < 30:
        return HairGuess("short", _DEFAULT_HAIR)
    middle = lab[:, scalp].median(1).values
    tone = lab[:, skin & (share > 0.5)].median(1).values
    spread = (lab[:, scalp] - middle[:, None]).norm(dim=0).median()
    pixels = srgb_to_linear(crop[0][:, scalp])
    # neither the gaps between strands nor their highlights are the hair's colour
    level = pixels.mean(0)
    usual = (level >= level.quantile(0.35)) & (level <= level.quantile(0.85))
    light = float(codes.light[0, 0].mean()) * 0.282 + 0.25
    color = _rgb(pixels[:, usual].median(1).values / light, 0.012, 0.75)
    if float((middle - tone).norm()) < _SAME_SKIN and float(spread) < 12:
        return HairGuess(None, color)
    like_hair = ((lab - middle[:, None, None]).norm(dim=0) < _SAME_HAIR) & (
        (lab - tone[:, None, None]).norm(dim=0) > _SAME_SKIN
    )

    def filled(area: Bool[Tensor, "H W"]) -> float:
        return float(like_hair[area].float().mean()) if int(area.sum()) > 40 else 0.0

    sides = cover["bob"] & ~cover["short"] & ~skin
    lengths = cover["long"] & ~cover["bob"] & ~skin
    if filled(sides) > 0.4:
        return HairGuess("long" if filled(lengths) > 0.45 else "bob", color)
    return HairGuess("short", color)


def _backdrop(lab: Float[Tensor, "3 H W"]) -> Float[Tensor, 3]:
    """The usual colour of the picture's upper corners."""
    height, width = lab.shape[1] // 8, lab.shape[2] // 8
    corners = torch.cat([lab[:, :height, :width], lab[:, :height, -width:]], dim=2)
    return corners.flatten(1).median(1).values


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


def _above_brows(
    flame: Flame, codes: Codes, verts: Tensor, size: tuple[int, int]
) -> Bool[Tensor, "H W"]:
    """Pixels on the far side of the brow line from the chin."""
    marks = codes.camera.project(flame.landmarks68(verts), size)[0, :, :2]
    brow, chin = marks[17:27].mean(0), marks[8]
    up = (brow - chin) / (brow - chin).norm()
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    height: Tensor = (x - brow[0]) * up[0] + (y - brow[1]) * up[1]
    return height > 0


def _rgb(linear: Float[Tensor, 3], low: float, high: float) -> Rgb:
    red, green, blue = linear_to_srgb(linear.clamp(low, high)).tolist()
    return red, green, blue


def to_lab(image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
    """CIELAB (D65) of an sRGB image."""
    matrix = image.new_tensor(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    white = image.new_tensor([0.9505, 1.0, 1.089])[:, None, None]
    xyz = torch.einsum("ij,jhw->ihw", matrix, srgb_to_linear(image)) / white
    curve = torch.where(xyz > 0.008856, xyz.clamp(min=1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = curve
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])
