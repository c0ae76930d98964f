"""What random people wear: skins, eyes, mouths, lashes, hair and shirts, painted once for a head."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from assets.weights import read_metadata, read_tensors, write_tensors
from flame.albedo import AlbedoModel
from flame.hair import STYLES, HairStyle, grow
from flame.model import Flame
from flame.paint import paint_skin
from flame.paint_cloth import paint_lashes
from flame.paint_eye import IRIS_COLORS, paint_eye
from flame.paint_mouth import MOUTH_PARTS, paint_mouth
from flame.texture import unwrap

_PART_OF_LABEL = {"teeth": ("teeth_upper", "teeth_lower"), "bag": ("mouth_bag",)}
_HAIR_TENSORS = tuple(name for name in HairStyle.__dataclass_fields__ if name != "name")


@dataclass(frozen=True, eq=False)
class Wardrobe:
    """Everything that can be put on a bare head; textures are sRGB 0..1."""

    albedo: AlbedoModel
    eyes: dict[str, list[Tensor]]  # by colour word, [3, K, K] each
    mouth: Float[Tensor, "3 K K"]
    lashes: list[Tensor]  # [4, H, W] each, the last without hairs
    hair: dict[str, HairStyle]

    def save(self, path: Path) -> None:
        """Write a safetensors file that `load_wardrobe` reads."""
        tensors = {f"albedo.{name}": value for name, value in self.albedo.save().items()}
        tensors["mouth"] = self.mouth
        for word, images in self.eyes.items():
            tensors[f"eyes.{word}"] = torch.stack(images)
        for number, image in enumerate(self.lashes):
            tensors[f"lashes.{number}"] = image
        for word, style in self.hair.items():
            for name in _HAIR_TENSORS:
                tensors[f"hair.{word}.{name}"] = getattr(style, name)
        words = {"eyes": list(self.eyes), "hair": list(self.hair)}
        write_tensors(tensors, path, {"words": json.dumps(words)})


def load_wardrobe(path: Path) -> Wardrobe:
    """The wardrobe that `Wardrobe.save` wrote."""
    tensors = read_tensors(path)
    words = json.loads(read_metadata(path)["words"])
    albedo = {
        name.removeprefix("albedo."): value
        for name, value in tensors.items()
        if name.startswith("albedo.")
    }
    lashes = [tensors[name] for name in sorted(tensors) if name.startswith("lashes.")]
    hair = {
        word: HairStyle(
            name=word, **{name: tensors[f"hair.{word}.{name}"] for name in _HAIR_TENSORS}
        )
        for word in words["hair"]
    }
    eyes = {word: list(tensors[f"eyes.{word}"]) for word in words["eyes"]}
    return Wardrobe(AlbedoModel.load(albedo), eyes, tensors["mouth"], lashes, hair)


def paint_wardrobe(flame: Flame, *, generator: torch.Generator, side: int = 512) -> Wardrobe:
    """Paint for this head; takes minutes, so keep the result with `save`."""
    head = flame.head(torch.zeros(flame.n_shape))
    faces, uv_faces, ids = head.triangles()
    landmarks = flame.landmarks68(head.verts[None])[0]

    def bake(material: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        worn = (ids == head.material_names.index(material)).nonzero()[:, 0]
        layout = unwrap(head.uv, uv_faces[worn], side)
        positions = layout.positions(head.verts[None], faces[worn])[0].movedim(0, -1)
        normals = layout.normals(head.verts[None], faces[worn])[0].movedim(0, -1)
        face_id = layout.face_id[0].clamp(min=0)
        return positions, normals, layout.valid, worn[face_id]

    positions, normals, valid, _ = bake("skin")
    albedo = paint_skin(positions, normals, valid, landmarks, head.joints[4:6], generator=generator)
    positions, _, valid, face_id = bake("mouth")
    labels = _mouth_labels(flame)[face_id]
    mouth, _ = paint_mouth(positions, torch.where(valid, labels, -1), generator=generator)
    eyes = {
        word: [
            paint_eye(word, pupil_deg=pupil, size=192, generator=generator) for pupil in (6.5, 9.0)
        ]
        for word in IRIS_COLORS
    }
    lashes = [
        paint_lashes(count=count, size=(64, 128), generator=generator) for count in (40, 70, 110)
    ]
    lashes.append(torch.zeros_like(lashes[0]))
    skin = faces[ids == head.material_names.index("skin")]
    hair = {
        style: grow(style, head.verts, skin, landmarks, generator=generator, texture_size=256)
        for style in STYLES
    }
    return Wardrobe(albedo, eyes, mouth, lashes, hair)


def _mouth_labels(flame: Flame) -> Tensor:
    """The index into MOUTH_PARTS of each triangle, -1 outside the mouth."""
    topology = flame.topology
    of_part = torch.full((len(topology.part_names),), -1)
    for label, word in enumerate(MOUTH_PARTS):
        for part in _PART_OF_LABEL.get(word, (word,)):
            if part in topology.part_names:
                of_part[topology.part_names.index(part)] = label
    labels = of_part[topology.part_ids]
    return torch.cat([labels, labels[topology.polygons[:, 3] >= 0]])
