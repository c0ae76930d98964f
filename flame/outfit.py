"""What a bare head wears: skin model, surface maps, eyes, mouth, lashes, hair, shirt."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from assets.errors import AssetError
from assets.store import shipped
from assets.weights import read_tensors, write_tensors
from flame.albedo import AlbedoModel
from flame.hair import HairStyle, attach, joint_weights
from flame.hair_texture import hair_material
from flame.head import Head
from flame.material import Material
from flame.paint_cloth import paint_shirt
from flame.paint_eye import paint_eye

SHIPPED_SKIN = "head/skin.safetensors"
SHIPPED_HAIR = "head/hair.safetensors"
_MAPS = ("skin_normal", "skin_roughness", "mouth", "mouth_roughness", "lashes")
_HAIR_TENSORS = tuple(
    field.name for field in dataclasses.fields(HairStyle) if field.name not in ("name", "texture")
)
SHIRT_COLOR = (0.23, 0.29, 0.38)


@dataclass(frozen=True, eq=False)
class Outfit:
    """Painted once for a head's UV layout; images hold 0..255 as in sRGB files."""

    albedo: AlbedoModel
    skin_normal: UInt8[Tensor, "3 K K"]
    skin_roughness: UInt8[Tensor, "1 R R"]
    mouth: UInt8[Tensor, "3 M M"]
    mouth_roughness: UInt8[Tensor, "1 M M"]
    lashes: UInt8[Tensor, "4 H W"]
    hair: dict[str, HairStyle]

    def save(self, skin_path: Path, hair_path: Path) -> list[Path]:
        """Write the skin file and the hair file; returns all files written."""
        skin = {f"albedo.{name}": value for name, value in self.albedo.save().items()}
        skin |= {name: getattr(self, name) for name in _MAPS}
        hair = {}
        for name, style in self.hair.items():
            for entry in _HAIR_TENSORS:
                value = getattr(style, entry)
                hair[f"{name}.{entry}"] = value if value.is_floating_point() else value.int()
            hair[f"{name}.texture"] = to_bytes(style.texture)
        return [*write_tensors(skin, skin_path), *write_tensors(hair, hair_path)]

    def materials(
        self,
        skin: Float[Tensor, "3 T T"],
        iris: str | tuple[float, float, float],
        *,
        hair: str | None,
        hair_color: str | tuple[float, float, float] = "brown",
        shirt_color: tuple[float, float, float] = SHIRT_COLOR,
        generator: torch.Generator,
    ) -> tuple[Material, ...]:
        """A material for every name of a head; `skin` is its base colour, `hair` a style's name."""
        cloth, knit = paint_shirt(shirt_color)
        worn = [
            Material("skin", skin, to_floats(self.skin_normal), to_floats(self.skin_roughness)),
            Material("eyes", paint_eye(iris, generator=generator), roughness=0.12),
            # seen from behind too: cheeks stretched by a wide mouth fold the bag over
            Material(
                "mouth",
                to_floats(self.mouth),
                roughness=to_floats(self.mouth_roughness),
                double_sided=True,
            ),
            Material(
                "lashes",
                to_floats(self.lashes),
                roughness=0.8,
                alpha_mode="BLEND",
                double_sided=True,
            ),
            Material("shirt", cloth, knit, roughness=0.9, double_sided=True),
        ]
        if hair is not None:
            worn.append(hair_material(self._style(hair).texture, hair_color))
        return tuple(worn)

    def wear_hair(self, head: Head, name: str) -> Head:
        """The head with a hair style on it, as vertices after its own."""
        style = self._style(name)
        first = len(head.verts)
        hair = attach(style, head.verts)
        # hair rides on the skull: morphs would multiply the file's size for a trembling sideburn
        still = head.morphs.new_zeros(len(head.morphs), len(hair), 3)
        triangles = torch.cat([style.faces, torch.full((len(style.faces), 1), -1)], dim=1)
        padding = triangles >= 0
        return dataclasses.replace(
            head,
            verts=torch.cat([head.verts, hair]),
            polygons=torch.cat([head.polygons, torch.where(padding, triangles + first, -1)]),
            uv=torch.cat([head.uv, style.uv]),
            uv_polygons=torch.cat(
                [head.uv_polygons, torch.where(padding, triangles + len(head.uv), -1)]
            ),
            material_ids=torch.cat(
                [
                    head.material_ids,
                    torch.full((len(triangles),), len(head.material_names)),
                ]
            ),
            material_names=(*head.material_names, "hair"),
            morphs=torch.cat([head.morphs, still], dim=1),
            lbs_weights=torch.cat([head.lbs_weights, joint_weights(style, head.lbs_weights)]),
        )

    def _style(self, name: str) -> HairStyle:
        if name not in self.hair:
            raise ValueError(f"hair style {name!r} is not known; use {', '.join(self.hair)}")
        return self.hair[name]


def load_outfit(skin_path: Path | None = None, hair_path: Path | None = None) -> Outfit:
    """The outfit of files that `Outfit.save` wrote; the shipped one by default."""
    skin_path, hair_path = skin_path or shipped(SHIPPED_SKIN), hair_path or shipped(SHIPPED_HAIR)
    skin, hair = read_tensors(skin_path), read_tensors(hair_path)
    if missing := [name for name in _MAPS if name not in skin]:
        raise AssetError(f"{skin_path} lacks {', '.join(missing)}; build it with flame.build")
    albedo = AlbedoModel.load(
        {
            name.removeprefix("albedo."): value
            for name, value in skin.items()
            if name.startswith("albedo.")
        }
    )
    styles = {}
    for name in dict.fromkeys(key.split(".")[0] for key in hair):
        fields = {entry: hair[f"{name}.{entry}"] for entry in _HAIR_TENSORS}
        fields = {k: v if v.is_floating_point() else v.long() for k, v in fields.items()}
        styles[name] = HairStyle(name=name, texture=to_floats(hair[f"{name}.texture"]), **fields)
    return Outfit(albedo=albedo, hair=styles, **{name: skin[name] for name in _MAPS})


def to_bytes(image: Float[Tensor, "*S"]) -> UInt8[Tensor, "*S"]:
    """0..1 as 0..255."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def to_floats(image: UInt8[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """0..255 as 0..1."""
    return image.float() / 255
