"""One run of a diffusers pipeline by a recipe: what all kinds of pictures have in common."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion.adapters import shown_to_ip_adapter
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
) -> Float[Tensor, "B C H W"]:
    """The pictures of a recipe by one of the tasks txt2img, img2img and inpaint, on the CPU.

    `score` and `latents` take the place of the recipe's prompts and noise, that of img2img too;
    `steps` is how many of its steps are done, for schedules; `pictures` are the task's own
    arguments. With output_type="latent" it is their latents, where the pipeline runs.
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
        if task == "img2img":
            _start_from(runner, latents)
        else:
            settings["latents"] = latents
        for source in settings["generator"]:  # which has drawn the start already
            torch.randn(latents[:1].shape, generator=source, dtype=latents.dtype)
    if "FlowMatch" in type(runner.scheduler).__name__:
        log.info("the model keeps its own sampler: %s", type(runner.scheduler).__name__)
    else:
        if recipe.threshold is not None and getattr(runner, "vae", None) is not None:
            log.warning("dynamic thresholding is for models of pixels; this one draws latents")
        runner.scheduler = scheduler_of(runner, recipe)
    accepted = inspect.signature(runner.__call__).parameters
    if "ip_adapter_image" in accepted and (seen := shown_to_ip_adapter(pipeline)) is not None:
        settings["ip_adapter_image"] = seen
    if not takes_weights(runner):
        return _draw_plainly(runner, recipe, settings, accepted, on_step)
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
    elif "callback" in accepted:  # that of T2I-Adapters' pipelines, which takes nothing back
        settings["callback"] = conductor.after_old_step
    if strange := [name for name in settings if name not in accepted]:
        raise ValueError(
            f"{type(runner).__name__} takes no {strange[0]}, so it does not draw {task}; use "
            "another model"
        )
    with torch.no_grad(), conductor.at(runner.unet, tells="callback_on_step_end" in accepted):
        output = runner(**settings)
    if settings["output_type"] == "latent":
        latent: Tensor = output.images
        return latent
    return _finished(output, recipe)


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
    factor = _factor(pipeline)
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
    return wide * _factor(pipeline), high * _factor(pipeline)


def scheduler_of(pipeline: Pipeline, recipe: Recipe) -> Any:
    """The recipe's sampler for a model's noise."""
    found = scheduler_for(recipe.sampler, pipeline.scheduler.config, threshold=recipe.threshold)
    if draws_pixels(pipeline) and "variance_type" not in found.config:
        # DeepFloyd's pipelines ask whether the sampler wants the variances that the model predicts
        found.register_to_config(variance_type="fixed_small")
    return found


def draws_pixels(pipeline: Pipeline) -> bool:
    """Whether a pipeline works on pixels, as DeepFloyd's do, and has no latents."""
    return getattr(pipeline, "vae", None) is None


def _factor(pipeline: Pipeline) -> int:
    return 1 if draws_pixels(pipeline) else int(pipeline.vae_scale_factor)


def _draw_plainly(
    runner: Pipeline,
    recipe: Recipe,
    settings: dict[str, Any],
    accepted: Mapping[str, Any],
    on_step: OnStep | None,
) -> Float[Tensor, "B 3 H W"]:
    """For models whose text is not CLIP's alone: the words without their weights."""
    settings["prompt"] = plain_text(recipe.prompt)
    if recipe.negative and "negative_prompt" in accepted:
        settings["negative_prompt"] = plain_text(recipe.negative)
    if settings["prompt"] != recipe.prompt:
        log.warning("%s knows no weights or schedules in prompts", type(runner).__name__)
    missing = [name for name in ("prompt", "image", "mask_image") if name in settings
               and name not in accepted]  # fmt: skip
    if missing:
        raise ValueError(f"{type(runner).__name__} takes no {missing[0]}; use another model")
    if "clean_caption" in accepted:
        settings["clean_caption"] = False  # which asks for further packages
    if draws_pixels(runner):
        # "pt" would leave out both the safety checker and the way back to 0..1
        settings["output_type"] = "np"
        if "image" in settings:
            settings["image"] = 2 * settings["image"] - 1
    if on_step is not None:
        settings |= _plain_callback(accepted, on_step, settings["num_inference_steps"])
    with torch.no_grad():
        return _finished(runner(**{k: v for k, v in settings.items() if k in accepted}), recipe)


def _plain_callback(accepted: Mapping[str, Any], on_step: OnStep, steps: int) -> dict[str, Any]:
    """diffusers' newer or older callback that tells `on_step` of every step."""

    def at_end(pipeline: Pipeline, index: int, _: Any, values: dict[str, Any]) -> dict[str, Any]:
        on_step(index + 1, pipeline.num_timesteps, values["latents"])
        return values

    done = 0

    def after(index: int, _: Any, latents: Tensor) -> None:
        nonlocal done
        done += 1
        on_step(done, max(done, steps), latents)

    if "callback_on_step_end" in accepted:
        return {"callback_on_step_end": at_end}
    return {"callback": after} if "callback" in accepted else {}


def _finished(output: Any, recipe: Recipe) -> Float[Tensor, "B 3 H W"]:
    found = output.images
    if not isinstance(found, Tensor):  # "np", of pipelines that check only such pictures
        found = torch.as_tensor(found).movedim(-1, 1)
    images: Tensor = found.detach().float().cpu().clamp(0, 1)
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


def _start_from(runner: Pipeline, noise: Tensor) -> None:
    """Have a picture drawn over from this noise; diffusers would draw its own."""

    def prepare_latents(image: Tensor, timestep: Tensor, *_: Any, **__: Any) -> Tensor:
        vae = runner.vae
        code = vae.encode(image.to(vae.device, vae.dtype)).latent_dist.mode()
        code = code * vae.config.scaling_factor
        noised: Tensor = runner.scheduler.add_noise(code.to(noise), noise, timestep)
        return noised

    runner.prepare_latents = prepare_latents


def _check_loras(pipeline: Pipeline, recipe: Recipe) -> None:
    asked = [name for name, _ in recipe.all_loras()]
    there = [name for name, _ in record_of(pipeline).loras]
    missing: Sequence[str] = [name for name in asked if not any(name in one for one in there)]
    if missing:
        raise ValueError(
            f"the prompt asks for the LoRA {missing[0]!r}, which is not loaded; "
            "load it with use_loras, or give --lora-dir, the folder that it is in"
        )
