"""Faces of a picture made better by a face-restoring model, each aligned as the model wants it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion.restore import Restorer, enlarged, restored_inside

if TYPE_CHECKING:
    from deca.landmarks import LandmarkNet

Finder: TypeAlias = Callable[[Tensor], list[Tensor]]  # a picture -> 68 points [68, 2] of each face

SIDE = 512  # px of the square that such models are trained on
# Where FFHQ's alignment has the eyes, the tip of the nose and the corners of the mouth, px of SIDE.
_WANTED = ((193.0, 239.9), (318.9, 240.2), (256.6, 314.0), (201.3, 371.4), (313.1, 371.2))


def restored(
    restorer: Restorer,
    picture: Float[Tensor, "1 3 H W"],
    find: Finder | None = None,
    *,
    side: int = SIDE,
) -> tuple[Float[Tensor, "1 3 H W"], int]:
    """The picture with every face restored, and how many there were.

    A model of whole pictures (denoisers, JPEG repair) does the whole picture, as one. One that
    enlarges is a ValueError.
    """
    if not restorer.wants_faces:
        if restorer.scale > 1:
            raise ValueError(
                f"{restorer.name} enlarges pictures {restorer.scale} times and restores none; give "
                "it with --upscale-model"
            )
        return enlarged(restorer, picture), 1
    faces = (find or find_faces)(picture)
    for points in faces:
        picture = restored_inside(restorer, picture, alignment(points, side), side)
    return picture, len(faces)


def alignment(points: Float[Tensor, "68 2"], side: int = SIDE) -> Float[Tensor, "2 3"]:
    """The similarity that brings a face's points to where FFHQ's aligned squares have them.

    Least squares over the eyes, the tip of the nose and the corners of the mouth; no mirroring.
    """
    found = torch.stack(
        [points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]]
    ).double()
    wanted = torch.tensor(_WANTED, dtype=torch.float64) * (side / SIDE)
    x, y = found.T
    one, none = torch.ones_like(x), torch.zeros_like(x)
    rows = torch.cat([torch.stack([x, -y, one, none], 1), torch.stack([y, x, none, one], 1)])
    a, b, right, down = torch.linalg.lstsq(rows, wanted.T.reshape(-1, 1)).solution[:, 0].tolist()
    return torch.tensor([[a, -b, right], [b, a, down]])


def find_faces(picture: Float[Tensor, "1 3 H W"]) -> list[Float[Tensor, "68 2"]]:
    """The 68 points of every face that the shipped networks are sure of; none is no error."""
    from deca.detect import detect_all

    net = _points()
    looked = [net.predict(picture, face.box) for face in detect_all(picture, net=net)]
    return [found.points68[0] for found in looked if found.is_face()]


@cache
def _points() -> LandmarkNet:
    from deca.landmarks import load_landmark_net

    return load_landmark_net()
