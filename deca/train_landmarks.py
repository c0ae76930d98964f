"""Train the landmark network on pictures of random people.

The pictures are rendered once into a folder (`--people`), then framed, put before backgrounds and
degraded anew each time they are seen. Stopped runs go on from their last checkpoint.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from assets.files import replacing, sha256_of
from assets.store import PACKAGE, register
from assets.weights import read_tensors, write_tensors
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
from deca.synth_degrade import FramingConfig, cut, degrade, framing, on_background

log = logging.getLogger(__name__)

_SHARD = 400  # pictures a file
_TAKES = 6  # pictures a person
_HELD_OUT_SEED = 90_001


@dataclass(frozen=True)
class LandmarkTraining:
    """Settings of one run."""

    steps: int = 6000
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warm_up: int = 150
    ema: float = 0.998
    face_free: float = 0.10  # share of crops without a face
    backgrounds: int = 500  # kept at hand, one replaced a batch
    seed: int = 0
    save_every: int = 400


@dataclass(frozen=True, eq=False)
class People:
    """Rendered people, unframed."""

    rgba: UInt8[Tensor, "N H W 4"]
    points: Float[Tensor, "N L 2"]


def render_people(studio: Studio, count: int, folder: Path, *, seed: int) -> None:
    """Fill a folder with shards of pictures; shards that are there already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, _SHARD):
        path = folder / f"{seed:06d}-{first:07d}.npz"
        if path.is_file():
            continue
        shots = []
        for person in range(-(-_SHARD // _TAKES)):
            generator = torch.Generator().manual_seed((seed * 1000 + first) * 1000 + person)
            shots += studio.shoot(_TAKES, generator=generator)
        with replacing(path) as written:
            np.savez(
                written,
                rgba=np.stack([shot.rgba for shot in shots[:_SHARD]]),
                points=np.stack([shot.points.numpy() for shot in shots[:_SHARD]]),
            )
        log.info("rendered %d of %d pictures", first + _SHARD, count)


def read_people(folder: Path) -> People:
    """All shards of a folder, in the order of their names."""
    paths = sorted(path for path in folder.glob("*.npz") if not path.name.startswith("."))
    if not paths:
        raise ValueError(f"{folder} has no rendered people; give --count to render some")
    rgba, points = [], []
    for path in paths:
        with np.load(path, allow_pickle=False) as shard:
            rgba.append(torch.from_numpy(shard["rgba"]))
            points.append(torch.from_numpy(shard["points"]))
    return People(torch.cat(rgba), torch.cat(points))


class Crops:
    """Endless training batches from rendered people."""

    def __init__(
        self, people: People, points: LandmarkPoints, seed: int, backgrounds: int = 500
    ) -> None:
        self.people = people
        self._flip = points.flip
        self._rng = np.random.default_rng(seed)
        stock = [scene.random_background(CROP_SIDE, self._rng) for _ in range(backgrounds)]
        self._backgrounds = torch.from_numpy(np.stack(stock))
        self._fresh = 0

    def batch(
        self,
        size: int,
        face_free: float,
        *,
        generator: torch.Generator,
        config: FramingConfig | None = None,
    ) -> tuple[Float[Tensor, "B 3 K K"], Float[Tensor, "B L 2"], Float[Tensor, " B"]]:
        """Crops, their points in units of the crop's side, and 1 where there is a face."""
        index = torch.randint(len(self.people.rgba), (size,), generator=generator)
        people = self.people.rgba[index]
        is_face = (torch.rand(size, generator=generator) >= face_free).float()
        matrix, points = framing(
            self.people.points[index], config or FramingConfig(), flip=self._flip,
            generator=generator,
        )  # fmt: skip
        backs = self._draw_backgrounds(size, generator)
        empty = (is_face == 0).nonzero()[:, 0]
        if len(empty):
            half = len(empty) // 2
            # half are scenery, half pieces of people that miss the face
            people[empty[:half]] = 0
            matrix[empty[half:]] = self._beside(matrix[empty[half:]], generator)
        return degrade(cut(people, backs, matrix), generator=generator), points, is_face

    def ahead(
        self, size: int, face_free: float, *, generator: torch.Generator
    ) -> Generator[tuple[Tensor, Tensor, Tensor, Tensor], None, None]:
        """Batches made by a second thread while the last ones are learned from.

        The fourth item is the generator's state after the batch, for checkpoints.
        """
        waiting: Queue[tuple[Tensor, Tensor, Tensor, Tensor]] = Queue(maxsize=3)
        ended = Event()

        def work() -> None:
            while not ended.is_set():
                made = (*self.batch(size, face_free, generator=generator), generator.get_state())
                while not ended.is_set():
                    try:
                        waiting.put(made, timeout=0.5)
                        break
                    except Full:
                        continue

        worker = Thread(target=work, daemon=True)
        worker.start()
        try:
            while True:
                yield waiting.get(timeout=600)
        finally:
            ended.set()
            worker.join()

    def _draw_backgrounds(self, size: int, generator: torch.Generator) -> Tensor:
        # the stock turns over slowly, so that drawing costs little
        fresh = scene.random_background(CROP_SIDE, self._rng)
        self._backgrounds[self._fresh % len(self._backgrounds)] = torch.from_numpy(fresh.copy())
        self._fresh += 1
        chosen = torch.randint(len(self._backgrounds), (size,), generator=generator)
        backs = self._backgrounds[chosen]
        crowd = (torch.rand(size, generator=generator) < 0.08).nonzero()[:, 0]
        others = torch.randint(len(self.people.rgba), (len(crowd),), generator=generator)
        if len(crowd):
            # somebody else's hair and shirt around, enlarged so that no whole face shows
            pieces = self.people.rgba[others][..., :3]
            third = pieces.shape[1] // 3
            corner = pieces[:, -third:, :third].permute(0, 3, 1, 2).float()
            grown = torch.nn.functional.interpolate(corner, size=(CROP_SIDE, CROP_SIDE))
            backs[crowd] = grown.to(torch.uint8).permute(0, 2, 3, 1)
        return backs

    def _beside(self, matrix: Tensor, generator: torch.Generator) -> Tensor:
        """Crops moved by most of their side, away from the face."""
        angle = 2 * math.pi * torch.rand(len(matrix), generator=generator)
        reach = 0.62 + 0.3 * torch.rand(len(matrix), generator=generator)
        side = matrix[:, :, 0].norm(dim=1)
        offset = torch.stack([angle.cos(), angle.sin()], -1) * (reach * side)[:, None]
        moved = matrix.clone()
        moved[:, :, 2] += offset
        # smaller too, or the mirrored border would bring the face back
        center = moved[:, :, 2] + moved[:, :, :2].sum(2) / 2
        shrink = 0.45 + 0.3 * torch.rand(len(matrix), 1, 1, generator=generator)
        moved[:, :, :2] *= shrink
        moved[:, :, 2] = center - moved[:, :, :2].sum(2) / 2
        return moved


def point_weights(points: LandmarkPoints) -> Float[Tensor, " L"]:
    """Eyes, mouth and pupils count double."""
    weights = torch.ones(len(points))
    weights[36:68] = 2
    weights[-2:] = 2
    return weights


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
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(config.seed)
    torch_state = torch.Generator().manual_seed(config.seed)
    net, averaged = _fresh_net(points, torch_state), LandmarkNet(points)
    crops = Crops(people, points, config.seed, config.backgrounds)
    _, first_points, _ = crops.batch(min(1024, len(people.rgba)), 0.0, generator=generator)
    if start is None:
        net.start_at(first_points)
    else:
        net.load_state_dict(start.state_dict())
    averaged.load_state_dict(net.state_dict())
    optimizer = torch.optim.AdamW(_groups(net), weight_decay=config.weight_decay)
    checkpoint = folder / "checkpoint.safetensors"
    step, spent = 0, 0.0
    if checkpoint.is_file() or checkpoint.with_name(f"{checkpoint.name}.index.json").is_file():
        step, spent = _resume(checkpoint, net, averaged, optimizer, generator)
        log.info("going on from step %d", step)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = point_weights(points)
    started = time.monotonic() - spent
    net.train()
    batches = crops.ahead(config.batch, config.face_free, generator=generator)
    chance = generator.get_state()
    while step < config.steps:
        progress = step / config.steps
        if minutes is not None:
            progress = max(progress, (time.monotonic() - started) / 60 / minutes)
        if progress >= 1:
            break
        rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        rate *= min(1.0, (step + 1) / config.warm_up)
        for group in optimizer.param_groups:
            group["lr"] = max(rate, 1e-5) * group["share"]
        images, truth, is_face, chance = next(batches)
        images = images.contiguous(memory_format=torch.channels_last)
        loss, distance = loss_of(net, images, truth, is_face, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        step += 1
        _average(averaged, net, min(config.ema, (1 + step) / (10 + step)))
        if step % 20 == 0 or step == 1:
            pixels = float(distance) * CROP_SIDE
            row = [step, f"{loss.item():.4f}", f"{pixels:.3f}", f"{rate:.2e}"]
            with open(folder / "loss.csv", "a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow([*row, f"{time.monotonic() - started:.0f}"])
        if step % 100 == 0:
            speed = step * config.batch / (time.monotonic() - started)
            log.info("step %d loss %.3f, %.2f px, %.0f img/s", step, loss.item(), pixels, speed)
        if step % config.save_every == 0:
            _save(checkpoint, net, averaged, optimizer, step, time.monotonic() - started, chance)
            if export is not None:
                save_landmark_net(averaged, export, metadata or {})
    batches.close()
    _save(checkpoint, net, averaged, optimizer, step, time.monotonic() - started, chance)
    if export is not None:
        save_landmark_net(averaged, export, metadata or {})
    _draw_curve(folder)
    return averaged.eval()


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


@torch.no_grad()
def _average(averaged: LandmarkNet, net: LandmarkNet, keep: float) -> None:
    for name, value in averaged.state_dict().items():
        new = net.state_dict()[name]
        if value.is_floating_point():
            value.lerp_(new, 1 - keep)
        else:
            value.copy_(new)


def _save(
    path: Path,
    net: LandmarkNet,
    averaged: LandmarkNet,
    optimizer: torch.optim.Optimizer,
    step: int,
    spent: float,
    chance: Tensor,
) -> None:
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    tensors |= {f"averaged.{name}": value for name, value in averaged.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    tensors["chance"] = chance
    tensors["progress"] = torch.tensor([step, spent], dtype=torch.float64)
    write_tensors(tensors, path)


def _resume(
    path: Path,
    net: LandmarkNet,
    averaged: LandmarkNet,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> tuple[int, float]:
    """Put everything as it was; returns the step and the seconds spent."""
    tensors = read_tensors(path)

    def under(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    net.load_state_dict(under("net."))
    averaged.load_state_dict(under("averaged."))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in under("optimizer.").items():
        number, kind = name.split(".")
        moments.setdefault(int(number), {})[kind] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    generator.set_state(tensors["chance"])
    step, spent = tensors["progress"].tolist()
    return int(step), spent


def _draw_curve(folder: Path) -> None:
    """`loss.png` of `loss.csv`: the points' distance in crop pixels, logarithmic."""
    from PIL import Image, ImageDraw

    with open(folder / "loss.csv", encoding="utf-8") as file:
        rows = [(int(row[0]), float(row[2])) for row in csv.reader(file)]
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


def last_step(folder: Path) -> int:
    """How many steps the run in a folder has made."""
    with open(folder / "loss.csv", encoding="utf-8") as file:
        return max(int(row[0]) for row in csv.reader(file))


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


def head_metadata() -> dict[str, str]:
    """Which head file the network was trained on, for the record."""
    parts = sorted((PACKAGE / "head").glob("head*.safetensors*"))
    return {f"sha256 of {part.name}": sha256_of(part) for part in parts}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m deca.train landmarks`."""
    parser.add_argument("--people", type=Path, default=Path("out/people"), help="rendered people")
    parser.add_argument("--count", type=int, default=0, help="render this many first")
    parser.add_argument("--run", type=Path, default=Path("out/landmarks"), help="checkpoints")
    parser.add_argument("--steps", type=int, default=LandmarkTraining.steps)
    parser.add_argument("--batch", type=int, default=LandmarkTraining.batch)
    parser.add_argument("--rate", type=float, default=LandmarkTraining.learning_rate)
    parser.add_argument("--start", type=Path, help="go on from this network's weights")
    parser.add_argument("--minutes", type=float, help="stop in time, whatever the step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="beside the one that makes crops")
    parser.add_argument("--export", type=Path, help="write the averaged network here as it learns")
    parser.add_argument("--ship", action="store_true", help="write it under assets/ at the end")


def run(options: argparse.Namespace) -> None:
    """Render if asked, train, ship if asked."""
    torch.set_num_threads(options.threads)
    studio = open_studio()
    config = LandmarkTraining(
        steps=options.steps, batch=options.batch, learning_rate=options.rate, seed=options.seed
    )
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
