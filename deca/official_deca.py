"""DECA (Feng et al. 2021): the published checkpoint as encoder and detail decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assets.weights import read_tensors
from deca.detail import N_DETAIL, DetailDecoder, detail_latent
from deca.official_codes import CodeParts
from deca.official_encoder import OfficialEncoder, filled, without
from deca.resnet import CROP_SIDE, ResnetEncoder
from flame.rotation import axis_angle_to_matrix, matrix_to_axis_angle

# name and length of each group in the encoder's outputs, in order
LAYOUT = (("shape", 100), ("albedo", 50), ("expression", 50), ("pose", 6), ("camera", 3))
N_LIGHT = 27  # nine bands times three colours, colour fastest
N_CODES = sum(length for _, length in LAYOUT) + N_LIGHT
N_POSE = 6  # root 3, jaw 3
# what trainers store beside the networks, and inference has no use for
TRAINER_STATE = ("opt.", "optimizer.", "scheduler.", "global_step", "epoch", "batch_size")


@dataclass(frozen=True)
class DecaConfig:
    """How the outputs of a checkpoint are to be read."""

    # Models trained with jaw_type "euler" put opening, yaw and roll there; the published one does
    # not, so that only its owner can know.
    euler_jaw: bool = False
    detail: bool = True  # False leaves out the detail networks, half of the memory and time


def split_codes(codes: Float[Tensor, "B 236"], *, euler_jaw: bool = False) -> CodeParts:
    """The groups of DECA's 236 outputs."""
    *parts, light = torch.split(codes, [*(length for _, length in LAYOUT), N_LIGHT], dim=1)
    named = dict(zip((name for name, _ in LAYOUT), parts, strict=True))
    jaw = named["pose"][:, 3:]
    return CodeParts(
        shape=named["shape"],
        expression=named["expression"],
        jaw=euler_to_axis_angle(jaw) if euler_jaw else jaw,
        root=named["pose"][:, :3],
        camera=named["camera"],
        albedo=named["albedo"],
        light=light.reshape(-1, 9, 3),
    )


def euler_to_axis_angle(angles: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3"]:
    """Axis-angle vectors of turns about x, then the turned y, then the turned z; all radians."""
    matrix = torch.eye(3, dtype=angles.dtype, device=angles.device).expand(len(angles), 3, 3)
    for axis in range(3):
        turn = torch.zeros_like(angles)
        turn[:, axis] = angles[:, axis]
        matrix = matrix @ axis_angle_to_matrix(turn)
    return matrix_to_axis_angle(matrix)


class DecaNetworks(nn.Module):
    """The networks of a checkpoint side by side, so that one load checks the keys of all."""

    E_flame: ResnetEncoder
    E_detail: ResnetEncoder | None
    D_detail: DetailDecoder | None

    def __init__(self, detail: bool) -> None:
        super().__init__()
        self.E_flame = ResnetEncoder(N_CODES)
        self.E_detail = ResnetEncoder(N_DETAIL) if detail else None
        self.D_detail = DetailDecoder() if detail else None


class Deca(OfficialEncoder):
    """Crops of 224 px to all of DECA's codes, and codes to displacement."""

    name = "deca"
    side = CROP_SIDE

    def __init__(self, networks: DecaNetworks, config: DecaConfig) -> None:
        super().__init__()
        self.networks = networks
        self.config = config

    @staticmethod
    def read(path: Path, config: DecaConfig | None = None) -> Deca:
        """The model in `deca_model.tar`, which is a PyTorch checkpoint and no archive."""
        return Deca.of_tensors(read_tensors(path), str(path), config)

    @staticmethod
    def of_tensors(
        tensors: Mapping[str, Tensor], described: str, config: DecaConfig | None = None
    ) -> Deca:
        """The model of a checkpoint's tensors; AssetError lists every key that does not fit."""
        config = config or DecaConfig()
        return Deca(
            filled(
                lambda: DecaNetworks(config.detail),
                used_tensors(without(tensors, TRAINER_STATE), config),
                described,
            ),
            config,
        ).eval()

    def forward(self, images: Float[Tensor, "B 3 224 224"]) -> CodeParts:
        """Codes of crops, RGB 0..1, with gradients."""
        networks = self.networks
        parts = split_codes(networks.E_flame(images), euler_jaw=self.config.euler_jaw)
        if networks.E_detail is None:
            return parts
        named = {name: getattr(parts, name) for name in parts.given()}
        return CodeParts(**named, detail=networks.E_detail(images))

    def displacement(
        self,
        jaw: Float[Tensor, "B 3"],
        expression: Float[Tensor, "B E"],
        detail: Float[Tensor, "B 128"],
    ) -> Float[Tensor, "B 1 256 256"]:
        """The decoder's map, metres; `deca.official_surface` adds what belongs to every face.

        Pass the jaw and expression that are shown, the person's own detail: wrinkles then follow
        the expression. The decoder was trained on DECA's own expressions.
        """
        decoder = self.networks.D_detail
        if decoder is None:
            raise ValueError("this model was loaded without detail; use DecaConfig(detail=True)")
        raised: Tensor = decoder(detail_latent(jaw, expression, detail))
        return raised


def used_tensors(tensors: Mapping[str, Tensor], config: DecaConfig) -> dict[str, Tensor]:
    """A checkpoint's tensors without those of networks that the settings leave out."""
    return dict(tensors) if config.detail else without(tensors, ("E_detail.", "D_detail."))
