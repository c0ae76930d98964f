"""New pictures of what a picture shows, or two: by models that are led by CLIP's view of it."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion.conduct import OnStep
from diffusion.draw import generators, size_of
from diffusion.interpolation import slerp
from diffusion.prompt import plain_text
from diffusion.recipe import Recipe
from diffusion.record import Pipeline
from diffusion.safety import flagged
from diffusion.samplers import scheduler_for

log = logging.getLogger(__name__)

# diffusers' classes of such models: Stable unCLIP, and SD's image variations
REIMAGINE = ("StableUnCLIPImg2ImgPipeline", "StableDiffusionImageVariationPipeline")


def reimagines(pipeline: Pipeline) -> bool:
    """Whether a model draws anew what a picture shows, and so needs one."""
    return type(pipeline).__name__ in REIMAGINE


def reimagine(
    pipeline: Pipeline,
    recipe: Recipe,
    image: Float[Tensor, "1 3 H W"],
    other: Float[Tensor, "1 3 h w"] | None = None,
    share: float = 0.0,
    *,
    on_step: OnStep | None = None,
) -> Float[Tensor, "B 3 H2 W2"]:
    """Pictures of what the image shows, one for each seed; with `other`, of what lies between.

    CLIP's embeddings of both meet a `share` of the way along the sphere: 0 is the image's content,
    1 the other's. A prompt may be empty; image-variation models take none.
    """
    if not reimagines(pipeline):
        raise ValueError(
            f"{type(pipeline).__name__} draws nothing from CLIP's view of a picture; use a Stable "
            "unCLIP or image-variation model"
        )
    if not 0 <= share <= 1:
        raise ValueError(f"share={share} of the way must be from 0 to 1")
    embeds = seen(pipeline, image)
    if other is not None:
        embeds = slerp(embeds, seen(pipeline, other), share)
    width, height = size_of(pipeline, recipe)
    runner = copy.copy(pipeline)  # whose scheduler may be replaced
    runner.scheduler = scheduler_for(recipe.sampler, pipeline.scheduler.config)
    accepted = inspect.signature(runner.__call__).parameters
    settings: dict[str, Any] = {
        "num_inference_steps": recipe.steps,
        "guidance_scale": recipe.cfg,
        "width": width,
        "height": height,
        "output_type": "pt",
    }
    if "image_embeds" in accepted:
        settings |= {"prompt": plain_text(recipe.prompt), "image_embeds": embeds}
        settings["negative_prompt"] = plain_text(recipe.negative)
    else:  # image variations take pictures alone

        def embedded(_: Any, device: torch.device, count: int, guided: bool) -> Tensor:
            rows = embeds[:, None].expand(count, -1, -1).to(device)
            return torch.cat([torch.zeros_like(rows), rows]) if guided else rows

        runner.__dict__["_encode_image"] = embedded
        settings["image"] = image
    pictures = []
    for number, generator in enumerate(generators(recipe)):
        if on_step is not None:
            settings["callback"] = _told(on_step, number * recipe.steps, recipe)
        with torch.no_grad():
            output = runner(generator=generator, **settings)
        if any(flagged(output, 1)):
            log.warning("the model's safety checker blacked out picture %d", number)
        pictures.append(output.images.float().cpu().clamp(0, 1))
    return torch.cat(pictures)


def seen(pipeline: Pipeline, image: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 D"]:
    """CLIP's embedding of an image, by the encoder that the model brings."""
    encoder = pipeline.image_encoder
    texels = (image[0].clamp(0, 1) * 255).round().to(torch.uint8)
    given = pipeline.feature_extractor(images=[texels], return_tensors="pt").pixel_values
    with torch.no_grad():
        found: Tensor = encoder(given.to(encoder.device, encoder.dtype)).image_embeds
    return found


def _told(on_step: OnStep, before: int, recipe: Recipe) -> Callable[[int, Any, Tensor], None]:
    """diffusers' older callback, counting the steps of a whole batch."""
    total = recipe.steps * recipe.batch
    return lambda index, _, latents: on_step(min(before + index + 1, total), total, latents)
