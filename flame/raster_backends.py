"""Other projects' rasterizers behind ours: pytorch3d and nvdiffrast, where they are installed.

Both are given the same triangles in their own conventions and give back our `Fragments`. What they
promise less of than ours: each decides coverage in its own arithmetic, in float32 or on a grid of
subpixels, so that pixels on an edge and depths that are equal may go to another face.
"""

from __future__ import annotations

import functools
import importlib
import math
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flame.fragments import Fragments, homogeneous_pixels

_MOST_TRIANGLES = 2**24  # nvdiffrast counts triangles in float32


def rasterize_pytorch3d(
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"] | Int[Tensor, "B F 3"],
    size: tuple[int, int],
    cull: bool = False,
) -> Fragments:
    """What `flame.raster.rasterize` returns, by `pytorch3d.renderer.mesh.rasterize_meshes`.

    Gradients are pytorch3d's, through barycentrics that are linear on the screen and its depth.
    It works in float32, without the top-left rule and without a rule for equal depths: a centre on
    a shared edge may be seen by either face or by none. Faces with a corner behind the camera are
    dropped whole, as it cannot clip them here, and so are ones whose area is below 1e-8 of its
    normalized units. Raises ValueError where pytorch3d is not installed.
    """
    meshes = _load("pytorch3d.structures", "pytorch3d")
    renderer = _load("pytorch3d.renderer.mesh.rasterize_meshes", "pytorch3d")
    height, width = size
    points = homogeneous_pixels(verts, size)
    faces = faces.long().expand(len(verts), -1, 3)
    in_front = points[..., 3] > 0
    usable = _usable(points, faces, cull) & _at_corners(in_front[..., None], faces).all(-2)[..., 0]
    if not usable.any():
        return _background(verts, size)
    # what no face uses may be NaN, whose gradient would be NaN even where it is multiplied by 0
    needed = (points.isfinite().all(-1) & in_front)[..., None]
    x, y, z, w = torch.where(needed, points, 1.0).unbind(-1)
    x, y, z = x / w, y / w, z / w
    # what has z < 0 it drops: in clip space what is before the near plane, else nothing
    start = -1.0 if verts.shape[-1] == 4 else _below(z.detach(), needed[..., 0])
    # x points left and y up, and the shorter side of the image is 2 long
    short = min(size)
    seen = torch.stack([(width - 2 * x) / short, (height - 2 * y) / short, z - start], dim=-1)
    mesh = meshes.Meshes(
        verts=list(seen.float()),
        faces=[own[kept] for own, kept in zip(faces, usable, strict=True)],
    )
    packed, zbuf, linear, _ = renderer.rasterize_meshes(
        mesh,
        image_size=size,
        blur_radius=0.0,
        faces_per_pixel=1,
        perspective_correct=False,  # depth is z/w, which is linear on the screen
        cull_backfaces=False,  # done above
    )
    face_id = _unpacked(packed[..., 0], usable)
    hit = face_id >= 0
    depth = torch.where(hit, zbuf[..., 0].double() + start, math.inf)
    bary = torch.where(hit[..., None], linear[..., 0, :].double(), 0.0)
    if verts.shape[-1] == 4:
        shares = bary / torch.where(hit[..., None], _at_pixels(w, faces, face_id), 1.0)
        bary = shares / torch.where(hit, shares.sum(-1), 1.0)[..., None]
    return Fragments(face_id, bary.to(verts.dtype), depth.to(verts.dtype))


def rasterize_nvdiffrast(
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"] | Int[Tensor, "B F 3"],
    size: tuple[int, int],
    cull: bool = False,
) -> Fragments:
    """What `flame.raster.rasterize` returns, by `nvdiffrast.torch.rasterize` on a CUDA device.

    Gradients of barycentrics are nvdiffrast's; depth is interpolated from them. Corners are
    snapped to its grid of subpixels, so that pixels along edges may differ from ours; of equal
    depths it promises no order. A face that reaches behind the camera is clipped where it is
    deeper than every corner before the camera, which a pinhole's z and w never make it. Raises
    ValueError where nvdiffrast is not installed, verts are not on a CUDA device, or the batch has
    2^24 triangles or more.
    """
    nvdiffrast = _load("nvdiffrast.torch", "nvdiffrast")
    if verts.device.type != "cuda":
        raise ValueError(
            f"verts are on {verts.device}; backend='nvdiffrast' needs a CUDA device: "
            "move verts and faces with .to('cuda'), or use backend='auto'"
        )
    return _by_nvdiffrast(nvdiffrast, verts, faces, size, cull)


def _by_nvdiffrast(
    nvdiffrast: ModuleType, verts: Tensor, faces: Tensor, size: tuple[int, int], cull: bool
) -> Fragments:
    batch, count = verts.shape[:2]
    points = homogeneous_pixels(verts, size)
    faces = faces.long().expand(batch, -1, 3)
    usable = _usable(points, faces, cull)
    kept = usable.sum(-1)
    total = int(kept.sum())
    if not total:
        return _background(verts, size)
    if total >= _MOST_TRIANGLES:
        raise ValueError(
            f"the batch has {total} triangles, nvdiffrast counts to {_MOST_TRIANGLES}; "
            "rasterize fewer items at once"
        )
    clip = _clip_space(verts, size)
    first = torch.arange(batch, device=faces.device)[:, None, None] * count
    # different meshes of a batch are ranges of one list; the ranges are read on the CPU
    ranges = torch.stack([kept.cumsum(0) - kept, kept], dim=-1).int().cpu()
    raster, _ = nvdiffrast.rasterize(
        _context(nvdiffrast, verts.device),
        clip.reshape(-1, 4).float().contiguous(),
        (faces + first)[usable].int().contiguous(),
        resolution=list(size),
        ranges=ranges,
        grad_db=False,
    )
    raster = raster.flip(1)  # its first row is the image's lowest
    face_id = _unpacked(raster[..., 3].detach().round().long() - 1, usable)
    hit = face_id >= 0
    u, v = raster[..., 0].double(), raster[..., 1].double()
    bary = torch.where(hit[..., None], torch.stack([u, v, 1 - u - v], dim=-1), 0.0)
    # its own z/w has no gradient
    z = (bary * _at_pixels(points[..., 2], faces, face_id)).sum(-1)
    w = (bary * _at_pixels(points[..., 3], faces, face_id)).sum(-1)
    depth = torch.where(hit, z / torch.where(hit, w, 1.0), math.inf)
    return Fragments(face_id, bary.to(verts.dtype), depth.to(verts.dtype))


def _below(z: Tensor, known: Tensor) -> float:
    """A depth that is a little less than all the known ones."""
    low, high = float(z[known].min()), float(z[known].max())
    return low - max(high - low, abs(low), 1e-6) / 100


def _clip_space(verts: Tensor, size: tuple[int, int]) -> Tensor:
    """Vertices in clip space with every depth that we show within -w..w, beyond which it clips."""
    points = verts.double()
    finite = points.isfinite().all(-1)
    points = torch.where(finite[..., None], points, 0.0)  # as in rasterize_pytorch3d
    if points.shape[-1] == 4:
        x, y, z, w = points.unbind(-1)
        front = w > 0
        far = torch.where(front, z / torch.where(front, w, 1.0), -1.0).amax().detach()
        # -w stays where it is, and the farthest corner comes to lie at w
        scale = torch.where(far > 1, 2 / (far + 1), 1.0)
        return torch.stack([x, y, scale * z + (scale - 1) * w, w], dim=-1)
    height, width = size
    x, y, z = points.unbind(-1)
    low = torch.where(finite, z, math.inf).amin().detach()
    span = torch.where(finite, z, -math.inf).amax().detach() - low
    depth = (z - low) / torch.where(span > 0, span, 1.0) * 1.8 - 0.9
    return torch.stack([2 * x / width - 1, 1 - 2 * y / height, depth, torch.ones_like(x)], dim=-1)


@functools.cache
def _context(nvdiffrast: Any, device: torch.device) -> Any:
    # holds the device's buffers, which are costly to make anew for every image
    return nvdiffrast.RasterizeCudaContext(device=device)


def _load(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"backend={package!r} needs the package {package}, which cannot be imported "
            f"({error}); install it, or use backend='auto'"
        ) from error


def _usable(points: Tensor, faces: Tensor, cull: bool) -> Bool[Tensor, "B F"]:
    """Faces that may be seen: not padding, degenerate, NaN, behind the camera, or culled."""
    corners = _at_corners(points.detach(), faces)  # [B, F, 3, 4]
    x, y, _, w = corners.unbind(-1)
    after, before = [1, 2, 0], [2, 0, 1]
    det = (w * (x[..., after] * y[..., before] - x[..., before] * y[..., after])).sum(-1)
    usable = (faces >= 0).all(-1) & corners.isfinite().all(-1).all(-1)
    usable &= (w > 0).any(-1) & (det != 0) & det.isfinite()
    # y points down on the screen: clockwise faces have a positive determinant
    return usable & (det < 0) if cull else usable


def _at_corners(values: Tensor, faces: Tensor) -> Tensor:
    """Values [B, V, K] at the corners of faces [B, F, 3], as [B, F, 3, K]."""
    item = torch.arange(len(values), device=values.device)[:, None, None]
    return values[item, faces.clamp(min=0)]


def _at_pixels(values: Tensor, faces: Tensor, face_id: Tensor) -> Tensor:
    """Values [B, V] at the corners of each pixel's face, as [B, H, W, 3]; of face 0 where none."""
    item = torch.arange(len(values), device=values.device)[:, None, None]
    corners = faces[item, face_id.clamp(min=0)].clamp(min=0)
    gathered: Tensor = torch.where(values.isfinite(), values, 0.0)[item[..., None], corners]
    return gathered


def _unpacked(packed: Tensor, usable: Tensor) -> Tensor:
    """Face ids within each item, from indices into all items' usable faces one after another."""
    own = usable.nonzero()[:, 1]
    return torch.where(packed >= 0, own[packed.long().clamp(min=0)], -1)


def _background(verts: Tensor, size: tuple[int, int]) -> Fragments:
    shape = (len(verts), *size)
    # tied to the vertices, so that gradients are zeros and not missing
    nothing = verts.flatten()[:0].sum()
    return Fragments(
        torch.full(shape, -1, dtype=torch.int64, device=verts.device),
        verts.new_zeros(*shape, 3) + nothing,
        verts.new_full(shape, math.inf) + nothing,
    )
