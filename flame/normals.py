"""Normals of faces and vertices."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame.raster import check_indices, each, load_kernels

# areas may be as small as square micrometres: DECA's eps of 1e-6 would show there
_LEAST = 1e-20


def face_normals(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"]
) -> Float[Tensor, "B F 3"]:
    """Outward normals, not normalised: their length is twice the face's area."""
    # index_select adds its gradients in order, where verts[:, faces] would not on many threads
    corners = verts.index_select(1, faces.reshape(-1)).view(len(verts), len(faces), 3, 3)
    first, second, third = corners.unbind(2)
    normals: Tensor = torch.linalg.cross(second - first, third - first)
    return normals


def vertex_normals(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"]
) -> Float[Tensor, "B V 3"]:
    """Unit normals: the area-weighted mean over a vertex's faces, zero where it has none.

    Where a vertex's faces cancel it gets no gradient.
    """
    if verts.device.type != "cpu" or verts.dtype not in (torch.float32, torch.float64):
        return vertex_normals_reference(verts, faces)
    check_indices(faces, verts.shape[1], "faces")
    normals: Tensor = _VertexNormals.apply(  # type: ignore[no-untyped-call]
        verts, faces.long().contiguous()
    )
    return normals


def vertex_normals_reference(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"]
) -> Float[Tensor, "B V 3"]:
    """What `vertex_normals` returns, in plain torch operations on any device."""
    normals = face_normals(verts, faces).repeat_interleave(3, dim=1)
    total = torch.zeros_like(verts).index_add(1, faces.reshape(-1), normals)
    return torch.nn.functional.normalize(total, dim=-1, eps=_LEAST)


class _VertexNormals(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, verts: Tensor, faces: Tensor) -> Tensor:
        kernels = load_kernels("normal_kernels")
        normals = torch.empty_like(verts, memory_format=torch.contiguous_format)
        total = torch.zeros(verts.shape, dtype=torch.float64)
        points, triangles = verts.detach().contiguous().numpy(), faces.numpy()
        sums, units = total.numpy(), normals.numpy()

        def work(item: int) -> None:
            kernels.add_faces(points[item], triangles, sums[item])
            kernels.unit(sums[item], _LEAST, units[item])

        each(work, len(verts))
        ctx.save_for_backward(verts, faces, total)
        return normals

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_normals: Tensor) -> tuple[Tensor, None]:
        verts, faces, total = ctx.saved_tensors
        kernels = load_kernels("normal_kernels")
        grad_verts = torch.zeros(verts.shape, dtype=torch.float64)
        sums = total.clone().numpy()
        points, triangles = verts.contiguous().numpy(), faces.numpy()
        incoming, outgoing = grad_normals.contiguous().numpy(), grad_verts.numpy()
        each(
            lambda item: kernels.vertex_normals_backward(
                points[item], triangles, sums[item], _LEAST, incoming[item], outgoing[item]
            ),
            len(verts),
        )
        return grad_verts.to(verts.dtype), None
