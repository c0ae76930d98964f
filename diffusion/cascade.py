"""Models of pixels in stages, as DeepFloyd IF: a small picture, then a larger one drawn from it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion.conduct import OnStep
from diffusion.draw import generators, scheduler_of
from diffusion.from_prompt import txt2img
from diffusion.prompt import plain_text
from diffusion.recipe import Recipe
from diffusion.record import Pipeline

SECOND_STAGES = ("IFSuperResolutionPipeline",)


def enlarges_by_words(pipeline: Pipeline) -> bool:
    """Whether a model is a cascade's second stage."""
    return type(pipeline).__name__ in SECOND_STAGES


def draw_cascade(
    first: Pipeline,
    second: Pipeline,
    recipe: Recipe,
    *,
    noise_level: int = 250,
    on_step: OnStep | None = None,
) -> Float[Tensor, "B 3 H W"]:
    """The recipe's pictures by both stages, in the second one's size (Saharia et al. 2022).

    The first stage draws in its own size, or the recipe's; `noise_level` is how much of it the
    second may doubt. A second stage without a text encoder, as it is often kept, is told what the
    first one's says.
    """
    if not enlarges_by_words(second):
        raise ValueError(
            f"{type(second).__name__} is no second stage of a cascade; use DeepFloyd IF's "
            "super-resolution model"
        )
    total = 2 * recipe.steps

    def heard(before: int) -> OnStep | None:
        if on_step is None:
            return None
        told = on_step
        return lambda step, _, now: told(before + step, total, now)

    small = txt2img(first, recipe, on_step=heard(0))
    with torch.no_grad():
        words, nothing = first.encode_prompt(
            plain_text(recipe.prompt),
            negative_prompt=plain_text(recipe.negative) or None,
            device=first.device,
        )
    kept = second.scheduler
    second.scheduler = scheduler_of(second, recipe)
    settings: dict[str, Any] = {
        "prompt_embeds": words.to(second.device, second.unet.dtype),
        "negative_prompt_embeds": nothing.to(second.device, second.unet.dtype),
        "num_inference_steps": recipe.steps,
        "guidance_scale": recipe.cfg,
        "noise_level": noise_level,
        "output_type": "np",  # "pt" would leave out the safety checker
    }
    if (told := heard(recipe.steps)) is not None:
        settings["callback"] = lambda index, _, now: told(min(index + 1, recipe.steps), 0, now)
    pictures = []
    try:
        for one, generator in zip(small, generators(recipe), strict=True):
            with torch.no_grad():
                made = second(image=2 * one[None] - 1, generator=generator, **settings).images
            pictures.append(torch.as_tensor(made).movedim(-1, 1).float().clamp(0, 1))
    finally:
        second.scheduler = kept
    return torch.cat(pictures)
