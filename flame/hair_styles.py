"""The hairdos: which way the hair is combed and in which layers it grows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flame import hair_texture
from flame.hair_ground import Array, unit
from flame.hair_scalp import Flow, nearest_on, to_map
from flame.hair_strands import Growth, Layer, falling, short


@dataclass(frozen=True)
class Recipe:
    """What tells one hairdo from another."""

    budget: int  # triangles
    flow: Flow
    parting: Array | None  # two ends on the scalp map
    layers: tuple[Layer, ...]
    grow: Growth


def _parting(x: float) -> Array:
    """A parting from the forehead at this x to the whorl at the crown, on the scalp map."""
    return to_map(np.array([[x, 118.0, 82.0], [x * 0.4, 136.0, -42.0]]))


def _parted(parting: Array) -> Flow:
    """Away from a parting."""

    def flow(flat: Array) -> Array:
        foot, share = nearest_on(parting, flat)
        # combed back a little, so that nothing falls straight over the brow
        return unit(unit(flat - foot) + np.array([0.0, -0.8]) * (1 - share) ** 2)

    return flow


def _cropped(flat: Array) -> Array:
    """Round the whorl, forward over the top and sideways along the forehead."""
    whorl = to_map(np.array([[-8.0, 132.0, -50.0]]))
    away = unit(flat - whorl)
    turned = away @ np.array([[0.94, 0.34], [-0.34, 0.94]])
    front = np.clip((flat[:, 1] - 25) / 70, 0, 1)[:, None]
    middle = np.clip(1 - np.abs(flat[:, :1]) / 75, 0, 1)
    return unit(turned + 1.6 * front * middle * np.array([-1.0, -0.35]))


_SHORT_LAYERS = (
    Layer(hair_texture.UNDER, 0.15, 13.0, 3, 3, 0.35, 5.0),
    Layer(hair_texture.TUFTS, 0.60, 8.0, 2, 4, 0.85, 2.0),
    Layer(hair_texture.TUFTS, 0.15, 5.5, 2, 5, 1.15, 3.0),
    Layer(hair_texture.WISPS, 0.10, 4.5, 2, 4, 0.7, 0.0, "hairline"),
)
_LONG_LAYERS = (
    Layer(hair_texture.UNDER, 0.24, 32.0, 3, 12, 0.25, 9.0),
    Layer(hair_texture.LOCKS, 0.46, 23.0, 3, 13, 0.85, 6.0),
    Layer(hair_texture.LOCKS, 0.10, 15.0, 3, 13, 1.0, 4.0, "parting"),
    Layer(hair_texture.WISPS, 0.10, 12.0, 2, 14, 1.05, 6.0),
    Layer(hair_texture.WISPS, 0.10, 8.0, 2, 14, 0.7, 0.5, "hairline"),
)
_FRINGE_LAYERS = (
    Layer(hair_texture.UNDER, 0.21, 32.0, 3, 12, 0.25, 9.0),
    Layer(hair_texture.LOCKS, 0.40, 23.0, 3, 13, 0.85, 6.0),
    Layer(hair_texture.LOCKS, 0.10, 15.0, 3, 13, 1.0, 4.0, "parting"),
    Layer(hair_texture.UNDER, 0.06, 18.0, 3, 9, 0.4, 4.0, "fringe"),
    Layer(hair_texture.LOCKS, 0.11, 14.0, 3, 10, 1.0, 2.0, "fringe"),
    Layer(hair_texture.WISPS, 0.12, 9.0, 2, 14, 1.0, 1.0),
)
_SIDE, _MIDDLE = _parting(24.0), _parting(4.0)
STYLES: dict[str, Recipe] = {
    "short": Recipe(12_000, _cropped, None, _SHORT_LAYERS, short),
    "bob": Recipe(
        20_000,
        _parted(_SIDE),
        _SIDE,
        _LONG_LAYERS,
        falling(end=-66.0, spread=3.5, volume=15.0, parting=24.0, wave=1.5),
    ),
    "fringe": Recipe(
        20_000,
        _parted(_MIDDLE),
        _MIDDLE,
        _FRINGE_LAYERS,
        falling(end=-60.0, spread=3.0, volume=15.0, parting=4.0, wave=1.2),
    ),
    "long": Recipe(
        20_000,
        _parted(_MIDDLE),
        _MIDDLE,
        _LONG_LAYERS,
        falling(end=-178.0, spread=10.0, volume=13.0, parting=4.0, wave=5.0, tuck=0.1),
    ),
}
