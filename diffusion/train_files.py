"""Networks as folders that diffusers and transformers open: half precision, shards below 16 MB."""

from __future__ import annotations

import copy
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from transformers import CLIPTokenizer

from assets.errors import AssetError
from assets.image import write_image
from assets.weights import load_weights
from diffusion.load import LOADING_ERRORS
from diffusion.quiet import in_one_line, loading
from diffusion.train_shapes import portrait_scheduler

_SHARD = "15MB"


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A fresh folder beside `folder` that takes its place when the block ends well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    making.mkdir()
    try:
        yield making
        shutil.rmtree(folder, ignore_errors=True)
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def write_network(network: Any, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """A folder with one network of diffusers, as an autoencoder or a ControlNet."""
    with replacing_folder(folder) as making, loading(str(folder), whole=False):
        _as(network, dtype).save_pretrained(making, max_shard_size=_SHARD)
        _forget_places(making)


def start_from(network: nn.Module, folder: Path) -> None:
    """Give a network the weights of one that was trained before, in a folder of `write_network`.

    Raises:
        AssetError: there are none, or they are of another shape
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise AssetError(
            f"{folder} holds no network to go on from; give the folder that this stage wrote in RUN"
        )
    load_weights(network, files)


def read_vae(folder: Path) -> AutoencoderKL:
    """An autoencoder that `write_network` wrote, or that of a whole model's folder."""
    place = folder / "vae" if (folder / "vae").is_dir() else folder
    try:
        with loading(str(place)):
            return AutoencoderKL.from_pretrained(
                place, use_safetensors=True, local_files_only=True, dtype=torch.float32
            )
    except LOADING_ERRORS as error:
        raise AssetError(
            f"{folder} cannot be opened as an autoencoder ({in_one_line(error)}); train one with "
            "python -m diffusion.train vae and give its RUN/vae"
        ) from error


def portrait_pipeline(
    vae: AutoencoderKL, text_encoder: Any, tokenizer: CLIPTokenizer, unet: Any
) -> StableDiffusionPipeline:
    """The networks as one pipeline, which has no safety checker."""
    with loading("the portrait model", whole=False):
        pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=portrait_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_model(pipeline: StableDiffusionPipeline, folder: Path) -> list[Path]:
    """A whole diffusers folder in half precision; its files."""
    words = pipeline.tokenizer
    half = portrait_pipeline(
        _as(pipeline.vae, torch.float16),
        _as(pipeline.text_encoder, torch.float16),
        words,
        _as(pipeline.unet, torch.float16),
    )
    with replacing_folder(folder) as making, loading(str(folder), whole=False):
        half.save_pretrained(making, max_shard_size=_SHARD)
        _forget_places(making)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_sheet(path: Path, rows: list[Float[Tensor, "B 3 H W"]]) -> None:
    """A PNG of rows of pictures."""
    lines = [torch.cat(list(row.float().cpu()), dim=-1) for row in rows]
    write_image(path, torch.cat(lines, dim=-2)[None].clamp(0, 1), ai_generated=True)


def rows_of(pixels: UInt8[np.ndarray, "N 3 H W"], rows: Tensor) -> UInt8[np.ndarray, "B 3 H W"]:
    """Some pictures, copied out of their file; read in its order, which disks like."""
    order = np.argsort(rows.numpy(), kind="stable")
    out = np.empty((len(rows), *pixels.shape[1:]), np.uint8)
    for place in order:
        out[place] = pixels[int(rows[place])]
    return out


def _forget_places(folder: Path) -> None:
    """Take out of the configs where a network was read from: it is nobody's business elsewhere."""
    for path in folder.rglob("*config.json"):
        told = json.loads(path.read_text(encoding="utf-8"))
        if told.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _as(network: Any, dtype: torch.dtype) -> Any:
    """A copy on the CPU."""
    with loading(type(network).__name__, whole=False):
        return copy.deepcopy(network).to("cpu").to(dtype)
