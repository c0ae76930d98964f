"""Identity, expression, pose and camera from points in a picture: damped Gauss-Newton."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deca.landmark_points import LandmarkPoints
from flame.arkit import ARKIT_INDEX
from flame.camera import Camera
from flame.model import Flame
from flame.params import JAW_OPEN_DEG, Params, arkit_from_params, gaze_from_arkit

log = logging.getLogger(__name__)

_OnSurface = Callable[[Params], Tensor]


@dataclass(frozen=True)
class PointFitConfig:
    """Priors of the fit to points; they balance residuals measured in standard deviations."""

    n_shape: int = 60
    shape_weight: float = 1.0  # of coefficients, themselves in standard deviations
    expression_weight: float = 2.2  # at weight 1
    gaze_weight: float = 1.5
    outlier: float = 2.5  # standard deviations from which a point loses influence
    fov_deg: float = 18.0  # of the crop: a portrait taken from about a metre
    iterations: int = 24


# The network's points are not independent: neighbours share their error, so that each carries a
# fraction of what its standard deviation promises.
_SHARE = 0.35


@dataclass(frozen=True, eq=False)
class Guess:
    """Codes of one head to start from, and how far off they are on average."""

    params: Params
    camera: Camera
    shape_sigma: Float[Tensor, " S"]  # of the shape coefficients
    weight_sigma: Float[Tensor, " 52"]  # of the ARKit weights

    def widened(self, n_shape: int) -> Guess:
        """The same head with `n_shape` coefficients; new ones are as among people at large."""
        missing = n_shape - self.params.shape.shape[1]
        shape = torch.nn.functional.pad(self.params.shape, (0, missing))
        sigma = torch.nn.functional.pad(self.shape_sigma, (0, missing), value=1.0)
        params = dataclasses.replace(self.params, shape=shape)
        return dataclasses.replace(self, params=params, shape_sigma=sigma)


@dataclass(frozen=True, eq=False)
class PointFit:
    """A fitted head and camera, for the crop whose points were given."""

    params: Params
    camera: Camera
    residual_px: Float[Tensor, " L"]  # distance of each point, crop pixels


def fit_points(
    flame: Flame,
    carried: LandmarkPoints,
    points: Float[Tensor, "L 2"],
    sigmas: Float[Tensor, " L"],
    size: int,
    config: PointFitConfig | None = None,
    guess: Guess | None = None,
) -> PointFit:
    """Fit points carried by the model's surface to points in a square crop of `size` pixels.

    `sigmas` are the points' standard deviations, pixels. Expression weights stay within 0..1.
    With a guess, the fit starts there and stays as near as the guess is sure; its perspective
    is kept.
    """
    config = config or PointFitConfig()
    guess = guess and guess.widened(flame.n_shape)
    used, corners = torch.unique(carried.corners, return_inverse=True)
    small = flame.restricted(used).double()
    bary = carried.bary.double()

    def on_surface(params: Params) -> Tensor:
        return torch.einsum("blck,lc->blk", small(params).verts[:, corners], bary)

    points, sigmas = points.double(), sigmas.double()
    layout = _Layout(config.n_shape, flame.n_expression)
    fov_deg = config.fov_deg if guess is None else float(guess.camera.fov_deg)
    # only the first shape modes are fitted; the others stay as guessed
    held = points.new_zeros(max(flame.n_shape - config.n_shape, 0))
    if guess is None:
        state = _first_guess(on_surface, points, size, layout, held, config)
        centre, prior = torch.zeros_like(state), layout.prior(config).double()
    else:
        held = guess.params.shape[0, config.n_shape :].double()
        state = layout.pack(guess.params, guess.camera).double()
        centre, prior = state.clone(), layout.prior_of(guess).double()
    weight = _SHARE / sigmas.clamp(min=0.25)

    def residuals(values: Tensor) -> Tensor:  # [N, D] -> [N, L, 2]
        params, camera = layout.unpack(values, held, fov_deg)
        projected = camera.project(on_surface(params), (size, size))[..., :2]
        return (projected - points) * weight[:, None]

    def slopes(values: Tensor, offset: Tensor) -> Tensor:  # [L, 2, D]
        # forward differences of all directions in one batch: cheaper than dual numbers here
        step = 1e-6
        moved = residuals(values + step * torch.eye(len(values), dtype=values.dtype))
        return ((moved - offset) / step).movedim(0, -1)

    damping = 1e-2
    cost = torch.inf
    for _ in range(config.iterations):
        offset = residuals(state[None])[0]
        distance = offset.norm(dim=1)
        robust = (config.outlier / distance.clamp(min=config.outlier)).sqrt()
        error = torch.cat([(offset * robust[:, None]).flatten(), prior * (state - centre)])
        jacobian = slopes(state, offset) * robust[:, None, None]
        rows = torch.cat([jacobian.flatten(0, 1), torch.diag(prior)])
        normal = rows.T @ rows
        step = torch.linalg.solve(
            normal + damping * torch.diag(normal.diagonal().clamp(min=1e-6)), rows.T @ error
        )
        trial = layout.bounded(state - step)
        new_offset = residuals(trial[None])[0]
        new = (
            (new_offset * robust[:, None]).square().sum()
            + (prior * (trial - centre)).square().sum()
        ).item()
        old = error.square().sum().item()
        if new < old:
            state, damping = trial, max(damping * 0.4, 1e-5)
            if abs(cost - new) < 1e-5 * new:
                break
            cost = new
        else:
            damping *= 8
            if damping > 1e4:
                break
    residual = (residuals(state[None])[0] / weight[:, None]).norm(dim=1).float()
    params, camera = layout.unpack(state[None].float(), held.float(), fov_deg)
    log.info("point fit: mean residual %.2f of %d px", residual.mean(), size)
    return PointFit(params, camera, residual)


@dataclass(frozen=True)
class _Layout:
    """Where each quantity stands in the vector that is solved for."""

    n_shape: int
    n_expression: int

    @property
    def _sizes(self) -> list[int]:
        return [self.n_shape, self.n_expression, 3, 1, 2]  # ..., root, log scale, shift

    def split(self, values: Tensor) -> list[Tensor]:
        return list(torch.split(values, self._sizes, dim=-1))

    def unpack(self, values: Tensor, held: Tensor, fov_deg: float) -> tuple[Params, Camera]:
        shape, weights, root, log_scale, shift = self.split(values)  # [N, ...]
        opening = weights[:, ARKIT_INDEX["jawOpen"]]
        expression = weights.clone()
        expression[:, ARKIT_INDEX["jawOpen"]] = 0
        zero = torch.zeros_like(opening)
        params = Params(
            shape=torch.cat([shape, held.expand(len(shape), -1)], dim=1),
            expression=expression,
            root=root,
            neck=torch.zeros_like(root),
            jaw=torch.stack([opening * math.radians(JAW_OPEN_DEG), zero, zero], dim=1),
            eyes=gaze_from_arkit(weights),
        )
        scale = log_scale[:, 0].exp()
        return params, Camera(scale, shift, torch.full_like(scale, fov_deg))

    def pack(self, params: Params, camera: Camera) -> Tensor:
        """The vector of one head and camera [D]."""
        return torch.cat(
            [
                params.shape[0, : self.n_shape],
                arkit_from_params(params)[0],
                params.root[0],
                camera.scale.log(),
                camera.shift[0],
            ]
        )

    def prior_of(self, guess: Guess) -> Tensor:
        """One over the standard deviations of a guess."""
        return torch.cat(
            [
                1 / guess.shape_sigma[: self.n_shape].clamp(min=0.05),
                1 / guess.weight_sigma.clamp(min=0.02),
                torch.full((6,), 1e-3),
            ]
        )

    def prior(self, config: PointFitConfig) -> Tensor:
        expression = torch.full((self.n_expression,), config.expression_weight)
        for name, index in ARKIT_INDEX.items():
            if name.startswith("eyeLook"):
                expression[index] = config.gaze_weight
        # shapes that a still face hardly shows or that points cannot tell from others
        for name in ("tongueOut", "jawForward", "cheekPuff", "mouthClose"):
            expression[ARKIT_INDEX[name]] = 6 * config.expression_weight
        return torch.cat(
            [
                torch.full((self.n_shape,), config.shape_weight),
                expression,
                torch.full((6,), 1e-3),
            ]
        )

    def bounded(self, values: Tensor) -> Tensor:
        shape, weights, *rest = self.split(values)
        return torch.cat([shape.clamp(-3.5, 3.5), weights.clamp(0, 1), *rest])


def _first_guess(
    on_surface: _OnSurface,
    points: Tensor,
    size: int,
    layout: _Layout,
    held: Tensor,
    config: PointFitConfig,
) -> Tensor:
    """Pose and camera of the mean face by scaled orthography (POS, DeMenthon & Davis 1995)."""
    state = points.new_zeros(sum(layout._sizes))
    rest = on_surface(layout.unpack(state[None], held, config.fov_deg)[0])[0]
    centred = rest - rest.mean(0)
    image = (points - points.mean(0)) * points.new_tensor([1.0, -1.0])
    rows = torch.linalg.lstsq(centred, image).solution.T  # [2, 3] of scaled rotation
    scale = rows.norm(dim=1).mean()
    u, _, v = torch.linalg.svd(rows, full_matrices=False)
    first = u @ v
    rotation = torch.cat([first, torch.linalg.cross(first[0], first[1])[None]])
    angle = torch.arccos(((rotation.trace() - 1) / 2).clamp(-1, 1))
    axis = torch.stack(
        [
            rotation[2, 1] - rotation[1, 2],
            rotation[0, 2] - rotation[2, 0],
            rotation[1, 0] - rotation[0, 1],
        ]
    )
    root = axis / axis.norm().clamp(min=1e-8) * angle
    _, _, own_root, log_scale, shift = layout.split(state)
    own_root.copy_(root)
    log_scale.copy_((scale / (size / 2)).log())
    params, camera = layout.unpack(state[None], held, config.fov_deg)
    projected = camera.project(on_surface(params), (size, size))[0, :, :2]
    gap = (points - projected).mean(0) / (size / 2) / log_scale.exp()
    shift.copy_(gap * points.new_tensor([1.0, -1.0]))
    return state


def without_expression(params: Params) -> Params:
    """The same identities at rest, looking straight ahead."""
    return dataclasses.replace(
        params,
        expression=torch.zeros_like(params.expression),
        root=torch.zeros_like(params.root),
        neck=torch.zeros_like(params.neck),
        jaw=torch.zeros_like(params.jaw),
        eyes=torch.zeros_like(params.eyes),
    )
