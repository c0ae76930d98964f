"""The avatar's folder: what it is made of and how it came to be, in `avatar.json` and its parts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from assets.errors import AssetError
from assets.files import check_sha256, contained, replacing, sha256_of
from assets.image import AI_SOURCE_TYPE, read_texture, to_8bit, write_image
from assets.store import shipped_model
from assets.weights import encode_tensors, read_tensors
from avatar.config import from_table
from avatar.progress import Stage
from flame.head import Head
from flame.material import Material

FILE_NAME = "avatar.json"
FORMAT = "prompt-to-avatar"
FORMAT_VERSION = 1
_PARTS = "parts"
_PART_NAME = re.compile(r".+-[0-9a-f]{16}\.(png|safetensors)")


@dataclass(frozen=True)
class ModelUse:
    """A model that had a part in the avatar, and on what terms."""

    name: str
    licence: str
    sha256: str
    attribution: str = ""


def shipped_use(name: str) -> ModelUse:
    """A shipped model in a record, its files under one checksum."""
    model = shipped_model(name)
    digest = hashlib.sha256("".join(model.files.values()).encode()).hexdigest()
    return ModelUse(name, model.licence, digest, model.attribution)


@dataclass(frozen=True)
class Manifest:
    """How an avatar came to be; written as `avatar.json`."""

    inputs: Mapping[str, str] = field(default_factory=dict)  # what was given -> its SHA-256
    seeds: Mapping[str, int] = field(default_factory=dict)
    models: tuple[ModelUse, ...] = ()
    stages: tuple[Stage, ...] = ()
    warnings: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)  # path in the folder -> its SHA-256
    ai_generated: bool = True

    def with_files(self, folder: Path, paths: Iterable[Path]) -> Manifest:
        """The manifest that also lists files of the folder, as they are now."""
        listed = {Path(path).relative_to(folder).as_posix(): sha256_of(path) for path in paths}
        return dataclasses.replace(self, files={**self.files, **listed})

    @staticmethod
    def read(folder: Path) -> Manifest:
        """The manifest of an avatar's folder."""
        return _read(Path(folder))[0]

    def write(self, folder: Path) -> None:
        """Put the manifest into the folder; the avatar's parts that are saved there stay."""
        folder = Path(folder)
        parts = _read(folder)[1] if (folder / FILE_NAME).is_file() else None
        _write(folder, self, parts)


@dataclass(frozen=True, eq=False)
class Avatar:
    """A textured head with the codes it was fitted by; textures are held at 8 bits a channel."""

    head: Head
    materials: tuple[Material, ...]
    codes: Mapping[str, Tensor]
    manifest: Manifest

    def __post_init__(self) -> None:
        # 8 bits from the start, so that what is drawn is what is saved and loaded again
        rounded = tuple(map(_rounded, self.materials))
        object.__setattr__(self, "materials", rounded)
        names = [material.name for material in self.materials]
        if len(set(names)) != len(names):
            raise ValueError(f"materials {', '.join(names)} do not have names of their own")

    def save(self, folder: Path) -> Path:
        """Write the avatar into a folder, and return it; other files there stay.

        Parts are named by their content, and `avatar.json`, which names them, is replaced last: a
        reader finds the avatar that was there or this one, never a mixture.
        """
        folder = Path(folder)
        (folder / _PARTS).mkdir(parents=True, exist_ok=True)
        plain: dict[str, Any] = {}
        tensors = {f"codes.{name}": code for name, code in self.codes.items()}
        for entry in dataclasses.fields(self.head):
            value = getattr(self.head, entry.name)
            if isinstance(value, Tensor):
                tensors[f"head.{entry.name}"] = value
            else:
                plain[entry.name] = value
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
            staging = Path(temporary)
            parts = {
                "head": plain,
                "tensors": _store_tensors(tensors, folder, staging),
                "materials": [_store(m, folder, staging) for m in self.materials],
            }
        _write(folder, self.manifest, parts)
        _remove_stale(folder, json.dumps(parts))
        return folder

    @staticmethod
    def load(folder: Path) -> Avatar:
        """The avatar that was saved, the same in every number; damage is an AssetError."""
        folder = Path(folder)
        manifest, parts = _read(folder)
        if parts is None:
            raise AssetError(f"{folder / FILE_NAME} lists no avatar; run `avatar create` again")
        try:
            tensors = read_tensors(_part(folder, parts["tensors"]))
            codes = _under("codes.", tensors)
            head_fields: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in parts["head"].items()
            }
            head_fields |= _under("head.", tensors)
            head = Head(**head_fields)
            materials = tuple(_load(row, folder) for row in parts["materials"])
        except (KeyError, TypeError, AttributeError) as error:
            raise AssetError(
                f"{folder / FILE_NAME} does not describe a whole avatar ({error}); "
                "run `avatar create` again"
            ) from error
        return Avatar(head, materials, codes, manifest)


def _read(folder: Path) -> tuple[Manifest, dict[str, Any] | None]:
    """The manifest, and the description of the parts if an avatar was saved."""
    path = folder / FILE_NAME
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AssetError(
            f"{path} is not there; give the folder that `avatar create` wrote"
        ) from error
    except (ValueError, RecursionError) as error:
        raise AssetError(f"{path} is not JSON ({error}); run `avatar create` again") from error
    if not isinstance(stored, dict) or stored.pop("format", None) != FORMAT:
        raise AssetError(f"{path} is not an avatar's manifest; give the folder of an avatar")
    found = stored.pop("format_version", None)
    if not isinstance(found, int) or not 1 <= found <= FORMAT_VERSION:
        raise AssetError(
            f"{path} has format version {found}, and this program reads up to {FORMAT_VERSION}; "
            "upgrade it with pip install -U prompt-to-avatar"
        )
    parts = stored.pop("parts", None)
    for written_for_readers in ("generator", "digital_source_type"):
        stored.pop(written_for_readers, None)
    try:
        return from_table(Manifest, stored, where=str(path)), parts
    except (ValueError, TypeError) as error:
        raise AssetError(str(error)) from error


def _write(folder: Path, manifest: Manifest, parts: dict[str, Any] | None) -> None:
    content: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "generator": _generator(),
        **dataclasses.asdict(manifest),
    }
    if manifest.ai_generated:
        content["digital_source_type"] = AI_SOURCE_TYPE
    if parts is not None:
        content["parts"] = parts
    with replacing(folder / FILE_NAME) as written:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        written.write_text(text + "\n", encoding="utf-8")


def _generator() -> str:
    try:
        return f"prompt-to-avatar {version('prompt-to-avatar')}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "prompt-to-avatar"


def _rounded(material: Material) -> Material:
    def round_to_8bit(texture: Tensor) -> Tensor:
        return to_8bit(texture).cpu()

    normal, roughness = material.normal, material.roughness
    return dataclasses.replace(
        material,
        base_color=round_to_8bit(material.base_color),
        normal=None if normal is None else round_to_8bit(normal),
        roughness=round_to_8bit(roughness) if isinstance(roughness, Tensor) else roughness,
    )


def _store_tensors(tensors: Mapping[str, Tensor], folder: Path, staging: Path) -> dict[str, str]:
    path = staging / "head.safetensors"
    path.write_bytes(encode_tensors(tensors))
    return _settle(path, folder)


def _store(material: Material, folder: Path, staging: Path) -> dict[str, Any]:
    row = {entry.name: getattr(material, entry.name) for entry in dataclasses.fields(material)}
    for key, value in row.items():
        if isinstance(value, Tensor):
            path = staging / f"{_plain_name(material.name)}-{key}.png"
            write_image(path, value[None])
            row[key] = _settle(path, folder)
    return row


def _load(row: Mapping[str, Any], folder: Path) -> Material:
    values: dict[str, Any] = {
        key: read_texture(_part(folder, value)) if isinstance(value, dict) else value
        for key, value in row.items()
    }
    return Material(**values)


def _settle(path: Path, folder: Path) -> dict[str, str]:
    """Move a finished part to the name that its content gives it."""
    checksum = sha256_of(path)
    name = f"{_PARTS}/{path.stem}-{checksum[:16]}{path.suffix}"
    os.replace(path, folder / name)
    return {"path": name, "sha256": checksum}


def _part(folder: Path, row: Mapping[str, str]) -> Path:
    path = contained(folder, row["path"])
    if not path.is_file():
        raise AssetError(f"{path} is missing from the avatar; run `avatar create` again")
    check_sha256(path, row["sha256"])
    return path


def _remove_stale(folder: Path, description: str) -> None:
    for path in (folder / _PARTS).iterdir():
        if _PART_NAME.fullmatch(path.name) and f'"{_PARTS}/{path.name}"' not in description:
            path.unlink()


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _plain_name(name: str) -> str:
    """A material's name as part of a file name; what differs keeps differing."""
    plain = re.sub(r"[^A-Za-z0-9_]+", "-", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
