"""Portrait to codes and textured head: detection, points, analysis by synthesis, unprojection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deca.appearance import HairGuess, Rgb, hair_guess, iris_color
from deca.codes import Codes, Crop
from deca.crop import crop_square
from deca.detect import Detection, detect
from deca.fit_photo import PhotoFitConfig, fit_photo
from deca.fit_points import PointFitConfig, fit_points
from deca.landmark_points import N_LANDMARKS, LandmarkPoints
from deca.landmarks import LandmarkNet, crop_of
from deca.portrait import Portrait
from deca.texture import SkinTexture, TextureConfig, skin_texture
from flame.model import Flame
from flame.outfit import Outfit

Steps = Callable[[int, int], None]
Box = tuple[float, float, float, float]

FIT_SIZE = 224  # px, as DECA
VIEW = 1.9  # side of the crop in sides of the points' square: room for hair and chin
_GIVEN_SIGMA = 0.012  # of the face's side: how well a person places points


@dataclass(frozen=True)
class ReconstructConfig:
    """Settings of the stages."""

    points: PointFitConfig = PointFitConfig()  # noqa: RUF009 - frozen
    photo: PhotoFitConfig = PhotoFitConfig()  # noqa: RUF009 - frozen
    texture: TextureConfig = TextureConfig()  # noqa: RUF009 - frozen


@dataclass(frozen=True, eq=False)
class Located:
    """Points of the one face of a portrait, and the crop that the fit looks at."""

    detection: Detection
    carried: LandmarkPoints  # which points of the head they are
    points: Float[Tensor, "L 2"]  # picture px
    sigmas: Float[Tensor, " L"]  # picture px
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
    net: LandmarkNet,
    *,
    box: Box | None = None,
    points68: Float[Tensor, "1 68 2"] | None = None,
) -> Located:
    """Find the face and its points; errors are those of `deca.detect.detect`."""
    image = portrait.image
    detection = detect(image, box=box, points=points68, net=net)
    net.points.check(flame)
    sure = True
    if points68 is not None:
        points = points68[0]
        carried = _first(net.points, N_LANDMARKS)
        span = float((points.amax(0) - points.amin(0)).max())
        sigmas = torch.full((N_LANDMARKS,), _GIVEN_SIGMA * span)
    else:
        found = net.predict(image, detection.box)
        sure = found.is_face()
        points = torch.cat([found.points68, found.points], dim=1)[0]
        sigmas = torch.cat([found.sigmas68, found.sigmas], dim=1)[0]
        carried = net.points
    center, side, roll = crop_of(points)
    side = VIEW * side
    crop = crop_square(image, center, side, FIT_SIZE, roll)
    return Located(detection, carried, points, sigmas, crop, center, side, roll, sure)


def reconstruct(
    portrait: Portrait,
    located: Located,
    flame: Flame,
    outfit: Outfit,
    config: ReconstructConfig | None = None,
    progress: Steps | None = None,
) -> Reconstruction:
    """Codes, texture and appearance of a located face."""
    config = config or ReconstructConfig()
    ratio = FIT_SIZE / located.side
    points, sigmas = located.crop.points(located.points), located.sigmas * ratio
    start = fit_points(flame, located.carried, points, sigmas, FIT_SIZE, config.points)
    codes = fit_photo(
        flame,
        outfit.albedo,
        located.crop.image,
        start,
        located.carried,
        points,
        sigmas,
        config.photo,
        progress,
    )
    with torch.no_grad():
        fitted = located.carried.on(flame(codes.params).verts)
        seen = codes.camera.project(fitted, (FIT_SIZE, FIT_SIZE))[0, :, :2]
        error = (seen - points).norm(dim=1) / ratio
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
