"""Portraits to codes: detection, landmarks, fitting, texture, and the training of our networks."""

from __future__ import annotations

from deca.codes import Codes
from deca.portrait import Portrait

__all__ = ["Codes", "Portrait"]
