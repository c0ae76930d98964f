"""Diffusion models of random weights in the layouts of the real ones, small enough for any test.

`model_folder(tmp_path_factory, "sd1")` is a diffusers folder, written once a session. The pictures
mean nothing; the same seed gives the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    IFPipeline,
    IFSuperResolutionPipeline,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionImageVariationPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionLatentUpscalePipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    StableUnCLIPImg2ImgPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from tiny_networks import (
    SIDE,
    WIDE,
    WIDTH,
    controlnet,
    euler_noise,
    image_processor,
    letter_tokenizer,
    noise,
    projecting_encoder,
    t2i_adapter,
    t5_encoder,
    t5_tokenizer,
    text_config,
    unet,
    vae,
    vision_config,
)
from transformers import (
    CLIPConfig,
    CLIPTextModel,
    CLIPVisionModelWithProjection,
)


def sd1(files: Path, **changes: Any) -> StableDiffusionPipeline:
    """Stable Diffusion 1.x without a safety checker."""
    tokenizer = letter_tokenizer(files)
    parts = {
        "vae": vae(),
        "text_encoder": CLIPTextModel(text_config(tokenizer)),
        "tokenizer": tokenizer,
        "unet": unet(),
        "scheduler": DDIMScheduler(**noise(), set_alpha_to_one=False),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    return StableDiffusionPipeline(**(parts | changes))


def sd1_checked(files: Path) -> StableDiffusionPipeline:
    """With a safety checker that flags nothing."""
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config=vision_config().to_dict(), projection_dim=WIDTH)
    )
    checker.concept_embeds_weights.fill_(2.0)  # no cosine comes near
    checker.special_care_embeds_weights.fill_(2.0)
    return sd1(
        files,
        safety_checker=checker,
        feature_extractor=image_processor(),
        requires_safety_checker=True,
    )


def sd2(files: Path) -> StableDiffusionPipeline:
    """2.x: heads by level, linear projections, and a model that predicts velocities."""
    return sd1(
        files,
        unet=unet(use_linear_projection=True, attention_head_dim=(2, 4)),
        scheduler=DDIMScheduler(**noise(), set_alpha_to_one=False, prediction_type="v_prediction"),
    )


def sd1_cross_first(files: Path) -> StableDiffusionPipeline:
    """Attention on the first level and none on the last, as 1.x has it; T2I-Adapters need that."""
    blocks = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    return sd1(files, unet=unet(down_block_types=blocks[0], up_block_types=blocks[1]))


def inpaint(files: Path) -> StableDiffusionInpaintPipeline:
    """Nine channels in: latents, mask, and the latents of what is kept."""
    other = sd1(files, unet=unet(in_channels=9))
    return StableDiffusionInpaintPipeline(**other.components, requires_safety_checker=False)


def upscale(files: Path) -> StableDiffusionUpscalePipeline:
    """x4, by a VAE of factor 4 and a UNet that sees the small picture."""
    tokenizer = letter_tokenizer(files)
    return StableDiffusionUpscalePipeline(
        vae=vae(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            scaling_factor=0.08333,
        ),
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=unet(in_channels=7, num_class_embeds=1000),
        low_res_scheduler=DDPMScheduler(),
        scheduler=DDIMScheduler(**noise(), set_alpha_to_one=False),
    )


def latent_upscale(files: Path) -> StableDiffusionLatentUpscalePipeline:
    tokenizer = letter_tokenizer(files)
    return StableDiffusionLatentUpscalePipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=unet(in_channels=8, out_channels=5, time_cond_proj_dim=128 + WIDTH),
        scheduler=EulerDiscreteScheduler(prediction_type="sample"),
    )


def sdxl(files: Path) -> StableDiffusionXLPipeline:
    tokenizer = letter_tokenizer(files)
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        text_encoder_2=projecting_encoder(tokenizer),
        tokenizer=tokenizer,
        tokenizer_2=letter_tokenizer(files),
        unet=_xl_unet(cross_attention_dim=WIDTH + WIDE, numbers=6),
        scheduler=EulerDiscreteScheduler(**euler_noise()),
    )


def refiner(files: Path) -> StableDiffusionXLImg2ImgPipeline:
    """SDXL's second stage: one text encoder, and a score of beauty in place of a target size."""
    tokenizer = letter_tokenizer(files)
    return StableDiffusionXLImg2ImgPipeline(
        vae=vae(),
        text_encoder=None,
        text_encoder_2=projecting_encoder(tokenizer),
        tokenizer=None,
        tokenizer_2=tokenizer,
        unet=_xl_unet(cross_attention_dim=WIDE, numbers=5),
        scheduler=EulerDiscreteScheduler(**euler_noise()),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
    )


def _xl_unet(cross_attention_dim: int, numbers: int) -> UNet2DConditionModel:
    return unet(
        cross_attention_dim=cross_attention_dim,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=8 * numbers + WIDTH,
    )


def sd3(files: Path) -> StableDiffusion3Pipeline:
    tokenizer = letter_tokenizer(files)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            **{"sample_size": SIDE // 2, "patch_size": 1, "in_channels": 4, "num_layers": 1},
            **{"attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": WIDTH},
            **{"joint_attention_dim": 2 * WIDTH, "pooled_projection_dim": 2 * WIDTH},
            **{"out_channels": 4, "pos_embed_max_size": SIDE // 2},
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06),
        text_encoder=projecting_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=projecting_encoder(tokenizer),
        tokenizer_2=letter_tokenizer(files),
        text_encoder_3=None,  # as many leave out the large T5
        tokenizer_3=None,
    )


def flux(files: Path) -> FluxPipeline:
    tokenizer, words = letter_tokenizer(files), t5_tokenizer()
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06),
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=t5_encoder(words),
        tokenizer_2=words,
        transformer=FluxTransformer2DModel(
            **{"patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1},
            **{"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 4, 8)},
            **{"joint_attention_dim": WIDTH, "pooled_projection_dim": WIDTH},
        ),
    )


def unclip(files: Path) -> StableUnCLIPImg2ImgPipeline:
    """Variations of a picture, from its CLIP embedding."""
    tokenizer = letter_tokenizer(files)
    return StableUnCLIPImg2ImgPipeline(
        feature_extractor=image_processor(),
        image_encoder=CLIPVisionModelWithProjection(vision_config()),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=WIDTH),
        image_noising_scheduler=DDPMScheduler(),
        tokenizer=tokenizer,
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        unet=unet(class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH),
        scheduler=DDIMScheduler(**noise(), set_alpha_to_one=False),
        vae=vae(),
    )


def deepfloyd(files: Path) -> IFPipeline:
    """DeepFloyd IF's first stage, which works on pixels."""
    words = t5_tokenizer()
    return IFPipeline(
        tokenizer=words,
        text_encoder=t5_encoder(words),
        unet=unet(in_channels=3, out_channels=6),
        scheduler=DDPMScheduler(variance_type="learned_range"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def deepfloyd_second(files: Path) -> IFSuperResolutionPipeline:
    """DeepFloyd IF's second stage: noise and the enlarged first picture go in side by side."""
    words = t5_tokenizer()
    return IFSuperResolutionPipeline(
        tokenizer=words,
        text_encoder=t5_encoder(words),
        unet=unet(in_channels=6, out_channels=6, sample_size=SIDE, class_embed_type="timestep"),
        scheduler=DDPMScheduler(variance_type="learned_range"),
        image_noising_scheduler=DDPMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def image_variation(files: Path) -> StableDiffusionImageVariationPipeline:
    """A picture's CLIP embedding in place of words."""
    return StableDiffusionImageVariationPipeline(
        vae=vae(),
        image_encoder=CLIPVisionModelWithProjection(vision_config()),
        unet=unet(),
        scheduler=DDIMScheduler(**noise(), set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=image_processor(),
        requires_safety_checker=False,
    )


MAKERS: dict[str, Callable[[Path], Any]] = {
    "sd1": sd1,
    "sd1-checked": sd1_checked,
    "sd1-cross-first": sd1_cross_first,
    "sd2": sd2,
    "inpaint": inpaint,
    "upscale": upscale,
    "latent-upscale": latent_upscale,
    "sdxl": sdxl,
    "refiner": refiner,
    "sd3": sd3,
    "flux": flux,
    "unclip": unclip,
    "deepfloyd": deepfloyd,
    "deepfloyd-second": deepfloyd_second,
    "image-variation": image_variation,
    "controlnet": lambda files: controlnet(),
    "image-encoder": lambda files: CLIPVisionModelWithProjection(vision_config()),
    "t2i": lambda files: t2i_adapter(),
}


def build(kind: str, files: Path, seed: int = 0) -> Any:
    """A pipeline in memory; `files` is a folder where its tokenizer may put its files."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # the constructors draw from the global generator
        made = MAKERS[kind](files)
    for part in getattr(made, "components", {"": made}).values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return made


def model_folder(tmp_path_factory: Any, kind: str) -> Path:
    """The diffusers folder of a tiny model; tests share it, so they must not write to it."""
    base = Path(tmp_path_factory.getbasetemp()) / "tiny-diffusion"
    folder = base / kind
    if not folder.exists():
        build(kind, base / f"{kind}-words").save_pretrained(folder)
    return folder
