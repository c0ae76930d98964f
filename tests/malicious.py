"""Files made to harm or to deceive, by name: their bytes and words of the refusal they meet."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import pickle
import pickle as p
import struct
import tarfile
import zipfile
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from assets.torch_storage import LEGACY_MAGIC

Case = tuple[bytes, str]

# Functions of modules that are installed with us and that run, read, write or connect.
WEAPONS = (
    *("os.system", "posix.system", "nt.system", "os.popen", "os.execv", "pty.spawn"),
    *("builtins.eval", "builtins.exec", "__builtin__.eval", "__builtin__.execfile"),
    *("builtins.getattr", "builtins.__import__", "builtins.open", "builtins.compile", "io.open"),
    *("subprocess.Popen", "subprocess.check_output", "commands.getoutput", "runpy.run_path"),
    *("importlib.import_module", "ctypes.CDLL", "marshal.loads", "types.FunctionType"),
    *("pickle.loads", "_pickle.loads", "shutil.rmtree", "socket.create_connection", "pip.main"),
    *("functools.partial", "operator.attrgetter", "operator.methodcaller", "webbrowser.open"),
    *("numpy.load", "numpy.testing._private.utils.runstring", "numpy.core.multiarray.fromfile"),
    *("torch.load", "torch.hub.load", "torch.jit.load", "torch.ops.load_library"),
    *("torch.utils.collect_env.run", "torch._inductor.codecache.compile_file"),
    *("scipy.io.loadmat", "chumpyx.ch.Ch", "scipy.sparse.csc_matrix.__reduce__", "timeit.main"),
    *("joblib.numpy_pickle.NumpyArrayWrapper", "dill._dill._create_function", "cloudpickle.loads"),
    *("collections.OrderedDict.__init__", "numpy.ndarray.tofile", "code.interact", "bdb.Bdb"),
)


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


def corpus(mark: str) -> dict[str, Case]:
    """Every case; `mark` is a file that appears if any of them gets to run."""
    command = text(f"touch {mark}")
    runs = "nothing in a file is ever run"
    bomb, damaged = "bomb", "damaged|cut short"
    cases: dict[str, Case] = {}
    for weapon in WEAPONS:
        cases[f"call of {weapon}"] = under(called(weapon, command)), runs
    for protocol in range(6):
        content = pickle.dumps({"f": Canary(mark)}, protocol)
        cases[f"__reduce__ in protocol {protocol}"] = content, runs
    open_args = [command, text("w")]
    cases |= {
        "INST": (p.PROTO + b"\2" + p.MARK + command + p.INST + b"os\nsystem\n.", runs),
        "OBJ": (under(p.MARK + named("os.system") + command + p.OBJ), runs),
        "NEWOBJ": (under(named("subprocess.Popen") + command + p.TUPLE1 + p.NEWOBJ), runs),
        "NEWOBJ_EX": (
            under(named("subprocess.Popen") + p.EMPTY_TUPLE + p.EMPTY_DICT + p.NEWOBJ_EX),
            runs,
        ),
        "name by stack": (under(stack_named("os", "system") + command + p.TUPLE1 + p.REDUCE), runs),
        "dotted name by stack": (
            under(stack_named("collections", "OrderedDict.__init__.__globals__")),
            runs,
        ),
        "name with line breaks": (under(stack_named("os\nsystem", "x\x1b[2J" * 99)), runs),
        "allowed prefix": (under(called("chumpy_evil.run", command)), runs),
        "old text pickle": (b"cos\nsystem\n(S'touch " + mark.encode() + b"'\ntR.", runs),
        "state of an array": (
            under(ndarray("f8", p.EMPTY_TUPLE, called("builtins.open", *open_args))),
            runs,
        ),
        "state that sets a class": (
            under(
                called("collections.OrderedDict")
                + p.EMPTY_DICT
                + text("__class__")
                + named("os.system")
                + p.SETITEM
                + p.BUILD
            ),
            runs,
        ),
        "state of a number": (under(p.NONE + p.EMPTY_DICT + p.BUILD), damaged),
        "__setstate__ in chumpy": (
            under(
                named("chumpy.ch.Ch")
                + p.EMPTY_TUPLE
                + p.NEWOBJ
                + p.EMPTY_DICT
                + text("__setstate__")
                + named("os.system")
                + p.SETITEM
                + p.BUILD
            ),
            runs,
        ),
        "chumpy without array": (
            under(named("chumpy.ch.Ch") + p.EMPTY_TUPLE + p.NEWOBJ + p.EMPTY_DICT + p.BUILD),
            "no plain array|no named tensors",
        ),
        "chumpy without end": (
            under(
                nest(
                    p.NONE,
                    lambda v: (
                        named("chumpy.ch.Ch")
                        + p.EMPTY_TUPLE
                        + p.NEWOBJ
                        + p.EMPTY_DICT
                        + text("x")
                        + v
                        + p.SETITEM
                        + p.BUILD
                    ),
                    40,
                )
            ),
            "wraps an array|no named tensors",
        ),
        "call of a result": (under(p.NONE + p.EMPTY_TUPLE + p.REDUCE), damaged),
        "extension registry": (under(p.EXT1 + b"\1"), "extension registry"),
        "extension registry, large": (under(p.EXT4 + b"\1\0\0\0"), "extension registry"),
        "persistent id": (under(text("x") + p.BINPERSID), "persistent id"),
        "persistent id in text": (under(p.PERSID + b"x\n"), "persistent id"),
        "buffers": (under(p.NEXT_BUFFER, protocol=5), "out-of-band"),
        "memo far out": (under(p.NONE + p.LONG_BINPUT + b"\xff" * 4), "no |missing"),
        "stack from nothing": (p.PROTO + b"\2" + p.TUPLE3 + p.STOP, damaged),
        "memo from nothing": (under(p.BINGET + b"\7"), damaged),
        "no instruction": (under(b"\xff"), damaged),
        "text without end": (p.PROTO + b"\2" + p.UNICODE + b"x" * 100_000, damaged),
        "integer of a million digits": (under(p.LONG + b"9" * 1_000_000 + b"L\n"), damaged),
        "bytes of 2^60": (under(p.BINBYTES8 + struct.pack("<Q", 2**60)), damaged),
        "text of 2^60": (under(p.BINUNICODE8 + struct.pack("<Q", 2**60)), damaged),
        "bytearray of 2^60": (under(p.BYTEARRAY8 + struct.pack("<Q", 2**60), protocol=5), damaged),
        "integer of 2^31 bytes": (under(p.LONG4 + struct.pack("<i", 2**31 - 1)), damaged),
        "text of negative length": (under(p.BINSTRING + struct.pack("<i", -1)), damaged),
        "frame of 2^63": (p.PROTO + b"\4" + p.FRAME + struct.pack("<Q", 2**63), damaged),
        "tuples that double as a key": (
            p.PROTO + b"\2" + p.EMPTY_DICT + doubling(p.NONE, 200) + p.NONE + p.SETITEM + p.STOP,
            damaged,
        ),
        "tuples that double as a value": (under(doubling(p.NONE, 200)), "no |missing"),
        "lists in lists, 8000 deep": (
            under(p.EMPTY_LIST * 8_000 + p.APPEND * 7_999),
            "no |missing",
        ),
        "tuples in a key, 8000 deep": (
            p.PROTO
            + b"\2"
            + p.EMPTY_DICT
            + p.NONE
            + p.TUPLE1 * 8_000
            + p.NONE
            + p.SETITEM
            + p.STOP,
            damaged,
        ),
        "instructions without end": (
            under(p.NONE + p.POP + (p.NONE + p.POP) * 10_000),
            "instructions",
        ),
        "marks without end": (p.PROTO + b"\2" + p.MARK * 8_000 + p.STOP, damaged),
        "colliding keys": (
            p.PROTO
            + b"\2"
            + p.EMPTY_DICT
            + number((2**61 - 1) * 2**7)
            + p.NONE
            + p.SETITEM
            + p.STOP,
            damaged,
        ),
        "one text encoded a thousand times": (
            under(
                text("x" * 1_000_000)
                + p.BINPUT
                + b"\1"
                + p.POP
                + p.EMPTY_LIST
                + p.MARK
                + (
                    named("_codecs.encode")
                    + p.BINGET
                    + b"\1"
                    + text("latin1")
                    + p.TUPLE2
                    + p.REDUCE
                )
                * 1000
                + p.APPENDS
            ),
            bomb,
        ),
        "array of 10^12 numbers": (
            under(ndarray("f8", number(10**11) + p.TUPLE1, raw_bytes(b""))),
            "said to have",
        ),
        "array of negative shape": (
            under(ndarray("f8", number(-1) + number(-1) + p.TUPLE2, raw_bytes(bytes(8)))),
            "impossible shape",
        ),
        "array of a hundred axes": (
            under(ndarray("f8", p.MARK + number(1) * 100 + p.TUPLE, raw_bytes(bytes(8)))),
            "impossible shape",
        ),
        "array of objects": (
            under(ndarray("O8", number(2) + p.TUPLE1, p.NONE + p.NONE + p.TUPLE2)),
            "Python objects",
        ),
        "array of structures": (under(ndarray("V8", p.EMPTY_TUPLE, raw_bytes(bytes(8)))), damaged),
        "array with fields": (
            under(
                ndarray(
                    "f8",
                    p.EMPTY_TUPLE,
                    raw_bytes(bytes(8)),
                    made_dtype=dtype(
                        "f8", p.MARK + number(3) + text("<") + p.NONE + text("a") + p.NONE + p.TUPLE
                    ),
                )
            ),
            damaged,
        ),
        "number of objects": (
            under(called("numpy.core.multiarray.scalar", dtype("O8"), raw_bytes(bytes(8)))),
            "Python objects",
        ),
        "sparse matrix of 2^80 numbers": (
            under(
                named("scipy.sparse.csc.csc_matrix")
                + p.EMPTY_TUPLE
                + p.NEWOBJ
                + p.EMPTY_DICT
                + text("_shape")
                + number(2**30)
                + number(2**30)
                + p.TUPLE2
                + p.SETITEM
                + p.BUILD,
                "J_regressor",
            ),
            "sparse matrix|no named tensors",
        ),
        "set of what is no list": (under(called("builtins.set", number(10**9))), damaged),
        "ordered dict of a text": (under(called("collections.OrderedDict", command)), damaged),
    }
    cases |= _torch_cases(mark)
    cases |= _other_files(mark)
    return cases


def _torch_cases(mark: str) -> dict[str, Case]:
    one = number(1) + p.TUPLE1
    four = bytes(16)
    deceives = "more than the"
    loop = p.EMPTY_DICT + p.BINPUT + b"\1" + text("a") + p.BINGET + b"\1" + p.SETITEM
    twice = b"".join(
        p.BINPUT
        + bytes([n])
        + p.POP
        + p.EMPTY_DICT
        + p.MARK
        + text("a")
        + p.BINGET
        + bytes([n])
        + text("b")
        + p.BINGET
        + bytes([n])
        + p.SETITEMS
        for n in range(60)
    )
    legacy = pickle.dumps(LEGACY_MAGIC, 2) + pickle.dumps(1001, 2)
    legacy += pickle.dumps({"little_endian": True}, 2)
    giant = under(tensor(10**11, number(10**11) + p.TUPLE1, one), "w")
    keys = pickle.dumps(["0"], 2)
    planted = io.BytesIO()
    torch.save({"w": torch.ones(2), "x": Canary(mark)}, planted)
    model = io.BytesIO()
    torch.save(nn.Linear(2, 2), model)
    script = {"m/data.pkl": under(p.NONE), "m/constants.pkl": under(p.NONE), "m/code/a.py": b"x"}
    whole = io.BytesIO()
    torch.save({"w": torch.arange(40_000.0)}, whole)
    ends = whole.getvalue()
    big_endian = {"a/data.pkl": under(p.NONE), "a/byteorder": b"big"}
    return {
        "torch: planted call": (planted.getvalue(), "ever run"),
        "torch: whole module": (model.getvalue(), "ever run"),
        "torch: program": (zipped(script), "TorchScript"),
        "torch: two pickles": (
            zipped({"a/data.pkl": under(p.NONE), "b/data.pkl": under(p.NONE)}),
            "TorchScript",
        ),
        "torch: big-endian": (zipped(big_endian), "big-endian"),
        "torch: view past its numbers": (
            torch_zip(under(tensor(4, number(5) + p.TUPLE1, one)), **{"0": four}),
            deceives,
        ),
        "torch: offset past its numbers": (
            torch_zip(under(tensor(4, one, one, offset=2**39)), **{"0": four}),
            deceives,
        ),
        "torch: stride past its numbers": (
            torch_zip(
                under(tensor(4, number(2) + p.TUPLE1, number(2**39) + p.TUPLE1)), **{"0": four}
            ),
            deceives,
        ),
        "torch: negative offset": (
            torch_zip(under(tensor(4, one, one, offset=-1)), **{"0": four}),
            "damaged",
        ),
        "torch: one number, 10^11 times": (
            torch_zip(
                under(tensor(1, number(10**11) + p.TUPLE1, number(0) + p.TUPLE1)), **{"0": bytes(4)}
            ),
            deceives,
        ),
        "torch: empty but endless": (
            torch_zip(
                under(
                    tensor(
                        1,
                        (number(0) + p.MARK + number(2**39) * 8).replace(p.MARK, b"", 1)
                        and p.MARK + number(0) + number(2**39) * 8 + p.TUPLE,
                        p.MARK + number(1) * 9 + p.TUPLE,
                    )
                ),
                **{"0": bytes(4)},
            ),
            deceives,
        ),
        "torch: storage that is not there": (torch_zip(under(tensor(4, one, one))), "not there"),
        "torch: storage of another size": (
            torch_zip(under(tensor(10**9, one, one)), **{"0": four}),
            "not as many",
        ),
        "torch: id of another kind": (
            torch_zip(under(text("../../etc/passwd") + p.BINPERSID)),
            "not PyTorch's",
        ),
        "torch: dict in itself": (torch_zip(p.PROTO + b"\2" + loop + p.STOP), "nests"),
        "torch: dicts that double": (
            torch_zip(p.PROTO + b"\2" + p.EMPTY_DICT + twice + p.STOP),
            "nests|values",
        ),
        "torch: cut short": (ends[: len(ends) // 2], "cut short"),
        "torch: changed inside": (ends.replace(b"\0\0\x80\x3f", b"\0\0\x81\x3f", 1), "damaged"),
        "torch: old, 400 GB": (
            legacy + giant + keys + struct.pack("<q", 10**11),
            "cut short or damaged",
        ),
        "torch: old, cut short": (legacy, "damaged"),
        "torch: old, planted call": (
            legacy + under(called("os.system", text(f"touch {mark}"))),
            "ever run",
        ),
        "torch: old, storages that are lists": (
            legacy + giant + pickle.dumps([[["0"]]], 2),
            "lacks some",
        ),
    }


def _other_files(mark: str) -> dict[str, Case]:
    planted = pickle.dumps({"f": Canary(mark)}, 2)
    objects = io.BytesIO()
    np.save(objects, np.array([Canary(mark), None], dtype=object))
    boxed = io.BytesIO()
    np.save(boxed, np.array({"f": Canary(mark)}, dtype=object))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("../../evil", "pickle", "storages", "tensors"):
            entry = tarfile.TarInfo(name)
            entry.size = len(planted)
            tar.addfile(entry, io.BytesIO(planted))
    numbers = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    deep = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    plain = "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }"
    return {
        "web page as .tar": (b"<!DOCTYPE html><html>Sign in", "web page"),
        "web page after blanks": (b"\n\n <HTML><body>quota exceeded", "web page"),
        "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "LFS"),
        "empty": (b"", "is empty"),
        "text": (b"just some words, nothing more", "neither"),
        "tar archive": (archive.getvalue(), "tar archive"),
        "gzip of a pickle": (gzip.compress(planted), "gzip"),
        "zlib of a pickle": (codecs.encode(planted, "zlib"), "neither"),
        "shell script": (b"#!/bin/sh\ntouch " + mark.encode(), "a script"),
        "program": (b"\x7fELF" + bytes(200), "a program"),
        "picture": (b"\x89PNG\r\n\x1a\n" + bytes(50), "a picture"),
        "document": (b"%PDF-1.7", "PDF"),
        "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        "zip bomb": (
            zipped({"a/data.pkl": bytes(20_000_000)}, method=zipfile.ZIP_DEFLATED),
            "bomb",
        ),
        "zip bomb of arrays": (
            zipped({"f.npy": bytes(20_000_000)}, method=zipfile.ZIP_DEFLATED),
            "bomb",
        ),
        "zip in a zip": (zipped({"a.zip": zipped({"b.zip": planted})}), "zip archive of other"),
        "zip that leads out": (zipped({"../../evil.sh": b"x"}), "zip archive of other"),
        "zip of a pickle": (zipped({"generic_model.pkl": planted}), "zip archive of other"),
        "zip of nothing but its mark": (b"PK\3\4" + bytes(60), "cut short"),
        "zip whose files overlap": (overlapping(), "bomb"),
        "array of pickled objects": (objects.getvalue(), "objects|neither"),
        "pickled object in an array": (boxed.getvalue(), "ever run|neither"),
        "pickled object in an .npz": (zipped({"f.npy": boxed.getvalue()}), "ever run|other files"),
        "array header that is code": (
            npy("__import__('os').system('touch " + mark + "')"),
            "no plain numbers|neither",
        ),
        "array header, nested": (npy("-" * 9000 + "1"), "no plain numbers|neither"),
        "array header of structures": (
            npy(plain.replace("'<f8'", "[('a', 'O')]")),
            "no plain|neither",
        ),
        "array of 10^12 bytes": (npy(plain.replace("(2,)", "(999999999999,)")), "made to|neither"),
        "array cut short": (npy(plain, bytes(8)), "cut short|neither"),
        "array of a later version": (npy(plain, bytes(16), b"\x09\0"), "version|neither"),
        "array of 10^12 in an .npz": (
            zipped({"f.npy": npy(plain.replace("(2,)", "(99999999999,)"))}),
            "made to|other files",
        ),
        "safetensors: header of 2^60": (
            safetensors({"a": numbers}, bytes(8), length=2**60),
            "no whole safetensors",
        ),
        "safetensors: header past the end": (
            safetensors({"a": numbers}, bytes(8), length=900),
            "no whole safetensors",
        ),
        "safetensors: cut short": (safetensors({"a": numbers}, bytes(4)), "damaged"),
        "safetensors: overlapping": (
            safetensors({"a": numbers, "b": numbers}, bytes(8)),
            "damaged",
        ),
        "safetensors: hole": (
            safetensors({"a": {**numbers, "data_offsets": [8, 16]}}, bytes(16)),
            "damaged",
        ),
        "safetensors: giant shape": (
            safetensors({"a": {**numbers, "shape": [2**40, 2**40]}}, bytes(8)),
            "damaged",
        ),
        "safetensors: endless shape": (
            safetensors({"a": {**numbers, "shape": [2**63, 2]}}, bytes(8)),
            "damaged",
        ),
        "safetensors: nested header": (safetensors(deep), "damaged"),
        "safetensors: unknown type": (
            safetensors({"a": {**numbers, "dtype": "PYOBJECT"}}, bytes(8)),
            "damaged",
        ),
    }
