"""Silhouette edges blended by coverage, which gives vertices gradients where a surface ends.

Two neighbouring pixels that see different faces may have a silhouette edge between their centres:
one at which the surface turns back on the screen, has a border, or branches. The pixel that the
edge cuts takes on some of the other's colour (Laine et al. 2020, section 3.4). An edge blends along
rows where it is upright and along columns where it lies, never both: so a straight edge covers each
row or column exactly as far as it reaches, and coverage has the gradient of the area.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame.antialias_reference import antialias_reference, opposite_corners_reference
from flame.fragments import Fragments, check_indices, homogeneous_pixels
from flame.raster import each, load_kernels, rasterize, visible_faces


def opposite_corners(faces: Int[Tensor, "*B F 3"]) -> Int[Tensor, "*B F 3"]:
    """Per face and corner, the corner across the opposite edge, as an index into faces.ravel().

    -1 where the edge belongs to one face only or to more than two. Faces that name a vertex twice,
    and rows of padding, cover nothing and count for nothing. A batch has one table an item.
    """
    if faces.ndim == 3:
        tables = [opposite_corners(item) for item in faces]
        return torch.stack(tables) if tables else faces.long()
    if faces.device.type != "cpu":
        return opposite_corners_reference(faces)
    across = load_kernels("antialias_kernels").opposite_corners(faces.long().contiguous().numpy())
    return torch.from_numpy(across)


def antialias(
    image: Float[Tensor, "B C H W"],
    fragments: Fragments,
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"] | Int[Tensor, "B F 3"],
    opposite: Int[Tensor, "F 3"] | Int[Tensor, "B F 3"] | None = None,
) -> Float[Tensor, "B C H W"]:
    """The image with silhouette edges blended, differentiable in image and verts.

    fragments and verts (screen or clip space) are those of the rasterization; pass
    `opposite_corners(faces)` where it is at hand. Where edges ask for more of a pixel than there
    is, they share it, so colours stay in the range of those mixed. Faces that reach behind the eye
    are not blended.
    """
    _check(image, fragments, verts, faces, opposite)
    opposite = opposite_corners(faces) if opposite is None else opposite
    if image.device.type != "cpu" or image.dtype not in (torch.float32, torch.float64):
        return antialias_reference(image, fragments, verts, faces, opposite)
    depth = fragments.depth.detach().float().contiguous()
    return _blend(image, fragments.face_id, depth, verts, faces, opposite)


def silhouette(
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"] | Int[Tensor, "B F 3"],
    size: tuple[int, int],
    opposite: Int[Tensor, "F 3"] | Int[Tensor, "B F 3"] | None = None,
) -> Float[Tensor, "B 1 H W"]:
    """How much of each pixel of images of size (H, W) is covered, 0..1, differentiable in verts.

    verts are in screen space or in clip space, as for `rasterize`; pass `opposite_corners(faces)`
    where it is at hand.
    """
    _check_opposite(faces, opposite)
    opposite = opposite_corners(faces) if opposite is None else opposite
    if verts.device.type != "cpu" or verts.dtype not in (torch.float32, torch.float64):
        fragments = rasterize(verts.detach(), faces, size)
        mask = (fragments.face_id >= 0).to(verts.dtype)[:, None]
        return antialias_reference(mask, fragments, verts, faces, opposite)
    face_id = visible_faces(verts, faces, size)
    mask = (face_id >= 0).to(verts.dtype)[:, None]
    return _blend(mask, face_id, None, verts, faces, opposite)


def _blend(
    image: Tensor,
    face_id: Tensor,
    depth: Tensor | None,
    verts: Tensor,
    faces: Tensor,
    opposite: Tensor,
) -> Tensor:
    """`antialias` by the compiled kernels; without depth, against the background alone."""
    points = homogeneous_pixels(verts, (image.shape[2], image.shape[3]))
    blended: Tensor = _Antialias.apply(  # type: ignore[no-untyped-call]
        image,
        points,
        face_id.long().contiguous(),
        depth,
        faces.long().contiguous(),
        opposite.long().contiguous(),
    )
    return blended


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        points: Tensor,
        face_id: Tensor,
        depth: Tensor | None,
        faces: Tensor,
        opposite: Tensor,
    ) -> Tensor:
        image, points = image.detach(), points.detach().contiguous()
        kernels = load_kernels("antialias_kernels")
        outline = torch.zeros(0, 0)

        def find(item: int) -> tuple[Any, Any]:
            found: tuple[Any, Any] = kernels.find(
                points[item].numpy(),
                (faces if faces.ndim == 2 else faces[item]).numpy(),
                (opposite if opposite.ndim == 2 else opposite[item]).numpy(),
                face_id[item].numpy(),
                (outline if depth is None else depth[item]).numpy(),
                np.zeros(face_id[0].numel()),
            )
            return found

        pairs = each(find, len(image))
        out = image.clone()
        each(
            lambda item: kernels.blend(image[item].numpy(), *pairs[item], out[item].numpy()),
            len(image),
        )
        ctx.save_for_backward(image, points)
        ctx.pairs = pairs
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        image, points = ctx.saved_tensors
        kernels = load_kernels("antialias_kernels")
        grad_image = grad_out.clone() if ctx.needs_input_grad[0] else None
        grad_points = torch.zeros_like(points) if ctx.needs_input_grad[1] else None

        def work(item: int) -> None:
            grad = grad_out[item].numpy()
            if grad_image is not None:
                kernels.blend_image_backward(grad, *ctx.pairs[item], grad_image[item].numpy())
            if grad_points is not None:
                kernels.blend_points_backward(
                    grad,
                    image[item].numpy(),
                    *ctx.pairs[item],
                    points[item].numpy(),
                    np.zeros(image[0, 0].numel()),
                    grad_points[item].numpy(),
                )

        each(work, len(image))
        return grad_image, grad_points, None, None, None, None


def _check(
    image: Tensor, fragments: Fragments, verts: Tensor, faces: Tensor, opposite: Tensor | None
) -> None:
    shape = (len(verts), *image.shape[2:])
    if len(image) != len(verts) or fragments.face_id.shape != shape:
        raise ValueError(
            f"image is {tuple(image.shape)}, verts are of {len(verts)} items and fragments of "
            f"{tuple(fragments.face_id.shape)} pixels; pass the three of one rasterization"
        )
    check_indices(faces, verts.shape[1], "faces", padded=True)
    last = int(fragments.face_id.max()) if fragments.face_id.numel() else -1
    if last >= faces.shape[-2]:
        raise ValueError(
            f"fragments see face {last}, but there are {faces.shape[-2]} faces; "
            "pass those that were rasterized"
        )
    _check_opposite(faces, opposite)


def _check_opposite(faces: Tensor, opposite: Tensor | None) -> None:
    if opposite is None or (opposite.shape == faces.shape and opposite.numel() == 0):
        return
    if opposite.shape != faces.shape or int(opposite.max()) >= 3 * faces.shape[-2]:
        raise ValueError(
            f"opposite is a table of shape {tuple(opposite.shape)} that is not of these faces "
            f"{tuple(faces.shape)}; pass opposite_corners(faces)"
        )
