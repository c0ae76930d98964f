"""How much of the sky each vertex of a mesh sees."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame.normals import vertex_normals
from flame.raster import check_indices
from flame.shadow import depth_map, light_matrix, seen_from_light


def ambient_occlusion(
    verts: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    directions: int = 64,
    side: int = 256,
) -> Float[Tensor, " V"]:
    """The cosine-weighted share of a bright sky all around that each vertex sees, 0..1.

    Hidden-surface maps from evenly spread directions; some milliseconds each, once per head.
    """
    verts = verts.detach().float().contiguous()
    check_indices(faces, len(verts), "faces")
    corners = faces.int().contiguous().numpy()
    normals = vertex_normals(verts[None], faces.long())[0]
    seen, total = torch.zeros(len(verts)), torch.full((len(verts),), 1e-6)
    for toward in _even_directions(directions):
        facing = (normals @ toward).clamp(min=0)
        to_light = light_matrix(verts, toward, side)
        texel = 1 / to_light[0, :3].norm().float()
        depth = depth_map(seen_from_light(verts, to_light), corners, side)
        # step off the surface by more than a texel, or it would hide itself
        origin = verts + texel * (1.5 * normals + 1.0 * toward)
        place = seen_from_light(origin, to_light)
        column = place[:, 0].long().clamp(0, side - 1)
        row = place[:, 1].long().clamp(0, side - 1)
        lit = place[:, 2] <= depth[row, column]
        seen += facing * lit
        total += facing
    return (seen / total).clamp(0, 1)


def _even_directions(count: int) -> Float[Tensor, "N 3"]:
    """Directions spread evenly over the sphere (a Fibonacci spiral)."""
    step = torch.arange(count) + 0.5
    y = 1 - 2 * step / count
    turn = step * math.pi * (3 - math.sqrt(5))
    ring = (1 - y * y).sqrt()
    return torch.stack([ring * turn.cos(), y, ring * turn.sin()], dim=-1)
