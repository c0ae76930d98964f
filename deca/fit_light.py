"""Light and albedo of a head of known geometry, from the pixels of a portrait."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flame.albedo import AlbedoModel, bounded
from flame.light import SH_CONSTANTS, sh_basis
from flame.srgb import srgb_to_linear


@dataclass(frozen=True)
class LightFitConfig:
    """Priors of light and albedo; what the picture cannot tell apart, they decide."""

    rounds: int = 12
    noise: float = 0.10  # of log intensity: what the model leaves unexplained at a pixel
    outlier: float = 2.0  # in units of noise
    pixels: int = 3000  # used in the solution
    share: float = 0.01  # they are not independent: the weight of one
    codes_weight: float = 1.0
    brightness: float = 0.90  # of a white surface that faces the camera, linear
    brightness_spread: float = 0.09
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
    """Gauss-Newton for light and albedo together, on the log of linear light.

    `pixels` are sRGB. In logarithms albedo is linear in its codes and errors are relative, as the
    eye sees them. Robust: shadows, highlights and what is not skin lose weight.
    """
    config = config or LightFitConfig()
    base, slopes = model.basis_at(uv)  # [3, N], [A, 3, N]
    linear = srgb_to_linear(pixels).clamp(min=2e-3).T  # [3, N]
    basis = sh_basis(normals)  # [N, 9]
    every = max(1, len(pixels) // config.pixels)
    solved = _solve(
        model,
        linear[:, ::every],
        basis[::every],
        base[:, ::every],
        slopes[..., ::every],
        config,
        start,
    )
    light, codes = solved
    shading = (basis @ light).clamp(min=0.03)
    error = linear.log() - shading.T.log() - base - torch.einsum("a,acn->cn", codes, slopes)
    return LightFit(light, codes, error.square().mean(0).sqrt())


def _solve(
    model: AlbedoModel,
    linear: Float[Tensor, "3 N"],
    basis: Float[Tensor, "N 9"],
    base: Float[Tensor, "3 N"],
    slopes: Float[Tensor, "A 3 N"],
    config: LightFitConfig,
    start: Float[Tensor, " A"] | None,
) -> tuple[Float[Tensor, "9 3"], Float[Tensor, " A"]]:
    codes = torch.zeros(model.n_codes) if start is None else start.clone()
    light = _usual_light(config)[:, None].expand(9, 3).clone()
    # near-black and clipped pixels say little
    usable = ((linear.amax(0) < 0.97) & (linear.amin(0) > 3e-3)).float()
    share = config.share * config.pixels / max(linear.shape[1], 1)
    for _ in range(config.rounds):
        shading = (basis @ light).clamp(min=0.03)  # [N, 3]
        error = linear.log() - shading.T.log() - base - torch.einsum("a,acn->cn", codes, slopes)
        scaled = error.square().mean(0).sqrt() / config.noise
        weight = usable / (1 + (scaled / config.outlier) ** 2) ** 2
        step = _step(error, basis, shading, slopes, light, codes, weight * share, config)
        # a light that would turn dark somewhere on the face is not followed all the way
        change = (basis @ step[:27].view(9, 3)) / shading
        limit = float(0.5 / change.abs().amax().clamp(min=0.5))
        light = light + limit * step[:27].view(9, 3)
        codes = bounded((codes + limit * step[27:])[None], model)[0]
    return light, codes


def _usual_light(config: LightFitConfig) -> Float[Tensor, 9]:
    """Soft light from the front."""
    usual = torch.zeros(9)
    usual[0] = 0.62 * config.brightness / SH_CONSTANTS[0]
    usual[3] = 0.38 * config.brightness / SH_CONSTANTS[3]
    return usual


def _step(
    error: Float[Tensor, "3 N"],
    basis: Float[Tensor, "N 9"],
    shading: Float[Tensor, "N 3"],
    slopes: Float[Tensor, "A 3 N"],
    light: Float[Tensor, "9 3"],
    codes: Float[Tensor, " A"],
    weight: Float[Tensor, " N"],
    config: LightFitConfig,
) -> Float[Tensor, " D"]:
    """Change of the 27 light coefficients (band by channel) and of the codes."""
    n_codes = len(codes)
    normal = basis.new_zeros(27 + n_codes, 27 + n_codes)
    right = basis.new_zeros(27 + n_codes)
    scale = weight / config.noise**2
    everything = torch.arange(27 + n_codes)
    for channel in range(3):
        own = torch.cat([everything[channel:27:3], everything[27:]])
        rows = torch.cat([basis.T / shading[:, channel], slopes[:, channel]])  # [9 + A, N]
        normal[own[:, None], own] += (rows * scale) @ rows.T
        right[own] += (rows * scale) @ error[channel]
    spread = basis.new_full((9,), config.shape_spread * config.brightness)
    spread[0] = config.brightness_spread / SH_CONSTANTS[0]
    tint = basis.new_full((9,), config.tint_spread * config.brightness / SH_CONSTANTS[0])
    even = torch.full((3, 3), 1 / 3)  # to the mean of the channels
    prior = torch.einsum("b,cd->bcd", 1 / spread.square(), even / 3)
    prior = prior + torch.einsum("b,cd->bcd", 1 / tint.square(), torch.eye(3) - even)
    for band in range(9):
        own = everything[3 * band : 3 * band + 3]
        normal[own[:, None], own] += prior[band]
        right[own] -= prior[band] @ (light[band] - _usual_light(config)[band])
    normal[27:, 27:] += config.codes_weight * torch.eye(n_codes)
    right[27:] -= config.codes_weight * codes
    step: Tensor = torch.linalg.solve(normal, right)
    return step
