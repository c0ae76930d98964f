"""Light: order-2 spherical harmonics with DECA's constants, and directional lights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flame.records import TensorRecord

# of the bands 1, x, y, z, xy, xz, yz, x² - y², 3z² - 1 (DECA's add_SHlight)
SH_CONSTANTS = (
    0.282095,
    1.023327,
    1.023327,
    1.023327,
    0.858086,
    0.858086,
    0.858086,
    0.429043,
    0.247708,
)


def sh_basis(normals: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 9"]:
    """The nine basis functions, times DECA's constants, at unit normals."""
    x, y, z = normals.unbind(-1)
    bands = [torch.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1]
    return torch.stack(bands, dim=-1) * normals.new_tensor(SH_CONSTANTS)


def sh_shading(
    normals: Float[Tensor, "B *N 3"], sh_light: Float[Tensor, "B 9 3"]
) -> Float[Tensor, "B *N 3"]:
    """Light per colour channel at unit normals; not clamped, as in DECA."""
    return torch.einsum("b...k,bkc->b...c", sh_basis(normals), sh_light)


def shade(
    albedo: Float[Tensor, "B C H W"],
    normals: Float[Tensor, "B 3 H W"],
    sh_light: Float[Tensor, "B 9 3"],
) -> Float[Tensor, "B C H W"]:
    """Images of a matt surface: albedo times the light that its normals receive."""
    return albedo * sh_shading(normals.movedim(1, -1), sh_light).movedim(-1, 1)


def sh_constant(
    colour: Float[Tensor, "B 3"],
) -> Float[Tensor, "B 9 3"]:
    """Spherical harmonics of light that is the same from everywhere."""
    rest = colour.new_zeros(len(colour), 8, 3)
    return torch.cat([colour[:, None] / SH_CONSTANTS[0], rest], dim=1)


def sh_sky(
    above: Float[Tensor, "B 3"], below: Float[Tensor, "B 3"], front: Float[Tensor, "B 3"]
) -> Float[Tensor, "B 9 3"]:
    """Spherical harmonics of a gradient from `below` to `above`, plus `front` toward +z."""
    zero = torch.zeros_like(above)
    bands = [(above + below) / 2 / SH_CONSTANTS[0], zero, (above - below) / 2 / SH_CONSTANTS[2]]
    bands += [front / SH_CONSTANTS[3], zero, zero, zero, zero, zero]
    return torch.stack(bands, dim=1)


@dataclass(frozen=True, eq=False)
class Lights(TensorRecord):
    """Light on B scenes, linear; 1 on a surface that faces it shows the albedo unchanged.

    The first directional light is the key light, the one that casts shadows.
    """

    sh: Float[Tensor, "B 9 3"]  # ambient, as in sh_shading
    directions: Float[Tensor, "B L 3"]  # unit vectors toward the lights
    colours: Float[Tensor, "B L 3"]

    def expand(self, batch: int) -> Lights:
        """The same light on `batch` scenes."""
        return Lights(
            self.sh.expand(batch, -1, -1),
            self.directions.expand(batch, -1, -1),
            self.colours.expand(batch, -1, -1),
        )


def directional(
    directions: Float[Tensor, "B L 3"],
    colours: Float[Tensor, "B L 3"],
    sh: Float[Tensor, "B 9 3"] | None = None,
) -> Lights:
    """Lights from any directions, over ambient light `sh` (none by default)."""
    if sh is None:
        sh = directions.new_zeros(len(directions), 9, 3)
    return Lights(sh, torch.nn.functional.normalize(directions, dim=-1), colours)


def studio_lights() -> Lights:
    """One portrait scene: warm key from the upper left, cool fill, rim from behind, soft sky."""
    directions = torch.tensor([[[-0.55, 0.62, 0.85], [0.9, 0.1, 0.5], [0.6, 0.5, -1.3]]])
    colours = torch.tensor([[[0.88, 0.84, 0.79], [0.15, 0.16, 0.18], [0.28, 0.31, 0.35]]])
    sky = sh_sky(
        torch.tensor([[0.46, 0.48, 0.51]]),
        torch.tensor([[0.24, 0.22, 0.21]]),
        torch.tensor([[0.10, 0.10, 0.10]]),
    )
    return directional(directions, colours, sky)


def deca_lights() -> Lights:
    """The five white lights of DECA's grey shape pictures, each 1.7 / 5 strong, no ambient."""
    directions = torch.tensor([[[-1.0, 1, 1], [1, 1, 1], [-1, -1, 1], [1, -1, 1], [0, 0, 1]]])
    return directional(directions, torch.full((1, 5, 3), 1.7 / 5))
