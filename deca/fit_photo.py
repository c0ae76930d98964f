"""Analysis by synthesis: codes refined until the rendered face looks like the picture."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deca.codes import Codes
from deca.fit_light import LightFitConfig, fit_light
from deca.fit_points import PointFit
from deca.landmark_points import LandmarkPoints
from flame.albedo import AlbedoModel
from flame.camera import Camera
from flame.interpolate import interpolate
from flame.model import Flame
from flame.normals import vertex_normals
from flame.params import Params
from flame.raster import rasterize
from flame.sh_render import render_sh
from flame.srgb import linear_to_srgb, srgb_to_linear

log = logging.getLogger(__name__)
_Step = Callable[[int, int], None]
Moved = TypeVar("Moved", Params, Camera)


@dataclass(frozen=True)
class PhotoFitConfig:
    """Weights of the photometric refinement."""

    steps: int = 40
    rate: float = 0.02
    pixel_weight: float = 60.0
    point_weight: float = 1.0
    prior_weight: float = 0.004  # of squared codes
    albedo_size: int = 256
    light: LightFitConfig = dataclasses.field(default_factory=LightFitConfig)


@dataclass(frozen=True, eq=False)
class FaceRegion:
    """The skin of the face proper: what is compared with the picture."""

    faces: Int[Tensor, "F 3"]  # all skin, since all of it hides
    uv_faces: Int[Tensor, "F 3"]
    uv: Float[Tensor, "T 2"]
    share: Float[Tensor, "V 1"]  # 1 on the face proper, 0 on scalp, ears, neck


def face_region(flame: Flame) -> FaceRegion:
    """The region of a head model, told by its landmarks and dense points."""
    topology = flame.topology
    skin = topology.material_names.index("skin")
    chosen = topology.material_ids == skin
    polygons, uv_polygons = topology.polygons[chosen], topology.uv_polygons[chosen]
    quads = polygons[:, 3] >= 0
    faces = torch.cat([polygons[:, :3], polygons[quads][:, [0, 2, 3]]])
    uv_faces = torch.cat([uv_polygons[:, :3], uv_polygons[quads][:, [0, 2, 3]]])
    rest = flame.template
    marks = flame.landmarks68(rest[None])[0]
    brow_top = float(marks[17:27, 1].max())
    chin = float(marks[8, 1])
    # an upright ellipse from chin to mid forehead, as wide as the jaw, on the front half
    middle_y = (brow_top + 0.03 + chin) / 2
    half_height = (brow_top + 0.03 - chin) / 2 + 0.004
    half_width = 0.92 * float(marks[16, 0] - marks[0, 0]) / 2
    x, y = rest[:, 0] / half_width, (rest[:, 1] - middle_y) / half_height
    front = ((rest[:, 2] - 0.02) / 0.03).clamp(0, 1)
    share = ((1.0 - (x.square() + y.square()).sqrt()) / 0.12).clamp(0, 1) * front
    return FaceRegion(faces, uv_faces, topology.uv, share[:, None])


def fit_photo(
    flame: Flame,
    model: AlbedoModel,
    image: Float[Tensor, "1 3 K K"],
    start: PointFit,
    carried: LandmarkPoints,
    points: Float[Tensor, "L 2"],
    sigmas: Float[Tensor, " L"],
    config: PhotoFitConfig | None = None,
    progress: _Step | None = None,
) -> Codes:
    """Codes of one crop: light and albedo in closed form, geometry by gradient through the raster.

    Points keep their say throughout; pixels that the model cannot explain (hair, glasses, shadows)
    lose theirs.
    """
    config = config or PhotoFitConfig()
    region = face_region(flame)
    size = (image.shape[-2], image.shape[-1])
    params, camera = start.params, start.camera
    light, albedo, trust = _appearance(flame, model, image, params, camera, region, config, None)
    texture = srgb_to_linear(model.decode(albedo[None], config.albedo_size))
    tuned = _Tuned.of(params, camera)
    optimizer = torch.optim.Adam(tuned.groups(config.rate), betas=(0.9, 0.98))
    weight = 1 / sigmas.clamp(min=0.5)
    for step in range(config.steps):
        if step in (config.steps // 3, 2 * config.steps // 3):
            params, camera = tuned.values()
            light, albedo, trust = _appearance(
                flame, model, image, params, camera, region, config, albedo
            )
            texture = srgb_to_linear(model.decode(albedo[None], config.albedo_size))
        params, camera = tuned.values()
        verts = flame(params).verts
        clip = camera.clip(verts, size)
        drawn, mask = _shaded(verts, clip, texture, light[None], region, size)
        difference = (linear_to_srgb(drawn) - image).abs().mean(1)
        seen = mask * trust
        pixel = (difference.clamp(max=0.15) * seen).sum() / seen.sum().clamp(min=1)
        offset = camera.project(carried.on(verts), size)[0, :, :2] - points
        error = (offset.norm(dim=1) * weight).square()
        point = (error / (1 + error / 9)).mean()
        prior = params.shape.square().sum() + 4 * params.expression.square().sum()
        loss = config.pixel_weight * pixel + config.point_weight * point
        loss = loss + config.prior_weight * prior
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tuned.bound()
        if progress is not None:
            progress(step + 1, config.steps)
    params, camera = tuned.values()
    params, camera = _detached(params), _detached(camera)
    light, albedo, _ = _appearance(flame, model, image, params, camera, region, config, albedo)
    log.info("photometric fit: last difference %.3f, points %.2f", pixel.item(), point.item())
    return Codes(params, albedo[None], camera, light[None])


class _Tuned:
    """The leaves that the optimizer moves."""

    def __init__(self, params: Params, camera: Camera) -> None:
        self.params, self.camera = params, camera

    @staticmethod
    def of(params: Params, camera: Camera) -> _Tuned:
        def leaf(value: Tensor) -> Tensor:
            return value.detach().clone().requires_grad_()

        return _Tuned(
            dataclasses.replace(
                params,
                shape=leaf(params.shape),
                expression=leaf(params.expression),
                root=leaf(params.root),
                jaw=leaf(params.jaw),
            ),
            Camera(leaf(camera.scale.log()), leaf(camera.shift), camera.fov_deg),
        )

    def groups(self, rate: float) -> list[dict[str, object]]:
        return [
            {"params": [self.params.shape], "lr": rate},
            {"params": [self.params.expression], "lr": 0.4 * rate},
            {"params": [self.params.root, self.params.jaw], "lr": 0.1 * rate},
            {"params": [self.camera.scale], "lr": 0.05 * rate},
            {"params": [self.camera.shift], "lr": 0.01 * rate},
        ]

    def values(self) -> tuple[Params, Camera]:
        return self.params, dataclasses.replace(self.camera, scale=self.camera.scale.exp())

    @torch.no_grad()
    def bound(self) -> None:
        self.params.expression.clamp_(0, 1)
        self.params.shape.clamp_(-3.5, 3.5)
        self.params.jaw[:, 0].clamp_(0, math.radians(30))
        self.params.jaw[:, 1:] = 0


def _detached(record: Moved) -> Moved:
    return record._map(torch.Tensor.detach)


def _shaded(
    verts: Float[Tensor, "1 V 3"],
    clip: Float[Tensor, "1 V 4"],
    texture: Float[Tensor, "1 3 S S"],
    light: Float[Tensor, "1 9 3"],
    region: FaceRegion,
    size: tuple[int, int],
) -> tuple[Float[Tensor, "1 3 H W"], Float[Tensor, "1 H W"]]:
    """Linear picture of the matt skin and the share of the face proper at each pixel."""
    drawn = render_sh(
        clip,
        region.faces,
        vertex_normals(verts, region.faces),
        texture,
        light,
        size,
        uv=region.uv,
        uv_faces=region.uv_faces,
        least=0.02,
    )
    return drawn.image, interpolate(region.share, region.faces, drawn.fragments)[..., 0]


@torch.no_grad()
def _appearance(
    flame: Flame,
    model: AlbedoModel,
    image: Tensor,
    params: Params,
    camera: Camera,
    region: FaceRegion,
    config: PhotoFitConfig,
    albedo: Tensor | None,
) -> tuple[Float[Tensor, "9 3"], Float[Tensor, " A"], Float[Tensor, "1 H W"]]:
    """Light, albedo codes, and each pixel's trust 0..1."""
    size = (image.shape[-2], image.shape[-1])
    verts = flame(params).verts
    fragments = rasterize(camera.clip(verts, size), region.faces, size)
    normals = vertex_normals(verts, region.faces)
    drawn = interpolate(torch.cat([normals, region.share[None]], -1), region.faces, fragments)[0]
    uv = interpolate(region.uv, region.uv_faces, fragments)[0]
    facing = torch.nn.functional.normalize(drawn[..., :3], dim=-1)
    inside: Bool[Tensor, "H W"] = (drawn[..., 3] > 0.5) & (facing[..., 2] > 0.2)
    fit = fit_light(
        model,
        image[0].movedim(0, -1)[inside],
        uv[inside],
        facing[inside],
        config.light,
        albedo,
    )
    trust = torch.zeros(size)
    trust[inside] = 1 / (1 + (fit.residual / (2 * config.light.noise)) ** 2)
    return fit.light, fit.albedo, trust[None]
