"""Pickles as Python 2 wrote them (protocol 2), of classes that need not be installed."""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass

import numpy as np

from assets.arrays import Array


@dataclass(frozen=True)
class Chumpy:
    """An array as chumpy's `Ch` pickles it."""

    array: Array


@dataclass(frozen=True)
class Csc:
    """A matrix as SciPy's `csc_matrix` pickles it."""

    matrix: Array


def python2_pickle(value: object) -> bytes:
    """The pickle of dicts, tuples, lists, text, numbers, arrays, `Chumpy` and `Csc`.

    Text is written in Latin-1, as Python 2's `str`; so are the numbers of arrays.
    """
    return pickle.PROTO + b"\x02" + _encoded(value) + pickle.STOP


def _encoded(value: object) -> bytes:
    if value is None:
        return pickle.NONE
    if isinstance(value, bool):
        return pickle.NEWTRUE if value else pickle.NEWFALSE
    if isinstance(value, (int, np.integer)):
        return pickle.BININT + struct.pack("<i", value)
    if isinstance(value, float):
        return pickle.BINFLOAT + struct.pack(">d", value)
    if isinstance(value, str):
        return _string(value.encode("latin-1"))
    if isinstance(value, tuple):
        return pickle.MARK + b"".join(map(_encoded, value)) + pickle.TUPLE
    if isinstance(value, list):
        return pickle.EMPTY_LIST + pickle.MARK + b"".join(map(_encoded, value)) + pickle.APPENDS
    if isinstance(value, dict):
        items = b"".join(_encoded(key) + _encoded(item) for key, item in value.items())
        return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, Chumpy):
        state = {"x": value.array, "_dirty_vars": [], "_itr": None, "_make_dense": True}
        return _object("chumpy.ch", "Ch", state)
    if isinstance(value, Csc):
        return _object("scipy.sparse.csc", "csc_matrix", _compressed(value.matrix))
    raise TypeError(f"a {type(value).__name__} has no place in a synthetic pickle")


def _string(content: bytes) -> bytes:
    if len(content) < 256:
        return pickle.SHORT_BINSTRING + struct.pack("<B", len(content)) + content
    return pickle.BINSTRING + struct.pack("<i", len(content)) + content


def _named(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _object(module: str, name: str, state: dict[str, object]) -> bytes:
    made = _named(module, name) + pickle.EMPTY_TUPLE + pickle.NEWOBJ
    return made + _encoded(state) + pickle.BUILD


def _array(array: Array) -> bytes:
    empty = _named("numpy", "ndarray") + _encoded((0,)) + _encoded("b") + pickle.TUPLE3
    made = _named("numpy.core.multiarray", "_reconstruct") + empty + pickle.REDUCE
    kind = f"{array.dtype.kind}{array.dtype.itemsize}"
    dtype = _named("numpy", "dtype") + _encoded((kind, 0, 1)) + pickle.REDUCE
    order = "|" if array.dtype.itemsize == 1 else "<"
    dtype += _encoded((3, order, None, None, None, -1, -1, 0)) + pickle.BUILD
    by_columns = array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous
    content = array.astype(array.dtype.newbyteorder("<")).tobytes("F" if by_columns else "C")
    state = [_encoded(1), _encoded(array.shape), dtype, _encoded(by_columns), _string(content)]
    return made + pickle.MARK + b"".join(state) + pickle.TUPLE + pickle.BUILD


def _compressed(matrix: Array) -> dict[str, object]:
    columns, rows = np.nonzero(matrix.T)
    counts = np.bincount(columns, minlength=matrix.shape[1])
    return {
        "_shape": tuple(matrix.shape),
        "maxprint": 50,
        "data": matrix[rows, columns],
        "indices": rows.astype(np.int32),
        "indptr": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        "format": "csc",
    }
