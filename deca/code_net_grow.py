"""A larger encoder that begins with what a smaller one knows.

Doubled channels with halved inputs compute the same function (Chen et al. 2016, "Net2Net"); a
little noise lets the twins part. Residual blocks that are new change nothing at first.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from deca.code_net import CODE_SIDE, CodeNet
from deca.landmarks import LandmarkNet

_NOISE = 0.15  # of a filter's own spread


def grown(
    net: CodeNet, side: int = CODE_SIDE, more: int = 1, *, generator: torch.Generator
) -> CodeNet:
    """Twice as many filters for crops of `side`, and `more` blocks at the last width but one.

    The crop may be larger as long as the last filters see as many cells.
    """
    old = net.landmarks
    blocks = list(old.config.blocks)
    blocks[-2] += more
    config = dataclasses.replace(
        old.config,
        stem=2 * old.config.stem,
        widths=tuple(2 * width for width in old.config.widths),
        blocks=tuple(blocks),
        side=side,
    )
    large = CodeNet(LandmarkNet(old.points, config), net.config)
    if large.landmarks.n_features != 2 * old.n_features:
        raise ValueError(
            f"crops of {side} px end in {large.landmarks.n_features} numbers, wanted "
            f"{2 * old.n_features}; choose a side with as many cells of "
            f"{2 << len(config.widths)} px as {old.config.side} has"
        )
    given = net.state_dict()
    cells = old.n_features // old.config.widths[-1]
    state = large.state_dict()
    for name in state.keys() & given.keys():
        found = _doubled(given[name], state[name].shape, cells)
        if found.shape != given[name].shape and found.ndim > 1:
            noise = torch.randn(found.shape, generator=generator)
            found = found + _NOISE * float(found.std()) * noise
        state[name] = found
    large.load_state_dict(state)
    for name, module in large.landmarks.backbone.named_modules():
        if name.endswith(".second") and f"landmarks.backbone.{name}.1.weight" not in given:
            assert isinstance(module, nn.Sequential) and isinstance(module[1], nn.BatchNorm2d)
            # a residual block that adds nothing
            nn.init.zeros_(module[1].weight)
    large.skin = net.skin
    return large


def _doubled(value: Tensor, wanted: torch.Size, cells: int) -> Tensor:
    """A smaller network's tensor as the larger one's: outputs twice, inputs twice and halved."""
    if value.ndim and wanted[0] == 2 * len(value):
        value = value.repeat_interleave(2, dim=0)
    if value.shape == wanted:
        return value
    if value.ndim == 2:
        # features count channel by channel, each with its cells
        channels = value.reshape(len(value), -1, cells)
        return channels.repeat_interleave(2, dim=1).flatten(1) / 2
    return value.repeat_interleave(2, dim=1) / 2
