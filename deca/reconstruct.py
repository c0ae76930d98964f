"""Portrait to codes and textured head: encoder, analysis by synthesis, unprojection."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deca.appearance import Rgb, iris_color
from deca.code_net import CODE_VIEW, CodeNet
from deca.codes import Codes, Crop
from deca.crop import crop_square
from deca.detect import Detection, detect
from deca.encode import Encoding, encode_box, seen_by
from deca.fit_pixels import PixelFitConfig
from deca.hair_guess import HairGuess, hair_guess
from deca.landmark_points import N_LANDMARKS, LandmarkPoints
from deca.portrait import Portrait
from deca.refine import Refiner
from deca.texture import SkinTexture, TextureConfig, skin_texture
from flame.model import Flame
from flame.outfit import Outfit

Box = tuple[float, float, float, float]

FIT_SIZE = 224  # px, as DECA
VIEW = 1.9  # side of the crop in sides of the points' square: room for hair and chin


@dataclass(frozen=True)
class ReconstructConfig:
    """Settings of the stages."""

    pixels: PixelFitConfig = PixelFitConfig()  # noqa: RUF009 - frozen
    texture: TextureConfig = TextureConfig()  # noqa: RUF009 - frozen


@dataclass(frozen=True, eq=False)
class Located:
    """Points of the one face of a portrait, what the encoder says of it, and a crop round it."""

    detection: Detection
    encoding: Encoding
    network_points: LandmarkPoints  # what the encoding's landmarks are
    given68: Float[Tensor, "1 68 2"] | None
    carried: LandmarkPoints  # which points of the head they are
    points: Float[Tensor, "L 2"]  # picture px
    crop: Crop  # FIT_SIZE
    center: Float[Tensor, 2]
    side: float
    roll_rad: float
    sure: bool  # whether the network takes what it saw for a face

    def closer(self, image: Float[Tensor, "1 3 H W"], size: int) -> Crop:
        """The same square of the picture at another resolution."""
        return crop_square(image, self.center, self.side, size, self.roll_rad)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What one portrait gave."""

    codes: Codes
    located: Located
    texture: SkinTexture
    iris: Rgb
    hair: HairGuess
    point_error_px: Float[Tensor, " L"]  # picture px, fitted model against the points


def locate(
    portrait: Portrait,
    flame: Flame,
    net: CodeNet,
    *,
    box: Box | None = None,
    points68: Float[Tensor, "1 68 2"] | None = None,
) -> Located:
    """Find the face, its points and first codes; errors are those of `deca.detect.detect`."""
    image = portrait.image
    finder, _ = net.complete()
    detection = detect(image, box=box, points=points68, net=finder)
    encoding = encode_box(image, detection.box, flame, net, passes=3, roll_rad=detection.roll_rad)
    found, carried = encoding.landmarks, net.landmarks.points
    points = torch.cat([found.points68, found.points], dim=1)[0]
    sure = found.is_face() or points68 is not None
    if points68 is not None:
        points, carried = points68[0], _first(carried, N_LANDMARKS)
    framing = encoding.framing
    side = VIEW * framing.side
    crop = crop_square(image, framing.center, side, FIT_SIZE, framing.roll_rad)
    return Located(
        detection, encoding, net.landmarks.points, points68, carried, points, crop,
        framing.center, side, framing.roll_rad, sure,
    )  # fmt: skip


def reconstruct(
    portrait: Portrait,
    located: Located,
    flame: Flame,
    outfit: Outfit,
    config: ReconstructConfig | None = None,
) -> Reconstruction:
    """Codes, texture and appearance of a located face."""
    config = config or ReconstructConfig()
    ratio = FIT_SIZE / located.side
    refine = Refiner(flame, located.network_points, outfit.albedo)
    codes = refine(portrait.image, located.encoding, config.pixels, points68=located.given68)
    codes = dataclasses.replace(codes, camera=seen_by(codes.camera, VIEW / CODE_VIEW))
    with torch.no_grad():
        fitted = located.carried.on(flame(codes.params).verts)
        seen = codes.camera.project(fitted, (FIT_SIZE, FIT_SIZE))[0, :, :2]
        error = (seen - located.crop.points(located.points)).norm(dim=1) / ratio
    fine = located.closer(portrait.image, _fine_size(located.side))
    texture = skin_texture(flame, outfit.albedo, codes, fine.image, config.texture)
    return Reconstruction(
        codes,
        located,
        texture,
        iris_color(flame, codes, fine.image),
        hair_guess(flame, codes, located.closer(portrait.image, 320).image, outfit.hair),
        error,
    )


def _fine_size(side: float) -> int:
    """Crop pixels close to the picture's own, within what a texture can hold."""
    return int(min(max(side, 256), 1024))


def _first(points: LandmarkPoints, count: int) -> LandmarkPoints:
    return LandmarkPoints(
        points.corners[:count], points.bary[:count], points.flip[:count], points.rest[:count]
    )
