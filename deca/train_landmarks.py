"""Train the landmark network on pictures of random people.

The pictures are rendered once into a folder (`--people`), then framed, put before backgrounds and
degraded anew each time they are seen. Stopped runs go on from their last checkpoint.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from assets.files import replacing
from assets.store import PACKAGE, register
from deca import synth_scene as scene
from deca.landmark_points import LandmarkPoints
from deca.landmarks import (
    CROP_SIDE,
    SHIPPED_LANDMARKS,
    LandmarkNet,
    load_landmark_net,
    negative_log_likelihood,
    save_landmark_net,
)
from deca.synth import Studio, open_studio
from deca.synth_degrade import degrade, on_background
from deca.train_landmarks_data import Crops, People, read_people, render_people
from deca.training import head_metadata, last_step, point_weights
from deca.training_loop import TrainingConfig, add_run_options, chosen, descend

log = logging.getLogger(__name__)

_HELD_OUT_SEED = 90_001


@dataclass(frozen=True)
class LandmarkTraining(TrainingConfig):
    """Settings of one run."""

    steps: int = 6000
    face_free: float = 0.10  # share of crops without a face
    backgrounds: int = 500  # kept at hand, one replaced a batch


def loss_of(
    net: LandmarkNet, crops: Tensor, points: Tensor, is_face: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Training loss, and the mean distance of the faces' points in units of the crop."""
    answer = net(crops)
    count = is_face.sum().clamp(min=1)
    likelihood = (negative_log_likelihood(answer, points, weights) * is_face).sum() / count
    distance = (answer.mean - points).norm(dim=-1)
    # plain distances pull in the beginning, when the likelihood still blames its sigmas
    mean_distance = ((distance * weights).sum(1) / weights.sum() * is_face).sum() / count
    face = torch.nn.functional.binary_cross_entropy_with_logits(answer.face_logit, is_face)
    return likelihood + 20 * mean_distance + 0.5 * face, mean_distance.detach()


def train(
    people: People,
    points: LandmarkPoints,
    folder: Path,
    config: LandmarkTraining,
    *,
    minutes: float | None = None,
    start: LandmarkNet | None = None,
    export: Path | None = None,
    metadata: dict[str, str] | None = None,
) -> LandmarkNet:
    """The averaged network after `config.steps`, or when `minutes` are over.

    Writes `checkpoint.safetensors`, `loss.csv` and `loss.png` into the folder, and the averaged
    network to `export` at each checkpoint. `start` is a trained network to go on from. With
    `minutes` the schedule follows the clock where that is ahead of the steps.
    """
    generator = torch.Generator().manual_seed(config.seed)
    torch_state = torch.Generator().manual_seed(config.seed)
    net, averaged = _fresh_net(points, torch_state), LandmarkNet(points)
    crops = Crops(people, points, config.seed, config.backgrounds)
    _, first_points, _ = crops.batch(min(1024, len(people.rgba)), 0.0, generator=generator)
    if start is None:
        net.start_at(first_points)
    else:
        net.load_state_dict(start.state_dict())
    weights = point_weights(points)

    def loss(images: Tensor, truth: Tensor, is_face: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        images = images.contiguous(memory_format=torch.channels_last)
        loss, distance = loss_of(net, images, truth, is_face, weights)
        return loss, {"points, px": distance * CROP_SIDE}

    def save(averaged: LandmarkNet) -> None:
        if export is not None:
            save_landmark_net(averaged, export, metadata or {})

    descend(
        net,
        averaged,
        _groups(net),
        lambda: crops.batch(config.batch, config.face_free, generator=generator),
        loss,
        folder,
        config,
        generator=generator,
        minutes=minutes,
        save=save,
    )
    _draw_curve(folder)
    return averaged


def _groups(net: LandmarkNet) -> list[dict[str, object]]:
    """Parameters and their share of the learning rate.

    One step of Adam changes all weights alike, and these heads sum over many: at the full rate
    their outputs would jump by several pixels a step.
    """
    heads = [*net.mean_head.parameters()]
    sigmas = [*net.sigma_head.parameters(), *net.code_head.parameters()]
    slow = {id(parameter) for parameter in [*heads, *sigmas]}
    rest = [parameter for parameter in net.parameters() if id(parameter) not in slow]
    return [
        {"params": rest, "share": 1.0},
        {"params": sigmas, "share": 0.3},
        {"params": heads, "share": 0.02},
    ]


def _fresh_net(points: LandmarkPoints, generator: torch.Generator) -> LandmarkNet:
    """A network whose weights depend on the generator alone."""
    net = LandmarkNet(points)
    with torch.no_grad():
        for module in net.modules():
            if (
                isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
                and module.weight.abs().max() > 0
            ):
                fan_in = module.weight[0].numel()
                noise = torch.randn(module.weight.shape, generator=generator)
                module.weight.copy_(noise * math.sqrt(2 / fan_in))
                if module.bias is not None and module is not net.sigma_head:
                    module.bias.zero_()
    return net


def _draw_curve(folder: Path) -> None:
    """`loss.png` of `loss.csv`: the points' distance in crop pixels, logarithmic."""
    from PIL import Image, ImageDraw

    with open(folder / "loss.csv", encoding="utf-8") as file:
        rows = [(int(row["step"]), float(row["points, px"])) for row in csv.DictReader(file)]
    width, height = 640, 320
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    last = max(step for step, _ in rows)
    for pixels in (1, 2, 4, 8, 16):
        y = height - 20 - (math.log2(pixels) + 1) * 52
        draw.line((40, y, width, y), fill=(220, 220, 220))
        draw.text((4, y - 6), f"{pixels} px", fill="black")
    line = [
        (40 + (width - 50) * step / last, height - 20 - (math.log2(max(px, 0.5)) + 1) * 52)
        for step, px in rows
    ]
    draw.line(line, fill=(30, 90, 200), width=2)
    draw.text((width / 2, height - 15), f"{last} steps", fill="black")
    with replacing(folder / "loss.png") as written:
        image.save(written)


@torch.no_grad()
def held_out_error(net: LandmarkNet, studio: Studio, count: int = 300) -> dict[str, float]:
    """Errors on new people, per cent of the distance between the outer eye corners.

    The face's box is off at random, as a detector's is; pictures are degraded as in training.
    """
    generator = torch.Generator().manual_seed(_HELD_OUT_SEED)
    rng = np.random.default_rng(_HELD_OUT_SEED)
    errors, errors68, standard = [], [], []
    for person in range(count // 2):
        for shot in studio.shoot(2, generator=generator):
            back = torch.from_numpy(scene.random_background(len(shot.rgba), rng))
            image = on_background(torch.from_numpy(shot.rgba)[None], back[None])
            image = degrade(image, generator=generator)
            low, high = shot.points.amin(0), shot.points.amax(0)
            jitter = (high - low).max() * 0.06 * torch.randn(4, generator=generator)
            found = net.predict(image, torch.cat([low, high]) + jitter)
            # seen from the side the picture's distance shrinks; the head's own does not
            apart = (shot.points[45] - shot.points[36]).norm() / max(
                math.cos(math.radians(float(shot.attributes["yaw"]))), 0.3
            )
            off68 = (found.points68[0] - shot.points[:68]).norm(dim=1)
            off = (found.points[0] - shot.points[68:]).norm(dim=1)
            errors68.append(100 * float(off68.mean() / apart))
            errors.append(100 * float(off.mean() / apart))
            standard.append(float((off / found.sigmas[0]).square().mean() / 2))
        if person % 50 == 0:
            log.info("held-out person %d", person)
    return {
        "nme68 mean": float(np.mean(errors68)),
        "nme68 median": float(np.median(errors68)),
        "nme dense mean": float(np.mean(errors)),
        "nme dense median": float(np.median(errors)),
        "squared error over sigma squared, median": float(np.median(standard)),
    }


def ship(net: LandmarkNet, config: LandmarkTraining, steps: int, studio: Studio) -> None:
    """Write the network under `assets/` and enter it into the manifest with its figures."""
    figures = {name: round(value, 3) for name, value in held_out_error(net, studio).items()}
    files = save_landmark_net(net, PACKAGE / SHIPPED_LANDMARKS, head_metadata())
    register(
        name="landmarks",
        purpose="points of a face in a photo, each with its uncertainty",
        licence="MIT",
        attribution="trained on pictures of the shipped head, which is built from ICT-FaceKit",
        recipe=f"python -m deca.train landmarks --count 10400 --steps {steps} --ship",
        files=files,
        seed=config.seed,
        steps=steps,
        figures=figures,
    )
    log.info("shipped: %s", figures)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m deca.train landmarks`."""
    parser.add_argument("--people", type=Path, default=Path("out/people"), help="rendered people")
    parser.add_argument("--count", type=int, default=0, help="render this many first")
    parser.add_argument("--start", type=Path, help="go on from this network's weights")
    parser.add_argument("--export", type=Path, help="write the averaged network here as it learns")
    add_run_options(parser, LandmarkTraining, Path("out/landmarks"))


def run(options: argparse.Namespace) -> None:
    """Render if asked, train, ship if asked."""
    torch.set_num_threads(options.threads)
    studio = open_studio()
    config = LandmarkTraining(**chosen(options))
    if options.count:
        render_people(studio, options.count, options.people, seed=options.seed)
    net = train(
        read_people(options.people),
        studio.points,
        options.run,
        config,
        minutes=options.minutes,
        start=load_landmark_net(path=options.start) if options.start else None,
        export=options.export,
        metadata=head_metadata(),
    )
    if options.ship:
        ship(net, config, last_step(options.run), studio)
