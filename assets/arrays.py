"""Arrays by name out of .npy, .npz, pickles, safetensors and PyTorch files; nothing is ever run.

The kind is told by content, whatever the suffix says.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from assets.errors import AssetError
from assets.kinds import N_START, is_npy, is_pickle, is_safetensors, is_zip, what_instead
from assets.pickled_arrays import PLAIN_KINDS, Array, Sparse, read_pickled
from assets.torch_files import is_legacy, is_torch_zip, open_zip
from assets.weights import read_tensors

__all__ = [
    "Array",
    "Sparse",
    "array_of",
    "read_array",
    "read_array_shapes",
    "read_arrays",
    "read_rows",
]

_DAMAGE = (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, ValueError, TypeError)
_NUMPY_FLOATS = (torch.float64, torch.float32, torch.float16)
_LONGEST_LIST = 1_000_000  # numbers
_LONGEST_HEADER = 16_384  # bytes, with the magic number
_HEADER = {
    "descr": re.compile(r"'descr': '([<>|=]?(?:[biufc]\d{1,2}|O8?|\?))'"),
    "fortran_order": re.compile(r"'fortran_order': (True|False)"),
    # what Python 2 wrote has numbers like 3L
    "shape": re.compile(r"'shape': \(((?:\d{1,12}L?,? ?){0,16})\)"),
}


@dataclass(frozen=True)
class _Header:
    """What an .npy file says about the array that follows."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[np.generic]
    start: int

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_arrays(path: Path) -> dict[str, object]:
    """What a file holds by name: arrays, sparse matrices, and the text and numbers beside them.

    Values that are lists of numbers stay lists: `array_of` makes arrays of them. Names that are no
    text are left aside.
    """
    path = Path(path)
    start, size = _start(path)
    if is_safetensors(start, size) or is_legacy(start):
        return _numeric(path)
    if is_zip(start):
        with open_zip(path, size) as archive:
            if is_torch_zip(archive):
                return _numeric(path)
            return _read_npz(path, archive, size)
    if is_npy(start):
        value = _read_npy(path.read_bytes(), str(path))
    elif is_pickle(start):
        value = read_pickled(path.read_bytes(), described=str(path))
    else:
        raise AssetError(f"{path} {what_instead(start, size)}")
    if not isinstance(value, dict):
        raise AssetError(
            f"{path} holds one {_kind(value)} without names; a set of arrays is wanted"
        )
    return {name: item for name, item in value.items() if isinstance(name, str)}


def read_array(path: Path) -> Array:
    """The one array of an .npy file or of a pickle."""
    path = Path(path)
    start, size = _start(path)
    if is_npy(start):
        value = _read_npy(path.read_bytes(), str(path))
    elif is_pickle(start) and not is_legacy(start):
        value = read_pickled(path.read_bytes(), described=str(path))
    else:
        raise AssetError(f"{path} {what_instead(start, size)}")
    found = array_of(value)
    if found is None:
        raise AssetError(f"{path} holds a {_kind(value)} where one array is wanted")
    return found


def read_array_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays in an .npz file, from their headers alone."""
    path = Path(path)
    start, size = _start(path)
    if not is_zip(start):
        raise AssetError(f"{path} {what_instead(start, size)}")
    shapes = {}
    with open_zip(path, size) as archive:
        for entry in _npy_entries(path, archive, size):
            name = entry.filename.removesuffix(".npy")
            try:
                with archive.open(entry) as file:
                    begin = file.read(_LONGEST_HEADER)
                header = _header(begin, f"{name} in {path}", entry.file_size)
            except _DAMAGE as error:
                raise AssetError(
                    f"{name} in {path} is damaged ({error}); fetch it again"
                ) from error
            if header.dtype.kind == "O":
                raise AssetError(
                    f"{name} in {path} is made of Python objects instead of numbers; "
                    "ask its maker for plain arrays"
                )
            shapes[name] = header.shape
    return shapes


def read_rows(path: Path, name: str, rows: int) -> Iterator[Array]:
    """Blocks of up to `rows` first indices of one array of an .npz file, in order.

    For arrays of which a part is wanted and that would not fit in memory.
    """
    path = Path(path)
    start, size = _start(path)
    if not is_zip(start):
        raise AssetError(f"{path} {what_instead(start, size)}")
    with open_zip(path, size) as archive:
        entry = next((e for e in archive.infolist() if e.filename == f"{name}.npy"), None)
        if entry is None:
            raise AssetError(f"{path} has no array {name}; {_present(archive)}")
        try:
            with archive.open(entry) as file:
                begin = file.read(_LONGEST_HEADER)
                header = _header(begin, f"{name} in {path}", entry.file_size)
                file.seek(header.start)
                if header.dtype.kind not in PLAIN_KINDS or header.by_columns or not header.shape:
                    raise AssetError(
                        f"{name} in {path} is no plain array stored by rows; save it again with "
                        "numpy.savez"
                    )
                each = header.size // max(header.shape[0], 1)
                for first in range(0, header.shape[0], rows):
                    count = min(rows, header.shape[0] - first)
                    content = file.read(count * each)
                    if len(content) < count * each:
                        raise EOFError("it ends early")
                    block = np.frombuffer(content, header.dtype)
                    yield block.reshape(count, *header.shape[1:])
        except _DAMAGE as error:
            raise AssetError(f"{name} in {path} is damaged ({error}); fetch it again") from error


def array_of(value: object) -> Array | None:
    """The array that a value is or, as a number or a list of numbers, stands for; else None."""
    if isinstance(value, np.ndarray) and value.dtype.kind in PLAIN_KINDS:
        return value.astype(value.dtype.newbyteorder("="), copy=False)
    if isinstance(value, (bool, int, float)) and abs(value) < 2**63:
        return np.array(value)
    if not isinstance(value, (list, tuple)) or len(value) > _LONGEST_LIST:
        return None
    rows = value if value and all(isinstance(row, (list, tuple)) for row in value) else [value]
    width = len(rows[0]) if isinstance(rows[0], (list, tuple)) else 0
    if width * len(rows) > _LONGEST_LIST:
        return None
    for row in rows:
        if len(row) != width or not all(type(n) in (bool, int, float) for n in row):
            return None
        if any(isinstance(n, int) and not -(2**63) <= n < 2**63 for n in row):
            return None
    return np.array(value)


def _npy_entries(path: Path, archive: zipfile.ZipFile, size: int) -> list[zipfile.ZipInfo]:
    entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
    names = [entry.filename for entry in entries]
    if not entries or not all(name.endswith(".npy") for name in names):
        raise AssetError(f"{path} {what_instead(b'PK', size, names or ['nothing'])}")
    return entries


def _read_npz(path: Path, archive: zipfile.ZipFile, size: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for entry in _npy_entries(path, archive, size):
        name = entry.filename.removesuffix(".npy")
        try:
            content = archive.read(entry)
        except _DAMAGE as error:
            raise AssetError(f"{name} in {path} is damaged ({error}); fetch it again") from error
        found[name] = _read_npy(content, f"{name} in {path}")
    return found


def _read_npy(content: bytes, described: str) -> object:
    try:
        header = _header(content[:_LONGEST_HEADER], described, len(content))
    except _DAMAGE as error:
        raise AssetError(f"{described} is damaged ({error}); fetch it again") from error
    if header.dtype.kind == "O":
        if header.shape:
            raise AssetError(
                f"{described} is an array of Python objects instead of numbers; "
                "ask its maker for plain arrays"
            )
        return read_pickled(content, described=described, start=header.start)
    flat = np.frombuffer(content, header.dtype, offset=header.start)
    return flat.reshape(header.shape, order="F" if header.by_columns else "C")


def _header(begin: bytes, described: str, size: int) -> _Header:
    """The header of an .npy file of `size` bytes that begins so, checked against that size."""
    # A grammar of our own, since NumPy's takes any Python literal, of any depth.
    length_size = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}.get(begin[6:8])
    if not is_npy(begin) or length_size is None:
        raise ValueError("the format's version is unknown")
    start = 8 + length_size + int.from_bytes(begin[8 : 8 + length_size], "little")
    if start > len(begin):
        raise ValueError("the header does not end")
    text = begin[8 + length_size : start].decode("latin-1")
    found = {key: pattern.search(text) for key, pattern in _HEADER.items()}
    descr, order, sizes = found["descr"], found["fortran_order"], found["shape"]
    if descr is None or order is None or sizes is None:
        raise AssetError(
            f"{described} holds values that are no plain numbers, or a damaged header; "
            "save arrays of numbers"
        )
    shape = tuple(int(n.rstrip("L")) for n in sizes[1].replace(" ", "").split(",") if n)
    header = _Header(shape, order[1] == "True", np.dtype(descr[1]), start)
    if header.dtype.kind != "O" and header.size != size - header.start:
        raise AssetError(
            f"{described} says it has shape {'x'.join(map(str, shape))[:60]}, but {size} bytes do "
            "not hold that; it is cut short or made to deceive, fetch it again"
        )
    return header


def _numeric(path: Path) -> dict[str, object]:
    """Tensors as arrays; types that NumPy lacks become 32-bit floats, which hold all of them."""
    plain: dict[str, object] = {}
    for name, tensor in read_tensors(path).items():
        known = tensor.dtype.is_complex or tensor.dtype in _NUMPY_FLOATS
        if not known and tensor.is_floating_point():
            tensor = tensor.float()
        plain[name] = tensor.numpy()
    return plain


def _start(path: Path) -> tuple[bytes, int]:
    if not path.is_file():
        raise AssetError(f"{path} is not there; `avatar doctor` says which files go where")
    with open(path, "rb") as file:
        return file.read(N_START), path.stat().st_size


def _present(archive: zipfile.ZipFile) -> str:
    return f"there are {', '.join(sorted(archive.namelist())[:8])}"


def _kind(value: object) -> str:
    return "array" if isinstance(value, np.ndarray) else type(value).__name__
