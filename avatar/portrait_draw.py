"""One portrait by its recipe: its model opened with what belongs to it, and how it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.image import read_image
from avatar.portrait_extras import PortraitExtras, draw_with_second, open_refiner
from avatar.progress import Progress
from diffusion.recipe import Extra, Recipe
from diffusion.shipped_portrait import CONTROL, SKETCHED

if TYPE_CHECKING:
    from avatar.portrait_layout import Layout
    from avatar.portrait_like import HeadGuide
    from diffusion.conduct import OnStep

# extras of recipes: heads of ours that pictures are held to, and what draws them anew
LAYOUT, ENLARGER = "layout", "enlarger"
_SMALLEST = 16  # px a side of a picture that is drawn over


@dataclass(frozen=True)
class PortraitInputs:
    """What goes in beside the recipe."""

    model: Path | str | None = None  # None is the recipe's, else the shipped one
    image: Path | None = None
    cut: Float[Tensor, "1 3 H W"] | None = None  # what of the image is drawn over; None is all
    mask: Path | None = None
    lora_dir: Path | None = None
    device: str = "auto"
    compiled: bool = False
    only: int | None = None  # of the batch, the one picture that is written
    tries: int = 1  # drawings, of which the one that fits the prompt best is written
    layout: bool = True  # the shipped model's prompts get a sketch of a head of ours
    guide: HeadGuide | None = None  # the head that the pictures are of
    extras: PortraitExtras = PortraitExtras()  # noqa: RUF009 - frozen


def open_pipeline(
    source: Path | str, recipe: Recipe, inputs: PortraitInputs, progress: Progress
) -> Any:
    """The model with its LoRAs, words, conditions' networks and safety setting, where it runs."""
    from diffusion.adapters import use_loras
    from diffusion.compute import choose_device, choose_dtype, place
    from diffusion.load import load_pipeline
    from diffusion.shipped_portrait import NAME, control_of

    dtype = choose_dtype(choose_device(inputs.device))
    safety = "on" if recipe.safety_checker else "off"
    sources: list[Path | str] = [one.source for one in inputs.extras.controls]
    if inputs.guide is not None:
        sources = [one.source for one in inputs.guide.controls]
    elif inputs.layout:
        sources = [NAME]
    pipeline = load_pipeline(
        source,
        dtype=dtype,
        safety=safety,
        controlnets=tuple(control_of(one) for one in sources),
        t2i_adapters=tuple(one.source for one in inputs.extras.t2i_adapters),
    )
    if recipe.all_loras():
        use_loras(pipeline, list(recipe.all_loras()), inputs.lora_dir)
    inputs.extras.add_to(pipeline, recipe, inputs.lora_dir, progress)
    place(pipeline, inputs.device, compiled=inputs.compiled)
    return pipeline


def drawn_in_memory(
    pipeline: Any, recipe: Recipe, inputs: PortraitInputs, progress: Progress
) -> tuple[Recipe, Float[Tensor, "B 3 H W"]]:
    """`drawn`; where memory runs out, in two halves of the batch, and then it is said."""
    from diffusion.compute import OutOfMemory, memory_in_words

    help_with = "ask for a smaller --size or --hires, a smaller --batch, or --device cpu"
    try:
        with memory_in_words(f"at {recipe.batch} pictures at once", help_with):
            return drawn(pipeline, recipe, inputs, progress)
    except OutOfMemory:
        if recipe.batch == 1:
            raise
    progress.warn(f"memory ran out at {recipe.batch} pictures at once; they are drawn in halves")
    half = recipe.batch // 2
    found = []
    made = recipe
    for first, count in ((0, half), (half, recipe.batch - half)):
        part = recipe.change(
            batch=count,
            seed=recipe.seed + first,
            variation_seed=recipe.variation_seed + first,
            extras=_later_heads(recipe.extras, first),
        )
        with memory_in_words(f"at {count} pictures at once too", help_with):
            made, pictures = drawn(pipeline, part, inputs, progress)
        found.append(pictures)
    told = ("batch", "seed", "variation_seed", "extras")
    whole = {name: getattr(recipe, name) for name in told}
    return made.change(**whole), torch.cat(found)


def drawn_best(
    pipeline: Any, recipe: Recipe, inputs: PortraitInputs, progress: Progress
) -> tuple[Recipe, Float[Tensor, "1 3 H W"], dict[str, Any]]:
    """The best of several drawings by the shipped model, its recipe, and how it was chosen."""
    from avatar.portrait_choice import face_clearness
    from diffusion.shipped_portrait import READER, best_of, prompt_fits, tries_of

    made = [
        drawn_in_memory(pipeline, one, inputs, progress) for one in tries_of(recipe, inputs.tries)
    ]
    pictures = torch.cat([picture for _, picture in made])
    fits = prompt_fits(pictures, recipe.prompt, pipeline.tokenizer)
    clear = face_clearness(pictures)
    best = best_of(fits, clear)
    seeds = [str(one.seed) for one, _ in made]
    told = {
        "by": [READER, "encoder"],
        "fits": {seed: round(fit, 3) for seed, fit in zip(seeds, fits, strict=True)},
        "clearness": {seed: round(more, 3) for seed, more in zip(seeds, clear, strict=True)},
        "asked seed": recipe.seed,
    }
    return made[best][0], pictures[best : best + 1], told


def takes_prompts(pipeline: Any) -> bool:
    """Whether a model draws what words say."""
    parts = ("text_encoder", "text_encoder_2", "text_encoder_3")
    return any(getattr(pipeline, part, None) is not None for part in parts)


def drawn(
    pipeline: Any, recipe: Recipe, inputs: PortraitInputs, progress: Progress
) -> tuple[Recipe, Float[Tensor, "B 3 H W"]]:
    """The pictures, and the recipe saying which way they were made."""
    import diffusion
    from diffusion.reimagining import reimagines

    extras = inputs.extras
    write_preview = extras.previewer(pipeline, recipe)

    def on_step(step: int, total: int, latents: Tensor) -> None:
        progress.step(step, total)
        write_preview(latents)

    if inputs.guide is not None:
        return inputs.guide.draw(pipeline, recipe, on_step)
    if inputs.layout:
        return _laid_out(pipeline, recipe, on_step)
    image = inputs.cut
    if image is None and inputs.image is not None:
        image = read_image(inputs.image, min_side=_SMALLEST)
    if recipe.toward is not None:
        from diffusion.interpolation import draw_between

        return recipe, draw_between(pipeline, recipe, on_step=on_step)
    if reimagines(pipeline) or extras.fuse is not None:
        return _met(pipeline, recipe, image, extras, on_step)
    if not takes_prompts(pipeline):
        if getattr(pipeline, "transformer", None) is not None:
            recipe = recipe.change(kind="class")
            label = recipe.prompt.strip()
            number = int(label) if label.isdecimal() else label
            return recipe, diffusion.class_conditional(pipeline, recipe, number)
        recipe = recipe.change(kind="unconditional")
        return recipe, diffusion.unconditional(pipeline, recipe)
    if extras.steering:
        return _steered(pipeline, recipe, inputs, image, on_step)
    if extras.refiner is not None:
        if image is not None:
            raise ValueError("--refiner goes on with what the model drew; leave --image out")
        second = open_refiner(extras.refiner, pipeline, recipe, inputs.device)
        drawn = draw_with_second(pipeline, second, recipe, on_step)
        return recipe.change(kind="txt2img"), drawn
    if image is None:
        if "Upscale" in type(pipeline).__name__:
            raise ValueError("the model enlarges pictures and draws none; name one with --image")
        recipe = recipe.change(kind="txt2img")
        return recipe, diffusion.txt2img(pipeline, recipe, on_step=on_step)
    if recipe.margins is not None:
        left, right, top, bottom = recipe.margins
        margins = diffusion.Margins(left, right, top, bottom)
        recipe = recipe.change(kind="outpaint")
        return recipe, diffusion.outpaint(pipeline, recipe, image, margins, on_step=on_step)
    if inputs.mask is not None:
        recipe = recipe.change(kind="inpaint")
        mask = read_image(inputs.mask, min_side=1).mean(dim=1, keepdim=True)
        return recipe, diffusion.inpaint(pipeline, recipe, image, mask, on_step=on_step)
    if recipe.hires > 1 or "Upscale" in type(pipeline).__name__:
        recipe = recipe.change(kind="upscale", batch=1)
        return recipe, diffusion.upscale(pipeline, recipe, image, on_step=on_step)
    recipe = recipe.change(kind="img2img")
    return recipe, diffusion.img2img(pipeline, recipe, image, on_step=on_step)


def shipped_extras(*, head: int | None) -> tuple[Extra, ...]:
    """What takes part in the shipped model's drawings beside it, for their recipes.

    `head` is the seed of the head that the first picture is held to, None where there is none.
    """
    from assets.store import PACKAGE
    from diffusion.fingerprint import model_hash
    from diffusion.shipped_portrait import NAME, REFINER, control_of, has_refiner

    held: tuple[Extra, ...] = ()
    if head is not None:
        held = (Extra(LAYOUT, f"{CONTROL}, head {head}", model_hash(control_of(NAME))),)
    if not has_refiner():
        return held
    return (*held, Extra(ENLARGER, REFINER, model_hash(PACKAGE / REFINER)))


def enlarged_drawings(
    pictures: Float[Tensor, "B 3 H W"], recipe: Recipe, inputs: PortraitInputs
) -> Float[Tensor, "B 3 H2 W2"]:
    """The shipped model's pictures of a recipe, enlarged; faces are as their heads are."""
    from diffusion.shipped_portrait import enlarged

    if inputs.layout:
        held = enumerate(layouts(recipe))
        made = [enlarged(pictures[k : k + 1], one, layout.sketch) for k, (one, layout) in held]
        return torch.cat(made)
    return enlarged(pictures, recipe, _sketch(recipe, inputs))


def _sketch(recipe: Recipe, inputs: PortraitInputs) -> Float[Tensor, "B 3 H W"] | None:
    """What pictures were drawn over, a head or a photo, larger; None where nothing was."""
    from diffusion.from_picture import resized

    if recipe.size is None or recipe.size[0] != recipe.size[1]:
        return None
    side = SKETCHED * recipe.size[0]
    if inputs.guide is not None:
        return inputs.guide.sketch(side).expand(recipe.batch, -1, -1, -1)
    if inputs.cut is not None:
        return resized(inputs.cut, (side, side)).expand(recipe.batch, -1, -1, -1)
    return None


def head_of(extras: Sequence[Extra]) -> int | None:
    """The seed of the head that a recipe's first picture is held to."""
    for one in extras:
        if one.kind == LAYOUT:
            seed = one.name.rpartition(" ")[2]
            if not (seed.isascii() and seed.isdecimal() and int(seed[:20]) < 2**62):
                raise AssetError(f"the picture's layout {one.name!r} names no head; draw it anew")
            return int(seed)
    return None


def _later_heads(extras: Sequence[Extra], count: int) -> tuple[Extra, ...]:
    """The extras of a batch without its first pictures."""
    head = head_of(extras)
    if head is None:
        return tuple(extras)
    name = f"{CONTROL}, head {head + count}"
    return tuple(replace(one, name=name) if one.kind == LAYOUT else one for one in extras)


def layouts(recipe: Recipe) -> list[tuple[Recipe, Layout]]:
    """The recipe of each picture of a batch, all of it said, and the head behind the picture."""
    from avatar.portrait_layout import layout_of

    head = head_of(recipe.extras)
    assert recipe.size is not None and head is not None
    found = []
    for k in range(recipe.batch):
        layout = layout_of(recipe.prompt, head + k, recipe.size[0])
        one = recipe.change(
            prompt=layout.said,
            batch=1,
            seed=recipe.seed + k,
            variation_seed=recipe.variation_seed + k,
            kind="txt2img",
        )
        found.append((one, layout))
    return found


def _laid_out(
    pipeline: Any, recipe: Recipe, on_step: OnStep
) -> tuple[Recipe, Float[Tensor, "B 3 H W"]]:
    """The shipped model's pictures of a prompt, each over a sketch of a head of ours.

    It has the colours that the words name. At a strength of 1 the head's condition alone holds.
    """
    from diffusion.conditioned import conditioned
    from diffusion.from_picture import resized
    from diffusion.refiner import in_sketch_colours

    assert recipe.size is not None
    made = []
    for one, layout in layouts(recipe):
        over = None if one.strength == 1 else resized(layout.sketch, recipe.size)
        picture = conditioned(pipeline, one, [layout.condition], image=over, on_step=on_step)
        if over is not None:
            picture = in_sketch_colours(picture, over, one.strength)
        made.append(picture)
    return recipe.change(kind="txt2img"), torch.cat(made)


def _met(
    pipeline: Any, recipe: Recipe, image: Tensor | None, extras: PortraitExtras, on_step: OnStep
) -> tuple[Recipe, Float[Tensor, "B 3 H W"]]:
    """What a picture shows drawn anew, or two pictures as one."""
    from diffusion.from_picture import covered
    from diffusion.interpolation import fuse
    from diffusion.reimagining import reimagine, reimagines

    if image is None:
        raise ValueError("this draws anew what a picture shows; name it with --image")
    other = None if extras.fuse is None else read_image(extras.fuse, min_side=_SMALLEST)
    share = extras.share or 0.0
    if reimagines(pipeline):
        recipe = recipe.change(kind="reimagine" if other is None else "fuse")
        return recipe, reimagine(pipeline, recipe, image, other, share, on_step=on_step)
    assert other is not None
    recipe = recipe.change(kind="fuse", batch=1)
    first = image if recipe.size is None else covered(image, recipe.size)
    second = covered(other, (first.shape[-1], first.shape[-2]))
    return recipe, fuse(pipeline, recipe.needs_words(), first, second, share, on_step=on_step)


def _steered(
    pipeline: Any, recipe: Recipe, inputs: PortraitInputs, image: Tensor | None, on_step: OnStep
) -> tuple[Recipe, Float[Tensor, "B 3 H W"]]:
    """Pictures held to the conditions that were given, also over a picture and in a mask."""
    from diffusion.conditioned import conditioned
    from diffusion.draw import size_of
    from diffusion.from_picture import covered
    from diffusion.t2i_adapters import adapted

    if recipe.size is None and image is not None:
        height, width = (max(8, side // 8 * 8) for side in image.shape[-2:])
        recipe = recipe.change(size=(width, height))
    size = size_of(pipeline, recipe)
    recipe = recipe.change(kind="txt2img", size=size)
    conditions = inputs.extras.conditions(size)
    scales = [one.scale for one in inputs.extras.steering]
    if inputs.extras.t2i_adapters:
        if image is not None:
            raise ValueError("T2I-Adapters draw from a prompt alone; leave --image out")
        return recipe, adapted(pipeline, recipe, conditions, scales=scales, on_step=on_step)
    given, mask = None, None
    if image is not None:
        given, recipe = covered(image, size), recipe.change(kind="img2img")
        if inputs.mask is not None:
            recipe = recipe.change(kind="inpaint")
            mask = read_image(inputs.mask, min_side=1).mean(dim=1, keepdim=True)
            if mask.shape[-2:] != image.shape[-2:]:
                raise ValueError("the mask and the image differ in size; give both in one size")
            mask = covered(mask, size)
    pictures = conditioned(
        pipeline, recipe, conditions, image=given, mask=mask, scales=scales, on_step=on_step
    )
    return recipe, pictures


def record_in_json(pipeline: Any) -> dict[str, Any]:
    """What a pipeline is made of, for reports."""
    from diffusion.record import record_of

    return dict(vars(record_of(pipeline)))
