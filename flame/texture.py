"""Texture sampling with mip levels, and maps over a texture's own plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flame.interpolate import interpolate
from flame.normals import vertex_normals
from flame.raster import Fragments, homogeneous_pixels, rasterize
from flame.records import TensorRecord


def sample_texture(
    texture: Float[Tensor, "B C K L"] | Sequence[Float[Tensor, "B C _ _"]],
    uv: Float[Tensor, "B H W 2"],
    lod: Float[Tensor, "B H W"] | None = None,
) -> Float[Tensor, "B C H W"]:
    """Samples at UVs (origin bottom left); beyond the border its texels go on.

    Bilinear; with lod, mip levels (0 is the texture itself), trilinear. Fractions of a level below
    0 and beyond the last count as those. To sample one texture often, pass its `mip_levels`.
    Differentiable in texture, uv and lod.
    """
    if lod is None:
        return _bilinear(texture if isinstance(texture, Tensor) else texture[0], uv)
    levels = mip_levels(texture) if isinstance(texture, Tensor) else list(texture)
    level = lod.nan_to_num(0.0).clamp(0, len(levels) - 1)
    # only levels that some pixel looks at are sampled
    low = int(level.detach().amin()) if level.numel() else 0
    high = int(level.detach().amax().ceil()) if level.numel() else 0
    total = _bilinear(levels[low], uv) * _hat(level, low)
    for index in range(low + 1, high + 1):
        total = total + _bilinear(levels[index], uv) * _hat(level, index)
    return total


def _hat(level: Tensor, index: int) -> Tensor:
    """The share that a mip level has in each pixel [B, 1, H, W]."""
    return (1 - (level - index).abs()).clamp(min=0)[:, None]


def _bilinear(texture: Tensor, uv: Tensor) -> Tensor:
    grid = torch.stack([uv[..., 0] * 2 - 1, 1 - uv[..., 1] * 2], dim=-1)
    return torch.nn.functional.grid_sample(
        texture, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def mip_levels(texture: Float[Tensor, "B C K L"]) -> list[Float[Tensor, "B C _ _"]]:
    """The texture and its halvings down to one texel, each the mean of what it covers."""
    levels = [texture]
    while max(levels[-1].shape[2:]) > 1:
        height, width = levels[-1].shape[2:]
        half = (max(height // 2, 1), max(width // 2, 1))
        # where a side is odd its texels are shared out, so that no texel is left out of the mean
        levels.append(torch.nn.functional.interpolate(levels[-1], half, mode="area"))
    return levels


def texture_lod(
    uv: Float[Tensor, "T 2"],
    uv_faces: Int[Tensor, "F 3"],
    faces: Int[Tensor, "F 3"],
    fragments: Fragments,
    verts: Float[Tensor, "B V D"],
    texture_size: tuple[int, int],
) -> Float[Tensor, "B H W"]:
    """Mip level at which a texel is one pixel long, along the longer axis of a pixel's footprint.

    From the exact derivatives of perspective-correct UV on the screen; verts are those that were
    rasterized (screen or clip space), texture_size is (K, L). 0 in the background and where a face
    is enlarged. Without gradients.
    """
    size = (fragments.face_id.shape[1], fragments.face_id.shape[2])
    with torch.no_grad():
        points = homogeneous_pixels(verts, size)
        covered = (fragments.face_id >= 0).nonzero(as_tuple=True)
        item, row, column = covered
        face = fragments.face_id[covered].long()
        x, y, _, w = points[item[:, None], faces.long()[face]].unbind(-1)  # each [N, 3]
        after, before = [1, 2, 0], [2, 0, 1]
        # edge functions are affine on the screen; UV are their weighted mean
        across = y[:, after] * w[:, before] - y[:, before] * w[:, after]
        down = x[:, before] * w[:, after] - x[:, after] * w[:, before]
        dx, dy = x - (column + 0.5)[:, None] * w, y - (row + 0.5)[:, None] * w
        edges = dx[:, after] * dy[:, before] - dx[:, before] * dy[:, after]
        corners = uv.double()[uv_faces.long()[face]]  # [N, 3, 2]
        total = edges.sum(1, keepdim=True)
        here = (edges[..., None] * corners).sum(1) / total
        texels = corners.new_tensor([texture_size[1], texture_size[0]])
        lengths = []
        for slope in (across, down):
            change = (slope[..., None] * corners).sum(1) - here * slope.sum(1, keepdim=True)
            lengths.append((change / total * texels).norm(dim=1))
        longest = torch.maximum(*lengths).clamp(min=1e-12)
        lod = fragments.depth.new_zeros(fragments.face_id.shape)
        lod[covered] = longest.log2().clamp(min=0).nan_to_num(0.0, 0.0, 0.0).to(lod.dtype)
    return lod


@dataclass(frozen=True, eq=False)
class UvLayout(TensorRecord):
    """For each texel of a K x L texture, the point of the mesh that wears it."""

    face_id: Int[Tensor, "1 K L"]  # -1 beyond the islands and their gutter
    bary: Float[Tensor, "1 K L 3"]
    valid: Bool[Tensor, "K L"]  # texels whose centre is on an island, without the gutter

    def bake(
        self, attributes: Float[Tensor, "B V C"], faces: Int[Tensor, "F 3"]
    ) -> Float[Tensor, "B C K L"]:
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
    ) -> Float[Tensor, "B 3 K L"]:
        """The mesh's points, metres."""
        return self.bake(verts, faces)

    def normals(
        self, verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"]
    ) -> Float[Tensor, "B 3 K L"]:
        """Smooth unit normals; zero beyond the gutter."""
        maps = self.bake(vertex_normals(verts, faces), faces)
        return torch.nn.functional.normalize(maps, dim=1)


def unwrap(
    uv: Float[Tensor, "T 2"],
    uv_faces: Int[Tensor, "F 3"],
    side: int | tuple[int, int],
    gutter: int = 4,
) -> UvLayout:
    """The mesh laid out flat on a square texture of `side` texels, or one of (height, width).

    Texels up to `gutter` away from an island repeat its nearest texel, so that bilinear filtering
    and mipmaps find no background at the seams. Where islands overlap, the lower face wins.
    """
    height, width = (side, side) if isinstance(side, int) else side
    pixels = torch.stack(
        [uv[:, 0] * width, (1 - uv[:, 1]) * height, torch.zeros_like(uv[:, 0])], -1
    )
    flat = rasterize(pixels[None], uv_faces, (height, width))
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
