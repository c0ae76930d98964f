"""The encoder's codes, polished against points and pixels; the encoder is the prior."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from deca.code_net import CODE_VIEW
from deca.codes import Codes
from deca.crop import crop_square
from deca.encode import Encoding, seen_by
from deca.fit_pixels import PixelFitConfig, face_surface, fit_pixels
from deca.landmark_points import N_LANDMARKS, LandmarkPoints
from flame.albedo import AlbedoModel
from flame.model import Flame

REFINE_SIDE = 224  # px, as DECA
REFINE_VIEW = 1.25  # the crop's side over the bounding square of the points
_GIVEN_SIGMA = 0.012  # of the face's side: how well a person places points


class Refiner:
    """Polishes encodings of one head model; what does not change between pictures is made once."""

    def __init__(self, flame: Flame, points: LandmarkPoints, albedo: AlbedoModel) -> None:
        self.surface = face_surface(flame, points)
        self.albedo = albedo

    @torch.no_grad()
    def __call__(
        self,
        image: Float[Tensor, "1 3 H W"],
        encoding: Encoding,
        config: PixelFitConfig | None = None,
        *,
        points68: Float[Tensor, "1 68 2"] | None = None,
    ) -> Codes:
        """Codes for the encoding's own crop; `points68` (px of the picture) replace those found."""
        framing = encoding.framing
        side = REFINE_VIEW * framing.side
        crop = crop_square(image, framing.center, side, REFINE_SIDE, framing.roll_rad)
        ratio = REFINE_VIEW / CODE_VIEW
        codes = dataclasses.replace(encoding.codes, camera=seen_by(encoding.codes.camera, ratio))
        guess = dataclasses.replace(encoding.guess, camera=codes.camera)
        found = encoding.landmarks
        points = torch.cat([found.points68, found.points], dim=1)[0]
        sigmas = torch.cat([found.sigmas68, found.sigmas], dim=1)[0]
        if points68 is not None:
            points, sigmas = points.clone(), sigmas.clone()
            points[:N_LANDMARKS] = points68[0]
            sigmas[:N_LANDMARKS] = _GIVEN_SIGMA * framing.side
            sigmas[N_LANDMARKS:] = torch.inf  # what a person says overrules the network
        scale = REFINE_SIDE / side
        refined = fit_pixels(
            self.surface, self.albedo, crop.image, crop.points(points), sigmas * scale, codes,
            guess, config,
        )  # fmt: skip
        return dataclasses.replace(refined, camera=seen_by(refined.camera, 1 / ratio))
