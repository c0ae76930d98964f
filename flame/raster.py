"""Triangles to pixels: which face each pixel sees, where on it, and how far away.

Coverage follows the top-left rule with pixel centres at .5, so that a centre on an edge shared by
two triangles belongs to exactly one of them. The nearest fragment wins and equal depths go to the
lower face index. Faces are seen from both sides.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from flame.records import TensorRecord

log = logging.getLogger(__name__)

LARGEST_SIDE = 16_384
_SMALLEST_DETERMINANT = 1e-12  # as in flame.raster_kernels
_NEAR = -1.0  # z/w at the near plane of clip space
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Fragments(TensorRecord):
    """What each pixel of B images of H x W sees."""

    face_id: Int[Tensor, "B H W"]  # -1 in the background
    bary: Float[Tensor, "B H W 3"]  # weights of the face's corners; 0 in the background
    depth: Float[Tensor, "B H W"]  # the third coordinate (clip space: z/w); inf in the background


@cache
def kernels() -> ModuleType:
    """The compiled kernels; the first call on a machine compiles them, later ones load them."""
    start = time.perf_counter()
    log.info("loading the rasterizer's kernels (the first time they are compiled, about 10 s)")
    from flame import raster_kernels

    log.info("the rasterizer's kernels were ready after %.1f s", time.perf_counter() - start)
    return raster_kernels


def each(work: Callable[[int], _T], count: int) -> list[_T]:
    """Results of work(0..count-1), on as many threads as torch may use."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        return [work(index) for index in range(count)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(count)))


def rasterize(
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"],
    size: tuple[int, int],
) -> Fragments:
    """The nearest face at each pixel of images of size (H, W), differentiable in verts.

    verts are in screen space (D = 3: x and y in pixels, depth, smaller is nearer; barycentrics are
    linear on the screen) or in clip space (D = 4: -w..w with y up; barycentrics are
    perspective-correct, and pixels nearer than z = -w are dropped). Degenerate, NaN and infinite
    triangles cover nothing. Gradients of barycentrics and depth reach a pixel's three corners.
    """
    _check(verts, faces, size)
    if verts.device.type != "cpu" or verts.dtype not in (torch.float32, torch.float64):
        return rasterize_reference(verts, faces, size)
    points = homogeneous_pixels(verts, size)
    near = _NEAR if verts.shape[-1] == 4 else -math.inf
    outputs: tuple[Tensor, Tensor, Tensor] = _Rasterize.apply(  # type: ignore[no-untyped-call]
        points, faces.long().contiguous(), size, near, verts.dtype
    )
    return Fragments(*outputs)


def homogeneous_pixels(
    verts: Float[Tensor, "B V D"], size: tuple[int, int]
) -> Float[Tensor, "B V 4"]:
    """Rows (x w, y w, z, w) in float64 with x, y in pixels, from screen or clip space."""
    height, width = size
    points = verts.double()
    if verts.shape[-1] == 3:
        return torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    x, y, z, w = points.unbind(-1)
    return torch.stack([(x + w) * (width / 2), (w - y) * (height / 2), z, w], dim=-1)


def draw(
    points: Float[Tensor, "V 4"], faces: Int[Tensor, "F 3"], size: tuple[int, int], near: float
) -> tuple[Int[Tensor, "H W"], Float[Tensor, "H W"]]:
    """Face index and float32 depth of one image, without gradients."""
    face_id = torch.full(size, -1, dtype=torch.int64)
    depth = torch.full(size, math.inf)
    _draw_rows(points.detach().contiguous(), faces, near, face_id, depth, 0, size[0])
    return face_id, depth


def _draw_rows(
    points: Tensor, faces: Tensor, near: float, face_id: Tensor, depth: Tensor, top: int, end: int
) -> None:
    no_uv = torch.zeros(0, 2).numpy(), torch.zeros(0, 3, dtype=torch.int64).numpy()
    no_texture = torch.zeros(0, 4, dtype=torch.uint16).numpy(), no_uv[1]
    no_list = torch.zeros(0, dtype=torch.int64).numpy()
    kernels().z_pass(
        points.numpy(), faces.numpy(), torch.arange(len(faces)).numpy(), near, 0, top, end,
        face_id.numpy(), depth.numpy(), *no_uv, *no_texture, 0.0,
        no_list, no_list, torch.zeros(0).numpy(),
    )  # fmt: skip


class _Rasterize(torch.autograd.Function):
    """Hard visibility, and barycentrics and depth with a hand-written backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        points: Tensor,
        faces: Tensor,
        size: tuple[int, int],
        near: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch = len(points)
        points = points.detach().contiguous()
        face_id = torch.full((batch, *size), -1, dtype=torch.int64)
        # two surfaces less than a float32 step apart count as equally deep, whatever the dtype
        nearest = torch.full((batch, *size), math.inf)
        depth = torch.empty((batch, *size), dtype=dtype)
        bary = torch.empty((batch, *size, 3), dtype=dtype)
        # one image on several threads is cut into bands of rows, each drawn by itself
        bands = 1 if batch > 1 else max(1, min(torch.get_num_threads(), size[0] // 64))
        edges = [band * size[0] // bands for band in range(bands + 1)]

        def work(index: int) -> None:
            item, band = divmod(index, bands)
            top, end = edges[band], edges[band + 1]
            _draw_rows(points[item], faces, near, face_id[item], nearest[item], top, end)

        each(work, batch * bands)
        each(
            lambda item: kernels().barycentrics(
                points[item].numpy(),
                faces.numpy(),
                face_id[item].numpy(),
                bary[item].numpy(),
                depth[item].numpy(),
            ),
            batch,
        )
        ctx.save_for_backward(points, faces, face_id)
        ctx.mark_non_differentiable(face_id)
        return face_id, bary, depth

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, _: Tensor, grad_bary: Tensor, grad_depth: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        points, faces, face_id = ctx.saved_tensors
        grad_points = torch.zeros_like(points)
        grad_bary, grad_depth = grad_bary.contiguous(), grad_depth.contiguous()
        each(
            lambda item: kernels().fragments_backward(
                points[item].numpy(),
                faces.numpy(),
                face_id[item].numpy(),
                grad_bary[item].numpy(),
                grad_depth[item].numpy(),
                grad_points[item].numpy(),
            ),
            len(points),
        )
        return grad_points, None, None, None, None


def rasterize_reference(
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"],
    size: tuple[int, int],
) -> Fragments:
    """What `rasterize` returns, in plain torch operations on any device.

    Every triangle is expanded to the pixels of its bounding box; of the pairs that pass the edge
    tests, each pixel keeps the nearest.
    """
    _check(verts, faces, size)
    height, width = size
    points = homogeneous_pixels(verts, size)
    near = _NEAR if verts.shape[-1] == 4 else -math.inf
    with torch.no_grad():
        ids = [_visible(item, faces.long(), size, near) for item in points]
    face_id = torch.stack(ids) if ids else faces.new_full((0, height, width), -1).long()
    item, row, column = torch.nonzero(face_id >= 0, as_tuple=True)
    corners = faces.long()[face_id[item, row, column]]
    edges, _ = _edge_functions(points[item[:, None], corners], column + 0.5, row + 0.5)
    z, w = points[item[:, None], corners][..., 2:].unbind(-1)
    covered = (item, row, column)
    bary = points.new_zeros(*face_id.shape, 3).index_put(
        covered, edges / edges.sum(-1, keepdim=True)
    )
    depth = torch.full_like(bary[..., 0], math.inf).index_put(
        covered, (edges * z).sum(-1) / (edges * w).sum(-1)
    )
    return Fragments(face_id, bary.to(verts.dtype), depth.to(verts.dtype))


def _edge_functions(
    corners: Shaped[Tensor, "N 3 4"], px: Shaped[Tensor, " N"], py: Shaped[Tensor, " N"]
) -> tuple[Tensor, Tensor]:
    """Per corner, the opposite edge's function at (px, py) and its gradient [N, 3, 2]."""
    x, y, _, w = corners.unbind(-1)
    dx, dy = x - px[:, None] * w, y - py[:, None] * w
    after, before = [1, 2, 0], [2, 0, 1]
    edges = dx[:, after] * dy[:, before] - dx[:, before] * dy[:, after]
    gx = y[:, after] * w[:, before] - y[:, before] * w[:, after]
    gy = x[:, before] * w[:, after] - x[:, after] * w[:, before]
    return edges, torch.stack([gx, gy], dim=-1)


def _visible(points: Tensor, faces: Tensor, size: tuple[int, int], near: float) -> Tensor:
    """Index of the nearest face at each pixel [H, W]."""
    height, width = size
    corners = points[faces]  # [F, 3, 4]
    x, y, z, w = corners.unbind(-1)
    along = corners[:, 1:, :2] * w[:, :1, None] - corners[:, :1, :2] * w[:, 1:, None]
    front = (along[:, 0, 0] * along[:, 1, 1] - along[:, 1, 0] * along[:, 0, 1]) / w[:, 0]
    full = w[:, 0] * (x[:, 1] * y[:, 2] - x[:, 2] * y[:, 1])
    full = full + w[:, 1] * (x[:, 2] * y[:, 0] - x[:, 0] * y[:, 2])
    full = full + w[:, 2] * (x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0])
    det = torch.where(w[:, 0] > 0, front, full)
    usable = (det.abs() > _SMALLEST_DETERMINANT) & det.isfinite() & z.isfinite().all(-1)
    usable &= (w > 0).any(-1)

    # boxes of pixels whose centres may be inside; a triangle that reaches behind gets them all
    ahead = (w > 0).all(-1)
    low = (corners[..., :2] / w[..., None]).amin(1) - 0.5 - 1e-6
    high = (corners[..., :2] / w[..., None]).amax(1) - 0.5 + 1e-6
    limit = corners.new_tensor([width, height])
    low = torch.where(ahead[:, None], low, 0.0).nan_to_num(0.0).ceil().clamp(min=0)
    high = torch.where(ahead[:, None], high, limit).nan_to_num(-1.0).floor() + 1
    low, high = torch.minimum(low, limit).long(), high.clamp(min=0).minimum(limit).long()
    span = (high - low).clamp(min=0)
    count = torch.where(usable, span[:, 0] * span[:, 1], 0)

    # one pair of face and pixel a row
    pair_face = torch.repeat_interleave(torch.arange(len(faces), device=faces.device), count)
    start = torch.cumsum(count, 0) - count
    inside_box = torch.arange(len(pair_face), device=faces.device) - start[pair_face]
    column = low[pair_face, 0] + inside_box % span[pair_face, 0]
    row = low[pair_face, 1] + inside_box // span[pair_face, 0]
    edges, gradient = _edge_functions(corners[pair_face], column + 0.5, row + 0.5)
    sign = det.sign()[pair_face, None]
    edges, gradient = edges * sign, gradient * sign[..., None]
    top_left = (gradient[..., 0] > 0) | ((gradient[..., 0] == 0) & (gradient[..., 1] > 0))
    inside = ((edges > 0) | ((edges == 0) & top_left)).all(-1)
    parts = edges * z[pair_face]
    weights = edges * w[pair_face]
    depth = (parts[:, 0] + parts[:, 1] + parts[:, 2]) / (
        weights[:, 0] + weights[:, 1] + weights[:, 2]
    )
    depth = depth.float()
    inside &= (depth >= near) & depth.isfinite()

    pixel, depth, pair_face = (row * width + column)[inside], depth[inside], pair_face[inside]
    nearest = depth.new_full((height * width,), math.inf)
    nearest = nearest.scatter_reduce(0, pixel, depth, "amin")
    wins = depth == nearest[pixel]
    none = len(faces)
    face_id = faces.new_full((height * width,), none)
    face_id = face_id.scatter_reduce(0, pixel[wins], pair_face[wins], "amin")
    return torch.where(face_id == none, -1, face_id).view(height, width)


def _check(verts: Tensor, faces: Tensor, size: tuple[int, int]) -> None:
    if verts.shape[-1] not in (3, 4):
        raise ValueError(
            f"verts have {verts.shape[-1]} coordinates; pass 3 (screen space: pixels and depth) "
            "or 4 (clip space)"
        )
    if not all(1 <= side <= LARGEST_SIDE for side in size):
        raise ValueError(f"size is {size}; give (height, width), each 1 to {LARGEST_SIDE} pixels")
    if verts.device != faces.device:
        raise ValueError(
            f"verts are on {verts.device} and faces on {faces.device}; move one with .to()"
        )
    check_indices(faces, verts.shape[1], "faces")


def check_indices(faces: Int[Tensor, "F 3"], count: int, name: str) -> None:
    """Raise where a row of `name` points past `count` vertices."""
    if len(faces) and (int(faces.min()) < 0 or int(faces.max()) >= count):
        raise ValueError(
            f"{name} point at vertices {int(faces.min())} to {int(faces.max())}, but there are "
            f"{count}; indices run from 0 to {count - 1}"
        )
