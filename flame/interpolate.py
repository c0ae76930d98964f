"""Vertex attributes over the image."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame.raster import Fragments, check_faces, check_indices, each, empty, load_kernels


def interpolate(
    attributes: Float[Tensor, "*B V C"],
    faces: Int[Tensor, "F 3"] | Int[Tensor, "_ F 3"],
    fragments: Fragments,
) -> Float[Tensor, "_ H W C"]:
    """Attributes at every pixel, zero in the background; pass UV faces for attributes of UVs.

    Attributes without a batch axis, and faces without one, are shared by all images.
    Differentiable in the attributes and, through the barycentrics, in the vertices.
    """
    batch = len(fragments.face_id)
    if attributes.ndim not in (2, 3) or (
        attributes.ndim == 3 and len(attributes) not in (1, batch)
    ):
        raise ValueError(
            f"attributes have the shape {tuple(attributes.shape)}; pass [V, C] or [{batch}, V, C]"
        )
    check_faces(faces, batch, "faces")
    if fragments.bary.shape[:3] != fragments.face_id.shape:
        raise ValueError(
            f"fragments hold face indices of {tuple(fragments.face_id.shape)} pixels and "
            f"barycentrics of {tuple(fragments.bary.shape[:3])}"
        )
    attributes = attributes.expand(batch, *attributes.shape[-2:])
    if attributes.device.type != "cpu" or attributes.dtype not in (torch.float32, torch.float64):
        return interpolate_reference(attributes, faces, fragments)
    image: Tensor = _Interpolate.apply(  # type: ignore[no-untyped-call]
        attributes,
        faces.long().contiguous(),
        fragments.face_id.long(),
        fragments.bary.to(attributes.dtype),
    )
    return image


def interpolate_reference(
    attributes: Float[Tensor, "B V C"],
    faces: Int[Tensor, "F 3"] | Int[Tensor, "B F 3"],
    fragments: Fragments,
) -> Float[Tensor, "B H W C"]:
    """What `interpolate` returns, in plain torch operations on any device."""
    batch, verts, channels = attributes.shape
    check_indices(faces, verts, "faces", padded=True)
    if not faces.shape[-2]:
        return attributes.new_zeros(*fragments.face_id.shape, channels)
    item = torch.arange(batch, device=faces.device)[:, None, None]
    lists = faces.long().expand(batch, *faces.shape[-2:])
    index = lists[item, fragments.face_id.clamp(min=0)].clamp(min=0)  # [B, H, W, 3]
    index = index + item[..., None] * verts
    corners = attributes.reshape(-1, channels).index_select(0, index.reshape(-1))
    return (corners.view(*index.shape, channels) * fragments.bary[..., None]).sum(-2)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, attributes: Tensor, faces: Tensor, face_id: Tensor, bary: Tensor
    ) -> Tensor:
        attributes, bary = attributes.detach().contiguous(), bary.detach().contiguous()
        face_id = face_id.contiguous()
        out = empty((*face_id.shape, attributes.shape[-1]), attributes.dtype)
        kernel = load_kernels("barycentric_kernels").interpolate
        from_, to = attributes.numpy(), out.numpy()
        faces_, face_id_, bary_ = faces.numpy(), face_id.numpy(), bary.numpy()

        def work(item: int) -> int:
            mesh = faces_ if faces_.ndim == 2 else faces_[item]
            bad: int = kernel(from_[item], mesh, face_id_[item], bary_[item], to[item])
            return bad

        bad = max(each(work, len(face_id)), default=-1)
        if bad >= 0:
            check_indices(faces, attributes.shape[1], "faces", padded=True)
            raise ValueError(
                f"fragments see face {bad}, but there are {faces.shape[-2]} faces; pass the faces "
                "that were rasterized"
            )
        ctx.save_for_backward(attributes, faces, face_id, bary)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        attributes, faces, face_id, bary = ctx.saved_tensors
        by_attributes, by_bary = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
        grad_attributes = torch.zeros_like(attributes if by_attributes else attributes[:, :0])
        grad_bary = empty((bary if by_bary else bary[:, :0]).shape, bary.dtype)
        kernel = load_kernels("barycentric_kernels").interpolate_backward
        from_, bary_, slope = attributes.numpy(), bary.numpy(), grad_out.contiguous().numpy()
        faces_, face_id_ = faces.numpy(), face_id.numpy()
        to_attributes, to_bary = grad_attributes.numpy(), grad_bary.numpy()

        def work(item: int) -> None:
            mesh = faces_ if faces_.ndim == 2 else faces_[item]
            kernel(
                from_[item],
                mesh,
                face_id_[item],
                bary_[item],
                slope[item],
                to_attributes[item],
                to_bary[item],
            )

        each(work, len(face_id))
        return (
            grad_attributes if by_attributes else None,
            None,
            None,
            grad_bary if by_bary else None,
        )
