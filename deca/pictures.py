"""Pictures of a reconstructed face: its shape in grey, depth, normals, texture and landmarks.

Values are as stored in the files that DECA's demo writes: greys of shapes are not light-linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flame.camera import Camera, Projection
from flame.fragments import Fragments
from flame.interpolate import interpolate
from flame.light import deca_lights, sh_shading
from flame.normals import vertex_normals
from flame.overlay import draw_landmarks
from flame.raster import rasterize
from flame.records import TensorRecord
from flame.texture import mip_levels, sample_texture, texture_lod

GREY = 180 / 255  # of surfaces without colour
FACING = 0.15  # least z of a normal whose pixel is drawn in grey pictures
_SEEN, _HIDDEN = (0.20, 0.86, 0.32), (0.93, 0.24, 0.20)  # dots of landmarks


@dataclass(frozen=True, eq=False)
class Framed(Projection):
    """A square crop's camera, seen in another frame of the same picture plane.

    `frame_from_crop` takes the crop's pixels to the frame's; sizes passed to `clip` are the
    frame's own.
    """

    camera: Camera
    side: int  # px of the crop
    frame_from_crop: Float[Tensor, "3 3"]

    def clip(self, points: Float[Tensor, "B N 3"], size: tuple[int, int]) -> Float[Tensor, "B N 4"]:
        """Clip-space points of frames of size (H, W)."""
        height, width = size
        x, y, z, w = self.camera.clip(points, (self.side, self.side)).unbind(-1)
        pixels = torch.stack([(x + w) * (self.side / 2), (w - y) * (self.side / 2), w], dim=-1)
        right, down, _ = (pixels @ self.frame_from_crop.to(pixels).T).unbind(-1)
        return torch.stack([2 * right / width - w, w - 2 * down / height, z, w], dim=-1)

    def depth(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N"]:
        """Distances along the viewing axis, metres."""
        return self.camera.depth(points)

    def eye_point(self) -> Float[Tensor, "B 4"]:
        """The crop camera's homogeneous eye."""
        return self.camera.eye_point()


@dataclass(frozen=True, eq=False)
class MeshView(TensorRecord):
    """One mesh before a camera, rasterized once for several pictures."""

    verts: Float[Tensor, "1 V 3"]
    faces: Int[Tensor, "F 3"]
    clip: Float[Tensor, "1 V 4"]
    depth: Float[Tensor, "1 V"]  # metres
    fragments: Fragments  # of the fine picture
    samples: int  # fine pixels a pixel's side

    @staticmethod
    def of(
        verts: Float[Tensor, "1 V 3"],
        faces: Int[Tensor, "F 3"],
        camera: Projection,
        size: tuple[int, int],
        *,
        samples: int = 2,
    ) -> MeshView:
        """The view of a camera in pictures of size (H, W)."""
        clip = camera.clip(verts, size)
        fine = (size[0] * samples, size[1] * samples)
        return MeshView(
            verts, faces, clip, camera.depth(verts), rasterize(clip, faces, fine), samples
        )

    def covered(self) -> Bool[Tensor, "1 H W"]:
        """Fine pixels that see the mesh."""
        return self.fragments.face_id >= 0

    def normals(self) -> Float[Tensor, "1 3 H W"]:
        """Smooth unit normals of the fine picture, zero in the background."""
        smooth = interpolate(vertex_normals(self.verts, self.faces), self.faces, self.fragments)
        return F.normalize(smooth, dim=-1).movedim(-1, 1)


@dataclass(frozen=True, eq=False)
class UvMap(TensorRecord):
    """A map over a mesh's texture; faces with `worn` False are without it."""

    uv: Float[Tensor, "T 2"]
    uv_faces: Int[Tensor, "F 3"]
    texels: Float[Tensor, "1 C K K"]
    worn: Bool[Tensor, " F"]

    def seen(self, view: MeshView) -> tuple[Float[Tensor, "1 C H W"], Float[Tensor, "1 1 H W"]]:
        """The map in a view's fine picture, and 1 where the face there wears it."""
        here = interpolate(self.uv, self.uv_faces, view.fragments)
        side = (self.texels.shape[-2], self.texels.shape[-1])
        lod = texture_lod(self.uv, self.uv_faces, view.faces, view.fragments, view.clip, side)
        drawn = sample_texture(mip_levels(self.texels), here, lod)
        face = view.fragments.face_id
        share = view.covered() & self.worn[face.clamp(min=0)]
        return drawn, share[:, None].to(drawn.dtype)


@torch.no_grad()
def shape_picture(
    view: MeshView, relief: UvMap | None = None, *, colour: float = GREY
) -> Float[Tensor, "1 4 H W"]:
    """The surface in grey under DECA's five white lights, with straight alpha.

    `relief` holds unit normals, of the posed head, that replace the smooth ones. What turns away
    from the viewer is left out.
    """
    normals = view.normals()
    shown = view.covered()[:, None] & (normals[:, 2:] > FACING)
    if relief is not None:
        fine, share = relief.seen(view)
        normals = F.normalize(normals + share * (F.normalize(fine, dim=1) - normals), dim=1)
    lights = deca_lights()
    facing = torch.einsum("bchw,lc->blhw", normals, lights.directions[0].to(normals)).clamp(0, 1)
    grey = colour * torch.einsum("blhw,lc->bchw", facing, lights.colours[0].to(normals))
    return _finished(grey.clamp(0, 1), shown, view.samples)


@torch.no_grad()
def texture_picture(
    view: MeshView, texture: UvMap, light: Float[Tensor, "1 9 3"] | None = None
) -> Float[Tensor, "1 4 H W"]:
    """The surface in its texture, with straight alpha; faces that do not wear it are left out.

    With light (spherical harmonics) the product of both as stored, as DECA has it.
    """
    colours, share = texture.seen(view)
    if light is not None:
        colours = colours * sh_shading(view.normals().movedim(1, -1), light).movedim(-1, 1)
    return _finished(colours.clamp(0, 1), share > 0, view.samples)


@torch.no_grad()
def normal_picture(view: MeshView) -> Float[Tensor, "1 4 H W"]:
    """Smooth normals as colours n / 2 + 1/2: red right, green up, blue to the viewer; and alpha."""
    return _finished(view.normals() / 2 + 0.5, view.covered()[:, None], view.samples)


@torch.no_grad()
def depth_picture(view: MeshView) -> Float[Tensor, "1 1 H W"]:
    """Nearness: 1 at the mesh's nearest vertex, 0 at its farthest and in the background."""
    used = torch.unique(view.faces)
    far, near = view.depth[0, used].max(), view.depth[0, used].min()
    span = (far - near).clamp(min=1e-9)
    nearness = (far - view.depth[..., None]) / span
    picture = interpolate(nearness, view.faces, view.fragments).movedim(-1, 1).clamp(0, 1)
    return F.avg_pool2d(picture, view.samples)


@torch.no_grad()
def landmark_picture(
    image: Float[Tensor, "1 3 H W"],
    points: Float[Tensor, "1 L 2"],
    visible: Bool[Tensor, "1 L"] | None = None,
) -> Float[Tensor, "1 3 H W"]:
    """The picture with landmarks as green dots, red where they are hidden; 68 are joined."""
    radius = max(1.0, 0.006 * min(image.shape[-2:]))
    lines = points.shape[1] == 68
    seen = torch.ones_like(points[..., 0], dtype=torch.bool) if visible is None else visible

    def only(chosen: Tensor) -> Tensor:
        return torch.where(chosen[..., None], points, torch.nan)

    drawn = draw_landmarks(
        image, points, radius_px=0.5 * radius, colour=_SEEN, rim=0.0, lines=lines,
        line_px=max(0.6, 0.5 * radius),
    )  # fmt: skip
    drawn = draw_landmarks(drawn, only(seen), radius_px=radius, colour=_SEEN)
    return draw_landmarks(drawn, only(~seen), radius_px=radius, colour=_HIDDEN)


def _finished(
    colours: Float[Tensor, "1 3 H W"], shown: Bool[Tensor, "1 1 H W"], samples: int
) -> Float[Tensor, "1 4 H2 W2"]:
    """Means over each pixel's samples, those of colour over the ones that are shown."""
    weight = shown.to(colours.dtype)
    alpha = F.avg_pool2d(weight, samples)
    mean = F.avg_pool2d(colours * weight, samples) / alpha.clamp(min=1e-6)
    return torch.cat([mean, alpha], dim=1)
