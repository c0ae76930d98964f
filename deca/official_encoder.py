"""What the published encoders have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assets.weights import install_weights
from deca.official_codes import CROP_OF, CodeParts

Module = TypeVar("Module", bound=nn.Module)


class OfficialEncoder(nn.Module):
    """A published encoder: crops to codes. `crop` names the crop that it was trained on."""

    name: str
    side: int  # px of the crop

    @property
    def crop(self) -> str:
        """Which of the crops of deca.official_crop it takes."""
        return CROP_OF[self.name]

    def forward(self, images: Float[Tensor, "B 3 K K"]) -> CodeParts:
        """Codes of crops, RGB 0..1, with gradients."""
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "B 3 K K"]) -> CodeParts:
        """Codes of crops, RGB 0..1."""
        if images.shape[-2:] != (self.side, self.side):
            raise ValueError(
                f"the crop is {images.shape[-2]} x {images.shape[-1]} pixels, {self.name} takes "
                f"{self.side} x {self.side}; crop with deca.official_crop"
            )
        parts: CodeParts = self(images)
        return parts


def filled(build: Callable[[], Module], tensors: Mapping[str, Tensor], described: str) -> Module:
    """The network that `build` makes, in evaluation mode, with the tensors in place.

    All go in or none: AssetError lists every missing, unexpected and misshapen key.
    """
    with torch.device("meta"):  # initial weights would be drawn for nothing
        model = build()
    model.to_empty(device="cpu")
    install_weights(model, tensors, described=described)
    return model.eval().requires_grad_(False)


def without(tensors: Mapping[str, Tensor], prefixes: Iterable[str]) -> dict[str, Tensor]:
    """The tensors whose names begin with none of the prefixes."""
    unwanted = tuple(prefixes)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(unwanted)}


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {
        name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)
    }
