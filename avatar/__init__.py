"""From a photo to a rigged, textured head that speaks. Names load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avatar.bundle import Avatar, Manifest
    from avatar.clip import Clip
    from avatar.config import CreateSettings
    from avatar.expression_gains import Gains
    from avatar.motion import Motion
    from avatar.pipeline import create
    from avatar.progress import Progress
    from avatar.reconstruct import ReconstructSettings
    from avatar.track import Track, TrackSettings
    from avatar.transfer import TransferSettings
    from avatar.turntable import TurntableSettings

_HOMES = {
    "Avatar": "avatar.bundle",
    "Clip": "avatar.clip",
    "CreateSettings": "avatar.config",
    "Gains": "avatar.expression_gains",
    "Manifest": "avatar.bundle",
    "Motion": "avatar.motion",
    "Progress": "avatar.progress",
    "ReconstructSettings": "avatar.reconstruct",
    "Track": "avatar.track",
    "TrackSettings": "avatar.track",
    "TransferSettings": "avatar.transfer",
    "TurntableSettings": "avatar.turntable",
    "create": "avatar.pipeline",
}

__all__ = [
    "Avatar",
    "Clip",
    "CreateSettings",
    "Gains",
    "Manifest",
    "Motion",
    "Progress",
    "ReconstructSettings",
    "Track",
    "TrackSettings",
    "TransferSettings",
    "TurntableSettings",
    "create",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'avatar' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
