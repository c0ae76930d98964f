"""PyTorch's storages and tensors as its files describe them, with every size checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from assets.errors import AssetError
from assets.pickles import Maker, Named, Names, unpickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of files before PyTorch 1.6
LEGACY_START = b"\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little")  # after the protocol
_LEGACY_PROTOCOL = 1001
_SMALL = 1_000_000  # numbers that a tensor may have more than its storage: broadcast buffers

_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
STORAGES = {f"torch.{name}": dtype for name, dtype in _TYPES.items()}
# Untyped storages count bytes; their tensors say the type.
STORAGES["torch.storage.UntypedStorage"] = torch.uint8
_DTYPES = {
    f"torch.{name}": getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8"),
        *("uint8", "bool", "complex64", "complex128", "uint16", "uint32", "uint64"),
        *("float8_e4m3fn", "float8_e5m2"),
    )
    if hasattr(torch, name)
}


@dataclass(eq=False)
class Storage:
    """A run of numbers in memory; old files bring the numbers after all that refers to them."""

    dtype: torch.dtype
    count: int
    content: bytearray | None = None


@dataclass(frozen=True, eq=False)
class Slice:
    """A tensor as a view into a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def tensor(self, *, described: str) -> Tensor:
        """The view itself, which shares memory with its storage."""
        held = self.storage.content
        itemsize = self.dtype.itemsize
        count = math.prod(self.size)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        available = 0 if held is None else len(held) // itemsize
        extent = math.prod(max(n, 1) for n in self.size)
        if extent > 2**48 or count > available + _SMALL or (count and last >= available):
            raise AssetError(
                f"{described} holds a tensor of shape {_short(self.size)}, more than the "
                f"{available} numbers behind it; it is damaged or made to deceive, fetch it again"
            )
        if not count or held is None:
            return torch.empty(self.size, dtype=self.dtype)
        flat = torch.frombuffer(held, dtype=self.dtype, count=available)
        return flat.as_strided(self.size, self.stride, self.offset)


def storage_of(identity: object, *, described: str) -> tuple[str, torch.dtype, int]:
    """Key, type and count of a storage that a persistent id names."""
    if not (
        isinstance(identity, tuple)
        and len(identity) in (5, 6)
        and identity[0] == "storage"
        and isinstance(identity[1], Named)
        and identity[1].name in STORAGES
        and isinstance(identity[2], str)
        and type(identity[4]) is int
        and 0 <= identity[4] < 2**40
        and identity[5:] in ((), (None,))
    ):
        raise AssetError(
            f"{described} refers to data by an id that is not PyTorch's; "
            "nothing in it was run, fetch it from its publisher"
        )
    return identity[2], STORAGES[identity[1].name], identity[4]


def read_legacy(
    content: bytes | memoryview, names: Names, *, described: str
) -> tuple[object, list[Storage]]:
    """What a file of PyTorch before 1.6 holds, and its storages, filled."""
    storages: dict[str, Storage] = {}

    def persistent(identity: object) -> Storage:
        key, dtype, count = storage_of(identity, described=described)
        found = storages.setdefault(key, Storage(dtype, count))
        if (found.dtype, found.count) != (dtype, count):
            raise AssetError(f"{described} gives one storage two sizes; fetch it again")
        return found

    nothing = Names({})
    magic, at = unpickle(content, nothing, described=described)
    version, at = unpickle(content, nothing, described=described, start=at)
    system, at = unpickle(content, nothing, described=described, start=at)
    if magic != LEGACY_MAGIC or version != _LEGACY_PROTOCOL or not isinstance(system, dict):
        raise AssetError(f"{described} is a damaged PyTorch file; fetch it again")
    if system.get("little_endian") is not True:
        raise AssetError(f"{described} was written on a big-endian machine; save it on another")
    value, at = unpickle(content, names, described=described, start=at, persistent=persistent)
    keys, at = unpickle(content, nothing, described=described, start=at)
    if not isinstance(keys, list) or {*map(str, keys)} != storages.keys():
        raise AssetError(f"{described} lacks some of its storages; fetch it again")
    view = memoryview(content)
    for key in keys:
        storage = storages[str(key)]
        size = storage.count * storage.dtype.itemsize
        written = int.from_bytes(view[at : at + 8], "little")
        piece = view[at + 8 : at + 8 + size]
        if written != storage.count or len(piece) < size:
            raise AssetError(f"{described} is cut short or damaged; fetch it again")
        storage.content = bytearray(piece)
        at += 8 + size
    return value, list(storages.values())


def legacy_storage(content: bytes, *, described: str) -> Storage:
    """The one storage of a tensor that was pickled alone."""
    names = Names({}, inert=tuple(STORAGES))
    value, _ = read_legacy(content, names, described=described)
    if not isinstance(value, Storage):
        raise AssetError(f"{described} holds a tensor without its storage; fetch it again")
    return value


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > 16:
        raise TypeError("a tensor without shape")
    for number in value:
        if type(number) is not int or not 0 <= number < 2**40:
            raise ValueError("an impossible size")
    return value


def _view(args: tuple[object, ...]) -> Slice:
    """`_rebuild_tensor_v2` and `_v3`: storage, offset, size, stride, gradient, hooks, type."""
    storage, offset, size, stride = args[:4]
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without storage")
    dtype = storage.dtype
    if len(args) > 6 and isinstance(args[6], Named):
        dtype = _DTYPES[args[6].name]
    (at,) = _sizes((offset,))
    shape, steps = _sizes(size), _sizes(stride)
    if len(shape) != len(steps):
        raise ValueError("a shape and strides that differ")
    return Slice(storage, at, shape, steps, dtype)


def _parameter(args: tuple[object, ...]) -> object:
    if not isinstance(args[0], Slice):
        raise TypeError("a parameter without tensor")
    return args[0]


def _size(args: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(args[0]) if args and isinstance(args[0], (list, tuple)) else ()


def _short(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


TORCH_MAKERS: Mapping[str, Maker] = {
    "torch._utils._rebuild_tensor": _view,
    "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_tensor_v3": _view,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.Size": _size,
}
TORCH_NAMES = (*STORAGES, *_DTYPES, "torch.device")
