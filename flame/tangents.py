"""Tangents: the frame in which a normal map is read."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize


def vertex_tangents(
    verts: Float[Tensor, "N 3"],
    normals: Float[Tensor, "N 3"],
    uv: Float[Tensor, "N 2"],
    triangles: Int[Tensor, "F 3"],
) -> Float[Tensor, "N 4"]:
    """Unit tangents toward growing u, and the bitangent's sign: cross(normal, tangent) * sign.

    These are MikkTSpace's (Mikkelsen 2008, the space in which baking programs and glTF agree) for
    vertices already split at UV seams: triangles' tangents, laid into the plane of the vertex'
    normal and weighted by the angle there. `uv` has its origin at the bottom left. Vertices at
    which islands of mirrored UV meet without a seam get the sign of the larger angle; vertices
    whose triangles have no area in UV get any tangent at right angles to the normal.
    """
    corners = verts.double()[triangles]  # [F, corner, 3]
    chart = uv.double()[triangles]
    edges = corners[:, 1:] - corners[:, :1]  # [F, 2, 3]
    (du1, dv1), (du2, dv2) = (chart[:, 1:] - chart[:, :1]).permute(1, 2, 0)
    area = du1 * dv2 - du2 * dv1  # twice, signed
    # the u axis, up to length: of dP = P_u du + P_v dv along two edges, solved for P_u
    along_u = (dv2[:, None] * edges[:, 0] - dv1[:, None] * edges[:, 1]) * area.sign()[:, None]

    up = normals.double()[triangles]
    ahead = _into_plane(corners.roll(-1, dims=1) - corners, up)
    behind = _into_plane(corners.roll(1, dims=1) - corners, up)
    angle = torch.atan2(torch.linalg.cross(ahead, behind).norm(dim=-1), (ahead * behind).sum(-1))
    angle = angle * (area != 0)[:, None]
    tangent = _into_plane(along_u[:, None].expand_as(corners), up) * angle[..., None]

    rows = triangles.reshape(-1)
    total = torch.zeros(len(verts), 3, dtype=torch.float64)
    total.index_add_(0, rows, tangent.reshape(-1, 3))
    balance = torch.zeros(len(verts), dtype=torch.float64)
    balance.index_add_(0, rows, (angle * area.sign()[:, None]).reshape(-1))

    # across the axis that the normal leans on least
    axis = torch.eye(3, dtype=torch.float64)[normals.abs().argmin(dim=-1)]
    fallback = normalize(torch.linalg.cross(normals.double(), axis), dim=-1)
    known = total.norm(dim=-1, keepdim=True) > 1e-9
    unit = torch.where(known, normalize(total, dim=-1), fallback)
    sign = torch.where(balance < 0, -1.0, 1.0)
    return torch.cat([unit, sign[:, None]], dim=-1).to(verts.dtype)


def _into_plane(vectors: Float[Tensor, "F 3 3"], up: Float[Tensor, "F 3 3"]) -> Tensor:
    """Unit vectors along the parts of `vectors` at right angles to the unit vectors `up`."""
    return normalize(vectors - (vectors * up).sum(-1, keepdim=True) * up, dim=-1, eps=1e-30)


def perturb_normals(
    normals: Float[Tensor, "*N 3"],
    tangents: Float[Tensor, "*N 4"],
    normal_map: Float[Tensor, "*N 3"],
) -> Float[Tensor, "*N 3"]:
    """Unit normals bent by samples of a normal map, as glTF reads it; differentiable.

    normals and tangents (with the bitangent's sign) may come from interpolation; normals are made
    unit and tangents laid at right angles to them. normal_map holds values 0..1 that stand for
    -1..1 along tangent, bitangent and normal; (0.5, 0.5, 1) leaves the normal as it is.
    """
    up = normalize(normals, dim=-1)
    along, sign = tangents[..., :3], tangents[..., 3:]
    along = normalize(along - (along * up).sum(-1, keepdim=True) * up, dim=-1)
    across = torch.linalg.cross(up, along) * torch.where(sign < 0, -1.0, 1.0).to(sign)
    x, y, z = (normal_map * 2 - 1)[..., None].unbind(-2)
    return normalize(x * along + y * across + z * up, dim=-1)
