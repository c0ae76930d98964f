"""One identity and many poses from points: damped Gauss-Newton with the poses eliminated."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from deca.sequence_model import N_POSE, N_WEIGHTS, PointModel, Poses
from flame.records import TensorRecord


@dataclass(frozen=True)
class SequenceFitConfig:
    """Priors of the fit; they balance residuals measured in standard deviations."""

    iterations: int = 14
    share: float = 0.35  # of its certainty that a point carries: neighbours err together
    alike: float = 0.3  # correlation of a point's errors between frames of one person
    outlier: float = 2.5  # standard deviations from which a point loses influence
    least_sigma: float = 0.004  # half crops: no point is surer than that
    focal_spread: float = 0.3  # of the logarithm of a video's focal length


@dataclass(frozen=True, eq=False)
class Sightings(TensorRecord):
    """What was seen in N frames, and the encoder's guess at each."""

    points: Float[Tensor, "N L 2"]  # half crops, y up
    sigmas: Float[Tensor, "N L"]
    guess: Poses

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True, eq=False)
class IdentityFit:
    """An identity, the poses that it was seen in, and how well they agree."""

    shape: Float[Tensor, " S"]
    shape_sigma: Float[Tensor, " S"]  # standard deviations left, after the fit
    log_focal: float  # by which the shared focal tangent's logarithm moved
    poses: Poses
    residual: Float[Tensor, " N"]  # median distance of the points, half crops


@dataclass(frozen=True, eq=False)
class _Rows:
    """Whitened residuals and slopes of frames."""

    error: Float[Tensor, "N R"]
    by_pose: Float[Tensor, "N R 58"]
    by_shared: Float[Tensor, "N R G"] | None


def solve_poses(
    model: PointModel,
    shape: Float[Tensor, " S"],
    seen: Sightings,
    weight_sigma: Float[Tensor, " 52"],
    config: SequenceFitConfig | None = None,
) -> tuple[Poses, Float[Tensor, " N"]]:
    """Expression, turn and camera of every frame for a known identity; median residuals.

    The guess is the prior of the weights; residuals are in half crops.
    """
    config = config or SequenceFitConfig()
    shape, prior = shape.double(), _prior(weight_sigma)
    poses = seen.guess
    damping = torch.full((len(seen),), 1e-3, dtype=torch.float64)
    cost = _cost(model, shape, poses, seen, prior, config)
    for _ in range(config.iterations):
        rows = _rows(model, shape, poses, seen, config)
        hessian, slope = _normal(rows, poses, seen, prior)
        free = _free(poses, slope)
        step = _step(hessian, slope, damping, free)
        trial = poses.moved(step)
        tried = _cost(model, shape, trial, seen, prior, config)
        better = tried < cost
        gain = torch.where(better, (cost - tried) / cost.clamp(min=1e-9), 0.0)
        poses = _chosen(better, trial, poses)
        cost = torch.where(better, tried, cost)
        damping = torch.where(better, damping * 0.3, damping * 8).clamp(1e-6, 1e5)
        if bool((better & (gain < 1e-5)).logical_or(damping > 1e3).all()):
            break
    return poses, _residual(model, shape, poses, seen)


def solve_identity(
    model: PointModel,
    shape: Float[Tensor, " S"],
    shape_sigma: Float[Tensor, " S"],
    seen: Sightings,
    weight_sigma: Float[Tensor, " 52"],
    config: SequenceFitConfig | None = None,
    *,
    one_camera: bool = False,
) -> IdentityFit:
    """The identity that explains all frames together, each in a pose of its own.

    `shape` with its sigma is the prior. With `one_camera` the frames' focal lengths are scaled
    alike to fit better; otherwise they are kept.
    """
    config = config or SequenceFitConfig()
    # many frames know less than their number promises, since the network errs alike in each
    crowd = math.sqrt(1 + (len(seen) - 1) * config.alike)
    config = dataclasses.replace(config, share=config.share / crowd)
    centre = shape.double()[: model.n_shape]
    n_shape = len(centre)
    spread = torch.cat([shape_sigma.double()[:n_shape].clamp(min=0.05), torch.ones(1).double()])
    spread[-1] = config.focal_spread if one_camera else 1e-6
    shared = torch.cat([centre, torch.zeros(1).double()])
    goal, prior = shared.clone(), _prior(weight_sigma)
    poses, damping = seen.guess, 1e-3

    def total(values: Tensor, at: Poses) -> float:
        costs = _cost(model, values[:-1], _zoomed(at, values[-1]), seen, prior, config)
        return float(costs.sum() + ((values - goal) / spread).square().sum())

    # poses are kept with the guessed tangent; the shared change is put on where they are used
    cost = total(shared, poses)
    left = torch.diag(spread.square())
    for _ in range(config.iterations):
        rows = _rows(model, shared[:-1], _zoomed(poses, shared[-1]), seen, config, with_shape=True)
        assert rows.by_shared is not None
        hessian, slope = _normal(rows, poses, seen, prior)
        free = _free(poses, slope)
        damped = _damped(hessian, torch.full((len(seen),), damping).double(), free)
        slope = slope * free
        cross = (rows.by_pose.mT @ rows.by_shared) * free[..., None]  # [N, 58, G]
        own = (rows.by_shared.mT @ rows.by_shared).sum(0) + torch.diag(spread**-2)
        pull = (rows.by_shared.mT @ rows.error[..., None])[..., 0].sum(0)
        pull = pull + (shared - goal) / spread.square()
        # what poses can take up themselves says nothing of the identity
        solved = torch.linalg.solve(damped, torch.cat([cross, slope[..., None]], -1))
        reduced = own - (cross.mT @ solved[..., :-1]).sum(0)
        pull = pull - (cross.mT @ solved[..., -1:])[..., 0].sum(0)
        change = -torch.linalg.solve(
            reduced + damping * torch.diag(reduced.diagonal().clamp(min=1e-6)), pull
        )
        step = -(solved[..., -1] + (solved[..., :-1] @ change)) * free
        trial_shared = torch.cat([(shared + change)[:-1].clamp(-3.5, 3.5), (shared + change)[-1:]])
        trial = poses.moved(step)
        tried = total(trial_shared, trial)
        if tried < cost:
            done = cost - tried < 1e-5 * cost
            shared, poses, cost, damping = trial_shared, trial, tried, max(damping * 0.3, 1e-6)
            left = torch.linalg.inv(reduced)
            if done:
                break
        else:
            damping *= 8
            if damping > 1e4:
                break
    poses = _zoomed(poses, shared[-1])
    return IdentityFit(
        shared[:-1].float(),
        left.diagonal()[:-1].clamp(min=0).sqrt().float(),
        float(shared[-1]),
        poses,
        _residual(model, shared[:-1], poses, seen),
    )


def _zoomed(poses: Poses, log_focal: Tensor) -> Poses:
    return dataclasses.replace(poses, tangent=poses.tangent * log_focal.exp())


def _prior(weight_sigma: Tensor) -> Float[Tensor, " 58"]:
    """One over the standard deviations of the guess; turn and camera are free."""
    weights = 1 / weight_sigma.double().clamp(min=0.03)
    return torch.cat([weights, torch.full((6,), 1e-3).double()])


def _offset(seen: Tensor, sightings: Sightings, config: SequenceFitConfig) -> Tensor:
    scale = config.share / sightings.sigmas.clamp(min=config.least_sigma)
    return (seen - sightings.points) * scale[..., None]


def _cost(
    model: PointModel,
    shape: Tensor,
    poses: Poses,
    seen: Sightings,
    prior: Tensor,
    config: SequenceFitConfig,
) -> Float[Tensor, " N"]:
    """Huber's loss of the points, squares of the weights' departure."""
    distance = _offset(model.project(shape, poses), seen, config).norm(dim=-1)
    bent = torch.where(
        distance < config.outlier, distance**2, 2 * config.outlier * distance - config.outlier**2
    )
    off = (poses.weights - seen.guess.weights) * prior[:N_WEIGHTS]
    return bent.sum(1) + off.square().sum(1)


def _rows(
    model: PointModel,
    shape: Tensor,
    poses: Poses,
    seen: Sightings,
    config: SequenceFitConfig,
    *,
    with_shape: bool = False,
) -> _Rows:
    slopes = model.slopes(shape, poses, with_shape=with_shape)
    offset = _offset(slopes.seen, seen, config)
    distance = offset.norm(dim=-1).clamp(min=config.outlier)
    robust = (config.outlier / distance).sqrt()
    scale = (robust * config.share / seen.sigmas.clamp(min=config.least_sigma))[..., None, None]
    shared = None
    if slopes.by_shape is not None:
        shared = torch.cat([slopes.by_shape, slopes.by_log_focal[..., None]], -1) * scale
        shared = shared.flatten(1, 2)
    return _Rows(
        (offset * robust[..., None]).flatten(1), (slopes.by_pose * scale).flatten(1, 2), shared
    )


def _normal(
    rows: _Rows, poses: Poses, seen: Sightings, prior: Tensor
) -> tuple[Float[Tensor, "N 58 58"], Float[Tensor, "N 58"]]:
    hessian = rows.by_pose.mT @ rows.by_pose + torch.diag(prior.square())
    slope = (rows.by_pose.mT @ rows.error[..., None])[..., 0]
    off = poses.weights - seen.guess.weights
    slope = slope + torch.nn.functional.pad(off, (0, N_POSE - N_WEIGHTS)) * prior.square()
    return hessian, slope


def _free(poses: Poses, slope: Tensor) -> Bool[Tensor, "N 58"]:
    """Which unknowns may move: not weights that are pushed against the end that they stand at."""
    w, s = poses.weights, slope[:, :N_WEIGHTS]
    held = ((w <= 0) & (s > 0)) | ((w >= 1) & (s < 0))
    return torch.nn.functional.pad(~held, (0, N_POSE - N_WEIGHTS), value=True)


def _damped(hessian: Tensor, damping: Tensor, free: Tensor) -> Tensor:
    """The normal matrix with damping, held unknowns taken out."""
    both = free[:, :, None] & free[:, None, :]
    diagonal = hessian.diagonal(dim1=1, dim2=2).clamp(min=1e-6) * damping[:, None]
    matrix = torch.where(both, hessian, 0.0) + torch.diag_embed(diagonal)
    return matrix + torch.diag_embed((~free).to(matrix))


def _step(hessian: Tensor, slope: Tensor, damping: Tensor, free: Tensor) -> Tensor:
    solved: Tensor = torch.linalg.solve(_damped(hessian, damping, free), slope * free)
    return -solved * free


def _chosen(better: Tensor, trial: Poses, old: Poses) -> Poses:
    def pick(name: str) -> Tensor:
        new, kept = getattr(trial, name), getattr(old, name)
        return torch.where(better.view(-1, *[1] * (new.dim() - 1)), new, kept)

    return Poses(**{field.name: pick(field.name) for field in dataclasses.fields(Poses)})


def _residual(model: PointModel, shape: Tensor, poses: Poses, seen: Sightings) -> Tensor:
    distance = (model.project(shape, poses) - seen.points).norm(dim=-1)
    middle: Tensor = distance.median(1).values
    return middle
