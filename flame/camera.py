"""Cameras: points in metres to pixels and to the rasterizer's clip space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flame.records import TensorRecord

ORTHOGRAPHIC_DISTANCE = 10.0  # metres from z = 0 to where depth 0 lies for a camera without fov


class Projection(TensorRecord):
    """What every camera can do; use Camera for portraits and LookAt for previews."""

    def clip(self, points: Float[Tensor, "B N 3"], size: tuple[int, int]) -> Float[Tensor, "B N 4"]:
        """Clip-space points: x/w, y/w in -1..1 with y up, z/w >= -1 in front of the near plane."""
        raise NotImplementedError

    def depth(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N"]:
        """Distances along the viewing axis in metres, positive in front of the camera."""
        raise NotImplementedError

    def eye_point(self) -> Float[Tensor, "B 4"]:
        """Homogeneous centre of projection e: a point p is seen along e[:3] - e[3] p."""
        raise NotImplementedError

    def project(
        self, points: Float[Tensor, "B N 3"], size: tuple[int, int]
    ) -> Float[Tensor, "B N 3"]:
        """Pixels (x, y) of an image of size (H, W) and depth in metres, smaller is nearer.

        Points on the plane through the eye have no image: they come out infinite.
        """
        pixels = clip_to_screen(self.clip(points, size), size)[..., :2]
        return torch.cat([pixels, self.depth(points)[..., None]], dim=-1)


def clip_to_screen(clip: Float[Tensor, "*B 4"], size: tuple[int, int]) -> Float[Tensor, "*B 3"]:
    """Pixels (x, y), origin top left, and z/w of clip-space points."""
    height, width = size
    x, y, z = (clip[..., :3] / clip[..., 3:]).unbind(-1)
    return torch.stack([(x + 1) * (width / 2), (1 - y) * (height / 2), z], dim=-1)


@dataclass(frozen=True, eq=False)
class Camera(Projection):
    """B portrait cameras: DECA's weak perspective, or a pinhole that agrees with it at z = 0.

    A point lands at scale * (x + shift_x), scale * (y + shift_y) in units of half the image's
    height, y up, from the image's centre. Pinholes stand where the plane z = 0 has that
    magnification: 1 / (scale tan(fov / 2)) metres in front of it.
    """

    scale: Float[Tensor, " B"]  # half image heights a metre
    shift: Float[Tensor, "B 2"]  # metres
    fov_deg: Float[Tensor, " B"]  # vertical; 0 is orthographic

    def nearness(self) -> Float[Tensor, " B"]:
        """One over the distance from the eye to the plane z = 0, 1/m; 0 where orthographic."""
        return self.scale * torch.tan(torch.deg2rad(self.fov_deg) / 2)

    def clip(self, points: Float[Tensor, "B N 3"], size: tuple[int, int]) -> Float[Tensor, "B N 4"]:
        """Clip-space points; the near plane is at most 10 m before z = 0 and follows the eye."""
        height, width = size
        flat = self.scale[:, None, None] * (points[..., :2] + self.shift[:, None])
        x, y = flat.unbind(-1)
        # w = 1 - z/distance needs no case for an infinite distance, so fov 0 has gradients too
        w = 1 - points[..., 2] * self.nearness()[:, None]
        return torch.stack(
            [x * (height / width), y, -points[..., 2] / ORTHOGRAPHIC_DISTANCE, w], -1
        )

    def depth(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N"]:
        """Distances from the eye along z; orthographic cameras count from 10 m before z = 0."""
        near = self.nearness()
        flat = near == 0
        distance = torch.where(flat, ORTHOGRAPHIC_DISTANCE, 1 / torch.where(flat, 1, near))
        return distance[:, None] - points[..., 2]

    def eye_point(self) -> Float[Tensor, "B 4"]:
        """Homogeneous eye; the last entry is 0 for orthographic cameras."""
        near = self.nearness()
        return torch.cat(
            [-self.shift * near[:, None], torch.ones_like(near)[:, None], near[:, None]], dim=-1
        )


@dataclass(frozen=True, eq=False)
class LookAt(Projection):
    """B pinhole cameras at `eye` that have `target` in the middle of the image and y upwards."""

    eye: Float[Tensor, "B 3"]  # metres
    target: Float[Tensor, "B 3"]  # metres
    fov_deg: Float[Tensor, " B"]  # vertical, above 0

    def axes(self) -> Float[Tensor, "B 3 3"]:
        """Rotations into the camera's frame: rows point right, up and toward the viewer."""
        back = torch.nn.functional.normalize(self.eye - self.target, dim=-1)
        up = back.new_tensor([0.0, 1.0, 0.0]).expand_as(back)
        # straight above or below the target, z stands in for the vertical
        steep = back[:, 1:2].abs() > 0.9999
        up = torch.where(steep, back.new_tensor([0.0, 0.0, -1.0]), up)
        right = torch.nn.functional.normalize(torch.linalg.cross(up, back), dim=-1)
        return torch.stack([right, torch.linalg.cross(back, right), back], dim=1)

    def clip(self, points: Float[Tensor, "B N 3"], size: tuple[int, int]) -> Float[Tensor, "B N 4"]:
        """Clip-space points; the near plane is a fiftieth of the way to the target."""
        height, width = size
        seen = torch.einsum("bij,bnj->bni", self.axes(), points - self.eye[:, None])
        x, y, back = seen.unbind(-1)
        focal = 1 / torch.tan(torch.deg2rad(self.fov_deg) / 2)[:, None]
        # z/w is 0 at the target, where float32 is finest, and -1 at the near plane
        distance = (self.eye - self.target).norm(dim=-1)[:, None]
        near = distance / 50
        slope = near / (distance - near)
        z = slope * (-back - distance)
        return torch.stack([x * focal * (height / width), y * focal, z, -back], dim=-1)

    def depth(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N"]:
        """Distances from the eye along the viewing axis."""
        return torch.einsum("bj,bnj->bn", -self.axes()[:, 2], points - self.eye[:, None])

    def eye_point(self) -> Float[Tensor, "B 4"]:
        """The eye with a last entry of 1."""
        return torch.cat([self.eye, torch.ones_like(self.eye[:, :1])], dim=-1)


def orbit(
    yaw_deg: Float[Tensor, " B"],
    pitch_deg: float = 0.0,
    distance: float = 0.9,
    target: tuple[float, float, float] = (0.0, 0.0, 0.0),
    fov_deg: float = 24.0,
) -> LookAt:
    """Preview cameras on a circle round the target; yaw turns toward the viewer's right."""
    yaw = torch.deg2rad(yaw_deg)
    pitch = torch.deg2rad(torch.as_tensor(pitch_deg, dtype=yaw.dtype, device=yaw.device))
    away = torch.stack(
        [yaw.sin() * pitch.cos(), pitch.sin().expand_as(yaw), yaw.cos() * pitch.cos()], dim=-1
    )
    centre = yaw.new_tensor(target).expand(len(yaw), 3)
    return LookAt(centre + distance * away, centre, torch.full_like(yaw, fov_deg))
