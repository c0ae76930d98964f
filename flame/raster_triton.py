"""The rasterizer on a GPU: the reference's fragments, and gradients that repeat bit for bit.

Import this file only inside a function, and only where triton is installed: torch brings it along
on Linux with CUDA.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame import raster_triton_kernels as kernels
from flame import raster_triton_setup as setup
from flame.fragments import Fragments, homogeneous_pixels
from flame.raster_reference import NEAR


class _Tiling(NamedTuple):
    """How kernels cut their work; fragments do not depend on it. Powers of two, but for `parts`."""

    faces: int = 128  # set up by one program
    pixels: int = 256  # shaded by one program
    tile: int = 16  # pixels on a side
    # programs that share one face's box: a triangle as large as the image must not hold up others
    parts: int = 64


class _Scene(NamedTuple):
    """Sizes that every kernel needs, in the order of their arguments."""

    batch_faces: int  # faces from one item's list to the next; 0 where all share one list
    face_count: int
    vert_count: int


def rasterize_triton(
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"] | Int[Tensor, "B F 3"],
    size: tuple[int, int],
    cull: bool = False,
) -> Fragments:
    """What `flame.raster.rasterize` returns, on the GPU that verts are on.

    Face ids are the reference's bit for bit; gradients are summed in a fixed order, so that runs
    repeat. The arguments are taken as `rasterize` has checked them. Two passes over the faces: one
    program a tile of a face's box lowers 64-bit keys of depth and face, then one thread a pixel
    reads its face's corners.
    """
    return _rasterize(verts, faces, size, cull, _Tiling())


def _rasterize(
    verts: Tensor, faces: Tensor, size: tuple[int, int], cull: bool, tiling: _Tiling
) -> Fragments:
    near = NEAR if verts.shape[-1] == 4 else -torch.finfo(torch.float32).max
    outputs: tuple[Tensor, Tensor, Tensor] = _Rasterize.apply(  # type: ignore[no-untyped-call]
        homogeneous_pixels(verts, size), faces, size, near, cull, verts.dtype, tiling
    )
    return Fragments(*outputs)


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


def _launch(kernel: Any, programs: int, *arguments: Any, **constants: int) -> None:
    # Triton launches on the current device, which need not be the tensors'
    with torch.cuda.device_of(arguments[0]):  # type: ignore[no-untyped-call]
        kernel[(programs,)](*arguments, **constants, num_warps=4, enable_fp_fusion=False)


class _Rasterize(torch.autograd.Function):
    """Hard visibility, and barycentrics and depth with a hand-written backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        points: Tensor,
        faces: Tensor,
        size: tuple[int, int],
        near: float,
        cull: bool,
        dtype: torch.dtype,
        tiling: _Tiling,
    ) -> tuple[Tensor, Tensor, Tensor]:
        points = points.detach().contiguous()
        faces = faces.long().contiguous()
        batch, (height, width) = len(points), size
        count = faces.shape[-2]
        scene = _Scene(count if faces.dim() == 3 else 0, max(count, 1), points.shape[1])
        total = batch * count
        # first the pixels' keys, then their face ids
        face_id = torch.full(
            (batch, *size), kernels.UNSEEN, dtype=torch.int64, device=points.device
        )
        depth = torch.empty((batch, *size), dtype=dtype, device=points.device)
        bary = torch.empty((batch, *size, 3), dtype=dtype, device=points.device)
        boxes = torch.empty((total, 5), dtype=torch.int32, device=points.device)
        parts = torch.empty(total, dtype=torch.int32, device=points.device)
        records = points.new_empty(setup.RECORD, total)
        seen = torch.zeros(total, dtype=torch.int8, device=points.device)
        if total:
            _launch(
                setup.set_up, _blocks(total, tiling.faces), points, faces, records, boxes,
                parts, total, *scene, height, width, int(cull),
                FACES=tiling.faces, TILE=tiling.tile, MOST_PARTS=tiling.parts,
            )  # fmt: skip
            work, first = _work_list(parts)
            if len(work):
                _launch(
                    kernels.draw, len(work), records, boxes, parts, first, work, face_id, near,
                    total, count, height, width, TILE=tiling.tile,
                )  # fmt: skip
        if face_id.numel():
            _launch(
                kernels.resolve, _blocks(face_id.numel(), tiling.pixels), points, faces, face_id,
                bary, depth, seen, *scene, width, height * width, face_id.numel(),
                PIXELS=tiling.pixels,
            )  # fmt: skip
        ctx.save_for_backward(points, faces, face_id, boxes, parts, seen)
        ctx.scene, ctx.tile = scene, tiling.tile
        ctx.mark_non_differentiable(face_id)
        return face_id, bary, depth

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, _: Tensor, grad_bary: Tensor, grad_depth: Tensor) -> tuple[Any, ...]:
        points, faces, face_id, boxes, parts, seen = ctx.saved_tensors
        batch, height, width = face_id.shape
        work, first = _work_list(parts * seen)
        if not len(work):
            return torch.zeros_like(points), None, None, None, None, None, None
        sums = points.new_empty(len(work), 3, 4)
        _launch(
            kernels.backward, len(work), points, faces, boxes, parts, first, work, face_id,
            grad_bary.contiguous(), grad_depth.contiguous(), sums, *ctx.scene,
            height, width, TILE=ctx.tile,
        )  # fmt: skip
        offset = torch.arange(batch, device=faces.device)[:, None, None] * points.shape[1]
        vertex = (faces + offset).expand(batch, -1, -1).reshape(-1, 3)[work]  # [N, 3]
        grad = _sum_in_order(sums.view(-1, 4), vertex.reshape(-1), batch * points.shape[1])
        return grad.view_as(points), None, None, None, None, None, None


def _work_list(parts: Tensor) -> tuple[Tensor, Tensor]:
    """The face of each program, and each face's first program."""
    count = parts.long()
    first = torch.cumsum(count, 0) - count
    every = torch.arange(len(parts), device=parts.device)
    return torch.repeat_interleave(every, count), first


def _sum_in_order(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Sums [count, K] of the rows of values with each index, always added in the same order.

    `index_add` on a GPU adds in the order in which threads arrive.
    """
    ordered, order = torch.sort(index, stable=True)
    lengths = torch.bincount(ordered, minlength=count)
    return torch.segment_reduce(
        values[order], "sum", lengths=lengths, axis=0, initial=0, unsafe=True
    )
