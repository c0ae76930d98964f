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

REACH = 1 / 40  # of what a draft takes from a sketch, in sides
_LUMA = (0.299, 0.587, 0.114)  # BT.601
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
    images: Float[Tensor, "B 3 H W"],
    sketch: Float[Tensor, "B 3 H2 W2"] | None = None,
    *,
    reach: float = REACH,
) -> Float[Tensor, "B 3 H2 W2"]:
    """Drafts twice as large, as the refiner is shown them.

    A draft is too small for lids and lips. Where it was drawn over a sketch, the light and shade
    of that which are finer than `reach`, a share of the side, take the place of its own.
    """
    larger = F.interpolate(images, scale_factor=2, mode="bicubic", align_corners=False).clamp(0, 1)
    if sketch is None:
        return larger
    return (larger + fine_shade(sketch, reach) - fine_shade(larger, reach)).clamp(0, 1)


def fine_shade(
    pictures: Float[Tensor, "B 3 H W"], reach: float = REACH
) -> Float[Tensor, "B 1 H W"]:
    """What of the luma is finer than a share of the side (a Gaussian's deviation), -1..1."""
    luma = _luma(pictures)
    return luma - _blurred(luma, int(pictures.shape[-1] * reach))


def in_colours_of(
    pictures: Float[Tensor, "B 3 H W"], drafts: Float[Tensor, "B 3 H W"]
) -> Float[Tensor, "B 3 H W"]:
    """Pictures with what is broad in their colours taken from others.

    The refiner pales them; the same is done to upscalers (StableSR, Wang et al. 2024).
    """
    reach = pictures.shape[-1] // 32
    return (pictures + _blurred(drafts, reach) - _blurred(pictures, reach)).clamp(0, 1)


def in_sketch_colours(
    drawn: Float[Tensor, "B 3 H W"], sketch: Float[Tensor, "1 3 H W"], strength: float
) -> Float[Tensor, "B 3 H W"]:
    """What was drawn over a sketch, in its broad colours, and in its hues as fine as an iris.

    The small model loses pale ones, and gives one face eyes of two colours. From a strength of a
    half on the sketch holds less and less, and at 1 not at all.
    """
    broad = in_colours_of(drawn, sketch)
    reach = max(1, drawn.shape[-1] // 128)
    hues = _blurred(_chroma(sketch), reach) - _blurred(_chroma(broad), reach)
    return drawn.lerp((broad + hues).clamp(0, 1), min(1.0, 2 * (1 - strength)))


def _chroma(pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    return pictures - _luma(pictures)


def _luma(pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
    return torch.einsum("c,bchw->bhw", pictures.new_tensor(_LUMA), pictures)[:, None]


def _blurred(pictures: Tensor, reach: int) -> Tensor:
    """By a box of `reach` pixels each way, three times, which is nearly a Gaussian."""
    size = 2 * max(1, reach) + 1
    for _ in range(3):
        pictures = F.avg_pool2d(pictures, size, 1, size // 2, count_include_pad=False)
    return pictures
