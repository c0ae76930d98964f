"""The loss of a denoiser: noise added by the model's own schedule, and how levels are weighed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from diffusers import DDPMScheduler
from jaxtyping import Float, Int
from torch import Tensor

from diffusion.train_latents import CaptionedLatents, Lesson
from diffusion.train_run import LossOf, RunConfig, generator_at

Predict: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # of noisy latents and their timesteps


@dataclass(frozen=True)
class NoiseConfig:
    """How noise is drawn and weighed."""

    min_snr: float | None = 5.0  # Hang et al. 2023; None weighs every level alike
    offset: float = 0.0  # spread of a shift of each channel, which lets a picture be dark or light
    middle: float = 0.0  # share of timesteps that come from the middle, see `draw_timesteps`

    def __post_init__(self) -> None:
        if self.min_snr is not None and not self.min_snr > 0:
            raise ValueError(f"min_snr={self.min_snr} must be above 0")
        if not 0 <= self.offset <= 1:
            raise ValueError(f"noise offset={self.offset} must be from 0 to 1; 0.05 is usual")
        if not 0 <= self.middle <= 1:
            raise ValueError(f"middle={self.middle} must be from 0 to 1; 0.75 is usual")


def training_scheduler(settings: Any) -> DDPMScheduler:
    """The noise that a model was trained on, by the settings of any of its schedulers."""
    known = (
        *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
        *("prediction_type", "rescale_betas_zero_snr"),
    )
    return DDPMScheduler(**{key: settings[key] for key in known if key in settings})


def signal_to_noise(scheduler: DDPMScheduler, timesteps: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """The ratio of the variances of picture and noise at each timestep."""
    alpha_bar: Tensor = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    return alpha_bar / (1 - alpha_bar)


def min_snr_weights(snr: Float[Tensor, " B"], most: float, prediction: str) -> Float[Tensor, " B"]:
    """Min-SNR weights of the loss in what is predicted (Hang et al. 2023, section 3.4)."""
    if prediction == "epsilon":
        return (most / snr).clamp(max=1)  # min(snr, most) / snr, also where snr is 0
    if prediction == "v_prediction":
        return snr.clamp(max=most) / (snr + 1)
    return snr.clamp(max=most)


def draw_noise(
    latents: Float[Tensor, "B C h w"], offset: float, *, generator: torch.Generator
) -> Float[Tensor, "B C h w"]:
    """Gaussian noise where the latents are, with a shift of each channel of that spread."""
    noise = torch.randn(latents.shape, generator=generator)
    if offset:
        noise = (
            noise + offset * torch.randn(latents.shape[:2], generator=generator)[..., None, None]
        )
    return noise.to(latents)


def draw_timesteps(
    count: int, steps: int, middle: float, *, generator: torch.Generator
) -> Int[Tensor, " B"]:
    """Random timesteps, a share of them logit-normal (Esser et al. 2024, section 3.1).

    These lie around signal as strong as noise, where features are decided: an even draw spends half
    of a training of small latents where only a layout and its colours can be seen.
    """
    even = torch.rand(count, generator=generator)
    near = torch.sigmoid(torch.randn(count, generator=generator) - 1.0)
    is_near = torch.rand(count, generator=generator) < middle
    return (steps * torch.where(is_near, near, even)).long().clamp(max=steps - 1)


def denoising_losses(
    predict: Predict,
    latents: Float[Tensor, "B C h w"],
    scheduler: DDPMScheduler,
    config: NoiseConfig,
    *,
    generator: torch.Generator,
) -> Float[Tensor, " B"]:
    """The weighed squared error of each picture's prediction at a random timestep."""
    steps = scheduler.config.num_train_timesteps
    timesteps = draw_timesteps(len(latents), steps, config.middle, generator=generator)
    timesteps = timesteps.to(latents.device)
    noise = draw_noise(latents, config.offset, generator=generator)
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        target = scheduler.get_velocity(latents, noise, timesteps)
    else:
        target = noise if kind == "epsilon" else latents
    predicted = predict(scheduler.add_noise(latents, noise, timesteps), timesteps)
    errors: Tensor = (predicted.float() - target.float()).square().mean((1, 2, 3))
    if config.min_snr is None:
        return errors
    return errors * min_snr_weights(signal_to_noise(scheduler, timesteps), config.min_snr, kind)


def prompted_loss(
    pipeline: Any,
    lessons: CaptionedLatents,
    predictor: Callable[[Lesson, Tensor], Predict],
    accelerator: Any,
    config: RunConfig,
    dropout: float,
    noise: NoiseConfig,
) -> LossOf:
    """The loss of a network beside a whole model, whose text encoder stays as it is.

    `predictor` makes what is asked of a batch from it and from its captions as they are heard.
    """
    scheduler = training_scheduler(pipeline.scheduler.config)
    device = accelerator.device

    def loss_of(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = generator_at(config.seed, number)
        lesson = lessons.draw(config.batch, dropout, generator=generator)
        with accelerator.autocast():
            with torch.no_grad():
                heard = pipeline.text_encoder(lesson.ids.to(device))[0]
            predict = predictor(lesson, heard)
            latents = lesson.latents.to(device)
            losses = denoising_losses(predict, latents, scheduler, noise, generator=generator)
        return losses.mean(), {}

    return loss_of
