"""What LoRA and Textual Inversion share: a frozen model, a few photos as latents, the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.image import MIN_SIDE, read_image
from diffusion.from_prompt import txt2img
from diffusion.load import load_pipeline
from diffusion.prompt_embeds import takes_weights
from diffusion.quiet import loading
from diffusion.recipe import Recipe
from diffusion.record import Pipeline
from diffusion.train_noise import NoiseConfig, denoising_losses, training_scheduler
from diffusion.train_pictures import list_pictures, squared
from diffusion.train_text import encode_captions
from diffusion.write import write_picture

LEAST_PHOTOS = 3
_FAMILIES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")


def open_base(source: Path | str, device: torch.device, precision: str = "no") -> Pipeline:
    """A model of SD 1.x, 2.x or SDXL, all of it frozen; half precision spares its autoencoder."""
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    pipeline = load_pipeline(source)
    name = type(pipeline).__name__
    unet = getattr(pipeline, "unet", None)
    if name not in _FAMILIES or unet is None or unet.config.in_channels != 4:
        raise AssetError(
            f"{source} is a {name}, which cannot be trained here; give a text-to-image model of "
            "SD 1.x, 2.x or SDXL"
        )
    assert takes_weights(pipeline)
    for part, network in pipeline.components.items():
        if isinstance(network, torch.nn.Module):
            network.requires_grad_(False).eval()
            network.to(device)
            # SDXL's autoencoder overflows in half precision
            if dtype != torch.float32 and part != "vae":
                with loading(str(source), whole=False):
                    network.to(dtype)
    return pipeline


@dataclass(frozen=True, eq=False)
class Photos:
    """Photos as the autoencoder sees them, ready to be drawn from; the mirrored ones come last."""

    mean: Float[Tensor, "N C h w"]
    std: Float[Tensor, "N C h w"]
    sizes: Float[Tensor, "N 6"]  # SDXL's: height and width before, crop, height and width now

    def __len__(self) -> int:
        return len(self.mean)

    def draw(
        self, rows: Tensor, *, generator: torch.Generator
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B 6"]]:
        """Latents of these photos, with the autoencoder's own noise."""
        noise = torch.randn((len(rows), *self.mean.shape[1:]), generator=generator)
        rows = rows.to(self.mean.device)
        return self.mean[rows] + self.std[rows] * noise.to(self.mean), self.sizes[rows]


@torch.no_grad()
def read_photos(
    pipeline: Pipeline, folder: Path, side: int, *, mirror: bool = False, least: int = LEAST_PHOTOS
) -> Photos:
    """The middle squares of a folder's photos, scaled as the UNet takes them."""
    factor = pipeline.vae_scale_factor
    if side < factor or side % factor:
        raise ValueError(f"size={side} must be a multiple of {factor}")
    means, stds, sizes = [], [], []
    for path in list_pictures(folder, least=least):
        image = read_image(path, min_side=min(side, MIN_SIDE))
        height, width = image.shape[-2:]
        square = squared(image, side)
        scale = side / min(height, width)
        edge = [round((length - min(height, width)) / 2 * scale) for length in (height, width)]
        for picture in (square, square.flip(-1))[: 2 if mirror else 1]:
            found = pipeline.vae.encode(picture.to(pipeline.vae.device) * 2 - 1).latent_dist
            means.append(found.mean)
            stds.append(found.std)
            sizes.append([height, width, *edge, side, side])
    scale = pipeline.vae.config.scaling_factor
    ids = torch.tensor(sizes, dtype=torch.float32, device=pipeline.vae.device)
    return Photos(torch.cat(means) * scale, torch.cat(stds) * scale, ids)


class Lessons:
    """The loss of a model on photos of one prompt, and with a prior on others of another.

    Photos take turns, so that each is seen as often as the others, in an order of chance.
    """

    def __init__(self, pipeline: Pipeline, noise: NoiseConfig, batch: int) -> None:
        self.pipeline, self.noise, self.batch = pipeline, noise, batch
        self.scheduler = training_scheduler(pipeline.scheduler.config)

    def loss(
        self, photos: Photos, prompts: Sequence[str], number: int, *, generator: torch.Generator
    ) -> Tensor:
        """The mean over a batch, each picture under one of the prompts."""
        places = torch.arange(number * self.batch, (number + 1) * self.batch)
        rows = places % len(photos)
        chosen = torch.randint(len(prompts), (self.batch,), generator=generator)
        latents, sizes = photos.draw(rows, generator=generator)
        tokens, pooled = encode_captions(self.pipeline, [prompts[k] for k in chosen.tolist()])
        unet = self.pipeline.unet

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            more: dict[str, Any] = {}
            if pooled is not None:
                more = {"text_embeds": pooled, "time_ids": sizes.to(pooled)}
            found: Tensor = unet(
                noisy.to(unet.dtype), timesteps, tokens.to(unet.dtype), added_cond_kwargs=more
            ).sample
            return found

        return denoising_losses(
            predict, latents, self.scheduler, self.noise, generator=generator
        ).mean()


def preview(pipeline: Pipeline, prompt: str, side: int, path: Path, *, seed: int) -> None:
    """One picture of the prompt as the model draws it now."""
    recipe = Recipe(prompt=prompt, steps=20, seed=seed, size=(side, side))
    write_picture(path, txt2img(pipeline, recipe), recipe)


def fill_prior(pipeline: Pipeline, prompt: str, folder: Path, count: int, side: int) -> None:
    """Bring a folder to so many pictures of what the model itself takes the prompt for."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(list_pictures(folder, least=0)), count):
        recipe = Recipe(prompt=prompt, seed=number, size=(side, side))
        write_picture(folder / f"prior-{number:04d}.png", txt2img(pipeline, recipe), recipe)
