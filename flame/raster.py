"""Triangles to pixels: which face each pixel sees, where on it, and how far away.

The conventions hold for every backend:
- pixel centres are at .5, origin top left; of a centre on an edge shared by two triangles exactly
  one sees it, by the top-left rule;
- the nearest fragment wins, depths a float32 step apart count as equal, and equal depths go to the
  lower face index; the order of the faces changes nothing but their names;
- faces are seen from both sides, unless culling is asked for;
- in clip space pixels nearer than the near plane z = -w are dropped and triangles may reach behind
  the camera; barycentrics are perspective-correct there and linear on the screen otherwise;
- triangles without area, and those with a NaN or infinite corner, cover nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from flame.fragments import (
    LARGEST_SIDE,
    Fragments,
    check_arguments,
    check_faces,
    check_indices,
    homogeneous_pixels,
    pad_meshes,
)
from flame.raster_reference import NEAR, rasterize_reference

__all__ = [
    "LARGEST_SIDE",
    "Backend",
    "Fragments",
    "check_faces",
    "check_indices",
    "draw",
    "each",
    "empty",
    "homogeneous_pixels",
    "load_kernels",
    "pad_meshes",
    "rasterize",
    "rasterize_reference",
]

log = logging.getLogger(__name__)

Backend = Literal["auto", "reference", "cpu", "torch", "triton", "pytorch3d", "nvdiffrast"]
_BACKENDS = ("auto", "reference", "cpu", "torch", "triton", "pytorch3d", "nvdiffrast")
_COMPILED = (torch.float32, torch.float64)
_BAND = 64  # rows of an image that are worth a thread
_PATIENCE_S = 2.0  # loading kernels that are kept on disk takes a fraction of it
_LARGE = 2**25  # bytes; the C library keeps smaller blocks for the next call
_NUMPY = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int32: np.int32,
    torch.int64: np.int64,
}
_T = TypeVar("_T")
_Sums = NDArray[np.float64]


@cache
def load_kernels(name: str) -> ModuleType:
    """The compiled kernels of flame/{name}.py.

    The first call on a machine compiles them, which takes seconds and is said as a warning; later
    ones load them from disk.
    """
    start = time.perf_counter()
    patience = threading.Timer(
        _PATIENCE_S,
        log.warning,
        ("compiling flame.%s for this machine, once; this takes some seconds", name),
    )
    patience.daemon = True
    patience.start()
    try:
        module = importlib.import_module(f"flame.{name}")
    finally:
        patience.cancel()
    log.info("flame.%s was ready after %.1f s", name, time.perf_counter() - start)
    return module


def each(work: Callable[[int], _T], count: int) -> list[_T]:
    """Results of work(0..count-1), on as many threads as torch may use."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        return [work(index) for index in range(count)]
    results: dict[int, _T] = {}
    numbers = iter(range(count))  # one at a time, whichever thread asks

    def some() -> None:
        for index in numbers:
            results[index] = work(index)

    helpers = [_helpers(threads - 1).submit(some) for _ in range(threads - 1)]
    try:
        some()
    finally:
        for helper in helpers:
            # one that has not begun has nothing left to do, and may never begin where calls nest
            if not helper.cancel():
                helper.result()
    return [results[index] for index in range(count)]


@cache
def _helpers(threads: int) -> ThreadPoolExecutor:
    """Threads beside the calling one; starting them anew for every picture would cost a tenth."""
    return ThreadPoolExecutor(threads, thread_name_prefix="flame-raster")


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_helpers.cache_clear)


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An unwritten tensor on the CPU."""
    if math.prod(shape) * dtype.itemsize < _LARGE:
        return torch.empty(*shape, dtype=dtype)
    # Blocks so large come from the system anew every time, and its thousands of small pages take
    # longer than the drawing; numpy asks for large pages.
    return torch.from_numpy(np.empty(shape, _NUMPY[dtype]))


def rasterize(
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"] | Int[Tensor, "B F 3"],
    size: tuple[int, int],
    *,
    cull: bool = False,
    backend: Backend = "auto",
) -> Fragments:
    """The nearest face at each pixel of images of size (H, W), differentiable in verts.

    verts are in screen space (D = 3: x and y in pixels, depth, smaller is nearer) or in clip space
    (D = 4: -w..w with y up, z/w >= -1 in front of the near plane). Faces [B, F, 3] are a mesh of
    its own for every image, face_id counting within it; rows of -1 are padding (`pad_meshes`).
    cull drops faces that are clockwise on the screen. Gradients of barycentrics and depth reach a
    pixel's three corners; `flame.antialias` gives those of the silhouettes.

    The backend follows the device: compiled kernels for float32 and float64 on the CPU, Triton on
    CUDA where it is installed, otherwise torch operations ("torch" and "reference" are the same).
    Raises ValueError naming the argument that is wrong.
    """
    check_arguments(verts, faces, size)
    chosen = _backend_for(verts) if backend == "auto" else backend
    if chosen == "cpu":
        return _rasterize_compiled(verts, faces, size, cull)
    if chosen in ("reference", "torch"):
        return rasterize_reference(verts, faces, size, cull)
    if chosen not in _BACKENDS:
        raise ValueError(f"backend is {backend!r}; choose one of {', '.join(_BACKENDS)}")
    check_indices(faces, verts.shape[1], "faces", padded=True)
    home = "raster_triton" if chosen == "triton" else "raster_backends"
    function = getattr(importlib.import_module(f"flame.{home}"), f"rasterize_{chosen}")
    fragments: Fragments = function(verts, faces, size, cull)
    return fragments


def visible_faces(
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"] | Int[Tensor, "B F 3"],
    size: tuple[int, int],
) -> Int[Tensor, "B H W"]:
    """`Fragments.face_id` of `rasterize` alone, for a third of the time less."""
    check_arguments(verts, faces, size)
    if _backend_for(verts) != "cpu":
        return rasterize(verts.detach(), faces, size).face_id
    return _fragments(verts, faces.long().contiguous(), size, False, with_bary=False)[0]


def draw(
    points: Float[Tensor, "V 4"], faces: Int[Tensor, "F 3"], size: tuple[int, int], near: float
) -> tuple[Int[Tensor, "H W"], Float[Tensor, "H W"]]:
    """Face index and float32 depth of one image of `homogeneous_pixels`, without gradients."""
    face_id, depth = torch.empty(size, dtype=torch.int64), torch.empty(size)
    bad = load_kernels("visibility_kernels").visible(
        points.detach().contiguous().numpy(), faces.long().contiguous().numpy(),
        _finite(near), 0, 0, size[0], face_id.numpy(), depth.numpy(),
    )  # fmt: skip
    if bad >= 0:
        check_indices(faces, len(points), "faces", padded=True)
    return face_id, depth


def _backend_for(verts: Tensor) -> Backend:
    if verts.device.type == "cpu" and verts.dtype in _COMPILED:
        return "cpu"
    if verts.device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        return "triton"
    return "torch"


def _rasterize_compiled(
    verts: Tensor, faces: Tensor, size: tuple[int, int], cull: bool
) -> Fragments:
    if verts.device.type != "cpu" or verts.dtype not in _COMPILED:
        raise ValueError(
            f"verts are {verts.dtype} on {verts.device}; backend='cpu' takes float32 or float64 "
            "on the CPU"
        )
    faces = faces.long().contiguous()
    if torch.is_grad_enabled() and verts.requires_grad:
        outputs = _Rasterize.apply(verts, faces, size, cull)  # type: ignore[no-untyped-call]
        return Fragments(*outputs)
    return Fragments(*_fragments(verts, faces, size, cull)[:3])


class _Parts:
    """A batch of images cut into bands of rows where there are more threads than images."""

    def __init__(self, batch: int, height: int) -> None:
        threads = torch.get_num_threads()
        wanted = 1 if batch >= threads else -(-threads // max(batch, 1))
        self.bands = max(1, min(wanted, height // _BAND))
        self.count = batch * self.bands
        self._height = height

    def __getitem__(self, index: int) -> tuple[int, int, int, int]:
        """Item, band, first row and last row + 1."""
        item, band = divmod(index, self.bands)
        edges = band * self._height // self.bands, (band + 1) * self._height // self.bands
        return item, band, *edges


def _fragments(
    verts: Tensor, faces: Tensor, size: tuple[int, int], cull: bool, *, with_bary: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Face index, barycentrics, depth, and the homogeneous points they were found with.

    Without barycentrics they, and depths in float64, are left unwritten.
    """
    batch, count, space = verts.shape
    height, width = size
    points = torch.empty(batch, count, 4, dtype=torch.float64)
    face_id = empty((batch, height, width), torch.int64)
    # one block: the C library then keeps it for the next call, instead of handing back memory
    # whose first touch costs more than the drawing
    pixels = batch * height * width
    block = empty((4 * pixels,), verts.dtype).numpy()
    bary = torch.from_numpy(block[: 3 * pixels].reshape(batch, height, width, 3))
    depth = torch.from_numpy(block[3 * pixels :].reshape(batch, height, width))
    # surfaces less than a float32 step apart count as equally deep, whatever the dtype
    double = verts.dtype == torch.float64
    nearest = depth.float() if double else depth
    near = NEAR if space == 4 else _finite(-math.inf)
    if not batch:
        check_indices(faces, count, "faces", padded=True)

    visibility = load_kernels("visibility_kernels")
    barycentrics = load_kernels("barycentric_kernels").barycentrics
    parts = _Parts(batch, height)
    corners, triangles = verts.detach().contiguous().numpy(), faces.numpy()
    points_, face_id_, bary_ = points.numpy(), face_id.numpy(), bary.numpy()
    depth_, nearest_ = depth.numpy(), nearest.numpy()

    def project(item: int) -> None:
        visibility.homogeneous(corners[item], float(height), float(width), points_[item])

    def work(index: int) -> int:
        item, _, top, end = parts[index]
        if parts.bands == 1:
            project(item)
        mesh = triangles if triangles.ndim == 2 else triangles[item]
        bad: int = visibility.visible(
            points_[item], mesh, near, int(cull), top, end, face_id_[item], nearest_[item]
        )
        if not with_bary:
            return bad
        # the nearest depths are the depths already, unless in another precision
        deep = depth_[item] if double else depth_[item, :0]
        barycentrics(points_[item], mesh, top, end, face_id_[item], bary_[item], deep)
        return bad

    if parts.bands > 1:
        for item in range(batch):
            project(item)
    if max(each(work, parts.count), default=-1) >= 0:
        check_indices(faces, count, "faces", padded=True)
    return face_id, bary, depth, points


def _finite(near: float) -> float:
    return max(near, -torch.finfo(torch.float32).max)


class _Rasterize(torch.autograd.Function):
    """Hard visibility, and barycentrics and depth with a hand-written backward pass."""

    @staticmethod
    def forward(
        ctx: Any, verts: Tensor, faces: Tensor, size: tuple[int, int], cull: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        face_id, bary, depth, points = _fragments(verts, faces, size, cull)
        ctx.save_for_backward(verts, faces, face_id, points)
        ctx.mark_non_differentiable(face_id)
        ctx.set_materialize_grads(False)
        return face_id, bary, depth

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, _: Tensor | None, grad_bary: Tensor | None, grad_depth: Tensor | None
    ) -> tuple[Tensor | None, None, None, None]:
        verts, faces, face_id, points = ctx.saved_tensors
        if grad_bary is None and grad_depth is None:
            return None, None, None, None
        batch, height, width = face_id.shape
        empty = verts.new_empty(batch, 0, width, 3)
        by_bary = (empty if grad_bary is None else grad_bary.contiguous()).numpy()
        by_depth = (empty[..., 0] if grad_depth is None else grad_depth).contiguous().numpy()
        parts = _Parts(batch, height)
        # every band sums for itself, so that the order of the sums is always the same
        shared = 0 if parts.bands == 1 else batch
        sums = np.zeros((shared, parts.bands, *points.shape[1:]))
        grad_verts = torch.empty_like(verts, memory_format=torch.contiguous_format)
        points_, face_id_ = points.numpy(), face_id.numpy()
        triangles, slopes = faces.numpy(), grad_verts.numpy()
        fragments_backward = load_kernels("barycentric_kernels").fragments_backward
        homogeneous_backward = load_kernels("visibility_kernels").homogeneous_backward

        def finish(item: int, sums: _Sums) -> None:
            homogeneous_backward(sums, float(height), float(width), slopes[item])

        def work(index: int) -> None:
            item, band, top, end = parts[index]
            own = sums[item, band] if shared else np.zeros(points_.shape[1:])
            fragments_backward(
                points_[item],
                triangles if triangles.ndim == 2 else triangles[item],
                top,
                end,
                face_id_[item],
                by_bary[item],
                by_depth[item],
                own,
            )
            if not shared:
                finish(item, own[None])

        each(work, parts.count)
        for item in range(shared):
            finish(item, sums[item])
        return grad_verts, None, None, None
