"""Looks of published FLAME heads: texture spaces, extracted textures and DECA's wrinkles."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from assets.store import official_file, user_folder
from avatar.face_models import FaceReading
from avatar.looks import Detail, Looks, TextureWishes, held, plain
from avatar.official_models import OfficialModel
from deca.detail import MAP_SIDE
from deca.official_deca import Deca
from deca.official_surface import DetailMaps, detail_mesh, detail_surface
from deca.official_texture import extract_texture, shaded_albedo
from deca.pictures import MeshView, texture_picture
from flame.camera import Projection
from flame.gltf import Animation
from flame.head import JOINT_NAMES, Head
from flame.material import Material
from flame.normals import vertex_normals
from flame.texture import UvLayout, unwrap
from flame.texture_space import read_texture_space

# in the order of preference: published encoders were trained on the first
SPACES = ("flame/FLAME_albedo_from_BFM.npz", "flame/FLAME_texture.npz")
MAPS = ("deca/uv_face_eye_mask.png", "deca/fixed_displacement_256.npy")
_NO_UV = "FLAME's template (head_template.obj) is not there: textures lie on a made-up cylinder"


class OfficialLooks(Looks):
    """A FLAME head under a published encoder's codes."""

    def __init__(
        self,
        model: OfficialModel,
        reading: FaceReading,
        image: Float[Tensor, "1 3 H W"],
        wishes: TextureWishes,
    ) -> None:
        super().__init__(reading, image, wishes)
        self.model, self.flame = model, model.official_flame
        if not self.flame.has_uv:
            self.notes.append(_NO_UV)

    @property
    def faces(self) -> Int[Tensor, "F 3"]:
        """All of FLAME's triangles."""
        return self.flame.faces

    @property
    def layout(self) -> tuple[Float[Tensor, "T 2"], Int[Tensor, "F 3"], Bool[Tensor, " F"]]:
        """FLAME's one texture."""
        topology = self.flame.topology
        every = torch.ones(len(self.flame.faces), dtype=torch.bool)
        return topology.uv, topology.uv_polygons[:, :3], every

    @cached_property
    def _flat(self) -> UvLayout:
        uv, uv_faces, _ = self.layout
        return unwrap(uv, uv_faces, MAP_SIDE, gutter=0)

    @cached_property
    def _maps(self) -> DetailMaps:
        mask, fixed = (official_file(name) for name in MAPS)
        if mask is None or fixed is None:
            self.notes.append(
                f"{' and '.join(MAPS)} are not both in {user_folder()}: textures and detail cover "
                "the whole head"
            )
            return DetailMaps.none()
        return DetailMaps.read(mask, fixed)

    @cached_property
    def _albedo(self) -> Tensor | None:
        path = next((p for name in SPACES if (p := official_file(name)) is not None), None)
        codes = self.reading.albedo
        if path is None or codes is None:
            self.notes.append(f"no albedo: {SPACES[0]} is not in {user_folder()}")
            return None
        space = read_texture_space(path, n_components=codes.shape[1])
        return space.decode(codes, side=MAP_SIDE)[0].clamp(0, 1)

    def albedo(self) -> Float[Tensor, "3 K K"] | None:
        """The texture space's, where the user has placed one."""
        return self._albedo

    @cached_property
    def _texture(self) -> Tensor:
        # an expression that was put on is not in the picture
        reading, wishes = self.reading.seen or self.reading, self.wishes
        shaded = None
        if wishes.use_tex and self._albedo is not None:
            light = reading.light
            assert light is not None
            normals = self._flat.normals(reading.posed, self.flame.faces)
            shaded = shaded_albedo(self._albedo[None], normals, light).clamp(0, 1)
        if not wishes.extract_tex:
            return plain(side=MAP_SIDE) if shaded is None else shaded[0]
        found = extract_texture(
            reading.crop.image,
            reading.posed,
            self.flame.faces,
            reading.camera,
            self._flat,
            self._maps.mask,
            shaded,
        )
        return found.image[0].clamp(0, 1)

    def texture(self) -> Float[Tensor, "3 K K"]:
        """The picture's colours with its light, and beyond them the model's or grey."""
        return self._texture

    def rendered(
        self, view: MeshView, camera: Projection, size: tuple[int, int]
    ) -> Float[Tensor, "1 4 H W"]:
        """The texture as it is: the picture's light is in it."""
        return texture_picture(view, self.over_texture(self._texture))

    @cached_property
    def _detail(self) -> Detail | None:
        mix = self.model.mix
        decoder = None if mix is None or mix.detail is None else self.model.encoders[mix.detail]
        if not isinstance(decoder, Deca):
            self.notes.append(f"detail was left out: {self.model.name} gives none")
            return None
        reading, codes = self.reading, self.reading.codes
        faces = self.flame.faces
        with torch.no_grad():
            raised = decoder.displacement(
                codes["jaw"][None], codes["expression"][None, :50], codes["detail"][None]
            )
            surface = detail_surface(reading.posed, faces, self._flat, raised, self._maps)
        uv, uv_faces, _ = self.layout
        mesh = detail_mesh(
            reading.vertices, faces, uv, uv_faces, surface.displacement[0], self._texture
        )
        return Detail(surface.normals, surface.displacement[0], mesh)

    def detail(self) -> Detail | None:
        """DECA's wrinkles, where the mix takes detail from DECA or EMOCA."""
        return self._detail

    def exported(self) -> tuple[Head, tuple[Material, ...], Animation | None]:
        """The person at rest with one shape, the expression that was seen, and a clip of it."""
        reading = self.reading
        moved = (reading.vertices - reading.neutral_vertices)[None]
        head = self.flame.head(reading.params.shape[0], moved, ("expression",))
        materials = tuple(Material(name, self._texture) for name in head.material_names)
        return head, materials, held(torch.ones(1), torch.zeros(len(JOINT_NAMES), 3))

    def landmarks(self, verts: Float[Tensor, "1 V 3"]) -> Float[Tensor, "1 68 3"]:
        """The 68 points of anything that is linear over the mesh."""
        return self.flame.landmarks68(verts)

    def normals(self) -> Float[Tensor, "1 V 3"]:
        """Smooth normals of the posed head."""
        return vertex_normals(self.reading.posed, self.flame.faces)
