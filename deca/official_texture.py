"""The picture's colours on DECA's texture, and its plain grey pictures of shapes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flame.camera import Camera
from flame.interpolate import interpolate
from flame.light import sh_shading
from flame.normals import vertex_normals
from flame.raster import rasterize
from flame.records import TensorRecord
from flame.texture import UvLayout

GREY = 0.7  # of texels that nothing is known of
_FACING = 0.05  # least z of a normal that still counts as seen


@dataclass(frozen=True)
class ExtractConfig:
    """Which texels are trusted."""

    # published inference does not ask whether a texel is seen: the hidden side of a turned face
    # gets what lies before it in the picture
    published_visibility: bool = False
    depth_slack: float = 0.004  # metres behind the nearest surface that still count as seen


@dataclass(frozen=True, eq=False)
class ExtractedTexture(TensorRecord):
    """Texture of B heads, sRGB, and the share of each texel that comes from the picture."""

    image: Float[Tensor, "B 3 K K"]
    coverage: Float[Tensor, "B 1 K K"]


@torch.no_grad()
def extract_texture(
    images: Float[Tensor, "B 3 H W"],
    verts: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    camera: Camera,
    layout: UvLayout,
    mask: Float[Tensor, "K K"],
    fallback: Float[Tensor, "B 3 K K"] | None = None,
    config: ExtractConfig | None = None,
) -> ExtractedTexture:
    """Colours of the picture on each texel; elsewhere the fallback, or grey without one.

    The mask is that of the face and the eyes. Pass `shaded_albedo` as the fallback for a whole
    head; the picture's light is in both.
    """
    config = config or ExtractConfig()
    size = (images.shape[-2], images.shape[-1])
    screen = camera.project(verts, size)
    texels = layout.bake(torch.cat([screen, vertex_normals(verts, faces)], dim=-1), faces)
    place = texels[:, :2] / texels.new_tensor([size[1], size[0]])[:, None, None] * 2 - 1
    grid = place.movedim(1, -1)
    colours = _sampled(images, grid, "bilinear")
    weight = (mask * layout.valid).expand(len(images), 1, -1, -1)
    if not config.published_visibility:
        fragments = rasterize(camera.clip(verts, size), faces, size)
        front = interpolate(screen[..., 2:], faces, fragments).movedim(-1, 1)
        front = torch.where(fragments.face_id[:, None] < 0, torch.inf, front)
        seen = texels[:, 2:3] <= _sampled(front, grid, "nearest") + config.depth_slack
        seen = seen & (texels[:, 5:6] > _FACING) & (grid.abs() <= 1).all(-1)[:, None]
        weight = weight * seen
    beyond = torch.full_like(colours, GREY) if fallback is None else fallback
    return ExtractedTexture(colours * weight + beyond * (1 - weight), weight.contiguous())


def shaded_albedo(
    albedo: Float[Tensor, "B 3 K K"],
    normals: Float[Tensor, "B 3 K K"],
    light: Float[Tensor, "B 9 3"],
) -> Float[Tensor, "B 3 K K"]:
    """The model's texture under DECA's light: the product as stored, not clamped."""
    return albedo * sh_shading(normals.movedim(1, -1), light).movedim(-1, 1)


def visible_landmarks(
    normals: Float[Tensor, "B L 3"],
) -> Bool[Tensor, "B L"]:
    """Whether points with these unit normals face the camera, or nearly so, as DECA counts it."""
    return normals[..., 2] > -0.1


def _sampled(images: Tensor, grid: Tensor, mode: str) -> Float[Tensor, "B C K K"]:
    return torch.nn.functional.grid_sample(
        images, grid, mode=mode, padding_mode="zeros", align_corners=False
    )
