"""Prompts that hold in boxes of the picture only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffusion.conduct import OnStep, write_score
from diffusion.draw import draw, size_of, start_noise
from diffusion.prompt_embeds import takes_weights
from diffusion.recipe import Box, Recipe
from diffusion.record import Pipeline

BASE_SHARE = 0.2  # of the whole picture's prompt inside a box, so that the parts belong together


def regional(
    pipeline: Pipeline, recipe: Recipe, *, on_step: OnStep | None = None
) -> Float[Tensor, "B 3 H W"]:
    """The picture of a prompt in which each of `recipe.regions` follows its own words.

    In every step the noise that each prompt predicts is mixed by soft masks that add up to one.
    """
    if not takes_weights(pipeline):
        raise ValueError("regions need a model with CLIP text and a UNet: SD 1.x, 2.x or SDXL")
    width, height = size_of(pipeline, recipe.needs_words())
    noise = start_noise(pipeline, recipe)
    maps = shares([box for _, box in recipe.regions], (noise.shape[-2], noise.shape[-1]))
    prompts: list[tuple[str, float, Tensor | None]] = [
        (words, 1.0, where[None, None])
        for words, where in zip(
            (recipe.prompt, *(words for words, _ in recipe.regions)), maps, strict=True
        )
    ]
    score = write_score(
        pipeline, prompts, recipe.negative, steps=recipe.steps, clip_skip=recipe.clip_skip
    )
    return draw(
        pipeline,
        recipe,
        "txt2img",
        score=score,
        latents=noise,
        on_step=on_step,
        width=width,
        height=height,
    )


def shares(boxes: list[Box], size: tuple[int, int]) -> Float[Tensor, "K h w"]:
    """Maps of the whole picture's prompt, then of each box's; they add up to 1 everywhere.

    Edges are soft by about a latent pixel; where boxes overlap they share alike.
    """
    height, width = size
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    inside = [
        ((x >= left) & (x < right) & (y >= top) & (y < bottom)).float()
        for left, top, right, bottom in boxes
    ]
    blurred = [
        F.avg_pool2d(F.pad(one[None, None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0, 0]
        for one in inside
    ]
    taken = sum(blurred, torch.zeros(size))
    base = 1 - (1 - BASE_SHARE) * taken.clamp(max=1)
    scale = (1 - base) / taken.clamp_min(1e-6)
    return torch.stack([base, *(one * scale for one in blurred)])
