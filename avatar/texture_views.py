"""Views of a head to paint over, and the way from a painted view back onto the skin's texture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from avatar.clip import frame_portrait
from deca.conditions import HeadView
from deca.synth_styles import cel, stylize
from deca.texture import sampled
from flame.camera import LookAt, Projection, orbit
from flame.head import Head
from flame.interpolate import interpolate
from flame.material import Material
from flame.normals import vertex_normals
from flame.srgb import linear_to_srgb, srgb_to_linear
from flame.texture import UvLayout, sample_texture, unwrap

WALL = (0.5, 0.52, 0.55)  # behind the head, sRGB
LEAST_FACING = 0.2  # cosine to the viewer below which a surface is too slanted to paint
_FULL_FACING = 0.35  # and from which on a texel counts as painted
_AMBIENT = 0.6  # of the light; the rest comes from the camera, so that shapes can be seen
_DARKEST = 2e-3  # of linear light
_SLACK = 0.004  # metres behind the nearest surface that still count as seen


@dataclass(frozen=True)
class ViewPlan:
    """Where a view is taken from; yaw is to the viewer's right, pitch upwards."""

    name: str
    yaw_deg: float
    pitch_deg: float = 0.0


@dataclass(frozen=True, eq=False)
class PaintView:
    """One view as it goes to a painter."""

    index: int
    plan: ViewPlan
    picture: Float[Tensor, "1 3 H W"]  # the head in what is painted so far, under an even light
    mask: Float[Tensor, "1 1 H W"]  # 1 on skin that this view is to paint
    seen: HeadView
    camera: Projection


def plan_views(count: int) -> list[ViewPlan]:
    """So many views, the front first, then both sides in turn, the back, from above and below.

    From six on two of them are those from above and below.
    """
    if not 1 <= count <= 32:
        raise ValueError(f"views={count} must be from 1 to 32")
    around = count if count < 6 else count - 2
    yaws = sorted((360.0 * k / around for k in range(around)), key=lambda a: min(a, 360 - a))
    plans = [ViewPlan(_side(yaw), yaw if yaw <= 180 else yaw - 360) for yaw in yaws]
    if count >= 6:
        plans += [ViewPlan("view from above", 0.0, 55.0), ViewPlan("view from below", 0.0, -35.0)]
    return plans


def camera_of(head: Head, plan: ViewPlan) -> LookAt:
    """The portrait camera, turned about the middle of the skull."""
    front = frame_portrait(head)
    distance = float((front.eye - front.target).norm())
    x, y, z = front.target[0].tolist()
    fov_deg = float(front.fov_deg[0])
    return orbit(torch.tensor([plan.yaw_deg]), plan.pitch_deg, distance, (x, y, z), fov_deg)


def styled_picture(
    seen: HeadView, head: Head, materials: Sequence[Material], style: str
) -> Float[Tensor, "1 3 H W"]:
    """`flat_picture` in a style of deca.prompt_wish.STYLES.

    Cel shading would paint bands of this light onto the skin; it is given the colours alone.
    """
    if style != "anime":
        return stylize(flat_picture(seen, head, materials), style)
    colours = flat_picture(seen, head, materials, lit=False)
    even = torch.ones_like(colours)
    drawn = srgb_to_linear(cel(colours, even, even[:, :1], colours))
    return linear_to_srgb(drawn * seen.pixels(shading(seen.normals()[:, 2:]))).clamp(0, 1)


def flat_picture(
    seen: HeadView, head: Head, materials: Sequence[Material], *, lit: bool = True
) -> Float[Tensor, "1 3 H W"]:
    """Base colours before a grey wall, under a soft light from the camera if `lit`."""
    _, uv_faces, _ = head.triangles()
    uv = interpolate(head.uv, uv_faces, seen.fragments)
    ids = seen.material
    colours = seen.verts.new_tensor(WALL)[:, None, None].expand(1, 3, *ids.shape[1:]).clone()
    known = {material.name: material for material in materials}
    shade = shading(seen.normals()[:, 2:] if lit else torch.ones_like(colours[:, :1]))
    for index, name in enumerate(head.material_names):
        here = ids[0] == index
        if bool(here.any()):
            texels = known[name].base_color[None, :3].to(colours)
            found = sample_texture(texels, uv[:, here][:, None])[0, :, 0]  # [3, N]
            light = srgb_to_linear(found) * shade[0][:, here]
            colours[0][:, here] = linear_to_srgb(light)
    return seen.pixels(colours).clamp(0, 1)


def shading(toward: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Linear light on a surface whose normal has this share toward the viewer."""
    return _AMBIENT + (1 - _AMBIENT) * toward.clamp(0, 1)


class SkinSurface:
    """The skin of a posed head, laid out on its texture."""

    def __init__(self, head: Head, verts: Float[Tensor, "1 V 3"], side: int) -> None:
        if side % 16 or not 32 <= side <= 4096:
            raise ValueError(f"side={side} must be a multiple of 16 from 32 to 4096")
        faces, uv_faces, ids = head.triangles()
        self.index = head.material_names.index("skin")
        worn = ids == self.index
        self.side, self.faces, self.uv, self.uv_faces = side, faces[worn], head.uv, uv_faces[worn]
        self.layout: UvLayout = unwrap(head.uv, self.uv_faces, side)
        normals = vertex_normals(verts, faces)
        self.positions = self.layout.bake(verts, self.faces)[0]  # [3, K, K]
        self.normals = F.normalize(self.layout.bake(normals, self.faces)[0], dim=0)

    def unproject(
        self, picture: Float[Tensor, "1 3 H W"], seen: HeadView, camera: Projection
    ) -> tuple[Float[Tensor, "3 K K"], Float[Tensor, "K K"]]:
        """ln of linear base colour that a painted view gives each texel, and how well it is seen.

        The second is 0 where the view does not see the skin, and 1 where it looks straight at it.
        """
        size = (picture.shape[-2], picture.shape[-1])
        points = self.positions.flatten(1).T[None]
        x, y, away = camera.project(points, size)[0].T.view(3, self.side, self.side)
        grid = torch.stack([x / size[1], y / size[0]], dim=-1) * 2 - 1
        nearest = sampled(seen.distances().clamp(max=1e3), grid, "nearest")[0]
        eye = camera.eye_point()[0]
        ray = F.normalize(eye[:3, None] - eye[3] * points[0].T, dim=0)
        facing = (ray.view(3, self.side, self.side) * self.normals).sum(0)
        # a pixel's own depth varies as it is wide
        width = float(away[self.layout.valid].median() * _pixel(camera, size))
        visible = away < nearest + max(_SLACK, 3 * width)
        skin = seen.pixels((seen.material == self.index)[:, None].to(picture.dtype))
        # colours next to an edge are mixed with what is beyond it
        inner = sampled(-F.max_pool2d(-skin, 3, 1, 1), grid)[0]
        share = ((facing - LEAST_FACING) / (1 - LEAST_FACING)).clamp(0, 1)
        inside = visible & self.layout.valid & (grid.abs() < 1).all(-1)
        light = srgb_to_linear(sampled(picture, grid))
        toward = torch.einsum("k,kij->ij", seen.axes[2], self.normals)
        colour = (light / shading(toward)).clamp(_DARKEST, 1.0).log()
        return colour, share * inner.clamp(0, 1) * inside


def coverage(share: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """How far a texel counts as painted, by how well it was seen; it rises softly to 1."""
    full = (_FULL_FACING - LEAST_FACING) / (1 - LEAST_FACING)
    part = (share / full).clamp(0, 1)
    return part * part * (3 - 2 * part)


def paint_mask(
    seen: HeadView, surface: SkinSurface, best: Float[Tensor, "K K"]
) -> Float[Tensor, "1 1 H W"]:
    """Pixels of skin that are seen here much better than in any view before, with soft edges."""
    uv = interpolate(surface.uv, _all_uv_faces(seen, surface), seen.fragments)
    before = sample_texture(best[None, None], uv)
    toward = ((seen.normals()[:, 2:] - LEAST_FACING) / (1 - LEAST_FACING)).clamp(0, 1)
    skin = (seen.material == surface.index)[:, None]
    wanted = skin & (toward > 0.05) & ((before < 0.12) | (toward > 2 * before))
    mask = seen.pixels(wanted.to(best.dtype))
    radius = max(1, mask.shape[-1] // 128)
    grown = F.max_pool2d(mask, 2 * radius + 1, 1, radius)
    return F.avg_pool2d(grown, 2 * radius + 1, 1, radius, count_include_pad=False).clamp(0, 1)


def _all_uv_faces(seen: HeadView, surface: SkinSurface) -> Int[Tensor, "F 3"]:
    """UV faces by the view's face indices; those of other materials are nobody's."""
    uv_faces = torch.zeros_like(seen.faces)
    uv_faces[seen.ids == surface.index] = surface.uv_faces
    return uv_faces


def _pixel(camera: Projection, size: tuple[int, int]) -> float:
    """Width of a pixel one metre away, metres."""
    if isinstance(camera, LookAt):
        return 2 * math.tan(math.radians(float(camera.fov_deg[0])) / 2) / size[0]
    return 0.0


def _side(yaw: float) -> str:
    turn = yaw if yaw <= 180 else yaw - 360
    if abs(turn) < 20:
        return "front view"
    if abs(turn) > 160:
        return "view from behind"
    # a camera to the viewer's right sees the subject's left
    side = "left" if turn > 0 else "right"
    return f"three-quarter view of the {side}" if abs(turn) < 75 else f"side view of the {side}"
