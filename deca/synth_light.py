"""Light on random people: lamps with an area, and what reaches a matt surface."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flame.light import Lights, sh_basis

_SHADOW_SIDE = 160  # texels, for a lamp that is a point
_BLOCKER_M = 0.08  # from what casts a face's shadows, nose and chin, to where they fall
_SCENE_M = 0.5  # what a shadow map of a head with hair and shoulders spans
_FILTER = 5  # texels that a shadow's edge is spread over


@dataclass(frozen=True)
class Lamp:
    """A rectangle that faces the sitter; tangents of half its angular width and height."""

    width: float = 0.0
    height: float = 0.0

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) and 0 <= x <= 2 for x in (self.width, self.height)):
            raise ValueError(f"{self}: width and height must be 0 to 2")

    @property
    def breadth(self) -> float:
        """The mean of both sides."""
        return (self.width + self.height) / 2


def draw_lamp(rng: np.random.Generator) -> Lamp:
    """A bare bulb or the sun, or, one time in three, a softbox or a window."""
    if rng.random() >= 0.35:
        return Lamp()
    size = math.exp(rng.uniform(math.log(0.08), math.log(0.6)))
    aspect = math.exp(rng.normal(0, 0.3))
    return Lamp(min(size * aspect, 0.8), min(size / aspect, 0.8))


def spread_key(lights: Lights, lamp: Lamp) -> Lights:
    """The same light with the key light coming from a rectangle: its middle and its four sides.

    The middle stays first, the only one that casts shadows: the larger the lamp, the more light
    goes past what stands in its way. Power stays the same; a lamp of no size changes nothing.
    """
    if lamp.breadth == 0:
        return lights
    key = lights.directions[:, :1]
    up = key.new_tensor([0.0, 1.0, 0.0]).expand_as(key)
    up = torch.where(key[..., 1:2].abs() > 0.99, key.new_tensor([1.0, 0.0, 0.0]), up)
    right = F.normalize(torch.linalg.cross(up, key), dim=-1)
    top = torch.linalg.cross(key, right)
    steps = key.new_tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    steps = steps * key.new_tensor([lamp.width, lamp.height])
    sides = F.normalize(key + steps[:, :1] * right + steps[:, 1:] * top, dim=-1)  # [B, 4, 3]
    # the integral of squares over a square wants 1/6 at each side; small lamps, whose shadows are
    # sharp, keep more in the middle, where the difference to the integral is small too
    past = (1 / 6) / (1 + (0.15 / lamp.breadth) ** 2)
    colour = lights.colours[:, :1]
    return Lights(
        lights.sh,
        torch.cat([key, sides, lights.directions[:, 1:]], dim=1),
        torch.cat(
            [(1 - 4 * past) * colour, past * colour.expand(-1, 4, -1), lights.colours[:, 1:]], dim=1
        ),
    )


def shadow_side(lamp: Lamp) -> int:
    """Texels of a shadow map whose filter is as wide as the lamp's penumbra on a face."""
    penumbra = 2 * lamp.breadth * _BLOCKER_M
    side = 2 * _FILTER + _FILTER * _SCENE_M / max(penumbra, 1e-6)
    return int(min(max(side, 48), _SHADOW_SIDE))


def matt_light(lights: Lights) -> Float[Tensor, "B 9 3"]:
    """Spherical harmonics nearest to what directional lights and sky give a matt surface.

    Least squares over 512 directions spread evenly by the golden angle.
    """
    normals, inverse = _sphere()
    facing = torch.einsum("nc,blc->bnl", normals, lights.directions).clamp(min=0)
    received = torch.einsum("bnl,blk->bnk", facing, lights.colours)
    nearest: Tensor = inverse @ received
    return lights.sh + nearest


@cache
def _sphere() -> tuple[Tensor, Tensor]:
    """Directions and the matrix that takes values there to coefficients."""
    number = torch.arange(512) + 0.5
    height = 1 - 2 * number / 512
    angle = math.pi * (1 + math.sqrt(5)) * number
    across = (1 - height.square()).sqrt()
    normals = torch.stack([across * angle.cos(), height, across * angle.sin()], -1)
    return normals, torch.linalg.pinv(sh_basis(normals))
