"""Cameras given by matrices, as calibration, photogrammetry and 3D programs give them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flame.camera import Projection


@dataclass(frozen=True, eq=False)
class Pinhole(Projection):
    """B calibrated cameras in OpenCV's frame: x right, y down, z forward; lengths in any one unit.

    A point (x, y, z) of the camera's frame lands at focal * (x, y) / z + centre, pixels from the
    image's top left corner, so that the first pixel's centre is at (0.5, 0.5).
    """

    world_to_camera: Float[Tensor, "B 4 4"]
    focal: Float[Tensor, "B 2"]  # pixels along x and y
    centre: Float[Tensor, "B 2"]  # pixels
    near: Float[Tensor, " B"]  # distance of the near plane, above 0

    def frame(self, points: Float[Tensor, "#B N 3"]) -> Float[Tensor, "B N 3"]:
        """Points in the cameras' frames."""
        turned = torch.einsum("bij,bnj->bni", self.world_to_camera[:, :3, :3], points)
        return turned + self.world_to_camera[:, None, :3, 3]

    def clip(
        self, points: Float[Tensor, "#B N 3"], size: tuple[int, int]
    ) -> Float[Tensor, "B N 4"]:
        """Clip-space points of images of size (H, W), to which focal and centre belong."""
        height, width = size
        x, y, depth = self.frame(points).unbind(-1)
        fx, fy = self.focal[:, None].unbind(-1)
        cx, cy = self.centre[:, None].unbind(-1)
        right = 2 * (fx * x + cx * depth) / width - depth
        up = depth - 2 * (fy * y + cy * depth) / height
        # z/w is -1 at the near plane and grows to 1 far away
        return torch.stack([right, up, depth - 2 * self.near[:, None], depth], dim=-1)

    def depth(self, points: Float[Tensor, "#B N 3"]) -> Float[Tensor, "B N"]:
        """Distances along the viewing axis."""
        return self.frame(points)[..., 2]

    def eye(self) -> Float[Tensor, "B 3"]:
        """Where the cameras stand."""
        back = -self.world_to_camera[:, :3, 3, None]
        place: Tensor = torch.linalg.solve(self.world_to_camera[:, :3, :3], back)
        return place[..., 0]

    def eye_point(self) -> Float[Tensor, "B 4"]:
        """The eye with a last entry of 1."""
        return torch.cat([self.eye(), torch.ones_like(self.near)[:, None]], dim=-1)

    def scaled(self, factor: float) -> Pinhole:
        """The same cameras for images of `factor` times the pixels a side."""
        return Pinhole(self.world_to_camera, self.focal * factor, self.centre * factor, self.near)


def look_at(
    eye: Float[Tensor, "B 3"],
    target: Float[Tensor, "B 3"],
    up: Float[Tensor, 3],
    focal_px: float,
    size: tuple[int, int],
) -> Pinhole:
    """Cameras at `eye` with `target` in the middle of images of size (H, W), `up` upwards.

    Where a camera looks along `up`, another axis stands in for it.
    """
    away = target - eye
    distance = away.norm(dim=-1)
    forward = torch.nn.functional.normalize(away, dim=-1)
    vertical = torch.nn.functional.normalize(up, dim=0).expand_as(forward)
    steep = (forward * vertical).sum(-1, keepdim=True).abs() > 0.9999
    vertical = torch.where(steep, up.roll(1).expand_as(forward), vertical)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, vertical), dim=-1)
    turn = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
    matrix = torch.eye(4, dtype=eye.dtype, device=eye.device).repeat(len(eye), 1, 1)
    matrix[:, :3, :3] = turn
    matrix[:, :3, 3] = -torch.einsum("bij,bj->bi", turn, eye)
    height, width = size
    return Pinhole(
        matrix,
        eye.new_full((len(eye), 2), focal_px),
        eye.new_tensor([width / 2, height / 2]).expand(len(eye), 2),
        distance / 50,
    )
