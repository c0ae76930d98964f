"""Light and albedo of a head of known geometry, from the pixels of a portrait."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flame.albedo import AlbedoModel, bounded
from flame.light import SH_CONSTANTS, sh_basis
from flame.render import srgb_to_linear


@dataclass(frozen=True)
class LightFitConfig:
    """Priors of light and albedo; what the picture cannot tell apart, they decide."""

    rounds: int = 8
    noise: float = 0.10  # of log intensity: what the model leaves unexplained at a pixel
    outlier: float = 2.0  # in units of noise
    share: float = 0.02  # pixels are not independent: the weight of one
    codes_weight: float = 1.0
    brightness: float = 0.80  # of a white surface that faces the camera, linear
    brightness_spread: float = 0.20
    tint_spread: float = 0.05  # light differs little in colour
    shape_spread: float = 0.30  # of the directional bands, relative to brightness


@dataclass(frozen=True, eq=False)
class LightFit:
    """Light, albedo codes, and how far each pixel is from them."""

    light: Float[Tensor, "9 3"]
    albedo: Float[Tensor, " A"]
    residual: Float[Tensor, " N"]  # rms log difference over the channels


def fit_light(
    model: AlbedoModel,
    pixels: Float[Tensor, "N 3"],
    uv: Float[Tensor, "N 2"],
    normals: Float[Tensor, "N 3"],
    config: LightFitConfig | None = None,
    start: Float[Tensor, " A"] | None = None,
) -> LightFit:
    """Alternate ridge solutions of light (given albedo) and of log albedo (given light).

    `pixels` are sRGB; all work is in linear light, where colours multiply. Robust: shadows,
    highlights and what is not skin lose weight.
    """
    config = config or LightFitConfig()
    base, slopes = model.basis_at(uv)  # [3, N], [A, 3, N]
    linear = srgb_to_linear(pixels).clamp(min=2e-3).T  # [3, N]
    basis = sh_basis(normals)  # [N, 9]
    codes = torch.zeros(model.n_codes) if start is None else start.clone()
    weight = torch.ones(len(pixels))
    light = torch.zeros(9, 3)
    residual = torch.zeros(len(pixels))
    for _ in range(config.rounds):
        log_albedo = base + torch.einsum("a,acn->cn", codes, slopes)
        light = _solve_light(linear, log_albedo.exp(), basis, weight, config)
        shading = (basis @ light).T.clamp(min=0.03)
        wanted = linear.log() - shading.log() - base
        codes = _solve_codes(model, slopes, wanted, weight, config)
        error = wanted - torch.einsum("a,acn->cn", codes, slopes)
        residual = error.square().mean(0).sqrt()
        scaled = residual / config.noise
        weight = 1 / (1 + (scaled / config.outlier) ** 2) ** 2
        # near-black and clipped pixels say little about either
        weight = weight * ((linear.amax(0) < 0.97) & (linear.amin(0) > 3e-3))
    return LightFit(light, codes, residual)


def _solve_light(
    linear: Tensor, albedo: Tensor, basis: Tensor, weight: Tensor, config: LightFitConfig
) -> Float[Tensor, "9 3"]:
    """Ridge solution around a soft frontal light, the three channels tied to their mean."""
    share = weight * config.share
    columns = []
    for channel in range(3):
        # errors relative to the pixel: the eye, and the albedo fit, see logarithms
        scale = share / linear[channel].square() / config.noise**2
        rows = basis * albedo[channel][:, None]
        columns.append((rows.T @ (rows * scale[:, None]), rows.T @ (linear[channel] * scale)))
    usual = basis.new_zeros(9)
    usual[0] = 0.62 * config.brightness / SH_CONSTANTS[0]
    usual[3] = 0.38 * config.brightness / SH_CONSTANTS[3]
    spread = basis.new_full((9,), config.shape_spread * config.brightness)
    spread[0] = config.brightness_spread / SH_CONSTANTS[0]
    grey = sum(left for left, _ in columns), sum(right for _, right in columns)
    prior = torch.diag(3 / spread.square())
    mean = torch.linalg.solve(grey[0] + prior, grey[1] + prior @ usual)
    tint = torch.diag((config.tint_spread * mean[0].abs()).square().reciprocal().expand(9))
    tint[0, 0] = 1 / (config.tint_spread / SH_CONSTANTS[0]) ** 2
    return torch.stack(
        [torch.linalg.solve(left + tint, right + tint @ mean) for left, right in columns], dim=1
    )


def _solve_codes(
    model: AlbedoModel, slopes: Tensor, wanted: Tensor, weight: Tensor, config: LightFitConfig
) -> Float[Tensor, " A"]:
    scale = (weight * config.share / config.noise**2).expand(3, -1).flatten()
    rows = slopes.flatten(1)  # [A, 3N]
    normal = (rows * scale) @ rows.T + config.codes_weight * torch.eye(model.n_codes)
    right = (rows * scale) @ wanted.flatten()
    codes = torch.linalg.solve(normal, right)
    # one-sided codes that came out negative are held at their bound and the rest solved again
    for _ in range(3):
        held = bounded(codes[None], model)[0]
        free = held == codes
        if bool(free.all()):
            break
        rest = right - normal[:, ~free] @ held[~free]
        codes = held.clone()
        codes[free] = torch.linalg.solve(normal[free][:, free], rest[free])
    return bounded(codes[None], model)[0]
