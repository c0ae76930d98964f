"""The head: parameters to mesh, cameras, rasterizer, materials, export."""

from __future__ import annotations

from flame.arkit import ARKIT_NAMES
from flame.head import Head
from flame.material import Material
from flame.params import Params

__all__ = ["ARKIT_NAMES", "Head", "Material", "Params"]
