"""Wrinkles of a person as a displacement map: skin folds where the face squeezes it.

A crease's depth is its own at rest, by the person's strength, plus what compression across it
adds; stretched skin flattens. Compression is measured on the posed mesh, and what muscles under
the skin do beyond that (a squint hardly moves the vertices) comes from a table of ARKit shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flame.arkit import ARKIT_INDEX
from flame.model import Flame
from flame.params import params_from_arkit
from flame.wrinkle_lines import GROUPS, relief, wrinkle_lines
from flame.wrinkle_map import WrinkleMap, chart_marks

DEEPEST = 1.2e-3  # metres
_YIELD = 0.08  # compression at which a fold has 63 % of its depth
_FLATTENING = 2.5  # of the logarithm of a resting crease's depth, per unit of stretch
_YOUNG = 0.3  # share of the depth in motion that skin without any resting creases has

# Depth in mm: at rest at strength 1, and added by full compression.
_DEPTHS = {
    "forehead": (0.50, 0.85), "frown": (0.50, 0.65), "nose root": (0.32, 0.50),
    "crow's feet": (0.40, 0.55), "under eyes": (0.35, 0.45), "nasolabial": (0.75, 0.80),
    "mouth corners": (0.50, 0.55), "upper lip": (0.25, 0.30), "chin": (0.50, 0.60),
    "neck": (0.55, 0.30),
}  # fmt: skip

# Compression that a muscle adds under the skin at full weight; sides are those of the shape.
_MUSCLES: dict[str, dict[str, float]] = {
    "forehead": {"browInnerUp": 0.03, "browOuterUp": 0.03},
    "frown": {"browDown": 0.12},
    "nose root": {"noseSneer": 0.05, "browDown": 0.03},
    "crow's feet": {"eyeSquint": 0.08, "mouthSmile": 0.05, "eyeBlink": 0.01},
    "under eyes": {"eyeSquint": 0.10, "mouthSmile": 0.02},
    "nasolabial": {"mouthSmile": 0.06, "noseSneer": 0.04, "mouthUpperUp": 0.04},
    "mouth corners": {"mouthSmile": 0.08, "mouthFrown": 0.14, "mouthDimple": 0.06},
    "upper lip": {"mouthPucker": 0.14, "mouthPress": 0.06},
    "chin": {"mouthShrugLower": 0.10, "mouthFrown": 0.05},
    "neck": {},
}
# Puffed cheeks are tight: where the mesh narrows under them, no fold follows.
_SMOOTH = ("cheekPuff",)


@torch.no_grad()
def compression(
    flame: Flame, skin: WrinkleMap, shape: Float[Tensor, " S"], weights: Float[Tensor, " 52"]
) -> Float[Tensor, "G V"]:
    """Shortening across each group's creases at every vertex, against the identity at rest.

    Negative where skin is stretched; 0.2 is a fifth. Zero away from a group's creases.
    """
    acting = weights.clone()
    for name in _SMOOTH:
        acting[ARKIT_INDEX[name]] = 0
    both = torch.stack([torch.zeros_like(acting), acting])
    rest, posed = flame(params_from_arkit(shape.expand(2, -1), both)).verts
    squeezed = -skin.stretch(rest, posed)
    left = torch.sigmoid(flame.template[:, 0] / 0.004)  # the subject's left is at +x
    for row, name in enumerate(GROUPS):
        for stem, amount in _MUSCLES[name].items():
            if stem in ARKIT_INDEX:
                both_sides = weights[ARKIT_INDEX[stem]].expand(len(left))
            else:
                on_left, on_right = (weights[ARKIT_INDEX[stem + s]] for s in ("Left", "Right"))
                both_sides = on_left * left + on_right * (1 - left)
            squeezed[row] += amount * both_sides
    return torch.where(skin.region_of_verts() > 0, squeezed, 0.0)


@torch.no_grad()
def depths(
    squeezed: Float[Tensor, "G ..."], strengths: Float[Tensor, " G"]
) -> Float[Tensor, "G ..."]:
    """Depth of each group's creases in metres under compression, for strengths 0 (none) to 1.

    Grows with compression and with strength; about 0.3 of the folding is there at any age.
    """
    strengths = strengths.clamp(0, 1.5).view(-1, *(1,) * (squeezed.ndim - 1))
    known = squeezed.new_tensor([_DEPTHS[name] for name in GROUPS]) / 1000
    still, moving = (known[:, k].view_as(strengths) for k in (0, 1))
    fold = 1 - torch.exp(-squeezed.clamp(min=0) / _YIELD)
    flat = torch.exp(_FLATTENING * squeezed.clamp(max=0))
    return still * strengths * flat + moving * (_YOUNG + (1 - _YOUNG) * strengths) * fold


@dataclass(frozen=True, eq=False)
class Wrinkles:
    """One person's creases on a head model."""

    flame: Flame
    skin: WrinkleMap
    shape: Float[Tensor, " S"]
    creases: Float[Tensor, "G K K"]  # relief of unit depth, each group's deepest about -1
    strengths: Float[Tensor, " G"]  # 0 as at twenty, 1 deeply lined

    def depths(self, weights: Float[Tensor, " 52"]) -> Float[Tensor, "G K K"]:
        """Depth maps of the groups under ARKit weights, metres."""
        squeezed = self.skin.baked(compression(self.flame, self.skin, self.shape, weights))
        return depths(squeezed, self.strengths)

    def at(self, weights: Float[Tensor, " 52"]) -> Float[Tensor, "1 K K"]:
        """Displacement along the normal under ARKit weights, metres, within +-1.2 mm."""
        height = (self.creases * self.depths(weights)).sum(0, keepdim=True)
        return bounded(height)


def wrinkles(
    flame: Flame,
    skin: WrinkleMap,
    strengths: Float[Tensor, " G"],
    shape: Float[Tensor, " S"] | None = None,
    *,
    generator: torch.Generator,
) -> Wrinkles:
    """Creases of a made-up person; each draw of the generator lays them a little differently."""
    if strengths.shape != (len(GROUPS),):
        raise ValueError(
            f"strengths have the shape {tuple(strengths.shape)}; give one for each of "
            f"{', '.join(GROUPS)}"
        )
    chart = draw_relief(flame, generator=generator)
    identity = flame.template.new_zeros(flame.n_shape) if shape is None else shape
    return Wrinkles(flame, skin, identity, skin.laid(chart), strengths)


def draw_relief(flame: Flame, *, generator: torch.Generator) -> Float[Tensor, "G R C"]:
    """One person's creases on the chart of the face, of unit depth."""
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    return torch.from_numpy(relief(wrinkle_lines(chart_marks(flame), rng), rng))


def bounded(height: Float[Tensor, "*C K L"]) -> Float[Tensor, "*C K L"]:
    """Heights bent softly to within the deepest crease, metres; small ones stay as they are."""
    return DEEPEST * torch.tanh(height / DEEPEST)
