"""Train the encoder on pictures of random people with exact codes.

Pictures and codes are rendered once into a folder (`--count`), then framed, put before backgrounds
and degraded anew each time they are seen. It starts from the shipped landmark network. Stopped runs
go on from their last checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assets.store import PACKAGE, register
from deca.code_net import (
    CODE_SIDE,
    SHIPPED_ENCODER,
    CodeAnswer,
    CodeConfig,
    CodeNet,
    code_flip,
    load_code_net,
    normal_points,
    save_code_net,
)
from deca.code_net_grow import grown
from deca.exposure import skin_samples
from deca.landmark_points import LandmarkPoints
from deca.landmarks import LandmarkNet, load_landmark_net, negative_log_likelihood
from deca.synth import open_studio
from deca.train_codes_data import (
    PEOPLE_FREE_SHARE,
    PEOPLE_VIEW,
    Crops,
    People,
    Truth,
    framed_points,
    render_people,
    without_exposure,
)
from deca.training import head_metadata, point_weights
from deca.training_loop import TrainingConfig, add_run_options, chosen, descend
from flame.model import Flame
from flame.normals import vertex_normals
from flame.params import params_from_arkit

log = logging.getLogger(__name__)

_POINT_NOISE = 0.015  # of the points' spread
# of squared errors in all directions, and once more of those along the normal
_ALONG_SHARE, _OUTWARD_SHARE = 0.3, 1.8


@dataclass(frozen=True)
class CodeTraining(TrainingConfig):
    """Settings of one run."""

    steps: int = 12_000
    learning_rate: float = 1.5e-3
    trained_share: float = 0.6  # of the rate, for layers that are trained already
    face_free: float = 0.05
    backgrounds: int = 500
    # of the crops, beside those that come by chance: drawn faces are livelier than people's are
    still_share: float = 0.3
    # and such as pull one of the 52 shapes, all shapes alike often: puffed cheeks and crooked
    # mouths are rare, and a network that seldom sees them says that there are none
    even_share: float = 0.35
    halves: bool = False  # filters in bfloat16, on processors that have it


@dataclass(frozen=True, eq=False)
class Metric:
    """What errors of codes mean on the face's surface."""

    shape: Float[Tensor, "S S"]  # weighted squared mm, without what a similarity makes up for
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
    # what is seen of an identity, and what scans tell, is more where the surface lies than where
    # along it a vertex does
    out = vertex_normals(flame.template[None], flame.topology.faces())[0, verts].double()
    along = torch.einsum("vc,vcs->vs", out, basis.view(len(verts), 3, -1))
    across = _ALONG_SHARE * basis.T @ basis + _OUTWARD_SHARE * along.T @ along
    still = params_from_arkit(
        torch.zeros(53, n_shape), torch.cat([torch.zeros(1, 52), torch.eye(52)])
    )
    posed = flame(still).verts[:, verts].double() * 1e3
    ways = (posed[1:] - posed[:1]).flatten(1)
    count = len(verts)
    return Metric((across / count).float(), (ways @ ways.T / count).float())


def loss_of(
    net: CodeNet, answer: CodeAnswer, truth: Truth, weights: Tensor, metric: Metric
) -> tuple[Tensor, dict[str, Tensor]]:
    """Training loss, and figures: points in crop units, identity and expression in mm squared."""
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
    off_shape = torch.einsum("bs,st,bt->b", off, metric.shape, off)
    identity = mean(off_shape)
    off_weights = answer.weights - truth.weights
    off_face = torch.einsum("bs,st,bt->b", off_weights, metric.weights, off_weights)
    expression = mean(off_face)
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
        # squares mend what is far off; distances keep a still face still. Most of an identity
        # cannot be seen, and what cannot be learnt must not drown what can: lids and lips
        + 0.1 * identity
        + 0.6 * mean((off_shape + 0.1).sqrt())
        + 0.1 * mean(off.square().mean(1))
        + 0.1 * expression
        + 1.0 * mean((off_face + 0.05).sqrt())
        + 40.0 * mean(off_weights.square().mean(1))
        + 12 * turn
        + 0.2 * nearness
        + 0.7 * albedo
        + 0.5 * light_loss
    )
    figures = {
        "points": points.detach(),
        "identity": identity.detach(),
        "expression": expression.detach(),
        "turn": turn.detach(),
        "albedo": albedo.detach(),
        "light": light_loss.detach(),
    }
    return loss, figures


def untrained(landmarks: LandmarkNet) -> CodeNet:
    """A network for tight crops whose first filters are those of a landmark network."""
    config = dataclasses.replace(landmarks.config, blocks=(1, 2, 2, 1), side=CODE_SIDE)
    net = CodeNet(LandmarkNet(landmarks.points, config), CodeConfig())
    given = {
        name: value
        for name, value in landmarks.backbone.state_dict().items()
        if name in net.landmarks.backbone.state_dict()
    }
    net.landmarks.backbone.load_state_dict(given, strict=False)
    # blocks that are new change nothing at first
    for name, module in net.landmarks.backbone.named_modules():
        if name.endswith(".second") and f"{name}.1.weight" not in given:
            nn.init.zeros_(module[1].weight)
    return net


def start_at(net: CodeNet, people: People, *, generator: torch.Generator) -> None:
    """Let the untrained regressor answer the mean of the labels, and move by their spread."""
    codes = people.codes
    shape = torch.zeros(net.config.n_shape)
    albedo = codes["albedo"]
    nearness = codes["scale"] * torch.tan(torch.deg2rad(codes["fov"]) / 2)
    light = without_exposure(codes["light"]).flatten(1)
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
    points = framed_points(people, net.landmarks.points, generator=generator)
    net.landmarks.start_at(points)
    normal = normal_points(points).double()
    net.point_mean.copy_(normal.mean(0))
    offset = normal - net.point_mean
    variance, axes = torch.linalg.eigh(offset.T @ offset / len(offset))
    # below the network's own error axes are noise and stay small
    scaled = axes / (variance.clamp(min=0) + _POINT_NOISE**2).sqrt()
    net.point_axes.copy_(scaled.flip(1)[:, : net.config.rank])


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
    generator = torch.Generator().manual_seed(config.seed)
    net, points = start, start.landmarks.points
    averaged = CodeNet(LandmarkNet(points, net.landmarks.config), net.config)
    flip = code_flip(flame, points, flame.n_shape)
    crops = Crops(
        people, points, flip, net.side, config.seed, config.backgrounds, config.still_share
    )
    averaged.skin = net.skin
    weights, metric = point_weights(points), face_metric(flame, points, net.config.n_shape)

    def loss(images: Tensor, truth: Truth) -> tuple[Tensor, dict[str, Tensor]]:
        images = images.contiguous(memory_format=torch.channels_last)
        # coordinates need all their digits, filters do not
        with torch.autocast(images.device.type, torch.bfloat16, enabled=config.halves):
            features = net.landmarks.backbone(images * 2 - 1)
        return loss_of(net, net.read(features.float(), images), truth, weights, metric)

    def save(averaged: CodeNet) -> None:
        if export is not None:
            save_code_net(averaged, export, head_metadata())

    return descend(
        net,
        averaged,
        _groups(net, config),
        lambda: crops.batch(config.batch, config.face_free, generator=generator),
        loss,
        folder,
        config,
        generator=generator,
        minutes=minutes,
        save=save,
    )


def _groups(net: CodeNet, config: CodeTraining) -> list[dict[str, object]]:
    """Parameters and their share of the rate; what is trained already moves less."""
    points = net.landmarks
    trained = [*points.backbone.parameters(), *points.neck.parameters()]
    # its columns are the labels' own axes already
    slow = [*points.mean_head.parameters()]
    last = [net.head, net.tones[-1], points.code_head, points.sigma_head, points.face_head]
    answers = [parameter for layer in last for parameter in layer.parameters()]
    old = {id(parameter) for parameter in (*trained, *slow, *answers)}
    new = [parameter for parameter in net.parameters() if id(parameter) not in old]
    return [
        {"params": new, "share": 1.0, "orthogonal": True},
        {"params": answers, "share": 1.0},
        {"params": trained, "share": config.trained_share, "orthogonal": True},
        {"params": slow, "share": 0.02},
    ]


@torch.no_grad()
def held_out(
    net: CodeNet, people: People, flame: Flame, *, batches: int = 12, seed: int = 90_002
) -> dict[str, float]:
    """Figures on people never trained on, and the residuals that become a refinement's prior."""
    points = net.landmarks.points
    flip = code_flip(flame, points, flame.n_shape)
    crops = Crops(people, points, flip, net.side, seed, 60)
    metric = face_metric(flame, points, net.config.n_shape)
    generator = torch.Generator().manual_seed(seed)
    shape, weights, nearly, total = [], [], [], []
    figures: list[dict[str, Tensor]] = []
    was_training = net.training
    net.eval()
    for _ in range(batches):
        images, truth = crops.batch(64, 0.0, generator=generator)
        answer = net(images)
        _, found = loss_of(net, answer, truth, point_weights(points), metric)
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
    result["points, crop px"] = result.pop("points") * net.side
    result["identity over the mean face"] = float(
        torch.cat(nearly).mean() / torch.cat(total).mean()
    )
    return result


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m deca.train codes`."""
    parser.add_argument("--people", type=Path, default=Path("out/coded-people"))
    parser.add_argument("--count", type=int, default=0, help="render this many first")
    parser.add_argument("--export", type=Path, help="write the averaged network here as it learns")
    parser.add_argument("--start", type=Path, help="an encoder to go on from, as with a lower rate")
    parser.add_argument("--grow", action="store_true", help="that, twice as wide, for larger crops")
    parser.add_argument("--halves", action="store_true", help="filters in bfloat16")
    add_run_options(parser, CodeTraining, Path("out/codes"))


def run(options: argparse.Namespace) -> None:
    """Render if asked, train, ship if asked."""
    torch.set_num_threads(options.threads)
    studio = open_studio(view=PEOPLE_VIEW, free_share=PEOPLE_FREE_SHARE)
    if options.count:
        render_people(studio, options.count, options.people, seed=options.seed)
    people, unseen = People(options.people, slice(1, None)), People(options.people, slice(0, 1))
    config = CodeTraining(**chosen(options), halves=options.halves)
    generator = torch.Generator().manual_seed(config.seed)
    if options.start is not None:
        net = load_code_net(studio.flame, options.start)
        net.finder = None  # only crops are learnt
        if options.grow:
            net = grown(net, generator=generator)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            net = untrained(load_landmark_net(studio.flame))
        start_at(net, people, generator=generator)
    net.shape_mirror.copy_(code_flip(studio.flame, net.landmarks.points, net.config.n_shape).shape)
    net.skin = skin_samples(studio.flame, studio.wardrobe.albedo, net.landmarks.verts)
    net = train(
        people, studio.flame, options.run, config, minutes=options.minutes, start=net,
        export=options.export,
    )  # fmt: skip
    figures = {k: round(v, 4) for k, v in held_out(net, unseen, studio.flame).items()}
    log.info("held out: %s", figures)
    if options.export is not None:
        save_code_net(net, options.export, head_metadata())
    if options.ship:
        count = len(people) + len(unseen)
        files = save_code_net(net, PACKAGE / SHIPPED_ENCODER, head_metadata())
        register(
            name="encoder",
            purpose="a portrait's codes in one pass: identity, expression, turn, albedo, light",
            licence="MIT",
            attribution="trained on pictures of the shipped head, which is built from ICT-FaceKit",
            recipe=f"python -m deca.train codes --count {count} --steps {config.steps} --ship",
            files=files,
            seed=config.seed,
            steps=config.steps,
            figures=figures,
        )
