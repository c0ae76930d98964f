"""Texture sampling, and maps over a texture's own plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flame.interpolate import interpolate
from flame.normals import vertex_normals
from flame.raster import Fragments, rasterize
from flame.records import TensorRecord


def sample_texture(
    texture: Float[Tensor, "B C K L"], uv: Float[Tensor, "B H W 2"]
) -> Float[Tensor, "B C H W"]:
    """Bilinear samples at UVs (origin bottom left); beyond the border its texels go on.

    Differentiable in both.
    """
    grid = torch.stack([uv[..., 0] * 2 - 1, 1 - uv[..., 1] * 2], dim=-1)
    return torch.nn.functional.grid_sample(
        texture, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


@dataclass(frozen=True, eq=False)
class UvLayout(TensorRecord):
    """For each texel of a K x K texture, the point of the mesh that wears it."""

    face_id: Int[Tensor, "1 K K"]  # -1 beyond the islands and their gutter
    bary: Float[Tensor, "1 K K 3"]
    valid: Bool[Tensor, "K K"]  # texels whose centre is on an island, without the gutter

    def bake(
        self, attributes: Float[Tensor, "B V C"], faces: Int[Tensor, "F 3"]
    ) -> Float[Tensor, "B C K K"]:
        """Maps of vertex attributes; zero beyond the gutter. Differentiable."""
        batch = len(attributes)
        depth = self.bary[..., 0]
        layout = Fragments(self.face_id, self.bary.to(attributes.dtype), depth)
        shared = Fragments(
            layout.face_id.expand(batch, -1, -1),
            layout.bary.expand(batch, -1, -1, -1),
            layout.depth.expand(batch, -1, -1),
        )
        return interpolate(attributes, faces, shared).movedim(-1, 1)

    def positions(
        self, verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"]
    ) -> Float[Tensor, "B 3 K K"]:
        """The mesh's points, metres."""
        return self.bake(verts, faces)

    def normals(
        self, verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"]
    ) -> Float[Tensor, "B 3 K K"]:
        """Smooth unit normals; zero beyond the gutter."""
        maps = self.bake(vertex_normals(verts, faces), faces)
        return torch.nn.functional.normalize(maps, dim=1)


def unwrap(
    uv: Float[Tensor, "T 2"], uv_faces: Int[Tensor, "F 3"], side: int, gutter: int = 4
) -> UvLayout:
    """The mesh laid out flat on a square texture of `side` texels.

    Texels up to `gutter` away from an island repeat its nearest texel, so that bilinear filtering
    and mipmaps find no background at the seams. Where islands overlap, the lower face wins.
    """
    pixels = torch.stack([uv[:, 0] * side, (1 - uv[:, 1]) * side, torch.zeros_like(uv[:, 0])], -1)
    flat = rasterize(pixels[None], uv_faces, (side, side))
    valid = flat.face_id[0] >= 0
    index = _nearest(valid, gutter)
    face_id = flat.face_id[0].view(-1)[index]
    bary = flat.bary[0].view(-1, 3)[index]
    return UvLayout(face_id[None], bary[None], valid)


def fill_gutter(
    image: Float[Tensor, "*C K L"], valid: Bool[Tensor, "K L"], gutter: int
) -> Float[Tensor, "*C K L"]:
    """The image with invalid texels up to `gutter` from a valid one taking its value."""
    return image.flatten(-2)[..., _nearest(valid, gutter)]


def _nearest(valid: Tensor, gutter: int) -> Tensor:
    """Flat index of the nearest valid texel, itself where that is further than gutter [K, L]."""
    from scipy.ndimage import distance_transform_edt

    own = torch.arange(valid.numel(), device=valid.device).view(valid.shape)
    if gutter <= 0 or not bool(valid.any()):
        return own
    distance, nearest = distance_transform_edt(~valid.cpu().numpy(), return_indices=True)
    flat = np.ravel_multi_index(tuple(nearest), valid.shape)
    flat = np.where(distance <= gutter, flat, own.cpu().numpy())
    return torch.from_numpy(flat.astype(np.int64)).to(valid.device)
