"""What a surface looks like: the metal-rough material that glTF, OBJ and the renderer share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

AlphaMode = Literal["OPAQUE", "MASK", "BLEND"]


@dataclass(frozen=True, eq=False)
class Material:
    """Textures of one named material; images are 0..1 as stored in sRGB files, first row on top."""

    name: str
    base_color: Float[Tensor, "C H W"]  # 3 channels, or 4 with alpha
    normal: Float[Tensor, "3 H2 W2"] | None = None  # tangent space, +y up, 0..1
    roughness: Float[Tensor, "1 H3 W3"] | float = 0.6
    alpha_mode: AlphaMode = "OPAQUE"
    alpha_cutoff: float = 0.5
    double_sided: bool = False
