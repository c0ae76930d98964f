"""Pictures of a prompt, in one pass or in two, and close variations of one."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion.conduct import OnStep
from diffusion.draw import draw, score_of, size_of, start_noise
from diffusion.from_picture import img2img, resized
from diffusion.interpolation import slerp
from diffusion.prompt_embeds import takes_weights
from diffusion.recipe import Recipe
from diffusion.record import Pipeline


def txt2img(
    pipeline: Pipeline, recipe: Recipe, *, on_step: OnStep | None = None
) -> Float[Tensor, "B 3 H W"]:
    """The pictures of a recipe's prompt, on the CPU.

    The same recipe gives the same pictures on the same kind of device. With `hires` above 1 a
    second pass draws them that many times larger over the enlarged first ones; `variation` moves
    the noise toward another seed's.
    """
    recipe.needs_words()
    if recipe.regions:
        from diffusion.regions import regional  # which draws by the functions here

        return regional(pipeline, recipe, on_step=on_step)
    width, height = size_of(pipeline, recipe)
    latents = varied_noise(pipeline, recipe) if takes_weights(pipeline) else None
    pictures = draw(
        pipeline, recipe, "txt2img", latents=latents, on_step=on_step, width=width, height=height
    )
    return pictures if recipe.hires == 1 else second_pass(pipeline, recipe, pictures, on_step)


def second_pass(
    pipeline: Pipeline,
    recipe: Recipe,
    pictures: Float[Tensor, "B 3 H W"],
    on_step: OnStep | None = None,
) -> Float[Tensor, "B 3 H2 W2"]:
    """The pictures `recipe.hires` times larger and drawn over, finer than enlarging makes them."""
    height, width = (round(side * recipe.hires / 8) * 8 for side in pictures.shape[-2:])
    larger = resized(pictures, (width, height))
    again = recipe.change(size=None, strength=recipe.hires_strength)
    steps = max(1, int(recipe.steps * recipe.hires_strength))
    score = (
        score_of(pipeline, recipe, steps=steps, done=recipe.steps)
        if takes_weights(pipeline)
        else None
    )
    return img2img(pipeline, again, larger, score=score, on_step=on_step)


def variations(
    pipeline: Pipeline, recipe: Recipe, count: int, amount: float = 0.2
) -> list[tuple[Recipe, Float[Tensor, "B 3 H W"]]]:
    """`count` relatives of a recipe's pictures, each with the recipe that makes it.

    `amount` is how far the noise moves toward another: 0 is the picture itself, 1 unrelated.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    recipes = [
        recipe.change(variation=amount, variation_seed=recipe.variation_seed + k * recipe.batch)
        for k in range(count)
    ]
    return [(one, txt2img(pipeline, one)) for one in recipes]


def varied_noise(pipeline: Pipeline, recipe: Recipe) -> Float[Tensor, "B C h w"]:
    """The noise of a recipe's seed, moved by `variation` along the sphere to the other seed's."""
    noise = start_noise(pipeline, recipe)
    if not recipe.variation:
        return noise
    other = start_noise(pipeline, recipe.change(seed=recipe.variation_seed))
    return torch.stack([slerp(a, b, recipe.variation) for a, b in zip(noise, other, strict=True)])
