"""Materials and textures of a GLB file."""

from __future__ import annotations

from typing import Any

from flame.gltf_buffer import GlbBuffer, Json
from flame.material import Material
from flame.texture_files import encode_base_color, encode_metal_rough, encode_normal

_CLAMP_TO_EDGE, _LINEAR, _LINEAR_MIPMAP_LINEAR = 33071, 9729, 9987


class MaterialWriter:
    """Collects images and textures while materials are written."""

    def __init__(self, buffer: GlbBuffer) -> None:
        self._buffer = buffer
        self._images: list[Json] = []

    def add(self, material: Material) -> Json:
        """A glTF material; its images go into the buffer."""
        content, mime_type = encode_base_color(material)
        surface: Json = {
            "baseColorTexture": self._add_image(content, mime_type, f"{material.name}_base_color"),
            "metallicFactor": 0,
        }
        rough = encode_metal_rough(material)
        if rough is not None:
            # metalness is read from this image's blue, which is 0, times this factor
            surface["metallicRoughnessTexture"] = self._add_image(
                rough, "image/png", f"{material.name}_roughness"
            )
        else:
            surface["roughnessFactor"] = material.roughness
        described: Json = {"name": material.name, "pbrMetallicRoughness": surface}
        bumps = encode_normal(material)
        if bumps is not None:
            described["normalTexture"] = self._add_image(
                bumps, "image/png", f"{material.name}_normal"
            )
        if material.alpha_mode != "OPAQUE":
            described["alphaMode"] = material.alpha_mode
        if material.alpha_mode == "MASK":
            described["alphaCutoff"] = material.alpha_cutoff
        if material.double_sided:
            described["doubleSided"] = True
        return described

    def document(self) -> dict[str, Any]:
        """The samplers, textures and images that the materials so far refer to."""
        sampler = {
            "magFilter": _LINEAR,
            "minFilter": _LINEAR_MIPMAP_LINEAR,
            "wrapS": _CLAMP_TO_EDGE,
            "wrapT": _CLAMP_TO_EDGE,
        }
        textures = [{"sampler": 0, "source": index} for index in range(len(self._images))]
        return {"samplers": [sampler], "textures": textures, "images": self._images}

    def _add_image(self, content: bytes, mime_type: str, name: str) -> Json:
        view = self._buffer.add_view(content)
        self._images.append({"name": name, "mimeType": mime_type, "bufferView": view})
        return {"index": len(self._images) - 1}
