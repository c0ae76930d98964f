"""PyTorch's files, new (zip) and old, as tensors by name; what else they hold is left aside."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from assets.errors import AssetError
from assets.pickled_arrays import Array, ArrayMakers, Pending
from assets.pickles import Names, unpickle
from assets.torch_storage import (
    LEGACY_START,
    TORCH_NAMES,
    Slice,
    Storage,
    read_legacy,
    storage_of,
)

# Settings and clocks that trainers save beside the tensors. They are kept as inert records and
# then dropped, so that no code of theirs is needed or run.
_TRAINERS = (
    *("argparse.Namespace", "yacs.config.CfgNode", "easydict.EasyDict", "munch.Munch"),
    *("omegaconf.", "pytorch_lightning.", "lightning.pytorch.", "lightning_fabric."),
    *("pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath"),
    *("collections.defaultdict", "collections.deque", "typing.Any"),
    *(f"{b}.{n}" for b in ("builtins", "__builtin__") for n in ("dict", "list", "int", "float")),
    *(f"{b}.{n}" for b in ("builtins", "__builtin__") for n in ("str", "tuple", "bool")),
)
_MAX_ENTRIES = 100_000  # files in an archive, and values in nested dicts
_MAX_DEPTH = 24


def is_torch_zip(archive: zipfile.ZipFile) -> bool:
    """Whether an archive is laid out as torch.save does it."""
    return any(name.rpartition("/")[2] in ("data.pkl", "constants.pkl") for name in _files(archive))


def read_torch_zip(archive: zipfile.ZipFile, *, size: int, described: str) -> dict[str, Tensor]:
    """Every tensor of a file of PyTorch 1.6 or later, by dotted name."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1 or any(name.endswith("/constants.pkl") for name in entries):
        raise AssetError(
            f"{described} is a TorchScript program, not weights; ask its maker for a .safetensors "
            "file"
        )
    prefix = pickles[0].removesuffix("data.pkl")
    order = f"{prefix}byteorder"
    if order in entries and archive.read(order)[:16].strip() != b"little":
        raise AssetError(f"{described} was written on a big-endian machine; save it on another")
    storages: dict[str, Storage] = {}

    def persistent(identity: object) -> Storage:
        key, dtype, count = storage_of(identity, described=described)
        if key not in storages:
            entry = entries.get(f"{prefix}data/{key}")
            if entry is None or entry.file_size != count * dtype.itemsize:
                raise AssetError(
                    f"{described} is damaged: the numbers of its storage {key[:40]!r} are not "
                    "there or not as many as it says; fetch it again"
                )
            storages[key] = Storage(dtype, count, bytearray(archive.read(entry)))
        found = storages[key]
        if (found.dtype, found.count) != (dtype, count):
            raise AssetError(f"{described} gives one storage two sizes; fetch it again")
        return found

    makers = ArrayMakers(size, described)
    value, _ = unpickle(
        archive.read(pickles[0]), _names(makers), described=described, persistent=persistent
    )
    return _named_tensors(value, makers, described)


def is_legacy(start: bytes) -> bool:
    """Whether a file of which these are the first bytes is one of PyTorch before 1.6."""
    return start[2 : 2 + len(LEGACY_START)] == LEGACY_START


def read_torch_legacy(content: bytes, *, described: str) -> dict[str, Tensor]:
    """Every tensor of a file of PyTorch before 1.6, by dotted name."""
    makers = ArrayMakers(len(content), described)
    value, _ = read_legacy(content, _names(makers), described=described)
    return _named_tensors(value, makers, described)


def read_pickled_tensors(content: bytes, *, described: str) -> dict[str, Tensor]:
    """The arrays of a plain pickle as tensors by dotted name."""
    makers = ArrayMakers(len(content), described)
    value, _ = unpickle(content, _names(makers), described=described)
    return _named_tensors(value, makers, described)


def open_zip(path: Path, size: int) -> zipfile.ZipFile:
    """An archive whose entries together are no more than such files can hold."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise AssetError(f"{path} is cut short or damaged ({error}); fetch it again") from error
    entries = archive.infolist()
    if len(entries) > _MAX_ENTRIES or len({entry.filename for entry in entries}) < len(entries):
        archive.close()
        raise AssetError(f"{path} holds {len(entries)} files, some of one name; fetch it again")
    packed = sum(entry.compress_size for entry in entries)
    unpacked = sum(entry.file_size for entry in entries)
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    # arrays shrink to a tenth at most, but for masks, which are small; torch compresses nothing
    bomb = unpacked > 2 * size + 1_000_000 if stored else unpacked > 100 * size + 4_000_000
    if packed > size or bomb:
        archive.close()
        raise AssetError(f"{path} unpacks to {unpacked} bytes from {size}; refused as a zip bomb")
    return archive


def _files(archive: zipfile.ZipFile) -> list[str]:
    return [name for name in archive.namelist() if not name.endswith("/")]


def _names(makers: ArrayMakers) -> Names:
    arrays = makers.names()
    return Names(arrays.makers, (*arrays.inert, *TORCH_NAMES, *_TRAINERS))


def _named_tensors(value: object, makers: ArrayMakers, described: str) -> dict[str, Tensor]:
    """Tensors in nested dicts, told apart by the path of their keys."""
    if isinstance(value, (Slice, Pending, np.ndarray)):
        raise AssetError(f"{described} holds one tensor without a name; save a dict of tensors")
    found: dict[str, Tensor] = {}
    waiting: list[tuple[str, object, int]] = [("", value, 0)]
    seen = 0
    while waiting:
        prefix, item, depth = waiting.pop()
        if not isinstance(item, Mapping):
            continue
        if depth > _MAX_DEPTH:
            raise AssetError(f"{described} nests dicts without end; it is no model file")
        for key, entry in item.items():
            seen += 1
            if seen > _MAX_ENTRIES:
                raise AssetError(f"{described} holds over {_MAX_ENTRIES} values; no model does")
            name = f"{prefix}{key}"
            if isinstance(entry, Pending):
                entry = makers.settled(entry, levels=0)
            if isinstance(entry, (Slice, np.ndarray)):
                found[name] = _tensor(entry, makers, described)
            elif isinstance(entry, Mapping):
                waiting.append((f"{name}.", entry, depth + 1))
    if not found:
        raise AssetError(f"{described} holds no named tensors; save the model's state_dict")
    return found


def _tensor(entry: Slice | Array, makers: ArrayMakers, described: str) -> Tensor:
    if isinstance(entry, Slice):
        tensor = entry.tensor(described=described)
        if tensor.numel() > entry.storage.count:  # broadcast: its numbers are spread out below
            makers.spend(tensor.nbytes)
        return tensor.contiguous()
    makers.spend(entry.nbytes)
    return torch.from_numpy(np.array(entry, dtype=entry.dtype.newbyteorder("=")))
