"""Pictures of a posed head that steer diffusion models: normals, depth, edges, points, parts.

Each is as the published ControlNets were trained on it; all are pure functions of what a camera
sees, with values 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from deca.pictures import Framed
from deca.synth_parts import PALETTE, SKIN, PartView
from flame.camera import LookAt, Projection
from flame.fragments import Fragments, homogeneous_pixels
from flame.head import Head
from flame.interpolate import interpolate
from flame.material import Material
from flame.normals import vertex_normals
from flame.overlay import draw_landmarks
from flame.records import TensorRecord
from flame.render_surface import Look, prepare_surface
from flame.shadow import Triangles, View, draw_surface

KINDS = ("normal", "depth", "canny", "openpose", "seg", "parts", "landmarks", "face")
FLAT = (0.5, 0.5, 1.0)  # the colour of a wall that faces the viewer: the background of normals
# of ADE20K's 150 classes, as its segmenters colour them
PERSON, WALL = (150 / 255, 5 / 255, 61 / 255), (120 / 255, 120 / 255, 120 / 255)
_NEAR = -1.0  # z/w at the near plane of clip space
_DOT = 3 / 512  # radius of OpenPose's face points, of the picture's shorter side
_CANNY = (100 / 255, 200 / 255)  # the thresholds that ControlNet's examples use
_RIGHT_EYE, _LEFT_EYE = slice(36, 42), slice(42, 48)  # of the 68 points


@dataclass(frozen=True, eq=False)
class HeadView(TensorRecord):
    """What a camera sees of a posed head, in samples; cut-out textures let through what is behind.

    Lashes, which are sheets, are left out.
    """

    verts: Float[Tensor, "1 V 3"]
    faces: Int[Tensor, "F 3"]
    ids: Int[Tensor, " F"]  # material of each face
    axes: Float[Tensor, "3 3"]  # rows point right, up and toward the viewer
    away: Float[Tensor, "1 V"]  # metres along the viewing axis
    fragments: Fragments
    samples: int  # a pixel's side

    @staticmethod
    def of(
        head: Head,
        materials: Sequence[Material],
        verts: Float[Tensor, "1 V 3"],
        camera: Projection,
        size: tuple[int, int],
        *,
        samples: int = 2,
    ) -> HeadView:
        """The view in pictures of size (H, W); materials are matched to the head's by name."""
        faces, uv_faces, ids = head.triangles()
        fine = (size[0] * samples, size[1] * samples)
        points = homogeneous_pixels(camera.clip(verts, size), fine)[0]
        view = View.of(points, fine, _NEAR)
        mesh = Triangles(faces.int().numpy(), head.uv.float().numpy(), uv_faces.int().numpy())
        known = {material.name: material for material in materials}
        for index, name in enumerate(head.material_names):
            worn = (ids == index).nonzero()[:, 0]
            if len(worn) and name not in known:
                raise ValueError(f"no material is given for {name}, which the head wears; add it")
            if len(worn) and name != "lashes":
                surface = prepare_surface(known[name], Look(), worn)
                draw_surface(view, mesh, surface, surface.opaque_alpha)
        face_id = torch.from_numpy(view.face_id.astype(np.int64))
        bary = _barycentrics(points, faces, face_id).to(verts.dtype)
        depth = torch.from_numpy(view.depth)
        fragments = Fragments(face_id[None], bary[None], depth[None])
        axes = axes_of(camera).to(verts.dtype)
        return HeadView(verts, faces, ids, axes, camera.depth(verts), fragments, samples)

    @property
    def covered(self) -> Float[Tensor, "1 1 H W"]:
        """1 at samples that see the head."""
        return (self.fragments.face_id >= 0)[:, None].to(self.verts.dtype)

    @property
    def material(self) -> Int[Tensor, "1 H W"]:
        """The material at every sample, -1 in the background."""
        face_id = self.fragments.face_id
        return torch.where(face_id >= 0, self.ids[face_id.clamp(min=0)], -1)

    def normals(self) -> Float[Tensor, "1 3 H W"]:
        """Smooth unit normals in the camera's frame at every sample, zero in the background."""
        smooth = vertex_normals(self.verts, self.faces)
        seen = interpolate(smooth @ self.axes.T, self.faces, self.fragments)
        return F.normalize(seen, dim=-1).movedim(-1, 1)

    def distances(self) -> Float[Tensor, "1 1 H W"]:
        """Metres along the viewing axis at every sample, infinite in the background."""
        seen = interpolate(self.away[..., None], self.faces, self.fragments).movedim(-1, 1)
        return torch.where(self.covered > 0, seen, torch.inf)

    def pixels(self, samples: Float[Tensor, "1 C H W"]) -> Float[Tensor, "1 C h w"]:
        """The mean of each pixel's samples."""
        return F.avg_pool2d(samples, self.samples)


def normal_condition(view: HeadView) -> Float[Tensor, "1 3 H W"]:
    """Normals as the published normal ControlNets have them: "blue is front, red is left, green is
    top" (ControlNet 1.1, Normal).

    So red falls toward the viewer's right, unlike in glTF's maps. The background is a wall that
    faces the viewer.
    """
    turned = view.normals() * view.verts.new_tensor([-1.0, 1, 1])[:, None, None]
    flat = view.verts.new_tensor(FLAT)[:, None, None]
    return view.pixels(torch.where(view.covered > 0, turned / 2 + 0.5, flat)).clamp(0, 1)


def face_condition(view: HeadView, points: Float[Tensor, "68 2"]) -> Float[Tensor, "1 3 H W"]:
    """`normal_condition` with the contours of the 68 points drawn over it, as the shipped
    ControlNet has it.

    Normals hardly tell lids and lips, whose edges are where an expression is; contours do.
    """
    normals = normal_condition(view)
    size = (normals.shape[-2], normals.shape[-1])
    lines = landmark_condition(points, size)
    return normals + (1 - normals) * lines


def depth_condition(view: HeadView, *, wall: float = 1.0) -> Float[Tensor, "1 3 H W"]:
    """Inverse depth as MiDaS gives it: 1 at the nearest point that is seen, 0 at the background.

    The background is a wall `wall` times as far behind the farthest point that is seen as that is
    behind the nearest. A picture without the head is black.
    """
    distance = view.distances()
    seen = distance[distance.isfinite()]
    if not len(seen):
        return view.pixels(torch.zeros_like(distance)).expand(-1, 3, -1, -1)
    near, far = seen.min(), seen.max()
    behind = far + wall * (far - near) + 1e-6
    share = (1 / distance.clamp(max=float(behind)) - 1 / behind) / (1 / near - 1 / behind)
    return view.pixels(share.clamp(0, 1)).expand(-1, 3, -1, -1)


def canny_condition(
    picture: Float[Tensor, "1 3 H W"], *, sigma: float = 1.0
) -> Float[Tensor, "1 3 H W"]:
    """Edges of a shaded render, white on black (Canny 1986); `sigma` is of the blur, px."""
    from skimage.feature import canny

    weights = picture.new_tensor([0.299, 0.587, 0.114])
    grey = torch.einsum("chw,c->hw", picture[0], weights).double().numpy()
    low, high = _CANNY
    edges = canny(grey, sigma, low, high, mode="nearest")
    return torch.from_numpy(edges).to(picture)[None, None].expand(-1, 3, -1, -1)


def openpose_condition(
    points: Float[Tensor, "68 2"], size: tuple[int, int]
) -> Float[Tensor, "1 3 H W"]:
    """OpenPose's 70 face points as white dots on black: the 68 and the pupils, between the lids.

    Dots have a radius of 3 px in pictures of 512, and are drawn round the pixel a point lies in, as
    the published preprocessor does; points beyond the picture are left out.
    """
    pupils = torch.stack([points[_RIGHT_EYE].mean(0), points[_LEFT_EYE].mean(0)])
    places = torch.cat([points, pupils]).floor()
    height, width = size
    radius = max(1, round(_DOT * min(size)))
    inside = ((places >= 0) & (places < places.new_tensor([width, height]))).all(1)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    found = torch.zeros(size, dtype=points.dtype)
    for x, y in places[inside].tolist():
        found[(columns - x) ** 2 + (rows - y) ** 2 <= radius**2 + 1] = 1
    return found[None, None].expand(-1, 3, -1, -1)


def landmark_condition(
    points: Float[Tensor, "68 2"], size: tuple[int, int]
) -> Float[Tensor, "1 3 H W"]:
    """The 68 points joined to a face's contours, white on black."""
    black = torch.zeros(1, 3, *size, dtype=points.dtype)
    radius = max(0.6, 2 * min(size) / 512)
    return draw_landmarks(
        black, points[None], radius_px=radius, colour=(1.0, 1.0, 1.0), rim=0.0, lines=True,
        line_px=radius,
    )  # fmt: skip


def seg_condition(view: HeadView) -> Float[Tensor, "1 3 H W"]:
    """A person before a wall in ADE20K's colours, which segmentation ControlNets know."""
    person, wall = (view.verts.new_tensor(one)[:, None, None] for one in (PERSON, WALL))
    share = (view.pixels(view.covered) >= 0.5).to(person)
    return wall + share * (person - wall)


def part_condition(
    head: Head,
    materials: Sequence[Material],
    verts: Float[Tensor, "1 V 3"],
    camera: Projection,
    size: tuple[int, int],
) -> Float[Tensor, "1 3 H W"]:
    """Skin, eyes, mouth, hair and clothes in the colours of `deca.synth_parts.PALETTE`."""
    faces, uv_faces, ids = head.triangles()
    known = {material.name: material for material in materials}
    worn = [known[name] for name in head.material_names]
    plain = np.full((4, 4), SKIN, np.uint8)
    labels = PartView(faces, head.uv, uv_faces, ids, worn).labels(verts[0], camera, size, plain)
    colours = torch.tensor(PALETTE, dtype=verts.dtype)[torch.from_numpy(labels.astype(np.int64))]
    return colours.movedim(-1, 0)[None] / 255


def axes_of(camera: Projection) -> Float[Tensor, "3 3"]:
    """Rows that point right, up and toward the viewer in a camera's picture."""
    if isinstance(camera, LookAt):
        return camera.axes()[0]
    axes = torch.eye(3)
    if isinstance(camera, Framed):
        turn = camera.frame_from_crop[:2, :2]
        turn = turn / turn.det().abs().sqrt()
        # pixels count downwards
        axes[:2, :2] = turn * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    return axes


def _barycentrics(
    points: Float[Tensor, "V 4"], faces: Int[Tensor, "F 3"], face_id: Int[Tensor, "H W"]
) -> Float[Tensor, "H W 3"]:
    """Weights of the corners at pixel centres, exact in perspective; zero in the background."""
    row, column = (face_id >= 0).nonzero(as_tuple=True)
    a, b, c = points[:, [0, 1, 3]][faces.long()[face_id[row, column]]].unbind(1)
    here = torch.stack([column + 0.5, row + 0.5, torch.ones_like(row)], dim=-1).to(points.dtype)
    beside = [torch.linalg.cross(*pair) for pair in ((b, c), (c, a), (a, b))]
    weight = torch.stack([(one * here).sum(-1) for one in beside], dim=-1)
    bary = points.new_zeros(*face_id.shape, 3)
    bary[row, column] = weight / weight.sum(-1, keepdim=True)
    return bary
