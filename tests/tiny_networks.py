"""Networks and tokenizers of random weights that tiny diffusion models are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    T2IAdapter,
    UNet2DConditionModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WIDTH = 16  # of the text encoder, and so of cross attention
WIDE = 24  # of the second text encoder of SDXL and SD3
SIDE = 32  # pixels of a picture; the latents have half


def letter_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer over single letters; its two files are written to `folder`."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )


def t5_tokenizer() -> T5Tokenizer:
    """T5's tokenizer over single letters."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *letters]
    return T5Tokenizer(vocab=[(piece, -float(n)) for n, piece in enumerate(pieces)], extra_ids=0)


def projecting_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """OpenCLIP's shape; its width tells it from the other encoder in a single file."""
    shape = {"hidden_size": WIDE, "intermediate_size": 2 * WIDE, "projection_dim": WIDTH}
    return CLIPTextModelWithProjection(text_config(tokenizer, hidden_act="gelu", **shape))


def vision_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        **{"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "projection_dim": WIDTH},
        **{"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 16},
    )


def image_processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )


def t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    shape = {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), **shape))


def noise() -> dict[str, Any]:
    """Stable Diffusion's, which diffusers' pipelines insist on."""
    return {
        **{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
        **{"steps_offset": 1, "clip_sample": False},
    }


def text_config(tokenizer: CLIPTokenizer, **changes: Any) -> CLIPTextConfig:
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPTextConfig(**(shape | changes))


def vae(**changes: Any) -> AutoencoderKL:
    shape = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": SIDE,
    }
    return AutoencoderKL(**(shape | changes))


def unet(**changes: Any) -> UNet2DConditionModel:
    shape = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_size": SIDE // 2,
    }
    return UNet2DConditionModel(**(shape | changes))


def euler_noise() -> dict[str, Any]:
    return {key: value for key, value in noise().items() if key != "clip_sample"}


def controlnet() -> ControlNetModel:
    """For sd1; its last layers are not zero, so that it shows."""
    net = ControlNetModel.from_unet(unet(), conditioning_embedding_out_channels=(8, 16))
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.startswith(("controlnet_down_blocks", "controlnet_mid_block")):
                weight.normal_(std=0.3)
    return net


def t2i_adapter() -> T2IAdapter:
    return T2IAdapter(
        channels=(8, 16), num_res_blocks=1, downscale_factor=2, adapter_type="full_adapter"
    )
