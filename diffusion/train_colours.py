"""Give an autoencoder's latents a colour that it has let go, without training it anew."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

GREEN = (-0.5, 1.0, -0.5)  # green against magenta, the axis that pictures of people need least
_GAIN = 4.0  # what is carried has to stand out among what GroupNorm scales with it
_CARRIED_LOGVAR = -6.0


def block_colour(images: Tensor, axis: tuple[float, ...] = GREEN) -> Float[Tensor, "B h w"]:
    """The mean of each latent's square of pixels along an axis of colour."""
    weights = images.new_tensor(axis)[:, None, None]
    return F.avg_pool2d(images * weights, 8).sum(1)


def explained(latents: Float[Tensor, "B C h w"], wanted: Float[Tensor, "B h w"]) -> float:
    """The share of the variance of values that linear functions of the latents give."""
    rows = _rows(latents)
    target = wanted.reshape(-1, 1).double()
    rest = target - rows @ torch.linalg.lstsq(rows, target).solution
    return 1 - float(rest.var() / target.var())


@torch.no_grad()
def carry_colour(vae: Any, images: Float[Tensor, "B 3 H W"], latent: int) -> None:
    """Make one latent of the encoder tell of green against magenta; the others stay about the same.

    On every level the channel that is heard least becomes a straight way for the colour, from the
    pixels to the last layer, which reads the colour by regression on the images. The decoder knows
    nothing of it yet: train it after this.
    """
    encoder = vae.encoder
    levels = list(encoder.down_blocks)
    ways = [_least_heard(encoder, number) for number in range(len(levels))]
    entry = encoder.conv_in
    entry.weight[ways[0]] = 0.0
    entry.bias[ways[0]] = 0.0
    entry.weight[ways[0], :, 1, 1] = _GAIN * entry.weight.new_tensor(GREEN)
    before = ways[0]
    for level, way in zip(levels, ways, strict=True):
        for block in level.resnets:
            _let_pass(block, before, way)
            before = way
        if level.downsamplers is not None:
            shrink = level.downsamplers[0].conv
            shrink.weight[way] = 0.0
            shrink.bias[way] = 0.0
            shrink.weight[way, way] = 1 / shrink.weight[0, 0].numel()
    for block in encoder.mid_block.resnets:
        _let_pass(block, before, before)
    last, moments = encoder.conv_out, vae.quant_conv
    heard = F.silu(encoder.conv_norm_out(_trunk(encoder, images)))
    wanted = block_colour(images).reshape(-1, 1).double()
    rows = _rows(heard)
    ridge = 1e-4 * len(rows) * torch.eye(rows.shape[1], dtype=torch.float64)
    found = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ wanted)[:, 0].to(last.weight)
    last.weight[latent] = 0.0
    last.weight[latent, :, 1, 1] = found[:-1]
    last.bias[latent] = found[-1]
    middle, spread = wanted.mean(), wanted.std()
    count = moments.weight.shape[0] // 2
    moments.weight[:, latent] = 0.0
    moments.weight[[latent, count + latent]] = 0.0
    moments.weight[latent, latent] = 1 / spread
    moments.bias[latent] = -middle / spread
    moments.bias[count + latent] = _CARRIED_LOGVAR


@torch.no_grad()
def least_used(vae: Any, images: Float[Tensor, "B 3 H W"]) -> int:
    """The latent without which the pictures come out best."""
    latents = vae.encode(images).latent_dist.mean
    errors = []
    for number in range(latents.shape[1]):
        without = latents.clone()
        without[:, number] = without[:, number].mean()
        errors.append(float((vae.decode(without).sample - images).square().mean()))
    return min(range(len(errors)), key=errors.__getitem__)


def _trunk(encoder: Any, images: Tensor) -> Tensor:
    """What reaches the encoder's last norm."""
    found = encoder.conv_in(images)
    for level in encoder.down_blocks:
        found = level(found)
    found = encoder.mid_block(found)
    return torch.as_tensor(found)


def _least_heard(encoder: Any, number: int) -> int:
    """The channel of a level's end that the layers after it weigh least."""
    level = encoder.down_blocks[number]
    readers = [] if level.downsamplers is None else [level.downsamplers[0].conv.weight]
    if number + 1 < len(encoder.down_blocks):
        readers.append(encoder.down_blocks[number + 1].resnets[0].conv1.weight)
    else:
        readers += [encoder.mid_block.resnets[0].conv1.weight, encoder.conv_out.weight]
    heard: Tensor = sum(weight.flatten(2).square().sum((0, 2)) for weight in readers)
    return int(heard.argmin())


def _let_pass(block: Any, entering: int, leaving: int) -> None:
    """Make a residual block hand one channel on as it is."""
    block.conv2.weight[leaving] = 0.0
    block.conv2.bias[leaving] = 0.0
    if block.conv_shortcut is not None:
        block.conv_shortcut.weight[leaving] = 0.0
        block.conv_shortcut.bias[leaving] = 0.0
        block.conv_shortcut.weight[leaving, entering] = 1.0


def _rows(channels: Tensor) -> Tensor:
    """Every place's channels, and a one [N, C + 1], in double precision."""
    flat = channels.permute(0, 2, 3, 1).reshape(-1, channels.shape[1]).double()
    return torch.cat([flat, flat.new_ones(len(flat), 1)], 1)
