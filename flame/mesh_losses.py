"""What makes a triangle mesh smooth and even: Laplacian, edge lengths and neighbouring normals.

All losses are free of units, so that their weights hold for objects of any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame.normals import face_normals
from flame.records import TensorRecord


@dataclass(frozen=True, eq=False)
class Neighbours(TensorRecord):
    """Which vertices share an edge, and which faces."""

    edges: Int[Tensor, "E 2"]  # each edge once, the lower vertex first
    face_pairs: Int[Tensor, "P 2"]  # faces that share an edge
    valence: Int[Tensor, " V"]

    def mean(self, values: Float[Tensor, "V C"]) -> Float[Tensor, "V C"]:
        """The mean of each vertex's neighbours; its own value where it has none."""
        start, end = self.edges.unbind(1)
        total = torch.zeros_like(values).index_add(0, start, values.index_select(0, end))
        total = total.index_add(0, end, values.index_select(0, start))
        alone = (self.valence == 0)[:, None]
        return torch.where(alone, values, total / self.valence.clamp(min=1)[:, None])


def neighbours(faces: Int[Tensor, "F 3"], n_verts: int) -> Neighbours:
    """The edges of a mesh and the faces on both sides of them."""
    half = torch.stack([faces[:, [0, 1, 2]], faces[:, [1, 2, 0]]], dim=-1).reshape(-1, 2)
    half = half.long().sort(dim=1).values
    key, edge, count = torch.unique(
        half[:, 0] * n_verts + half[:, 1], return_inverse=True, return_counts=True
    )
    edges = torch.stack([key // n_verts, key % n_verts], dim=1)
    order = torch.argsort(edge, stable=True) // 3
    first = (torch.cumsum(count, 0) - count)[count == 2]
    pairs = torch.stack([order[first], order[first + 1]], dim=1)
    return Neighbours(edges, pairs, torch.bincount(edges.reshape(-1), minlength=n_verts))


def edge_lengths(verts: Float[Tensor, "V 3"], edges: Int[Tensor, "E 2"]) -> Float[Tensor, " E"]:
    """Lengths with a finite gradient also where an edge has none."""
    ends = verts.index_select(0, edges.reshape(-1)).view(-1, 2, 3)
    return ((ends[:, 0] - ends[:, 1]).square().sum(-1) + 1e-20).sqrt()


def laplacian_loss(verts: Float[Tensor, "V 3"], near: Neighbours) -> Float[Tensor, ""]:
    """Mean squared bending: how much each vertex's offset from its neighbours' mean differs from
    theirs, in mean edge lengths.

    The offset itself would be the loss of a shrinking surface; its difference leaves spheres be.
    """
    length = edge_lengths(verts, near.edges).mean().detach()
    offset = verts - near.mean(verts)
    return (offset - near.mean(offset)).square().sum(-1).mean() / length.square()


def edge_length_loss(verts: Float[Tensor, "V 3"], near: Neighbours) -> Float[Tensor, ""]:
    """Mean squared difference of edge lengths from their mean, in means."""
    lengths = edge_lengths(verts, near.edges)
    return (lengths / lengths.mean().detach() - 1).square().mean()


def normal_loss(
    verts: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], near: Neighbours
) -> Float[Tensor, ""]:
    """Mean of 1 - cos of the angle between neighbouring faces; 0 on a plane, 2 where folded."""
    normals = torch.nn.functional.normalize(face_normals(verts[None], faces)[0], dim=-1, eps=1e-20)
    both = normals.index_select(0, near.face_pairs.reshape(-1)).view(-1, 2, 3)
    return (1 - (both[:, 0] * both[:, 1]).sum(-1)).mean()
