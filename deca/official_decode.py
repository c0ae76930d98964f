"""Everything that DECA's own decoding gives of codes, in one call and under the published names."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from deca.detail import MAP_SIDE
from deca.official_codes import OfficialCodes
from deca.official_deca import Deca
from deca.official_surface import DetailMaps, DetailSurface, SurfaceConfig, detail_surface
from deca.official_texture import (
    ExtractConfig,
    extract_texture,
    shaded_albedo,
    visible_landmarks,
)
from flame.interpolate import interpolate
from flame.light import sh_shading
from flame.normals import vertex_normals
from flame.official import OfficialFlame
from flame.raster import rasterize
from flame.records import TensorRecord
from flame.texture import sample_texture, unwrap
from flame.texture_space import TextureSpace


@dataclass(frozen=True)
class DecodeConfig:
    """What is computed, and where the published results differ from right ones."""

    detail: bool = True  # wrinkles, where the model was loaded with them
    published_unlit_render: bool = False  # rendered_images show the albedo without its light
    surface: SurfaceConfig = field(default_factory=SurfaceConfig)
    extract: ExtractConfig = field(default_factory=ExtractConfig)


@dataclass(frozen=True, eq=False)
class View:
    """Pictures other than the crop: where it lies in them, and their size (DECA's render_orig)."""

    image_from_crop: Float[Tensor, "B 3 3"]  # pixels to pixels
    size: tuple[int, int]  # height, width


@dataclass(frozen=True, eq=False)
class Decoded(TensorRecord):
    """Heads of B codes. Points of pictures run from -1 to 1, x to the right, y down, as published.

    Textures are 256 texels a side. None: what it takes was not given (a texture space, pictures,
    detail).
    """

    verts: Float[Tensor, "B V 3"]  # metres, FLAME's axes
    normals: Float[Tensor, "B V 3"]
    trans_verts: Float[Tensor, "B V 3"]  # in the picture; smaller z is nearer
    landmarks2d: Float[Tensor, "B 68 2"]  # jaw line along the outline
    landmarks3d: Float[Tensor, "B 68 3"]  # jaw line fixed to the surface
    landmarks3d_world: Float[Tensor, "B 68 3"]  # metres
    landmarks3d_visible: Bool[Tensor, "B 68"]  # face the camera, or nearly so
    grid: Float[Tensor, "B H W 2"]  # texture place of each pixel, as grid_sample takes it
    alpha_images: Float[Tensor, "B 1 H W"]
    normal_images: Float[Tensor, "B 3 H W"]  # FLAME's axes, -1..1; 0 where there is no head
    rendered_images: Float[Tensor, "B 3 H W"] | None
    albedo: Float[Tensor, "B 3 K K"] | None  # about 0..1, as stored in sRGB files
    uv_texture: Float[Tensor, "B 3 K K"] | None  # the albedo under its light
    uv_texture_gt: Float[Tensor, "B 3 K K"] | None  # the picture's colours
    uv_detail_normals: Float[Tensor, "B 3 K K"] | None
    displacement_map: Float[Tensor, "B 1 K K"] | None  # metres

    def as_dict(self) -> dict[str, Tensor]:
        """What is there, by its published name."""
        found = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return {name: value for name, value in found.items() if value is not None}


@torch.no_grad()
def decode(
    codes: OfficialCodes,
    flame: OfficialFlame,
    deca: Deca | None = None,
    *,
    texture: TextureSpace | None = None,
    maps: DetailMaps | None = None,
    images: Float[Tensor, "B 3 S S"] | None = None,
    view: View | None = None,
    wrinkles_of: OfficialCodes | None = None,
    side: int = 224,
    config: DecodeConfig | None = None,
) -> Decoded:
    """Heads, pictures and maps of codes.

    `images` are the crops, whose colours become a texture. Pictures are those of the crop, `side`
    pixels wide, or of `view`. Wrinkles follow the jaw and expression of `wrinkles_of` instead of
    the codes' own (DECA's iddict). Without `maps` wrinkles cover the whole head.
    """
    config = config or DecodeConfig()
    if images is not None and len(images) != len(codes.shape):
        raise ValueError(f"{len(images)} images do not go with {len(codes.shape)} codes")
    params = codes.to_params()
    lids = codes.eyelids if flame.eyelids is not None else None
    verts = flame(params, lids).verts
    normals = vertex_normals(verts, flame.faces)
    layout = unwrap(flame.topology.uv, flame.topology.uv_polygons[:, :3], MAP_SIDE, gutter=0)
    maps = maps or DetailMaps.none(MAP_SIDE)

    trans_verts = _in_picture(verts, codes, view, side)
    size = (side, side) if view is None else view.size
    fixed = flame.landmarks68(verts)
    moving = flame.contour_landmarks68(verts, flame.head_yaw_deg(params))
    fixed_normals = torch.nn.functional.normalize(flame.landmarks68(normals), dim=-1)

    surface: DetailSurface | None = None
    if config.detail and deca is not None and deca.config.detail:
        mover = wrinkles_of or codes
        raised = deca.displacement(mover.jaw, mover.expression, codes.detail)
        surface = detail_surface(verts, flame.faces, layout, raised, maps, config.surface)
    albedo = texture.decode(codes.albedo, side=MAP_SIDE) if texture is not None else None
    shaded = None
    if albedo is not None:
        fine = layout.normals(verts, flame.faces) if surface is None else surface.normals
        shaded = shaded_albedo(albedo, fine, codes.light)
    extracted = None
    if images is not None:
        extracted = extract_texture(
            images, verts, flame.faces, codes.crop_camera(), layout, maps.mask, shaded,
            config.extract,
        ).image  # fmt: skip

    grid, alpha, seen, uv = _pixels(trans_verts, normals, flame, size)
    rendered = None
    if albedo is not None:
        light = seen.new_ones(seen.shape)
        if not config.published_unlit_render:
            light = sh_shading(seen, codes.light)
        rendered = sample_texture(albedo, uv) * light.movedim(-1, 1) * alpha
    return Decoded(
        verts=verts,
        normals=normals,
        trans_verts=trans_verts,
        landmarks2d=_in_picture(moving, codes, view, side)[..., :2],
        landmarks3d=_in_picture(fixed, codes, view, side),
        landmarks3d_world=fixed,
        landmarks3d_visible=visible_landmarks(fixed_normals),
        grid=grid,
        alpha_images=alpha,
        normal_images=seen.movedim(-1, 1),
        rendered_images=rendered,
        albedo=albedo,
        uv_texture=shaded,
        uv_texture_gt=extracted,
        uv_detail_normals=None if surface is None else surface.normals,
        displacement_map=None if surface is None else surface.displacement,
    )


def _in_picture(
    points: Float[Tensor, "B N 3"], codes: OfficialCodes, view: View | None, side: int
) -> Float[Tensor, "B N 3"]:
    """DECA's weak perspective, -1..1 with y down; z has the scale of the crop's x and y."""
    scale, shift = codes.camera[:, None, :1], codes.camera[:, None, 1:]
    flat = scale * (points[..., :2] + shift) * points.new_tensor([1.0, -1.0])
    depth = -scale * points[..., 2:]
    if view is None:
        return torch.cat([flat, depth], dim=-1)
    pixels = (flat + 1) * (side / 2)
    matrix = view.image_from_crop.to(points)
    moved = pixels @ matrix[:, :2, :2].transpose(1, 2) + matrix[:, None, :2, 2]
    height, width = view.size
    return torch.cat([moved / moved.new_tensor([width, height]) * 2 - 1, depth], dim=-1)


def _pixels(
    trans_verts: Float[Tensor, "B V 3"],
    normals: Float[Tensor, "B V 3"],
    flame: OfficialFlame,
    size: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Texture grid, alpha, unit normals and UV of each pixel."""
    height, width = size
    half = trans_verts.new_tensor([width / 2, height / 2])
    screen = torch.cat([(trans_verts[..., :2] + 1) * half, trans_verts[..., 2:]], dim=-1)
    fragments = rasterize(screen, flame.faces, size)
    there = fragments.face_id >= 0
    topology = flame.topology
    uv = interpolate(topology.uv, topology.uv_polygons[:, :3], fragments)
    grid = torch.stack([uv[..., 0] * 2 - 1, 1 - uv[..., 1] * 2], dim=-1)
    seen = interpolate(normals, flame.faces, fragments)
    seen = torch.nn.functional.normalize(seen, dim=-1)
    return grid * there[..., None], there[:, None].to(seen.dtype), seen, uv
