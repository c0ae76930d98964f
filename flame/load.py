"""Head model files: one safetensors file holds the arrays, the topology and the names."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from assets.errors import AssetError
from assets.store import shipped
from assets.weights import read_metadata, read_tensors, write_tensors
from flame.model import Flame, FlameArrays
from flame.topology import Topology

SHIPPED_HEAD = "head/head.safetensors"
_FORMAT = "flame-head-1"
_NAMES = ("material_names", "part_names")
_ARRAYS = tuple(field.name for field in fields(FlameArrays))
_TENSORS = tuple(field.name for field in fields(Topology) if field.name not in _NAMES)
_HALF = ("shapedirs", "expressiondirs")  # halves carry 1e-3 of a displacement: microns
_SPARSE = ("posedirs", "joint_regressor")


def save_head(arrays: FlameArrays, topology: Topology, path: Path) -> list[Path]:
    """Write a head model as one safetensors file; bases are stored as float16.

    What is all zero (correctives of joints that need none, vertices that no expression moves) is
    left out.
    """
    tensors: dict[str, Tensor] = {}
    for name in _ARRAYS:
        value = getattr(arrays, name).float()
        if name in _SPARSE:
            rows = value.flatten(1).abs().amax(1).nonzero()[:, 0]
            tensors[f"{name}.rows"] = rows.int()
            value = value[rows]
        if name == "expressiondirs":
            moved = value.abs().amax((0, 2)).nonzero()[:, 0]
            tensors["expressiondirs.verts"] = moved.int()
            value = value[:, moved]
        tensors[name] = (value.half() if name in (*_HALF, *_SPARSE[:1]) else value).contiguous()
    for name in _TENSORS:
        value = getattr(topology, name)
        tensors[name] = (value if value.is_floating_point() else value.int()).contiguous()
    metadata = {name: json.dumps(getattr(topology, name)) for name in _NAMES}
    return write_tensors(tensors, path, {"format": _FORMAT, **metadata})


def load_head(path: Path | None = None) -> Flame:
    """The head model of a file that `flame.build` wrote; the shipped one by default."""
    source = shipped(SHIPPED_HEAD) if path is None else path
    metadata = read_metadata(source)
    if metadata.get("format") != _FORMAT:
        raise AssetError(
            f"{source} is no head model of this version (format {metadata.get('format')!r}, "
            f"wanted {_FORMAT!r}); build one with `python -m flame.build`"
        )
    tensors = read_tensors(source)
    missing = sorted({*_ARRAYS, *_TENSORS} - tensors.keys())
    if missing:
        raise AssetError(f"{source} lacks {', '.join(missing)}; build it again")
    n_verts = len(tensors["template"])
    shapes = {"posedirs": (36, n_verts, 3), "joint_regressor": (5, n_verts)}
    for name, shape in shapes.items():
        full = torch.zeros(shape)
        full[tensors[f"{name}.rows"].long()] = tensors[name].float()
        tensors[name] = full
    moved = tensors["expressiondirs.verts"].long()
    expressiondirs = torch.zeros(len(tensors["expressiondirs"]), n_verts, 3)
    expressiondirs[:, moved] = tensors["expressiondirs"].float()
    tensors["expressiondirs"] = expressiondirs
    arrays = FlameArrays(**{name: tensors[name].float() for name in _ARRAYS})
    plain = {
        name: tensors[name].float() if tensors[name].is_floating_point() else tensors[name].long()
        for name in _TENSORS
    }
    material_names, part_names = (tuple(json.loads(metadata[name])) for name in _NAMES)
    topology = Topology(**plain, material_names=material_names, part_names=part_names)
    return Flame(arrays, topology)
