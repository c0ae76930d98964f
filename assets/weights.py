"""Tensors on disk: safetensors and PyTorch files in, safetensors out; nothing read is ever run."""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from assets.errors import AssetError
from assets.files import check_sha256, contained, replacing
from assets.kinds import is_pickle, is_safetensors, is_zip, what_instead
from assets.torch_files import (
    is_legacy,
    is_torch_zip,
    open_zip,
    read_pickled_tensors,
    read_torch_legacy,
    read_torch_zip,
)

SHARD_BYTES = 15_000_000  # files stay below 16 MB, which version control and mirrors take


def read_tensors(
    source: Path | Sequence[Path], *, sha256: str | Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Every tensor of a file, of its shards, or of several files, on the CPU, by name.

    The kind is told by content, not suffix. In PyTorch files tensors in nested dicts get dotted
    names, and what is no tensor (epoch, settings) is left out. A path of which only shards and
    their index exist reads those.
    """
    if isinstance(source, (str, os.PathLike)):
        paths = _shards(Path(source))
    else:
        paths = [Path(path) for path in source]
    if sha256 is not None:
        sums = [sha256] if isinstance(sha256, str) else list(sha256)
        if len(sums) != len(paths):
            raise ValueError(f"{len(sums)} checksums were given for {len(paths)} files")
        for path, expected in zip(paths, sums, strict=True):
            _require(path)
            check_sha256(path, expected)
    tensors: dict[str, Tensor] = {}
    for path in paths:
        found = _read_one(path)
        if repeated := tensors.keys() & found.keys():
            raise AssetError(f"{path} repeats {_listed(repeated)} of another part; fetch all again")
        tensors |= found
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The text that `write_tensors` stored in a safetensors file, or in the first of its shards."""
    first = _shards(Path(path))[0]
    _require(first)
    try:
        with safe_open(first, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise AssetError(f"{first} is not a whole safetensors file ({error})") from error


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> list[Path]:
    """Write safetensors and return the files: one, or shards below 16 MB and their index.

    Each file is written beside and then renamed, the index last; what the new set does not name is
    removed.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} must end in .safetensors")
    stored = {name: tensors[name] for name in sorted(tensors)}
    parts = _split(stored)
    index = path.with_name(path.name + ".index.json")
    if len(parts) == 1:
        with replacing(path) as written:
            written.write_bytes(encode_tensors(parts[0], metadata))
        files = [path]
        index.unlink(missing_ok=True)
    else:
        files = [
            path.with_name(f"{path.stem}-{number:05d}-of-{len(parts):05d}.safetensors")
            for number in range(1, len(parts) + 1)
        ]
        for part, file in zip(parts, files, strict=True):
            with replacing(file) as written:
                written.write_bytes(encode_tensors(part, metadata))
        weight_map = {n: file.name for part, file in zip(parts, files, strict=True) for n in part}
        total = sum(tensor.nbytes for tensor in stored.values())
        with replacing(index) as written:
            layout = {"metadata": {"total_size": total}, "weight_map": weight_map}
            written.write_text(json.dumps(layout, indent=1, sort_keys=True) + "\n")
        path.unlink(missing_ok=True)
        files.append(index)
    stale = re.compile(re.escape(path.stem) + r"-\d{5}-of-\d{5}\.safetensors")
    for other in path.parent.iterdir():
        if stale.fullmatch(other.name) and other not in files:
            other.unlink()
    return files


def encode_tensors(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of a safetensors file; the same content gives the same bytes."""
    # clone: names may share storage, which the format cannot express
    payload = save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})
    if not metadata:
        return payload
    # The library writes metadata in an order that changes from run to run, so that checksums
    # would too; here it is put into the header in the order of its keys.
    length = int.from_bytes(payload[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(payload[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + payload[8 + length :]


def load_weights(
    model: nn.Module,
    path: Path | Sequence[Path],
    *,
    sha256: str | Sequence[str] | None = None,
) -> None:
    """Fill a model with a file's tensors; dtype and device stay the model's.

    Raises AssetError that lists every missing, unexpected, misshapen and non-finite tensor, and
    leaves the model untouched, if any is wrong.
    """
    expected = model.state_dict()
    if any(tensor.is_meta for tensor in expected.values()):
        raise ValueError(
            "the model is on the meta device, which holds nothing; call to_empty first"
        )
    install_weights(model, read_tensors(path, sha256=sha256), described=str(path))


def install_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, described: str) -> None:
    """`load_weights` of tensors already read, for published key names that were mapped."""
    expected = model.state_dict()
    faults = []
    if missing := expected.keys() - tensors.keys():
        faults.append(f"missing {_listed(missing)}")
    if unexpected := tensors.keys() - expected.keys():
        faults.append(f"unexpected {_listed(unexpected)}")
    common = sorted(expected.keys() & tensors.keys())
    misshapen = [
        f"{name} {list(tensors[name].shape)} where the model has {list(expected[name].shape)}"
        for name in common
        if tensors[name].shape != expected[name].shape
    ]
    if misshapen:
        faults.append("misshapen " + ", ".join(misshapen))
    if broken := [name for name in common if _has_nan(tensors[name])]:
        faults.append(f"not a number in {_listed(broken)}")
    if faults:
        raise AssetError(
            f"{described} does not fit this {type(model).__name__}, which is unchanged: "
            f"{'; '.join(faults)}; check that file and settings belong together"
        )
    model.load_state_dict(dict(tensors))


def _read_one(path: Path) -> dict[str, Tensor]:
    _require(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(512)
    if is_safetensors(start, size):
        try:
            return dict(load_file(path))
        except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
            raise AssetError(f"{path} is damaged ({error}); fetch it again") from error
    if is_zip(start):
        with open_zip(path, size) as archive:
            if not is_torch_zip(archive):
                raise AssetError(f"{path} {what_instead(start, size, archive.namelist())}")
            try:
                return read_torch_zip(archive, size=size, described=str(path))
            except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
                raise AssetError(f"{path} is damaged ({error}); fetch it again") from error
    if is_pickle(start):
        reader = read_torch_legacy if is_legacy(start) else read_pickled_tensors
        return reader(path.read_bytes(), described=str(path))
    raise AssetError(f"{path} {what_instead(start, size)}")


def _shards(path: Path) -> list[Path]:
    """The files behind `path`: itself, or the shards that its index names."""
    index = path if path.name.endswith(".index.json") else path.with_name(path.name + ".index.json")
    if not index.is_file() or (path.is_file() and path != index):
        return [path]
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AssetError(f"{index} is not an index of shards; fetch it again") from error
    return [contained(index.parent, str(name)) for name in names]


def _split(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Tensors in name order, in as few parts of equal size as the limit allows."""
    if large := [name for name, tensor in tensors.items() if tensor.nbytes > SHARD_BYTES]:
        raise ValueError(
            f"{_listed(large)} alone is over {SHARD_BYTES} bytes; "
            "store it in fewer bits or split it along its first axis"
        )
    total = sum(tensor.nbytes for tensor in tensors.values())
    target = total / max(1, math.ceil(total / SHARD_BYTES))
    parts: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        over_target = filled + tensor.nbytes / 2 > target
        if parts[-1] and (filled + tensor.nbytes > SHARD_BYTES or over_target):
            parts.append({})
            filled = 0
        parts[-1][name] = tensor
        filled += tensor.nbytes
    return parts


def _require(path: Path) -> None:
    if not path.is_file():
        raise AssetError(f"{path} is not there; `avatar doctor` says which files go where")


def _has_nan(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(torch.isnan(tensor).any())


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
