"""Part of a picture drawn anew, the rest left as it is, byte for byte."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from diffusion.conduct import OnStep
from diffusion.draw import draw
from diffusion.from_picture import as_batch, covered, pad_to
from diffusion.recipe import Recipe
from diffusion.record import Pipeline


def inpaint(
    pipeline: Pipeline,
    recipe: Recipe,
    image: Float[Tensor, "N 3 H W"],
    mask: Float[Tensor, "1 1 h w"],
    *,
    on_step: OnStep | None = None,
) -> Float[Tensor, "B 3 H2 W2"]:
    """The image with what the prompt says where the mask is 1; where it is 0 nothing changes.

    Between 0 and 1 both are mixed. A strength of 1 forgets what was under the mask.
    """
    recipe.needs_words()
    if image.shape[-2:] != mask.shape[-2:]:
        raise ValueError(
            f"the mask is {mask.shape[-1]}x{mask.shape[-2]} pixels and the image "
            f"{image.shape[-1]}x{image.shape[-2]}; give both in one size"
        )
    if not bool((mask > 0).any()):
        raise ValueError("the mask is black all over; paint white what is to be drawn anew")
    if recipe.size is not None:
        image, mask = covered(image, recipe.size), covered(mask, recipe.size)
    image = as_batch(image, recipe.batch)
    height, width = image.shape[-2:]
    steps = int(recipe.steps * recipe.strength)
    if steps == 0:
        raise ValueError(
            f"strength={recipe.strength} leaves none of {recipe.steps} steps; raise one of them"
        )
    padded = pad_to(image, 8)
    drawn = draw(
        pipeline,
        recipe,
        "inpaint",
        steps=steps,
        on_step=on_step,
        image=padded.to(pipeline.device),
        mask_image=pad_to((mask > 0).to(image.dtype), 8).to(pipeline.device),
        height=padded.shape[-2],
        width=padded.shape[-1],
        strength=recipe.strength,
    )[..., :height, :width]
    return image + (drawn - image) * mask if _soft(mask) else image.where(mask == 0, drawn)


def _soft(mask: Tensor) -> bool:
    return bool(((mask > 0) & (mask < 1)).any())
