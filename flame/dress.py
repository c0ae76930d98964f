"""Paint and grow at build time everything that a built head wears."""

from __future__ import annotations

import logging

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flame.hair import STYLES, grow
from flame.head import Head
from flame.model import Flame
from flame.outfit import Outfit, to_bytes
from flame.paint import paint_skin, paint_skin_surface
from flame.paint_cloth import paint_lashes
from flame.paint_mouth import MOUTH_PARTS, paint_mouth
from flame.texture import unwrap

log = logging.getLogger(__name__)

_PARTS_OF_LABEL = {"teeth": ("teeth_upper", "teeth_lower"), "bag": ("mouth_bag",)}


def dress(flame: Flame, *, generator: torch.Generator, side: int = 1024) -> Outfit:
    """The outfit of a head model's mean identity; `side` is that of the skin's maps, texels."""
    head = flame.head(torch.zeros(flame.n_shape))
    landmarks = flame.landmarks68(head.verts[None])[0]
    eyes = head.joints[4:6]
    positions, normals, valid, _ = _baked(head, "skin", side)
    log.info("painting the skin")
    albedo = paint_skin(positions, normals, valid, landmarks, eyes, generator=generator)
    normal, roughness = paint_skin_surface(
        positions, normals, valid, landmarks, eyes, generator=generator
    )
    positions, _, valid, face_ids = _baked(head, "mouth", 512)
    labels = torch.where(valid, _mouth_labels(flame)[face_ids], -1)
    mouth, mouth_roughness = paint_mouth(positions, labels, generator=generator)
    faces, _, materials = head.triangles()
    skin = faces[materials == head.material_names.index("skin")]
    styles = {}
    for name in STYLES:
        log.info("growing %s hair", name)
        styles[name] = grow(name, head.verts, skin, landmarks, generator=generator)
    return Outfit(
        albedo=albedo,
        skin_normal=to_bytes(normal),
        skin_roughness=to_bytes(roughness),
        mouth=to_bytes(mouth),
        mouth_roughness=to_bytes(mouth_roughness),
        lashes=to_bytes(paint_lashes(generator=generator)),
        hair=styles,
    )


def _baked(
    head: Head, material: str, side: int
) -> tuple[Float[Tensor, "K K 3"], Float[Tensor, "K K 3"], Bool[Tensor, "K K"], Int[Tensor, "K K"]]:
    """Place, normal, validity and triangle of every texel of a material."""
    faces, uv_faces, ids = head.triangles()
    worn = (ids == head.material_names.index(material)).nonzero()[:, 0]
    layout = unwrap(head.uv, uv_faces[worn], side)
    positions = layout.positions(head.verts[None], faces[worn])[0].movedim(0, -1)
    normals = layout.normals(head.verts[None], faces[worn])[0].movedim(0, -1)
    return positions, normals, layout.valid, worn[layout.face_id[0].clamp(min=0)]


def _mouth_labels(flame: Flame) -> Int[Tensor, " F"]:
    """The index into MOUTH_PARTS of each triangle, -1 outside the mouth."""
    topology = flame.topology
    of_part = torch.full((len(topology.part_names),), -1)
    for label, word in enumerate(MOUTH_PARTS):
        for part in _PARTS_OF_LABEL.get(word, (word,)):
            of_part[topology.part_names.index(part)] = label
    labels = of_part[topology.part_ids]
    quads = topology.polygons[:, 3] >= 0
    return torch.cat([labels, labels[quads]])
