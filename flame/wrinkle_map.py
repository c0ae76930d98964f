"""A head's skin texture made ready for relief: slopes, folding of the skin, normal maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, normalize

from flame.model import Flame
from flame.paint_chart import (
    EYE_DISTANCE,
    EYE_MIDDLE,
    Face,
    ear_mask,
    eye_loop,
    inside_hairline,
    lay_flat,
    lip_loop,
    to_chart,
)
from flame.paint_layers import nostrils
from flame.paint_noise import Array, smoothstep
from flame.records import TensorRecord
from flame.texture import UvLayout, unwrap
from flame.wrinkle_lines import ORIGIN, SHAPE, STEP, directions, wrinkle_lines

_PAINTED = 512  # side at which masks are made
_STRAIN = 256  # side at which folding is baked: the mesh is no finer
_STEEPEST = 1.2  # rise per length in a normal map


@dataclass(frozen=True, eq=False)
class SkinSurface(TensorRecord):
    """The skin of a head model in its own UV square."""

    faces: Int[Tensor, "F 3"]
    uv: Float[Tensor, "T 2"]  # origin bottom left
    uv_faces: Int[Tensor, "F 3"]


def skin_surface(flame: Flame) -> SkinSurface:
    """The triangles of a head model that wear skin."""
    topology = flame.topology
    chosen = topology.material_ids == topology.material_names.index("skin")
    polygons, uv_polygons = topology.polygons[chosen], topology.uv_polygons[chosen]
    quads = polygons[:, 3] >= 0
    return SkinSurface(
        torch.cat([polygons[:, :3], polygons[quads][:, [0, 2, 3]]]),
        topology.uv,
        torch.cat([uv_polygons[:, :3], uv_polygons[quads][:, [0, 2, 3]]]),
    )


def uv_jacobians(verts: Float[Tensor, "V 3"], surface: SkinSurface) -> Float[Tensor, "F 3 2"]:
    """How a point moves with u and v on each triangle, metres per UV square."""
    corners, chart = verts[surface.faces], surface.uv[surface.uv_faces]
    edges = torch.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], dim=-1)
    flat = torch.stack([chart[:, 1] - chart[:, 0], chart[:, 2] - chart[:, 0]], dim=-1)
    (a, b), (c, d) = flat.double().permute(1, 2, 0)
    area = a * d - b * c
    area = torch.where(area.abs() < 1e-16, 1e-16, area)
    inverse = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
    return (edges.double() @ (inverse / area[:, None, None])).to(verts.dtype)


@dataclass(frozen=True, eq=False)
class Slopes(TensorRecord):
    """Maps that turn a height's change over the UV square into its slope on the surface."""

    normal: Float[Tensor, "3 K K"]
    along_u: Float[Tensor, "3 K K"]  # metres per UV square
    along_v: Float[Tensor, "3 K K"]

    def dual(self) -> tuple[Float[Tensor, "3 K K"], Float[Tensor, "3 K K"]]:
        """Vectors A, B in the tangent plane: the gradient of h is h_u A + h_v B, per metre."""
        u, v = (x - (x * self.normal).sum(0) * self.normal for x in (self.along_u, self.along_v))
        uu, uv, vv = (u * u).sum(0), (u * v).sum(0), (v * v).sum(0)
        area = (uu * vv - uv * uv).clamp(min=1e-12)
        return (vv * u - uv * v) / area, (uu * v - uv * u) / area


def surface_slopes(verts: Float[Tensor, "V 3"], surface: SkinSurface, layout: UvLayout) -> Slopes:
    """Smooth normals and UV axes of a mesh over its texture; zero beyond the gutter."""
    jacobian = uv_jacobians(verts, surface).flatten(1)  # [F, 6]
    corners = surface.uv_faces.reshape(-1)
    share = jacobian.repeat_interleave(3, dim=0)
    total = verts.new_zeros(len(surface.uv), 6).index_add(0, corners, share)
    count = verts.new_zeros(len(surface.uv)).index_add(0, corners, torch.ones_like(share[:, 0]))
    smooth = layout.bake((total / count.clamp(min=1)[:, None])[None], surface.uv_faces)[0]
    normal = layout.normals(verts[None], surface.faces)[0]
    return Slopes(normal, smooth[0::2].contiguous(), smooth[1::2].contiguous())


def uv_differences(
    height: Float[Tensor, "*C K L"],
) -> tuple[Float[Tensor, "*C K L"], Float[Tensor, "*C K L"]]:
    """Change of an image per UV square along u and v (v runs up); zero in the outermost texels."""
    rows, columns = height.shape[-2:]
    along_u, along_v = torch.zeros_like(height), torch.zeros_like(height)
    along_u[..., 1:-1] = (height[..., 2:] - height[..., :-2]) * (columns / 2)
    along_v[..., 1:-1, :] = (height[..., :-2, :] - height[..., 2:, :]) * (rows / 2)
    return along_u, along_v


def relief_normals(
    displacement: Float[Tensor, "1 K K"], slopes: Slopes
) -> Float[Tensor, "1 3 K K"]:
    """Tangent-space normal map, 0..1 as glTF reads it (+y up), of a surface raised in metres.

    Exact to second order in the texel; slopes are held to +-1.2. Flat where nothing is raised.
    """
    rise_u, rise_v = uv_differences(displacement[0])
    up = slopes.normal
    tangent = slopes.along_u - (slopes.along_u * up).sum(0) * up
    length = tangent.norm(dim=0).clamp(min=1e-9)
    tangent = tangent / length
    across = torch.linalg.cross(up, tangent, dim=0)
    slope_t = rise_u / length
    shear, reach = (slopes.along_v * tangent).sum(0), (slopes.along_v * across).sum(0)
    # glTF's bitangent points toward growing v, whichever way the island is laid
    slope_b = (rise_v - slope_t * shear) / reach.abs().clamp(min=1e-9)
    steep = torch.stack([-slope_t, -slope_b]).clamp(-_STEEPEST, _STEEPEST)
    steep = torch.where(up.norm(dim=0) > 0.5, steep, 0.0)
    return normalize(torch.cat([steep, torch.ones_like(slope_t)[None]]), dim=0)[None] * 0.5 + 0.5


def joined_normals(
    one: Float[Tensor, "B 3 K K"], other: Float[Tensor, "B 3 K K"]
) -> Float[Tensor, "B 3 K K"]:
    """The normal map of two reliefs on top of each other: their slopes add."""
    first, second = one * 2 - 1, other * 2 - 1
    slopes = first[:, :2] / first[:, 2:].clamp(min=0.05) + second[:, :2] / second[:, 2:].clamp(
        min=0.05
    )
    whole = torch.cat([slopes, torch.ones_like(slopes[:, :1])], dim=1)
    return normalize(whole, dim=1) * 0.5 + 0.5


@dataclass(frozen=True, eq=False)
class WrinkleMap(TensorRecord):
    """What creases need to know of a head model, prepared once."""

    surface: SkinSurface
    layout: UvLayout
    coarse: UvLayout  # for what the mesh itself resolves
    place: Float[Tensor, "K K 2"]  # in the chart's images, as grid_sample takes it
    mask: Float[Tensor, "1 K K"]  # 0 on lips, lids, ears, scalp and at borders
    across: Float[Tensor, "G F 2"]  # UV direction at right angles to the creases
    region: Float[Tensor, "G F"]  # where a group's creases can be, 0..1
    template: Float[Tensor, "V 3"]

    @property
    def side(self) -> int:
        return int(self.mask.shape[-1])

    def laid(self, images: Float[Tensor, "G R C"]) -> Float[Tensor, "G K K"]:
        """Images of the chart on the texture, masked."""
        found = grid_sample(images[None], self.place[None], align_corners=False)[0]
        return found * self.mask

    def stretch(
        self, rest: Float[Tensor, "V 3"], posed: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "G V"]:
        """By how much skin is longer across each group's creases, -1..; 0 away from them.

        From the first fundamental forms of both meshes, averaged from triangles to vertices.
        """
        before, after = (uv_jacobians(verts, self.surface) for verts in (rest, posed))
        lengths = [
            torch.einsum("fij,gfj->gfi", jacobian, self.across).norm(dim=-1)
            for jacobian in (before, after)
        ]
        change = (lengths[1] / lengths[0].clamp(min=1e-9) - 1).clamp(-0.8, 1.0)
        weight = self.region + 1e-6
        corners = self.surface.faces.reshape(-1)
        total, share = (
            values.new_zeros(len(values), len(rest)).index_add(
                1, corners, values.repeat_interleave(3, dim=1)
            )
            for values in (change * weight, weight)
        )
        return total / share.clamp(min=1e-9) * (share > 1e-4)

    def region_of_verts(self) -> Float[Tensor, "G V"]:
        """Where a group's creases can be, per vertex."""
        corners = self.surface.faces.reshape(-1)
        share = self.region.repeat_interleave(3, dim=1)
        total = share.new_zeros(len(share), len(self.template)).index_add(1, corners, share)
        count = share.new_zeros(len(self.template)).index_add(0, corners, torch.ones_like(share[0]))
        return total / count.clamp(min=1)

    def baked(self, values: Float[Tensor, "G V"]) -> Float[Tensor, "G K K"]:
        """Maps of smooth values of vertices."""
        maps = self.coarse.bake(values.T[None].contiguous(), self.surface.faces)
        size = (self.side, self.side)
        return interpolate(maps, size=size, mode="bilinear", align_corners=False)[0]

    def slopes(self, verts: Float[Tensor, "V 3"] | None = None) -> Slopes:
        """Slopes of these vertices, of the mean head's by default."""
        return surface_slopes(self.template if verts is None else verts, self.surface, self.layout)


def wrinkle_map(flame: Flame, side: int = 1024) -> WrinkleMap:
    """Prepare a head model with landmarks; maps have `side` texels."""
    surface = skin_surface(flame)
    rest = flame.template
    layout = unwrap(surface.uv, surface.uv_faces, side)
    painted = layout if side == _PAINTED else unwrap(surface.uv, surface.uv_faces, _PAINTED)
    coarse = layout if side == _STRAIN else unwrap(surface.uv, surface.uv_faces, _STRAIN)
    face = _laid_out(flame, surface, painted)
    mask = torch.zeros(1, 1, _PAINTED, _PAINTED)
    mask[0, 0][painted.valid] = torch.from_numpy(_bare(face))
    mask = mask * torch.from_numpy(_inner(painted.valid.numpy()))
    if side != _PAINTED:
        mask = interpolate(mask, size=(side, side), mode="bilinear", align_corners=False)
    mask = mask[0] * layout.valid

    flat = torch.from_numpy(chart_places(flame, rest)).float()
    chart = layout.bake(flat[None], surface.faces)[0].movedim(0, -1)
    extent = torch.tensor([SHAPE[1], SHAPE[0]]) * STEP
    place = (chart - torch.from_numpy(ORIGIN).float()) / extent * 2 - 1
    across, region = _across(face, flat, surface)
    return WrinkleMap(surface, layout, coarse, place, mask, across, region, rest)


def chart_places(flame: Flame, points: Float[Tensor, "N 3"]) -> Array:
    """Where points of the mean head lie on the chart, mm."""
    eyes = (flame.joint_regressor[3:5] @ flame.template).numpy()
    scale = EYE_DISTANCE / float(np.linalg.norm(eyes[1] - eyes[0]))
    return to_chart((points.numpy() - eyes.mean(axis=0)) * scale + EYE_MIDDLE)


def chart_marks(flame: Flame) -> Array:
    """The mean head's 68 landmarks on the chart, mm."""
    return chart_places(flame, flame.landmarks68(flame.template[None])[0])


def _laid_out(flame: Flame, surface: SkinSurface, layout: UvLayout) -> Face:
    """The mean head's texels as a Face."""
    rest = flame.template
    points = layout.positions(rest[None], surface.faces)[0].movedim(0, -1)
    normals = layout.normals(rest[None], surface.faces)[0].movedim(0, -1)
    marks = flame.landmarks68(rest[None])[0]
    eyes = flame.joint_regressor[3:5] @ rest
    return lay_flat(*(t.numpy() for t in (points, normals, layout.valid, marks, eyes)))


def _bare(face: Face) -> Array:
    """Skin that can crease, 0..1 per texel."""
    lips = face.signed(lip_loop(face), 8.0)
    lids = np.minimum(*(face.signed(eye_loop(face, side), 8.0) for side in (0, 1)))
    open_skin = smoothstep(-0.6, 1.0, lips) * smoothstep(0.8, 3.0, lids)
    open_skin = open_skin * (1 - ear_mask(face)) * (1 - np.minimum(2 * nostrils(face), 1))
    hair = smoothstep(5.0, -5.0, inside_hairline(face.points))
    chin = face.landmarks[8, 1]
    # behind the outermost surface lie mouth, nostrils and sockets; under the jaw it is the neck
    depth = np.where(face.flat[:, 1] > chin + 2, smoothstep(9.0, 6.0, face.depth), 1.0)
    bust = smoothstep(chin - 66, chin - 54, face.points[:, 1])
    return np.asarray(open_skin * hair * depth * bust * face.front, np.float32)


def _inner(valid: Array) -> Array:
    """0 at the border of the islands, 1 some texels inside."""
    from scipy.ndimage import distance_transform_edt

    padded = np.pad(valid, 1)
    return smoothstep(1.0, 5.0, np.asarray(distance_transform_edt(padded))[1:-1, 1:-1])


def _across(
    face: Face, flat: Float[Tensor, "V 2"], surface: SkinSurface
) -> tuple[Float[Tensor, "G F 2"], Float[Tensor, "G F"]]:
    """UV directions across the typical creases, and where they are, of every triangle."""
    lines = wrinkle_lines(face.landmarks, np.random.default_rng(0), spread=0.0)
    share, normal = directions(lines)
    middle = flat[surface.faces].mean(1).numpy()
    cell = np.floor((middle - ORIGIN) / STEP).astype(int)
    within = ((cell >= 0) & (cell < np.array(SHAPE[::-1]))).all(1)
    # the chart meets itself behind the head, where triangles span it
    within &= np.ptp(flat[surface.faces].numpy(), axis=1).max(1) < 30
    x, y = cell[within].T
    region = torch.zeros(len(share), len(surface.faces))
    region[:, within] = torch.from_numpy(share[:, y, x])
    chosen = torch.zeros(len(share), len(surface.faces), 2)
    chosen[..., 0] = 1
    chosen[:, within] = torch.from_numpy(normal[:, :, y, x]).movedim(1, -1)
    # from the chart's millimetres to UV: the inverse of the chart's own derivative
    lifted = torch.cat([flat, torch.zeros_like(flat[:, :1])], dim=1)
    derivative = uv_jacobians(lifted, surface)[:, :2].double()
    weak = torch.linalg.det(derivative).abs() < 1e-6
    derivative[weak] = torch.eye(2, dtype=torch.float64)
    region[:, weak] = 0
    found = torch.einsum("fij,gfj->gfi", derivative.inverse(), chosen.double())
    return normalize(found, dim=-1).float(), region
