"""How the portrait model's autoencoder starts: as a transform of squares of pixels, not at random.

A short training then goes into what is hard, and its latents are independent from the beginning.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from jaxtyping import Float
from torch import Tensor, nn

# first Walsh functions of a square of 8 pixels: the channel before the last halving that each is
# made from (brightness, two colours, then brightness that changes sideways and downwards), and
# whether the two halves sideways and downwards are added (1) or subtracted (-1)
_SQUARES = (
    *((0, 1, 1), (1, 1, 1), (2, 1, 1)),
    *((0, -1, 1), (0, 1, -1), (3, -1, 1), (4, 1, -1), (0, -1, -1)),
    *((1, -1, 1), (1, 1, -1), (2, -1, 1), (2, 1, -1)),
)
_COLOURS = ((1 / 3, 1 / 3, 1 / 3), (0.5, 0.0, -0.5), (-0.25, 0.5, -0.25))  # of red, green, blue
_STEADY = 3.0  # of two channels that make norms nearly a constant factor


@torch.no_grad()
def start_from_squares(vae: AutoencoderKL) -> None:
    """Start blocks as ones that change nothing, latents as Walsh functions of squares of 8 pixels.

    Latents that all start from the same mean colours stay dependent on each other for long: five
    of eight had been of use after twenty minutes. Networks too narrow for it start without.
    """
    for part in vae.modules():
        _pass_on(part)
    config = vae.config
    _quiet_noise(vae)
    first, second, third, last = config.block_out_channels
    group = last // config.norm_num_groups
    count = min(config.latent_channels, len(_SQUARES))
    pairs = [start + 2 * k for start in range(0, last, group) for k in range((group - 2) // 2)]
    if first < 3 or second < 5 or not count <= third < last or len(pairs) < count:
        return
    encoder = vae.encoder
    colours = encoder.conv_in
    colours.weight[:3] = 0.0
    colours.weight[:3, :, 1, 1] = torch.tensor(_COLOURS)
    colours.bias[:3] = 0.0
    halvings = [block.downsamplers[0].conv for block in encoder.down_blocks[:3]]
    for conv, wanted in zip(
        halvings,
        (_SQUARES[:3], (*_SQUARES[:3], (0, -1, 1), (0, 1, -1)), _SQUARES[:count]),
        strict=True,
    ):
        conv.weight[: len(wanted)] = 0.0
        conv.bias[: len(wanted)] = 0.0
        for row, (channel, across, down) in enumerate(wanted):
            # the third row and column of the kernel lie outside the square
            conv.weight[row, channel, :2, :2] = 0.25 * torch.tensor(
                [[1.0, across], [down, across * down]]
            )
    for block, kept in zip(encoder.down_blocks[1:3], (3, 5), strict=True):
        if block.resnets[0].conv_shortcut is not None:  # it keeps all where widths are the same
            _keep_first(block.resnets[0].conv_shortcut, kept)
    # SiLU(x) - SiLU(-x) is x: what comes in pairs passes the last activation as it is
    widened = encoder.down_blocks[3].resnets[0].conv_shortcut
    for row, at in enumerate(pairs[:count]):
        for sign, channel in ((1.0, at), (-1.0, at + 1)):
            widened.weight[channel] = 0.0
            widened.weight[channel, row] = sign
            widened.bias[channel] = 0.0
    for end in range(group, last + 1, group):
        widened.weight[end - 2 : end] = 0.0
        widened.bias[end - 2 : end] = torch.tensor([_STEADY, -_STEADY])
    out, conv = encoder.conv_out, vae.quant_conv
    out.weight[:count] *= 0.1
    for row, at in enumerate(pairs[:count]):
        out.weight[row, at, 1, 1], out.weight[row, at + 1, 1, 1] = 1.0, -1.0
    nn.init.dirac_(conv.weight[: config.latent_channels])
    nn.init.zeros_(conv.bias[: config.latent_channels])
    nn.init.dirac_(vae.post_quant_conv.weight)
    nn.init.zeros_(vae.post_quant_conv.bias)


@torch.no_grad()
def level_latents(vae: AutoencoderKL, pictures: Float[Tensor, "B 3 S S"]) -> None:
    """Give a fresh autoencoder's latents mean 0 and variance 1 over some pictures, -1..1."""
    count = vae.config.latent_channels
    conv = vae.quant_conv
    means = vae.encode(pictures).latent_dist.mean
    middle, spread = means.mean((0, 2, 3)), means.std((0, 2, 3)).clamp(min=1e-3)
    conv.weight[:count] /= spread[:, None, None, None]
    conv.bias[:count] = (conv.bias[:count] - middle) / spread


def _quiet_noise(vae: AutoencoderKL) -> None:
    """Latents that start with little noise are of use to the decoder from the first steps on."""
    count = vae.config.latent_channels
    vae.quant_conv.weight[count:] = 0.0
    vae.quant_conv.bias[count:] = -6.0  # the logarithm of their variance


def _keep_first(conv: nn.Conv2d, count: int) -> None:
    """Let the first channels pass a convolution of one pixel as they are."""
    conv.weight[:count] = 0.0
    conv.weight[range(count), range(count)] = 1.0
    assert conv.bias is not None
    conv.bias[:count] = 0.0


def _pass_on(part: nn.Module) -> None:
    """Start a layer of an autoencoder as one that keeps a picture: shrunk, enlarged or as it is."""
    if isinstance(part, ResnetBlock2D):
        nn.init.zeros_(part.conv2.weight)
        nn.init.zeros_(part.conv2.bias)
        if part.conv_shortcut is not None:
            nn.init.orthogonal_(part.conv_shortcut.weight)
    elif isinstance(part, Upsample2D):
        nn.init.dirac_(part.conv.weight)
    elif isinstance(part, Downsample2D):
        nn.init.dirac_(part.conv.weight)
        height, width = part.conv.weight.shape[-2:]
        part.conv.weight.copy_(part.conv.weight.sum((2, 3), keepdim=True) / (height * width))
