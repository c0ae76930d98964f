"""Surfaces made ready for drawing: textures with their mip levels, and how light meets them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from flame.material import Material
from flame.raster import load_kernels
from flame.srgb import srgb_to_linear

OPAQUE_ALPHA = 0.95  # alpha from which a blended fragment hides what is behind it
_SRGB_STEPS = 4080  # a multiple of 255, so that 8-bit colours are exact
SRGB_TO_LINEAR: NDArray[np.float32] = (
    srgb_to_linear(torch.linspace(0, 1, _SRGB_STEPS + 1, dtype=torch.float64)).float().numpy()
)


def kernels() -> ModuleType:
    """The renderer's compiled kernels; the first call on a machine compiles them."""
    return load_kernels("render_kernels")


@dataclass(frozen=True)
class Look:
    """What a Material does not say about a surface; `LOOKS` has those of the shipped head."""

    wrap: tuple[float, float, float] = (0.0, 0.0, 0.0)  # how far light creeps past the terminator
    reflectance: float = 0.04  # seen straight on
    strands: bool = False  # hair: highlights run across the direction of growing v
    metallic: float = 0.0  # 1: the base colour is that of the reflection, as in glTF

    def __post_init__(self) -> None:
        numbers = (*self.wrap, self.reflectance, self.metallic)
        if not all(math.isfinite(number) and 0 <= number <= 1 for number in numbers):
            raise ValueError(f"{self} is out of range; wrap, reflectance and metallic are 0 to 1")


LOOKS: dict[str, Look] = {
    "skin": Look(wrap=(0.38, 0.20, 0.14), reflectance=0.028),
    "mouth": Look(wrap=(0.30, 0.18, 0.14), reflectance=0.03),
    "hair": Look(strands=True),
    "lashes": Look(wrap=(0.5, 0.5, 0.5), reflectance=0.02),
    "eyes": Look(wrap=(0.15, 0.12, 0.12), reflectance=0.03),
}


@dataclass(frozen=True, eq=False)
class Mipmap:
    """Textures as 16-bit texels and (first texel, height, width) of their levels.

    A texel is linear colour and alpha, then, where there is such, a normal and the roughness.
    """

    texels: NDArray[np.uint16]
    levels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Surface:
    """One material, prepared, and the indices of the faces that wear it."""

    material: Material
    look: Look
    texture: Mipmap
    alpha: NDArray[np.uint16]  # of the texels, alone; empty where it is not looked at
    faces: NDArray[np.int64]
    visible_alpha: float  # texture alpha from which a fragment is drawn
    opaque_alpha: float  # from which it hides what is behind it
    values: NDArray[np.float32]  # as flame.shade_kernels.shade_fragments takes them


def prepare_surface(material: Material, look: Look, faces: Int[Tensor, " N"]) -> Surface:
    """A material's textures as the kernels read them."""
    detail = _detail(material, look)
    texture = _mipmap(material.base_color, detail)
    least = {"OPAQUE": 0.0, "MASK": material.alpha_cutoff, "BLEND": 0.004}[material.alpha_mode]
    cut = material.alpha_mode != "OPAQUE"
    alpha = np.ascontiguousarray(texture.texels[:, 3]) if cut else np.empty(0, dtype=np.uint16)
    roughness = material.roughness if isinstance(material.roughness, float) else 0.6
    values = (
        roughness, look.reflectance, look.metallic, *look.wrap, detail is not None, look.strands,
    )  # fmt: skip
    return Surface(
        material,
        look,
        texture,
        alpha,
        faces.contiguous().numpy(),
        least,
        OPAQUE_ALPHA if material.alpha_mode == "BLEND" else least,
        np.array(values, dtype=np.float32),
    )


def _mipmap(image: Tensor, detail: Tensor | None) -> Mipmap:
    channels, height, width = image.shape
    if channels not in (1, 3, 4) or not image.numel():
        raise ValueError(
            f"a texture has shape {tuple(image.shape)}; give [C, H, W] with 3 or 4 channels"
        )
    if detail is None:
        detail = image.new_zeros(0, height, width)
    # one size, so that one look into memory finds all channels
    height, width = max(height, detail.shape[1]), max(width, detail.shape[2])
    image, detail = _at_size(image, height, width), _at_size(detail, height, width)
    levels, first = [(0, height, width)], height * width
    while max(height, width) > 1:
        height, width = max(height // 2, 1), max(width // 2, 1)
        levels.append((first, height, width))
        first += height * width
    texels = np.empty((first, 4 + len(detail)), dtype=np.uint16)
    table = np.array(levels, dtype=np.int64)
    kernels().pack_texture(image.numpy(), SRGB_TO_LINEAR, detail.numpy(), texels, table)
    return Mipmap(texels, table)


def _detail(material: Material, look: Look) -> Tensor | None:
    """Normal map and roughness [4, H, W], or None where neither is an image that is looked at."""
    rough, normal = material.roughness, material.normal
    # strands have no use for a normal map
    if isinstance(rough, float) and (normal is None or look.strands):
        return None
    if isinstance(rough, float):
        assert normal is not None
        return torch.cat([normal, normal.new_full((1, *normal.shape[1:]), rough)])
    if normal is None:
        normal = rough.new_tensor([0.5, 0.5, 1.0])[:, None, None].expand(-1, *rough.shape[1:])
    return torch.cat([normal, _at_size(rough, *normal.shape[1:])])


def _at_size(image: Tensor, height: int, width: int) -> Tensor:
    image = image.detach().float().cpu()
    if image.shape[1:] != (height, width) and len(image):
        image = torch.nn.functional.interpolate(
            image[None], size=(height, width), mode="bilinear", align_corners=False
        )[0]
    return image.contiguous() if len(image) else image.new_zeros(0, height, width)
