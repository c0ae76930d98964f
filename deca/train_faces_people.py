"""Rendered people for the face detector: turned any way, to the back of the head."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from assets.files import replacing
from deca.synth import Shot, Studio
from flame.rotation import axis_angle_to_matrix

log = logging.getLogger(__name__)

_SHARD = 400  # pictures a file
_TAKES = 5  # pictures a person
_GLASSES_DEG = 65.0  # spectacles are drawn flat, over the head: wrong beyond this yaw
_LABELS = ("points", "root", "neck")


def draw_wide_turn(*, generator: torch.Generator) -> Float[Tensor, " 3"]:
    """Yaw, pitch and roll of a head, degrees: profiles, backs of heads, looks up and down."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    kind = uniform(0.0, 1.0)
    if kind < 0.55:
        yaw, pitch = uniform(40.0, 98.0), uniform(-1.0, 1.0) * 30.0
    elif kind < 0.80:
        yaw, pitch = uniform(0.0, 60.0), uniform(20.0, 60.0) * (1 if uniform(0, 1) < 0.5 else -1)
    else:
        yaw, pitch = uniform(98.0, 180.0), uniform(-1.0, 1.0) * 25.0
    side = 1 if uniform(0.0, 1.0) < 0.5 else -1
    return torch.tensor([side * yaw, pitch, uniform(-1.0, 1.0) * 15.0])


def render_turned(studio: Studio, count: int, folder: Path, *, seed: int) -> None:
    """Fill a folder with shards of widely turned people; shards that are there are kept.

    A shard is NAME.npy (pictures, uint8 [N, H, W, 4], read in place) and NAME.npz (labels).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, _SHARD):
        path = folder / f"turned-{seed:06d}-{first:07d}.npz"
        if path.is_file():
            continue
        shots: list[Shot] = []
        person = 0
        while len(shots) < _SHARD:
            generator = torch.Generator().manual_seed((seed * 1000 + first) * 1000 + person)
            turns = torch.stack([draw_wide_turn(generator=generator) for _ in range(_TAKES)])
            shots += [
                shot
                for shot in studio.shoot(_TAKES, generator=generator, turns=turns)
                if not shot.attributes["glasses"]
                or abs(float(shot.attributes["yaw"])) < _GLASSES_DEG
            ]
            person += 1
        shots = shots[:_SHARD]
        labels = {
            "points": [shot.points for shot in shots],
            "root": [shot.codes.params.root[0] for shot in shots],
            "neck": [shot.codes.params.neck[0] for shot in shots],
        }
        with replacing(path.with_suffix(".npy")) as written, open(written, "wb") as file:
            np.save(file, np.stack([shot.rgba for shot in shots]))
        with replacing(path) as written, open(written, "wb") as file:
            rows = {name: torch.stack(values).numpy() for name, values in labels.items()}
            np.savez(file, allow_pickle=False, **rows)
        log.info("rendered %d of %d turned pictures", first + _SHARD, count)


class RenderedPeople:
    """Pictures and labels of shards in several folders; pictures stay on disk until looked at."""

    def __init__(self, paths: Sequence[Path]) -> None:
        if not paths:
            raise ValueError("there are no rendered people; give --count to render some")
        self._pictures = [np.load(path.with_suffix(".npy"), mmap_mode="r") for path in paths]
        self._starts = np.cumsum([0, *(len(pictures) for pictures in self._pictures)])
        rows: dict[str, list[Tensor]] = {name: [] for name in _LABELS}
        for path in paths:
            with np.load(path, allow_pickle=False) as shard:
                for name in _LABELS:
                    rows[name].append(torch.from_numpy(shard[name]).float())
        self.points: Float[Tensor, "N L 2"] = torch.cat(rows["points"])  # px
        turn = axis_angle_to_matrix(torch.cat(rows["root"]))
        turn = turn @ axis_angle_to_matrix(torch.cat(rows["neck"]))
        forward = turn[:, :, 2]
        # degrees between the head's own axis and the viewer, in the horizontal and in space
        self.yaw_deg = torch.rad2deg(torch.atan2(forward[:, 0], forward[:, 2]))
        self.away_deg = torch.rad2deg(torch.acos(forward[:, 2].clamp(-1, 1)))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def pictures(self, index: Tensor) -> UInt8[Tensor, "N H W 4"]:
        """RGBA pictures of these numbers."""
        shard = np.searchsorted(self._starts, index.numpy(), side="right") - 1
        found = [
            self._pictures[s][int(i) - int(self._starts[s])]
            for s, i in zip(shard, index, strict=True)
        ]
        return torch.from_numpy(np.stack(found))


def shards(folder: Path) -> list[Path]:
    """The shards of a folder, in the order of their names."""
    return sorted(path for path in folder.glob("*.npz") if path.with_suffix(".npy").is_file())
