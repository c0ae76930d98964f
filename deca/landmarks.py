"""The landmark network: dense points of a face with their uncertainty, from one crop.

Trained on pictures of the shipped head alone, after Wood et al. 2022, "3D Face Reconstruction with
Dense Landmarks": every point comes with a standard deviation that the fit can trust.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from assets.errors import AssetError
from assets.store import shipped
from assets.weights import read_metadata, read_tensors, write_tensors
from deca.crop import crop_square
from deca.landmark_points import N_LANDMARKS, LandmarkPoints
from flame.model import Flame
from flame.records import TensorRecord

SHIPPED_LANDMARKS = "landmarks/landmarks.safetensors"
CROP_SIDE = 128  # px
CROP_VIEW = 1.5  # the crop's side over the bounding square of the points
_FORMAT = "landmark-net-1"
_LOG_SIGMA = (-7.0, -0.7)  # ln of crop units: 0.1 px to half a crop
_POINTS = tuple(field.name for field in fields(LandmarkPoints))


@dataclass(frozen=True)
class LandmarkConfig:
    """Size of the network; small enough for one CPU core."""

    stem: int = 16
    widths: tuple[int, ...] = (24, 48, 96, 128)  # at 1/4, 1/8, 1/16 and 1/32 of the crop
    hidden: int = 256
    rank: int = 96  # ways in which the points vary together
    blocks: tuple[int, ...] = (1, 1, 1, 0)  # residual blocks at each width
    side: int = CROP_SIDE  # px of its crops

    def __post_init__(self) -> None:
        if len(self.blocks) != len(self.widths):
            raise ValueError(
                f"blocks={self.blocks} and widths={self.widths} differ in length; give one number "
                "of blocks a width"
            )

    @staticmethod
    def of(settings: dict[str, object]) -> LandmarkConfig:
        """Settings as JSON keeps them, where tuples are lists."""
        rows = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        return LandmarkConfig(**rows)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Prediction(TensorRecord):
    """The network's answer for crops; units are the crop's side, origin top left."""

    mean: Float[Tensor, "B L 2"]
    log_sigma: Float[Tensor, "B L"]
    face_logit: Float[Tensor, " B"]  # log odds that the crop shows a face


@dataclass(frozen=True, eq=False)
class Landmarks(TensorRecord):
    """Points of one face in picture pixels, and their standard deviations along each axis."""

    points: Float[Tensor, "1 D 2"]  # where LandmarkNet.verts are
    sigmas: Float[Tensor, "1 D"]
    points68: Float[Tensor, "1 68 2"]  # iBUG; the jaw line is fixed to the surface
    sigmas68: Float[Tensor, "1 68"]
    face_probability: float
    disagreement: float  # between the last two looks, as a share of the face's size

    def side(self) -> float:
        """Side of the points' bounding square, px."""
        both = torch.cat([self.points68, self.points], dim=1)[0]
        return float((both.amax(0) - both.amin(0)).max())

    def uncertainty(self) -> float:
        """The mean standard deviation as a share of the face's size."""
        return float(self.sigmas68.mean()) / max(self.side(), 1e-6)

    def is_face(self) -> bool:
        """Whether the network believes that it looked at a face."""
        return (
            self.face_probability > 0.5 and self.uncertainty() < 0.058 and self.disagreement < 0.08
        )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width)
        self.second = _convolution(width, width)[:2]

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(self.first(x)))


def _convolution(given: int, width: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm (foldable), ReLU."""
    return nn.Sequential(
        nn.Conv2d(given, width, 3, stride, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


class LandmarkNet(nn.Module):
    """Crop -> points, their uncertainty, and whether it is a face at all."""

    corners: Tensor
    bary: Tensor
    flip: Tensor
    rest: Tensor

    def __init__(self, points: LandmarkPoints, config: LandmarkConfig | None = None) -> None:
        super().__init__()
        self.config = config or LandmarkConfig()
        for name in _POINTS:
            self.register_buffer(name, getattr(points, name))
        widths = self.config.widths
        layers = [_convolution(3, self.config.stem, 2)]
        for given, width, blocks in zip(
            (self.config.stem, *widths[:-1]), widths, self.config.blocks, strict=True
        ):
            layers.append(_convolution(given, width, 2))
            if blocks:
                layers.append(nn.Sequential(*[_Residual(width) for _ in range(blocks)]))
        self.backbone = nn.Sequential(*layers, nn.Flatten())
        self.neck = nn.Sequential(
            nn.Linear(self.n_features, self.config.hidden, bias=False),
            nn.BatchNorm1d(self.config.hidden),
            nn.ReLU(),
        )
        self.code_head = nn.Linear(self.config.hidden, self.config.rank)
        self.mean_head = nn.Linear(self.config.rank, 2 * len(points))
        self.sigma_head = nn.Linear(self.config.hidden, len(points))
        self.face_head = nn.Linear(self.config.hidden, 1)
        nn.init.zeros_(self.sigma_head.weight)
        nn.init.constant_(self.sigma_head.bias, math.log(0.05))

    @property
    def n_features(self) -> int:
        """Numbers that the backbone says of a crop."""
        cells: int = -(-self.config.side // (2 << len(self.config.widths)))
        return cells * cells * self.config.widths[-1]

    @property
    def points(self) -> LandmarkPoints:
        """What the outputs are on the head: 68 points, then vertices."""
        return LandmarkPoints(**{name: getattr(self, name) for name in _POINTS})

    @property
    def verts(self) -> Int[Tensor, " D"]:
        """The head's vertices that `Landmarks.points` are, the two pupils last."""
        return self.corners[N_LANDMARKS:, 0]

    def forward(self, crops: Float[Tensor, "B 3 K K"]) -> Prediction:
        """Points in crops 0..1; keeps gradients."""
        return self.read(self.backbone(crops * 2 - 1))[0]

    def read(self, features: Float[Tensor, "B C"]) -> tuple[Prediction, Float[Tensor, "B D"]]:
        """The answer that the backbone's features give, and the last hidden layer."""
        code = self.neck(features)
        answer = Prediction(
            self.mean_head(self.code_head(code)).unflatten(1, (-1, 2)),
            self.sigma_head(code).clamp(*_LOG_SIGMA),
            self.face_head(code)[:, 0],
        )
        return answer, code

    @torch.no_grad()
    def start_at(self, points: Float[Tensor, "N L 2"]) -> None:
        """Set the last layer to the mean and the main axes of variation of labels.

        What remains to be learned are the coefficients, so training starts far ahead.
        """
        flat = points.flatten(1)
        self.mean_head.bias.copy_(flat.mean(0))
        rank = min(len(flat), self.config.rank)
        offset = (flat - flat.mean(0)).double()
        variance, axes = torch.linalg.eigh(offset.T @ offset / len(flat))
        largest = variance.clamp(min=0).sqrt() * axes
        self.mean_head.weight.zero_()
        self.mean_head.weight[:, :rank] = largest.flip(1)[:, :rank].float()
        self.code_head.weight.mul_(0.3)

    @torch.no_grad()
    def predict(
        self,
        image: Float[Tensor, "1 3 H W"],
        box: Float[Tensor, " 4"],
        *,
        passes: int = 4,
        thorough: bool = True,
    ) -> Landmarks:
        """Points of the face in `box` (left, top, right, bottom, brow to chin; px).

        Each pass crops anew, upright, round the points of the one before. A thorough look averages
        several framings and their mirror images. Deterministic.
        """
        if passes < 2:
            raise ValueError(f"passes={passes}; at least 2 are needed to see whether they agree")
        low, high = box[:2], box[2:]
        if not bool((high > low).all()) or not bool(torch.isfinite(box).all()):
            raise ValueError(
                f"the box {[round(v, 1) for v in box.tolist()]} is empty; give left, top, right, "
                "bottom in pixels"
            )
        was_training = self.training
        self.eval()
        shrink = max(1, int(float((high - low).max()) * CROP_VIEW / (2 * CROP_SIDE)))
        small = F.avg_pool2d(image, shrink, ceil_mode=True, count_include_pad=False)
        center, side, roll = (low + high) / 2 / shrink, float((high - low).max()) / shrink, 0.0
        points, sigmas, logit = image.new_zeros(0, 2), image.new_zeros(0), image.new_zeros(())
        disagreement = 0.0
        for number in range(passes):
            framings = _FRAMINGS if thorough and number >= passes - 2 else _FRAMINGS[:1]
            found, sigmas, logit = self._look(small, center, CROP_VIEW * side, roll, framings)
            if len(points):
                disagreement = float((found - points).norm(dim=1).mean()) / side
            points = found
            center, side, roll = crop_of(points)
        if was_training:
            self.train()
        points, sigmas = points[None] * shrink, sigmas[None] * shrink
        return Landmarks(
            points[:, N_LANDMARKS:],
            sigmas[:, N_LANDMARKS:],
            points[:, :N_LANDMARKS],
            sigmas[:, :N_LANDMARKS],
            float(torch.sigmoid(logit)),
            disagreement,
        )

    def _look(
        self,
        image: Tensor,
        center: Tensor,
        side: float,
        roll: float,
        framings: tuple[tuple[float, float, float], ...],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Means over framings and mirror images: points and sigmas in pixels, the face's logit."""
        crops = [
            crop_square(
                image,
                center + side * image.new_tensor([right, down]),
                side * scale,
                CROP_SIDE,
                roll,
            )
            for scale, right, down in framings
        ]
        pictures = torch.cat([crop.image for crop in crops])
        answer = self(torch.cat([pictures, pictures.flip(-1)]))
        plain, mirrored = answer.mean.chunk(2)
        mirrored = mirrored[:, self.flip] * plain.new_tensor([-1.0, 1.0]) + plain.new_tensor([1, 0])
        both = (plain + mirrored) / 2
        points = [crop.picture_points(p * CROP_SIDE) for crop, p in zip(crops, both, strict=True)]
        scales = plain.new_tensor([scale for scale, _, _ in framings])[:, None]
        sigma, mirrored_sigma = answer.log_sigma.exp().chunk(2)
        sigmas = (sigma + mirrored_sigma[:, self.flip]) / 2 * scales * side
        return torch.stack(points).mean(0), sigmas.mean(0), answer.face_logit.mean()


# Scale of the crop, and shift in its sides, of the looks that are averaged; symmetric, so that a
# mirrored picture gives the mirrored points.
_FRAMINGS = (
    (1.0, 0.0, 0.0),
    (0.93, 0.02, 0.02),
    (0.93, -0.02, 0.02),
    (1.08, 0.02, -0.02),
    (1.08, -0.02, -0.02),
)


def crop_of(points: Float[Tensor, "L 2"]) -> tuple[Float[Tensor, 2], float, float]:
    """Centre, side of the upright bounding square, and roll (radians) of a face's points.

    The roll is that of the line through the eyes' middles; positive is clockwise in the picture.
    """
    line = points[42:48].mean(0) - points[36:42].mean(0)
    roll = math.atan2(float(line[1]), float(line[0]))
    cosine, sine = math.cos(roll), math.sin(roll)
    upright = points.new_tensor([[cosine, sine], [-sine, cosine]])
    turned = points @ upright.T
    low, high = turned.amin(0), turned.amax(0)
    return upright.T @ ((low + high) / 2), float((high - low).max()), roll


def negative_log_likelihood(
    answer: Prediction, truth: Float[Tensor, "B L 2"], weights: Float[Tensor, " L"]
) -> Float[Tensor, " B"]:
    """Gaussian negative log-likelihood, weighted mean over the points (Wood et al., eq. 1)."""
    squared = (answer.mean - truth).square().sum(-1)
    loss = 2 * answer.log_sigma + squared / 2 * torch.exp(-2 * answer.log_sigma)
    return (loss * weights).sum(1) / weights.sum()


def save_landmark_net(net: LandmarkNet, path: Path, metadata: dict[str, str]) -> list[Path]:
    """Write the network as safetensors, halves; batch norm's and the points' tensors stay whole."""
    whole = ("running_", *_POINTS)
    tensors = {
        name: value
        if not value.is_floating_point() or any(w in name for w in whole)
        else value.half()
        for name, value in net.state_dict().items()
        if "num_batches" not in name
    }
    config = json.dumps(asdict(net.config))
    return write_tensors(tensors, path, {**metadata, "format": _FORMAT, "config": config})


def load_landmark_net(flame: Flame | None = None, path: Path | None = None) -> LandmarkNet:
    """The network of a file, ready to predict; the shipped one by default.

    With a head given, refuses a network that was trained on another one.
    """
    source = shipped(SHIPPED_LANDMARKS) if path is None else path
    metadata = read_metadata(source)
    if metadata.get("format") != _FORMAT:
        raise AssetError(
            f"{source} is no landmark network of this version (format "
            f"{metadata.get('format')!r}, wanted {_FORMAT!r}); train one with "
            "`python -m deca.train landmarks`"
        )
    tensors = read_tensors(source)
    settings = json.loads(metadata["config"])
    points = LandmarkPoints(**{name: tensors[name] for name in _POINTS})
    net = LandmarkNet(points, LandmarkConfig.of(settings))
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
    }
    net.load_state_dict(state | {n: t for n, t in net.state_dict().items() if "num_batches" in n})
    if flame is not None:
        points.check(flame)
    return net.eval()
