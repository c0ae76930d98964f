"""Building blocks of StarGANv2-VC: residual blocks on (mel band, frame) pictures, and AdaIN.

Attributes carry the names of the published checkpoints.
"""

from __future__ import annotations

import math
from typing import Literal, cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Scale = Literal["none", "freq", "half"]  # what changes: nothing, the bands, bands and frames
_STEP: dict[Scale, tuple[int, int]] = {"none": (1, 1), "freq": (2, 1), "half": (2, 2)}
SLOPE = 0.2


def scale_of(block: int) -> Scale:
    """What the encoder's block of this index halves and the mirrored decoder block doubles."""
    return "half" if block % 2 == 0 else "freq"


class ResBlk(nn.Module):
    """Residual block that scales down; `normalise` puts affine instance norms before the convs."""

    def __init__(
        self, dim_in: int, dim_out: int, down: Scale = "none", *, normalise: bool = False
    ) -> None:
        super().__init__()
        self.step = _STEP[down]
        self.conv1 = nn.Conv2d(dim_in, dim_in, 3, padding=1)
        self.conv2 = nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.norm1 = nn.InstanceNorm2d(dim_in, affine=True) if normalise else nn.Identity()
        self.norm2 = nn.InstanceNorm2d(dim_in, affine=True) if normalise else nn.Identity()
        self.conv1x1 = (
            nn.Conv2d(dim_in, dim_out, 1, bias=False) if dim_in != dim_out else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H2 W2"]:
        """The block's output; an odd last band or frame is dropped where the scale halves."""
        shortcut = self._down(self.conv1x1(x))
        residual = self._down(self.conv1(F.leaky_relu(self.norm1(x), SLOPE)))
        residual = self.conv2(F.leaky_relu(self.norm2(residual), SLOPE))
        return cast(Tensor, shortcut + residual) / math.sqrt(2)

    def _down(self, x: Tensor) -> Tensor:
        return x if self.step == (1, 1) else F.avg_pool2d(x, self.step)


class AdaIN(nn.Module):
    """Instance norm whose gain and offset come from a style."""

    def __init__(self, style_dim: int, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(style_dim, 2 * channels)

    def forward(
        self, x: Float[Tensor, "B C H W"], style: Float[Tensor, "B S"]
    ) -> Float[Tensor, "B C H W"]:
        """Each channel with mean beta and deviation 1 + gamma over its bands and frames."""
        gamma, beta = self.fc(style)[:, :, None, None].chunk(2, dim=1)
        return cast(Tensor, (1 + gamma) * F.instance_norm(x) + beta)


class AdainResBlk(nn.Module):
    """Residual block under a style, which scales up by repetition."""

    def __init__(self, dim_in: int, dim_out: int, style_dim: int, up: Scale = "none") -> None:
        super().__init__()
        self.step = _STEP[up]
        self.conv1 = nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.conv2 = nn.Conv2d(dim_out, dim_out, 3, padding=1)
        self.norm1 = AdaIN(style_dim, dim_in)
        self.norm2 = AdaIN(style_dim, dim_out)
        self.conv1x1 = (
            nn.Conv2d(dim_in, dim_out, 1, bias=False) if dim_in != dim_out else nn.Identity()
        )

    def forward(
        self, x: Float[Tensor, "B C H W"], style: Float[Tensor, "B S"]
    ) -> Float[Tensor, "B D H2 W2"]:
        """The block's output at twice the bands (and frames) where the scale says so."""
        # a 1x1 convolution commutes with repetition, so that the small picture is convolved
        shortcut = self._up(self.conv1x1(x))
        residual = self.conv1(self._up(F.leaky_relu(self.norm1(x, style), SLOPE)))
        residual = self.conv2(F.leaky_relu(self.norm2(residual, style), SLOPE))
        return cast(Tensor, shortcut + residual) / math.sqrt(2)

    def _up(self, x: Tensor) -> Tensor:
        if self.step == (1, 1):
            return x
        return F.interpolate(x, scale_factor=self.step, mode="nearest")


def conv_trunk(dim_in: int, max_conv_dim: int, n_repeat: int) -> tuple[list[nn.Module], int]:
    """Stem and halving blocks of style encoder and discriminator, and the channels they end in."""
    blocks: list[nn.Module] = [nn.Conv2d(1, dim_in, 3, padding=1)]
    dim = dim_in
    for _ in range(n_repeat):
        wider = min(2 * dim, max_conv_dim)
        blocks.append(ResBlk(dim, wider, "half"))
        dim = wider
    return blocks, dim


def require_frames(mel: Tensor, n_repeat: int) -> None:
    """ValueError for a mel too short for `conv_trunk` and the 5 x 5 convolution after it."""
    needed = 5 * 2**n_repeat
    if mel.shape[-1] < needed:
        raise ValueError(
            f"the mel has {mel.shape[-1]} frames, a style or a judgement needs {needed}; "
            "pass a longer clip or repeat it"
        )
