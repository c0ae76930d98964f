"""Restoring and enlarging finished pictures by models that spandrel knows: GFPGAN, ESRGAN, ..."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.files import sha256_of
from assets.weights import read_tensors

_TILE = 256  # px a side that goes through an enlarging model at once
_OVERLAP = 24  # px by which tiles know of each other; what lies on the border is thrown away
# Where files keep their weights beside an optimiser's and others
_PARTS = ("params_ema.", "params-ema.", "params.", "state_dict.", "model_state_dict.", "module.")
_STAND_INS = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")


@dataclass(frozen=True, eq=False)
class Restorer:
    """A model that makes pictures better or larger, and the file it is from."""

    model: Any  # spandrel's descriptor
    name: str
    sha256: str

    @property
    def scale(self) -> int:
        """How many times larger its pictures are."""
        return int(self.model.scale)

    @property
    def wants_faces(self) -> bool:
        """Whether it is made for crops of aligned faces, not for whole pictures."""
        return str(self.model.purpose) == "FaceSR"

    def __call__(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H2 W2"]:
        """The whole image at once, on the CPU."""
        grey = self.model.input_channels == 1
        rows = []
        for one in image.float().cpu():
            given = one[None].mean(dim=1, keepdim=True) if grey else one[None]
            made = self.model(given)  # one at a time, as spandrel says
            rows.append(made.detach().clone().expand(-1, 3, -1, -1))
        return torch.cat(rows)


def load_restorer(path: Path | str) -> Restorer:
    """The model of a .pth, .pt, .ckpt or .safetensors file; spandrel tells its architecture.

    The file is read as tensors alone, and nothing in it is run. Raises AssetError for a file that
    is no such model, ValueError where spandrel is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise AssetError(f"{path} is not there; give the file of a restoring or enlarging model")
    spandrel = open_spandrel()
    tensors = _weights_of(read_tensors(path))
    try:
        model = spandrel.ModelLoader().load_from_state_dict(tensors)
    except Exception as error:
        # its architectures fail in their own ways on files that only look like theirs
        if type(error).__name__ == "UnsupportedModelError":
            said = "is of no architecture that spandrel knows"
        else:
            said = f"does not fit the architecture that it looks like ({_first_line(error)})"
        raise AssetError(
            f"{path} {said}; give the file of a model such as GFPGAN, RestoreFormer, ESRGAN or "
            "SwinIR"
        ) from error
    if not isinstance(model, spandrel.ImageModelDescriptor) or model.input_channels not in (1, 3):
        raise AssetError(
            f"{path} is a {type(model.model).__name__}, which does not turn a picture into a "
            "picture; give a restoring or enlarging model"
        )
    return Restorer(model.float().eval(), path.name, sha256_of(path))


@torch.no_grad()
def enlarged(
    restorer: Restorer, image: Float[Tensor, "B 3 H W"], *, tile: int = _TILE
) -> Float[Tensor, "B 3 H2 W2"]:
    """The image by a model of whole pictures, in tiles, so that memory does not grow with it."""
    if restorer.wants_faces:
        raise ValueError(
            f"{restorer.name} restores faces and does not enlarge pictures; give it with --restore"
        )
    height, width = image.shape[-2:]
    if max(height, width) <= tile:
        return restorer(image)
    scale = restorer.scale
    made = image.new_zeros(image.shape[0], 3, height * scale, width * scale)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            y, x = max(0, top - _OVERLAP), max(0, left - _OVERLAP)
            around = image[..., y : bottom + _OVERLAP, x : right + _OVERLAP]
            drawn = restorer(around)[
                ...,
                (top - y) * scale : (bottom - y) * scale,
                (left - x) * scale : (right - x) * scale,
            ]
            made[..., top * scale : bottom * scale, left * scale : right * scale] = drawn
    return made


@torch.no_grad()
def restored_inside(
    restorer: Restorer,
    image: Float[Tensor, "1 3 H W"],
    crop_from_image: Float[Tensor, "2 3"],
    side: int = 512,
) -> Float[Tensor, "1 3 H W"]:
    """The image with an aligned square of it restored, blended in softly toward its edges.

    `crop_from_image` maps pixels of the image to those of the square of `side`. What lies outside
    the square stays as it is, byte for byte.
    """
    height, width = image.shape[-2:]
    crop = _warped(image, _inverted(crop_from_image), (side, side))
    better = F.interpolate(restorer(crop), size=(side, side), mode="bilinear", antialias=True)
    ramp = (torch.arange(side) + 0.5).minimum(side - 0.5 - torch.arange(side)) / (side / 10)
    share = torch.minimum(ramp[:, None], ramp).clamp(max=1)[None, None]
    share = share * share * (3 - 2 * share)
    # the change is carried back, not the square: what the model leaves alone is not resampled
    change = _warped((better - crop) * share, crop_from_image, (height, width))
    return (image + change).clamp(0, 1)


def _warped(
    image: Float[Tensor, "1 C H W"], source_from_target: Float[Tensor, "2 3"], size: tuple[int, int]
) -> Float[Tensor, "1 C h w"]:
    """The image sampled where each target pixel's centre maps to; zero beyond its edges."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    there = torch.stack([x, y, torch.ones_like(x)], -1) @ source_from_target.T
    extent = there.new_tensor([image.shape[-1], image.shape[-2]])
    return F.grid_sample(
        image, (2 * there / extent - 1)[None], mode="bilinear", align_corners=False
    )


def _inverted(affine: Float[Tensor, "2 3"]) -> Float[Tensor, "2 3"]:
    square = torch.cat([affine, affine.new_tensor([[0.0, 0.0, 1.0]])])
    back: Tensor = torch.linalg.inv(square)
    return back[:2]


def _weights_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's own tensors, without the name of the part that the file keeps them in."""
    for part in _PARTS:
        found = {n.removeprefix(part): t for n, t in tensors.items() if n.startswith(part)}
        if found:
            return found
    return tensors


def open_spandrel() -> Any:
    """The package spandrel, which works without a torchvision of the right build too."""
    try:
        with _torchvision():
            return importlib.import_module("spandrel")
    except ImportError as error:
        raise ValueError(
            "restoring and enlarging by a model file needs the package spandrel; install it with "
            "`pip install 'prompt-to-avatar[restore]'`"
        ) from error


@contextmanager
def _torchvision() -> Iterator[None]:
    """torchvision, or while spandrel is imported the three names that it asks of it.

    torchvision has to match PyTorch's very build, and where it does not, importing it fails.
    """
    if "spandrel" in sys.modules:
        yield
        return
    try:
        importlib.import_module("torchvision.transforms.functional")
    except (ImportError, RuntimeError, OSError):
        pass
    else:
        yield
        return
    before = {name: module for name, module in sys.modules.items() if _is_stood_in(name)}
    for name in before:
        del sys.modules[name]
    for name in _STAND_INS:
        sys.modules[name] = ModuleType(name)
    functional: Any = sys.modules[_STAND_INS[-1]]
    functional.normalize = _normalize
    functional.rotate = _rotate
    functional.InterpolationMode = None
    try:
        yield
    finally:
        for name in _STAND_INS:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def _is_stood_in(name: str) -> bool:
    return name == "torchvision" or name.startswith("torchvision.")


def _normalize(image: Tensor, mean: list[float], std: list[float]) -> Tensor:
    shift, scale = (image.new_tensor(one)[:, None, None] for one in (mean, std))
    return (image - shift) / scale


def _rotate(*_: object, **__: object) -> Tensor:
    raise ValueError("this model needs torchvision; install the build that matches PyTorch's")


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
