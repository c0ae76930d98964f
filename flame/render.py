"""The preview renderer: textured, lit pictures of posed meshes, fast on one CPU core.

It draws the README's pictures, the talking videos' frames and the training images. Nothing here
has gradients: fitting goes through `flame.raster`, `flame.interpolate` and `flame.light`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from flame.raster import check_indices, each, homogeneous_pixels
from flame.render_surface import (
    LOOKS,
    OPAQUE_ALPHA,
    SRGB_TO_LINEAR,
    Look,
    Surface,
    kernels,
    prepare_surface,
)
from flame.shadow import (
    ShadowMap,
    Triangles,
    View,
    cast_shadows,
    draw_surface,
    list_fragments,
    no_shadows,
)
from flame.srgb import linear_to_srgb

Background = Float[Tensor, "3"] | Float[Tensor, "3 H W"] | Float[Tensor, "B 3 H W"] | None
Tone = Literal["linear", "neutral", "filmic"]

_TONES: dict[str, int] = {"linear": 0, "neutral": 1, "filmic": 2}
_NEAR = -1.0  # z/w at the near plane of clip space
_STEPS = torch.linspace(0, 1, 4081, dtype=torch.float64)
_ENCODE: NDArray[np.float32] = linear_to_srgb(_STEPS.square()).float().numpy()


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
class _Scene:
    """One posed mesh before a camera, and the light on it."""

    view: View
    verts: NDArray[np.float32]
    normals: NDArray[np.float32]
    sky: NDArray[np.float32]  # share of it that each vertex sees
    eye: NDArray[np.float32]  # homogeneous
    ambient: NDArray[np.float32]  # spherical harmonics times SH_CONSTANTS [9, 3]
    directions: NDArray[np.float32]
    colours: NDArray[np.float32]
    shadows: ShadowMap


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
        self._mesh = Triangles(
            faces.detach().int().contiguous().numpy(),
            uv.detach().float().contiguous().numpy(),
            uv_faces.detach().int().contiguous().numpy(),
        )
        self._faces = faces.detach()
        self._ids = material_ids.detach().long()
        self._surfaces = [self._prepare(index, one) for index, one in enumerate(materials)]
        # faces of one surface follow each other, neighbours on its texture close together
        order = np.concatenate(
            [one.faces[_texture_order(self._mesh, one.faces)] for one in self._surfaces]
        )
        self._rank = np.empty(len(order), dtype=np.int64)
        self._rank[order] = np.arange(len(order))

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
            eyes = camera.eye_point().expand(batch, 4)
            sky = torch.ones(verts.shape[1]) if occlusion is None else occlusion.float()
            backgrounds = _backgrounds(background, batch, size)
            out = torch.empty(batch, 4, height, width)
            fine = (height * supersample, width * supersample)
            each(
                lambda item: self._draw(
                    self._scene(verts[item], clip[item], eyes[item], lights[item], sky, fine),
                    supersample,
                    backgrounds[item],
                    out[item],
                ),
                batch,
            )
        return out

    def _copy(
        self, surfaces: list[Surface] | None = None, config: RenderConfig | None = None
    ) -> Renderer:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        if surfaces is not None:
            other._surfaces = surfaces
        if config is not None:
            other.config = config
        return other

    def _prepare(self, index: int, material: Material) -> Surface:
        look = self._looks.get(material.name, Look())
        return prepare_surface(material, look, torch.nonzero(self._ids == index)[:, 0])

    def _scene(
        self,
        verts: Tensor,
        clip: Tensor,
        eye: Tensor,
        lights: Lights,
        sky: Tensor,
        size: tuple[int, int],
    ) -> _Scene:
        normals = torch.zeros_like(verts).numpy()
        kernels().smooth_normals(verts.numpy(), self._mesh.faces, normals)
        view = View.of(homogeneous_pixels(clip[None], size)[0], size, _NEAR)
        side, directions = self.config.shadow_side, lights.directions[0]
        shadows = no_shadows()
        if side and len(directions):
            shadows = cast_shadows(verts, directions[0], side, self._mesh, self._surfaces)
        constants = lights.sh.new_tensor(SH_CONSTANTS)
        return _Scene(
            view,
            verts.numpy(),
            normals,
            sky.contiguous().numpy(),
            eye.float().contiguous().numpy(),
            (lights.sh[0] * constants[:, None]).float().contiguous().numpy(),
            directions.float().contiguous().numpy(),
            lights.colours[0].float().contiguous().numpy(),
            shadows,
        )

    def _draw(
        self, scene: _Scene, samples: int, background: NDArray[np.float32], out: Tensor
    ) -> None:
        for surface in self._surfaces:
            draw_surface(scene.view, self._mesh, surface, surface.opaque_alpha)
        face_id = scene.view.face_id
        image = np.zeros((face_id.size, 4), dtype=np.float32)
        ends = np.zeros(len(self._rank) + 1, dtype=np.int64)
        pixels, ids = np.empty(face_id.size, dtype=np.int32), np.empty(face_id.size, dtype=np.int32)
        kernels().group_pixels(face_id, self._rank, ends, pixels, ids)
        begin = place = 0
        for surface in self._surfaces:
            place += len(surface.faces)
            end = int(ends[place - 1]) if place else 0
            self._shade(scene, surface, pixels[begin:end], ids[begin:end], image, opaque=True)
            begin = end
        self._blend(scene, image)
        kernels().finish(
            image.reshape(*face_id.shape, 4),
            samples,
            np.float32(self.config.exposure),
            _TONES[self.config.tone],
            _ENCODE,
            SRGB_TO_LINEAR,
            background,
            out.numpy(),
        )

    def _blend(self, scene: _Scene, image: NDArray[np.float32]) -> None:
        """Soft-edged fragments before the opaque surface, farthest first."""
        found = []
        for surface in self._surfaces:
            if surface.material.alpha_mode != "BLEND":
                continue
            soft = list_fragments(scene.view, self._mesh, surface, surface.visible_alpha)
            colours = np.empty((len(soft.pixels), 4), dtype=np.float32)
            self._shade(scene, surface, soft.pixels, soft.faces, colours, opaque=False)
            found.append((soft.pixels, soft.faces, soft.depth, colours))
        if found:
            pixels, ids, away, colours = (
                np.concatenate(parts) for parts in zip(*found, strict=True)
            )
            order = np.lexsort((ids, -away))
            kernels().composite(image, pixels, colours, order, OPAQUE_ALPHA)

    def _shade(
        self,
        scene: _Scene,
        surface: Surface,
        pixels: NDArray[np.int32],
        ids: NDArray[np.int32],
        out: NDArray[np.float32],
        *,
        opaque: bool,
    ) -> None:
        """Write linear colour and alpha of one surface's fragments."""
        if not len(pixels):
            return
        mesh, view, shadows = self._mesh, scene.view, scene.shadows
        strands = surface.look.strands
        tangents = np.zeros((len(mesh.uv) if strands else 0, 3), dtype=np.float32)
        if strands:
            kernels().strand_tangents(
                scene.verts, mesh.faces, mesh.uv, mesh.uv_faces, surface.faces, tangents
            )
        kernels().shade_fragments(
            pixels, ids, view.face_id.shape[1], view.points, view.screen, scene.verts,
            scene.normals, scene.sky, mesh.faces, mesh.uv, mesh.uv_faces, tangents,
            surface.texture.texels, surface.texture.levels, surface.values,
            scene.eye, scene.ambient, scene.directions, scene.colours, shadows.depth,
            shadows.least, shadows.most, shadows.matrix, int(opaque), out,
        )  # fmt: skip


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


def _texture_order(mesh: Triangles, faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Faces from tile to tile of the texture: what is shaded in turn shares what memory brings."""
    centres = mesh.uv[mesh.uv_faces[faces]].mean(1, dtype=np.float64)
    tiles = (np.nan_to_num(centres, posinf=0, neginf=0) % 1 * 32).astype(np.int64)
    return np.lexsort((tiles[:, 0], tiles[:, 1]))


def _backgrounds(
    background: Background, batch: int, size: tuple[int, int]
) -> list[NDArray[np.float32]]:
    """Backgrounds [3, H, W] or [3, 1, 1] per image; without rows where there is none."""
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
    return [pixels[item % len(pixels)].contiguous().numpy() for item in range(batch)]
