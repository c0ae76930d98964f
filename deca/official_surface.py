"""DECA's detail on the head: displaced points and normals in UV space, and the dense mesh."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from assets.errors import AssetError
from assets.files import replacing
from assets.image import read_texture
from deca.detail import MAP_SIDE
from flame.normals import face_normals, vertex_normals
from flame.records import TensorRecord
from flame.texture import UvLayout, unwrap

_PUBLISHED_EPS = 1e-6


@dataclass(frozen=True, eq=False)
class DetailMaps(TensorRecord):
    """What DECA adds to every face alike."""

    mask: Float[Tensor, "K K"]  # 1 on face and eyes, soft at the edge
    fixed: Float[Tensor, "K K"]  # metres along the normal, where FLAME's mesh is too smooth

    @staticmethod
    def read(mask: Path, fixed: Path) -> DetailMaps:
        """The maps in uv_face_eye_mask.png (its red channel) and fixed_displacement_256.npy."""
        soft = read_texture(mask)[0]
        if not fixed.is_file():
            raise AssetError(f"{fixed} is not there; it comes with DECA's sources, in data/")
        try:
            height = np.load(fixed)  # plain arrays only: NumPy refuses pickled ones by itself
        except (ValueError, EOFError, OSError) as error:
            raise AssetError(
                f"{fixed} is no plain NumPy array ({error}); fetch it again"
            ) from error
        wanted = (MAP_SIDE, MAP_SIDE)
        for path, shape in ((mask, tuple(soft.shape)), (fixed, np.shape(height))):
            if shape != wanted:
                raise AssetError(f"{path} is {shape}, where DECA has {wanted}; fetch it again")
        if np.asarray(height).dtype.kind != "f" or not np.isfinite(height).all():
            raise AssetError(f"{fixed} does not hold finite numbers; fetch it again")
        return DetailMaps(soft, torch.from_numpy(np.asarray(height)).to(soft.dtype))

    @staticmethod
    def none(side: int = MAP_SIDE) -> DetailMaps:
        """Detail everywhere and nothing fixed, for heads that DECA was not made for."""
        return DetailMaps(torch.ones(side, side), torch.zeros(side, side))


@dataclass(frozen=True)
class SurfaceConfig:
    """Where the published results differ from right ones."""

    # the published map, and the mesh made of it, carry the decoder's noise outside the mask
    published_displacement_map: bool = False
    # published normals shrink where texels are below a square millimetre, and are not brought
    # back to length 1 where fine and coarse ones blend
    published_normals: bool = False


@dataclass(frozen=True, eq=False)
class DetailSurface(TensorRecord):
    """Heads with their detail, as maps over the texture."""

    points: Float[Tensor, "B 3 K K"]  # metres
    normals: Float[Tensor, "B 3 K K"]
    displacement: Float[Tensor, "B 1 K K"]  # metres along the coarse normal, the fixed part too


@dataclass(frozen=True, eq=False)
class DetailMesh(TensorRecord):
    """One head as a mesh with a vertex for each texel on an island."""

    verts: Float[Tensor, "N 3"]  # metres
    faces: Int[Tensor, "M 3"]
    uv: Float[Tensor, "N 2"]
    colours: Float[Tensor, "N 3"]  # sRGB 0..1


def detail_surface(
    verts: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    layout: UvLayout,
    raised: Float[Tensor, "B 1 K K"],
    maps: DetailMaps,
    config: SurfaceConfig | None = None,
) -> DetailSurface:
    """Points and normals of heads raised by the decoder's maps (Feng et al. 2021, equation 5).

    Fine normals are those of the texel grid inside its margin; they fade into the smooth ones with
    the mask. Pass a layout without gutter, `unwrap(uv, uv_faces, 256, gutter=0)`.
    """
    config = config or SurfaceConfig()
    side = raised.shape[-1]
    if layout.valid.shape != raised.shape[-2:] or maps.mask.shape != raised.shape[-2:]:
        raise ValueError(
            f"layout, maps and displacement are {layout.valid.shape[-1]}, {maps.mask.shape[-1]} "
            f"and {side} texels wide; make them one size"
        )
    base = layout.positions(verts, faces)
    if config.published_normals:
        coarse = layout.bake(_published_vertex_normals(verts, faces), faces)
    else:
        coarse = layout.normals(verts, faces)
    masked = raised * maps.mask + maps.fixed
    points = base + masked * coarse
    grid = points.flatten(2).movedim(1, -1)  # [B, K * K, 3]
    triangles = texel_faces(side).to(verts.device)
    inside = torch.zeros_like(maps.mask)
    inside[5 : side - 5, 2 : side - 2] = 1
    if config.published_normals:
        fine = _published_vertex_normals(grid, triangles)
        weight = maps.mask
    else:
        fine = vertex_normals(grid, triangles)
        # beyond the margin, and where a triangle hangs over an island's edge, there is none
        weight = maps.mask * inside * _interior(layout).to(maps.mask.dtype)
    fine = fine.movedim(-1, 1).reshape(base.shape)
    normals = fine * weight + coarse * (1 - weight)
    if not config.published_normals:
        normals = F.normalize(normals, dim=1, eps=1e-20)
    shown = raised + maps.fixed if config.published_displacement_map else masked
    return DetailSurface(points, normals, shown)


def texel_faces(side: int) -> Int[Tensor, "M 3"]:
    """Two triangles a quad of texels, counter-clockwise with v upwards, inside DECA's margin.

    Quads begin in columns 2..side-4 and rows 5..side-7; a texel's number is row * side + column.
    """
    rows, columns = torch.meshgrid(
        torch.arange(5, side - 6), torch.arange(2, side - 3), indexing="ij"
    )
    return _two_triangles((rows * side + columns).reshape(-1), side)


def detail_mesh(
    verts: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    uv: Float[Tensor, "T 2"],
    uv_faces: Int[Tensor, "F 3"],
    displacement: Float[Tensor, "1 K K"],
    texture: Float[Tensor, "3 K K"] | None = None,
) -> DetailMesh:
    """The dense mesh of one head: every texel on an island, moved along the smooth normal.

    Triangles join neighbouring texels of the same island. Without a texture vertices are grey.
    """
    side = displacement.shape[-1]
    layout = unwrap(uv, uv_faces, side, gutter=0)
    points = layout.positions(verts[None], faces)[0]
    points = points + displacement * layout.normals(verts[None], faces)[0]
    colours = torch.full_like(points, 0.7) if texture is None else texture
    valid = layout.valid.reshape(-1)
    island = _islands(uv_faces, len(uv)).to(uv.device)[layout.face_id[0].reshape(-1).clamp(min=0)]
    island = torch.where(valid, island, -1)
    first = torch.arange(side * (side - 1), device=uv.device).view(side - 1, side)[:, :-1]
    triangles = _all_triangles(first.reshape(-1), side, valid)
    belongs = island[triangles]
    whole = (belongs >= 0).all(1) & (belongs == belongs[:, :1]).all(1)
    triangles = triangles[whole]
    kept = torch.zeros_like(valid)
    kept[triangles.reshape(-1)] = True
    number = kept.cumsum(0) - 1
    texel = kept.nonzero()[:, 0]
    row, column = (texel // side).to(uv.dtype), (texel % side).to(uv.dtype)
    places = torch.stack([column + 0.5, side - (row + 0.5)], dim=-1) / side
    return DetailMesh(
        points.flatten(1)[:, kept].T.contiguous(),
        number[triangles],
        places,
        colours.flatten(1)[:, kept].T.contiguous(),
    )


def save_detail_obj(mesh: DetailMesh, path: Path, *, published_colours: bool = False) -> None:
    """Write a dense mesh as OBJ: coloured vertices and UVs.

    published_colours writes 0..255 and no UVs, as DECA did; programs expect 0..1.
    """
    if path.suffix != ".obj":
        raise ValueError(f"{path} must end in .obj")

    def lines() -> Iterable[str]:
        colours = mesh.colours.clamp(0, 1)
        pattern = "v %.7f %.7f %.7f %.4f %.4f %.4f"
        if published_colours:
            colours, pattern = (colours * 255).floor(), "v %.7f %.7f %.7f %d %d %d"
        for row in torch.cat([mesh.verts, colours], dim=1).detach().double().tolist():
            yield pattern % tuple(row)
        if not published_colours:
            yield from (f"vt {u:.7f} {v:.7f}" for u, v in mesh.uv.double().tolist())
        corner = "%d" if published_colours else "%d/%d"
        for face in (mesh.faces + 1).tolist():
            yield "f " + " ".join(corner % ((index,) * corner.count("%")) for index in face)

    with replacing(path) as written:
        written.write_text("\n".join(lines()) + "\n", encoding="utf-8", newline="\n")


def _two_triangles(first: Tensor, side: int) -> Int[Tensor, "M 3"]:
    right, below, across = first + 1, first + side, first + side + 1
    one, two = torch.stack([first, below, right], -1), torch.stack([right, below, across], -1)
    return torch.stack([one, two], dim=1).reshape(-1, 3)


def _all_triangles(first: Tensor, side: int, valid: Tensor) -> Int[Tensor, "M 3"]:
    """Two triangles for each quad, split so that a missing corner costs one triangle only."""
    right, below, across = first + 1, first + side, first + side + 1
    other = valid[first] & valid[across] & ~(valid[right] & valid[below])
    one = torch.where(
        other[:, None],
        torch.stack([first, below, across], -1),
        torch.stack([first, below, right], -1),
    )
    two = torch.where(
        other[:, None],
        torch.stack([first, across, right], -1),
        torch.stack([right, below, across], -1),
    )
    return torch.cat([one, two])


def _interior(layout: UvLayout) -> Tensor:
    """Texels whose eight neighbours are all on an island [K, K]."""
    holes = (~layout.valid).float()[None, None]
    return F.max_pool2d(holes, 3, 1, padding=1)[0, 0] == 0


def _islands(uv_faces: Int[Tensor, "F 3"], count: int) -> Int[Tensor, " F"]:
    """Which connected part of the UV layout each face belongs to."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    corners = uv_faces.cpu().numpy()
    start, end = corners[:, [0, 1]].T.reshape(-1), corners[:, [1, 2]].T.reshape(-1)
    graph = coo_matrix((np.ones(len(start)), (start, end)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    return torch.from_numpy(label[corners[:, 0]].astype(np.int64))


def _published_vertex_normals(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"]
) -> Float[Tensor, "B V 3"]:
    normals = face_normals(verts, faces).repeat_interleave(3, dim=1)
    total = torch.zeros_like(verts).index_add(1, faces.reshape(-1), normals)
    return F.normalize(total, dim=-1, eps=_PUBLISHED_EPS)
