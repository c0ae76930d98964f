"""A dense mesh with relief: skin cut finer, rounded, and raised by a displacement map."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from flame.model import Flame
from flame.normals import vertex_normals
from flame.texture import sample_texture
from flame.wrinkle_map import SkinSurface, skin_surface

_ROUND = 0.75  # of the way to the tangent planes (Boubekeur and Alexa 2008, Phong tessellation)


def detailed(
    flame: Flame,
    verts: Float[Tensor, "V 3"],
    displacement: Float[Tensor, "1 K K"],
    levels: int = 2,
) -> tuple[Float[Tensor, "N 3"], Int[Tensor, "F 3"]]:
    """Vertices and triangles of a posed head whose skin is raised by a displacement map, metres.

    Each level halves the skin's edges; other parts stay as they are. The head's own vertices come
    first, in their order.
    """
    if not 0 <= levels <= 4:
        raise ValueError(f"levels={levels}; choose 0 to 4, each has four times the triangles")
    surface = skin_surface(flame)
    normals = vertex_normals(verts[None], surface.faces)[0]
    points, faces, chart = _finer(verts, normals, surface, levels)
    up = vertex_normals(points[None], faces)[0]
    height = sample_texture(displacement[None], chart[None, None])[0, 0, 0]
    raised = points + height[:, None] * up
    rest = _other_faces(flame)
    return raised, torch.cat([faces, rest])


def _other_faces(flame: Flame) -> Int[Tensor, "F 3"]:
    topology = flame.topology
    polygons = topology.polygons[topology.material_ids != topology.material_names.index("skin")]
    quads = polygons[:, 3] >= 0
    return torch.cat([polygons[:, :3], polygons[quads][:, [0, 2, 3]]])


def _finer(
    verts: Tensor, normals: Tensor, surface: SkinSurface, levels: int
) -> tuple[Float[Tensor, "N 3"], Int[Tensor, "F 3"], Float[Tensor, "N 2"]]:
    """Points, triangles and texture coordinates after cutting every edge in two, level by level.

    Where islands meet, a point takes the coordinates of one of them.
    """
    corners = surface.uv[surface.uv_faces]  # [F, 3, 2]
    faces = surface.faces
    for _ in range(levels):
        edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        ends, where = torch.unique(edges.sort(dim=1).values, dim=0, return_inverse=True)
        a, b = ends.unbind(1)
        middle = (verts[a] + verts[b]) / 2
        lifted = sum(
            middle - ((middle - verts[k]) * normals[k]).sum(1, keepdim=True) * normals[k]
            for k in (a, b)
        )
        new = (1 - _ROUND) * middle + _ROUND * lifted / 2
        first = len(verts)
        verts = torch.cat([verts, new])
        normals = torch.cat([normals, normalize(normals[a] + normals[b], dim=1)])
        ab, bc, ca = (where + first).view(3, -1)
        va, vb, vc = faces.unbind(1)
        ta, tb, tc = corners.unbind(1)
        tab, tbc, tca = (ta + tb) / 2, (tb + tc) / 2, (tc + ta) / 2
        pieces = [(va, ab, ca), (ab, vb, bc), (ca, bc, vc), (ab, bc, ca)]
        charts = [(ta, tab, tca), (tab, tb, tbc), (tca, tbc, tc), (tab, tbc, tca)]
        faces = torch.cat([torch.stack(piece, dim=1) for piece in pieces])
        corners = torch.cat([torch.stack(chart, dim=1) for chart in charts])
    chart = corners.new_zeros(len(verts), 2)
    chart[faces.reshape(-1)] = corners.reshape(-1, 2)
    return verts, faces, chart
