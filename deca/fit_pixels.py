"""Identity, expression, pose and camera from the pixels of a portrait: Gauss-Newton on the surface.

Every vertex of the face has a colour that albedo, light and its normal foretell; where the picture
shows another one, the vertex lies elsewhere or faces elsewhere (Thies et al. 2016, "Face2Face",
with the residuals at vertices in place of pixels, so that nothing is rendered in the loop).
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from deca.codes import Codes
from deca.face_region import face_region
from deca.fit_light import LightFitConfig, fit_light
from deca.guess import Guess
from deca.landmark_points import LandmarkPoints
from flame.albedo import AlbedoModel
from flame.arkit import IS_GAZE
from flame.camera import Camera
from flame.light import sh_basis
from flame.model import Flame
from flame.normals import vertex_normals
from flame.params import Params, arkit_from_params, params_from_arkit
from flame.raster import visible_faces
from flame.srgb import linear_to_srgb

log = logging.getLogger(__name__)

_ROUNDS = 4  # of holding codes at their bounds


@dataclass(frozen=True)
class PixelFitConfig:
    """What the pixels, the points and the guess are believed."""

    noise: tuple[float, float] = (0.015, 0.1)  # bounds of a colour's standard deviation, 0..1
    outlier: float = 2.5  # in standard deviations
    pixel_share: float = 0.08  # vertices are not independent: the weight of one
    point_share: float = 0.06  # as much for points, which share their error
    sparsity: tuple[float, float] = (
        0.4,
        0.1,
    )  # of expressions: strength, and a weight that is little
    turn_spread: float = 0.04  # rad, of the guess
    nearness_spread: float = 0.35  # 1/m, of the guess
    # px of the crop, an iteration each
    blurs: tuple[float, ...] = (2.5, 2.5, 1.5, 1.5, 1.0, 1.0, 0.6, 0.6)
    light: LightFitConfig = dataclasses.field(default_factory=LightFitConfig)


@dataclass(frozen=True, eq=False)
class Surface:
    """The vertices whose colour is compared, and what decides it."""

    flame: Flame  # of these vertices and what their normals need
    faces: Int[Tensor, "F 3"]  # into the restricted vertices
    inner: Int[Tensor, " N"]  # those compared
    uv: Float[Tensor, "N 2"]
    carried: Int[Tensor, "L 3"]  # corners of the points
    bary: Float[Tensor, "L 3"]


def face_surface(flame: Flame, points: LandmarkPoints) -> Surface:
    """The skin of the face proper, lips and brows included, and the points that a network sees."""
    region = face_region(flame)
    wanted = region.share[:, 0] > 0.3
    uv_of = torch.full((len(flame.template),), -1)
    uv_of[region.faces] = region.uv_faces
    near = wanted[region.faces].any(1)
    faces, corners = region.faces[near], points.corners
    used, place = torch.unique(torch.cat([faces.flatten(), corners.flatten()]), return_inverse=True)
    n = faces.numel()
    inner = wanted[used] & (uv_of[used] >= 0)
    # a vertex at the rim of the chosen faces has no right normal
    rim = torch.zeros(len(flame.template), dtype=torch.bool)
    rim[region.faces[~near]] = True
    inner &= ~rim[used]
    chosen = inner.nonzero()[:, 0]
    return Surface(
        flame.restricted(used),
        place[:n].view(-1, 3),
        chosen,
        region.uv[uv_of[used[chosen]]],
        place[n:].view(-1, 3),
        points.bary,
    )


@torch.no_grad()
def fit_pixels(
    surface: Surface,
    model: AlbedoModel,
    image: Float[Tensor, "1 3 K K"],
    points: Float[Tensor, "L 2"],
    sigmas: Float[Tensor, " L"],
    codes: Codes,
    guess: Guess,
    config: PixelFitConfig | None = None,
) -> Codes:
    """Codes of a crop that start from `codes` and stay as near to the guess as it is sure.

    `points` and `sigmas` are in pixels of the crop; the codes' cameras are for it, too.
    """
    config = config or PixelFitConfig()
    scene = _Scene(surface, model, image, points, sigmas, guess, config)
    state = scene.pack(codes.params, codes.camera)
    light, albedo = codes.light[0], codes.albedo[0]
    for number, blur in enumerate(config.blurs):
        scene.look(blur)
        light, albedo = scene.lit(state, albedo if number else None)
        state = scene.step(state, light, albedo)
    scene.look(config.blurs[-1])
    light, albedo = scene.lit(state, albedo)
    params, camera = scene.unpack(state[None])
    return Codes(params, albedo[None], camera, light[None])


class _Scene:
    """One picture and what is believed of it."""

    def __init__(
        self,
        surface: Surface,
        model: AlbedoModel,
        image: Tensor,
        points: Tensor,
        sigmas: Tensor,
        guess: Guess,
        config: PixelFitConfig,
    ) -> None:
        self.surface, self.model, self.config = surface, model, config
        self.image, self.points = image, points
        self.point_weight = config.point_share**0.5 / sigmas.clamp(min=0.3)
        self.size = (image.shape[-2], image.shape[-1])
        self.n_shape = guess.params.shape.shape[1]
        self.base, self.slopes = model.basis_at(surface.uv)
        self.centre = self.pack(guess.params, guess.camera)
        codes = torch.cat([guess.shape_sigma.clamp(min=0.05), guess.weight_sigma.clamp(min=0.02)])
        spread = [config.turn_spread] * 3 + [1e2] * 3 + [config.nearness_spread]
        self.prior = torch.cat([codes, torch.tensor(spread)]) ** -2
        # faces make few shapes at once; where they look has no such habit
        self.sparse = ~torch.tensor(IS_GAZE)
        self.seen = image
        self.slope = torch.cat([image, image], dim=1)

    def look(self, blur: float) -> None:
        """The picture, blurred, and its slopes across and down per pixel."""
        reach = max(1, int(2.5 * blur + 0.5))
        offset = torch.arange(-reach, reach + 1, dtype=self.image.dtype)
        kernel = torch.exp(-(offset**2) / (2 * blur**2))
        kernel = (kernel / kernel.sum()).expand(3, 1, -1)
        padded = F.pad(self.image, (reach,) * 4, mode="replicate")
        self.seen = F.conv2d(
            F.conv2d(padded, kernel[:, :, None], groups=3), kernel[..., None], groups=3
        )
        wide = F.pad(self.seen, (1,) * 4, mode="replicate")
        across = (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]) / 2
        down = (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]) / 2
        self.slope = torch.cat([across, down], dim=1)

    def pack(self, params: Params, camera: Camera) -> Tensor:
        """One head and camera: shape, ARKit weights, turn, ln scale, shift, nearness."""
        return torch.cat(
            [
                params.shape[0],
                arkit_from_params(params)[0],
                params.root[0],
                camera.scale.log(),
                camera.shift[0],
                camera.nearness(),
            ]
        )

    def unpack(self, states: Float[Tensor, "N D"]) -> tuple[Params, Camera]:
        shape, weights, root, log_scale, shift, nearness = torch.split(
            states, [self.n_shape, 52, 3, 1, 2, 1], dim=1
        )
        params = params_from_arkit(shape, weights)
        params.root.copy_(root)
        scale = log_scale[:, 0].exp()
        fov = torch.rad2deg(2 * torch.atan(nearness[:, 0] / scale))
        return params, Camera(scale, shift, fov)

    def placed(
        self, states: Float[Tensor, "N D"]
    ) -> tuple[Float[Tensor, "N M 2"], Float[Tensor, "N L 2"], Float[Tensor, "N M 3"], Tensor]:
        """Pixels of vertices and of points, normals, and all vertices."""
        params, camera = self.unpack(states)
        verts = self.surface.flame(params).verts
        normals = vertex_normals(verts, self.surface.faces)[:, self.surface.inner]
        flat = camera.project(verts[:, self.surface.inner], self.size)[..., :2]
        carried = torch.einsum("nlck,lc->nlk", verts[:, self.surface.carried], self.surface.bary)
        return flat, camera.project(carried, self.size)[..., :2], normals, verts

    def visible(self, state: Tensor, flat: Tensor, normals: Tensor, verts: Tensor) -> Tensor:
        """Which compared vertices are seen, 0 or 1."""
        _, camera = self.unpack(state[None])
        faces = self.surface.faces
        shown = visible_faces(camera.clip(verts, self.size), faces, self.size)[0]
        seen = torch.zeros(verts.shape[1])
        seen[faces[shown]] = 1
        inside = ((flat > 1) & (flat < self.size[0] - 1)).all(-1)
        return seen[self.surface.inner] * inside * (normals[:, 2] > 0.15)

    def colours(self, picture: Tensor, flat: Float[Tensor, "M 2"]) -> Float[Tensor, "C M"]:
        grid = (flat / self.size[0] * 2 - 1)[None, None]
        return F.grid_sample(picture, grid, align_corners=False, padding_mode="border")[0, :, 0]

    def lit(self, state: Tensor, albedo: Tensor | None) -> tuple[Tensor, Tensor]:
        """Light and albedo codes that explain the picture best."""
        flat, _, normals, verts = self.placed(state[None])
        seen = self.visible(state, flat[0], normals[0], verts) > 0
        seen &= normals[0, :, 2] > 0.3
        pixels = self.colours(self.image, flat[0]).T
        fit = fit_light(
            self.model, pixels[seen], self.surface.uv[seen], normals[0, seen],
            self.config.light, albedo,
        )  # fmt: skip
        return fit.light, fit.albedo

    def foretold(self, normals: Float[Tensor, "N M 3"], light: Tensor, albedo: Tensor) -> Tensor:
        """Colours [N, 3, M] of the vertices."""
        log_albedo = self.base + torch.einsum("a,acm->cm", albedo, self.slopes)
        shading = (sh_basis(normals) @ light).clamp(min=0.02)  # [N, M, 3]
        return linear_to_srgb(log_albedo.exp() * shading.transpose(1, 2))

    def step(self, state: Tensor, light: Tensor, albedo: Tensor) -> Tensor:
        """The state after one damped Gauss-Newton step."""
        config = self.config
        size = self.steps()
        flat, marks, normals, verts = self.placed(
            torch.cat([state[None], state + torch.diag(size)])
        )
        seen = self.visible(state, flat[0], normals[0], verts[:1])
        told = self.foretold(normals, light, albedo)
        error = told[0] - self.colours(self.seen, flat[0])  # [3, M]
        slope = self.colours(self.slope, flat[0]).view(2, 3, -1)
        moved = (flat[1:] - flat[0]) / size[:, None, None]  # [D, M, 2]
        shaded = (told[1:] - told[0]) / size[:, None, None]  # [D, 3, M]
        jacobian = shaded - torch.einsum("dmk,kcm->dcm", moved, slope)
        size_of_error = error.square().mean(0).sqrt()
        # pictures differ in how well the model explains them
        noise = size_of_error[seen > 0].median().clamp(*config.noise)
        weight = seen / (1 + (size_of_error / noise / config.outlier) ** 2) ** 2  # [M]
        weight = weight * config.pixel_share / noise**2 / 3
        flatter = jacobian.flatten(1)
        weighted = flatter * weight.repeat(3)
        normal = weighted @ flatter.T
        right = weighted @ error.flatten()
        # points
        off = (marks[0] - self.points) * self.point_weight[:, None]
        robust = 1 / (1 + (off.norm(dim=1) / 3) ** 2) ** 2
        rows = (marks[1:] - marks[0]) / size[:, None, None] * self.point_weight[:, None]
        rows, off = rows.flatten(1), off.flatten()
        both = robust[:, None].expand(-1, 2).flatten()
        normal = normal + (rows * both) @ rows.T
        right = right + (rows * both) @ off
        # guess
        normal = normal + torch.diag(self.prior)
        right = right + self.prior * (state - self.centre)
        weights = slice(self.n_shape, self.n_shape + len(self.sparse))
        strength, least = config.sparsity
        right[weights] += strength * self.sparse / (state[weights] + least)
        log.info(
            "pixels: noise %.3f, points %.2f px",
            float(noise),
            float((marks[0] - self.points).norm(dim=1).mean()),
        )
        return self.minimum(state, normal.double(), right.double())

    def steps(self) -> Float[Tensor, " D"]:
        """Differences that slopes are taken over."""
        return torch.cat(
            [
                torch.full((self.n_shape,), 0.1),
                torch.full((52,), 0.02),
                torch.full((3,), 2e-3),
                torch.tensor([2e-3, 2e-4, 2e-4, 2e-2]),
            ]
        )

    def minimum(
        self, state: Tensor, normal: Float[Tensor, "D D"], right: Float[Tensor, " D"]
    ) -> Tensor:
        """Where the quadratic model of the error is least within the codes' bounds.

        What a step would carry over a bound is held there, and the others solved for again.
        """
        n = self.n_shape
        low, high = torch.full_like(right, -torch.inf), torch.full_like(right, torch.inf)
        low[:n], high[:n] = -3.5, 3.5
        low[n : n + 52], high[n : n + 52] = 0, 1
        low[-1], high[-1] = 0, 3
        start = state.double()
        found = start.clone()
        free = torch.ones_like(right, dtype=torch.bool)
        for _ in range(_ROUNDS):
            held = normal[free][:, ~free] @ (start - found)[~free]
            change = torch.linalg.solve(normal[free][:, free], right[free] - held)
            found[free] = start[free] - change
            over = free & ((found < low) | (found > high))
            found = found.clamp(low, high)
            if not bool(over.any()):
                break
            free &= ~over
        return found.float()
