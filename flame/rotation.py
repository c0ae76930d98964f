"""Rotations: axis-angle vectors, matrices, quaternions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def axis_angle_to_matrix(axis_angle: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 3 3"]:
    """Rotation matrices of axis-angle vectors, radians (Rodrigues' formula).

    Exact and differentiable at zero rotation.
    """
    # sin(t)/t and (1 - cos t)/t² are even in t, so they are written in t²: nothing is divided by a
    # norm, and the gradient is finite at rest, where fitting starts.
    squared = axis_angle.square().sum(-1)[..., None, None]
    small = squared < 1e-8
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    sine = torch.where(small, 1 - squared / 6, torch.sin(angle) / angle)
    cosine = torch.where(small, 0.5 - squared / 24, (1 - torch.cos(angle)) / safe)
    cross = skew(axis_angle)
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return identity + sine * cross + cosine * (cross @ cross)


def skew(vectors: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 3 3"]:
    """Cross-product matrices: `skew(a) @ b == cross(a, b)`."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    rows = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1)
    return rows.reshape(*rows.shape[:-1], 3, 3)


def axis_angle_to_quaternion(axis_angle: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 4"]:
    """Unit quaternions (x, y, z, w), the order of glTF, of axis-angle vectors in radians."""
    half = axis_angle / 2
    angle = half.norm(dim=-1, keepdim=True)
    # torch.sinc(x) is sin(pi x)/(pi x), which is exact at zero
    return torch.cat([half * torch.sinc(angle / torch.pi), torch.cos(angle)], dim=-1)


def matrix_to_axis_angle(rotations: Float[Tensor, "*B 3 3"]) -> Float[Tensor, "*B 3"]:
    """Axis-angle vectors of rotation matrices, radians, by the quaternion's largest part.

    Angles are 0..pi; at pi either of the two opposite axes. Differentiable, also at zero rotation.
    """
    m = rotations
    trace = m.diagonal(dim1=-2, dim2=-1).sum(-1)
    diagonal = m.diagonal(dim1=-2, dim2=-1)
    # 4 q_i² for the real part and x, y, z; the largest one is safe to divide by
    squares = torch.cat([1 + trace[..., None], 1 - trace[..., None] + 2 * diagonal], dim=-1)
    antisymmetric = torch.stack(
        [m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], -1
    )
    symmetric = m + m.transpose(-1, -2)
    rows = [torch.cat([squares[..., :1], antisymmetric], dim=-1)]
    for axis in range(3):
        parts = symmetric[..., axis, :].clone()
        parts[..., axis] = squares[..., axis + 1]
        rows.append(torch.cat([antisymmetric[..., axis : axis + 1], parts], dim=-1))
    table = torch.stack(rows, dim=-2)  # [..., 4, 4]: row i is 4 q_i q
    best = squares.argmax(-1, keepdim=True)[..., None].expand(*squares.shape[:-1], 1, 4)
    quaternion = torch.nn.functional.normalize(table.gather(-2, best)[..., 0, :], dim=-1)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    length = quaternion[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(length, quaternion[..., :1])
    return quaternion[..., 1:] * torch.where(length > 1e-7, angle / length.clamp(min=1e-7), 2.0)
