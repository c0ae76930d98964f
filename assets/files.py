"""Writing files so that readers never see half of one, and names that stay in their folder."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from assets.errors import AssetError

# Names that Windows keeps for devices, with any suffix.
_RESERVED = {"con", "prn", "aux", "nul"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A fresh path beside `path`, of the same suffix, that becomes `path` when the block ends well.

    When the block raises, what it wrote is removed and `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f".{path.stem[:80]}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield written
        os.replace(written, path)
    finally:
        written.unlink(missing_ok=True)


def safe_name(text: str, *, longest: int = 80) -> str:
    """A file name made of `text` that every system takes: letters, digits, `-`, `_` and inner dots.

    Text with none of these is an error, since two such texts would share a file.
    """
    plain = unicodedata.normalize("NFKC", text).strip()
    name = re.sub(r"[^\w.-]+", "-", plain)
    name = re.sub(r"\.{2,}", ".", name).strip(".-")[:longest].rstrip(".-")
    if not name:
        raise ValueError(f"{text!r} has no letter or digit for a file name; give another name")
    return f"{name}_" if name.split(".")[0].lower() in _RESERVED else name


def contained(folder: Path, relative: str) -> Path:
    """The path of `relative` under `folder`; one that leaves it, also by a link, is an error."""
    root = Path(folder).resolve()
    path = (root / relative).resolve()
    if path == root or not path.is_relative_to(root):
        raise AssetError(f"{relative!r} leads out of {folder}; name a file inside that folder")
    return path


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in lower-case hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Raise AssetError unless the file has the expected checksum."""
    actual = sha256_of(path)
    if actual != expected.lower():
        raise AssetError(
            f"{path} is damaged or another version: its SHA-256 is {actual}, expected {expected}; "
            "fetch the file again"
        )
