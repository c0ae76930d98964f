"""Train the encoder on pictures of random people with exact codes.

Pictures and codes are rendered once into a folder (`--count`), then framed, put before backgrounds
and degraded anew each time they are seen. It starts from the shipped landmark network. Stopped runs
go on from their last checkpoint.
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
from jaxtyping import Float
from torch import Tensor

from assets.files import replacing
from assets.store import PACKAGE, register
from assets.weights import read_tensors, write_tensors
from deca import synth_scene as scene
from deca.code_net import (
    SHIPPED_ENCODER,
    CodeAnswer,
    CodeConfig,
    CodeFlip,
    CodeNet,
    code_flip,
    save_code_net,
)
from deca.landmark_points import LandmarkPoints
from deca.landmarks import CROP_SIDE, load_landmark_net, negative_log_likelihood
from deca.synth import Studio, open_studio
from deca.synth_degrade import FramingConfig, cut, degrade, framing
from deca.train_landmarks import head_metadata, point_weights
from flame.light import sh_basis
from flame.model import Flame
from flame.params import arkit_from_params, params_from_arkit
from flame.rotation import axis_angle_to_matrix

log = logging.getLogger(__name__)

_SHARD = 400  # pictures a file
_TAKES = 2  # pictures a person: many people matter more than many pictures of each
_CODES = ("points", "shape", "weights", "root", "neck", "scale", "fov", "albedo", "light")
_FRAMING = FramingConfig(close_share=0.85, wide=(0.2, 0.08, 15.0))


@dataclass(frozen=True)
class CodeTraining:
    """Settings of one run."""

    steps: int = 12_000
    batch: int = 64
    learning_rate: float = 1.5e-3
    landmark_share: float = 0.25  # of the rate, for layers that are trained already
    weight_decay: float = 1e-4
    warm_up: int = 150
    ema: float = 0.998
    face_free: float = 0.05
    backgrounds: int = 500
    seed: int = 0
    save_every: int = 400


def render_people(studio: Studio, count: int, folder: Path, *, seed: int) -> None:
    """Fill a folder with shards of pictures and codes; shards that are there already are kept.

    A shard is NAME.npy (pictures, uint8 [N, H, W, 4], read in place) and NAME.npz (codes).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, _SHARD):
        path = folder / f"{seed:06d}-{first:07d}.npz"
        if path.is_file():
            continue
        rows: dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]] = {
            name: [] for name in _CODES
        }
        pictures = []
        for person in range(_SHARD // _TAKES):
            generator = torch.Generator().manual_seed((seed * 1000 + first) * 1000 + person)
            for shot in studio.shoot(_TAKES, generator=generator):
                codes = shot.codes
                pictures.append(shot.rgba)
                values = {
                    "points": shot.points,
                    "shape": codes.params.shape[0],
                    "weights": arkit_from_params(codes.params)[0],
                    "root": codes.params.root[0],
                    "neck": codes.params.neck[0],
                    "scale": codes.camera.scale[0],
                    "fov": codes.camera.fov_deg[0],
                    "albedo": codes.albedo[0],
                    "light": codes.light[0],
                }
                for name, value in values.items():
                    rows[name].append(value.numpy())
        with replacing(path.with_suffix(".npy")) as written, open(written, "wb") as file:
            np.save(file, np.stack(pictures))
        with replacing(path) as written, open(written, "wb") as file:
            np.savez(file, allow_pickle=False, **{n: np.stack(v) for n, v in rows.items()})
        log.info("rendered %d of %d pictures", first + _SHARD, count)


class People:
    """Rendered people with their codes; pictures stay on disk until they are looked at."""

    def __init__(self, folder: Path, shards: slice = slice(None)) -> None:
        paths = sorted(path for path in folder.glob("*.npz") if "tmp" not in path.name)[shards]
        if not paths:
            raise ValueError(f"{folder} has no rendered people; give --count to render some")
        self._pictures = [np.load(path.with_suffix(".npy"), mmap_mode="r") for path in paths]
        self._starts = np.cumsum([0, *(len(pictures) for pictures in self._pictures)])
        rows: dict[str, list[Tensor]] = {name: [] for name in _CODES}
        for path in paths:
            with np.load(path, allow_pickle=False) as shard:
                for name in _CODES:
                    rows[name].append(torch.from_numpy(shard[name]).float())
        self.codes = {name: torch.cat(values) for name, values in rows.items()}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def pictures(self, index: Tensor) -> Tensor:
        """RGBA pictures of these numbers [N, H, W, 4]."""
        shard = np.searchsorted(self._starts, index.numpy(), side="right") - 1
        found = [
            self._pictures[s][int(i) - int(self._starts[s])]
            for s, i in zip(shard, index, strict=True)
        ]
        return torch.from_numpy(np.stack(found))


@dataclass(frozen=True, eq=False)
class Truth:
    """What the network should answer to crops."""

    points: Float[Tensor, "B L 2"]  # crop units
    is_face: Float[Tensor, " B"]
    shape: Float[Tensor, "B S"]
    weights: Float[Tensor, "B 52"]
    rotation: Float[Tensor, "B 3 3"]
    nearness: Float[Tensor, " B"]
    albedo: Float[Tensor, "B A"]
    light: Float[Tensor, "B 9 3"]


class Crops:
    """Endless training batches from rendered people."""

    def __init__(
        self, people: People, points: LandmarkPoints, flip: CodeFlip, seed: int, backgrounds: int
    ) -> None:
        self.people = people
        self._points_flip, self._flip = points.flip, flip
        self._rng = np.random.default_rng(seed)
        stock = [scene.random_background(CROP_SIDE, self._rng) for _ in range(backgrounds)]
        self._backgrounds = torch.from_numpy(np.stack(stock))
        self._fresh = 0

    def batch(
        self, size: int, face_free: float, *, generator: torch.Generator
    ) -> tuple[Float[Tensor, "B 3 K K"], Truth]:
        """Crops and what is to be said of them."""
        index = torch.randint(len(self.people), (size,), generator=generator)
        pictures = self.people.pictures(index)
        codes = {name: values[index] for name, values in self.people.codes.items()}
        is_face = (torch.rand(size, generator=generator) >= face_free).float()
        matrix, points = framing(
            codes["points"], _FRAMING, flip=self._points_flip, generator=generator
        )
        fresh = scene.random_background(CROP_SIDE, self._rng)
        self._backgrounds[self._fresh % len(self._backgrounds)] = torch.from_numpy(fresh.copy())
        self._fresh += 1
        chosen = torch.randint(len(self._backgrounds), (size,), generator=generator)
        pictures[is_face == 0] = 0
        crops = degrade(cut(pictures, self._backgrounds[chosen], matrix), generator=generator)
        return crops, Truth(points, is_face, *self._turned(codes, matrix))

    def _turned(self, codes: dict[str, Tensor], matrix: Tensor) -> tuple[Tensor, ...]:
        """Codes as the crop's own camera has them: turned with it, and mirrored where it is."""
        mirrored = torch.linalg.det(matrix[:, :, :2]) < 0
        right = torch.where(mirrored[:, None], -matrix[:, :, 0], matrix[:, :, 0])
        angle = torch.atan2(right[:, 1], right[:, 0])
        zero = torch.zeros_like(angle)
        # a crop that is turned clockwise sees the world turned counter-clockwise, y up
        turn = axis_angle_to_matrix(torch.stack([zero, zero, angle], -1))
        head = axis_angle_to_matrix(codes["root"]) @ axis_angle_to_matrix(codes["neck"])
        rotation = turn @ head
        light = torch.einsum("bij,bjc->bic", _turn_light(turn), codes["light"])
        side = torch.tensor([-1.0, 1.0, 1.0])
        nearness = codes["scale"] * torch.tan(torch.deg2rad(codes["fov"]) / 2)
        flip = self._flip
        both = mirrored[:, None]
        return (
            torch.where(both, codes["shape"] @ flip.shape.T, codes["shape"]),
            torch.where(both, codes["weights"][:, flip.weights], codes["weights"]),
            torch.where(both[..., None], rotation * side[:, None] * side, rotation),
            nearness,
            codes["albedo"],
            torch.where(both[..., None], light * flip.light[:, None], light),
        )

    def ahead(
        self, size: int, face_free: float, *, generator: torch.Generator
    ) -> Generator[tuple[Tensor, Truth, Tensor], None, None]:
        """Batches made by a second thread, each with the generator's state after it."""
        waiting: Queue[tuple[Tensor, Truth, Tensor]] = Queue(maxsize=3)
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


def _turn_light(turn: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 9 9"]:
    """Matrices that turn spherical harmonics with the scene, by least squares on directions."""
    generator = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(64, 3, generator=generator), dim=1)
    matrix: Tensor = torch.linalg.pinv(sh_basis(normals)) @ sh_basis(normals @ turn)
    return matrix


@dataclass(frozen=True, eq=False)
class Metric:
    """What errors of codes mean on the face's surface."""

    shape: Float[Tensor, "S S"]  # squared mm, without what a similarity makes up for
    weights: Float[Tensor, "W W"]  # squared mm


def face_metric(flame: Flame, points: LandmarkPoints, n_shape: int) -> Metric:
    """Quadratic forms of mean squared distance over the face's dense points."""
    verts = points.verts[:-2]
    rest = flame.template[verts].double()
    centred = rest - rest.mean(0)
    moves = [torch.eye(3).double()[axis].expand(len(rest), 3) for axis in range(3)]
    moves += [
        torch.linalg.cross(torch.eye(3).double()[a].expand_as(rest), centred) for a in (0, 1, 2)
    ]
    moves.append(centred)
    free, _ = torch.linalg.qr(torch.stack(moves).flatten(1).T)
    basis = flame.shapedirs[:n_shape][:, verts].double().flatten(1).T * 1e3  # [3D, S] mm
    basis = basis - free @ (free.T @ basis)
    still = params_from_arkit(
        torch.zeros(53, n_shape), torch.cat([torch.zeros(1, 52), torch.eye(52)])
    )
    posed = flame(still).verts[:, verts].double() * 1e3
    ways = (posed[1:] - posed[:1]).flatten(1)
    count = len(verts)
    return Metric((basis.T @ basis / count).float(), (ways @ ways.T / count).float())


def loss_of(
    net: CodeNet, crops: Tensor, truth: Truth, weights: Tensor, metric: Metric
) -> tuple[Tensor, dict[str, Tensor], CodeAnswer]:
    """Training loss, and figures: points in crop units, identity and expression in mm."""
    answer = net(crops)
    count = truth.is_face.sum().clamp(min=1)

    def mean(value: Tensor) -> Tensor:
        return (value * truth.is_face).sum() / count

    likelihood = mean(negative_log_likelihood(answer.landmarks, truth.points, weights))
    distance = (answer.landmarks.mean - truth.points).norm(dim=-1)
    points = mean((distance * weights).sum(1) / weights.sum())
    face = torch.nn.functional.binary_cross_entropy_with_logits(
        answer.landmarks.face_logit, truth.is_face
    )
    off = answer.shape - truth.shape[:, : answer.shape.shape[1]]
    identity = mean(torch.einsum("bs,st,bt->b", off, metric.shape, off))
    off_weights = answer.weights - truth.weights
    expression = mean(torch.einsum("bs,st,bt->b", off_weights, metric.weights, off_weights))
    turn = mean((answer.rotation - truth.rotation).square().sum((1, 2)))
    scale = torch.split(net.out_scale, net.sizes())
    nearness = mean(((answer.nearness - truth.nearness) / scale[3]).square())
    albedo = mean((answer.albedo - truth.albedo).square().mean(1))
    light = (answer.light - truth.light).flatten(1) / scale[5]
    light_loss = mean(light.square().clamp(max=25).mean(1))
    loss = (
        likelihood
        + 20 * points
        + 0.5 * face
        + 0.5 * identity
        + 0.1 * mean(off.square().mean(1))
        + 0.15 * expression
        + 2.0 * mean(off_weights.square().mean(1))
        + 12 * turn
        + 0.2 * nearness
        + 0.5 * albedo
        + 0.3 * light_loss
    )
    figures = {
        "points": points.detach(),
        "identity": identity.detach(),
        "expression": expression.detach(),
        "turn": turn.detach(),
        "albedo": albedo.detach(),
        "light": light_loss.detach(),
    }
    return loss, figures, answer


def start_at(net: CodeNet, people: People) -> None:
    """Let the untrained regressor answer the mean of the labels, and move by their spread."""
    codes = people.codes
    shape = torch.zeros(net.config.n_shape)
    albedo, light = codes["albedo"], codes["light"].flatten(1)
    nearness = codes["scale"] * torch.tan(torch.deg2rad(codes["fov"]) / 2)
    mean = [shape, codes["weights"].mean(0), torch.tensor([1.0, 0, 0, 0, 1, 0])]
    mean += [nearness.mean()[None], albedo.mean(0), light.mean(0)]
    spread = [
        torch.ones_like(shape),
        codes["weights"].std(0).clamp(min=0.05),
        torch.full((6,), 0.3),
    ]
    spread += [nearness.std()[None], albedo.std(0).clamp(min=0.1), light.std(0).clamp(min=0.05)]
    net.out_mean.copy_(torch.cat(mean))
    net.out_scale.copy_(torch.cat(spread))


def train(
    people: People,
    flame: Flame,
    folder: Path,
    config: CodeTraining,
    *,
    minutes: float | None = None,
    start: CodeNet,
    export: Path | None = None,
) -> CodeNet:
    """The averaged network after `config.steps`, or when `minutes` of this run are over.

    Writes `checkpoint.safetensors` and `loss.csv` into the folder, and the averaged network to
    `export` at each checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(config.seed)
    net, points = start, start.landmarks.points
    averaged = CodeNet(load_landmark_net(), net.config)
    flip = code_flip(flame, points, flame.n_shape)
    crops = Crops(people, points, flip, config.seed, config.backgrounds)
    averaged.load_state_dict(net.state_dict())
    optimizer = torch.optim.AdamW(_groups(net, config), weight_decay=config.weight_decay)
    checkpoint = folder / "checkpoint.safetensors"
    step, spent = 0, 0.0
    if checkpoint.is_file() or checkpoint.with_name(f"{checkpoint.name}.index.json").is_file():
        step, spent = _resume(checkpoint, net, averaged, optimizer, generator)
        log.info("going on from step %d", step)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights, metric = point_weights(points), face_metric(flame, points, net.config.n_shape)
    started = time.monotonic() - spent
    net.train()
    batches = crops.ahead(config.batch, config.face_free, generator=generator)
    chance, first = generator.get_state(), step
    while step < config.steps:
        progress = step / config.steps
        if minutes is not None:
            progress = max(progress, (time.monotonic() - started) / 60 / minutes)
        if progress >= 1:
            break
        rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        rate = max(rate * min(1.0, (step + 1) / config.warm_up), 1e-5)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        images, truth, chance = next(batches)
        images = images.contiguous(memory_format=torch.channels_last)
        loss, figures, _ = loss_of(net, images, truth, weights, metric)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        step += 1
        _average(averaged, net, min(config.ema, (1 + step) / (10 + step)))
        if step % 20 == 0 or step == 1:
            row = [f"{float(value):.4f}" for value in figures.values()]
            with open(folder / "loss.csv", "a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                if step == 1:
                    writer.writerow(["step", "loss", *figures, "rate", "seconds"])
                seconds = f"{time.monotonic() - started:.0f}"
                writer.writerow([step, f"{loss.item():.4f}", *row, f"{rate:.2e}", seconds])
        if step % 100 == 0:
            speed = (step - first) * config.batch / (time.monotonic() - started - spent)
            text = ", ".join(f"{name} {float(value):.4f}" for name, value in figures.items())
            log.info("step %d loss %.3f, %s, %.0f img/s", step, loss.item(), text, speed)
        if step % config.save_every == 0:
            _save(checkpoint, net, averaged, optimizer, step, time.monotonic() - started, chance)
            if export is not None:
                save_code_net(averaged, export, head_metadata())
    batches.close()
    _save(checkpoint, net, averaged, optimizer, step, time.monotonic() - started, chance)
    if export is not None:
        save_code_net(averaged, export, head_metadata())
    return averaged.eval()


def _groups(net: CodeNet, config: CodeTraining) -> list[dict[str, object]]:
    """Parameters and their share of the rate; what is trained already moves less."""
    old = net.landmarks
    slow = [*old.mean_head.parameters(), *old.sigma_head.parameters(), *old.code_head.parameters()]
    still = {id(parameter) for parameter in slow}
    trained = [parameter for parameter in old.parameters() if id(parameter) not in still]
    new = [*net.trunk.parameters(), *net.mixer.parameters()]
    return [
        {"params": new, "share": 1.0},
        {"params": [*net.head.parameters()], "share": 0.3},
        {"params": trained, "share": config.landmark_share},
        {"params": slow, "share": 0.02},
    ]


@torch.no_grad()
def _average(averaged: CodeNet, net: CodeNet, keep: float) -> None:
    new = net.state_dict()
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            value.lerp_(new[name], 1 - keep)
        else:
            value.copy_(new[name])


def _save(
    path: Path,
    net: CodeNet,
    averaged: CodeNet,
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
    net: CodeNet,
    averaged: CodeNet,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> tuple[int, float]:
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


@torch.no_grad()
def held_out(
    net: CodeNet, people: People, flame: Flame, *, batches: int = 12, seed: int = 90_002
) -> dict[str, float]:
    """Figures on people never trained on, and the residuals that become a refinement's prior."""
    points = net.landmarks.points
    flip = code_flip(flame, points, flame.n_shape)
    crops = Crops(people, points, flip, seed, 60)
    metric = face_metric(flame, points, net.config.n_shape)
    generator = torch.Generator().manual_seed(seed)
    shape, weights, nearly, total = [], [], [], []
    figures: list[dict[str, Tensor]] = []
    was_training = net.training
    net.eval()
    for _ in range(batches):
        images, truth = crops.batch(64, 0.0, generator=generator)
        _, found, answer = loss_of(net, images, truth, point_weights(points), metric)
        figures.append(found)
        off = answer.shape - truth.shape[:, : answer.shape.shape[1]]
        shape.append(off)
        weights.append(answer.weights.clamp(0, 1) - truth.weights)
        nearly.append(torch.einsum("bs,st,bt->b", off, metric.shape, off).sqrt())
        own = truth.shape[:, : answer.shape.shape[1]]
        total.append(torch.einsum("bs,st,bt->b", own, metric.shape, own).sqrt())
    if was_training:
        net.train()
    net.shape_sigma.copy_(torch.cat(shape).square().mean(0).sqrt())
    net.weight_sigma.copy_(torch.cat(weights).square().mean(0).sqrt())
    result = {k: float(torch.stack([f[k] for f in figures]).mean()) for k in figures[0]}
    result["points, crop px"] = result.pop("points") * CROP_SIDE
    result["identity over the mean face"] = float(
        torch.cat(nearly).mean() / torch.cat(total).mean()
    )
    return result


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m deca.train codes`."""
    parser.add_argument("--people", type=Path, default=Path("out/coded-people"))
    parser.add_argument("--count", type=int, default=0, help="render this many first")
    parser.add_argument("--run", type=Path, default=Path("out/codes"), help="checkpoints")
    parser.add_argument("--steps", type=int, default=CodeTraining.steps)
    parser.add_argument("--batch", type=int, default=CodeTraining.batch)
    parser.add_argument("--rate", type=float, default=CodeTraining.learning_rate)
    parser.add_argument("--minutes", type=float, help="stop in time, whatever the step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="beside the one that makes crops")
    parser.add_argument("--export", type=Path, help="write the averaged network here as it learns")
    parser.add_argument("--ship", action="store_true", help="write it under assets/ at the end")


def run(options: argparse.Namespace) -> None:
    """Render if asked, train, ship if asked."""
    torch.set_num_threads(options.threads)
    studio = open_studio()
    if options.count:
        render_people(studio, options.count, options.people, seed=options.seed)
    people, unseen = People(options.people, slice(1, None)), People(options.people, slice(0, 1))
    config = CodeTraining(
        steps=options.steps, batch=options.batch, learning_rate=options.rate, seed=options.seed
    )
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        net = CodeNet(load_landmark_net(studio.flame), CodeConfig())
    start_at(net, people)
    net = train(
        people, studio.flame, options.run, config, minutes=options.minutes, start=net,
        export=options.export,
    )  # fmt: skip
    figures = {k: round(v, 4) for k, v in held_out(net, unseen, studio.flame).items()}
    log.info("held out: %s", figures)
    if options.export is not None:
        save_code_net(net, options.export, head_metadata())
    if options.ship:
        files = save_code_net(net, PACKAGE / SHIPPED_ENCODER, head_metadata())
        register(
            name="encoder",
            purpose="a portrait's codes in one pass: identity, expression, turn, albedo, light",
            licence="MIT",
            attribution="trained on pictures of the shipped head, which is built from ICT-FaceKit",
            recipe=f"python -m deca.train codes --count {len(people)} --steps {config.steps}",
            files=files,
            seed=config.seed,
            steps=config.steps,
            figures=figures,
        )
