"""Soft silhouettes: coverage that fades with the distance to a face's border (Liu et al. 2019).

Their gradient reaches as far as the blur, where antialiased edges (flame.antialias) are sharp and
only feel pixels that they touch; use them for starts that are far off.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame.fragments import check_arguments, check_indices, homogeneous_pixels
from flame.raster import each, load_kernels
from flame.raster_reference import NEAR

_MOST_FACES = 1024  # a pixel
_SMALLEST_AREA = 1e-12  # as in flame.soft_kernels


def soft_silhouette(
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"] | Int[Tensor, "B F 3"],
    size: tuple[int, int],
    *,
    sigma: float,
    faces_per_pixel: int = 10,
) -> Float[Tensor, "B 1 H W"]:
    """A = 1 - prod_k (1 - sigmoid(d_k |d_k| / sigma)) at each pixel, 0..1, differentiable in verts.

    d_k is the distance in pixels from the pixel's centre to the border of face k, positive inside;
    sigma is in square pixels (Liu et al. give theirs in units of half an image: theirs times
    (side / 2)²). The product runs over the `faces_per_pixel` faces with the largest d_k, whatever
    their depth: those that cover most. Faces whose sigmoid is below 1e-4, faces with a corner
    before the near plane or behind the eye, and those that `rasterize` skips count for nothing.
    """
    _check(verts, faces, size, sigma, faces_per_pixel)
    if verts.device.type != "cpu":
        return soft_silhouette_reference(
            verts, faces, size, sigma=sigma, faces_per_pixel=faces_per_pixel
        )
    near = NEAR if verts.shape[-1] == 4 else -math.inf
    free: Tensor = _Soft.apply(  # type: ignore[no-untyped-call]
        homogeneous_pixels(verts, size),
        faces.long().contiguous(),
        size,
        near,
        float(sigma),
        faces_per_pixel,
    )
    return (1 - free).to(verts.dtype)[:, None]


class _Soft(torch.autograd.Function):
    """The share of each pixel that stays free, float64."""

    @staticmethod
    def forward(
        ctx: Any,
        points: Tensor,
        faces: Tensor,
        size: tuple[int, int],
        near: float,
        sigma: float,
        faces_per_pixel: int,
    ) -> Tensor:
        points = points.detach().contiguous()
        batch, height = len(points), size[0]
        chosen = torch.empty((batch, *size, faces_per_pixel), dtype=torch.int32)
        free = torch.empty((batch, *size), dtype=torch.float64)
        # one image on several threads is cut into bands of rows, each drawn by itself
        forward = load_kernels("soft_kernels").soft_forward
        bands = 1 if batch > 1 else max(1, min(torch.get_num_threads(), height // 32))

        def work(index: int) -> None:
            item, band = divmod(index, bands)
            top, end = band * height // bands, (band + 1) * height // bands
            forward(
                points[item].numpy(),
                (faces if faces.ndim == 2 else faces[item]).numpy(),
                near,
                sigma,
                top,
                end,
                chosen[item].numpy(),
                free[item].numpy(),
            )

        each(work, batch * bands)
        ctx.save_for_backward(points, faces, chosen, free)
        ctx.sigma = sigma
        return free

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_free: Tensor) -> tuple[Tensor | None, ...]:
        points, faces, chosen, free = ctx.saved_tensors
        free = free.detach()  # an output, which other threads would take for a variable
        grad_points = torch.zeros_like(points)
        grad_covered = (-grad_free).contiguous()
        backward = load_kernels("soft_kernels").soft_backward
        each(
            lambda item: backward(
                points[item].numpy(),
                (faces if faces.ndim == 2 else faces[item]).numpy(),
                ctx.sigma,
                chosen[item].numpy(),
                free[item].numpy(),
                grad_covered[item].numpy(),
                grad_points[item].numpy(),
            ),
            len(points),
        )
        return grad_points, None, None, None, None, None


def soft_silhouette_reference(
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"] | Int[Tensor, "B F 3"],
    size: tuple[int, int],
    *,
    sigma: float,
    faces_per_pixel: int = 10,
) -> Float[Tensor, "B 1 H W"]:
    """What `soft_silhouette` returns, in plain torch operations on any device."""
    _check(verts, faces, size, sigma, faces_per_pixel)
    points = homogeneous_pixels(verts, size)
    near = NEAR if verts.shape[-1] == 4 else -math.inf
    least = -sigma * math.log(1e4 - 1)  # where the sigmoid is 1e-4
    images = []
    meshes = faces.long().expand(len(points), -1, -1)
    for item, mesh in zip(points, meshes, strict=True):
        mesh = mesh[(mesh >= 0).all(1)]  # without padding
        behind = item[:, 3:] <= 0
        screen = item[:, :2] / torch.where(behind, 1, item[:, 3:])
        with torch.no_grad():
            usable = (item[:, 3] > 0) & (item[:, 2] >= near * item[:, 3]) & item.isfinite().all(1)
            face, pixel = _pairs(screen, usable, mesh, size, math.sqrt(-least))
            key = _signed_square(screen[mesh[face]], pixel, size[1])
            keep = key >= least
            face, pixel, key = face[keep], pixel[keep], key[keep]
            order = torch.argsort(key, descending=True, stable=True)
            order = order[torch.argsort(pixel[order], stable=True)]
            face, pixel = face[order], pixel[order]
            start = torch.searchsorted(pixel, pixel)
            rank = torch.arange(len(pixel), device=pixel.device) - start
            first = rank < faces_per_pixel
            face, pixel, rank = face[first], pixel[first], rank[first]
        corners = screen.index_select(0, mesh[face].reshape(-1)).view(-1, 3, 2)
        key = _signed_square(corners, pixel, size[1])
        free = points.new_ones(size[0] * size[1], faces_per_pixel)
        free = free.index_put((pixel, rank), torch.sigmoid(-key / sigma))
        images.append(1 - free.prod(1).view(1, *size))
    return torch.stack(images).to(verts.dtype) if images else verts.new_zeros(0, 1, *size)


def _pairs(
    screen: Tensor, usable: Tensor, faces: Tensor, size: tuple[int, int], radius: float
) -> tuple[Tensor, Tensor]:
    """Faces, and pixels in their boxes widened by the radius, one pair a row."""
    corners = screen[faces]
    along = corners[:, 1:] - corners[:, :1]
    area = along[:, 0, 0] * along[:, 1, 1] - along[:, 1, 0] * along[:, 0, 1]
    fit = usable[faces].all(1) & (area.abs() > _SMALLEST_AREA) & area.isfinite()
    limit = screen.new_tensor([size[1], size[0]])
    low = torch.minimum((corners.amin(1) - radius - 0.5).ceil().clamp(min=0), limit)
    high = torch.minimum((corners.amax(1) + radius - 0.5).floor().clamp(min=-1) + 1, limit)
    low, high = low.nan_to_num(0).long(), high.nan_to_num(0).long()
    span = (high - low).clamp(min=0)
    count = torch.where(fit, span[:, 0] * span[:, 1], 0)
    face = torch.repeat_interleave(torch.arange(len(faces), device=faces.device), count)
    inside = torch.arange(len(face), device=faces.device) - (torch.cumsum(count, 0) - count)[face]
    column = low[face, 0] + inside % span[face, 0]
    row = low[face, 1] + inside // span[face, 0]
    return face, row * size[1] + column


def _signed_square(corners: Tensor, pixel: Tensor, width: int) -> Tensor:
    """Square distances [N] from pixels' centres to the borders of [N, 3, 2], positive inside."""
    centre = torch.stack([pixel % width, pixel // width], dim=-1).to(corners.dtype) + 0.5
    along = corners.roll(-1, 1) - corners
    offset = centre[:, None] - corners
    part = ((offset * along).sum(-1) / along.square().sum(-1)).clamp(0, 1)
    square = (offset - part[..., None] * along).square().sum(-1).amin(1)
    turn = along[..., 0] * offset[..., 1] - along[..., 1] * offset[..., 0]
    inside = (turn >= 0).all(1) | (turn <= 0).all(1)
    return torch.where(inside, square, -square)


def _check(
    verts: Tensor, faces: Tensor, size: tuple[int, int], sigma: float, faces_per_pixel: int
) -> None:
    check_arguments(verts, faces, size)
    check_indices(faces, verts.shape[1], "faces", padded=True)
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma is {sigma}; give square pixels above 0, such as 1.0")
    if not 1 <= faces_per_pixel <= _MOST_FACES:
        raise ValueError(f"faces_per_pixel is {faces_per_pixel}; give 1 to {_MOST_FACES}")
