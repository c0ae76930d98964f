"""SDXL's two experts: the base model takes the noise away first, the refiner the last of it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion.conduct import Cue
from diffusion.conduct import OnStep as Told
from diffusion.draw import draw, score_of, size_of
from diffusion.from_prompt import varied_noise
from diffusion.preview import OnStep, step_arguments
from diffusion.recipe import Recipe
from diffusion.record import Pipeline


def draw_refined(
    base: Pipeline,
    refiner: Pipeline,
    prompt: str,
    *,
    generator: torch.Generator,
    negative_prompt: str = "",
    steps: int = 40,
    handover: float = 0.8,
    guidance: float = 5.0,
    size: tuple[int, int] | None = None,
    on_step: OnStep | None = None,
) -> Float[Tensor, "1 3 H W"]:
    """The picture of a prompt, 0..1 on the CPU, by both models of SDXL (Podell et al. 2023).

    The base model does the first `handover` of the noise and hands its latents on; both together
    take `steps` steps. `size` is width and height, None the model's own.
    """
    if not 0 < handover < 1:
        raise ValueError(f"handover={handover} must lie between 0 and 1; 0.8 is usual")
    if steps < 2:
        raise ValueError(f"steps={steps} must be at least 2, one for each model")
    width, height = size or (None, None)
    asked: dict[str, Any] = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "generator": generator,
    }
    with torch.no_grad():
        latents = base(
            **asked,
            width=width,
            height=height,
            denoising_end=handover,
            output_type="latent",
            **(step_arguments(base, on_step=on_step) if on_step else {}),
        ).images
        images: Tensor = refiner(
            **asked,
            image=latents.to(refiner.device, refiner.dtype),
            denoising_start=handover,
            output_type="pt",
            **(step_arguments(refiner, on_step=on_step) if on_step else {}),
        ).images
    return images.detach().float().cpu().clamp(0, 1)


def draw_by_both(
    base: Pipeline,
    refiner: Pipeline,
    recipe: Recipe,
    *,
    handover: float = 0.8,
    on_step: Told | None = None,
) -> Float[Tensor, "B 3 H W"]:
    """The recipe's pictures by both models: `draw_refined` with weights, schedules and batches.

    Both together take the recipe's steps. What the prompt changes after the hand-over, the refiner
    is told.
    """
    if not 0 < handover < 1:
        raise ValueError(f"handover={handover} must lie between 0 and 1; 0.8 is usual")
    recipe.needs_words()
    width, height = size_of(base, recipe)
    done = 0

    def heard(step: int, total: int, latents: Tensor) -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(min(done, recipe.steps), recipe.steps, latents)

    latents = draw(
        base, recipe, "txt2img", latents=varied_noise(base, recipe), on_step=heard,
        width=width, height=height, denoising_end=handover, output_type="latent",
    )  # fmt: skip
    by_base = done
    score = tuple(
        Cue(cue.last - by_base, cue.voices, cue.negative)
        for cue in score_of(refiner, recipe, steps=recipe.steps)
        if cue.last > by_base
    )
    if not score:  # the base has left no step over
        score = score_of(refiner, recipe, steps=1)
    return draw(
        refiner, recipe, "img2img", score=score, on_step=heard,
        image=latents.to(refiner.device, refiner.dtype), denoising_start=handover,
    )  # fmt: skip
