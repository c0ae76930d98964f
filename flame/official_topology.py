"""The published FLAME mesh as a head's topology: parts, mirror map, landmarks, UV."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from flame.embeddings import Embeddings
from flame.texture_space import MeshUv
from flame.topology import Topology

MATERIALS = ("skin", "eyes")
PARTS = ("face", "eye_left", "eye_right")


def official_topology(
    template: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    embeddings: Embeddings,
    uv: MeshUv | None,
) -> Topology:
    """Topology of a published mesh; without a UV layout a cylinder's is made up."""
    parts = torch.from_numpy(_parts(template.double().numpy(), faces.numpy()))
    padding = torch.full((len(faces), 1), -1)
    layout = uv or _cylinder(template, faces)
    fixed, contour = embeddings.fixed, embeddings.contour
    marks = torch.full((68, 3), -1) if fixed is None else faces[fixed.faces]
    bary = torch.full((68, 3), 1 / 3) if fixed is None else fixed.bary.to(template.dtype)
    if contour is None:
        outline = marks[:17, 0].expand(79, 17).clone()
    else:  # the vertex that is nearest to each point
        corners = faces[contour.faces]
        outline = corners.gather(2, contour.bary.argmax(2, keepdim=True))[..., 0]
    return Topology(
        polygons=torch.cat([faces, padding], dim=1),
        uv=layout.uv.to(template.dtype),
        uv_polygons=torch.cat([layout.uv_faces, padding], dim=1),
        material_ids=(parts > 0).long(),
        material_names=MATERIALS,
        part_ids=parts,
        part_names=PARTS,
        mirror=torch.from_numpy(_mirror(template.double().numpy())),
        landmark_verts=marks,
        landmark_bary=bary,
        contour_verts=outline,
        dense_verts=_unique(marks[17:]) if fixed is not None else marks[:0, 0],
    )


def _parts(template: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Part of each face: the largest connected piece is the face, the next two are eyes."""
    n_verts = len(template)
    ends = np.concatenate([faces[:, :2], faces[:, 1:]])
    graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), (n_verts, n_verts))
    count, label = connected_components(graph, directed=False)
    sizes = np.bincount(label, minlength=count)
    order = np.argsort(-sizes, kind="stable")
    part = np.zeros(count, dtype=np.int64)
    for piece in order[1:3]:
        part[piece] = 1 if template[label == piece, 0].mean() > 0 else 2
    return np.asarray(part[label[faces[:, 0]]])


def _mirror(template: np.ndarray) -> np.ndarray:
    """Each vertex's partner across x = 0: the nearest one, where the two agree on it."""
    _, partner = cKDTree(template).query(template * np.array([-1.0, 1.0, 1.0]))
    itself = np.arange(len(template))
    return np.where(partner[partner] == itself, partner, itself).astype(np.int64)


def _cylinder(template: Tensor, faces: Tensor) -> MeshUv:
    """A layout that unrolls the mesh about the vertical, with a seam at the back."""
    low, high = template.amin(0), template.amax(0)
    middle = (low + high) / 2
    turn = torch.atan2(template[:, 0] - middle[0], template[:, 2] - middle[2])
    uv = torch.stack(
        [
            turn / (2 * torch.pi) + 0.5,
            (template[:, 1] - low[1]) / (high[1] - low[1]).clamp(min=1e-9),
        ],
        dim=1,
    )
    uv_faces = faces.clone()
    # a face across the seam takes copies of its left corners that are one turn further
    corners = uv[faces, 0]
    left = (corners < 0.25) & ((corners.amax(1) - corners.amin(1)) > 0.5)[:, None]
    doubled = _unique(faces[left])
    copies = torch.full((len(template),), -1)
    copies[doubled] = torch.arange(len(doubled)) + len(template)
    uv_faces[left] = copies[faces[left]]
    uv = torch.cat([uv, uv[doubled] + uv.new_tensor([1.0, 0.0])])
    return MeshUv(uv * uv.new_tensor([0.8, 1.0]), uv_faces)


def _unique(indices: Tensor) -> Tensor:
    return torch.from_numpy(np.unique(indices.numpy()))
