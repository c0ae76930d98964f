"""Who somebody is, as features: the files that can say so are the user's, and may be absent."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from assets.arrays import array_of, read_arrays
from assets.errors import AssetError
from assets.store import official_file
from deca.iresnet import CROP_SIDE as ARCFACE_SIDE
from deca.mica import Mica
from deca.official_crop import ARCFACE_POINTS
from deca.official_encoder import filled
from deca.resnet import CROP_SIDE, Bottleneck, ResNet50

log = logging.getLogger(__name__)

VGGFACE2 = "deca/resnet50_ft_weight.pkl"
MICA_FILES = ("mica/mica.tar", "deca/mica.tar", "mica.tar")
OFF = "off"
_MEAN_BGR = (91.4953, 103.8827, 131.0912)
_MARGIN = 10 / 224  # of a crop's side: published training cuts this off
_SHIFT = 0.5


@runtime_checkable
class Identity(Protocol):
    """Something that tells people apart."""

    name: str

    def to(self, device: torch.device) -> None:
        """Move the network to a device."""
        ...

    def __call__(
        self, images: Float[Tensor, "B 3 K K"], points: Float[Tensor, "B 68 2"]
    ) -> Float[Tensor, "B N"]:
        """Features of crops 0..1 whose faces have their 68 points (-1..1) there."""
        ...


class CaffeResNet50(ResNet50):
    """VGGFace2's ResNet-50: strides sit on the first convolutions, and pooling rounds up."""

    def __init__(self) -> None:
        super().__init__()
        for stage in (self.layer2, self.layer3, self.layer4):
            block = stage[0]
            assert isinstance(block, Bottleneck)
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)

    def forward(self, images: Float[Tensor, "B 3 224 224"]) -> Float[Tensor, "B 2048"]:
        """Pooled features."""
        features = F.relu(self.bn1(self.conv1(images)))
        features = F.max_pool2d(features, 3, 2, ceil_mode=True)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
        return F.avg_pool2d(features, 7).flatten(1)


class VggFace2:
    """Pooled features of the published ResNet-50, on crops without their margin.

    Its input is BGR, 0..255, less a mean. Published DECA doubled that and took one off, which the
    network was not trained for; `published_input` does so too.
    """

    def __init__(self, net: nn.Module, *, published_input: bool = False) -> None:
        self.name = f"VGGFace2 ResNet-50{', published input' if published_input else ''}"
        self.net = net.eval().requires_grad_(False)
        self.published_input = published_input

    def to(self, device: torch.device) -> None:
        """Move the network to a device."""
        self.net.to(device)

    @staticmethod
    def read(path: Path, *, published_input: bool = False) -> VggFace2:
        """The network in `resnet50_ft_weight.pkl`; AssetError lists every key that does not fit."""
        tensors = {}
        for name, value in read_arrays(path).items():
            if (array := array_of(value)) is not None and not name.startswith("fc."):
                tensors[name] = torch.from_numpy(array.copy())
        with torch.device("meta"):
            wanted = CaffeResNet50().state_dict()
        counters = [name for name in wanted if name.endswith("num_batches_tracked")]
        tensors |= {n: torch.tensor(0) for n in counters if n not in tensors}
        return VggFace2(filled(CaffeResNet50, tensors, str(path)), published_input=published_input)

    def __call__(
        self, images: Float[Tensor, "B 3 K K"], points: Float[Tensor, "B 68 2"]
    ) -> Float[Tensor, "B 2048"]:
        """Features; the points are not needed."""
        margin = round(_MARGIN * images.shape[-1])
        end = images.shape[-1] - margin
        mean = images.new_tensor(_MEAN_BGR)[:, None, None]
        values = images.flip(1) * 255 - mean
        values = values[..., margin:end, margin:end]
        if self.published_input:
            values = values * 2 - 1
        values = F.interpolate(
            values, size=(CROP_SIDE, CROP_SIDE), mode="bilinear", align_corners=False
        )
        features: Tensor = self.net(values)
        return features


class ArcFace:
    """Features of MICA's ArcFace, on upright crops of its own made of the given ones."""

    name = "MICA's ArcFace"

    def __init__(self, net: nn.Module) -> None:
        self.net = net.eval().requires_grad_(False)

    def to(self, device: torch.device) -> None:
        """Move the network to a device."""
        self.net.to(device)

    @staticmethod
    def read(path: Path) -> ArcFace:
        """The network in `mica.tar`."""
        return ArcFace(Mica.read(path).networks.arcface)

    def __call__(
        self, images: Float[Tensor, "B 3 K K"], points: Float[Tensor, "B 68 2"]
    ) -> Float[Tensor, "B 512"]:
        """Features of the faces, turned upright by their points."""
        aligned = F.grid_sample(images, aligning_grid(points), align_corners=False)
        features: Tensor = self.net(aligned * 2 - 1)
        return features


def aligning_grid(points: Float[Tensor, "B 68 2"]) -> Float[Tensor, "B 112 112 2"]:
    """Where in crops (-1..1) the pixels of ArcFace's crops lie: least squares over five points."""
    eyes = [points[:, 36:42].mean(1), points[:, 42:48].mean(1)]
    five = torch.stack([*eyes, points[:, 30], points[:, 48], points[:, 54]], dim=1)
    goals = points.new_tensor(ARCFACE_POINTS) + _SHIFT
    # the similarity from ArcFace's pixels to the crop is a complex factor and a complex shift
    start = torch.view_as_complex((goals - goals.mean(0)).contiguous())
    end = torch.view_as_complex((five - five.mean(1, keepdim=True)).contiguous())
    turn = (start.conj() * end).sum(1) / start.abs().square().sum()
    place = torch.arange(ARCFACE_SIDE, dtype=points.dtype, device=points.device) + _SHIFT
    y, x = torch.meshgrid(place, place, indexing="ij")
    offset = torch.view_as_complex((torch.stack([x, y], -1) - goals.mean(0)).contiguous())
    moved = torch.view_as_real(turn[:, None, None] * offset)
    return moved + five.mean(1)[:, None, None]


def open_identity(choice: str, *, published_input: bool = False) -> Identity | None:
    """The identity features that `choice` names: `auto`, `off`, or a file of the user's.

    `auto` takes VGGFace2's or MICA's file from the user's folder. Without one there are none, which
    the log says.
    """
    if choice == OFF:
        log.warning("identity loss is off, as asked")
        return None
    if choice != "auto":
        return _read(Path(choice), published_input)
    for name in (VGGFACE2, *MICA_FILES):
        if (path := official_file(name)) is not None:
            return _read(path, published_input)
    log.warning(
        "identity loss is off: neither %s nor %s is in the user's folder",
        VGGFACE2,
        MICA_FILES[0],
    )
    return None


def _read(path: Path, published_input: bool) -> Identity:
    if not path.is_file():
        raise AssetError(f"{path} is not there; give VGGFace2's or MICA's file, auto or off")
    if path.suffix == ".pkl":  # MICA's file ends in .tar; both check what they hold
        return VggFace2.read(path, published_input=published_input)
    return ArcFace.read(path)
