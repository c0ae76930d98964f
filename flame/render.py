"""The preview renderer: textured, lit pictures of posed meshes, fast on one CPU core.

It draws the README's pictures, the talking videos' frames and the training images. Nothing here
has gradients: fitting goes through `flame.raster`, `flame.interpolate` and `flame.light`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from flame.camera import Projection
from flame.head import Head
from flame.light import SH_CONSTANTS, Lights, studio_lights
from flame.material import Material
from flame.normals import vertex_normals
from flame.raster import check_indices, draw, each, homogeneous_pixels
from flame.raster import kernels as raster_kernels

log = logging.getLogger(__name__)

Background = Float[Tensor, "3"] | Float[Tensor, "3 H W"] | Float[Tensor, "B 3 H W"] | None
Tone = Literal["linear", "neutral", "filmic"]

_TONES: dict[str, int] = {"linear": 0, "neutral": 1, "filmic": 2}
_OPAQUE = 0.95  # alpha from which a blended fragment hides what is behind it
_SRGB_STEPS = 4080  # a multiple of 255, so that 8-bit colours are exact


@dataclass(frozen=True)
class Look:
    """What a Material does not say about a surface; `LOOKS` has those of the shipped head."""

    wrap: tuple[float, float, float] = (0.0, 0.0, 0.0)  # how far light creeps past the terminator
    reflectance: float = 0.04  # seen straight on
    strands: bool = False  # hair: highlights run across the direction of growing v


LOOKS: dict[str, Look] = {
    "skin": Look(wrap=(0.38, 0.20, 0.14), reflectance=0.028),
    "mouth": Look(wrap=(0.30, 0.18, 0.14), reflectance=0.03),
    "hair": Look(strands=True),
    "lashes": Look(wrap=(0.5, 0.5, 0.5), reflectance=0.02),
    "eyes": Look(wrap=(0.15, 0.12, 0.12), reflectance=0.03),
}


@dataclass(frozen=True)
class RenderConfig:
    """Quality and picture settings of a Renderer."""

    shadow_side: int = 320  # texels of the key light's shadow map; 0 draws no shadows
    exposure: float = 1.0
    tone: Tone = "neutral"

    def __post_init__(self) -> None:
        if self.tone not in _TONES:
            raise ValueError(f"tone={self.tone!r} is unknown; choose one of {list(_TONES)}")
        if self.shadow_side != 0 and not 16 <= self.shadow_side <= 8192:
            raise ValueError(f"shadow_side={self.shadow_side}; choose 0 (none) or 16 to 8192")


@dataclass(frozen=True, eq=False)
class _Mipmap:
    """A texture as 16-bit linear texels [N, 4] and (first texel, height, width) of its levels."""

    texels: NDArray[np.uint16]
    levels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Surface:
    """One material, prepared, and the indices of the faces that wear it."""

    material: Material
    look: Look
    base: _Mipmap
    detail: _Mipmap | None
    faces: NDArray[np.int64]
    visible_alpha: float  # texture alpha from which a fragment is drawn


@cache
def kernels() -> ModuleType:
    """The compiled kernels; the first call on a machine compiles them, later ones load them."""
    start = time.perf_counter()
    log.info("loading the renderer's kernels (the first time they are compiled, about 20 s)")
    from flame import render_kernels

    log.info("the renderer's kernels were ready after %.1f s", time.perf_counter() - start)
    return render_kernels


class Renderer:
    """Pictures of one mesh; build it once, call it with new vertices.

    Faces index vertices, uv_faces index uv (origin bottom left), material_ids index materials.
    Smooth normals ignore UV seams. Faces that show their back are dropped unless their material is
    double-sided. BLEND materials are sorted per fragment.
    """

    def __init__(
        self,
        faces: Int[Tensor, "F 3"],
        uv: Float[Tensor, "T 2"],
        uv_faces: Int[Tensor, "F 3"],
        material_ids: Int[Tensor, " F"],
        materials: Sequence[Material],
        looks: dict[str, Look] | None = None,
        config: RenderConfig | None = None,
    ) -> None:
        check_indices(uv_faces, len(uv), "uv_faces")
        if len(material_ids) and not 0 <= int(material_ids.min()) <= int(material_ids.max()) < len(
            materials
        ):
            raise ValueError(
                f"material_ids run from {int(material_ids.min())} to {int(material_ids.max())}, "
                f"but there are {len(materials)} materials; give one for every id"
            )
        self.config = config or RenderConfig()
        self._looks = LOOKS if looks is None else looks
        self._faces = faces.detach().long().contiguous()
        self._uv = uv.detach().float().contiguous()
        self._uv_faces = uv_faces.detach().long().contiguous()
        self._ids = material_ids.detach().long()
        self._surfaces = [self._prepare(index, one) for index, one in enumerate(materials)]

    @classmethod
    def of_head(
        cls, head: Head, materials: Sequence[Material], config: RenderConfig | None = None
    ) -> Renderer:
        """A renderer of a head's triangles; materials are matched to its names, in any order."""
        faces, uv_faces, ids = head.triangles()
        known = {material.name: material for material in materials}
        missing = [name for name in head.material_names if name not in known]
        if missing:
            raise ValueError(
                f"the head wears {list(head.material_names)}, but no material is given for "
                f"{missing}; pass a Material of each name"
            )
        ordered = [known[name] for name in head.material_names]
        return cls(faces, head.uv, uv_faces, ids, ordered, config=config)

    def with_materials(self, materials: Sequence[Material]) -> Renderer:
        """The same mesh with some materials changed, matched by name; the rest is shared."""
        names = [surface.material.name for surface in self._surfaces]
        changed = list(self._surfaces)
        for material in materials:
            if material.name not in names:
                raise ValueError(
                    f"there is no material {material.name!r} to change; the mesh has {names}"
                )
            index = names.index(material.name)
            changed[index] = self._prepare(index, material)
        return self._copy(surfaces=changed)

    def with_config(self, config: RenderConfig) -> Renderer:
        """The same mesh and materials with other settings."""
        return self._copy(config=config)

    def __call__(
        self,
        verts: Float[Tensor, "B V 3"],
        camera: Projection,
        lights: Lights | None = None,
        size: tuple[int, int] = (512, 512),
        *,
        background: Background = None,
        supersample: int = 1,
        occlusion: Float[Tensor, " N"] | None = None,
    ) -> Float[Tensor, "B 4 H W"]:
        """Pictures 0..1 as sRGB with straight alpha; with a background, alpha is 1.

        camera and lights have B items, or one for all (lights default to a studio's). background is
        sRGB: a colour [3], an image [3, H, W] or one each. supersample=2 draws four samples a
        pixel. occlusion is the share of the sky each vertex sees, as ambient_occlusion gives it.
        """
        check_indices(self._faces, verts.shape[1], "faces")
        if supersample not in (1, 2, 3, 4):
            raise ValueError(f"supersample={supersample}; choose 1, 2, 3 or 4")
        height, width = size
        if min(size) < 1 or max(size) * supersample > 16_384:
            raise ValueError(
                f"size is {size} with supersample={supersample}; each side must be at least 1 and "
                "16384 with supersampling at most"
            )
        if occlusion is not None and len(occlusion) != verts.shape[1]:
            raise ValueError(
                f"occlusion has {len(occlusion)} values, but there are {verts.shape[1]} vertices; "
                "give each one"
            )
        batch = len(verts)
        with torch.no_grad():
            verts = verts.detach().float().cpu().contiguous()
            lights = (lights or studio_lights()).expand(batch)
            clip = camera.clip(verts, size).double()
            eyes = camera.eye_point().double().expand(batch, 4)
            normals = torch.zeros_like(verts)
            sky = torch.ones(verts.shape[1]) if occlusion is None else occlusion.float()
            backgrounds = _backgrounds(background, batch, size)
            out = torch.empty(batch, 4, height, width)
            each(
                lambda item: self._draw(
                    verts[item],
                    normals[item],
                    clip[item],
                    eyes[item].contiguous(),
                    lights[item],
                    sky.contiguous(),
                    supersample,
                    backgrounds[item],
                    out[item],
                ),
                batch,
            )
        return out

    def _copy(
        self, surfaces: list[_Surface] | None = None, config: RenderConfig | None = None
    ) -> Renderer:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        if surfaces is not None:
            other._surfaces = surfaces
        if config is not None:
            other.config = config
        return other

    def _prepare(self, index: int, material: Material) -> _Surface:
        look = self._looks.get(material.name, Look())
        alpha = {"OPAQUE": 0.0, "MASK": material.alpha_cutoff, "BLEND": 0.004}
        return _Surface(
            material,
            look,
            _mipmap(material.base_color, srgb=True),
            _detail(material),
            torch.nonzero(self._ids == index)[:, 0].contiguous().numpy(),
            alpha[material.alpha_mode],
        )

    def _draw(
        self,
        verts: Tensor,
        normals: Tensor,
        clip: Tensor,
        eye: Tensor,
        lights: Lights,
        sky: Tensor,
        samples: int,
        background: NDArray[np.float32],
        out: Tensor,
    ) -> None:
        height, width = out.shape[1] * samples, out.shape[2] * samples
        kernels().smooth_normals(verts.numpy(), self._faces.numpy(), normals.numpy())
        points = homogeneous_pixels(clip[None], (height, width))[0].contiguous().numpy()
        face_id = np.full((height, width), -1, dtype=np.int64)
        depth = np.full((height, width), np.inf, dtype=np.float32)
        shadow_map, to_shadow = self._shadow(verts, lights)
        constants = lights.sh.new_tensor(SH_CONSTANTS).double()
        light = (
            eye.numpy(),
            (lights.sh[0].double() * constants[:, None]).contiguous().numpy(),
            lights.directions[0].double().contiguous().numpy(),
            lights.colours[0].double().contiguous().numpy(),
            shadow_map,
            to_shadow,
        )
        mesh = (points, verts.numpy(), normals.numpy(), sky.numpy(), self._faces.numpy())

        for surface in self._surfaces:
            cutoff = _OPAQUE if surface.material.alpha_mode == "BLEND" else surface.visible_alpha
            self._z_pass(points, surface, -1.0, face_id, depth, cutoff)

        image = np.zeros((height * width, 4), dtype=np.float32)
        flat = face_id.reshape(-1)
        covered = np.flatnonzero(flat >= 0)
        wears = self._ids.numpy()[flat[covered]]
        for index, surface in enumerate(self._surfaces):
            pixels = covered[wears == index]
            if len(pixels):
                image[pixels] = self._shade(surface, pixels, flat[pixels], width, mesh, light)
        image[covered, 3] = 1

        self._blend(image, face_id, depth, mesh, light)
        kernels().finish(
            image.reshape(height, width, 4),
            samples,
            float(self.config.exposure),
            _TONES[self.config.tone],
            _ENCODE,
            background,
            out.numpy(),
        )

    def _blend(
        self,
        image: NDArray[np.float32],
        face_id: NDArray[np.int64],
        depth: NDArray[np.float32],
        mesh: tuple[NDArray[np.generic], ...],
        light: tuple[NDArray[np.generic], ...],
    ) -> None:
        """Soft-edged fragments before the opaque surface, farthest first."""
        found = []
        for surface in self._surfaces:
            if surface.material.alpha_mode != "BLEND":
                continue
            room = max(face_id.size, 16)
            while True:
                pixels, ids = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
                away = np.empty(room, dtype=np.float32)
                count = self._z_pass(
                    mesh[0], surface, -1.0, face_id, depth, surface.visible_alpha,
                    (pixels, ids, away),
                )  # fmt: skip
                if count <= room:
                    break
                room = count
            if count:
                pixels, ids = pixels[:count].copy(), ids[:count].copy()
                colours = self._shade(surface, pixels, ids, face_id.shape[1], mesh, light)
                found.append((pixels, ids, away[:count], colours))
        if found:
            pixels, ids, away, colours = (
                np.concatenate(parts) for parts in zip(*found, strict=True)
            )
            order = np.lexsort((ids, -away))
            kernels().composite(image, pixels, colours, order, _OPAQUE)

    def _z_pass(
        self,
        points: NDArray[np.generic],
        surface: _Surface,
        near: float,
        face_id: NDArray[np.int64],
        depth: NDArray[np.float32],
        cutoff: float,
        fragments: tuple[NDArray[np.generic], ...] | None = None,
    ) -> int:
        """Draw one surface's faces; with `fragments`, list them there and return their number."""
        if fragments is None:
            none = np.empty(0, dtype=np.int64)
            fragments = (none, none, np.empty(0, dtype=np.float32))
        count: int = raster_kernels().z_pass(
            points, self._faces.numpy(), surface.faces, near,
            int(not surface.material.double_sided), 0, len(face_id), face_id, depth,
            self._uv.numpy(), self._uv_faces.numpy(), surface.base.texels, surface.base.levels,
            cutoff, *fragments,
        )  # fmt: skip
        return count

    def _shade(
        self,
        surface: _Surface,
        pixels: NDArray[np.int64],
        ids: NDArray[np.int64],
        width: int,
        mesh: tuple[NDArray[np.generic], ...],
        light: tuple[NDArray[np.generic], ...],
    ) -> NDArray[np.float32]:
        """Linear colour and alpha of fragments of one surface [N, 4]."""
        material, look = surface.material, surface.look
        roughness = material.roughness if isinstance(material.roughness, float) else 0.6
        detail = surface.detail or surface.base
        values = (roughness, look.reflectance, *look.wrap, surface.detail is not None, look.strands)
        colours = np.empty((len(pixels), 4), dtype=np.float32)
        uv, uv_faces = self._uv.numpy(), self._uv_faces.numpy()
        _, verts, _, _, faces = mesh
        tangents = np.zeros((len(uv) if look.strands else 0, 3), dtype=np.float32)
        if look.strands:
            kernels().strand_tangents(verts, faces, uv, uv_faces, surface.faces, tangents)
        kernels().shade_fragments(
            pixels, ids, width, *mesh, uv, uv_faces, tangents,
            surface.base.texels, surface.base.levels, detail.texels, detail.levels,
            np.array(values, dtype=np.float64), *light, colours,
        )  # fmt: skip
        return colours

    def _shadow(
        self, verts: Tensor, lights: Lights
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Depths seen from the key light, and the matrix from world to its texels and depth."""
        side = self.config.shadow_side
        if not side or lights.directions.shape[1] == 0:
            return np.empty((0, 0), dtype=np.float32), np.zeros((3, 4))
        to_shadow = _light_matrix(verts, lights.directions[0, 0], side)
        points = _seen_from_light(verts, to_shadow).numpy()
        face_id = np.full((side, side), -1, dtype=np.int64)
        depth = np.full((side, side), np.inf, dtype=np.float32)
        for surface in self._surfaces:
            cutoff = 0.0 if surface.material.alpha_mode == "OPAQUE" else 0.5
            self._z_pass(points, surface, -math.inf, face_id, depth, cutoff)
        return depth, to_shadow.numpy()


def render(
    verts: Float[Tensor, "B V 3"],
    head: Head,
    materials: Sequence[Material],
    camera: Projection,
    lights: Lights | None = None,
    size: tuple[int, int] = (512, 512),
    *,
    background: Background = None,
    supersample: int = 1,
    occlusion: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, "B 4 H W"]:
    """Pictures of a posed head; to draw many, build a Renderer once."""
    renderer = Renderer.of_head(head, materials)
    return renderer(
        verts,
        camera,
        lights,
        size,
        background=background,
        supersample=supersample,
        occlusion=occlusion,
    )


def ambient_occlusion(
    verts: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    directions: int = 64,
    side: int = 256,
) -> Float[Tensor, " V"]:
    """The cosine-weighted share of a bright sky all around that each vertex sees, 0..1.

    Hidden-surface maps from evenly spread directions; some milliseconds each, once per head.
    """
    verts = verts.detach().float().contiguous()
    faces = faces.long().contiguous()
    check_indices(faces, len(verts), "faces")
    normals = vertex_normals(verts[None], faces)[0]
    seen, total = torch.zeros(len(verts)), torch.full((len(verts),), 1e-6)
    for toward in _even_directions(directions):
        facing = (normals @ toward).clamp(min=0)
        to_light = _light_matrix(verts, toward, side)
        texel = 1 / to_light[0, :3].norm().float()
        _, depth = draw(_seen_from_light(verts, to_light), faces, (side, side), -math.inf)
        # step off the surface by more than a texel, or it would hide itself
        origin = verts + texel * (1.5 * normals + 1.0 * toward)
        place = _seen_from_light(origin, to_light)
        column = place[:, 0].long().clamp(0, side - 1)
        row = place[:, 1].long().clamp(0, side - 1)
        lit = place[:, 2] <= depth[row, column]
        seen += facing * lit
        total += facing
    return (seen / total).clamp(0, 1)


def _even_directions(count: int) -> Float[Tensor, "N 3"]:
    """Directions spread evenly over the sphere (a Fibonacci spiral)."""
    step = torch.arange(count) + 0.5
    y = 1 - 2 * step / count
    turn = step * math.pi * (3 - math.sqrt(5))
    ring = (1 - y * y).sqrt()
    return torch.stack([ring * turn.cos(), y, ring * turn.sin()], dim=-1)


def _light_matrix(verts: Tensor, toward: Tensor, side: int) -> Float[Tensor, "3 4"]:
    """World to (x, y in texels, depth in metres) as a light far away in direction `toward` sees."""
    toward = torch.nn.functional.normalize(toward.double(), dim=-1)
    up = torch.tensor([0.0, 1, 0] if abs(float(toward[1])) < 0.9 else [1.0, 0, 0]).double()
    right = torch.nn.functional.normalize(torch.linalg.cross(up, toward), dim=-1)
    axes = torch.stack([right, torch.linalg.cross(toward, right), -toward])
    usable = verts[verts.isfinite().all(-1)].double()
    seen = usable @ axes.T if len(usable) else axes.new_zeros(1, 3)
    low, high = seen.amin(0), seen.amax(0)
    margin = 6  # texels of the shadow filter
    scale = (side - 2 * margin) / (high - low)[:2].max().clamp(min=1e-6)
    matrix = torch.cat([axes, torch.zeros(3, 1, dtype=torch.float64)], dim=1)
    matrix[:2] *= scale
    matrix[:2, 3] = side / 2 - scale * (high + low)[:2] / 2
    return matrix


def _seen_from_light(verts: Tensor, matrix: Tensor) -> Float[Tensor, "V 4"]:
    points = verts.double() @ matrix[:, :3].T + matrix[:, 3]
    return torch.cat([points, torch.ones_like(points[:, :1])], dim=-1)


def _mipmap(image: Tensor, srgb: bool) -> _Mipmap:
    channels, height, width = image.shape
    if channels not in (1, 3, 4) or not image.numel():
        raise ValueError(
            f"a texture has shape {tuple(image.shape)}; give [C, H, W] with 3 or 4 channels"
        )
    levels, first = [(0, height, width)], height * width
    while max(height, width) > 1:
        height, width = max(height // 2, 1), max(width // 2, 1)
        levels.append((first, height, width))
        first += height * width
    texels = np.empty((first, 4), dtype=np.uint16)
    table = np.array(levels, dtype=np.int64)
    pixels = image.detach().float().cpu().contiguous().numpy()
    linear = _DECODE if srgb else np.empty(0, dtype=np.float32)
    kernels().pack_texture(pixels, linear, texels, table)
    return _Mipmap(texels, table)


def _detail(material: Material) -> _Mipmap | None:
    """Normal map with roughness as alpha, or None where a material has neither as an image."""
    rough = material.roughness
    if material.normal is None and isinstance(rough, float):
        return None
    normal = material.normal
    if isinstance(rough, float):
        assert normal is not None
        rough = normal.new_full((1, *normal.shape[1:]), rough)
    if normal is None:
        normal = rough.new_tensor([0.5, 0.5, 1.0])[:, None, None].expand(-1, *rough.shape[1:])
    if normal.shape[1:] != rough.shape[1:]:
        rough = torch.nn.functional.interpolate(
            rough[None], size=normal.shape[1:], mode="bilinear", align_corners=False
        )[0]
    return _mipmap(torch.cat([normal, rough]), srgb=False)


def _backgrounds(
    background: Background, batch: int, size: tuple[int, int]
) -> list[NDArray[np.float32]]:
    """Linear backgrounds [3, H, W] or [3, 1, 1] per image; without rows where there is none."""
    if background is None:
        return [np.empty((3, 0, 0), dtype=np.float32)] * batch
    pixels = background.detach().float().cpu()
    pixels = pixels[:, None, None] if pixels.dim() == 1 else pixels
    pixels = pixels[None] if pixels.dim() == 3 else pixels
    if pixels.shape[2:] not in ((1, 1), size) or len(pixels) not in (1, batch):
        raise ValueError(
            f"background has shape {tuple(background.shape)}; give a colour [3], an image "
            f"[3, {size[0]}, {size[1]}] or {batch} of them"
        )
    linear = srgb_to_linear(pixels).contiguous()
    return [linear[item % len(linear)].numpy() for item in range(batch)]


def srgb_to_linear(colour: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Linear light of sRGB values 0..1 (IEC 61966-2-1)."""
    curve = ((colour.clamp(min=0.04) + 0.055) / 1.055) ** 2.4
    return torch.where(colour <= 0.04045, colour / 12.92, curve)


def linear_to_srgb(light: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """sRGB values of linear light 0..1 (IEC 61966-2-1)."""
    curve = 1.055 * light.clamp(min=0.003) ** (1 / 2.4) - 0.055
    return torch.where(light <= 0.0031308, light * 12.92, curve)


_STEPS = torch.linspace(0, 1, _SRGB_STEPS + 1, dtype=torch.float64)
_DECODE: NDArray[np.float32] = srgb_to_linear(_STEPS).float().numpy()
_ENCODE: NDArray[np.float32] = linear_to_srgb(_STEPS.square()).float().numpy()
