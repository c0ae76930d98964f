"""The encoder: one crop of a face to the codes of the shipped head.

A first network finds the points; the encoder looks again at a tight upright crop round them. Its
backbone says the points once more, and from the same features and the points found it regresses
identity, expression, the head's turn, perspective, albedo and light (Feng et al. 2021, section 4.1,
with the head's named expressions). Where the face is in the crop follows from the points by least
squares, which is more exact than regressing the camera.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from assets.errors import AssetError
from assets.store import shipped
from assets.weights import read_metadata, read_tensors, write_tensors
from deca.codes import Codes
from deca.exposure import SkinSamples
from deca.guess import seen_camera
from deca.landmark_points import LandmarkPoints
from deca.landmarks import LandmarkConfig, LandmarkNet, Prediction, load_landmark_net
from flame.arkit import ARKIT_INDEX, ARKIT_NAMES, IS_GAZE, mirrored_name
from flame.camera import Camera
from flame.model import Flame
from flame.params import params_from_arkit
from flame.records import TensorRecord
from flame.rotation import matrix_to_axis_angle

SHIPPED_ENCODER = "encoder/encoder.safetensors"
CODE_SIDE = 128  # px of a new network's crop
CODE_VIEW = 1.05  # the crop's side over the bounding square of the points
N_ALBEDO = 43
N_WEIGHTS = 52
_FORMAT = "code-net-2"
_POINTS = ("corners", "bary", "flip", "rest")
_SKIN = tuple(field.name for field in fields(SkinSamples))
_COLOUR_SIDE = 8  # the crop's colours are also given as a picture this small


@dataclass(frozen=True)
class CodeConfig:
    """Size of the regressors that stand on the backbone."""

    n_shape: int = 100
    trunk: int = 384
    hidden: int = 512
    tones: int = 128  # hidden units of albedo and light
    rank: int = 96  # of the points' variations that are shown to the regressors


@dataclass(frozen=True, eq=False)
class CodeAnswer(TensorRecord):
    """What the network says of crops, before a camera is found."""

    landmarks: Prediction
    shape: Float[Tensor, "B S"]  # standard deviations
    weights: Float[Tensor, "B 52"]  # ARKit, not yet held to 0..1
    rotation: Float[Tensor, "B 3 3"]  # of the head, in the upright crop's camera
    nearness: Float[Tensor, " B"]  # 1/m, as Camera.nearness
    albedo: Float[Tensor, "B A"]  # standard deviations
    light: Float[Tensor, "B 9 3"]  # over the mean of its first band: exposure cannot be seen


class CodeNet(nn.Module):
    """Crop -> landmarks with their uncertainty, and codes."""

    out_mean: Tensor
    out_scale: Tensor
    shape_sigma: Tensor
    weight_sigma: Tensor
    shape_mirror: Tensor
    point_mean: Tensor
    point_axes: Tensor

    def __init__(
        self,
        landmarks: LandmarkNet,
        config: CodeConfig | None = None,
        finder: LandmarkNet | None = None,
    ) -> None:
        super().__init__()
        self.config = config or CodeConfig()
        self.landmarks = landmarks  # of the tight crop
        self.finder = finder  # of a loose one; None while only crops are answered
        self.skin: SkinSamples | None = None  # None until `complete`
        self.trunk = nn.Sequential(
            nn.Linear(landmarks.n_features, self.config.trunk, bias=False),
            nn.BatchNorm1d(self.config.trunk),
            nn.ReLU(),
        )
        seen = self.config.trunk + landmarks.config.hidden
        given = seen + self.config.rank
        self.mixer = nn.Sequential(
            nn.Linear(given, self.config.hidden, bias=False),
            nn.BatchNorm1d(self.config.hidden),
            nn.ReLU(),
            nn.Linear(self.config.hidden, self.config.hidden, bias=False),
            nn.BatchNorm1d(self.config.hidden),
            nn.ReLU(),
        )
        outputs, shown = sum(self.sizes()), sum(self.sizes()[-2:])
        self.head = nn.Linear(self.config.hidden, outputs - shown)
        colours = 3 * _COLOUR_SIDE**2
        last = nn.Linear(self.config.tones, shown)
        self.tones = nn.Sequential(
            nn.Linear(seen + self.config.rank + colours, self.config.tones, bias=False),
            nn.BatchNorm1d(self.config.tones),
            nn.ReLU(),
            last,
        )
        for layer in (self.head, last):
            nn.init.zeros_(layer.bias)
            nn.init.normal_(layer.weight, std=0.01)
        # the points' axes of variation, each to a standard deviation of about one: identity moves
        # them by hundredths of what the head's turn does
        self.register_buffer("point_mean", torch.zeros(2 * len(landmarks.points)))
        self.register_buffer("point_axes", torch.zeros(2 * len(landmarks.points), self.config.rank))
        self.register_buffer("out_mean", torch.zeros(outputs))
        self.register_buffer("out_scale", torch.ones(outputs))
        # codes of the mirrored head; finding them anew takes ten times as long as using them
        self.register_buffer("shape_mirror", torch.eye(self.config.n_shape))
        # what is left of identity and expression on people never seen: the prior of a refinement
        self.register_buffer("shape_sigma", torch.ones(self.config.n_shape))
        self.register_buffer("weight_sigma", torch.ones(N_WEIGHTS))

    def complete(self) -> tuple[LandmarkNet, SkinSamples]:
        """What a whole picture needs beside the network: a finder of points, and skin colours."""
        if self.finder is None or self.skin is None:
            raise ValueError(
                "this encoder answers crops only; load_code_net() gives one for whole pictures"
            )
        return self.finder, self.skin

    @property
    def side(self) -> int:
        """Pixels of its crops."""
        return self.landmarks.config.side

    def flip(self) -> CodeFlip:
        """How mirroring a crop changes the answer."""
        return CodeFlip(self.landmarks.flip, self.shape_mirror, *_mirrored_names())

    def sizes(self) -> list[int]:
        """Widths of shape, ARKit weights, rotation (6), nearness, albedo and light."""
        return [self.config.n_shape, N_WEIGHTS, 6, 1, N_ALBEDO, 27]

    def forward(self, crops: Float[Tensor, "B 3 K K"]) -> CodeAnswer:
        """Codes of crops 0..1, K = `side`, of CODE_VIEW round a face; keeps gradients."""
        return self.read(self.landmarks.backbone(crops * 2 - 1), crops)

    def read(self, features: Float[Tensor, "B C"], crops: Float[Tensor, "B 3 K K"]) -> CodeAnswer:
        """The answer that the backbone's features of crops give."""
        points, neck = self.landmarks.read(features)
        varied = (normal_points(points.mean) - self.point_mean) @ self.point_axes
        seen = torch.cat([self.trunk(features), neck, varied.clamp(-6, 6)], dim=1)
        colours = nn.functional.adaptive_avg_pool2d(crops, _COLOUR_SIDE).flatten(1)
        shown = self.tones(torch.cat([seen, 4 * colours - 2], dim=1))
        out = torch.cat([self.head(self.mixer(seen)), shown], dim=1)
        out = out * self.out_scale + self.out_mean
        shape, weights, six, nearness, albedo, light = torch.split(out, self.sizes(), dim=1)
        return CodeAnswer(
            points, shape, weights, rotation_from_six(six), nearness[:, 0], albedo,
            light.view(-1, 9, 3),
        )  # fmt: skip


def normal_points(points: Float[Tensor, "B L 2"]) -> Float[Tensor, "B L2"]:
    """Points about their own middle in units of their own spread, x and y in turn."""
    centred = points - points.mean(1, keepdim=True)
    spread = centred.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-3)
    return (centred / spread).flatten(1)


def rotation_from_six(six: Float[Tensor, "B 6"]) -> Float[Tensor, "B 3 3"]:
    """Rotations from their first two columns, made orthonormal (Zhou et al. 2019)."""
    first = nn.functional.normalize(six[:, :3], dim=1)
    second = six[:, 3:] - (first * six[:, 3:]).sum(1, keepdim=True) * first
    second = nn.functional.normalize(second, dim=1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=2)


def settled(weights: Float[Tensor, "B 52"], sigma: Float[Tensor, " 52"]) -> Float[Tensor, "B 52"]:
    """Weights in 0..1 of which those that their own error may have made are taken back to rest.

    Each is scaled by the share of its power that is no error, as in Wiener's filter, so that large
    ones stay and a still face stays still. Where the eyes look has no rest and is kept.
    """
    held = weights.clamp(0, 1)
    power = held.square()
    share = power / (power + sigma.square()).clamp(min=1e-9)
    return torch.where(gaze_weights(weights.device), held, held * share)


def gaze_weights(device: torch.device) -> Bool[Tensor, " 52"]:
    """Which ARKit weights say where the eyes look."""
    return torch.tensor(IS_GAZE, device=device)


@torch.no_grad()
def codes_of(answer: CodeAnswer, flame: Flame, points: LandmarkPoints) -> Codes:
    """Codes with the camera that puts the head's points where the network saw them.

    The camera is `seen_camera`'s for the regressed turn and perspective; the light is the answer's
    own, without exposure.
    """
    weights = answer.weights.clamp(0, 1)
    shape = answer.shape.clamp(-3.5, 3.5)
    params = params_from_arkit(shape, weights)
    params.root.copy_(matrix_to_axis_angle(answer.rotation))
    placed = points.on(flame(params).verts)  # [B, L, 3]
    nearness = answer.nearness.clamp(0, 3)
    scale, shift = seen_camera(placed, answer.landmarks.mean, answer.landmarks.log_sigma, nearness)
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
    basis = flame.shapedirs[:n_shape]
    swapped = basis[:, flame.topology.mirror] * basis.new_tensor([-1.0, 1.0, 1.0])
    flat = basis.flatten(1).double()
    matrix = torch.linalg.lstsq(flat.T, swapped.flatten(1).double().T).solution.float()
    return CodeFlip(points.flip, matrix, *_mirrored_names())


def _mirrored_names() -> tuple[Tensor, Tensor]:
    """The mirror partners of the ARKit weights, and the signs of light's bands."""
    weights = torch.tensor([ARKIT_INDEX[mirrored_name(name)] for name in ARKIT_NAMES])
    light = torch.ones(9)
    light[[1, 4, 5]] = -1  # x, xy, xz
    return weights, light


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
    whole = ("running_", "out_", "_sigma", "point_", "_mirror", *_POINTS)
    tensors = {
        name: value
        if not value.is_floating_point() or any(part in name for part in whole)
        else value.half()
        for name, value in net.state_dict().items()
        if "num_batches" not in name and not name.startswith("finder.")
    }
    if net.skin is not None:
        tensors |= {f"skin.{name}": getattr(net.skin, name) for name in _SKIN}
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
    points = LandmarkPoints(**{name: tensors[f"landmarks.{name}"] for name in _POINTS})
    landmarks = LandmarkNet(points, LandmarkConfig.of(settings["points"]))
    net = CodeNet(landmarks, CodeConfig(**settings["codes"]), load_landmark_net(flame))
    state = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
    if all(f"skin.{name}" in state for name in _SKIN):
        net.skin = SkinSamples(**{name: state.pop(f"skin.{name}") for name in _SKIN})
    given = {n: t for n, t in net.state_dict().items() if n.startswith("finder.")}
    given |= {n: t for n, t in net.state_dict().items() if "num_batches" in n}
    net.load_state_dict(state | given)
    if flame is not None:
        points.check(flame)
    return net.eval()
