"""The picture while it forms, and a way to stop it within one step."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from diffusion.folders import read_settings
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


def load_tiny_decoder(source: Path | str) -> Decoder:
    """Previews by the AutoencoderTiny of a folder, or of a hub id in the cache, such as TAESD."""
    from diffusers import AutoencoderTiny

    from diffusion.load import open_part

    def opened(path: Path) -> Any:
        if path.is_file():
            raise AssetError(f"{path} is a file; give the diffusers folder of a tiny autoencoder")
        named = read_settings(path / "config.json").get("_class_name")
        if named != "AutoencoderTiny":
            raise AssetError(f"{path} is of {str(named)[:60]!r}, which is no AutoencoderTiny")
        return AutoencoderTiny.from_pretrained(path, use_safetensors=True, local_files_only=True)

    return tiny_decoder(open_part(source, opened).eval())


def latent_picture(
    pipeline: Pipeline, latents: Tensor, size: tuple[int, int] | None = None
) -> Float[Tensor, "B C h w"] | None:
    """Latents as the decoder takes them, also FLUX's, which are packed by fours into a row.

    `size` is that of the picture, width and height; without one, packed latents are taken for a
    square's. None for what is no picture.
    """
    if latents.ndim == 4:
        return latents
    vae = getattr(pipeline, "vae", None)
    if latents.ndim != 3 or vae is None or latents.shape[-1] % 4:
        return None
    count, channels = latents.shape[1], latents.shape[2] // 4
    if size is None:
        wide = high = math.isqrt(count)
    else:
        wide, high = (side // (2 * pipeline.vae_scale_factor) for side in size)
    if wide * high != count or channels != vae.config.latent_channels:
        return None
    quads = latents.reshape(-1, high, wide, channels, 2, 2)
    return quads.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, 2 * high, 2 * wide)


def step_arguments(
    pipeline: Pipeline,
    *,
    on_step: OnStep | None = None,
    decoder: Decoder | None = None,
    size: tuple[int, int] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Arguments for a call of the pipeline: `on_step` hears of every step, and it can be stopped.

    `is_cancelled` is asked after each step; when it says yes, the call raises Cancelled. `decoder`
    makes the steps' pictures, e.g. `fit_linear_decoder(...)`; FLUX needs `size`, width and height,
    for pictures that are not square.
    """
    done = 0

    def heard(timestep: Any, latents: Tensor | None) -> None:
        nonlocal done
        done += 1
        if is_cancelled is not None and is_cancelled():
            pipeline.maybe_free_model_hooks()  # networks go back to where they wait
            raise Cancelled(f"stopped after step {done}")
        if on_step is not None:
            ready = None if latents is None else latent_picture(pipeline, latents, size)
            seen = None if decoder is None or ready is None else decoder(ready).cpu()
            on_step(Step(done, float(timestep), seen))

    def at_end(_: Pipeline, number: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        heard(timestep, values.get("latents"))
        return values

    known = inspect.signature(type(pipeline).__call__).parameters
    if "callback_on_step_end" in known:
        return {"callback_on_step_end": at_end}
    if "callback" in known:  # upscalers, T2I-Adapter, unCLIP, DeepFloyd
        return {"callback": lambda n, t, latents: heard(t, latents), "callback_steps": 1}
    raise ValueError(f"{type(pipeline).__name__} tells nothing of its steps")
