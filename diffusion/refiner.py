"""A portrait model's drafts drawn anew twice as large, by a UNet that is shown them.

The refiner is an InstructPix2Pix model (Brooks et al. 2023) whose picture is the draft.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffusion.quiet import loading
from diffusion.samplers import scheduler_for

_SAMPLER, _STEPS = "Euler a", 20  # chance in every step leaves less of a draft's faults


def refiner_pipeline(model: Any, unet: Any) -> Any:
    """A portrait model's pipeline with the refiner's UNet; no weight is copied."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    with loading("the refiner", whole=False):
        pipeline = StableDiffusionInstructPix2PixPipeline(
            vae=model.vae,
            text_encoder=model.text_encoder,
            tokenizer=model.tokenizer,
            unet=unet,
            scheduler=scheduler_for(_SAMPLER, model.scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def refined(
    pipeline: Any, prompts: Sequence[str], drafts: Float[Tensor, "B 3 H W"], *, seed: int
) -> Float[Tensor, "B 3 H W"]:
    """Enlarged drafts, 0..1, drawn anew; picture k has the noise of `seed` + k."""
    made: Tensor = pipeline(
        list(prompts),
        image=drafts,
        num_inference_steps=_STEPS,
        guidance_scale=1.0,  # what is shown is in the draft
        generator=[torch.Generator().manual_seed(seed + k) for k in range(len(drafts))],
        output_type="pt",
    ).images
    return made.float().cpu().clamp(0, 1)


def enlarged_draft(
    images: Float[Tensor, "B 3 H W"], lines: Float[Tensor, "B 1 H2 W2"] | None = None
) -> Float[Tensor, "B 3 H2 W2"]:
    """Drafts twice as large, as the refiner is shown them: in white lines where contours are known.

    They say where lids and lips are to be, which a draft is too small for.
    """
    larger = F.interpolate(images, scale_factor=2, mode="bicubic", align_corners=False).clamp(0, 1)
    return larger if lines is None else larger + (1 - larger) * lines
