"""The compiled kernel that frames pictures and puts them before backgrounds.

Import this file only inside a function: the first import compiles, the result is kept on disk.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the signature, which is a string

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar, cast

import numba

_F = TypeVar("_F", bound=Callable[..., object])


def _compile(function: _F) -> _F:
    # numba must see the bare function, also where an import hook wrapped it to check shapes
    signature = "void(u1[:,:,:,::1], u1[:,:,:,::1], f8[:,:,::1], f4[:,:,:,::1])"
    return cast(
        _F, numba.jit([signature], nopython=True, nogil=True, cache=True)(inspect.unwrap(function))
    )


@_compile
def cut_people(people, backgrounds, matrix, crops):
    """Fill crops [B, 3, K, K] from RGBA pictures before RGB backgrounds; by matrix."""
    height, width = people.shape[1], people.shape[2]
    batch, _, rows, columns = crops.shape
    for b in range(batch):
        m = matrix[b]
        for row in range(rows):
            v = (row + 0.5) / rows
            for column in range(columns):
                u = (column + 0.5) / columns
                x = m[0, 0] * u + m[0, 1] * v + m[0, 2] - 0.5
                y = m[1, 0] * u + m[1, 1] * v + m[1, 2] - 0.5
                x = abs(x) if x < width - 1 else abs(2.0 * (width - 1) - x)
                y = abs(y) if y < height - 1 else abs(2.0 * (height - 1) - y)
                x, y = min(x, width - 1.001), min(y, height - 1.001)
                left, top = int(x), int(y)
                fx, fy = x - left, y - top
                alpha = red = green = blue = 0.0
                for step in range(4):
                    down, right = step >> 1, step & 1
                    weight = (fy if down else 1 - fy) * (fx if right else 1 - fx)
                    texel = people[b, top + down, left + right]
                    cover = weight * texel[3]
                    alpha += cover
                    red += cover * texel[0]
                    green += cover * texel[1]
                    blue += cover * texel[2]
                below = backgrounds[b, row, column]
                crops[b, 0, row, column] = (red + (255 - alpha) * below[0]) / 65025
                crops[b, 1, row, column] = (green + (255 - alpha) * below[1]) / 65025
                crops[b, 2, row, column] = (blue + (255 - alpha) * below[2]) / 65025
