"""The picture of wrinkles: made-up ones at rest and in motion, and those of a portrait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from avatar.sheet import Panel, SheetConfig, lay_out
from deca.code_net import load_code_net
from deca.codes import Crop
from deca.crop import crop_square
from deca.detail_net import load_detail_net
from deca.encode import encode
from deca.landmarks import CROP_VIEW
from deca.portrait import Portrait
from deca.shipped_detail import MAP_SIDE, Detail, detail_of, normal_map, prepared
from flame.arkit import ARKIT_INDEX
from flame.camera import orbit
from flame.load import load_head
from flame.material import Material
from flame.model import Flame
from flame.outfit import load_outfit
from flame.params import params_from_arkit
from flame.render import Renderer
from flame.wrinkle_lines import GROUPS
from flame.wrinkle_map import joined_normals
from flame.wrinkles import wrinkles

_SIDE, _LARGEST = 400, 1024  # pixels of a picture, and of the crop that detail is read from
_YAW_DEG, _FOV_DEG, _TARGET = 16.0, 12.5, (0.0, 0.014, 0.09)
_BACKDROP = 0.16
_CLAY = (0.62, 0.55, 0.51)
_POSES: dict[str, dict[str, float]] = {
    "rest": {},
    "raised brows": {"browInnerUp": 1.0, "browOuterUp": 0.8},
    "smile": {"mouthSmile": 0.9, "cheekSquint": 0.7, "eyeSquint": 0.5},
    "frown": {"browDown": 1.0, "mouthFrown": 0.8, "noseSneer": 0.3},
}


@torch.no_grad()
def wrinkle_sheet(portrait: Portrait) -> UInt8[np.ndarray, "H W 3"]:
    """Three rows: strengths at rest, one person's face in motion, a portrait with its detail."""
    flame = load_head()
    nobody = torch.zeros(flame.n_shape)
    skin = prepared(flame, MAP_SIDE)
    draw = _Painter(flame, nobody)

    def panel(strength: float, pose: str, caption: str) -> Panel:
        person = wrinkles(
            flame,
            skin,
            torch.full((len(GROUPS),), strength),
            generator=torch.Generator().manual_seed(7),
        )
        return draw(weights_of(pose), person.at(weights_of(pose)), caption)

    first = [panel(s, "rest", f"strength {s:g}") for s in (0.0, 0.35, 0.7, 1.0)]
    second = [panel(0.15, "raised brows", "raised brows, strength 0.15")]
    second += [panel(0.7, pose, f"{pose}, strength 0.7") for pose in list(_POSES)[1:]]
    crop, detail, shape = portrait_detail(flame, portrait)
    own = _Painter(flame, shape, clay=True)
    relief = detail.displacement[:, MAP_SIDE // 4 : -MAP_SIDE // 4, MAP_SIDE // 4 : -MAP_SIDE // 4]
    raised = (0.5 + relief * 1200).clamp(0, 1).expand(3, -1, -1)
    third = [
        Panel(_bytes(crop.image[0]), "portrait"),
        own(detail.weights, torch.zeros_like(detail.displacement), "head without detail"),
        own(detail.weights, detail.displacement, "with its detail"),
        Panel(_bytes(raised), "displacement, +-0.4 mm"),
        own(weights_of("raised brows"), detail.at(weights_of("raised brows")), "raised brows"),
    ]
    return lay_out([first, second, third], SheetConfig(caption=20))


def weights_of(pose: str) -> Float[Tensor, " 52"]:
    """ARKit weights of one of the sheet's poses."""
    weights = torch.zeros(len(ARKIT_INDEX))
    for stem, value in _POSES[pose].items():
        for name in (stem,) if stem in ARKIT_INDEX else (f"{stem}Left", f"{stem}Right"):
            weights[ARKIT_INDEX[name]] = value
    return weights


def portrait_detail(flame: Flame, portrait: Portrait) -> tuple[Crop, Detail, Float[Tensor, " S"]]:
    """The face's square, its detail and the shape that the encoder gives it."""
    found = encode(portrait, flame, load_code_net(flame))
    side = CROP_VIEW * found.framing.side
    size = int(min(max(side, 256), _LARGEST))
    crop = crop_square(portrait.image, found.framing.center, side, size, found.framing.roll_rad)
    detail = detail_of(flame, found.codes, crop, load_detail_net())
    return crop, detail, found.codes.params.shape[0]


class _Painter:
    """Pictures of one head under relief."""

    def __init__(self, flame: Flame, shape: Float[Tensor, " S"], *, clay: bool = False) -> None:
        self._flame, self._shape = flame, shape
        outfit = load_outfit()
        albedo = outfit.albedo.decode(torch.zeros(1, outfit.albedo.n_codes), MAP_SIDE)[0]
        if clay:
            albedo = torch.tensor(_CLAY).view(3, 1, 1).expand_as(albedo)
        self._materials: Sequence[Material] = outfit.materials(
            albedo, "brown", hair=None, generator=torch.Generator().manual_seed(0)
        )
        self._head = flame.head(shape)

    def __call__(
        self, weights: Float[Tensor, " 52"], displacement: Float[Tensor, "1 K K"], caption: str
    ) -> Panel:
        skin, *others = self._materials
        assert skin.normal is not None
        bumps = joined_normals(skin.normal[None], normal_map(displacement, self._flame))[0]
        renderer = Renderer.of_head(self._head, [replace(skin, normal=bumps), *others])
        verts = self._flame(params_from_arkit(self._shape[None], weights[None])).verts
        camera = orbit(torch.tensor([_YAW_DEG]), target=_TARGET, fov_deg=_FOV_DEG)
        picture = renderer(
            verts,
            camera,
            size=(_SIDE, _SIDE),
            background=torch.full((3,), _BACKDROP),
            supersample=2,
        )
        return Panel(_bytes(picture[0, :3]), caption)


def _bytes(image: Float[Tensor, "3 H W"]) -> UInt8[np.ndarray, "H W 3"]:
    pixels: UInt8[np.ndarray, "H W 3"] = (
        (image.clamp(0, 1) * 255).round().byte().movedim(0, -1).numpy()
    )
    return pixels
