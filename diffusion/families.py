"""Settings of the Stable Diffusion families, for single files, which hold weights alone.

Each family becomes a folder of small JSON files in the user's cache, as diffusers reads them. The
figures are those of the published architectures (Rombach et al. 2022; Podell et al. 2023).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub

from assets.errors import AssetError
from assets.store import cache_folder, user_folder
from diffusion.folders import read_settings

Settings = dict[str, Any]

_NOISE: Settings = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "clip_sample": False,
}
_CLIP_L: Settings = {
    **{"hidden_size": 768, "intermediate_size": 3072, "projection_dim": 768},
    **{"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "quick_gelu"},
}
_OPEN_CLIP_H: Settings = {  # its last layer is left out, as the model was trained
    **{"hidden_size": 1024, "intermediate_size": 4096, "projection_dim": 512},
    **{"num_hidden_layers": 23, "num_attention_heads": 16, "hidden_act": "gelu"},
}
_OPEN_CLIP_G: Settings = {
    **{"hidden_size": 1280, "intermediate_size": 5120, "projection_dim": 1280},
    **{"num_hidden_layers": 32, "num_attention_heads": 20, "hidden_act": "gelu"},
}
_SD1_UNET: Settings = {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}
_SD2_UNET: Settings = {
    **{"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "sample_size": 96},
    "use_linear_projection": True,
}
_XL_COMMON: Settings = {
    **{"use_linear_projection": True, "sample_size": 128},
    **{"addition_embed_type": "text_time", "addition_time_embed_dim": 256},
}
_XL_UNET: Settings = {
    **_XL_COMMON,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "projection_class_embeddings_input_dim": 2816,
}
_REFINER_UNET: Settings = {
    **_XL_COMMON,
    "block_out_channels": [384, 768, 1536, 1536],
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
    "cross_attention_dim": 1280,
    "attention_head_dim": [6, 12, 24, 24],
    "transformer_layers_per_block": 4,
    "projection_class_embeddings_input_dim": 2560,
}
_PNDM = ["PNDMScheduler", {**_NOISE, "skip_prk_steps": True, "set_alpha_to_one": False}]
_DDIM_V = [
    "DDIMScheduler",
    {**_NOISE, "set_alpha_to_one": False, "prediction_type": "v_prediction"},
]
_EULER = ["EulerDiscreteScheduler", {**_NOISE, "timestep_spacing": "leading"}]

# family: pipeline, UNet, scheduler, text encoders (class and settings), scale of the latents
FAMILIES: dict[str, tuple[str, Settings, list[Any], dict[str, tuple[str, Settings]], float]] = {
    "sd1": (
        *("StableDiffusionPipeline", _SD1_UNET, _PNDM),
        {"text_encoder": ("CLIPTextModel", _CLIP_L)},
        0.18215,
    ),
    "sd2": (
        *("StableDiffusionPipeline", _SD2_UNET, _DDIM_V),
        {"text_encoder": ("CLIPTextModel", _OPEN_CLIP_H)},
        0.18215,
    ),
    "sdxl": (
        *("StableDiffusionXLPipeline", _XL_UNET, _EULER),
        {
            "text_encoder": ("CLIPTextModel", _CLIP_L),
            "text_encoder_2": ("CLIPTextModelWithProjection", _OPEN_CLIP_G),
        },
        0.13025,
    ),
    "sdxl-refiner": (
        *("StableDiffusionXLImg2ImgPipeline", _REFINER_UNET, _EULER),
        {"text_encoder_2": ("CLIPTextModelWithProjection", _OPEN_CLIP_G)},
        0.13025,
    ),
}
# Where each family's settings and tokenizer are when diffusers has used them before.
HUB_IDS = {
    "sd1": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd2": "stabilityai/stable-diffusion-2-1",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sdxl-refiner": "stabilityai/stable-diffusion-xl-refiner-1.0",
}
_TOKENIZERS = ("openai/clip-vit-large-patch14", *HUB_IDS.values())


def family_settings(family: str, in_channels: int = 4) -> dict[str, Settings]:
    """The JSON files of a family by path, without its tokenizer's words."""
    pipeline, unet, (scheduler, noise), encoders, scale = FAMILIES[family]
    if in_channels == 9:
        pipeline = pipeline.replace("XLImg2Img", "XL").replace("Pipeline", "InpaintPipeline")
    index: Settings = {
        "_class_name": pipeline,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", scheduler],
    }
    is_xl = family.startswith("sdxl")
    files: dict[str, Settings] = {
        "unet/config.json": {
            **{"_class_name": "UNet2DConditionModel", "in_channels": in_channels},
            **unet,
        },
        "vae/config.json": {
            **{"_class_name": "AutoencoderKL", "scaling_factor": scale, "latent_channels": 4},
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            **{"layers_per_block": 2, "sample_size": 1024 if is_xl else 512},
            "force_upcast": is_xl,
        },
        "scheduler/scheduler_config.json": {"_class_name": scheduler, **noise},
    }
    for part, (kind, shape) in encoders.items():
        tokenizer = part.replace("text_encoder", "tokenizer")
        index |= {part: ["transformers", kind], tokenizer: ["transformers", "CLIPTokenizer"]}
        files[f"{part}/config.json"] = {
            **{"architectures": [kind], "model_type": "clip_text_model", "vocab_size": 49408},
            **{"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1},
            **{"max_position_embeddings": 77, "layer_norm_eps": 1e-5},
            **shape,
        }
        files[f"{tokenizer}/tokenizer_config.json"] = {
            **{"tokenizer_class": "CLIPTokenizer", "model_max_length": 77},
            **{"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"},
            "unk_token": "<|endoftext|>",
            # OpenCLIP was trained with zeros after the end, which are the word "!"
            "pad_token": "<|endoftext|>" if shape is _CLIP_L else "!",
        }
    if family == "sdxl-refiner":
        index |= {"text_encoder": [None, None], "tokenizer": [None, None]}
        index["requires_aesthetics_score"] = True
    if is_xl:
        index["force_zeros_for_empty_prompt"] = family == "sdxl"
    else:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
        index["requires_safety_checker"] = False
    return {"model_index.json": index, **files}


def family_folder(family: str, in_channels: int, tokenizer: Path | None) -> Path:
    """A diffusers folder of settings for a family, with the words of CLIP's tokenizer.

    The words are those of `tokenizer`, of the user's folder, or of any Stable Diffusion in the
    cache; they are not ours to ship.
    """
    words = _find_tokenizer(tokenizer)
    files = family_settings(family, in_channels)
    text = json.dumps(files, sort_keys=True)
    for path in words:
        text += hashlib.sha256(path.read_bytes()).hexdigest()
    folder = cache_folder() / "diffusion" / f"{family}-{hashlib.sha256(text.encode()).hexdigest()}"
    if folder.is_dir():
        return folder
    making = folder.with_name(f".{family}.{secrets.token_hex(6)}")
    try:
        for name, settings in files.items():
            path = making / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
            if path.name == "tokenizer_config.json":
                for kept in words:
                    shutil.copyfile(kept, path.with_name(kept.name))
        os.replace(making, folder)
    except OSError as error:
        if not folder.is_dir():  # else another process made it at the same time
            raise AssetError(f"{folder} cannot be written ({error}); free some space") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def cached_family(family: str) -> Path | None:
    """The settings of a family's reference model in the hub's cache, if they are all there."""
    try:
        folder = Path(huggingface_hub.snapshot_download(HUB_IDS[family], local_files_only=True))
    except (OSError, ValueError):
        return None
    needed = [*family_settings(family)]
    return folder if all((folder / name).is_file() for name in needed) else None


def _find_tokenizer(given: Path | None) -> list[Path]:
    """The files of CLIP's words, old (vocab.json and merges.txt) or new (tokenizer.json)."""
    kept = user_folder() / "tokenizer"
    places = [given] if given is not None else [kept]
    if given is None:
        for name in _TOKENIZERS:
            try:
                snapshot = Path(huggingface_hub.snapshot_download(name, local_files_only=True))
            except (OSError, ValueError):
                continue
            places += [snapshot, snapshot / "tokenizer", snapshot / "tokenizer_2"]
    for place in places:
        for names in (("vocab.json", "merges.txt"), ("tokenizer.json",)):
            files = [place / name for name in names]
            if all(file.is_file() for file in files):
                read_settings(files[0])
                return files
    raise AssetError(
        f"{given or kept} has no vocab.json and merges.txt, the words that a single file lacks; "
        "copy both there from the tokenizer folder of any Stable Diffusion model, or give "
        "tokenizer= that folder or config= a whole diffusers folder"
    )
