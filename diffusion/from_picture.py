"""A picture drawn over: kept in its layout, changed by a prompt as far as `strength` says."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffusion.conduct import OnStep, Score
from diffusion.draw import draw
from diffusion.recipe import Recipe
from diffusion.record import Pipeline


def img2img(
    pipeline: Pipeline,
    recipe: Recipe,
    image: Float[Tensor, "N 3 H W"],
    *,
    score: Score | None = None,
    on_step: OnStep | None = None,
) -> Float[Tensor, "B 3 H2 W2"]:
    """The image, or each of a batch, drawn over; in its own size unless the recipe names one.

    With strength 0, or too little for one step, nothing is drawn: the result is what the model's
    autoencoder makes of the image.
    """
    recipe.needs_words()
    given = as_batch(image if recipe.size is None else covered(image, recipe.size), recipe.batch)
    height, width = given.shape[-2:]
    padded = pad_to(given, 8)
    steps = int(recipe.steps * recipe.strength)
    if steps == 0:
        return autoencoded(pipeline, padded)[..., :height, :width]
    drawn = draw(
        pipeline,
        recipe,
        "img2img",
        score=score,
        steps=steps,
        on_step=on_step,
        image=padded.to(pipeline.device),
        strength=recipe.strength,
    )
    return drawn[..., :height, :width]


def autoencoded(pipeline: Pipeline, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """What the model's autoencoder keeps of an image: the bound of how well it can be redrawn."""
    vae = pipeline.vae
    with torch.no_grad():
        code = vae.encode((2 * image - 1).to(vae.device, vae.dtype)).latent_dist.mode()
        decoded: Tensor = vae.decode(code, return_dict=False)[0]
    return (decoded.float().cpu() / 2 + 0.5).clamp(0, 1)


def as_batch(image: Float[Tensor, "N 3 H W"], batch: int) -> Float[Tensor, "B 3 H W"]:
    """The image once for each picture; as many as there are pictures stay as they are."""
    if image.shape[0] not in (1, batch):
        raise ValueError(f"{image.shape[0]} images for a batch of {batch}; give one, or as many")
    return image.expand(batch, -1, -1, -1)


def pad_to(image: Float[Tensor, "B C H W"], multiple: int) -> Float[Tensor, "B C H2 W2"]:
    """The image with its last row and column repeated until both sides are multiples."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def resized(image: Float[Tensor, "B C H W"], size: tuple[int, int]) -> Float[Tensor, "B C H2 W2"]:
    """The image in another size (width, height), bicubic, smoothed where it shrinks."""
    if image.shape[-2:] == (size[1], size[0]):
        return image
    return F.interpolate(
        image, size=(size[1], size[0]), mode="bicubic", align_corners=False, antialias=True
    ).clamp(0, 1)


def covered(image: Float[Tensor, "B C H W"], size: tuple[int, int]) -> Float[Tensor, "B C H2 W2"]:
    """The middle of an image that fills a size (width, height), in its own proportions."""
    width, height = size
    scale = max(width / image.shape[-1], height / image.shape[-2])
    wide, high = (max(low, round(side * scale)) for low, side in
                  ((width, image.shape[-1]), (height, image.shape[-2])))  # fmt: skip
    larger = resized(image, (wide, high))
    left, top = (wide - width) // 2, (high - height) // 2
    return larger[..., top : top + height, left : left + width]
