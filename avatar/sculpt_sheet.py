"""The picture of a sculpture: what was given beside what the mesh shows, and a turntable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from avatar.sheet import Panel, SheetConfig, lay_out
from flame.ambient_occlusion import ambient_occlusion
from flame.interpolate import interpolate
from flame.normals import vertex_normals
from flame.pinhole import Pinhole, look_at
from flame.raster import rasterize
from flame.sculpt import Sculpture

COLUMNS = 6
_SAMPLES = 3  # a pixel a side
_PITCH_DEG = 18.0
_FOV_DEG = 26.0
_CLAY = (0.74, 0.70, 0.65)
_PAPER = (0.155, 0.165, 0.19)


def sculpt_sheet(
    masks: Float[Tensor, "N 1 H W"],
    images: Float[Tensor, "N 3 H W"] | None,
    cameras: Pinhole,
    result: Sculpture,
    *,
    z_up: bool = False,
    config: SheetConfig | None = None,
) -> Float[Tensor, "1 3 SH SW"]:
    """Rows of what was given, the mesh from the same cameras, and the mesh from all round; sRGB."""
    config = config or SheetConfig()
    painter = _Painter(result, z_up)
    count = min(COLUMNS, len(masks))
    chosen = torch.linspace(0, len(masks) - 1, count).round().long().tolist()
    given, drawn = [], []
    for item in chosen:
        picture = masks[item].expand(3, -1, -1) if images is None else images[item]
        top, left, length = _frame(masks[item, 0])
        picture = picture[:, top : top + length, left : left + length]
        given.append(Panel(_to_8bit(picture), "Mask" if images is None else "Photo"))
        shown = painter.draw(_cropped(cameras[item], left, top), picture.shape[1:])
        drawn.append(Panel(_to_8bit(shown), f"IoU {float(result.iou[item]):.3f}"))
    side = config.side(count)
    turned = [
        Panel(_to_8bit(painter.draw(camera, (side, side), clay=True)), f"{yaw:.0f}°")
        for camera, yaw in painter.turntable(count, side)
    ]
    rows = [given, drawn, turned]
    sheet = lay_out(rows, config)
    return torch.from_numpy(sheet).permute(2, 0, 1)[None].float() / 255


class _Painter:
    def __init__(self, result: Sculpture, z_up: bool) -> None:
        self.verts, self.faces = result.verts, result.faces
        self.colours = result.colours
        self.normals = vertex_normals(self.verts[None], self.faces)[0]
        # the maps of hidden surfaces want objects of about a metre
        middle = (self.verts.amax(0) + self.verts.amin(0)) / 2
        self.radius = float((self.verts - middle).norm(dim=1).max())
        self.middle = middle
        self.sky = ambient_occlusion((self.verts - middle) / self.radius, self.faces)
        self.up = self.verts.new_tensor([0.0, 0.0, 1.0] if z_up else [0.0, 1.0, 0.0])

    def turntable(self, count: int, side: int) -> list[tuple[Pinhole, float]]:
        angle = np.radians(_FOV_DEG / 2)
        distance = 1.06 * self.radius / np.sin(angle)
        ahead = self.up.roll(1)  # z where y is up, x where z is
        right = torch.linalg.cross(self.up, ahead)
        pitch = np.radians(_PITCH_DEG)
        found = []
        for index in range(count):
            yaw = 2 * np.pi * index / count
            flat = np.cos(yaw) * ahead + np.sin(yaw) * right
            eye = self.middle + distance * (np.cos(pitch) * flat + np.sin(pitch) * self.up)
            focal_px = side / 2 / np.tan(angle)
            camera = look_at(eye[None], self.middle[None], self.up, float(focal_px), (side, side))
            found.append((camera, float(np.degrees(yaw))))
        return found

    @torch.no_grad()
    def draw(
        self, camera: Pinhole, size: Sequence[int], *, clay: bool = False
    ) -> Float[Tensor, "3 H W"]:
        """The lit mesh; one with colours shows them unlit, as light is in them, unless in clay."""
        fine = (_SAMPLES * size[0], _SAMPLES * size[1])
        points = camera.scaled(float(_SAMPLES)).clip(self.verts[None], fine)
        fragments = rasterize(points, self.faces, fine)
        own = None if clay else self.colours
        colours = self._lit_clay(camera) if own is None else own
        shown = interpolate(colours[None], self.faces, fragments)
        covered = (fragments.face_id >= 0)[..., None]
        paper = shown.new_tensor(_PAPER).expand_as(shown)
        picture = torch.where(covered, shown, paper).movedim(-1, 1)
        return F.avg_pool2d(picture, _SAMPLES)[0].clamp(0, 1)

    def _lit_clay(self, camera: Pinhole) -> Float[Tensor, "V 3"]:
        """Matt clay under a key light that stays at the viewer's upper left, and a soft sky."""
        turn = camera.world_to_camera[0, :3, :3]
        key = F.normalize(turn.T @ turn.new_tensor([-0.55, -0.65, -0.75]), dim=0)
        rim = F.normalize(turn.T @ turn.new_tensor([0.8, -0.3, 0.55]), dim=0)
        facing = (self.normals @ key).clamp(min=0)
        back = (self.normals @ rim).clamp(min=0)
        above = 0.5 + 0.5 * self.normals @ self.up
        light = 0.72 * facing + 0.16 * back + self.sky * (0.16 + 0.22 * above)
        linear = light[:, None] * self.normals.new_tensor(_CLAY).square()
        return linear.clamp(min=1e-6) ** (1 / 2.2)


def _frame(mask: Float[Tensor, "H W"]) -> tuple[int, int, int]:
    """Top, left and side of a square round the object, a tenth wider, inside the picture."""
    rows = torch.nonzero((mask > 0.5).any(1))[:, 0]
    columns = torch.nonzero((mask > 0.5).any(0))[:, 0]
    height, width = mask.shape
    extent = 1 + max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0]))
    length = min(round(1.1 * extent), height, width)
    top = (int(rows[0]) + int(rows[-1]) + 1 - length) // 2
    left = (int(columns[0]) + int(columns[-1]) + 1 - length) // 2
    return min(max(top, 0), height - length), min(max(left, 0), width - length), length


def _cropped(camera: Pinhole, left: int, top: int) -> Pinhole:
    """The camera of a picture that lost columns at its left and rows at its top."""
    moved = camera.centre - camera.centre.new_tensor([left, top])
    return Pinhole(camera.world_to_camera, camera.focal, moved, camera.near)


def _to_8bit(image: Float[Tensor, "3 H W"]) -> UInt8[np.ndarray, "H W 3"]:
    pixels = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(1, 2, 0).cpu().numpy()
