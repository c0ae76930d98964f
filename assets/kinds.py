"""What a file is, told by its first bytes and never by its name."""

from __future__ import annotations

import re
from collections.abc import Sequence

N_START = 512  # bytes that suffice to tell

# Pickles without a protocol number begin with the value itself: text (protocol 0) or not (1).
_OLD_PICKLE = re.compile(rb"[(\]}](?:[lptd]|q.|\(|c)|c[\w.]+\r?\n[\w.]+\r?\n", re.DOTALL)
_OTHERS = (
    (b"\x1f\x8b", "a gzip archive; unpack it and give the file inside"),
    (b"BZh", "a bzip2 archive; unpack it and give the file inside"),
    (b"\xfd7zXZ", "an xz archive; unpack it and give the file inside"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it and give the file inside"),
    (b"Rar!", "a RAR archive; unpack it and give the file inside"),
    (b"%PDF", "a PDF document, not a model file; look beside it for the model"),
    (b"\x89PNG", "a picture, not a model file; give the model's file"),
    (b"\xff\xd8\xff", "a picture, not a model file; give the model's file"),
    (b"GIF8", "a picture, not a model file; give the model's file"),
    (b"\x89HDF", "an HDF5 file, which is not read here; save its arrays as .npz or .safetensors"),
    (b"MATLAB ", "a MATLAB file, which is not read here; save its arrays as .npz or .safetensors"),
    (b"MZ", "a Windows program, not a model file; delete it"),
    (b"\x7fELF", "a program, not a model file; delete it"),
    (b"#!", "a script, not a model file; it was not run"),
    (b"glTF", "a GLB mesh, not a model file; give the model's file"),
)


def is_safetensors(start: bytes, size: int) -> bool:
    header = int.from_bytes(start[:8], "little")
    return start[8:9] == b"{" and 0 < header <= size - 8


def is_zip(start: bytes) -> bool:
    return start.startswith(b"PK\x03\x04")


def is_npy(start: bytes) -> bool:
    return start.startswith(b"\x93NUMPY")


def is_pickle(start: bytes) -> bool:
    """Whether this may be a pickle of any protocol."""
    if start[:1] == b"\x80":
        return start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return _OLD_PICKLE.match(start) is not None


def what_instead(start: bytes, size: int, names: Sequence[str] = ()) -> str:
    """A predicate about a file that cannot be read, with the way to mend it.

    `names` are those in the archive, if it is one.
    """
    head = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not size:
        return "is empty; fetch it again"
    if names:
        return (
            f"is a zip archive of other files ({', '.join(names[:3])}...); unpack it and give "
            "the model's file"
        )
    if head.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<script")):
        return (
            "is a web page, not a model file: the site answered with a log-in or error page; "
            "download it in a browser, signed in, and put the real file here"
        )
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; run `git lfs pull` where it came from"
    if start[257:262] == b"ustar":
        return (
            "is a tar archive, which no model file is, not even those named .tar; unpack it and "
            "give the file inside"
        )
    for magic, words in _OTHERS:
        if start.startswith(magic):
            return f"is {words}"
    if start[8:9] == b"{":
        header = int.from_bytes(start[:8], "little")
        return f"is no whole safetensors file: a header of {header} bytes in {size}; fetch it again"
    return (
        "is neither safetensors nor a PyTorch file nor arrays of NumPy, or is cut short; "
        "fetch it again"
    )
