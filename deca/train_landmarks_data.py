"""Pictures of random people with exact landmarks, and training crops made of them."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from assets.files import replacing
from deca import synth_scene as scene
from deca.landmark_points import LandmarkPoints
from deca.landmarks import CROP_SIDE
from deca.synth import Studio
from deca.synth_degrade import FramingConfig, cut, degrade, framing

log = logging.getLogger(__name__)

_SHARD = 400  # pictures a file
_TAKES = 6  # pictures a person


@dataclass(frozen=True, eq=False)
class People:
    """Rendered people, unframed."""

    rgba: UInt8[Tensor, "N H W 4"]
    points: Float[Tensor, "N L 2"]


def render_people(studio: Studio, count: int, folder: Path, *, seed: int) -> None:
    """Fill a folder with shards of pictures; shards that are there already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, _SHARD):
        path = folder / f"{seed:06d}-{first:07d}.npz"
        if path.is_file():
            continue
        shots = []
        for person in range(-(-_SHARD // _TAKES)):
            generator = torch.Generator().manual_seed((seed * 1000 + first) * 1000 + person)
            shots += studio.shoot(_TAKES, generator=generator)
        with replacing(path) as written:
            np.savez(
                written,
                rgba=np.stack([shot.rgba for shot in shots[:_SHARD]]),
                points=np.stack([shot.points.numpy() for shot in shots[:_SHARD]]),
            )
        log.info("rendered %d of %d pictures", first + _SHARD, count)


def read_people(folder: Path) -> People:
    """All shards of a folder, in the order of their names."""
    paths = sorted(path for path in folder.glob("*.npz") if not path.name.startswith("."))
    if not paths:
        raise ValueError(f"{folder} has no rendered people; give --count to render some")
    rgba, points = [], []
    for path in paths:
        with np.load(path, allow_pickle=False) as shard:
            rgba.append(torch.from_numpy(shard["rgba"]))
            points.append(torch.from_numpy(shard["points"]))
    return People(torch.cat(rgba), torch.cat(points))


class Crops:
    """Endless training batches from rendered people."""

    def __init__(
        self, people: People, points: LandmarkPoints, seed: int, backgrounds: int = 500
    ) -> None:
        self.people = people
        self._flip = points.flip
        self._rng = np.random.default_rng(seed)
        stock = [scene.random_background(CROP_SIDE, self._rng) for _ in range(backgrounds)]
        self._backgrounds = torch.from_numpy(np.stack(stock))
        self._fresh = 0

    def batch(
        self,
        size: int,
        face_free: float,
        *,
        generator: torch.Generator,
        config: FramingConfig | None = None,
    ) -> tuple[Float[Tensor, "B 3 K K"], Float[Tensor, "B L 2"], Float[Tensor, " B"]]:
        """Crops, their points in units of the crop's side, and 1 where there is a face."""
        index = torch.randint(len(self.people.rgba), (size,), generator=generator)
        people = self.people.rgba[index]
        is_face = (torch.rand(size, generator=generator) >= face_free).float()
        matrix, points = framing(
            self.people.points[index], config or FramingConfig(), flip=self._flip,
            generator=generator,
        )  # fmt: skip
        backs = self._draw_backgrounds(size, generator)
        empty = (is_face == 0).nonzero()[:, 0]
        if len(empty):
            half = len(empty) // 2
            # half are scenery, half pieces of people that miss the face
            people[empty[:half]] = 0
            matrix[empty[half:]] = self._beside(matrix[empty[half:]], generator)
        return degrade(cut(people, backs, matrix), generator=generator), points, is_face

    def _draw_backgrounds(self, size: int, generator: torch.Generator) -> Tensor:
        # the stock turns over slowly, so that drawing costs little
        fresh = scene.random_background(CROP_SIDE, self._rng)
        self._backgrounds[self._fresh % len(self._backgrounds)] = torch.from_numpy(fresh.copy())
        self._fresh += 1
        chosen = torch.randint(len(self._backgrounds), (size,), generator=generator)
        backs = self._backgrounds[chosen]
        crowd = (torch.rand(size, generator=generator) < 0.08).nonzero()[:, 0]
        others = torch.randint(len(self.people.rgba), (len(crowd),), generator=generator)
        if len(crowd):
            # somebody else's hair and shirt around, enlarged so that no whole face shows
            pieces = self.people.rgba[others][..., :3]
            third = pieces.shape[1] // 3
            corner = pieces[:, -third:, :third].permute(0, 3, 1, 2).float()
            grown = torch.nn.functional.interpolate(corner, size=(CROP_SIDE, CROP_SIDE))
            backs[crowd] = grown.to(torch.uint8).permute(0, 2, 3, 1)
        return backs

    def _beside(self, matrix: Tensor, generator: torch.Generator) -> Tensor:
        """Crops moved by most of their side, away from the face."""
        angle = 2 * math.pi * torch.rand(len(matrix), generator=generator)
        reach = 0.62 + 0.3 * torch.rand(len(matrix), generator=generator)
        side = matrix[:, :, 0].norm(dim=1)
        offset = torch.stack([angle.cos(), angle.sin()], -1) * (reach * side)[:, None]
        moved = matrix.clone()
        moved[:, :, 2] += offset
        # smaller too, or the mirrored border would bring the face back
        center = moved[:, :, 2] + moved[:, :, :2].sum(2) / 2
        shrink = 0.45 + 0.3 * torch.rand(len(matrix), 1, 1, generator=generator)
        moved[:, :, :2] *= shrink
        moved[:, :, 2] = center - moved[:, :, :2].sum(2) / 2
        return moved
