"""The face detector's network: a heat map of faces with their size, place and roll.

One stage, without anchors, after Zhou et al. 2019, "Objects as Points". It knows faces of one
range of sizes; `deca.face_search` shows it a picture at several scales, so that it finds faces of
any size. Trained on pictures of the shipped head alone.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from assets.errors import AssetError
from assets.store import shipped
from assets.weights import read_metadata, read_tensors, write_tensors

SHIPPED_FACES = "faces/faces.safetensors"
STRIDE = 8  # px between cells of the heat map
BASE_SIDE = 32.0  # px; sizes are logarithms over it
SIDES = (18.0, 80.0)  # px; faces of these sizes are known, at the scale that the network sees
_FORMAT = "face-net-1"


@dataclass(frozen=True)
class FaceConfig:
    """Width of the network; small enough for one CPU core."""

    widths: tuple[int, ...] = (16, 24, 48, 96)  # at 1/2, 1/4, 1/8 and 1/16 of the picture
    blocks: tuple[int, ...] = (0, 1, 1, 2)  # residual blocks at each


@dataclass(frozen=True, eq=False)
class FaceMaps:
    """The network's answer: one cell for every 8 x 8 pixels."""

    logit: Float[Tensor, "B R C"]  # log odds that a face has its middle in the cell
    place: Float[Tensor, "B 2 R C"]  # of the middle, in cells from the cell's own middle; x, y
    log_side: Float[Tensor, "B R C"]  # ln of the bounding square's side over BASE_SIDE px
    upright: Float[Tensor, "B 2 R C"]  # cosine and sine of the roll, clockwise, of any length


def _convolution(given: int, width: int, stride: int = 1, size: int = 3) -> nn.Sequential:
    """Convolution, batch norm (foldable), ReLU."""
    return nn.Sequential(
        nn.Conv2d(given, width, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width)
        self.second = _convolution(width, width)[:2]

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(self.first(x)))


class FaceNet(nn.Module):
    """Pictures -> maps of faces."""

    def __init__(self, config: FaceConfig | None = None) -> None:
        super().__init__()
        self.config = config or FaceConfig()
        widths, eighth = self.config.widths, self.config.widths[2]
        layers: list[nn.Module] = []
        for given, width, blocks in zip((3, *widths), widths, self.config.blocks, strict=False):
            layers.append(_convolution(given, width, 2))
            layers += [Residual(width) for _ in range(blocks)]
        first = len(layers) - 1 - self.config.blocks[-1]
        self.fine = nn.Sequential(*layers[:first])
        self.coarse = nn.Sequential(*layers[first:])
        self.back = _convolution(widths[-1], eighth, size=1)
        self.mix = _convolution(eighth, eighth)
        self.heads = nn.Conv2d(eighth, 6, 1)
        with torch.no_grad():
            for name, value in self.heads.named_parameters():
                if name == "bias":
                    value.zero_()
                    value[0] = math.log(0.01)  # faces are rare

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> FaceMaps:
        """Maps of pictures 0..1 whose sides are multiples of 16 px; keeps gradients."""
        near = self.fine(images * 2 - 1)
        far = F.interpolate(self.back(self.coarse(near)), scale_factor=2, mode="nearest")
        maps = self.heads(self.mix(near + far))
        return FaceMaps(maps[:, 0], maps[:, 1:3], maps[:, 3], maps[:, 4:6])


def save_face_net(net: FaceNet, path: Path, metadata: dict[str, str]) -> list[Path]:
    """Write the network as safetensors, halves; batch norm's statistics stay whole."""
    tensors = {
        name: value if "running_" in name else value.half()
        for name, value in net.state_dict().items()
        if "num_batches" not in name
    }
    config = json.dumps(asdict(net.config))
    return write_tensors(tensors, path, {**metadata, "format": _FORMAT, "config": config})


def load_face_net(path: Path | None = None) -> FaceNet:
    """The network of a file, ready to predict; the shipped one by default."""
    source = shipped(SHIPPED_FACES) if path is None else path
    metadata = read_metadata(source)
    if metadata.get("format") != _FORMAT:
        raise AssetError(
            f"{source} is no face detector of this version (format {metadata.get('format')!r}, "
            f"wanted {_FORMAT!r}); train one with `python -m deca.train faces`"
        )
    settings = {name: tuple(value) for name, value in json.loads(metadata["config"]).items()}
    net = FaceNet(FaceConfig(**settings))
    state = {name: value.float() for name, value in read_tensors(source).items()}
    net.load_state_dict(state | {n: t for n, t in net.state_dict().items() if "num_batches" in n})
    return net.eval()


def folded(net: FaceNet) -> FaceNet:
    """The same answers with batch norm folded into the convolutions, for speed; a copy."""
    quick = FaceNet(net.config)
    quick.load_state_dict(net.state_dict())
    _fold(quick.eval())
    return quick.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _fold(module: nn.Module) -> None:
    for child in module.children():
        if (
            isinstance(child, nn.Sequential)
            and isinstance(child[0], nn.Conv2d)
            and isinstance(child[1], nn.BatchNorm2d)
        ):
            child[0] = fuse_conv_bn_eval(child[0], child[1])
            child[1] = nn.Identity()
        else:
            _fold(child)
