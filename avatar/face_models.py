"""Pictures to faces by whichever model is asked for: the shipped one, or published ones."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deca.code_net import CodeNet, load_code_net
from deca.codes import Codes, Crop
from deca.detect import BYSTANDER, MIN_FACE, choose, detect, detect_all
from deca.encode import Encoding, encode_box, turn_in_picture
from deca.landmarks import LandmarkNet, load_landmark_net
from deca.refine import Refiner
from flame.camera import Camera
from flame.load import load_head
from flame.model import Flame
from flame.outfit import load_outfit
from flame.params import Params, arkit_from_params

SHIPPED = "shipped"
_FILLED = 0.7  # share of a picture's side that the face has where it is cropped already


class NoFaceError(ValueError):
    """There is no face in the picture, or none that is large enough."""


@dataclass(frozen=True, eq=False)
class FaceReading:
    """What a model says of one face; lengths in metres."""

    vertices: Float[Tensor, "V 3"]  # with the expression, without the head's pose
    neutral_vertices: Float[Tensor, "V 3"]  # identity alone
    faces: Int[Tensor, "F 3"]
    landmarks: Float[Tensor, "68 3"]  # on `vertices`
    landmarks2d: Float[Tensor, "68 2"]  # picture px
    codes: dict[str, Tensor]  # by name, without a batch axis
    params: Params
    posed: Float[Tensor, "1 V 3"]  # as `camera` sees the head
    camera: Camera  # of `crop`
    crop: Crop
    seconds: dict[str, float]  # by stage
    warnings: tuple[str, ...] = ()
    albedo: Float[Tensor, "1 A"] | None = None  # codes of the model's own albedo
    light: Float[Tensor, "1 9 3"] | None = None
    seen: FaceReading | None = None  # as the picture shows it, where the expression is another's


class FaceModel(ABC):
    """A way from pictures to faces; `find` and `read` are without gradients."""

    name: str
    flame: Flame
    points: LandmarkNet  # that finds the 68 points

    @abstractmethod
    def read(
        self,
        image: Float[Tensor, "1 3 H W"],
        box: Float[Tensor, " 4"] | None = None,
        *,
        refined: bool = False,
        cropped: bool = False,
    ) -> FaceReading:
        """The face in `box` (left, top, right, bottom; px), by default the picture's largest.

        `cropped` pictures show one face that fills them: nothing is searched. Raises NoFaceError
        where there is none.
        """

    def find(self, image: Float[Tensor, "1 3 H W"]) -> list[Float[Tensor, " 4"]]:
        """The boxes of the faces that the picture may be of, largest first.

        Bystanders, much smaller than the largest, are passed over. NoFaceError where none is.
        """
        boxes = self.find_all(image)
        sides = [float((box[2:] - box[:2]).max()) for box in boxes]
        return [box for box, side in zip(boxes, sides, strict=True) if side >= BYSTANDER * sides[0]]

    def find_all(self, image: Float[Tensor, "1 3 H W"]) -> list[Float[Tensor, " 4"]]:
        """The boxes of all faces, largest first, without those that are too small to read."""
        found = [face.box for face in detect_all(image, net=self.points)]
        boxes = sorted(found, key=lambda box: -float((box[2:] - box[:2]).max()))
        try:
            choose(boxes[:1])  # says what is wrong with the largest
        except ValueError as error:
            raise NoFaceError(str(error)) from error
        return [box for box in boxes if float((box[2:] - box[:2]).max()) >= MIN_FACE]

    def _chosen(
        self, image: Tensor, box: Tensor | None, cropped: bool
    ) -> tuple[Float[Tensor, " 4"], tuple[str, ...]]:
        """The box to read, and what the user should know of the choice."""
        if box is not None:
            return detect(image, box=_four(box)).box, ()
        if cropped:
            return filled_box(image), ()
        boxes = self.find(image)
        if len(boxes) == 1:
            return boxes[0], ()
        note = f"{len(boxes)} faces were found and the largest was taken; --faces all reads each"
        return boxes[0], (note,)


class ShippedModel(FaceModel):
    """The shipped head with the shipped encoder."""

    name = SHIPPED

    def __init__(self, flame: Flame | None = None, net: CodeNet | None = None) -> None:
        self.flame = flame or load_head()
        self.net = net or load_code_net(self.flame)
        self.points = load_landmark_net(self.flame)
        self._faces = self.flame.topology.faces()
        self._made: Refiner | None = None

    def read(
        self,
        image: Float[Tensor, "1 3 H W"],
        box: Float[Tensor, " 4"] | None = None,
        *,
        refined: bool = False,
        cropped: bool = False,
    ) -> FaceReading:
        """The face in `box`; see FaceModel.read."""
        seconds: dict[str, float] = {}
        with timed(seconds, "find"):
            chosen, warnings = self._chosen(image, box, cropped)
        with timed(seconds, "encode"):
            encoding = encode_box(image, chosen, self.flame, self.net)
        codes = encoding.codes
        if not encoding.landmarks.is_face():
            warnings += ("the network is not sure that this is a face; look at the result",)
        if refined:
            with timed(seconds, "refine"):
                codes = self._refiner()(image, encoding)
        with timed(seconds, "mesh"):
            return self._reading(codes, encoding, seconds, warnings)

    def _refiner(self) -> Refiner:
        if self._made is None:
            self._made = Refiner(self.flame, self.net.landmarks.points, load_outfit().albedo)
        return self._made

    @torch.no_grad()
    def _reading(
        self, codes: Codes, encoding: Encoding, seconds: dict[str, float], warnings: tuple[str, ...]
    ) -> FaceReading:
        params, flame = codes.params, self.flame
        both = flame(stacked([without_pose(params), at_rest(params), params])).verts
        named = {name: getattr(params, name)[0] for name in params.__dataclass_fields__}
        named |= {
            "arkit": arkit_from_params(params)[0],
            "albedo": codes.albedo[0],
            "light": codes.light[0],
            "landmark_sigmas2d": encoding.landmarks.sigmas68[0],
            **camera_codes(codes.camera, encoding.crop, params),
        }
        return FaceReading(
            vertices=both[0],
            neutral_vertices=both[1],
            faces=self._faces,
            landmarks=flame.landmarks68(both[:1])[0],
            landmarks2d=encoding.landmarks.points68[0],
            codes=named,
            params=params,
            posed=both[2:],
            camera=codes.camera,
            crop=encoding.crop,
            seconds=seconds,
            warnings=warnings,
            albedo=codes.albedo,
            light=codes.light,
        )


def open_model(name: str = SHIPPED) -> FaceModel:
    """The model of a name: "shipped", "deca", "emoca", "mica", "smirk", or a mix of those.

    Mixes are names joined by +, "mica+emoca+deca", or recipes as `deca.official_codes.Mix.read`
    takes them. Published models are read from the user's folder; AssetError names a missing file.
    """
    if name.strip().lower() == SHIPPED:
        return ShippedModel()
    from avatar.official_models import OfficialModel, read_mix

    return OfficialModel(name.strip().lower(), read_mix(name))


def filled_box(image: Float[Tensor, "1 3 H W"]) -> Float[Tensor, " 4"]:
    """Where the face is taken to be in a picture that is cropped round it."""
    height, width = image.shape[-2:]
    half = _FILLED * min(height, width) / 2
    return torch.tensor([width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half])


def camera_codes(camera: Camera, crop: Crop, params: Params) -> dict[str, Tensor]:
    """The camera of a crop by name, where the crop lies in the picture, and the head's turn there.

    Crops of tilted faces are turned upright: `root` is the head's turn in the crop, `rotation` that
    in the picture.
    """
    return {
        "rotation": turn_in_picture(params, crop.matrix)[0],
        "camera_scale": camera.scale[0],
        "camera_shift": camera.shift[0],
        "camera_fov_deg": camera.fov_deg[0],
        "crop_from_image": crop.matrix,
        "crop_side": torch.tensor(crop.image.shape[-1]),
    }


def without_pose(params: Params) -> Params:
    """The same head with its neck straight and looking ahead; jaw, eyes and expression stay."""
    still = torch.zeros_like(params.root)
    return Params(params.shape, params.expression, still, still, params.jaw, params.eyes)


def at_rest(params: Params) -> Params:
    """The same person without expression or pose."""
    still = torch.zeros_like(params.root)
    return Params(
        params.shape,
        torch.zeros_like(params.expression),
        still,
        still,
        still,
        torch.zeros_like(params.eyes),
    )


def stacked(parts: list[Params]) -> Params:
    """Several heads as one batch."""
    names = Params.__dataclass_fields__
    return Params(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Enter how long a block took."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def _four(box: Tensor) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(value) for value in box)
    return left, top, right, bottom
