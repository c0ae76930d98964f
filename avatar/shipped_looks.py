"""Looks of the shipped head: skin out of the picture, eyes, mouth and lashes of the outfit."""

from __future__ import annotations

import dataclasses
from functools import cache, cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from assets.errors import AssetError
from avatar.face_models import FaceReading, ShippedModel
from avatar.looks import Detail, Looks, TextureWishes, held, plain
from deca.appearance import iris_color
from deca.codes import Codes, Crop
from deca.crop import crop_square
from deca.detail_net import load_detail_net
from deca.face_region import face_region
from deca.official_surface import DetailMaps, detail_mesh, detail_surface
from deca.pictures import MeshView
from deca.shipped_detail import detail_of, normal_map
from deca.texture import TextureConfig, skin_texture
from flame.camera import Camera, Projection
from flame.gltf import Animation
from flame.head import JOINT_NAMES, Head
from flame.interpolate import interpolate
from flame.light import Lights, sh_basis
from flame.material import Material
from flame.outfit import Outfit, load_outfit
from flame.render import RenderConfig, Renderer
from flame.srgb import srgb_to_linear
from flame.texture import unwrap
from flame.wrinkle_map import joined_normals

_HIDDEN = ("lashes", "shirt")  # of pictures that show shape
_VIEW = 1.9  # side of the skin's crop in sides of the points' square
_PULL = 0.008  # toward the encoder's light, of the pixels' own weight
_FEWEST = 50  # pixels of a face that tell its light
_DENSE = 512  # texels of the dense mesh


@cache
def _outfit() -> Outfit:
    return load_outfit()


class ShippedLooks(Looks):
    """The shipped head in the picture's skin."""

    def __init__(
        self,
        model: ShippedModel,
        reading: FaceReading,
        image: Float[Tensor, "1 3 H W"],
        wishes: TextureWishes,
    ) -> None:
        super().__init__(reading, image, wishes)
        self.flame = model.flame

    @cached_property
    def _rest(self) -> Head:
        return self.flame.head(self.reading.params.shape[0])

    @cached_property
    def _drawn(self) -> tuple[Tensor, Tensor, Tensor]:
        """Faces, UV faces and materials of what pictures of the shape show."""
        faces, uv_faces, ids = self._rest.triangles()
        hidden = torch.tensor([self._rest.material_names.index(name) for name in _HIDDEN])
        kept = ~torch.isin(ids, hidden)
        return faces[kept], uv_faces[kept], ids[kept]

    @property
    def faces(self) -> Int[Tensor, "F 3"]:
        """The bare head's triangles."""
        return self._drawn[0]

    @property
    def layout(self) -> tuple[Float[Tensor, "T 2"], Int[Tensor, "F 3"], Bool[Tensor, " F"]]:
        """The skin's layout; eyes and mouth wear their own."""
        skin = self._rest.material_names.index("skin")
        return self._rest.uv, self._drawn[1], self._drawn[2] == skin

    @cached_property
    def _albedo(self) -> Tensor:
        assert self.reading.albedo is not None
        return _outfit().albedo.decode(self.reading.albedo, self.wishes.side)[0]

    def albedo(self) -> Float[Tensor, "3 K K"] | None:
        """The albedo model's skin."""
        return self._albedo

    @cached_property
    def _seen(self) -> tuple[Codes, Crop]:
        """The codes, with the camera of a crop that has room round the head, and that crop."""
        reading = self.reading
        old = reading.crop.matrix[:2, :2]
        side = float(reading.crop.image.shape[-1] / old[0].norm())
        points = reading.landmarks2d
        span = float((points.amax(0) - points.amin(0)).max())
        wide = max(_VIEW * span, side)
        middle = reading.crop.matrix.inverse()[:2] @ torch.tensor(
            [reading.crop.image.shape[-1] / 2, reading.crop.image.shape[-1] / 2, 1.0]
        )
        roll = float(torch.atan2(old[0, 1], old[0, 0]))
        crop = crop_square(self.image, middle, wide, int(min(max(wide, 256), 1024)), roll)
        camera = reading.camera
        scale = camera.scale * side / wide
        fov = torch.rad2deg(2 * torch.atan(camera.nearness() / scale))
        assert reading.albedo is not None and reading.light is not None
        light = self._lit(reading.light)
        codes = Codes(reading.params, reading.albedo, Camera(scale, camera.shift, fov), light)
        return codes, crop

    def _lit(self, light: Float[Tensor, "1 9 3"]) -> Float[Tensor, "1 9 3"]:
        """The light under which the albedo looks most like the picture's face.

        Robust least squares in linear light, drawn toward the encoder's light at the picture's
        exposure, which one picture does not tell from the skin's tone.
        """
        reading, region = self.reading, face_region(self.flame)
        side = reading.crop.image.shape[-1]
        view = MeshView.of(reading.posed, self.faces, reading.camera, (side, side), samples=1)
        texels, skin = self.over_texture(self._albedo).seen(view)
        share = interpolate(region.share, view.faces, view.fragments)[0, ..., 0]
        chosen = (skin[0, 0] > 0) & (share > 0.5) & (view.normals()[0, 2] > 0.2)
        if int(chosen.sum()) < _FEWEST:
            return light
        albedo = srgb_to_linear(texels)[0, :, chosen].T.clamp(min=1e-3)  # [N, 3]
        picture = srgb_to_linear(reading.crop.image)[0, :, chosen].T
        basis = sh_basis(view.normals()[0, :, chosen].T)  # [N, 9]
        guess = basis @ light[0] * albedo
        exposure = float((picture.mean(0) / guess.mean(0).clamp(min=1e-3)).median())
        prior = light[0] * min(max(exposure, 0.05), 20.0)
        pull = _PULL * len(basis) * torch.eye(9)
        found = prior
        for _ in range(4):
            off = (picture - basis @ found * albedo).norm(dim=1)
            scale = off.median().clamp(min=1e-3)
            weight = 1 / (1 + (off / (2 * scale)).square())
            columns = []
            for channel in range(3):
                rows = basis * albedo[:, channel : channel + 1]
                matrix = (rows * weight[:, None]).T @ rows + pull * albedo[
                    :, channel
                ].square().mean()
                goal = picture[:, channel] - rows @ prior[:, channel]
                step = torch.linalg.solve(matrix, (rows * weight[:, None]).T @ goal)
                columns.append(prior[:, channel] + step)
            found = torch.stack(columns, dim=1)
        return found[None]

    @cached_property
    def _skin(self) -> Tensor:
        if not self.wishes.extract_tex:
            return self._albedo if self.wishes.use_tex else plain()
        codes, crop = self._seen
        config = TextureConfig(side=self.wishes.side)
        return skin_texture(self.flame, _outfit().albedo, codes, crop.image, config).base_color

    def texture(self) -> Float[Tensor, "3 K K"]:
        """The picture's skin with its light divided out, completed by the albedo model."""
        return self._skin

    @cached_property
    def _materials(self) -> tuple[Material, ...]:
        codes, crop = self._seen
        iris = iris_color(self.flame, codes, crop.image)
        generator = torch.Generator().manual_seed(0)
        return _outfit().materials(self._skin, iris, hair=None, generator=generator)

    @torch.no_grad()
    def rendered(self, view: MeshView, camera: Projection, size: tuple[int, int]) -> Tensor:
        """The head under the light that was read off the picture."""
        rest = self._rest
        faces, uv_faces, ids = rest.triangles()
        kept = ids != rest.material_names.index("shirt")
        renderer = Renderer(
            faces[kept], rest.uv, uv_faces[kept], ids[kept], _in_order(rest, self._materials),
            config=RenderConfig(shadow_side=0, tone="linear"),
        )  # fmt: skip
        light = self._seen[0].light
        none = light.new_zeros(1, 0, 3)
        return renderer(self.reading.posed, camera, Lights(light, none, none), size, supersample=2)

    @cached_property
    def _wrinkles(self) -> Tensor | None:
        """Displacement over the skin's texture, metres [1, K, K]; None without a model."""
        try:
            net = load_detail_net()
        except AssetError as error:
            self.notes.append(f"detail was left out: {error}")
            return None
        codes, crop = self._seen
        return detail_of(self.flame, codes, crop, net).displacement

    @cached_property
    def _detail(self) -> Detail | None:
        if self._wrinkles is None:
            return None
        rest, reading = self._rest, self.reading
        faces, uv_faces, ids = rest.triangles()
        skin = ids == rest.material_names.index("skin")
        raised = torch.nn.functional.interpolate(
            self._wrinkles[None], size=(_DENSE, _DENSE), mode="area"
        )
        layout = unwrap(rest.uv, uv_faces[skin], _DENSE, gutter=0)
        surface = detail_surface(reading.posed, faces[skin], layout, raised, _where(raised[0, 0]))
        colours = torch.nn.functional.interpolate(
            self._skin[None], size=(_DENSE, _DENSE), mode="bilinear", antialias=True
        )[0]
        mesh = detail_mesh(
            reading.vertices, faces[skin], rest.uv, uv_faces[skin], raised[0], colours
        )
        return Detail(surface.normals, raised[0], mesh)

    def detail(self) -> Detail | None:
        """Wrinkles by the shipped detail model."""
        return self._detail

    def exported(self) -> tuple[Head, tuple[Material, ...], Animation | None]:
        """The head at rest with its 52 shapes, and a clip of the face that was seen."""
        materials = self._materials
        if self._wrinkles is not None:
            materials = tuple(self._wrinkled(material) for material in materials)
        # the shapes turn jaw and eyes too, so that the joints keep still
        weights = self.reading.codes["arkit"][: len(self._rest.morphs)]
        clip = held(weights, torch.zeros(len(JOINT_NAMES), 3))
        return self._rest, materials, clip

    def _wrinkled(self, material: Material) -> Material:
        """The skin with its wrinkles in the normal map."""
        if material.name != "skin" or material.normal is None or self._wrinkles is None:
            return material
        own = material.normal[None]
        side = (own.shape[-2], own.shape[-1])
        lines = torch.nn.functional.interpolate(
            normal_map(self._wrinkles, self.flame), size=side, mode="bilinear", antialias=True
        )
        return dataclasses.replace(material, normal=joined_normals(own, lines)[0])

    def landmarks(self, verts: Float[Tensor, "1 V 3"]) -> Float[Tensor, "1 68 3"]:
        """The 68 points of anything that is linear over the mesh."""
        return self.flame.landmarks68(verts)


def _in_order(head: Head, materials: tuple[Material, ...]) -> list[Material]:
    known = {material.name: material for material in materials}
    return [known[name] for name in head.material_names]


def _where(raised: Float[Tensor, "K K"]) -> DetailMaps:
    """Fine normals near the wrinkles alone: elsewhere texels would show as steps."""
    near = torch.nn.functional.max_pool2d((raised.abs() > 1e-6).float()[None], 9, 1, 4)
    soft = torch.nn.functional.avg_pool2d(near, 9, 1, 4)[0]
    return DetailMaps(soft, torch.zeros_like(soft))
