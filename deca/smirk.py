"""SMIRK (Retsinas et al. 2024): three small encoders, with eyelids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assets.weights import read_tensors
from deca.mobilenet import LARGE, SMALL, MobileNet
from deca.official_codes import CodeParts
from deca.official_deca import TRAINER_STATE
from deca.official_encoder import OfficialEncoder, filled, under, without

N_SHAPE = 300
N_EXPRESSION = 50
LARGEST_JAW_TURN = 0.2  # radians about y and z
PREFIX = "smirk_encoder."
_GENERATOR = "smirk_generator."  # draws pictures in training; nothing here uses it


class PoseEncoder(nn.Module):
    """Root rotation and camera."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MobileNet(SMALL)
        self.pose_cam_layers = nn.Sequential(nn.Linear(self.encoder.n_features, 6))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 6"]:
        """Root 3, camera 3."""
        outputs: Tensor = self.pose_cam_layers(self.encoder(images))
        return outputs


class ShapeEncoder(nn.Module):
    """Identity."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MobileNet(LARGE)
        self.shape_layers = nn.Sequential(nn.Linear(self.encoder.n_features, N_SHAPE))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 300"]:
        """Shape codes."""
        outputs: Tensor = self.shape_layers(self.encoder(images))
        return outputs


class ExpressionEncoder(nn.Module):
    """Expression, eyelids and jaw."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MobileNet(LARGE)
        width = N_EXPRESSION + 2 + 3
        self.expression_layers = nn.Sequential(nn.Linear(self.encoder.n_features, width))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 55"]:
        """Expression 50, eyelids 2, jaw 3, before they are bounded."""
        outputs: Tensor = self.expression_layers(self.encoder(images))
        return outputs


class SmirkNetworks(nn.Module):
    """The three encoders under the checkpoint's names."""

    def __init__(self) -> None:
        super().__init__()
        self.pose_encoder = PoseEncoder()
        self.shape_encoder = ShapeEncoder()
        self.expression_encoder = ExpressionEncoder()


class Smirk(OfficialEncoder):
    """Crops of 224 px to shape, expression, eyelids, jaw, root and camera."""

    name = "smirk"
    side = 224

    def __init__(self, networks: SmirkNetworks) -> None:
        super().__init__()
        self.networks = networks

    @staticmethod
    def read(path: Path) -> Smirk:
        """The model in `SMIRK_em1.pt`."""
        return Smirk.of_tensors(read_tensors(path), str(path))

    @staticmethod
    def of_tensors(tensors: Mapping[str, Tensor], described: str) -> Smirk:
        """The model of a checkpoint's tensors; AssetError lists every key that does not fit."""
        used = without(tensors, (_GENERATOR, *TRAINER_STATE))
        others = without(used, (PREFIX,))
        return Smirk(filled(SmirkNetworks, {**under(used, PREFIX), **others}, described)).eval()

    def forward(self, images: Float[Tensor, "B 3 224 224"]) -> CodeParts:
        """Codes of crops, RGB 0..1, with gradients."""
        pose = self.networks.pose_encoder(images)
        expression, eyelids, jaw = self.networks.expression_encoder(images).split(
            [N_EXPRESSION, 2, 3], dim=1
        )
        return CodeParts(
            shape=self.networks.shape_encoder(images),
            expression=expression,
            jaw=bounded_jaw(jaw),
            root=pose[:, :3],
            camera=pose[:, 3:],
            eyelids=eyelids.clamp(0, 1),
        )


def bounded_jaw(jaw: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3"]:
    """Jaw rotations that open only, and turn sideways by 0.2 radians at most."""
    sideways = jaw[:, 1:].clamp(-LARGEST_JAW_TURN, LARGEST_JAW_TURN)
    return torch.cat([jaw[:, :1].relu(), sideways], dim=1)
