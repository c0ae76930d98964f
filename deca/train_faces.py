"""Train the face detector on pictures of random people before scenery.

The people are rendered once into two folders (`--count`, `--turned`), then placed, dressed,
covered and degraded anew each time they are seen. Stopped runs go on from their last checkpoint.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from assets.store import PACKAGE, register
from deca.face_net import (
    SHIPPED_FACES,
    FaceConfig,
    FaceMaps,
    FaceNet,
    save_face_net,
)
from deca.landmarks import LandmarkNet, load_landmark_net
from deca.synth import open_studio
from deca.train_codes_data import render_people
from deca.train_faces_check import held_out
from deca.train_faces_data import Answer, Patches
from deca.train_faces_people import RenderedPeople, render_turned, shards
from deca.train_faces_scene import Scenery
from deca.training import head_metadata, last_step
from deca.training_loop import TrainingConfig, add_run_options, chosen, descend

log = logging.getLogger(__name__)

# What DIR of the shipped recipe held.
_PICTURES = (
    "Blender 4.2's world lights and 18 panoramas of Poly Haven (both CC0), and scikit-learn's two "
    "sample images (CC BY 2.0, danielbuechele and vultilion)"
)


@dataclass(frozen=True)
class FaceTraining(TrainingConfig):
    """Settings of one run."""

    batch: int = 16
    ema: float = 0.997
    save_every: int = 200
    stock: int = 300  # backgrounds at hand, three replaced a batch


def loss_of(maps: FaceMaps, answer: Answer) -> tuple[Tensor, dict[str, Tensor]]:
    """Focal loss of the heat map (Zhou et al. 2019, eq. 1) and L1 of place, size and roll."""
    chance = torch.sigmoid(maps.logit)
    peak = (answer.heat > 0.99).float()
    found = F.logsigmoid(maps.logit) * (1 - chance).square() * peak
    empty = F.logsigmoid(-maps.logit) * chance.square() * (1 - answer.heat) ** 4 * (1 - peak)
    count = peak.sum().clamp(min=1)
    heat = -((found + empty) * answer.care).sum() / count
    weight = answer.near.sum().clamp(min=1)
    place = ((maps.place - answer.place).abs().sum(1) * answer.near).sum() / weight
    size = ((maps.log_side - answer.log_side).abs() * answer.near).sum() / weight
    roll = ((maps.upright - answer.upright).abs().sum(1) * answer.near).sum() / weight
    figures = {"heat": heat, "place": place, "side": size, "roll": roll}
    return heat + 0.5 * place + 2 * size + 0.5 * roll, {k: v.detach() for k, v in figures.items()}


@torch.no_grad()
def take_over(net: FaceNet, trained: LandmarkNet) -> None:
    """Start from the landmark network's first layers, which have the same order and shapes.

    They know what eyes and mouths look like, which shortens the training several times. Residual
    blocks beyond them start as nothing.
    """
    theirs = list(trained.backbone.state_dict().values())
    own = [*net.fine.state_dict().values(), *net.coarse.state_dict().values()]
    for number, (mine, other) in enumerate(zip(own, theirs, strict=False)):
        if mine.shape != other.shape:
            log.info("%d of %d tensors taken over", number, len(own))
            break
        mine.copy_(other)
    for name, value in net.coarse[-1].named_parameters():
        if name == "second.1.weight":
            value.zero_()


def train(
    people: RenderedPeople,
    scenery: Scenery,
    folder: Path,
    config: FaceTraining,
    *,
    minutes: float | None = None,
    export: Path | None = None,
) -> FaceNet:
    """The averaged network after `config.steps`, or when `minutes` of this run are over.

    Writes `checkpoint.safetensors` and `loss.csv` into the folder, and the averaged network to
    `export` at each checkpoint.
    """
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        net = FaceNet(FaceConfig())
    take_over(net, load_landmark_net())
    patches = Patches(people, scenery, config.seed, stock=config.stock)

    def loss(images: Tensor, answer: Answer) -> tuple[Tensor, dict[str, Tensor]]:
        return loss_of(net(images.contiguous(memory_format=torch.channels_last)), answer)

    def save(averaged: FaceNet) -> None:
        if export is not None:
            save_face_net(averaged, export, head_metadata())

    return descend(
        net,
        FaceNet(net.config),
        [{"params": list(net.parameters())}],
        patches.twice(config.batch, generator=generator),
        loss,
        folder,
        config,
        generator=generator,
        minutes=minutes,
        save=save,
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m deca.train faces`."""
    parser.add_argument("--people", type=Path, default=Path("out/coded-people"))
    parser.add_argument("--count", type=int, default=0, help="render this many people first")
    parser.add_argument("--turned-people", type=Path, default=Path("out/turned-people"))
    parser.add_argument("--turned", type=int, default=0, help="render this many turned ones first")
    parser.add_argument("--pictures", type=Path, help="PNG photographs without faces")
    parser.add_argument("--export", type=Path, help="write the averaged network here as it learns")
    add_run_options(parser, FaceTraining, Path("out/faces"))


def run(options: argparse.Namespace) -> None:
    """Render if asked, train, ship if asked."""
    torch.set_num_threads(options.threads)
    if options.count or options.turned:
        studio = open_studio()
        render_people(studio, options.count, options.people, seed=options.seed)
        render_turned(studio, options.turned, options.turned_people, seed=options.seed)
    plain, turned = shards(options.people), shards(options.turned_people)
    people, unseen = RenderedPeople([*plain[1:], *turned[1:]]), [*plain[:1], *turned[:1]]
    config = FaceTraining(**chosen(options))
    scenery = Scenery(options.pictures, np.random.default_rng(config.seed))
    net = train(
        people, scenery, options.run, config, minutes=options.minutes, export=options.export
    )
    figures = held_out(net, RenderedPeople(unseen))
    log.info("held out: %s", figures)
    if options.ship:
        steps = last_step(options.run)
        recipe = f"--count {len(plain) * 400} --turned {len(turned) * 400} --batch {config.batch}"
        attribution = "trained on pictures of the shipped head, which is built from ICT-FaceKit"
        if options.pictures is not None:
            recipe += " --pictures DIR"
            attribution += f"; before pieces of the photographs in {_PICTURES}"
        register(
            name="faces",
            purpose="where the faces of a picture are, turned any way",
            licence="MIT",
            attribution=attribution,
            recipe=f"python -m deca.train faces {recipe} --steps {steps} --ship",
            files=save_face_net(net, PACKAGE / SHIPPED_FACES, head_metadata()),
            seed=config.seed,
            steps=steps,
            figures=figures,
        )
