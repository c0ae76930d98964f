"""The binary half of a GLB file: accessors, sparse accessors and the container."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Json = dict[str, Any]  # one object of the glTF document

ARRAY_BUFFER = 34962
ELEMENT_ARRAY_BUFFER = 34963

_COMPONENT_TYPES = {"uint8": 5121, "uint16": 5123, "uint32": 5125, "float32": 5126}
_ELEMENT_TYPES = {(): "SCALAR", (3,): "VEC3", (2,): "VEC2", (4,): "VEC4", (4, 4): "MAT4"}


class GlbBuffer:
    """Grows one binary buffer and the bufferViews and accessors that describe it."""

    def __init__(self) -> None:
        self.views: list[Json] = []
        self.accessors: list[Json] = []
        self._blob = bytearray()

    def add_view(self, payload: bytes, *, target: int | None = None) -> int:
        """Index of a new bufferView; it starts on a multiple of 4, as every accessor needs."""
        view: Json = {"buffer": 0, "byteOffset": len(self._blob), "byteLength": len(payload)}
        if target is not None:
            view["target"] = target
        self._blob += payload + bytes(-len(payload) % 4)
        self.views.append(view)
        return len(self.views) - 1

    def add(self, array: NDArray[Any], *, target: int | None = None, bounds: bool = False) -> int:
        """Index of a new accessor of `array` [N] or [N, ...]; `bounds` adds min and max.

        Matrices are [N, 4, 4] and must already be stored column by column.
        """
        accessor = _accessor(array, bounds)
        accessor["bufferView"] = self.add_view(_little_endian(array), target=target)
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def add_displacements(self, stack: NDArray[np.float32]) -> list[int]:
        """Indices of accessors for displacements [M, N, 3], each stored as its non-zero rows.

        All zero displacements share one accessor without any bytes; a displacement of nearly every
        vertex is stored whole where that is smaller. Values are kept to the bit.
        """
        n_verts = stack.shape[1]
        index_type = np.dtype(np.uint16 if n_verts <= 65536 else np.uint32)
        zero: int | None = None
        found: list[int] = []
        sparse: list[tuple[Json, NDArray[Any], NDArray[np.float32]]] = []
        for displacement in stack:
            rows = np.flatnonzero(displacement.any(axis=1)).astype(index_type)
            if len(rows) == 0 and zero is not None:
                found.append(zero)
            elif len(rows) * (12 + index_type.itemsize) >= displacement.nbytes:
                found.append(self.add(displacement, target=ARRAY_BUFFER, bounds=True))
            else:
                accessor = _accessor(displacement, bounds=True)
                self.accessors.append(accessor)
                found.append(len(self.accessors) - 1)
                if len(rows) == 0:
                    zero = found[-1]
                else:
                    sparse.append((accessor, rows, displacement[rows]))
        if sparse:
            self._add_sparse(sparse)
        return found

    def _add_sparse(self, sparse: list[tuple[Json, NDArray[Any], NDArray[np.float32]]]) -> None:
        """Put the rows of all sparse accessors into two bufferViews, which keeps the JSON short."""
        indices, values = bytearray(), bytearray()
        index_view, value_view = len(self.views), len(self.views) + 1
        for accessor, rows, moved in sparse:
            accessor["sparse"] = {
                "count": len(rows),
                "indices": {
                    "bufferView": index_view,
                    "byteOffset": len(indices),
                    "componentType": _COMPONENT_TYPES[rows.dtype.name],
                },
                "values": {"bufferView": value_view, "byteOffset": len(values)},
            }
            indices += _little_endian(rows)
            values += _little_endian(moved)
        self.add_view(bytes(indices))
        self.add_view(bytes(values))

    def glb(self, document: Json) -> bytes:
        """A whole GLB file: `document` with this buffer's parts, and the binary chunk."""
        complete = {
            **document,
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self._blob)}],
        }
        text = json.dumps(complete, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        length = 12 + 8 + len(text) + 8 + len(self._blob)
        return b"".join(
            [
                struct.pack("<4sII", b"glTF", 2, length),
                struct.pack("<I4s", len(text), b"JSON"),
                text,
                struct.pack("<I4s", len(self._blob), b"BIN\0"),
                bytes(self._blob),
            ]
        )


def _accessor(array: NDArray[Any], bounds: bool) -> Json:
    accessor: Json = {
        "componentType": _COMPONENT_TYPES[array.dtype.name],
        "count": len(array),
        "type": _ELEMENT_TYPES[array.shape[1:]],
    }
    if bounds:
        # float32 -> float is exact, and JSON keeps every digit: the validator compares bits
        flat = array.reshape(len(array), -1)
        accessor["min"] = flat.min(axis=0).tolist()
        accessor["max"] = flat.max(axis=0).tolist()
    return accessor


def _little_endian(array: NDArray[Any]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def float32_array(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor as a contiguous float32 array on the CPU, the type of every glTF number."""
    array: NDArray[np.float32] = tensor.detach().float().cpu().contiguous().numpy()
    return array
