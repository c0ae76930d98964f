"""Files of PyTorch and of other kinds, made to harm or to deceive: for the corpus of malicious."""

from __future__ import annotations

import codecs
import gzip
import io
import pickle
import pickle as p
import struct
import tarfile
import zipfile

import numpy as np
import torch
from crafted import (
    Canary,
    called,
    npy,
    number,
    overlapping,
    safetensors,
    tensor,
    text,
    torch_zip,
    under,
    zipped,
)
from torch import nn

from assets.torch_storage import LEGACY_MAGIC

Case = tuple[bytes, str]


def torch_cases(mark: str) -> dict[str, Case]:
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


def other_cases(mark: str) -> dict[str, Case]:
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
