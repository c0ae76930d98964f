"""A portrait: the picture that everything starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from assets.files import sha256_of
from assets.image import read_image


@dataclass(frozen=True, eq=False)
class Portrait:
    """One picture of one person, upright, sRGB 0..1."""

    image: Float[Tensor, "1 3 H W"]
    name: str
    sha256: str

    @staticmethod
    def read(path: Path) -> Portrait:
        """The portrait in a file; errors are those of `assets.image.read_image`."""
        return Portrait(read_image(path), path.stem, sha256_of(path))
