"""Encoders of random weights, and answers that are true of people seen by a pinhole."""

from __future__ import annotations

import torch

from deca.code_net import (
    CODE_SIDE,
    CODE_VIEW,
    CodeAnswer,
    CodeConfig,
    CodeNet,
)
from deca.landmark_points import LandmarkPoints
from deca.landmarks import CROP_VIEW, LandmarkConfig, LandmarkNet, Prediction
from flame.arkit import ARKIT_INDEX
from flame.camera import Camera
from flame.model import Flame
from flame.params import Params, arkit_from_params, params_from_arkit
from flame.rotation import axis_angle_to_matrix

SIDE = 128


def small_landmarks(points: LandmarkPoints, side: int, view: float) -> LandmarkNet:
    net = LandmarkNet(points, LandmarkConfig(4, (4, 4, 4, 8), 16, 6, side=side))
    rest = points.rest[:, :2] - points.rest[:, :2].mean(0)
    extent = (rest.amax(0) - rest.amin(0)).max()
    upright = 0.5 + rest / (view * extent) * torch.tensor([1.0, -1.0])
    net.start_at(upright + 0.01 * torch.randn(20, len(points), 2))
    return net


def small_net(points: LandmarkPoints, n_shape: int = 100, seed: int = 0) -> CodeNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = CodeNet(
            small_landmarks(points, CODE_SIDE, CODE_VIEW),
            CodeConfig(n_shape, trunk=16, hidden=24, tones=8, rank=6),
            small_landmarks(points, SIDE, CROP_VIEW),
        )
        net.point_axes.normal_(std=0.1)
        net.out_mean.normal_(std=0.1)
        start = n_shape + 52
        net.out_mean[start : start + 7] += torch.tensor([1.0, 0, 0, 0, 1, 0, 1.2])  # upright, near
        net.out_scale.uniform_(0.1, 0.3)
        net.shape_sigma.uniform_(0.3, 1.0)
        net.weight_sigma.uniform_(0.1, 0.3)
    return net.eval()


def one_gaze(weights: torch.Tensor) -> torch.Tensor:
    """Eyes that look to one side only; opposite directions would cancel in the parameters."""
    found = weights.clone()
    for name in ("UpLeft", "UpRight", "InLeft", "OutRight"):
        found[:, ARKIT_INDEX[f"eyeLook{name}"]] = 0
    return found


def turned(
    flame: Flame, generator: torch.Generator, distance: float = 0.7, n_shape: int | None = None
) -> tuple[Params, Camera]:
    """Two people before pinholes `distance` metres away, whose faces fill two thirds of a crop."""
    shape = 0.7 * torch.randn(2, n_shape or flame.n_shape, generator=generator)
    params = params_from_arkit(shape, one_gaze(0.5 * torch.rand(2, 52, generator=generator)))
    params.root.copy_(torch.tensor([[0.1, -0.4, 0.05], [-0.2, 0.6, -0.1]]))
    scale, shift = torch.tensor([7.0, 6.0]), torch.tensor([[0.01, -0.02], [-0.03, 0.01]])
    fov_deg = torch.rad2deg(2 * torch.atan(1 / distance / scale))
    return params, Camera(scale, shift, fov_deg)


def pinhole(placed: torch.Tensor, camera: Camera, side: int) -> torch.Tensor:
    """Pixels of points by similar triangles, written without the camera's own methods."""
    place, scale, shift = placed.double(), camera.scale.double(), camera.shift.double()
    half_fov = torch.deg2rad(camera.fov_deg.double()) / 2
    distance = 1 / (scale * half_fov.tan())
    focal = side / 2 / half_fov.tan()
    ratio = (focal[:, None] / (distance[:, None] - place[..., 2]))[..., None]
    flat = (place[..., :2] + shift[:, None]) * ratio
    return side / 2 + flat * flat.new_tensor([1.0, -1.0])


def true_answer(
    flame: Flame, points: LandmarkPoints, params: Params, camera: Camera, n_albedo: int = 43
) -> CodeAnswer:
    seen = pinhole(points.on(flame(params).verts), camera, SIDE).float() / SIDE
    batch = len(seen)
    generator = torch.Generator().manual_seed(9)
    return CodeAnswer(
        Prediction(
            seen, torch.randn(batch, len(points), generator=generator) * 0.4 - 4, torch.ones(batch)
        ),
        params.shape,
        arkit_from_params(params),
        axis_angle_to_matrix(params.root),
        camera.scale * torch.tan(torch.deg2rad(camera.fov_deg) / 2),
        torch.randn(batch, n_albedo, generator=generator),
        torch.randn(batch, 9, 3, generator=generator),
    )


def assert_same(one: CodeAnswer, other: CodeAnswer, atol: float) -> None:
    for name in ("shape", "weights", "rotation", "nearness", "albedo", "light"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=atol, rtol=0)
    for name in ("mean", "log_sigma", "face_logit"):
        found, expected = getattr(one.landmarks, name), getattr(other.landmarks, name)
        torch.testing.assert_close(found, expected, atol=atol, rtol=0)
