"""Pictures in one to eight steps, by models and LoRAs that were distilled for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusers import EulerAncestralDiscreteScheduler, LCMScheduler

from diffusion.adapters import use_loras
from diffusion.record import Pipeline


@dataclass(frozen=True)
class FewSteps:
    """Settings that such a model was distilled for."""

    steps: int
    guidance: float


def use_lcm(
    pipeline: Pipeline,
    lora: tuple[Path | str, float] | None = None,
    folder: Path | None = None,
    *,
    others: Sequence[tuple[Path | str, float]] = (),
) -> FewSteps:
    """Set up for latent consistency (Luo et al. 2023) and return the settings to draw with.

    `lora` is the LCM-LoRA and its weight, usually 1; None for a model that was distilled whole.
    `others` are LoRAs that act beside it.
    """
    if lora is not None:
        use_loras(pipeline, [lora, *others], folder)
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    return FewSteps(steps=4, guidance=1.0)


def use_turbo(pipeline: Pipeline) -> FewSteps:
    """Set up for SD/SDXL Turbo (Sauer et al. 2023), which is drawn without guidance."""
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    return FewSteps(steps=1, guidance=0.0)
