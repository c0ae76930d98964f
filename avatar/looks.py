"""What a reading looks like: texture, detail and a head to export, whichever model it is of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from avatar.face_models import FaceReading
from deca.official_surface import DetailMesh
from deca.pictures import MeshView, UvMap
from flame.camera import Projection
from flame.gltf import Animation
from flame.head import Head
from flame.material import Material

GREY = 0.7  # of texels that nothing is known of


@dataclass(frozen=True)
class TextureWishes:
    """Where textures come from: DECA's useTex and extractTex."""

    use_tex: bool = False  # the model's albedo where the picture shows no skin
    extract_tex: bool = True  # the picture where it shows skin
    side: int = 1024  # texels of the shipped head's skin; published ones have 256


@dataclass(frozen=True, eq=False)
class Detail:
    """Wrinkles of one reading."""

    normals: Float[Tensor, "1 3 K K"]  # unit, of the posed head, over the texture
    displacement: Float[Tensor, "1 K K"]  # metres along the smooth normal
    mesh: DetailMesh  # of the head without its pose


class Looks(ABC):
    """Pictures and exports of one reading; parts that are asked for twice are made once."""

    def __init__(
        self, reading: FaceReading, image: Float[Tensor, "1 3 H W"], wishes: TextureWishes
    ) -> None:
        self.reading, self.image, self.wishes = reading, image, wishes
        self.notes: list[str] = []  # what could not be done, for the report

    @property
    @abstractmethod
    def faces(self) -> Int[Tensor, "F 3"]:
        """The triangles that pictures show."""

    @property
    @abstractmethod
    def layout(self) -> tuple[Float[Tensor, "T 2"], Int[Tensor, "F 3"], Bool[Tensor, " F"]]:
        """UVs, UV faces beside `faces`, and which faces wear the texture."""

    @abstractmethod
    def albedo(self) -> Float[Tensor, "3 K K"] | None:
        """The model's own texture without light, sRGB; None where there is none."""

    @abstractmethod
    def texture(self) -> Float[Tensor, "3 K K"]:
        """The texture of exports, by the wishes."""

    @abstractmethod
    def rendered(
        self, view: MeshView, camera: Projection, size: tuple[int, int]
    ) -> Float[Tensor, "1 4 H W"]:
        """The textured head as in the picture, [1, 4, H, W]."""

    @abstractmethod
    def detail(self) -> Detail | None:
        """Wrinkles; None, with a note, where the model has none."""

    @abstractmethod
    def exported(self) -> tuple[Head, tuple[Material, ...], Animation | None]:
        """The person at rest, rigged, its materials, and a clip that holds the expression."""

    def over_texture(self, texels: Float[Tensor, "3 K K"]) -> UvMap:
        """A map on the drawn faces."""
        uv, uv_faces, worn = self.layout
        return UvMap(uv, uv_faces, texels[None], worn)

    def relief(self) -> UvMap | None:
        """The normals of the detail on the drawn faces, where there is detail."""
        found = self.detail()
        return None if found is None else self.over_texture(found.normals[0])

    @abstractmethod
    def landmarks(self, verts: Float[Tensor, "1 V 3"]) -> Float[Tensor, "1 68 3"]:
        """The 68 points of anything that is linear over the mesh."""


def held(weights: Float[Tensor, " M"], rotations: Float[Tensor, "J 3"]) -> Animation:
    """A clip of one second that keeps still."""
    return Animation(
        torch.tensor([0.0, 1.0]),
        weights[None].expand(2, -1),
        rotations[None].expand(2, -1, -1),
        name="expression",
    )


def plain(colour: float = GREY, side: int = 8) -> Float[Tensor, "3 K K"]:
    """A texture of one grey."""
    return torch.full((3, side, side), colour)
