"""Vertex attributes over the image, and antialiased silhouettes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame.camera import clip_to_screen
from flame.raster import Fragments, check_indices, each, kernels


def interpolate(
    attributes: Float[Tensor, "*B V C"],
    faces: Int[Tensor, "F 3"],
    fragments: Fragments,
) -> Float[Tensor, "B H W C"]:
    """Attributes at every pixel, zero in the background; pass UV faces for attributes of UVs.

    Attributes without a batch axis are shared by all images. Differentiable in the attributes and,
    through the barycentrics, in the vertices.
    """
    batch = len(fragments.face_id)
    check_indices(faces, attributes.shape[-2], "faces")
    attributes = attributes.expand(batch, *attributes.shape[-2:])
    if attributes.device.type != "cpu" or attributes.dtype not in (torch.float32, torch.float64):
        return interpolate_reference(attributes, faces, fragments)
    bary = fragments.bary.to(attributes.dtype)
    image: Tensor = _Interpolate.apply(  # type: ignore[no-untyped-call]
        attributes, faces.long().contiguous(), fragments.face_id, bary
    )
    return image


def interpolate_reference(
    attributes: Float[Tensor, "B V C"],
    faces: Int[Tensor, "F 3"],
    fragments: Fragments,
) -> Float[Tensor, "B H W C"]:
    """What `interpolate` returns, in plain torch operations on any device."""
    batch, verts, channels = attributes.shape
    if not len(faces):
        return attributes.new_zeros(*fragments.face_id.shape, channels)
    offset = torch.arange(batch, device=faces.device)[:, None, None, None] * verts
    index = faces.long()[fragments.face_id.clamp(min=0)] + offset  # [B, H, W, 3]
    corners = attributes.reshape(-1, channels).index_select(0, index.reshape(-1))
    return (corners.view(*index.shape, channels) * fragments.bary[..., None]).sum(-2)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, attributes: Tensor, faces: Tensor, face_id: Tensor, bary: Tensor
    ) -> Tensor:
        attributes, bary = attributes.detach().contiguous(), bary.detach().contiguous()
        out = attributes.new_empty(*face_id.shape, attributes.shape[-1])
        each(
            lambda item: kernels().interpolate(
                attributes[item].numpy(),
                faces.numpy(),
                face_id[item].numpy(),
                bary[item].numpy(),
                out[item].numpy(),
            ),
            len(face_id),
        )
        ctx.save_for_backward(attributes, faces, face_id, bary)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None, None, Tensor]:
        attributes, faces, face_id, bary = ctx.saved_tensors
        grad_out = grad_out.contiguous()
        grad_attributes, grad_bary = torch.zeros_like(attributes), torch.zeros_like(bary)
        each(
            lambda item: kernels().interpolate_backward(
                attributes[item].numpy(),
                faces.numpy(),
                face_id[item].numpy(),
                bary[item].numpy(),
                grad_out[item].numpy(),
                grad_attributes[item].numpy(),
                grad_bary[item].numpy(),
            ),
            len(face_id),
        )
        return grad_attributes, None, None, grad_bary


def opposite_verts(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "F 3"]:
    """Per face and corner k, the far vertex of the face across the edge opposite corner k.

    -1 where the edge belongs to one face only or to more than two.
    """
    ends = torch.stack([faces[:, [1, 2, 0]], faces[:, [2, 0, 1]]], dim=-1).long().reshape(-1, 2)
    ends = ends.sort(dim=1).values
    key = ends[:, 0] * (int(faces.max()) + 1 if len(faces) else 1) + ends[:, 1]
    _, edge, count = torch.unique(key, return_inverse=True, return_counts=True)
    order = torch.argsort(edge, stable=True)
    first = torch.cumsum(count, 0) - count
    pair = first[count == 2]
    far = torch.full_like(key, -1)
    one, other = order[pair], order[pair + 1]
    corners = faces.long().reshape(-1)
    far[one], far[other] = corners[other], corners[one]
    return far.view(-1, 3)


def antialias(
    image: Float[Tensor, "B C H W"],
    fragments: Fragments,
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"],
    opposite: Int[Tensor, "F 3"] | None = None,
) -> Float[Tensor, "B C H W"]:
    """The image with silhouette edges blended by coverage (Laine et al. 2020, section 3.4).

    Each pair of neighbouring pixels that see different faces is searched for a silhouette edge of
    the nearer face between their centres; the pixel that the edge cuts takes on some of the other's
    colour. This gives the vertices gradients through coverage. verts are those that were
    rasterized (screen or clip space); pass `opposite_verts(faces)` where it is at hand.
    """
    size = image.shape[2], image.shape[3]
    screen = clip_to_screen(verts, size) if verts.shape[-1] == 4 else verts
    far = opposite_verts(faces) if opposite is None else opposite
    pixels = image.movedim(1, -1)  # [B, H, W, C]
    total = pixels
    for axis in (0, 1):
        total = total + _blend_pairs(pixels, fragments, screen, faces.long(), far, axis)
    return total.movedim(-1, 1)


def _blend_pairs(
    pixels: Tensor, fragments: Fragments, screen: Tensor, faces: Tensor, far: Tensor, axis: int
) -> Tensor:
    """What neighbours along an axis (0 is x, 1 is y) add to each pixel."""
    dim = 2 - axis
    length = pixels.shape[dim]
    one = fragments.face_id.narrow(dim, 0, length - 1)
    two = fragments.face_id.narrow(dim, 1, length - 1)
    item, row, column = torch.nonzero(one != two, as_tuple=True)
    next_row, next_column = (row + axis, column + 1 - axis)
    depth = fragments.depth.detach()
    swap = depth[item, next_row, next_column] < depth[item, row, column]
    near = torch.stack([torch.where(swap, next_row, row), torch.where(swap, next_column, column)])
    other = torch.stack([torch.where(swap, row, next_row), torch.where(swap, column, next_column)])

    face = fragments.face_id[item, near[0], near[1]]
    corners = _select(screen, item[:, None], faces[face])[..., :2]  # [N, 3, 2]
    centre = torch.stack([near[1], near[0]], dim=-1).to(screen.dtype) + 0.5
    step = torch.where(swap, -1.0, 1.0).to(screen.dtype)
    # along the pair's axis, in the direction of the other pixel, and across it
    ahead = (corners[..., axis] - centre[:, None, axis]) * step[:, None]
    across = corners[..., 1 - axis] - centre[:, None, 1 - axis]

    after, before = [1, 2, 0], [2, 0, 1]
    start, end = across[:, after], across[:, before]
    # half-open, so that a corner on the line belongs to one of its two edges
    cuts = (start < 0) != (end < 0)
    slope = torch.where(cuts, start / torch.where(cuts, start - end, 1), 0)
    reach = ahead[:, after] + slope * (ahead[:, before] - ahead[:, after])  # [N, 3]
    within = (reach >= 0) & (reach < 1)
    cuts = cuts & within & _is_silhouette(corners, screen, item, face, far)
    found = cuts.any(1)
    which = torch.where(cuts, reach, -1.0).argmax(1)
    reach = reach.gather(1, which[:, None])[:, 0]

    item, near, other, reach = item[found], near[:, found], other[:, found], reach[found]
    covered = reach > 0.5  # the near face reaches into the other pixel
    target = torch.where(covered, other, near)
    source = torch.where(covered, near, other)
    difference = pixels[item, source[0], source[1]] - pixels[item, target[0], target[1]]
    change = (reach - 0.5).abs()[:, None] * difference
    height, width = pixels.shape[1:3]
    flat = (item * height + target[0]) * width + target[1]
    added = pixels.new_zeros(pixels.shape).flatten(0, 2).index_add(0, flat, change)
    return added.view(pixels.shape)


def _is_silhouette(
    corners: Tensor, screen: Tensor, item: Tensor, face: Tensor, far: Tensor
) -> Tensor:
    """Per edge opposite a corner: nothing lies beyond it, on the screen, in the mesh [N, 3]."""
    with torch.no_grad():
        beyond = far[face]
        there = _select(screen, item[:, None], beyond.clamp(min=0))[..., :2]
        start, end = corners[:, [1, 2, 0]], corners[:, [2, 0, 1]]
        inner = _side(start, end, corners)
        outer = _side(start, end, there)
        return (beyond < 0) | (inner * outer > 0)


def _side(start: Tensor, end: Tensor, point: Tensor) -> Tensor:
    along, to = end - start, point - start
    return along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]


def _select(screen: Tensor, item: Tensor, vertex: Tensor) -> Tensor:
    """screen[item, vertex], whose gradients are added in a fixed order."""
    index = (item * screen.shape[1] + vertex).reshape(-1)
    return screen.flatten(0, 1).index_select(0, index).view(*vertex.shape, screen.shape[-1])
