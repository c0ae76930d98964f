"""The shapes of the small portrait model: autoencoder, text encoder and UNet, of two sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusion.train_squares import start_from_squares

FACTOR = 8  # pixels for one latent, each way
NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    # more noise at the end than Stable Diffusion has, which leaves colours of whole pictures to be
    # seen through it; few latents average less of it away
    **{"beta_start": 0.00085, "beta_end": 0.02, "steps_offset": 1},
    # a velocity is well defined at every noise level, and small models learn it more steadily
    "prediction_type": "v_prediction",
}


@dataclass(frozen=True)
class PortraitShape:
    """Widths and depths of the three networks; every level but the last halves the picture."""

    side: int = 256  # pixels
    latents: int = 4  # channels
    vae_widths: tuple[int, ...] = (32, 64, 128, 192)
    vae_layers: int = 1
    unet_widths: tuple[int, ...] = (96, 192, 288)
    unet_layers: int = 1
    head_width: int = 64  # of attention
    text_width: int = 320
    text_layers: int = 4
    text_tokens: int = 77  # of a prompt, with its start and end
    words: int = 4096  # most tokens
    vae_groups: int = 16  # of GroupNorm
    groups: int = 16

    def __post_init__(self) -> None:
        if len(self.vae_widths) != 4:
            raise ValueError(f"vae_widths={self.vae_widths} must be four, for a factor of {FACTOR}")
        least = FACTOR * 2 ** (len(self.unet_widths) - 1)
        if self.side < least or self.side % least:
            raise ValueError(f"side={self.side} must be a multiple of {least}")
        groups = [(width, self.vae_groups) for width in self.vae_widths]
        groups += [(width, self.groups) for width in self.unet_widths]
        if any(width % count for width, count in groups):
            raise ValueError(
                f"every width must be a multiple of groups={self.groups}, of "
                f"vae_groups={self.vae_groups} in the autoencoder"
            )


# the smaller is what one processor core can train in an hour
SIZES = {
    256: PortraitShape(),
    128: PortraitShape(
        side=128,
        # a face of 60 pixels is 8 latents wide: with four channels there is room for its colours
        # or for its features, and with eight for no eyes that a short training finds
        latents=12,
        vae_widths=(16, 24, 48, 96),
        vae_groups=2,  # a group of few channels loses the mean colour of a picture
        unet_widths=(48, 96, 160),
        head_width=32,
        text_width=192,
        text_layers=2,
        text_tokens=64,
        words=1024,
    ),
}


def portrait_vae(shape: PortraitShape) -> AutoencoderKL:
    """The autoencoder, of factor 8 as in Stable Diffusion."""
    vae = AutoencoderKL(
        block_out_channels=shape.vae_widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=shape.vae_layers,
        latent_channels=shape.latents,
        norm_num_groups=shape.vae_groups,
        sample_size=shape.side,
        mid_block_add_attention=False,
        force_upcast=False,
    )
    start_from_squares(vae)
    return vae


def portrait_unet(shape: PortraitShape) -> UNet2DConditionModel:
    """The UNet; it attends to the words on every level but the first, where pixels are most.

    All levels hear the prompt as a whole beside the timestep, which binds its words sooner.
    """
    deep = len(shape.unet_widths) - 1
    unet = UNet2DConditionModel(
        sample_size=shape.side // FACTOR,
        in_channels=shape.latents,
        out_channels=shape.latents,
        block_out_channels=shape.unet_widths,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * deep),
        up_block_types=(*("CrossAttnUpBlock2D",) * deep, "UpBlock2D"),
        layers_per_block=shape.unet_layers,
        cross_attention_dim=shape.text_width,
        addition_embed_type="text",
        addition_embed_type_num_heads=max(1, shape.text_width // shape.head_width),
        # diffusers' name for the number of heads
        attention_head_dim=tuple(max(1, width // shape.head_width) for width in shape.unet_widths),
        norm_num_groups=shape.groups,
        use_linear_projection=True,
    )
    # every block starts as one that changes nothing
    for part in unet.modules():
        last = part.conv2 if isinstance(part, ResnetBlock2D) else getattr(part, "proj_out", None)
        if last is not None:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.add_embedding.norm2.weight)
    return unet


def portrait_text_encoder(shape: PortraitShape, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A small text encoder of CLIP's shape for a tokenizer's words."""
    settings = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.text_width,
        intermediate_size=4 * shape.text_width,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=max(1, shape.text_width // shape.head_width),
        max_position_embeddings=shape.text_tokens,
        projection_dim=shape.text_width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(settings)


def portrait_scheduler() -> DPMSolverMultistepScheduler:
    """The sampler that the model is shipped with; twenty steps are enough for it."""
    return DPMSolverMultistepScheduler(
        **NOISE, use_karras_sigmas=True, algorithm_type="dpmsolver++", solver_order=2
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """While it lasts, constructors fill new layers by this seed; the global state comes back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
