"""Checkpoints with the published layouts and deterministic made-up weights.

They load wherever the published files do, so that everything round them can be tried and timed; a
face comes out near the mean one, in the middle of the crop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from assets.files import replacing
from deca.emoca import HEADS, EmocaNetworks
from deca.mica import MicaNetworks
from deca.official_deca import LAYOUT, DecaNetworks
from deca.smirk import PREFIX, SmirkNetworks
from flame.light import SH_CONSTANTS

Fill = Callable[[str, Tensor], Tensor]
_CAMERA_SCALE = 7.5


def write_deca(path: Path, *, generator: torch.Generator) -> None:
    """A file laid out as `deca_model.tar`."""
    tensors = random_weights(_layout(lambda: DecaNetworks(True)), generator)
    _centre_face(tensors)
    _save(_nested(tensors, ("E_flame", "E_detail", "D_detail")), path)


def write_emoca(path: Path, *, generator: torch.Generator, width: int = 53) -> None:
    """A file laid out as EMOCA's Lightning checkpoints; `width` is 50, 53 or 56."""
    if width not in HEADS:
        raise ValueError(f"width={width}; EMOCA's heads are {', '.join(map(str, HEADS))} wide")
    tensors = random_weights(_layout(lambda: EmocaNetworks(True, width)), generator)
    _centre_face(tensors)
    _save({"state_dict": {f"deca.{name}": tensor for name, tensor in tensors.items()}}, path)


def write_mica(path: Path, *, generator: torch.Generator) -> None:
    """A file laid out as `mica.tar`, without FLAME's arrays."""
    tensors = random_weights(_layout(MicaNetworks), generator)
    _save(_nested(tensors, ("arcface", "flameModel")), path)


def write_smirk(path: Path, *, generator: torch.Generator) -> None:
    """A file laid out as `SMIRK_em1.pt`, without the generator that draws pictures."""
    tensors = random_weights(_layout(SmirkNetworks), generator)
    tensors["pose_encoder.pose_cam_layers.0.bias"] = torch.tensor([0.0, 0, 0, 7, 0, 0])
    _save({f"{PREFIX}{name}": tensor for name, tensor in tensors.items()}, path)


def random_weights(layout: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Tensors of a layout's names and shapes whose networks keep their signals near unit size."""
    made = {}
    for name, shape in layout.items():
        if name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(1)
        elif name.endswith(("running_mean", "bias")):
            made[name] = 0.05 * torch.randn(shape.shape, generator=generator)
        elif name.endswith("running_var"):
            made[name] = 0.8 + 0.4 * torch.rand(shape.shape, generator=generator)
        elif shape.ndim == 1:  # gains of norms and slopes of PReLU
            made[name] = 0.5 + 0.1 * torch.rand(shape.shape, generator=generator)
        else:
            fan_in = shape[0].numel()
            made[name] = torch.randn(shape.shape, generator=generator) * fan_in**-0.5
    return made


def _layout(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(build().state_dict())


def _centre_face(tensors: dict[str, Tensor]) -> None:
    """Make outputs those of a plausible face: camera in the middle, white light, codes small.

    Wrinkles are made a millimetre or two high and to follow the jaw.
    """
    for name, tensor in tensors.items():
        if name.startswith("D_detail.conv_blocks.") and name.endswith("weight"):
            tensor *= 3.0 if tensor.ndim == 1 else 1.0
    tensors["D_detail.conv_blocks.21.weight"] *= 0.2
    weight, bias = tensors["E_flame.layers.2.weight"], tensors["E_flame.layers.2.bias"]
    bias *= 0.1
    codes = slice(0, sum(length for name, length in LAYOUT if name not in ("pose", "camera")))
    weight *= 0.1
    weight[codes] *= 50
    camera = sum(length for name, length in LAYOUT if name != "camera")
    bias[camera] = _CAMERA_SCALE
    bias[camera + 3 : camera + 6] += 1 / SH_CONSTANTS[0]


def _nested(tensors: Mapping[str, Tensor], groups: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    return {
        group: {
            name.removeprefix(f"{group}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{group}.")
        }
        for group in groups
    }


def _save(content: Mapping[str, object], path: Path) -> None:
    with replacing(path) as written:
        torch.save(dict(content), written)
