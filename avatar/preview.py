"""The contact sheet of an avatar: photo, fit, turntable and expressions on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from avatar.clip import Stage, look_aside
from avatar.sheet import Panel, SheetConfig, lay_out
from avatar.visemes import sided
from deca.codes import Crop
from flame.arkit import ARKIT_NAMES
from flame.camera import Projection
from flame.head import JOINT_NAMES, Head
from flame.interpolate import interpolate
from flame.material import Material
from flame.normals import vertex_normals
from flame.overlay import draw_landmarks
from flame.raster import rasterize
from flame.render import Background
from flame.shoulders import broadened

VIEWS: Mapping[str, float] = {"Front": 0.0, "Three-quarter": 38.0, "Profile": 90.0}  # yaw, degrees
# ARKit weights; a name without Left and Right stands for both sides
EXPRESSIONS: Mapping[str, Mapping[str, float]] = {
    "Smile": {
        "mouthSmile": 0.85, "cheekSquint": 0.55, "eyeSquint": 0.3, "mouthDimple": 0.25,
        "mouthUpperUp": 0.45, "mouthLowerDown": 0.35, "jawOpen": 0.12, "browInnerUp": 0.1,
    },
    "Surprise": {
        "browInnerUp": 0.9, "browOuterUp": 0.85, "eyeWide": 0.85, "jawOpen": 0.5,
        "mouthFunnel": 0.25,
    },
    "Wink": {
        "eyeBlinkLeft": 1.0, "cheekSquintLeft": 0.7, "mouthSmileLeft": 0.75,
        "mouthSmileRight": 0.4, "browDownLeft": 0.35, "browOuterUpRight": 0.45,
    },
    "Kiss": {"mouthPucker": 0.95, "mouthFunnel": 0.15, "browInnerUp": 0.25, "eyeSquint": 0.15},
}  # fmt: skip
EXPRESSION_YAW_DEG = 10.0
_TINT = (0.30, 0.86, 0.98)  # of the fitted mesh
_DOT = (1.0, 0.84, 0.22)
_LIGHT = (-0.45, 0.6, 0.75)


def preview_sheet(
    portrait: Float[Tensor, "1 3 H W"],
    overlay: Float[Tensor, "1 3 H2 W2"],
    head: Head,
    materials: Sequence[Material],
    *,
    config: SheetConfig | None = None,
    background: Background = None,
    supersample: float | int = 1.5,
    caption: str = "Photo",
) -> Float[Tensor, "1 3 SH SW"]:
    """The sheet: portrait, overlay and three views above, four expressions below; sRGB.

    `overlay` is what `fit_overlay` draws over the portrait, `caption` says what the portrait is.
    The head is seen on shoulders, as in clips.
    """
    config = config or SheetConfig()
    stage = Stage(
        head, materials, config.side(len(EXPRESSIONS)), background=background,
        supersample=supersample,
    )  # fmt: skip
    rest = torch.zeros(len(ARKIT_NAMES))

    def photograph(weights: Float[Tensor, " 52"], yaw_deg: float) -> UInt8[np.ndarray, "S S 3"]:
        verts = head.pose(weights[None], torch.zeros(1, len(JOINT_NAMES), 3))
        return stage.photograph(broadened(verts, head), yaw_deg)

    above = [Panel(_to_8bit(portrait), caption), Panel(_to_8bit(overlay), "Fit")]
    above += [Panel(photograph(rest, yaw), name) for name, yaw in VIEWS.items()]
    below = []
    for name, mix in EXPRESSIONS.items():
        weights = look_aside(mixed(mix)[None], EXPRESSION_YAW_DEG)[0]
        below.append(Panel(photograph(weights, EXPRESSION_YAW_DEG), name))
    sheet = lay_out([above, below], config, footer="AI-generated")
    return torch.from_numpy(sheet).permute(2, 0, 1)[None].float() / 255


def mixed(mix: Mapping[str, float]) -> Float[Tensor, " 52"]:
    """ARKit weights of names; one without Left and Right stands for both sides."""
    weights = torch.zeros(len(ARKIT_NAMES))
    for name, weight in mix.items():
        weights[sided(name)] = weight
    return weights


def seen_square(crop: Crop, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a crop's largest square that shows picture, not its continued border.

    `size` is height and width of the picture. Of squares of one size the one nearest to the middle
    is taken; where none has half of the crop's side, all of the crop is.
    """
    side = crop.image.shape[-1]
    middles = torch.arange(side) + 0.5
    rows, columns = torch.meshgrid(middles, middles, indexing="ij")
    points = crop.picture_points(torch.stack([columns, rows], dim=-1))
    height, width = size
    outside = ((points < 0) | (points > torch.tensor([width, height]))).any(dim=-1)
    count = F.pad(outside.int().cumsum(0).cumsum(1), (1, 0, 1, 0))  # above and left of a corner
    for length in range(side, side // 2 - 1, -1):
        within = count[length:, length:] - count[:-length, length:]
        within = within - count[length:, :-length] + count[:-length, :-length]
        free = (within == 0).nonzero()
        if len(free):
            apart = (free - (side - length) / 2).square().sum(dim=1)
            top, left = free[apart.argmin()].tolist()
            return slice(top, top + length), slice(left, left + length)
    return slice(0, side), slice(0, side)


@torch.no_grad()
def fit_overlay(
    image: Float[Tensor, "1 3 H W"],
    verts: Float[Tensor, "1 V 3"],
    faces: Int[Tensor, "F 3"],
    camera: Projection,
    landmarks: Float[Tensor, "N 2"] | None = None,
) -> Float[Tensor, "1 3 H W"]:
    """The picture with the fitted mesh over it, as clear as glass, and dots at landmarks (pixels).

    Faces seen from the front are transparent; toward the outline the mesh gets denser.
    """
    size = (image.shape[2], image.shape[3])
    fine = (2 * size[0], 2 * size[1])
    fragments = rasterize(camera.clip(verts, fine), faces, fine)
    normals = interpolate(vertex_normals(verts, faces), faces, fragments)
    normals = F.normalize(normals, dim=-1).movedim(-1, 1)  # [1, 3, 2H, 2W]
    light = F.normalize(verts.new_tensor(_LIGHT), dim=0)
    shade = 0.5 + 0.5 * torch.einsum("bchw,c->bhw", normals, light)
    covered = (fragments.face_id >= 0).to(image)
    # a rim of glass; the first term keeps faces that look straight at the viewer visible
    density = covered * (0.30 + 0.55 * (1 - normals[:, 2].abs()).square())
    colour = verts.new_tensor(_TINT)[None, :, None, None] * shade.square()[:, None]
    colour = F.avg_pool2d(colour * density[:, None], 2)
    density = F.avg_pool2d(density[:, None], 2)
    drawn = image * (1 - density) + colour
    if landmarks is None:
        return drawn
    # smaller dots where there are many
    radius = max(1.0, min(size) * (0.0042 if len(landmarks) <= 100 else 0.0026))
    return draw_landmarks(drawn, landmarks[None], radius_px=radius, colour=_DOT)


def _to_8bit(image: Float[Tensor, "1 3 H W"]) -> UInt8[np.ndarray, "H W 3"]:
    pixels = (image[0].detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(1, 2, 0).cpu().numpy()
