"""A picture two, four or any times larger: by a model made for it, or drawn over by any other."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion.conduct import OnStep
from diffusion.draw import generators
from diffusion.from_picture import pad_to
from diffusion.from_prompt import second_pass
from diffusion.prompt import plain_text
from diffusion.recipe import Recipe
from diffusion.record import Pipeline

# diffusers' classes of models that enlarge, and how many times
FACTORS = {"StableDiffusionUpscalePipeline": 4, "StableDiffusionLatentUpscalePipeline": 2}


def upscale(
    pipeline: Pipeline,
    recipe: Recipe,
    image: Float[Tensor, "1 3 H W"],
    *,
    noise_level: int = 20,
    on_step: OnStep | None = None,
) -> Float[Tensor, "1 3 H2 W2"]:
    """The image enlarged: by the factor of an upscaling model, else by `recipe.hires`, drawn over.

    `noise_level` is how much of the small picture the four-times model may doubt.
    """
    factor = FACTORS.get(type(pipeline).__name__)
    one = recipe.change(batch=1, size=None)
    if factor is None:
        if recipe.hires <= 1:
            raise ValueError(f"hires={recipe.hires} enlarges nothing; give 2 or 4")
        recipe.needs_words()
        height, width = (round(side * recipe.hires) for side in image.shape[-2:])
        return second_pass(pipeline, one, pad_to(image, 8), on_step)[..., :height, :width]
    padded = pad_to(image, 64 if factor == 2 else 8)
    more = {"noise_level": noise_level} if factor == 4 else {}
    with torch.no_grad():
        larger: Tensor = pipeline(
            prompt=plain_text(recipe.prompt),
            negative_prompt=plain_text(recipe.negative),
            image=padded.to(pipeline.device),
            num_inference_steps=recipe.steps,
            guidance_scale=recipe.cfg,
            generator=generators(one)[0],
            output_type="pt",
            **more,
        ).images
    height, width = (side * factor for side in image.shape[-2:])
    return larger.float().cpu().clamp(0, 1)[..., :height, :width]
