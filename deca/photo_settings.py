"""Settings of training on photos: the published ones by stage, and TOML files that change them."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from assets.errors import AssetError
from deca.photo_stages import CoarseWeights, DetailWeights

_Record = TypeVar("_Record")
_CHOICES = {
    "decay": ("none", "cosine"),
    "norms": ("auto", "trained", "still"),
    "precision": ("no", "bf16"),
}


@dataclass(frozen=True)
class PhotoTraining:
    """One run; a step sees `subjects` people, `pictures` of each."""

    steps: int = 200_000
    subjects: int = 8
    pictures: int = 2
    learning_rate: float = 1e-4
    decay: str = "none"  # none, as published, or cosine
    warm_up: int = 0  # steps in which the rate rises
    clip: float = 10.0  # largest norm of all gradients
    scale: tuple[float, float] | None = None  # of crops over the face's points; None: the model's
    precision: str = "no"  # of the networks: no is float32, or bf16
    pixels: bool = True  # False is pretraining: points and priors only
    consistency: bool = True  # swap codes within a subject
    identity: str = "auto"  # auto, off, or a file
    norms: str = "auto"  # batch norms: trained, still, or still where an encoder was given
    seed: int = 0
    log_every: int = 20
    preview_every: int = 500
    save_every: int = 1000
    coarse: CoarseWeights = field(default_factory=CoarseWeights)
    detail: DetailWeights = field(default_factory=DetailWeights)

    def __post_init__(self) -> None:
        for name in ("steps", "subjects", "pictures", "log_every", "preview_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0 and self.clip > 0):
            raise ValueError(
                f"learning_rate={self.learning_rate} and clip={self.clip} must be above 0"
            )
        if self.warm_up < 0 or not 0 <= self.seed < 2**31:
            raise ValueError(
                f"warm_up={self.warm_up} and seed={self.seed} must be 0 or more, seed below 2**31"
            )
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}; use {', '.join(known)}")
        if self.consistency and self.pictures < 2:
            raise ValueError(
                f"pictures={self.pictures} leaves nothing to swap; use 2 or more, or "
                "consistency = false"
            )
        if self.subjects * self.pictures < 2:
            raise ValueError("one picture a step is too few for batch norms; use 2 or more")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rate = self.learning_rate
        if self.decay == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1)))
        if self.warm_up:
            rate *= min(1.0, (step + 1) / self.warm_up)
        return rate

    def changed(self, values: Mapping[str, Any]) -> PhotoTraining:
        """The same settings but for these."""
        return dataclasses.replace(self, **values)


def defaults(stage: str, *, pretrain: bool = False) -> PhotoTraining:
    """The published settings of `coarse`, of its beginning with `pretrain`, or of `detail`."""
    if stage == "detail":
        return PhotoTraining(steps=1_000_000, subjects=6, pictures=3)
    if pretrain:
        return PhotoTraining(
            steps=100_000, subjects=64, pictures=1, pixels=False, consistency=False
        )
    return PhotoTraining()


def read_photo_settings(path: Path, start: PhotoTraining) -> PhotoTraining:
    """`start` changed by a TOML file, whose tables `coarse` and `detail` hold losses' weights.

    An unknown key or a value of another type is an error that names what is known.
    """
    if not path.is_file():
        raise AssetError(f"{path} is not there; give a TOML file of settings")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AssetError(f"{path} is no TOML file ({error}); mend that line") from error
    return _changed(start, values, path, "")


def _changed(start: _Record, values: Mapping[str, Any], path: Path, table: str) -> _Record:
    kinds = get_type_hints(type(start))
    if unknown := sorted(values.keys() - kinds.keys()):
        raise ValueError(
            f"{path} has unknown {', '.join(table + name for name in unknown)}; known are "
            f"{', '.join(table + name for name in kinds)}"
        )
    made = {}
    for name, value in values.items():
        kind, now = kinds[name], getattr(start, name)
        if dataclasses.is_dataclass(now) and isinstance(value, dict):
            made[name] = _changed(now, value, path, f"{table}{name}.")
            continue
        if name == "scale" and isinstance(value, list) and len(value) == 2:
            value = (float(value[0]), float(value[1]))
        elif kind is float and type(value) is int:
            value = float(value)
        if name != "scale" and type(value) is not kind:
            raise ValueError(
                f"{path}: {table}{name} = {value!r} must be of the kind "
                f"{getattr(kind, '__name__', kind)}"
            )
        made[name] = value
    return dataclasses.replace(start, **made)  # type: ignore[type-var]
