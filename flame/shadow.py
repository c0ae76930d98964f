"""Depth maps as lights far away see them: the key light's shadows and the openness of vertices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from flame.render_surface import Surface, kernels

_FILTER = 6  # texels that flame.shade_kernels looks at, along a side
_NO_UV = np.zeros((0, 2), dtype=np.float32), np.zeros((0, 3), dtype=np.int32)
_NO_TEXTURE = np.zeros(0, dtype=np.uint16), np.zeros((0, 3), dtype=np.int64)
_NO_LIST = (
    np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class View:
    """Vertices as one camera or light sees them, and what is nearest at each pixel so far."""

    points: NDArray[np.float64]  # x w, y w, z, w with x, y in pixels [V, 4]
    screen: NDArray[np.float32]  # what layer_kernels.project makes of them [V, 3]
    near: float
    face_id: NDArray[np.int32]  # -1 where there is nothing [H, W]
    depth: NDArray[np.float32]

    @staticmethod
    def of(points: Float[Tensor, "V 4"], size: tuple[int, int], near: float) -> View:
        """A view of nothing yet."""
        rows = points.contiguous().numpy()
        screen = np.empty((len(rows), 3), dtype=np.float32)
        kernels().project(rows, screen)
        face_id = np.full(size, -1, dtype=np.int32)
        return View(rows, screen, near, face_id, np.full(size, np.inf, dtype=np.float32))


@dataclass(frozen=True, eq=False)
class Triangles:
    """Corners of faces, indices into vertices and into texture coordinates."""

    faces: NDArray[np.int32]
    uv: NDArray[np.float32]
    uv_faces: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Fragments:
    """What lies before the nearest surface, in any order."""

    pixels: NDArray[np.int32]
    faces: NDArray[np.int32]
    depth: NDArray[np.float32]


def draw_surface(view: View, mesh: Triangles, surface: Surface, cutoff: float) -> None:
    """Add a surface's faces to the view where their alpha reaches the cut-off."""
    _draw(view, mesh, surface, cutoff, _NO_LIST)


def list_fragments(view: View, mesh: Triangles, surface: Surface, cutoff: float) -> Fragments:
    """The surface's fragments before what the view holds, which stays as it is."""
    room = max(view.face_id.size // 4, 16)
    while True:
        lists = (
            np.empty(room, dtype=np.int32), np.empty(room, dtype=np.int32),
            np.empty(room, dtype=np.float32),
        )  # fmt: skip
        count = _draw(view, mesh, surface, cutoff, lists)
        if count <= room:
            pixels, faces, depth = lists
            return Fragments(pixels[:count].copy(), faces[:count].copy(), depth[:count].copy())
        room = count


def _draw(
    view: View,
    mesh: Triangles,
    surface: Surface,
    cutoff: float,
    lists: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]],
) -> int:
    count: int = kernels().draw_layer(
        view.points, view.screen, mesh.faces, surface.faces, view.near,
        int(not surface.material.double_sided), view.face_id, view.depth, mesh.uv, mesh.uv_faces,
        surface.alpha, surface.texture.levels, cutoff if len(surface.alpha) else 0.0, *lists,
    )  # fmt: skip
    return count


@dataclass(frozen=True, eq=False)
class ShadowMap:
    """Depths seen from a light, their range within the filter, and the way from the world there."""

    depth: NDArray[np.float32]  # empty: no shadows
    least: NDArray[np.float32]
    most: NDArray[np.float32]
    matrix: NDArray[np.float64]  # world to (x, y in texels, depth in metres) [3, 4]


def no_shadows() -> ShadowMap:
    """What lets all light pass."""
    empty = np.empty((0, 0), dtype=np.float32)
    return ShadowMap(empty, empty, empty, np.zeros((3, 4)))


def cast_shadows(
    verts: Float[Tensor, "V 3"],
    toward: Float[Tensor, 3],
    side: int,
    mesh: Triangles,
    surfaces: Sequence[Surface],
) -> ShadowMap:
    """What a light far away in direction `toward` sees, in `side` texels."""
    matrix = light_matrix(verts, toward, side)
    view = View.of(seen_from_light(verts, matrix), (side, side), -math.inf)
    for surface in surfaces:
        draw_surface(view, mesh, surface, 0.5)
    spare, least, most = (np.zeros_like(view.depth) for _ in range(3))
    kernels().window_range(view.depth, _FILTER, spare, least, most)
    return ShadowMap(view.depth, least, most, matrix.numpy())


def depth_map(
    points: Float[Tensor, "V 4"], faces: NDArray[np.int32], side: int
) -> Float[Tensor, "side side"]:
    """Depth of the nearest face at each texel, from either side; inf where there is none."""
    view = View.of(points, (side, side), -math.inf)
    kernels().draw_layer(
        view.points, view.screen, faces, np.arange(len(faces)), view.near, 0, view.face_id,
        view.depth, *_NO_UV, *_NO_TEXTURE, 0.0, *_NO_LIST,
    )  # fmt: skip
    return torch.from_numpy(view.depth)


def light_matrix(
    verts: Float[Tensor, "V 3"], toward: Float[Tensor, 3], side: int
) -> Float[Tensor, "3 4"]:
    """World to (x, y in texels, depth in metres) as a light far away in direction `toward` sees."""
    toward = torch.nn.functional.normalize(toward.double(), dim=-1)
    up = torch.tensor([0.0, 1, 0] if abs(float(toward[1])) < 0.9 else [1.0, 0, 0]).double()
    right = torch.nn.functional.normalize(torch.linalg.cross(up, toward), dim=-1)
    axes = torch.stack([right, torch.linalg.cross(toward, right), -toward])
    usable = verts[verts.isfinite().all(-1)].double()
    seen = usable @ axes.T if len(usable) else axes.new_zeros(1, 3)
    low, high = seen.amin(0), seen.amax(0)
    scale = (side - 2 * _FILTER) / (high - low)[:2].max().clamp(min=1e-6)
    matrix = torch.cat([axes, torch.zeros(3, 1, dtype=torch.float64)], dim=1)
    matrix[:2] *= scale
    matrix[:2, 3] = side / 2 - scale * (high + low)[:2] / 2
    return matrix


def seen_from_light(
    verts: Float[Tensor, "V 3"], matrix: Float[Tensor, "3 4"]
) -> Float[Tensor, "V 4"]:
    """Homogeneous texels and depth of vertices."""
    points = verts.double() @ matrix[:, :3].T + matrix[:, 3]
    return torch.cat([points, torch.ones_like(points[:, :1])], dim=-1)
