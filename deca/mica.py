"""MICA (Zielonka et al. 2022): identity features of ArcFace to a metrical FLAME shape."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from assets.weights import read_tensors
from deca.iresnet import CROP_SIDE, N_FEATURES, IResNet100, unit
from deca.official_codes import CodeParts
from deca.official_deca import TRAINER_STATE
from deca.official_encoder import OfficialEncoder, filled, without

N_SHAPE = 300
# FLAME's arrays, which the checkpoint repeats; ours come from the user's FLAME file
_FLAME = "flameModel.generator."


class ShapeMapping(nn.Module):
    """Four hidden layers and an output layer, 300 wide, leaky at 0.2."""

    def __init__(self) -> None:
        super().__init__()
        widths = (N_FEATURES, N_SHAPE, N_SHAPE, N_SHAPE, N_SHAPE)
        self.network = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths))
        self.output = nn.Linear(N_SHAPE, N_SHAPE)

    def forward(self, features: Float[Tensor, "B 512"]) -> Float[Tensor, "B 300"]:
        """Shape codes of unit features."""
        for layer in self.network:
            features = F.leaky_relu(layer(features), 0.2)
        shape: Tensor = self.output(features)
        return shape


class MicaNetworks(nn.Module):
    """The two networks under the checkpoint's names."""

    def __init__(self) -> None:
        super().__init__()
        self.arcface = IResNet100()
        self.flameModel = nn.ModuleDict({"regressor": ShapeMapping()})


class Mica(OfficialEncoder):
    """ArcFace crops of 112 px to 300 shape codes."""

    name = "mica"
    side = CROP_SIDE

    def __init__(self, networks: MicaNetworks) -> None:
        super().__init__()
        self.networks = networks

    @staticmethod
    def read(path: Path) -> Mica:
        """The model in `mica.tar`, which is a PyTorch checkpoint and no archive."""
        return Mica.of_tensors(read_tensors(path), str(path))

    @staticmethod
    def of_tensors(tensors: Mapping[str, Tensor], described: str) -> Mica:
        """The model of a checkpoint's tensors; AssetError lists every key that does not fit."""
        used = without(tensors, (_FLAME, *TRAINER_STATE))
        return Mica(filled(MicaNetworks, used, described)).eval()

    def forward(self, images: Float[Tensor, "B 3 112 112"]) -> CodeParts:
        """Shape codes of crops, RGB 0..1, with gradients."""
        features = unit(self.networks.arcface(images * 2 - 1))
        return CodeParts(shape=self.networks.flameModel["regressor"](features))
