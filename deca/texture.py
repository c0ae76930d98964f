"""Skin texture of a fitted portrait: the picture where it shows skin, else the albedo model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deca.codes import Codes
from deca.face_region import face_region
from flame.albedo import AlbedoModel
from flame.interpolate import interpolate
from flame.light import sh_shading
from flame.model import Flame
from flame.normals import vertex_normals
from flame.raster import rasterize
from flame.srgb import linear_to_srgb, srgb_to_linear
from flame.texture import unwrap


@dataclass(frozen=True)
class TextureConfig:
    """How far the picture is trusted."""

    side: int = 1024
    detail: float = 0.9  # of the log difference to the albedo model that is taken over
    depth_slack: float = 0.004  # metres behind the nearest surface that still count as seen
    outlier: float = 0.45  # log difference, blurred, at which a pixel is no longer skin
    one_sided: float = 0.35  # share of broad left-right differences that is kept


@dataclass(frozen=True, eq=False)
class SkinTexture:
    """Base colour of the skin, sRGB, and how much of each texel comes from the picture."""

    base_color: Float[Tensor, "3 K K"]
    coverage: Float[Tensor, "1 K K"]


@torch.no_grad()
def skin_texture(
    flame: Flame,
    model: AlbedoModel,
    codes: Codes,
    crop: Float[Tensor, "1 3 H W"],
    config: TextureConfig | None = None,
) -> SkinTexture:
    """Unproject a crop onto the head that was fitted to it.

    Light is divided out; what the camera did not see is completed from the other side of the face
    and, where that is hidden too, from the albedo model. Only the face proper is taken from the
    picture: on ears, scalp and neck it shows hair and background too often.
    """
    config = config or TextureConfig()
    region = face_region(flame)
    layout = unwrap(region.uv, region.uv_faces, config.side)
    size = (crop.shape[-2], crop.shape[-1])
    verts = flame(codes.params).verts
    normals = vertex_normals(verts, region.faces)
    points = codes.camera.project(verts, size)[..., :2]
    depth = codes.camera.depth(verts)[..., None]
    fields = torch.cat([points, depth, normals, region.share[None]], dim=-1)
    texels = layout.bake(fields, region.faces)[0]  # [7, K, K]
    place, away, normal, share = texels[:2], texels[2], texels[3:6], texels[6]
    normal = torch.nn.functional.normalize(normal, dim=0)
    grid = torch.stack([place[0] / size[1], place[1] / size[0]], dim=-1) * 2 - 1
    photo = sampled(crop, grid)
    fragments = rasterize(codes.camera.clip(verts, size), region.faces, size)
    front = interpolate(depth, region.faces, fragments).movedim(-1, 1)
    hidden = fragments.face_id[:, None] < 0
    nearest = sampled(torch.where(hidden, torch.full_like(front, 1e3), front), grid, "nearest")
    # the view leans from z by a few degrees at most, which the soft limits swallow
    seen = ((normal[2] - 0.25) / 0.35).clamp(0, 1)
    seen = seen * (away < nearest[0] + config.depth_slack) * (grid.abs() < 1).all(-1)
    shading = sh_shading(normal.movedim(0, -1)[None], codes.light)[0].clamp(min=0.05)
    albedo = srgb_to_linear(model.decode(codes.albedo, config.side)[0]).clamp(min=1e-3)
    light = srgb_to_linear(photo).clamp(min=2e-3)
    difference = light.log() - shading.movedim(-1, 0).log() - albedo.log()
    difference = difference.clamp(-1.2, 0.8)
    weight = share * seen * layout.valid
    broad = blurred(difference, weight, config.side // 64)
    trust = 1 / (1 + (broad.square().mean(0).sqrt() / config.outlier) ** 4)
    weight = eroded(weight * trust, config.side // 128)
    difference, weight = completed(difference, weight, config)
    result = albedo * (config.detail * weight * difference).exp()
    return SkinTexture(linear_to_srgb(result.clamp(0, 1)).clamp(0, 1), weight[None])


def completed(
    difference: Tensor, weight: Tensor, config: TextureConfig
) -> tuple[Float[Tensor, "3 K K"], Float[Tensor, "K K"]]:
    """Fill from the mirrored texel (the UV layout is symmetric) and even out one-sided shading."""
    side = config.side
    other, other_weight = difference.flip(-1), weight.flip(-1)
    borrowed = (1 - weight) * other_weight
    total = weight + borrowed
    filled = (weight * difference + borrowed * other) / total.clamp(min=1e-4)
    broad = blurred(filled, total, side // 16)
    even = (broad + broad.flip(-1)) / 2
    filled = filled - (1 - config.one_sided) * (broad - even)
    return filled, total.clamp(0, 1)


def sampled(image: Tensor, grid: Tensor, mode: str = "bilinear") -> Float[Tensor, "C K K"]:
    """An image's values at a grid of places in -1..1; beyond the image its border goes on."""
    return torch.nn.functional.grid_sample(
        image, grid[None], mode=mode, padding_mode="border", align_corners=False
    )[0]


def _box(image: Float[Tensor, "C K K"], radius: int) -> Float[Tensor, "C K K"]:
    """Three box blurs, close to a Gaussian."""
    for _ in range(3):
        image = torch.nn.functional.avg_pool2d(
            image[None], 2 * radius + 1, 1, radius, count_include_pad=False
        )[0]
    return image


def blurred(values: Tensor, weight: Tensor, radius: int) -> Float[Tensor, "C K K"]:
    """Weighted blur, at a quarter of the resolution since the result is smooth."""
    small = torch.nn.functional.avg_pool2d((values * weight)[None], 4)[0]
    share = torch.nn.functional.avg_pool2d(weight[None, None], 4)[0]
    ratio = _box(small, max(1, radius // 4)) / _box(share, max(1, radius // 4)).clamp(min=1e-3)
    return torch.nn.functional.interpolate(
        ratio[None], size=values.shape[-2:], mode="bilinear", align_corners=False
    )[0]


def eroded(weight: Float[Tensor, "K K"], radius: int) -> Float[Tensor, "K K"]:
    """The weight drawn in from its borders and feathered."""
    low = -torch.nn.functional.max_pool2d(-weight[None], 2 * radius + 1, 1, radius)
    return _box(low, radius)[0]
