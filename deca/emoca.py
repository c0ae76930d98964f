"""EMOCA (Danecek et al. 2022): DECA with an expression encoder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.weights import read_tensors
from deca.official_codes import CodeParts
from deca.official_deca import Deca, DecaConfig, DecaNetworks, used_tensors
from deca.official_encoder import filled, under
from deca.resnet import ResnetEncoder

# columns of the expression head: expression alone, with the jaw, with root and jaw
HEADS = {50: ("expression",), 53: ("expression", "jaw"), 56: ("expression", "root", "jaw")}
PREFIXES = ("state_dict.deca.", "deca.")  # of Lightning's file, and of its state alone
_N_EXPRESSION = 50
_HEAD = "E_expression.layers.2.weight"


class EmocaNetworks(DecaNetworks):
    """DECA's networks and the expression encoder."""

    E_expression: ResnetEncoder

    def __init__(self, detail: bool, width: int) -> None:
        super().__init__(detail)
        self.E_expression = ResnetEncoder(width)


class Emoca(Deca):
    """Crops of 224 px to DECA's codes with EMOCA's expression (and jaw, and root)."""

    name = "emoca"

    @staticmethod
    def read(path: Path, config: DecaConfig | None = None) -> Emoca:
        """The model in a Lightning checkpoint, v1 or v2."""
        return Emoca.of_tensors(read_tensors(path), str(path), config)

    @staticmethod
    def of_tensors(
        tensors: Mapping[str, Tensor], described: str, config: DecaConfig | None = None
    ) -> Emoca:
        """The model of a checkpoint's tensors; AssetError lists every key that does not fit."""
        config = config or DecaConfig()
        networks = deca_part(tensors)
        width = len(networks.get(_HEAD, ()))
        if width not in HEADS:
            raise AssetError(
                f"{described} has {width or 'no'} rows in {_HEAD}, where EMOCA has 50, 53 or 56; "
                "check which model it is"
            )
        return Emoca(
            filled(
                lambda: EmocaNetworks(config.detail, width),
                used_tensors(networks, config),
                described,
            ),
            config,
        ).eval()

    def forward(self, images: Float[Tensor, "B 3 224 224"]) -> CodeParts:
        """Codes of crops, RGB 0..1, with gradients."""
        parts = super().forward(images)
        assert isinstance(self.networks, EmocaNetworks)
        return replace(parts, **split_expression(self.networks.E_expression(images)))


def split_expression(outputs: Float[Tensor, "B N"]) -> dict[str, Float[Tensor, "B K"]]:
    """The groups of codes in the outputs of an expression head, 50, 53 or 56 wide."""
    names = HEADS[outputs.shape[1]]
    lengths = [_N_EXPRESSION if name == "expression" else 3 for name in names]
    return dict(zip(names, torch.split(outputs, lengths, dim=1), strict=True))


def deca_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Lightning checkpoint's encoders and decoders, named as in DECA's own file.

    What is neither (FLAME, renderer, losses) is left out.
    """
    for prefix in PREFIXES:
        inner = under(tensors, prefix)
        if networks := {k: t for k, t in inner.items() if k.startswith(("E_", "D_"))}:
            return networks
    return {}
