"""Pickles, PyTorch files, arrays and archives put together byte by byte, also such as lie."""

from __future__ import annotations

import io
import json
import os
import pickle as p
import struct
import zipfile
from collections.abc import Callable


def text(value: str) -> bytes:
    raw = value.encode()
    return p.BINUNICODE + struct.pack("<I", len(raw)) + raw


def named(full: str) -> bytes:
    module, _, name = full.rpartition(".")
    return p.GLOBAL + f"{module}\n{name}\n".encode()


def stack_named(module: str, name: str) -> bytes:
    return text(module) + text(name) + p.STACK_GLOBAL


def called(full: str, *args: bytes) -> bytes:
    return named(full) + p.MARK + b"".join(args) + p.TUPLE + p.REDUCE


def under(value: bytes, key: str = "v_template", protocol: int = 2) -> bytes:
    """A pickled dict with one entry."""
    body = p.EMPTY_DICT + text(key) + value + p.SETITEM + p.STOP
    return p.PROTO + bytes([protocol]) + body


def dtype(kind: str, state: bytes | None = None) -> bytes:
    made = called("numpy.dtype", text(kind), p.NEWFALSE, p.NEWTRUE)
    return made if state is None else made + state + p.BUILD


def ndarray(kind: str, shape: bytes, content: bytes, *, made_dtype: bytes | None = None) -> bytes:
    made = called(
        "numpy.core.multiarray._reconstruct",
        named("numpy.ndarray"),
        p.BININT1 + b"\0" + p.TUPLE1,
        text("b"),
    )
    parts = [p.BININT1 + b"\1", shape, made_dtype or dtype(kind), p.NEWFALSE, content]
    return made + p.MARK + b"".join(parts) + p.TUPLE + p.BUILD


def number(value: int) -> bytes:
    raw = value.to_bytes(9, "little", signed=True)
    return p.LONG1 + b"\x09" + raw


def raw_bytes(content: bytes) -> bytes:
    return p.BINBYTES + struct.pack("<I", len(content)) + content


def zipped(entries: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def torch_zip(data: bytes, **storages: bytes) -> bytes:
    entries = {"archive/data.pkl": data, "archive/version": b"3\n"}
    return zipped(entries | {f"archive/data/{key}": raw for key, raw in storages.items()})


def stored(count: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    """A persistent id of a storage."""
    parts = [text("storage"), named(f"torch.{kind}"), text(key), text("cpu"), number(count)]
    return p.MARK + b"".join(parts) + p.TUPLE + p.BINPERSID


def tensor(count: int, size: bytes, stride: bytes, offset: int = 0) -> bytes:
    hooks = called("collections.OrderedDict")
    parts = [stored(count), number(offset), size, stride, p.NEWFALSE, hooks]
    return called("torch._utils._rebuild_tensor_v2", *parts)


def npy(header: str, content: bytes = b"", version: bytes = b"\1\0") -> bytes:
    raw = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(raw)) + raw + content


def safetensors(header: object, content: bytes = b"", *, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + content


def nest(value: bytes, wrap: Callable[[bytes], bytes], times: int) -> bytes:
    for _ in range(times):
        value = wrap(value)
    return value


def doubling(unit: bytes, times: int) -> bytes:
    """A container that holds the last one twice, again and again."""
    return unit + b"".join(p.DUP + p.TUPLE2 for _ in range(times))


def overlapping() -> bytes:
    """A zip of which a thousand names share one megabyte."""
    whole = bytearray(zipped({"archive/data.pkl": bytes(1_000_000)}))
    directory = whole.index(b"PK\1\2")
    end = whole.index(b"PK\5\6")
    record = whole[directory:end]
    records = bytearray()
    for n in range(1000):
        one = bytearray(record)
        name = f"archive/data/{n:03d}".encode()
        one[46 : 46 + len(name)] = name
        records += one
    tail = bytearray(whole[end:])
    struct.pack_into("<HHII", tail, 8, 1000, 1000, len(records), directory)
    return bytes(whole[:directory] + records + tail)


class Canary:
    """Pickles into a call that leaves a mark."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark}",)
