"""Several photos of one person: one identity and one skin, a face, a turn and a light for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deca.appearance import iris_color
from deca.code_net import CODE_VIEW, CodeNet
from deca.codes import Codes
from deca.encode import seen_by
from deca.fit_pixels import PixelFitConfig
from deca.hair_guess import HairGuess, hair_guess
from deca.multi_texture import MergedTexture, MultiTextureConfig, merge_views
from deca.portrait import Portrait
from deca.reconstruct import FIT_SIZE, VIEW, Located, Reconstruction, locate
from deca.refine import Refiner
from deca.sequence_follow import sharpness
from deca.sequence_identity import shared_shape
from deca.sequence_view import View
from flame.model import Flame
from flame.outfit import Outfit
from flame.params import arkit_from_params

MOST_PHOTOS = 16


@dataclass(frozen=True)
class PhotosConfig:
    """How photos become one person."""

    alone: PixelFitConfig = PixelFitConfig()  # noqa: RUF009 - frozen; each photo by itself
    # all but the identity once more, for the one that is shared
    last: PixelFitConfig = PixelFitConfig(blurs=(1.0, 0.6, 0.6))  # noqa: RUF009
    near: float = 0.5  # of the encoder's uncertainty is left after the first look at all photos
    held: float = 0.02  # standard deviations, of the identity in the last look
    stranger: float = 2.3  # typical distances of one person's photos from which it is another's
    spread: float = 0.3  # standard deviations that the encoder's answers to one person differ by
    largest: int = 640  # px a side of the pictures that the skin is taken from
    texture: MultiTextureConfig = dataclasses.field(default_factory=MultiTextureConfig)


@dataclass(frozen=True, eq=False)
class Gathered:
    """One person out of several photos."""

    found: Reconstruction  # of the first photo, with what all tell
    best: int  # number of the photo that eyes were read from
    codes: tuple[Codes, ...]  # of every photo, for the crop of its encoding; one shape
    merged: MergedTexture
    strangers: tuple[int, ...]  # photos that seem to show somebody else


def locate_all(portraits: Sequence[Portrait], flame: Flame, net: CodeNet) -> list[Located]:
    """The face of every photo; a ValueError names the photo that shows none, or several."""
    found = []
    for portrait in portraits:
        try:
            found.append(locate(portrait, flame, net))
        except ValueError as error:
            raise ValueError(f"{portrait.name}: {error}") from error
    return found


@torch.no_grad()
def gather(
    portraits: Sequence[Portrait],
    located: Sequence[Located],
    flame: Flame,
    outfit: Outfit,
    config: PhotosConfig | None = None,
) -> Gathered:
    """One identity and skin of photos whose order says nothing; nothing is smoothed.

    Each photo is refined by itself, and again from the identity that they make together; then
    each one's expression, pose and light are found for the identity that they end at.
    """
    if len(portraits) < 2 or len(portraits) != len(located):
        raise ValueError(
            f"{len(portraits)} photos and {len(located)} faces were given; give two photos or more "
            "and the face of each"
        )
    config = config or PhotosConfig()
    refine = Refiner(flame, located[0].network_points, outfit.albedo)
    both = list(zip(portraits, located, strict=True))
    alone = [refine(photo.image, face.encoding, config.alone) for photo, face in both]
    worth = torch.tensor([_worth(face) for face in located])
    worth = worth / worth.sum()
    sigma = located[0].encoding.guess.shape_sigma
    shapes = torch.cat([codes.params.shape for codes in alone])
    shape, _ = shared_shape(shapes, worth, sigma)
    closer = [
        _from_identity(photo, face, own, shape, config.near * sigma, refine, config.alone)
        for (photo, face), own in zip(both, alone, strict=True)
    ]
    shape = torch.einsum("n,ns->s", worth, torch.cat([own.params.shape for own in closer]))
    codes = [
        _held(photo, face, own, shape, refine, config)
        for (photo, face), own in zip(both, closer, strict=True)
    ]
    views = [
        _view(number, photo, face, own, config)
        for number, ((photo, face), own) in enumerate(zip(both, codes, strict=True))
    ]
    albedo = torch.einsum("n,na->a", worth, torch.cat([own.albedo for own in codes]))
    merged = merge_views(flame, outfit.albedo, shape, albedo, tuple(views), config.texture)
    # eyes and hair are read best from the front
    frontal = [float(view.rotation.norm()) - 0.5 * view.score for view in views]
    best = frontal.index(min(frontal))
    seen = torch.cat([face.encoding.codes.params.shape for face in located])
    return Gathered(
        _first(both, codes, views, best, merged, flame, outfit),
        best,
        tuple(codes),
        merged,
        strangers(seen, config),
    )


def strangers(shapes: Float[Tensor, "N S"], config: PhotosConfig | None = None) -> tuple[int, ...]:
    """Numbers of the answers that are far from what the others have in the middle.

    Of two that differ neither is right: the second is named.
    """
    config = config or PhotosConfig()
    known = shapes[:, :10]
    apart = []
    for number in range(len(known)):
        others = torch.cat([known[:number], known[number + 1 :]])
        usual = config.spread * (1 + 1 / len(others)) ** 0.5
        away = (known[number] - others.median(0).values).square().mean().sqrt()
        apart.append(float(away) / usual)
    far = [number for number, distance in enumerate(apart) if distance > config.stranger]
    return tuple(far[-1:]) if len(known) == 2 else tuple(far)


def agreed_hair(guesses: Sequence[HairGuess], best: int) -> HairGuess:
    """A guess of the style that most photos show; `best` decides between equals, and is preferred.

    What is behind the head is taken for hair now and then, and seldom in every photo.
    """
    styles = [guess.style for guess in guesses]
    most = max(styles.count(style) for style in styles)
    chosen = [guess for guess in guesses if styles.count(guess.style) == most]
    return guesses[best] if styles.count(guesses[best].style) == most else chosen[0]


def _worth(face: Located) -> float:
    """How much a photo can know: sure points, a large face."""
    points = face.encoding.landmarks
    certainty = 1 / (1 + (points.uncertainty() / 0.03) ** 2)
    return max(certainty * min(1.0, face.encoding.framing.side / 120), 1e-3)


def _from_identity(
    photo: Portrait,
    face: Located,
    own: Codes,
    shape: Float[Tensor, " S"],
    sigma: Float[Tensor, " S"],
    refine: Refiner,
    config: PixelFitConfig,
) -> Codes:
    """The photo's codes refined from a shape that is known up to `sigma`."""
    first = face.encoding.guess
    start = dataclasses.replace(own, params=dataclasses.replace(own.params, shape=shape[None]))
    guess = dataclasses.replace(
        first, params=dataclasses.replace(first.params, shape=shape[None]), shape_sigma=sigma
    )
    encoding = dataclasses.replace(face.encoding, codes=start, guess=guess)
    return refine(photo.image, encoding, config)


def _held(
    photo: Portrait,
    face: Located,
    own: Codes,
    shape: Float[Tensor, " S"],
    refine: Refiner,
    config: PhotosConfig,
) -> Codes:
    """The photo's codes with exactly the shape of all photos."""
    sigma = torch.full_like(shape, config.held)
    codes = _from_identity(photo, face, own, shape, sigma, refine, config.last)
    params = dataclasses.replace(codes.params, shape=shape[None].clone())
    return dataclasses.replace(codes, params=params)


def _view(number: int, photo: Portrait, face: Located, codes: Codes, config: PhotosConfig) -> View:
    side = int(min(max(face.side, 160), config.largest))
    picture = face.closer(photo.image, side).image
    weights = arkit_from_params(codes.params)[0]
    points = face.encoding.landmarks
    confidence = points.face_probability / (1 + (points.uncertainty() / 0.045) ** 2)
    lids = float(weights[[0, 7]].mean())
    return View(
        number,
        picture,
        weights,
        codes.params.root[0],
        seen_by(codes.camera, VIEW / CODE_VIEW),
        confidence * sharpness(picture) * (1 - 0.5 * lids),
    )


def _first(
    both: list[tuple[Portrait, Located]],
    codes: list[Codes],
    views: list[View],
    best: int,
    merged: MergedTexture,
    flame: Flame,
    outfit: Outfit,
) -> Reconstruction:
    """The reconstruction of the first photo with the skin and hair of all, eyes of the best."""

    def of_crop(number: int) -> Codes:
        used = [view.index for view in merged.views]
        light = codes[number].light
        if number in used:
            light = merged.lights[used.index(number)][None]
        return Codes(codes[number].params, merged.albedo[None], views[number].camera, light)

    face, own = both[0][1], of_crop(0)
    fitted = face.carried.on(flame(own.params).verts)
    seen = own.camera.project(fitted, (FIT_SIZE, FIT_SIZE))[0, :, :2]
    error = (seen - face.crop.points(face.points)).norm(dim=1) * face.side / FIT_SIZE
    guesses = [
        hair_guess(flame, of_crop(number), seen.closer(photo.image, 320).image, outfit.hair)
        for number, (photo, seen) in enumerate(both)
    ]
    hair = agreed_hair(guesses, best)
    iris = iris_color(flame, of_crop(best), views[best].image)
    return Reconstruction(own, face, merged.texture, iris, hair, error)
