"""Train the wrinkle network on unrolled faces with known relief.

Nothing is read but the shipped head and its skin; faces are drawn anew for every step.
"""

from __future__ import annotations

import argparse
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from assets.store import PACKAGE, register
from deca.detail_net import SHIPPED_DETAIL, UNIT, DetailNet, load_detail_net, save_detail_net
from deca.train_detail_data import Bank, Faces, Sizes, mirrored
from deca.training import head_metadata, last_step
from deca.training_loop import TrainingConfig, add_run_options, chosen, descend
from flame.load import load_head
from flame.outfit import load_outfit

log = logging.getLogger(__name__)

_HELD_OUT_SEED = 90_007


@dataclass(frozen=True)
class WrinkleTraining(TrainingConfig):
    """Settings of one run."""

    steps: int = 1500
    batch: int = 1
    warm_up: int = 40
    ema: float = 0.99
    save_every: int = 100


def loss_of(net: DetailNet, faces: Faces) -> tuple[Tensor, Tensor]:
    """Training loss, and the mean absolute error of heights in micrometres."""
    height, log_error = net(faces.inputs)
    truth, weight = faces.height / UNIT, faces.weight
    share = weight.sum().clamp(min=1)
    away = height - truth
    # squares: creases are few, and the likeliest height of a texel, which absolute errors would
    # ask for, is none
    plain = (away.square() * weight).sum() / share
    slopes = torch.zeros(())
    for axis in (-1, -2):
        steps = weight.shape[axis] - 1
        pairs = torch.minimum(weight.narrow(axis, 0, steps), weight.narrow(axis, 1, steps))
        slopes = slopes + (away.diff(dim=axis).square() * pairs).sum() / share
    size = away.detach().abs()
    likelihood = ((size * torch.exp(-log_error) + log_error) * weight).sum() / share
    mean = 1e6 * UNIT * (size * weight).sum() / share
    # relative to what there is to find: else a few deeply lined faces drown all others, or, where
    # gradients are clipped, the smooth ones all lined
    there = 0.1 + (truth.square() * weight).sum() / share
    return (plain + 2 * slopes) / there + 0.02 * likelihood, mean


def train(
    bank: Bank,
    folder: Path,
    config: WrinkleTraining,
    *,
    minutes: float | None = None,
) -> DetailNet:
    """The averaged network after `config.steps`, or when `minutes` are over.

    Writes `checkpoint.safetensors` and `loss.csv` into the folder; a stopped run goes on. With
    `minutes` the schedule follows the clock where that is ahead of the steps.
    """
    generator = torch.Generator().manual_seed(config.seed)
    net = _fresh(generator)
    waiting: list[Faces] = []

    @torch.no_grad()
    def make() -> tuple[Faces]:
        # painting a face costs as much as a step, so each is seen twice, then in a mirror
        if waiting:
            return (mirrored(waiting.pop()),)
        waiting.append(bank.batch(config.batch, generator=generator))
        return (waiting[0],)

    def loss(faces: Faces) -> tuple[Tensor, dict[str, Tensor]]:
        loss, error = loss_of(net, faces)
        return loss, {"height, um": error}

    return descend(
        net,
        DetailNet(),
        [{"params": list(net.parameters())}],
        make,
        loss,
        folder,
        config,
        generator=generator,
        minutes=minutes,
        save=lambda net: save_detail_net(net, folder / "detail.safetensors", head_metadata()),
    )


def _fresh(generator: torch.Generator) -> DetailNet:
    """A network whose weights depend on the generator alone, and that begins with no relief."""
    net = DetailNet()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                fan_in = module.weight[0].numel()
                noise = torch.randn(module.weight.shape, generator=generator)
                module.weight.copy_(noise * math.sqrt(2 / fan_in))
                if module.bias is not None:
                    module.bias.zero_()
        net.relief.weight.mul_(0.1)
    return net


@torch.no_grad()
def held_out_error(net: DetailNet, bank: Bank, count: int = 3) -> dict[str, float]:
    """Figures on faces of a bank that was not trained on; `count` batches of eight of each kind.

    Errors and heights are root mean squares over seen skin that can crease.
    """
    generator = torch.Generator().manual_seed(_HELD_OUT_SEED)
    figures = {}
    for name, smooth in (("lined", False), ("smooth", True)):
        errors, heights, found, both = [], [], [], []
        for _ in range(count):
            faces = bank.batch(8, generator=generator, smooth=smooth)
            height = net(faces.inputs)[0] * UNIT
            weight = faces.weight
            share = weight.sum((1, 2, 3)).clamp(min=1)

            def mean(values: Tensor, weight: Tensor = weight, share: Tensor = share) -> Tensor:
                return (values * weight).sum((1, 2, 3)) / share

            errors.append(mean((height - faces.height).square()))
            heights.append(mean(faces.height.square()))
            found.append(mean(height.square()))
            both.append(mean(height * faces.height))
        error, true, own, cross = (torch.cat(v).mean() for v in (errors, heights, found, both))
        figures[f"{name}: height found, um"] = float(own.sqrt() * 1e6)
        if not smooth:
            figures[f"{name}: true height, um"] = float(true.sqrt() * 1e6)
            figures[f"{name}: error, um"] = float(error.sqrt() * 1e6)
            figures[f"{name}: correlation"] = float(cross / (true * own).sqrt().clamp(min=1e-12))
    return figures


def ship(net: DetailNet, config: WrinkleTraining, steps: int) -> None:
    """Write the network under `assets/` and enter it into the manifest with its figures."""
    files = save_detail_net(net, PACKAGE / SHIPPED_DETAIL, head_metadata())
    held_out = open_bank(_HELD_OUT_SEED, Sizes(20, 10, 16, 16))
    shipped_net = load_detail_net()
    figures = {n: round(v, 3) for n, v in held_out_error(shipped_net, held_out).items()}
    register(
        name="detail",
        purpose="wrinkles of a photographed face as relief",
        licence="MIT",
        attribution="trained on painted textures of the shipped head",
        recipe=f"python -m deca.train wrinkles --steps {steps} --ship",
        files=files,
        seed=config.seed,
        steps=steps,
        figures=figures,
    )
    log.info("shipped: %s", figures)


def open_bank(seed: int, sizes: Sizes | None = None) -> Bank:
    """Creases, heads and skins of the shipped head."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return Bank(load_head(), load_outfit().albedo, sizes or Sizes(), generator=generator)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m deca.train wrinkles`."""
    add_run_options(parser, WrinkleTraining, Path("out/wrinkles"))


def run(options: argparse.Namespace) -> None:
    """Train, ship if asked."""
    torch.set_num_threads(options.threads)
    config = WrinkleTraining(**chosen(options))
    net = train(open_bank(options.seed), options.run, config, minutes=options.minutes)
    if options.ship:
        ship(net, config, last_step(options.run))
