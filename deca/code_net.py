"""The encoder: one crop of a face to the codes of the shipped head.

It stands on the landmark network: from the same features, and from the points found, it regresses
identity, expression, the head's turn, perspective, albedo and light (Feng et al. 2021, section 4.1,
with the head's named expressions). Where the face is in the crop follows from the points by least
squares, which is more exact than regressing the camera.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assets.errors import AssetError
from assets.store import shipped
from assets.weights import read_metadata, read_tensors, write_tensors
from deca.codes import Codes
from deca.landmark_points import LandmarkPoints
from deca.landmarks import CROP_SIDE, LandmarkConfig, LandmarkNet, Prediction
from flame.camera import Camera
from flame.model import Flame
from flame.params import params_from_arkit
from flame.records import TensorRecord
from flame.rotation import matrix_to_axis_angle

SHIPPED_ENCODER = "encoder/encoder.safetensors"
N_ALBEDO = 43
N_WEIGHTS = 52
_FORMAT = "code-net-1"
_POINTS = ("corners", "bary", "flip", "rest")


@dataclass(frozen=True)
class CodeConfig:
    """Size of the regressor that stands on the landmark network."""

    n_shape: int = 100
    trunk: int = 384
    hidden: int = 512


@dataclass(frozen=True, eq=False)
class CodeAnswer(TensorRecord):
    """What the network says of crops, before a camera is found."""

    landmarks: Prediction
    shape: Float[Tensor, "B S"]  # standard deviations
    weights: Float[Tensor, "B 52"]  # ARKit, not yet held to 0..1
    rotation: Float[Tensor, "B 3 3"]  # of the head, in the upright crop's camera
    nearness: Float[Tensor, " B"]  # 1/m, as Camera.nearness
    albedo: Float[Tensor, "B A"]  # standard deviations
    light: Float[Tensor, "B 9 3"]


class CodeNet(nn.Module):
    """Crop -> landmarks with their uncertainty, and codes."""

    out_mean: Tensor
    out_scale: Tensor
    shape_sigma: Tensor
    weight_sigma: Tensor

    def __init__(self, landmarks: LandmarkNet, config: CodeConfig | None = None) -> None:
        super().__init__()
        self.config = config or CodeConfig()
        self.landmarks = landmarks
        widths = landmarks.config.widths
        cells = (CROP_SIDE >> (1 + len(widths))) ** 2
        self.trunk = nn.Sequential(
            nn.Linear(cells * widths[-1], self.config.trunk, bias=False),
            nn.BatchNorm1d(self.config.trunk),
            nn.ReLU(),
        )
        given = self.config.trunk + landmarks.config.hidden + 2 * len(landmarks.points)
        self.mixer = nn.Sequential(
            nn.Linear(given, self.config.hidden, bias=False),
            nn.BatchNorm1d(self.config.hidden),
            nn.ReLU(),
            nn.Linear(self.config.hidden, self.config.hidden, bias=False),
            nn.BatchNorm1d(self.config.hidden),
            nn.ReLU(),
        )
        outputs = sum(self.sizes())
        self.head = nn.Linear(self.config.hidden, outputs)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
        self.register_buffer("out_mean", torch.zeros(outputs))
        self.register_buffer("out_scale", torch.ones(outputs))
        # what is left of identity and expression on people never seen: the prior of a refinement
        self.register_buffer("shape_sigma", torch.ones(self.config.n_shape))
        self.register_buffer("weight_sigma", torch.ones(N_WEIGHTS))

    def sizes(self) -> list[int]:
        """Widths of shape, ARKit weights, rotation (6), nearness, albedo and light."""
        return [self.config.n_shape, N_WEIGHTS, 6, 1, N_ALBEDO, 27]

    def forward(self, crops: Float[Tensor, "B 3 128 128"]) -> CodeAnswer:
        """Codes of crops 0..1 that `deca.landmarks.crop_of` framed; keeps gradients."""
        features = self.landmarks.backbone(crops * 2 - 1)
        points, neck = self.landmarks.read(features)
        # points about their own middle, in units of their own spread
        centred = points.mean - points.mean.mean(1, keepdim=True)
        centred = centred / centred.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-3)
        mixed = self.mixer(torch.cat([self.trunk(features), neck, centred.flatten(1)], dim=1))
        out = self.head(mixed) * self.out_scale + self.out_mean
        shape, weights, six, nearness, albedo, light = torch.split(out, self.sizes(), dim=1)
        return CodeAnswer(
            points, shape, weights, rotation_from_six(six), nearness[:, 0], albedo,
            light.view(-1, 9, 3),
        )  # fmt: skip


def rotation_from_six(six: Float[Tensor, "B 6"]) -> Float[Tensor, "B 3 3"]:
    """Rotations from their first two columns, made orthonormal (Zhou et al. 2019)."""
    first = nn.functional.normalize(six[:, :3], dim=1)
    second = six[:, 3:] - (first * six[:, 3:]).sum(1, keepdim=True) * first
    second = nn.functional.normalize(second, dim=1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=2)


@torch.no_grad()
def codes_of(
    answer: CodeAnswer, flame: Flame, points: LandmarkPoints, size: float = float(CROP_SIDE)
) -> Codes:
    """Codes with the camera that puts the head's points where the network saw them.

    The camera's scale and shift are the weighted least squares for the regressed turn and
    perspective, in crops of `size` pixels.
    """
    weights = answer.weights.clamp(0, 1)
    shape = answer.shape.clamp(-3.5, 3.5)
    params = params_from_arkit(shape, weights)
    params.root.copy_(matrix_to_axis_angle(answer.rotation))
    placed = points.on(flame(params).verts)  # [B, L, 3]
    nearness = answer.nearness.clamp(0, 3)
    w = 1 - placed[..., 2] * nearness[:, None]
    seen = answer.landmarks.mean * 2 - 1
    target = torch.stack([seen[..., 0], -seen[..., 1]], -1)  # y up, half crops
    trust = torch.exp(-2 * answer.landmarks.log_sigma)  # [B, L]
    # scale * X + offset = w * target, two rows a point
    trust = trust / trust.sum(1, keepdim=True)
    flat = placed[..., :2] / w[..., None]
    one = (1 / w)[..., None].expand(-1, -1, 2)
    xx = (trust[..., None] * flat * flat).sum((1, 2))
    x1 = (trust[..., None] * flat * one).sum(1)
    ones = (trust[..., None] * one * one).sum(1)
    xt = (trust[..., None] * flat * target).sum((1, 2))
    t1 = (trust[..., None] * one * target).sum(1)
    scale = (xt - (x1 * t1 / ones).sum(1)) / (xx - (x1.square() / ones).sum(1)).clamp(min=1e-9)
    scale = scale.clamp(min=1e-3)
    shift = (t1 - scale[:, None] * x1) / ones / scale[:, None]
    fov_deg = torch.rad2deg(2 * torch.atan(nearness / scale))
    return Codes(params, answer.albedo, Camera(scale, shift, fov_deg), answer.light)


def mirrored_answer(answer: CodeAnswer, flip: CodeFlip) -> CodeAnswer:
    """What a network that sees the mirror image should say of it."""
    points = answer.landmarks
    mean = points.mean[:, flip.points] * points.mean.new_tensor([-1.0, 1.0])
    mean = mean + points.mean.new_tensor([1.0, 0.0])
    side = answer.rotation.new_tensor([-1.0, 1.0, 1.0])
    return CodeAnswer(
        Prediction(mean, points.log_sigma[:, flip.points], points.face_logit),
        answer.shape @ flip.shape.T,
        answer.weights[:, flip.weights],
        answer.rotation * side[:, None] * side,
        answer.nearness,
        answer.albedo,
        answer.light * flip.light[:, None],
    )


@dataclass(frozen=True, eq=False)
class CodeFlip(TensorRecord):
    """How mirroring a picture changes its codes."""

    points: Tensor  # [L]
    shape: Float[Tensor, "S S"]
    weights: Tensor  # [52]
    light: Float[Tensor, " 9"]


def code_flip(flame: Flame, points: LandmarkPoints, n_shape: int) -> CodeFlip:
    """The mirror images of a head's codes; identities by least squares in their own space."""
    from flame.arkit import ARKIT_INDEX, ARKIT_NAMES, mirrored_name

    basis = flame.shapedirs[:n_shape]
    swapped = basis[:, flame.topology.mirror] * basis.new_tensor([-1.0, 1.0, 1.0])
    flat = basis.flatten(1).double()
    matrix = torch.linalg.lstsq(flat.T, swapped.flatten(1).double().T).solution.float()
    weights = torch.tensor([ARKIT_INDEX[mirrored_name(name)] for name in ARKIT_NAMES])
    light = torch.ones(9)
    light[[1, 4, 5]] = -1  # x, xy, xz
    return CodeFlip(points.flip, matrix, weights, light)


def mean_answer(one: CodeAnswer, two: CodeAnswer) -> CodeAnswer:
    """The mean of two answers on the same crops; rotations by their mean columns."""
    six = (one.rotation + two.rotation)[:, :, :2].transpose(1, 2).flatten(1)
    points = Prediction(
        (one.landmarks.mean + two.landmarks.mean) / 2,
        (one.landmarks.log_sigma + two.landmarks.log_sigma) / 2,
        (one.landmarks.face_logit + two.landmarks.face_logit) / 2,
    )
    return CodeAnswer(
        points,
        (one.shape + two.shape) / 2,
        (one.weights + two.weights) / 2,
        rotation_from_six(six),
        (one.nearness + two.nearness) / 2,
        (one.albedo + two.albedo) / 2,
        (one.light + two.light) / 2,
    )


def save_code_net(net: CodeNet, path: Path, metadata: dict[str, str]) -> list[Path]:
    """Write the network as safetensors, halves; statistics stay whole."""
    whole = ("running_", "out_", "_sigma", *_POINTS)
    tensors = {
        name: value
        if not value.is_floating_point() or any(part in name for part in whole)
        else value.half()
        for name, value in net.state_dict().items()
        if "num_batches" not in name
    }
    settings = json.dumps({"codes": asdict(net.config), "points": asdict(net.landmarks.config)})
    return write_tensors(tensors, path, {**metadata, "format": _FORMAT, "config": settings})


def load_code_net(flame: Flame | None = None, path: Path | None = None) -> CodeNet:
    """The encoder of a file, ready to use; the shipped one by default.

    With a head given, refuses a network that was trained on another one.
    """
    source = shipped(SHIPPED_ENCODER) if path is None else path
    metadata = read_metadata(source)
    if metadata.get("format") != _FORMAT:
        raise AssetError(
            f"{source} is no encoder of this version (format {metadata.get('format')!r}, wanted "
            f"{_FORMAT!r}); train one with `python -m deca.train codes`"
        )
    tensors = read_tensors(source)
    settings = json.loads(metadata["config"])
    settings["points"]["widths"] = tuple(settings["points"]["widths"])
    points = LandmarkPoints(**{name: tensors[f"landmarks.{name}"] for name in _POINTS})
    net = CodeNet(
        LandmarkNet(points, LandmarkConfig(**settings["points"])), CodeConfig(**settings["codes"])
    )
    state = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
    net.load_state_dict(state | {n: t for n, t in net.state_dict().items() if "num_batches" in n})
    if flame is not None:
        points.check(flame)
    return net.eval()
