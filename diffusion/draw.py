"""One run of a diffusers pipeline by a recipe: what all kinds of pictures have in common."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion.conduct import Conductor, OnStep, Score, parts_of, write_score
from diffusion.load import as_task
from diffusion.prompt import plain_text
from diffusion.prompt_embeds import takes_weights
from diffusion.recipe import Recipe
from diffusion.record import Pipeline, record_of
from diffusion.safety import flagged
from diffusion.samplers import scheduler_for

log = logging.getLogger(__name__)

_TASKS = {"img2img": "Img2Img", "inpaint": "Inpaint"}


def draw(
    pipeline: Pipeline,
    recipe: Recipe,
    task: str,
    *,
    score: Score | None = None,
    latents: Tensor | None = None,
    steps: int | None = None,
    on_step: OnStep | None = None,
    **pictures: Any,
) -> Float[Tensor, "B 3 H W"]:
    """The pictures of a recipe by one of the tasks txt2img, img2img and inpaint, on the CPU.

    `score` and `latents` take the place of the recipe's prompts and noise; `steps` is how many of
    its steps are done, for schedules; `pictures` are the task's own arguments.
    """
    _check_loras(pipeline, recipe)
    runner = _for_task(pipeline, task)
    settings: dict[str, Any] = {
        "num_inference_steps": recipe.steps,
        "guidance_scale": recipe.cfg,
        "generator": generators(recipe),
        "num_images_per_prompt": recipe.batch,
        "output_type": "pt",
        **pictures,
    }
    if latents is not None:
        settings["latents"] = latents
        for source in settings["generator"]:  # which has drawn the start already
            torch.randn(latents[:1].shape, generator=source, dtype=latents.dtype)
    config = runner.scheduler.config
    if "FlowMatch" in type(runner.scheduler).__name__:
        log.info("the model keeps its own sampler: %s", type(runner.scheduler).__name__)
    else:
        if recipe.threshold is not None and getattr(runner, "vae", None) is not None:
            log.warning("dynamic thresholding is for models of pixels; this one draws latents")
        runner.scheduler = scheduler_for(recipe.sampler, config, threshold=recipe.threshold)
    accepted = inspect.signature(runner.__call__).parameters
    if not takes_weights(runner):
        return _draw_plainly(runner, recipe, settings, accepted)
    conductor = Conductor(
        score or score_of(runner, recipe, steps=steps or recipe.steps),
        cfg=recipe.cfg,
        rescale=0.0 if "guidance_rescale" in accepted else recipe.rescale,
        on_step=on_step,
    )
    if "guidance_rescale" in accepted:
        settings["guidance_rescale"] = recipe.rescale
    settings |= conductor.arguments
    if "callback_on_step_end" in accepted:
        known = getattr(runner, "_callback_tensor_inputs", ())
        wanted = ("latents", "prompt_embeds", "add_text_embeds")
        settings["callback_on_step_end"] = conductor.after_step
        settings["callback_on_step_end_tensor_inputs"] = [one for one in wanted if one in known]
    with torch.no_grad(), conductor.at(runner.unet):
        return _finished(runner(**settings), recipe)


def score_of(pipeline: Pipeline, recipe: Recipe, *, steps: int, done: int = 0) -> Score:
    """What the recipe's prompts say in so many steps."""
    return write_score(
        pipeline,
        parts_of(recipe.prompt),
        recipe.negative,
        steps=steps,
        clip_skip=recipe.clip_skip,
        done=done,
    )


def generators(recipe: Recipe) -> list[torch.Generator]:
    """One source of noise for each picture of the batch, on the CPU."""
    return [torch.Generator().manual_seed(recipe.seed + k) for k in range(recipe.batch)]


def start_noise(pipeline: Pipeline, recipe: Recipe) -> Float[Tensor, "B C h w"]:
    """The noise that the pictures of a recipe start from, of unit variance."""
    width, height = size_of(pipeline, recipe)
    factor = pipeline.vae_scale_factor
    shape = (1, pipeline.unet.config.in_channels, height // factor, width // factor)
    noises = [
        torch.randn(shape, generator=generator, dtype=pipeline.unet.dtype)
        for generator in generators(recipe)
    ]
    return torch.cat(noises).to(pipeline.device)


def size_of(pipeline: Pipeline, recipe: Recipe) -> tuple[int, int]:
    """Width and height that a recipe's pictures have; the model's own where it names none."""
    if recipe.size is not None:
        return recipe.size
    network = getattr(pipeline, "unet", None)
    # the pipelines of transformers keep it themselves
    side = pipeline.default_sample_size if network is None else network.config.sample_size
    high, wide = (side, side) if isinstance(side, int) else side
    return wide * pipeline.vae_scale_factor, high * pipeline.vae_scale_factor


def _draw_plainly(
    runner: Pipeline, recipe: Recipe, settings: dict[str, Any], accepted: Any
) -> Float[Tensor, "B 3 H W"]:
    """For models whose text is not CLIP's alone: the words without their weights."""
    settings["prompt"] = plain_text(recipe.prompt)
    if recipe.negative and "negative_prompt" in accepted:
        settings["negative_prompt"] = plain_text(recipe.negative)
    if settings["prompt"] != recipe.prompt:
        log.warning("%s knows no weights or schedules in prompts", type(runner).__name__)
    with torch.no_grad():
        return _finished(runner(**settings), recipe)


def _finished(output: Any, recipe: Recipe) -> Float[Tensor, "B 3 H W"]:
    images: Tensor = output.images.detach().float().cpu().clamp(0, 1)
    if not bool(torch.isfinite(images).all()):
        raise ValueError(
            "the model made NaN of this recipe; use float32, a lower cfg or other prompt weights"
        )
    for index, hidden in enumerate(flagged(output, recipe.batch)):
        if hidden:
            log.warning("the model's safety checker blacked out picture %d; change the prompt",
                        index)  # fmt: skip
    return images


def _for_task(pipeline: Pipeline, task: str) -> Pipeline:
    """A pipeline for the task that shares all networks, and whose scheduler may be replaced."""
    name = type(pipeline).__name__
    word = next((task for task, word in _TASKS.items() if word in name), "txt2img")
    return copy.copy(pipeline) if word == task else copy.copy(as_task(pipeline, task))


def _check_loras(pipeline: Pipeline, recipe: Recipe) -> None:
    asked = [name for name, _ in recipe.all_loras()]
    there = [name for name, _ in record_of(pipeline).loras]
    missing: Sequence[str] = [name for name in asked if not any(name in one for one in there)]
    if missing:
        raise ValueError(
            f"the prompt asks for the LoRA {missing[0]!r}, which is not loaded; "
            "load it with use_loras, or give --lora-dir, the folder that it is in"
        )
