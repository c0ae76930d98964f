"""ResNet-50 (He et al. 2016) under torchvision's key names, and the encoder head that DECA adds."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

CROP_SIDE = 224  # px; the 7 x 7 average pool fits this side alone
N_FEATURES = 2048
_EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions round a shortcut; the stride sits on the 3x3 one."""

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        n_out = width * _EXPANSION
        self.conv1 = nn.Conv2d(n_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, n_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D K L"]:
        """Features of the block."""
        shortcut = features if self.downsample is None else self.downsample(features)
        hidden = F.relu(self.bn1(self.conv1(features)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        added: Tensor = self.bn3(self.conv3(hidden)) + shortcut
        return F.relu(added)


class ResNet50(nn.Module):
    """The trunk without its classifier: pictures to 2048 pooled features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, 3, 1)
        self.layer2 = _stage(256, 128, 4, 2)
        self.layer3 = _stage(512, 256, 6, 2)
        self.layer4 = _stage(1024, 512, 3, 2)

    def forward(self, images: Float[Tensor, "B 3 224 224"]) -> Float[Tensor, "B 2048"]:
        """Pooled features."""
        features = F.relu(self.bn1(self.conv1(images)))
        features = F.max_pool2d(features, 3, 2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
        return F.avg_pool2d(features, 7).flatten(1)


def _stage(n_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(n_in, width, stride)
    rest = [Bottleneck(width * _EXPANSION, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


class ResnetEncoder(nn.Module):
    """DECA's encoder: the trunk and two linear layers; pictures are RGB 0..1, not normalised."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.encoder = ResNet50()
        self.layers = nn.Sequential(
            nn.Linear(N_FEATURES, 1024), nn.ReLU(), nn.Linear(1024, n_outputs)
        )

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N"]:
        """Raw outputs; nothing bounds them."""
        if images.shape[-2:] != (CROP_SIDE, CROP_SIDE):
            raise ValueError(
                f"the crop is {images.shape[-2]} x {images.shape[-1]} pixels, this network takes "
                f"{CROP_SIDE} x {CROP_SIDE}; crop with deca.official_crop"
            )
        outputs: Tensor = self.layers(self.encoder(images))
        return outputs
