"""T2I-Adapters of one file, which has no settings: they are read off the weights' shapes."""

from __future__ import annotations

import re
from pathlib import Path

from diffusers import T2IAdapter
from torch import Tensor

from assets.errors import AssetError
from assets.weights import install_weights, read_tensors
from diffusion.record import Pipeline

_BLOCK = re.compile(r"body\.(\d+)\.(.+)")
_LIGHT = re.compile(r"body\.(\d+)\.body\.(\d+)\.(.+)")


def adapter_of_file(path: Path, pipeline: Pipeline) -> T2IAdapter:
    """The adapter of a .pth or .safetensors file, for a model of the pipeline's family.

    Takes full and light adapters (Mou et al. 2023) under diffusers' or the authors' names.
    """
    tensors = read_tensors(path)
    if not all(name.startswith("adapter.") for name in tensors):
        tensors = _renamed(tensors, path)
    numbers = [int(m[1]) for n in tensors if (m := re.match(r"adapter\.body\.(\d+)\.", n))]
    if not numbers:
        raise AssetError(_no_adapter(path))
    levels = range(max(numbers) + 1)
    is_light = "adapter.conv_in.weight" not in tensors
    is_xl = "XL" in type(pipeline).__name__
    factor = int(pipeline.vae_scale_factor) * (2 if is_xl else 1)
    try:
        if is_light:
            kind = "light_adapter"
            given = tensors["adapter.body.0.in_conv.weight"].shape[1]
            channels = [tensors[f"adapter.body.{k}.out_conv.weight"].shape[0] for k in levels][:-1]
        else:
            kind = "full_adapter_xl" if is_xl else "full_adapter"
            given = tensors["adapter.conv_in.weight"].shape[1]
            channels = [
                tensors[f"adapter.body.{k}.resnets.0.block1.weight"].shape[0] for k in levels
            ]
    except KeyError as error:
        raise AssetError(_no_adapter(path)) from error
    if given not in (factor**2, 3 * factor**2):
        raise AssetError(
            f"{path} is a T2I-Adapter for another family of models (it takes {given} channels, "
            f"this model's take {factor**2} or {3 * factor**2}); use one made for this family"
        )
    layers = {
        int(m[1]) for n in tensors if (m := re.match(r"adapter\.body\.0\.resnets\.(\d+)\.", n))
    }
    made = T2IAdapter(
        in_channels=given // factor**2,
        channels=channels,
        num_res_blocks=len(layers),
        downscale_factor=factor,
        adapter_type=kind,
    )
    install_weights(made, tensors, described=str(path))
    return made


def _renamed(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The authors' names as diffusers': blocks are numbered through, and a level has several."""
    tensors = {name.removeprefix("adapter."): tensor for name, tensor in tensors.items()}
    if any(_LIGHT.fullmatch(name) for name in tensors):
        return {f"adapter.{_LIGHT.sub(_as_level, name)}": t for name, t in tensors.items()}
    numbers = {int(match[1]) for name in tensors if (match := _BLOCK.fullmatch(name))}
    # each level but the first begins with a change of width or a halving
    starts = [0, *(n for n in sorted(numbers) if n and f"body.{n}.in_conv.weight" in tensors)]
    per_level = starts[1] if len(starts) > 1 else len(numbers)
    if not numbers or "conv_in.weight" not in tensors or per_level < 1:
        raise AssetError(_no_adapter(path))
    named = {}
    for name, tensor in tensors.items():
        match = _BLOCK.fullmatch(name)
        if match is None:
            named[f"adapter.{name}"] = tensor
            continue
        level, layer = divmod(int(match[1]), per_level)
        inner = match[2] if match[2].startswith("in_conv") else f"resnets.{layer}.{match[2]}"
        named[f"adapter.body.{level}.{inner}"] = tensor
    return named


def _as_level(match: re.Match[str]) -> str:
    return f"body.{match[1]}.resnets.{match[2]}.{match[3]}"


def _no_adapter(path: Path) -> str:
    return f"{path} is no T2I-Adapter; give one, or its diffusers folder"
