"""A material's images as PNG and JPEG content, for the exporters."""

from __future__ import annotations

import io

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flame.material import Material

_JPEG_QUALITY = 92
_SMALL_PX = 64  # up to here PNG is as small as JPEG, and it keeps a flat colour exact


def base_color(material: Material) -> Float[Tensor, "C H W"]:
    """The base colour without alpha that the material's mode does not use: 3 or 4 channels."""
    channels = len(material.base_color)
    if channels not in (3, 4):
        raise ValueError(
            f"material {material.name!r} has a base colour of {channels} channels; "
            "give 3, or 4 with alpha"
        )
    return material.base_color[: 3 if material.alpha_mode == "OPAQUE" else channels]


def encode_base_color(material: Material) -> tuple[bytes, str]:
    """The base colour's file and its MIME type: JPEG when large and without alpha, else PNG."""
    pixels = _pixels(base_color(material), f"base colour of material {material.name!r}")
    if pixels.shape[-1] == 4 or max(pixels.shape[:2]) <= _SMALL_PX:
        return _png(pixels), "image/png"
    stream = io.BytesIO()
    # no chroma subsampling: it would smear colours over the edges of UV islands
    Image.fromarray(pixels).save(
        stream, "JPEG", quality=_JPEG_QUALITY, subsampling=0, optimize=True
    )
    return stream.getvalue(), "image/jpeg"


def encode_normal(material: Material) -> bytes | None:
    """The normal map as PNG; nothing where the material has none."""
    if material.normal is None:
        return None
    return _png(_pixels(material.normal, f"normal map of material {material.name!r}"))


def encode_metal_rough(material: Material) -> bytes | None:
    """The roughness map as a PNG in glTF's packing; nothing where roughness is one number.

    Red is 255 (no occlusion, for readers that look for it there), green is roughness, blue is
    metalness, none.
    """
    if not isinstance(material.roughness, Tensor):
        return None
    rough = _pixels(material.roughness, f"roughness of material {material.name!r}")[..., 0]
    return _png(np.stack([np.full_like(rough, 255), rough, np.zeros_like(rough)], axis=-1))


def _pixels(image: Float[Tensor, "C H W"], what: str) -> NDArray[np.uint8]:
    """An image 0..1 as bytes [H, W, C]; values outside are clipped, NaN is refused."""
    if not bool(torch.isfinite(image).all()):
        raise ValueError(f"{what} holds NaN or infinity; every pixel must be 0..1")
    scaled = image.detach().float().clamp(0, 1).mul(255).round()
    pixels: NDArray[np.uint8] = scaled.permute(1, 2, 0).byte().cpu().contiguous().numpy()
    return pixels


def _png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
