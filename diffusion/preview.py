"""The picture while it forms, and a way to stop it within one step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion.record import Pipeline

OnStep: TypeAlias = Callable[["Step"], None]
Decoder: TypeAlias = Callable[[Tensor], Tensor]  # latents as the pipeline has them -> RGB, 0..1


class Cancelled(Exception):  # noqa: N818 - it is no error
    """A picture was stopped before it was done; the pipeline is ready for the next."""


@dataclass(frozen=True, eq=False)
class Step:
    """One denoising step that is done; `picture` is small and rough, None where there is none."""

    number: int  # from 1
    timestep: float
    picture: Float[Tensor, "B 3 h w"] | None


@dataclass(frozen=True, eq=False)
class LinearDecoder:
    """RGB as a linear map of the latents, one pixel for each of theirs: rough, but for free."""

    weight: Float[Tensor, "C 3"]
    bias: Float[Tensor, " 3"]

    def __call__(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 h w"]:
        """Pictures 0..1 of the size of the latents."""
        flat = latents.float().movedim(1, -1) @ self.weight.to(latents.device)
        return (flat + self.bias.to(latents.device)).movedim(-1, 1).clamp(0, 1)


@torch.no_grad()
def fit_linear_decoder(pipeline: Pipeline, *, generator: torch.Generator) -> LinearDecoder:
    """The linear map that comes nearest, in least squares, to the pipeline's own decoder.

    It is fitted on patches of random colour in latent space, eight pixels of latents wide, as what
    is seen in a preview is smooth. Takes one pass of the decoder over a 256 px picture of SD.
    """
    vae = pipeline.vae
    channels = vae.config.latent_channels
    coarse = torch.randn(4, channels, 2, 2, generator=generator)
    latents = coarse.repeat_interleave(8, -1).repeat_interleave(8, -2)
    ready = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor
    pictures = vae.decode(ready + (vae.config.get("shift_factor") or 0.0)).sample
    pictures = (pictures.float().cpu() / 2 + 0.5).clamp(0, 1)
    small = torch.nn.functional.adaptive_avg_pool2d(pictures, (16, 16))
    # the middle of each patch, where no other patch shows
    inside = torch.zeros(16, dtype=torch.bool)
    inside[[2, 3, 4, 5, 10, 11, 12, 13]] = True
    rows = latents.movedim(1, -1)[:, inside][:, :, inside].reshape(-1, channels)
    wanted = small.movedim(1, -1)[:, inside][:, :, inside].reshape(-1, 3)
    with_one = torch.cat([rows, torch.ones(len(rows), 1)], 1)
    solved = torch.linalg.lstsq(with_one, wanted, driver="gelsd").solution
    return LinearDecoder(solved[:-1], solved[-1])


def tiny_decoder(taesd: Any) -> Decoder:
    """Previews by diffusers' AutoencoderTiny, which takes latents as the pipeline has them."""

    def decode(latents: Tensor) -> Tensor:
        with torch.no_grad():
            pictures: Tensor = taesd.decode(latents.to(taesd.device, taesd.dtype)).sample
        return (pictures.float() / 2 + 0.5).clamp(0, 1)

    return decode


def step_arguments(
    pipeline: Pipeline,
    *,
    on_step: OnStep | None = None,
    decoder: Decoder | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Arguments for a call of the pipeline: `on_step` hears of every step, and it can be stopped.

    `is_cancelled` is asked after each step; when it says yes, the call raises Cancelled. `decoder`
    makes the steps' pictures, e.g. `fit_linear_decoder(...)`.
    """
    done = 0

    def heard(timestep: Any, latents: Tensor | None) -> None:
        nonlocal done
        done += 1
        if is_cancelled is not None and is_cancelled():
            pipeline.maybe_free_model_hooks()  # networks go back to where they wait
            raise Cancelled(f"stopped after step {done}")
        if on_step is not None:
            # the packed latents of FLUX are no picture
            seen = decoder is not None and latents is not None and latents.ndim == 4
            picture = decoder(latents).cpu() if seen and decoder and latents is not None else None
            on_step(Step(done, float(timestep), picture))

    def at_end(_: Pipeline, number: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        heard(timestep, values.get("latents"))
        return values

    known = inspect.signature(type(pipeline).__call__).parameters
    if "callback_on_step_end" in known:
        return {"callback_on_step_end": at_end}
    if "callback" in known:  # upscalers, T2I-Adapter, unCLIP, DeepFloyd
        return {"callback": lambda n, t, latents: heard(t, latents), "callback_steps": 1}
    raise ValueError(f"{type(pipeline).__name__} tells nothing of its steps")
