"""A short name of a model's very files, so that a picture can say which model made it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from assets.files import sha256_of

_HEAD = 2**20  # bytes of each of a folder's files; whole ones are gigabytes
_WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt")


def model_hash(source: Path | str) -> str:
    """Hexadecimal digits that differ for models of other weights; empty for what is not on disk.

    A single file's are its SHA-256, whose first ten the web UI shows. A folder's cover the names,
    sizes and beginnings of its weights and settings.
    """
    path = Path(source)
    if path.is_file():
        return sha256_of(path)
    if not path.is_dir():
        return ""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.suffix in (*_WEIGHTS, ".json", ".txt"):
            name = file.relative_to(path).as_posix()
            digest.update(f"{name}\0{file.stat().st_size}\0".encode())
            with open(file, "rb") as stream:
                digest.update(stream.read(_HEAD))
    return digest.hexdigest()
