"""The head: parameters to mesh, cameras, rasterizer, materials, export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flame.arkit import ARKIT_NAMES
from flame.head import Head
from flame.material import Material
from flame.params import Params

if TYPE_CHECKING:
    from flame.official import load_flame

__all__ = ["ARKIT_NAMES", "Head", "Material", "Params", "load_flame"]


def __getattr__(name: str) -> object:
    if name != "load_flame":
        raise AttributeError(f"module 'flame' has no attribute {name!r}")
    # on first use: SciPy and the readers of published files take their time
    from flame.official import load_flame

    return load_flame


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
