"""What an album's pictures are ranked by: likeness to a photo's person, fit to their prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from assets.files import sha256_of
from assets.image import read_image
from avatar.transfer_source import FaceReader

Fit: TypeAlias = Callable[[Tensor, str], float]  # of a picture and its prompt; more is better


@dataclass(frozen=True)
class Scores:
    """What was measured of a picture; None where it was not, or no face was found."""

    shape_distance: float | None = None  # of identity codes, root mean square, standard deviations
    landmark_mm: float | None = None  # mean distance of 68 points of both neutral heads
    prompt_fit: float | None = None  # cosine of a CLIP-like model, or what the reader says of it
    note: str = ""


@dataclass(frozen=True, eq=False)
class Person:
    """Who a photo shows, by the shipped encoder."""

    shape: Float[Tensor, " S"]
    landmarks: Float[Tensor, "68 3"]  # of the neutral head, metres

    @staticmethod
    def read(image: Float[Tensor, "1 3 H W"], reader: FaceReader) -> Person:
        """The largest face's; a ValueError where there is none."""
        found = reader.read(image)
        points = reader.flame.landmarks68(found.neutral_vertices[None])[0]
        return Person(found.params.shape[0], points)

    def distances(self, other: Person) -> tuple[float, float]:
        """Root mean square of the codes' differences, and mean distance of the points in mm."""
        codes = float((self.shape - other.shape).square().mean().sqrt())
        return codes, float((self.landmarks - other.landmarks).norm(dim=1).mean()) * 1000


class Judge:
    """Scores pictures by what is there to judge them with."""

    def __init__(
        self, fit: Fit | None, person: Person | None, reader: FaceReader, name: str
    ) -> None:
        self._fit, self._person, self._reader, self.name = fit, person, reader, name

    @staticmethod
    def open(model: Path | str, clip: Path | str | None, photo: Path | None) -> Judge:
        """The judge of a photo, and of the CLIP model that is named or comes with the model."""
        reader = FaceReader()
        person = None
        if photo is not None:
            try:
                person = Person.read(read_image(photo), reader)
            except ValueError as error:
                raise ValueError(f"{photo}: {error}") from error
        fit, by = _fit_by(model, clip)
        name = f"{'' if photo is None else sha256_of(photo)[:16]}+{by}"
        return Judge(fit, person, reader, name)

    @property
    def missing(self) -> tuple[str, ...]:
        """What the pictures are not ranked by, and what that would take."""
        reasons = []
        if self._person is None:
            reasons.append("not ranked by likeness: no --photo was given")
        if self._fit is None:
            reasons.append(
                "not ranked by fit to the prompt: the model brings no CLIP, and no --clip was given"
            )
        return tuple(reasons)

    def scores(self, picture: Float[Tensor, "1 3 H W"], prompt: str) -> Scores:
        """All that can be told of one picture."""
        shape, landmark, note = None, None, ""
        if self._person is not None:
            try:
                drawn = Person.read(picture, self._reader)
                shape, landmark = self._person.distances(drawn)
            except ValueError as error:
                note = " ".join(str(error).split())
        fit = None if self._fit is None else self._fit(picture, prompt)
        return Scores(_rounded(shape), _rounded(landmark), _rounded(fit), note)


def _fit_by(model: Path | str, clip: Path | str | None) -> tuple[Fit | None, str]:
    """Who says how well a picture fits a prompt, and its name.

    The CLIP model that is named, else the one that comes with the model, else the shipped model's
    reader for its own drawings; nobody where there is none.
    """
    from diffusion.prompt_fit import fit_of_model, load_prompt_fit
    from diffusion.shipped_portrait import READER, has_reader, is_shipped, open_reader

    source = clip if clip is not None else fit_of_model(model)
    if source is not None:
        towers = load_prompt_fit(source)
        return lambda picture, prompt: float(towers.cosines(picture, [prompt])[0]), str(source)
    if is_shipped(model) and has_reader():
        reader = open_reader()
        return lambda picture, prompt: reader.scores(picture, prompt)[0], READER
    return None, ""


def places(scores: Sequence[Scores]) -> list[int | None]:
    """Each picture's place from 1 on, by the sum of its places in likeness and in prompt fit.

    Likeness is the mean of both distances' places. Pictures that lack a score which others have
    come last in it; of equal sums the earlier one is first. None for all where nothing was scored.
    """
    shape = _order([one.shape_distance for one in scores])
    landmark = _order([one.landmark_mm for one in scores])
    fit = _order([None if one.prompt_fit is None else -one.prompt_fit for one in scores])
    if shape is None and landmark is None and fit is None:
        return [None] * len(scores)
    zeros = [0] * len(scores)
    sums = torch.tensor(shape or zeros) + torch.tensor(landmark or zeros)
    total = sums / 2 + torch.tensor(fit or zeros)
    order = total.sort(stable=True).indices.tolist()
    found: list[int | None] = [None] * len(scores)
    for place, index in enumerate(order, start=1):
        found[index] = place
    return found


def _order(values: Sequence[float | None]) -> list[int] | None:
    """How many values are lower than each; those that are None come after all others."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return [len(known) if value is None else sum(one < value for one in known) for value in values]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
