"""Opening a diffusion model from disk, offline, and making a picture of a prompt with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.weights import read_tensors

Pipeline: TypeAlias = Any  # diffusers' classes share no type that has the call


def load_pipeline(
    source: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: Path | None = None,
) -> Pipeline:
    """A diffusers pipeline of a local folder, of one file, or of a hub id that is in the cache.

    Nothing is downloaded, and no code that a model brings is run. A single file holds no settings
    or tokenizer: `config` is a diffusers folder of its family, else the family's is taken from the
    cache. A .ckpt is read only if it holds nothing but tensors.
    """
    path = Path(source)
    try:
        if path.is_dir():
            _check_folder(path)
            pipeline = DiffusionPipeline.from_pretrained(
                path, torch_dtype=dtype, local_files_only=True
            )
        elif path.is_file():
            pipeline = _load_file(path, dtype, config)
        elif path.suffix or path.is_absolute():
            raise AssetError(
                f"{path} is not there; give a diffusers folder, a .safetensors file or a hub id"
            )
        else:
            pipeline = DiffusionPipeline.from_pretrained(
                str(source), torch_dtype=dtype, local_files_only=True
            )
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise AssetError(
            f"{source} cannot be opened as a diffusion model offline "
            f"({' '.join(str(error).split())[:300]}); give a whole diffusers folder"
        ) from error
    pipeline.set_progress_bar_config(disable=True)  # progress is the caller's to show
    return pipeline.to(device)


def txt2img(
    pipeline: Pipeline,
    prompt: str,
    *,
    generator: torch.Generator,
    negative_prompt: str = "",
    steps: int = 25,
    guidance: float = 7.5,
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "1 3 H W"]:
    """The picture of a prompt, on the CPU; `size` is width and height, None the model's own.

    The same generator state gives the same picture on the same kind of device.
    """
    if not prompt.strip():
        raise ValueError("the prompt is empty; say what the picture shows")
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    width, height = size or (None, None)
    for name, side in (("width", width), ("height", height)):
        if side is not None and (side < 8 or side % 8):
            raise ValueError(f"{name}={side} must be a multiple of 8, at least 8")
    with torch.no_grad():
        images: Tensor = pipeline(
            prompt=prompt,
            negative_prompt=negative_prompt,
            num_inference_steps=steps,
            guidance_scale=guidance,
            width=width,
            height=height,
            generator=generator,
            output_type="pt",
        ).images
    return images.detach().float().cpu().clamp(0, 1)


def _check_folder(path: Path) -> None:
    index = path / "model_index.json"
    if not index.is_file():
        raise AssetError(
            f"{path} has no model_index.json; give the top folder of a diffusers model"
        )
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise AssetError(f"{index} is damaged ({error}); fetch the model again") from error
    if not isinstance(named, str):  # a list names a Python file inside the folder
        raise AssetError(f"{index} asks to run code of its own; use a model of a stock pipeline")


def _load_file(path: Path, dtype: torch.dtype, config: Path | None) -> Pipeline:
    tensors = read_tensors(path)  # refuses what is no tensors, whatever the suffix says
    if not any(name.startswith("model.diffusion_model.") for name in tensors):
        raise AssetError(
            f"{path} holds no whole diffusion model; LoRA and other adapters are added to one"
        )
    is_xl = any(name.startswith("conditioner.embedders.1.") for name in tensors)
    del tensors
    family = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    return family.from_single_file(
        str(path),
        config=None if config is None else str(config),
        torch_dtype=dtype,
        local_files_only=True,
    )
