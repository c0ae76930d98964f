"""Settings from TOML files, and the one place where the device is chosen."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from assets.errors import AssetError

if TYPE_CHECKING:
    import torch

    from avatar.voicing import VoiceSettings

Settings = TypeVar("Settings")

Hair = Literal["auto", "none", "short", "bob", "fringe", "long"]


@dataclass(frozen=True)
class CreateSettings:
    """How an avatar is made from a photo; the defaults are the command's."""

    hair: Hair = "auto"  # auto looks at the photo
    hair_color: str | None = None  # "#rrggbb"; None takes the photo's
    seed: int = 0
    landmarks: Path | None = None  # file of 68 points, x and y in pixels, in place of a detector
    box: tuple[float, float, float, float] | None = None  # the face: x, y, width, height in pixels
    fps: int = 30
    size: int = 512  # px, side of the video
    language: str = "en-us"  # of the text or the lyrics, as eSpeak NG names it
    voice: str | None = None  # a name of the converter's; None is the source's own voice
    converter: Path | None = None  # None is the shipped one
    vocoder: Path | None = None

    def __post_init__(self) -> None:
        if self.hair not in get_args(Hair):
            raise ValueError(f"hair={self.hair!r} is not known; use {_either(get_args(Hair))}")
        if self.hair_color is not None and not re.fullmatch(r"#[0-9a-fA-F]{6}", self.hair_color):
            raise ValueError(
                f"hair_color={self.hair_color!r} is not a colour; write it as '#rrggbb', "
                "such as '#5a3a22'"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must be from 0 to 2**63 - 1")
        if not 1 <= self.fps <= 120:
            raise ValueError(f"fps={self.fps} must be from 1 to 120")
        if not 64 <= self.size <= 4096 or self.size % 2:
            raise ValueError(f"size={self.size} must be an even number from 64 to 4096")
        if self.box is not None and not (self.box[2] > 0 and self.box[3] > 0):
            raise ValueError(f"box={self.box} must have a width and a height above 0")
        if self.box is not None and self.landmarks is not None:
            raise ValueError("landmarks and box were both given; give the one you trust more")

    def voicing(self) -> VoiceSettings:
        """The settings of the voice among these."""
        from avatar.voicing import VoiceSettings
        from voice.speak import SpeakConfig

        return VoiceSettings(
            voice=self.voice,
            converter=self.converter,
            vocoder=self.vocoder,
            speaking=SpeakConfig(language=self.language),
            seed=self.seed,
        )


def read_settings(path: Path, kind: type[Settings], section: str | None = None) -> Settings:
    """Settings of a TOML file, or of one of its sections, as the frozen dataclass `kind`.

    Keys left out keep their defaults. An unknown key or a value of another type is an error that
    names what is known.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AssetError(f"{path} cannot be read ({error.strerror}); check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AssetError(f"{path} is not valid TOML: {error}") from error
    if section is not None:
        table = table.get(section, {})
    return from_table(kind, table, where=f"{path}" + (f" [{section}]" if section else ""))


def from_table(kind: type[Settings], table: dict[str, Any], *, where: str) -> Settings:
    """A frozen dataclass from a table of plain values; nested tables fill nested dataclasses."""
    hints = get_type_hints(kind)
    entries = dataclasses.fields(kind)  # type: ignore[arg-type]
    known = [entry.name for entry in entries]
    needed = [
        entry.name
        for entry in entries
        if entry.default is MISSING and entry.default_factory is MISSING
    ]
    if lacking := [name for name in needed if name not in table]:
        raise ValueError(f"{where} lacks the {_keys(lacking)}; add it")
    if unknown := sorted(table.keys() - set(known)):
        raise ValueError(f"{where} has unknown {_keys(unknown)}; known are {', '.join(known)}")
    values = {key: _as(hints[key], value, f"{where}: {key}") for key, value in table.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def choose_device(name: str = "auto") -> torch.device:
    """The device that `name` means: "auto" is the first accelerator there is, else the CPU."""
    import torch

    accelerators = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((kind for kind, usable in accelerators.items() if usable), "cpu"))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is not known; use auto, cpu, cuda or mps") from error
    if device.type in accelerators and not accelerators[device.type]:
        raise ValueError(f"device={name!r} cannot be used on this machine; use auto or cpu")
    return device


def _as(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type; only what TOML and JSON lack (paths, tuples) is converted."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        return _as(inner, value, where)
    if origin is Literal:
        if value in arguments:
            return value
        raise ValueError(f"{where} = {value!r} is not known; use {_either(arguments)}")
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else list(arguments)
        if len(kinds) != len(value):
            raise ValueError(f"{where} has {len(value)} entries; it takes {len(kinds)}")
        return tuple(_as(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if origin is Mapping and isinstance(value, dict):
        return {key: _as(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_table(hint, value, where=where)  # type: ignore[arg-type]
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    # type(): True is an int to isinstance
    if type(value) is not hint:
        wanted = getattr(hint, "__name__", str(hint))
        raise ValueError(f"{where} = {value!r} must be of type {wanted}")
    return value


def _either(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _keys(names: list[str]) -> str:
    return f"key {names[0]}" if len(names) == 1 else f"keys {', '.join(names)}"
