"""Pictures of models that take no prompt: of nothing in particular, or of a class."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion.draw import generators
from diffusion.recipe import Recipe
from diffusion.record import Pipeline


def unconditional(pipeline: Pipeline, recipe: Recipe) -> Float[Tensor, "B 3 H W"]:
    """Pictures of a DDPM or DDIM model of pixels, with its own scheduler."""
    if getattr(pipeline, "text_encoder", None) is not None or not hasattr(pipeline, "unet"):
        raise ValueError(f"{type(pipeline).__name__} wants a prompt; use txt2img")
    with torch.no_grad():
        made = [
            pipeline(
                batch_size=1,
                generator=generator,
                num_inference_steps=recipe.steps,
                output_type="np",
            ).images
            for generator in generators(recipe)
        ]
    return _from_arrays(made)


def class_conditional(
    pipeline: Pipeline, recipe: Recipe, label: int | str
) -> Float[Tensor, "B 3 H W"]:
    """Pictures of one class of a DiT model, by its number or its name."""
    known = getattr(pipeline, "labels", None) or {}
    count = int(pipeline.transformer.config.num_embeds_ada_norm)
    number = known.get(label, label)
    if isinstance(number, str) or not 0 <= number < count:
        raise ValueError(
            f"the class {label!r} is not known; give a number from 0 to {count - 1}"
            + (f" or a name such as {next(iter(known))!r}" if known else "")
        )
    with torch.no_grad():
        made = [
            pipeline(
                class_labels=[number],
                generator=generator,
                guidance_scale=recipe.cfg,
                num_inference_steps=recipe.steps,
                output_type="np",
            ).images
            for generator in generators(recipe)
        ]
    return _from_arrays(made)


def _from_arrays(made: list) -> Float[Tensor, "B 3 H W"]:  # type: ignore[type-arg]
    pictures = torch.cat([torch.as_tensor(one) for one in made]).permute(0, 3, 1, 2)
    return pictures.float().clamp(0, 1).contiguous()
