"""ArcFace's improved ResNet-100 (Deng et al. 2019) under insightface's key names."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

CROP_SIDE = 112  # px
N_FEATURES = 512
BLOCKS = (3, 13, 30, 3)
_WIDTHS = (64, 128, 256, 512)


class IBasicBlock(nn.Module):
    """Norm, 3x3, norm, PReLU, 3x3, norm; the stride sits on the second convolution."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.prelu = nn.PReLU(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D K L"]:
        """Features of the block; no activation follows the sum."""
        shortcut = features if self.downsample is None else self.downsample(features)
        hidden = self.prelu(self.bn2(self.conv1(self.bn1(features))))
        added: Tensor = self.bn3(self.conv2(hidden)) + shortcut
        return added


class IResNet100(nn.Module):
    """Aligned faces to identity features, before they are brought to unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        stages = []
        n_in = 64
        for width, blocks in zip(_WIDTHS, BLOCKS, strict=True):
            rest = [IBasicBlock(width, width, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(IBasicBlock(n_in, width, 2), *rest))
            n_in = width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, N_FEATURES)
        self.features = nn.BatchNorm1d(N_FEATURES)

    def forward(self, images: Float[Tensor, "B 3 112 112"]) -> Float[Tensor, "B 512"]:
        """Features of crops in -1..1."""
        features = self.prelu(self.bn1(self.conv1(images)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
        flat: Tensor = self.features(self.fc(self.bn2(features).flatten(1)))
        return flat


def unit(features: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """Features of length 1, as they are compared."""
    return F.normalize(features)
