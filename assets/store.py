"""Where model files are: those shipped inside the package, and official ones the user placed."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import platformdirs

from assets.errors import AssetError
from assets.files import check_sha256, contained, replacing, sha256_of

PACKAGE = Path(__file__).resolve().parent
MANIFEST = PACKAGE / "manifest.toml"
OFFICIAL = PACKAGE / "official.toml"
_HEADER = """\
# The model files shipped in this folder: whence they come, under which licence, with which
# checksums. Entries are written by `assets.store.register` at the end of the recipe named in each.
"""


@dataclass(frozen=True)
class ShippedModel:
    """A group of shipped files that one recipe made together."""

    name: str
    purpose: str
    licence: str
    attribution: str
    recipe: str  # the command that makes the files again
    files: dict[str, str]  # path under assets/ -> SHA-256
    seed: int | None = None
    steps: int | None = None
    figures: dict[str, float] = field(default_factory=dict)  # measured, by name

    def paths(self) -> tuple[Path, ...]:
        """The files, checked to be there."""
        return tuple(shipped(name) for name in self.files)

    def fault(self) -> str | None:
        """What is wrong with the files on disk, in words; None if all are there and whole."""
        try:
            for path, checksum in zip(self.paths(), self.files.values(), strict=True):
                check_sha256(path, checksum)
        except AssetError as error:
            return str(error)
        return None


@dataclass(frozen=True)
class OfficialModel:
    """Files of a published model that its licence has every user fetch themselves."""

    name: str
    purpose: str
    files: tuple[str, ...]  # under the user's folder
    source: str
    licence: str
    commercial: bool | None  # None: its owners do not say
    attribution: str = ""

    def missing(self) -> tuple[Path, ...]:
        """Where the files belong that are not there yet."""
        paths = (user_folder() / name for name in self.files)
        return tuple(path for path in paths if not path.is_file())


def user_folder() -> Path:
    """The folder for the user's own model files: $AVATAR_HOME, else the platform's data folder."""
    chosen = os.environ.get("AVATAR_HOME")
    if chosen:
        return Path(chosen).expanduser()
    return Path(platformdirs.user_data_dir("prompt-to-avatar", appauthor=False))


def cache_folder() -> Path:
    """Where conversions of official files are kept; all in it can be deleted and made again."""
    chosen = os.environ.get("AVATAR_HOME")
    if chosen:
        return Path(chosen).expanduser() / "cache"
    return Path(platformdirs.user_cache_dir("prompt-to-avatar", appauthor=False))


def official_file(name: str) -> Path | None:
    """The path of a file under the user's folder, None if it is not there."""
    path = contained(user_folder(), name)
    return path if path.is_file() else None


def shipped(name: str) -> Path:
    """The path of a file, or of a folder or index of shards, that comes with the package."""
    path = contained(PACKAGE, name)
    if not (path.exists() or path.with_name(path.name + ".index.json").is_file()):
        raise AssetError(
            f"{path} is missing from this installation; install prompt-to-avatar again"
        )
    return path


def official(name: str) -> Path:
    """The path of a user-placed file named in the table of official models."""
    owner = next((model for model in official_models() if name in model.files), None)
    if owner is None:
        raise ValueError(f"{name} is not a file of any model in {OFFICIAL.name}")
    path = contained(user_folder(), name)
    if not path.is_file():
        raise AssetError(
            f"{path} is missing: {owner.name} ({owner.licence}) cannot be shipped; "
            f"get it from {owner.source} and put it there"
        )
    return path


def shipped_models() -> tuple[ShippedModel, ...]:
    """The groups of files that the manifest lists, in its order."""
    return tuple(ShippedModel(**_known(ShippedModel, row, MANIFEST)) for row in _rows(MANIFEST))


def shipped_model(name: str) -> ShippedModel:
    """The manifest's entry of one model."""
    for model in shipped_models():
        if model.name == name:
            return model
    known = ", ".join(model.name for model in shipped_models()) or "none"
    raise ValueError(f"no shipped model is called {name!r}; the manifest has: {known}")


def official_models() -> tuple[OfficialModel, ...]:
    """The published models that can be used when the user has placed them."""
    found = []
    for row in _rows(OFFICIAL):
        known = _known(OfficialModel, row, OFFICIAL)
        known["files"] = tuple(known["files"])
        known["commercial"] = {"yes": True, "no": False, "unclear": None}[known["commercial"]]
        found.append(OfficialModel(**known))
    return tuple(found)


def register(
    *,
    name: str,
    purpose: str,
    licence: str,
    attribution: str,
    recipe: str,
    files: Sequence[Path],
    seed: int | None = None,
    steps: int | None = None,
    figures: dict[str, float] | None = None,
) -> ShippedModel:
    """Enter files that lie under `assets/` into the manifest, replacing the entry of that name."""
    relative = {}
    for path in files:
        if not Path(path).resolve().is_relative_to(PACKAGE):
            raise ValueError(f"{path} is not under {PACKAGE}; shipped files must be")
        relative[Path(path).resolve().relative_to(PACKAGE).as_posix()] = sha256_of(path)
    model = ShippedModel(
        name, purpose, licence, attribution, recipe, relative, seed, steps, figures or {}
    )
    others = [other for other in shipped_models() if other.name != name]
    ordered = sorted([*others, model], key=lambda entry: entry.name)
    with replacing(MANIFEST) as written:
        written.write_text("\n".join([_HEADER, *map(_as_toml, ordered)]), encoding="utf-8")
    return model


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get("model", [])
    except tomllib.TOMLDecodeError as error:
        raise AssetError(f"{path} is not TOML ({error}); install the package again") from error
    return list(rows)


def _known(
    record: type[ShippedModel] | type[OfficialModel], row: dict[str, Any], path: Path
) -> dict[str, Any]:
    names = {entry.name for entry in fields(record)}
    if unknown := row.keys() - names:
        raise AssetError(
            f"{path} has unknown keys {', '.join(sorted(unknown))}; "
            f"known are {', '.join(sorted(names))}"
        )
    return dict(row)


def _as_toml(model: ShippedModel) -> str:
    lines = ["[[model]]"]
    for key in ("name", "purpose", "licence", "attribution", "recipe"):
        lines.append(f"{key} = {_quoted(getattr(model, key))}")
    for key in ("seed", "steps"):
        if getattr(model, key) is not None:
            lines.append(f"{key} = {getattr(model, key)}")
    lines.append("[model.files]")
    lines += [f"{_quoted(path)} = {_quoted(checksum)}" for path, checksum in model.files.items()]
    if model.figures:
        lines.append("[model.figures]")
        lines += [f"{_quoted(key)} = {float(value)!r}" for key, value in model.figures.items()]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
