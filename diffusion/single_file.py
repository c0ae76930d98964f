"""Checkpoints of one file: which family it is, by what is in it, and diffusers' conversion."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from safetensors import SafetensorError, safe_open

from assets.errors import AssetError
from assets.files import replacing
from assets.kinds import N_START, is_safetensors
from assets.store import cache_folder
from assets.weights import read_tensors
from diffusion.families import cached_family, family_folder
from diffusion.folders import check_model_folder, find_folder, write_plain
from diffusion.record import Pipeline

_UNET = "model.diffusion_model."
_KINDS = {  # parts of names, in the order they are tried: what such a file is instead
    ("lora_unet_", "lora_te_", ".lora_up.", ".lora_down.", ".lora_A.", ".lora_B.", "lora.up"): (
        "a LoRA; add it to a whole model with use_loras"
    ),
    ("control_model.", "controlnet_cond_embedding.", "controlnet_down_blocks."): (
        "a ControlNet; give it as controlnets= of a whole model"
    ),
    ("image_proj.", "ip_adapter."): "an IP-Adapter; add it to a whole model with add_ip_adapter",
    ("string_to_param", "emb_params", "clip_g", "clip_l"): (
        "a Textual Inversion; add it to a whole model with add_embedding"
    ),
    ("down_blocks.", "encoder.down_blocks.", "text_model."): (
        "one part of a diffusers model; give the folder that has its model_index.json"
    ),
}


@dataclass(frozen=True)
class Contents:
    """Names and shapes of what a checkpoint holds, and a safetensors file with it."""

    path: Path
    shapes: dict[str, tuple[int, ...]]

    def has(self, start: str) -> bool:
        return any(name.startswith(start) for name in self.shapes)

    @property
    def in_channels(self) -> int:
        shape = self.shapes.get(f"{_UNET}input_blocks.0.0.weight", (0, 4))
        return shape[1] if len(shape) > 1 else 4


def open_single_file(
    path: Path,
    *,
    dtype: torch.dtype,
    config: Path | str | None = None,
    tokenizer: Path | None = None,
    prediction: str | None = None,
) -> Pipeline:
    """The pipeline of a .safetensors or .ckpt with the original key names, by diffusers.

    The file says by its content what it is, not by its name. `config` is a diffusers folder of the
    family, or its hub id in the cache; SD 1.x, 2.x and SDXL need it only if they are of another
    shape than the published ones.
    """
    contents = read_contents(path)
    family = family_of(contents)
    if config is not None:
        folder = find_folder(config)
    elif family in ("sd3", "flux"):
        raise AssetError(
            f"{path} is a {family.upper()} checkpoint, whose settings and text encoders are "
            "elsewhere; give config= a diffusers folder of that model"
        )
    else:
        cached = (
            None if tokenizer is not None or contents.in_channels != 4 else cached_family(family)
        )
        folder = cached or family_folder(family, contents.in_channels, tokenizer)
    named = check_model_folder(folder)["_class_name"]
    kind = getattr(diffusers, named)
    if not hasattr(kind, "from_single_file"):
        raise AssetError(f"{folder} is of {named}, which diffusers opens from folders only")
    pipeline = kind.from_single_file(
        str(contents.path), config=str(folder), dtype=dtype, local_files_only=True
    )
    if prediction is None and "v_pred" in contents.shapes:  # how SDXL models are marked
        prediction = "v_prediction"
    if prediction is not None:
        changes: dict[str, str | bool] = {"prediction_type": prediction}
        if "ztsnr" in contents.shapes:
            changes["rescale_betas_zero_snr"] = True
        pipeline.scheduler = type(pipeline.scheduler).from_config(
            pipeline.scheduler.config, **changes
        )
    return pipeline


def family_of(contents: Contents) -> str:
    """sd1, sd2, sdxl, sdxl-refiner, sd3 or flux; what is no whole model is an error saying what."""
    if contents.has("conditioner.embedders.1."):
        found = "sdxl"
    elif contents.has("conditioner.embedders.0.model."):
        found = "sdxl-refiner"
    elif contents.has("cond_stage_model.model."):
        found = "sd2"
    elif contents.has("cond_stage_model.transformer."):
        found = "sd1"
    elif any("joint_blocks." in name for name in contents.shapes):
        return "sd3"
    elif any("double_blocks." in name and "lora" not in name for name in contents.shapes):
        return "flux"
    else:
        found = ""
    if found and contents.has(_UNET) and contents.has("first_stage_model."):
        return found
    for parts, words in _KINDS.items():
        if any(part in name for part in parts for name in contents.shapes):
            raise AssetError(f"{contents.path} holds no whole diffusion model: it is {words}")
    raise AssetError(
        f"{contents.path} holds no whole diffusion model (text encoder, UNet and VAE); "
        "LoRA and other adapters are added to one"
    )


def read_contents(path: Path) -> Contents:
    """What a checkpoint holds; one of PyTorch's is rewritten as safetensors in the user's cache."""
    with open(path, "rb") as file:
        start = file.read(N_START)
    if is_safetensors(start, path.stat().st_size):
        plain = path if path.suffix == ".safetensors" else _cached(path, link=True)
    else:
        plain = _cached(path)
    try:
        with safe_open(plain, framework="pt") as tensors:
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise AssetError(f"{path} is damaged ({error}); fetch it again") from error
    return Contents(plain, shapes)


def _cached(path: Path, *, link: bool = False) -> Path:
    stat = path.stat()
    stamp = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    name = hashlib.sha256(stamp.encode()).hexdigest()
    plain = cache_folder() / "diffusion" / f"{name}.safetensors"
    if not plain.is_file():
        with replacing(plain) as written:
            if link:  # diffusers tells the kind by the suffix
                os.symlink(path.resolve(), written)
            else:
                tensors = read_tensors(path)
                # running means of the training, which diffusers leaves out too
                kept = {n: t for n, t in tensors.items() if not n.startswith("model_ema.")}
                write_plain({n.removeprefix("state_dict."): t for n, t in kept.items()}, written)
    return plain
