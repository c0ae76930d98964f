"""What DECA's wrinkles are trained on (Feng et al. 2021, section 4.2): losses over the texture."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from assets.weights import read_tensors
from deca.landmarks import LandmarkNet
from deca.official_encoder import filled, under

_RELATIVE, _BANDWIDTH = 1e-5, 0.5
_LARGEST_GRID = 32  # cells along a side: similarities of all pairs are kept
# torchvision's VGG-19: widths of the convolutions, "M" is a pooling, up to conv4_2
_VGG = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512)
_VGG_STYLE = (13, 22)  # relu3_2 and relu4_2


@runtime_checkable
class Features(Protocol):
    """Something that sees texture: feature maps of style, of which the last is also content."""

    name: str

    def to(self, device: torch.device) -> None:
        """Move the network to a device."""
        ...

    def __call__(self, images: Float[Tensor, "B 3 K K"]) -> list[Tensor]:
        """Feature maps [B, C, H, W] of pictures 0..1, with gradients."""
        ...


class Vgg19Features:
    """relu3_2 and relu4_2 of the published VGG-19, as in the paper."""

    name = "VGG-19"

    def __init__(self, layers: nn.Module) -> None:
        self.layers = layers.eval().requires_grad_(False)

    def to(self, device: torch.device) -> None:
        """Move the network to a device."""
        self.layers.to(device)

    @staticmethod
    def read(path: Path) -> Vgg19Features:
        """The network in torchvision's `vgg19-*.pth`; what comes after conv4_2 is left aside."""
        tensors = under(read_tensors(path), "features.")
        used = {n: t for n, t in tensors.items() if int(n.split(".")[0]) <= _VGG_STYLE[-1]}
        return Vgg19Features(filled(vgg19_layers, used, str(path)))

    def __call__(self, images: Float[Tensor, "B 3 K K"]) -> list[Tensor]:
        """Two feature maps."""
        mean = images.new_tensor([0.485, 0.456, 0.406])[:, None, None]
        spread = images.new_tensor([0.229, 0.224, 0.225])[:, None, None]
        return _taps(self.layers, (images - mean) / spread, _VGG_STYLE)


class LandmarkFeatures:
    """The landmark network's features at a quarter and an eighth: they need no other file."""

    name = "landmark network"

    def __init__(self, net: LandmarkNet) -> None:
        self.layers = net.backbone.eval().requires_grad_(False)

    def to(self, device: torch.device) -> None:
        """Move the network to a device."""
        self.layers.to(device)

    def __call__(self, images: Float[Tensor, "B 3 K K"]) -> list[Tensor]:
        """Two feature maps."""
        return _taps(self.layers, images * 2 - 1, (2, 4))


def vgg19_layers() -> nn.Sequential:
    """VGG-19 (Simonyan and Zisserman 2015) up to relu4_2, numbered as torchvision does."""
    layers: list[nn.Module] = []
    given = 3
    for width in _VGG:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(given, width, 3, padding=1), nn.ReLU()]
            given = width
    return nn.Sequential(*layers)


def _taps(layers: nn.Module, images: Tensor, wanted: tuple[int, ...]) -> list[Tensor]:
    found, values = [], images
    for number, layer in enumerate(layers.children()):
        values = layer(values)
        if number in wanted:
            found.append(values)
        if number == wanted[-1]:
            break
    return found


def mrf_loss(
    features: Float[Tensor, "B C H W"], truth: Float[Tensor, "B C H W"]
) -> Float[Tensor, ""]:
    """Implicit diversified Markov random field (Wang et al. 2018, equations 1 to 4), bandwidth 0.5.

    0 at best; how likely each true feature is the nearest of some feature, in relative distances.
    Grids are brought to 32 cells a side at most, since every pair is compared.
    """
    side = min(_LARGEST_GRID, features.shape[-1])
    ours, true = (F.adaptive_avg_pool2d(f, side).flatten(2) for f in (features, truth))
    middle = true.mean(2, keepdim=True)
    ours, true = F.normalize(ours - middle, dim=1), F.normalize(true - middle, dim=1)
    distance = (1 - ours.transpose(1, 2) @ true) / 2  # [B, ours, true]
    relative = distance / (distance.amin(2, keepdim=True) + _RELATIVE)
    likeness = torch.softmax((1 - relative) / _BANDWIDTH, dim=2)
    return -likeness.amax(1).mean(1).clamp(min=1e-12).log().mean()


def perceptual_loss(
    look: Features, images: Float[Tensor, "B 3 K K"], truth: Float[Tensor, "B 3 K K"]
) -> Float[Tensor, ""]:
    """ID-MRF over each style map, and mean absolute difference of the content map."""
    with torch.no_grad():
        true = look(truth)
    ours = look(images)
    styles = [mrf_loss(one, two) for one, two in zip(ours, true, strict=True)]
    return torch.stack(styles).sum() + (ours[-1] - true[-1]).abs().mean()


def texture_loss(
    texture: Float[Tensor, "B 3 K K"],
    truth: Float[Tensor, "B 3 K K"],
    visible: Float[Tensor, "B 1 K K"],
) -> Float[Tensor, ""]:
    """Mean absolute difference over the patch where the photo shows the texture."""
    return ((texture - truth).abs() * visible).mean()


def displacement_loss(raised: Float[Tensor, "B 1 K K"]) -> Float[Tensor, ""]:
    """Mean absolute displacement, metres."""
    return raised.abs().mean()


def smoothness_loss(shading: Float[Tensor, "B 3 K K"]) -> Float[Tensor, ""]:
    """Mean squared difference of neighbouring texels, along rows plus along columns."""
    return shading.diff(dim=2).square().mean() + shading.diff(dim=3).square().mean()


def symmetry_loss(
    raised: Float[Tensor, "B 1 K K"], unseen: Float[Tensor, "B 1 K K"]
) -> Float[Tensor, ""]:
    """Sum over unseen texels of differences from the texture's other half, which stands still.

    For layouts that are symmetric about their vertical middle, as FLAME's and the shipped head's.
    """
    return ((raised - raised.flip(-1).detach()).abs() * unseen).sum()
