"""Arrays out of pickles: NumPy's, SciPy's sparse ones, chumpy's and PyTorch's, without calling any.

`chumpy` need not be installed: a pickled `chumpy.ch.Ch` carries its array in its state under `x`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from assets.errors import AssetError
from assets.pickles import Buildable, Instance, Maker, Named, Names, unpickle
from assets.torch_storage import TORCH_MAKERS, Slice, Storage, legacy_storage

Array = npt.NDArray[Any]

PLAIN_KINDS = "biufc"  # booleans, integers, floats, complex numbers: bytes mean nothing else
_DTYPE = re.compile(r"[<>|=]?([biufc]\d{1,2}|O8?|\?)")
_DEEPEST = 16  # wrappers around one array
_SPARSE = tuple(
    f"scipy.sparse.{module}{layout}.{layout}_{kind}"
    for layout in ("csc", "csr")
    for module in ("", "_")
    for kind in ("matrix", "array")
)


@dataclass(frozen=True)
class Sparse:
    """A compressed sparse matrix: `csc` by columns, `csr` by rows."""

    layout: str
    shape: tuple[int, int]
    values: Array
    indices: Array
    starts: Array

    def dense(self) -> Array:
        """The full matrix; the caller has checked that its shape is one it expects."""
        major = self.shape[1] if self.layout == "csc" else self.shape[0]
        minor = self.shape[0] if self.layout == "csc" else self.shape[1]
        starts = self.starts.astype(np.int64)
        lengths = starts[1:] - starts[:-1]
        whole = (
            self.values.ndim == self.indices.ndim == self.starts.ndim == 1
            and len(starts) == major + 1
            and starts[0] == 0
            and starts[-1] == len(self.values) == len(self.indices)
            and bool((lengths >= 0).all())
            and bool(((self.indices >= 0) & (self.indices < minor)).all())
        )
        if not whole:
            raise ValueError("its sparse indices do not fit its shape")
        full = np.zeros((major, minor), dtype=self.values.dtype)
        owner = np.repeat(np.arange(major), lengths)
        np.add.at(full, (owner, self.indices), self.values)  # repeated entries add up
        return full.T if self.layout == "csc" else full


class _Dtype(Buildable):
    def __init__(self, args: tuple[object, ...]) -> None:
        name = args[0]
        if not isinstance(name, str) or not _DTYPE.fullmatch(name):
            raise TypeError("a dtype of no number")
        self.dtype = np.dtype(name)

    def build(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
            raise TypeError("a dtype with parts")
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class Pending(Buildable):
    """An array whose content comes later, or a 0-d one that holds a Python object."""

    def __init__(self, makers: ArrayMakers) -> None:
        self.makers = makers
        self.value: object = None

    def build(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise TypeError("an array with no state")
        shape, dtype, by_columns, content = state[-4:]
        self.value = self.makers.array(content, dtype, shape, by_columns=bool(by_columns))


class ArrayMakers:
    """What stands for arrays in pickles, made within an allowance that the file's size sets."""

    def __init__(self, size: int, described: str) -> None:
        self.left = 4 * size + 1_000_000
        self.described = described

    def names(self) -> Names:
        makers: dict[str, Maker] = {
            "_codecs.encode": self.encoded,
            "numpy.dtype": _Dtype,
            "collections.OrderedDict": _ordered,
            "torch.storage._load_from_bytes": self.storage,
            **TORCH_MAKERS,
        }
        for python in ("builtins", "__builtin__"):
            makers[f"{python}.bytes"] = makers[f"{python}.bytearray"] = self.encoded
            makers[f"{python}.set"] = makers[f"{python}.frozenset"] = _members
        for core in ("numpy.core", "numpy._core"):
            makers[f"{core}.multiarray._reconstruct"] = lambda args: Pending(self)
            makers[f"{core}.multiarray.scalar"] = self.scalar
            makers[f"{core}.numeric._frombuffer"] = self.from_buffer
        for copy in ("copyreg", "copy_reg"):
            makers[f"{copy}._reconstructor"] = _reconstructed
        inert = ("chumpy.", *_SPARSE, "numpy.ndarray", "builtins.object", "__builtin__.object")
        return Names(makers, inert)

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise AssetError(
                f"{self.described} unfolds into much more than its own size; "
                "refused as a memory bomb"
            )

    def encoded(self, args: tuple[object, ...]) -> bytes:
        if not args:
            return b""
        text = args[0]
        if isinstance(text, (bytes, str)):
            self.spend(len(text))
        if isinstance(text, bytes):
            return text
        if not isinstance(text, str):
            raise TypeError("bytes of what is no text")
        return text.encode("latin-1")

    def array(
        self, content: object, dtype: object, shape: object, *, by_columns: bool = False
    ) -> object:
        if not isinstance(dtype, _Dtype):
            raise TypeError("an array without dtype")
        sizes = shape if isinstance(shape, tuple) else (shape,)
        if len(sizes) > 16 or not all(type(n) is int and 0 <= n < 2**40 for n in sizes):
            raise AssetError(f"{self.described} holds an array of impossible shape; fetch it again")
        count = math.prod(n for n in sizes if isinstance(n, int))
        if dtype.dtype.kind == "O":
            if sizes or not isinstance(content, list) or len(content) != 1:
                raise AssetError(
                    f"{self.described} holds an array of Python objects instead of numbers; "
                    "ask its maker for plain arrays"
                )
            return content[0]
        if isinstance(content, str):  # what Python 2 wrote
            content = self.encoded((content,))
        if not isinstance(content, bytes):
            raise TypeError("an array without bytes")
        if count * dtype.dtype.itemsize != len(content):
            raise AssetError(
                f"{self.described} holds an array said to have {count} numbers in "
                f"{len(content)} bytes; it is damaged or made to deceive, fetch it again"
            )
        flat = np.frombuffer(content, dtype.dtype)
        return flat.reshape(sizes, order="F" if by_columns else "C")

    def from_buffer(self, args: tuple[object, ...]) -> object:
        content, dtype, shape, order = args
        return self.array(content, dtype, shape, by_columns=order == "F")

    def scalar(self, args: tuple[object, ...]) -> object:
        dtype, content = args
        value = self.array(content, dtype, ())
        if not isinstance(value, np.ndarray):
            raise TypeError("a number that is none")
        return value.item()

    def storage(self, args: tuple[object, ...]) -> Storage:
        (content,) = args
        if not isinstance(content, bytes):
            raise TypeError("a storage without bytes")
        self.spend(len(content))
        return legacy_storage(content, described=self.described)

    def settled(self, value: object, *, levels: int) -> object:
        """The value with arrays in the place of what stands for one, `levels` dicts deep."""
        for _ in range(_DEEPEST):
            if isinstance(value, Pending):
                value = value.value
            elif isinstance(value, Slice):
                array = value.tensor(described=self.described)
                self.spend(array.nbytes)
                return array.numpy()
            elif isinstance(value, Instance) and value.name in _SPARSE:
                return self.sparse(value)
            elif isinstance(value, Instance):
                state = value.state
                if not isinstance(state, dict) or "x" not in state:
                    raise AssetError(
                        f"{self.described} holds a {value.name} that is no plain array; "
                        "evaluate it in chumpy and save its `.r`"
                    )
                value = state["x"]
            elif isinstance(value, (Named, Buildable, Storage)):
                raise AssetError(f"{self.described} holds what is no data; fetch it again")
            elif isinstance(value, dict) and levels:
                return {key: self.settled(item, levels=levels - 1) for key, item in value.items()}
            else:
                return value
        raise AssetError(f"{self.described} wraps an array over {_DEEPEST} times; fetch it again")

    def sparse(self, value: Instance) -> Sparse:
        state = value.state if isinstance(value.state, dict) else {}
        shape = state.get("_shape", state.get("shape"))
        parts = [self.settled(state.get(name), levels=0) for name in ("data", "indices", "indptr")]
        values, indices, starts = parts
        plain_shape = isinstance(shape, tuple) and len(shape) == 2
        if not (
            plain_shape
            and isinstance(values, np.ndarray)
            and isinstance(indices, np.ndarray)
            and isinstance(starts, np.ndarray)
            and indices.dtype.kind in "iu"
            and starts.dtype.kind in "iu"
        ):
            raise AssetError(
                f"{self.described} holds a sparse matrix without its parts; fetch again"
            )
        assert isinstance(shape, tuple)
        rows, columns = (int(n) if isinstance(n, int) and 0 <= n < 2**31 else -1 for n in shape)
        layout = "csc" if "csc" in value.name else "csr"
        return Sparse(layout, (rows, columns), values, indices, starts)


def read_pickled(content: bytes | memoryview, *, described: str, start: int = 0) -> object:
    """The value of a pickle with arrays in the place of what stands for one, two dicts deep.

    Values are numbers, text, bytes, lists, tuples, dicts, NumPy arrays and `Sparse` matrices.
    """
    makers = ArrayMakers(len(content), described)
    value, _ = unpickle(content, makers.names(), described=described, start=start)
    return makers.settled(value, levels=2)


def _ordered(args: tuple[object, ...]) -> dict[object, object]:
    pairs = args[0] if args else []
    if not isinstance(pairs, list):
        raise TypeError("an ordered dict of what is no list")
    found: dict[object, object] = {}
    for key, value in pairs:
        if not isinstance(key, (str, int, float)):
            raise TypeError("a key that is no plain value")
        found[key] = value
    return found


def _members(args: tuple[object, ...]) -> frozenset[object]:
    members = args[0] if args else []
    if not isinstance(members, list) or not all(isinstance(m, (str, int)) for m in members):
        raise TypeError("a set of what is no list of plain values")
    return frozenset(members)


def _reconstructed(args: tuple[object, ...]) -> Instance:
    target = args[0]
    if not isinstance(target, Named):
        raise TypeError("an object without class")
    return Instance(target.name, args[1:])
