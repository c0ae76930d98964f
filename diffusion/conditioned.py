"""Pictures steered by other pictures: ControlNets' conditions with a prompt, a start or a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from diffusion.conduct import OnStep
from diffusion.draw import draw
from diffusion.from_picture import img2img
from diffusion.from_prompt import txt2img, varied_noise
from diffusion.inpainting import inpaint
from diffusion.prompt_embeds import takes_weights
from diffusion.recipe import Recipe
from diffusion.record import Pipeline, record_of


def conditioned(
    pipeline: Pipeline,
    recipe: Recipe,
    conditions: Sequence[Float[Tensor, "1 3 H W"]],
    *,
    image: Float[Tensor, "1 3 H W"] | None = None,
    mask: Float[Tensor, "1 1 H W"] | None = None,
    scales: Sequence[float] | None = None,
    on_step: OnStep | None = None,
) -> Float[Tensor, "B 3 H W"]:
    """The recipe's pictures, held to one condition for each ControlNet of the pipeline.

    With `image` they are drawn over it as far as the recipe's strength says, with `mask` too only
    where that is 1. `scales` weigh the conditions, 1 each by default. All pictures have one size,
    whose sides are multiples of 8. A pipeline without ControlNets takes no conditions.
    """
    recipe.needs_words()
    nets = record_of(pipeline).controlnets
    if len(conditions) != len(nets):
        raise ValueError(
            f"the pipeline has {len(nets)} ControlNets and {len(conditions)} conditions were "
            "given; give one for each"
        )
    if mask is not None and image is None:
        raise ValueError("a mask needs the picture it belongs to; give image too")
    given = [*conditions, *(one for one in (image, mask) if one is not None)]
    sizes = {(one.shape[-1], one.shape[-2]) for one in given}
    if len(sizes) > 1 or any(side % 8 for size in sizes for side in size):
        raise ValueError(
            f"the pictures have the sizes {sorted(sizes)}; give all in one, of multiples of 8"
        )
    weights = [1.0] * len(nets) if scales is None else [float(one) for one in scales]
    if len(weights) != len(nets):
        raise ValueError(f"{len(weights)} scales for {len(nets)} ControlNets; give one for each")
    if not nets:
        return _plain(pipeline, recipe, image, mask, on_step)
    # the recipe's size tells metadata; the pictures bring their own
    width, height = next(iter(sizes))
    recipe = recipe.change(size=(width, height))
    moved = [one.to(pipeline.device, pipeline.dtype) for one in conditions]
    control: Any = moved[0] if len(moved) == 1 else moved
    scale: Any = weights[0] if len(weights) == 1 else weights
    settings: dict[str, Any] = {"controlnet_conditioning_scale": scale, "on_step": on_step}
    latents = varied_noise(pipeline, recipe) if takes_weights(pipeline) else None
    if image is None:
        return draw(
            pipeline, recipe, "txt2img", latents=latents, width=width, height=height,
            image=control, **settings,
        )  # fmt: skip
    start = image.expand(recipe.batch, -1, -1, -1).to(pipeline.device)
    steps = int(recipe.steps * recipe.strength)
    if steps == 0:
        raise ValueError(
            f"strength={recipe.strength} leaves none of {recipe.steps} steps; raise one of them"
        )
    settings |= {"strength": recipe.strength, "steps": steps, "control_image": control}
    if mask is None:
        return draw(pipeline, recipe, "img2img", latents=latents, image=start, **settings)
    changed = (mask > 0).to(image.dtype)
    drawn = draw(
        pipeline, recipe, "inpaint", image=start, mask_image=changed.to(pipeline.device),
        width=width, height=height, **settings,
    )  # fmt: skip
    return image + (drawn - image) * mask


def _plain(
    pipeline: Pipeline,
    recipe: Recipe,
    image: Tensor | None,
    mask: Tensor | None,
    on_step: OnStep | None,
) -> Float[Tensor, "B 3 H W"]:
    if image is None:
        return txt2img(pipeline, recipe, on_step=on_step)
    recipe = recipe.change(size=None)  # that of the picture
    if mask is None:
        return img2img(pipeline, recipe, image, on_step=on_step)
    if not bool((mask > 0).any()):
        return image.expand(recipe.batch, -1, -1, -1)
    return inpaint(pipeline, recipe, image, mask, on_step=on_step)
