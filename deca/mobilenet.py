"""MobileNetV3 "minimal" trunks (Howard et al. 2019), as TensorFlow trained them, timm's key names.

Minimal means 3x3 kernels, ReLU and no squeeze-and-excitation. TensorFlow's "same" padding puts the
odd pixel at the lower right, and its batch norm has an eps of 1e-3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_EPS = 1e-3
_STEM = 16


@dataclass(frozen=True)
class Row:
    """`repeats` inverted residual blocks; the first one has the stride."""

    repeats: int
    stride: int
    expansion: float  # of the block's input; 1 leaves the expanding convolution out
    width: int


# one tuple a stage: the key names count stages, then blocks within the stage
SMALL = (
    (Row(1, 2, 1.0, 16),),
    (Row(1, 2, 4.5, 24), Row(1, 1, 3.67, 24)),
    (Row(1, 2, 4.0, 40), Row(2, 1, 6.0, 40)),
    (Row(2, 1, 3.0, 48),),
    (Row(3, 2, 6.0, 96),),
)
LARGE = (
    (Row(1, 1, 1.0, 16),),
    (Row(1, 2, 4.0, 24), Row(1, 1, 3.0, 24)),
    (Row(3, 2, 3.0, 40),),
    (Row(1, 2, 6.0, 80), Row(1, 1, 2.5, 80), Row(2, 1, 2.3, 80)),
    (Row(2, 1, 6.0, 112),),
    (Row(3, 2, 6.0, 160),),
)


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding."""

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D K L"]:
        """Features of ceil(H / stride) x ceil(W / stride)."""
        pads: list[int] = []
        for side, kernel, stride in zip(
            (features.shape[-1], features.shape[-2]),
            (self.kernel_size[1], self.kernel_size[0]),
            (self.stride[1], self.stride[0]),
            strict=True,
        ):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(features, pads))


class DepthwiseBlock(nn.Module):
    """A depthwise and a pointwise convolution."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = SameConv2d(n_in, n_in, 3, stride, groups=n_in, bias=False)
        self.bn1 = nn.BatchNorm2d(n_in, eps=_EPS)
        self.conv_pw = nn.Conv2d(n_in, n_out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out, eps=_EPS)
        self.skips = stride == 1 and n_in == n_out

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D K L"]:
        """Features of the block."""
        hidden: Tensor = self.bn2(self.conv_pw(F.relu(self.bn1(self.conv_dw(features)))))
        return hidden + features if self.skips else hidden


class InvertedResidual(nn.Module):
    """An expanding pointwise, a depthwise and a narrowing pointwise convolution."""

    def __init__(self, n_in: int, n_out: int, stride: int, expansion: float) -> None:
        super().__init__()
        width = _multiple_of_8(n_in * expansion)
        self.conv_pw = nn.Conv2d(n_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width, eps=_EPS)
        self.conv_dw = SameConv2d(width, width, 3, stride, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width, eps=_EPS)
        self.conv_pwl = nn.Conv2d(width, n_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(n_out, eps=_EPS)
        self.skips = stride == 1 and n_in == n_out

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D K L"]:
        """Features of the block."""
        hidden = F.relu(self.bn1(self.conv_pw(features)))
        hidden = F.relu(self.bn2(self.conv_dw(hidden)))
        narrowed: Tensor = self.bn3(self.conv_pwl(hidden))
        return narrowed + features if self.skips else narrowed


class LastConv(nn.Module):
    """The pointwise convolution that widens the last features."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out, eps=_EPS)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """The wider features."""
        return F.relu(self.bn1(self.conv(features)))


class MobileNet(nn.Module):
    """Pictures to the last stage's features, averaged over the picture."""

    def __init__(self, stages: tuple[tuple[Row, ...], ...]) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, _STEM, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM, eps=_EPS)
        built: list[nn.Module] = []
        n_in = _STEM
        for rows in stages:
            blocks: list[nn.Module] = []
            for row in rows:
                for index in range(row.repeats):
                    stride = row.stride if index == 0 else 1
                    blocks.append(_block(n_in, row, stride))
                    n_in = row.width
            built.append(nn.Sequential(*blocks))
        self.n_features = 6 * n_in
        built.append(nn.Sequential(LastConv(n_in, self.n_features)))
        self.blocks = nn.Sequential(*built)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N"]:
        """Pooled features: 576 of the small trunk, 960 of the large one."""
        features: Tensor = self.blocks(F.relu(self.bn1(self.conv_stem(images))))
        return features.mean((-2, -1))


def _block(n_in: int, row: Row, stride: int) -> nn.Module:
    if row.expansion == 1:
        return DepthwiseBlock(n_in, row.width, stride)
    return InvertedResidual(n_in, row.width, stride, row.expansion)


def _multiple_of_8(width: float) -> int:
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded
