"""Pictures of random people with exact codes, and training crops made of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from assets.files import replacing
from deca import synth_scene as scene
from deca.code_net import CODE_VIEW, CodeFlip, gaze_weights
from deca.landmark_points import LandmarkPoints
from deca.synth import Studio
from deca.synth_degrade import FramingConfig, cut, degrade, framing
from flame.light import sh_basis
from flame.params import arkit_from_params
from flame.rotation import axis_angle_to_matrix

log = logging.getLogger(__name__)

_SHARD = 400  # pictures a file
_TAKES = 2  # pictures a person: many people matter more than many pictures of each
_CODES = ("points", "shape", "weights", "root", "neck", "scale", "fov", "albedo", "light")
# as far off as a first network's points are
_FRAMING = FramingConfig(CODE_VIEW, close_share=1.0, close=(0.035, 0.012, 3.0))
# of the pictures' sides over the face's: the widest crop is just inside
PEOPLE_VIEW = 1.32
PEOPLE_FREE_SHARE = 0.7  # of faces: crooked mouths and puffed cheeks are in no mood
_PLAIN = 0.3  # a weight that is plain to see
_STILL = 0.05  # largest weight of a face at rest
_MILD = 0.65  # share of the crops that are as a good camera takes them


def render_people(studio: Studio, count: int, folder: Path, *, seed: int) -> None:
    """Fill a folder with shards of pictures and codes; shards that are there already are kept.

    A shard is NAME.npy (pictures, uint8 [N, H, W, 4], read in place) and NAME.npz (codes).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, _SHARD):
        path = folder / f"{seed:06d}-{first:07d}.npz"
        if path.is_file():
            continue
        rows: dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]] = {
            name: [] for name in _CODES
        }
        pictures = []
        for person in range(_SHARD // _TAKES):
            generator = torch.Generator().manual_seed((seed * 1000 + first) * 1000 + person)
            for shot in studio.shoot(_TAKES, generator=generator):
                codes = shot.codes
                pictures.append(shot.rgba)
                values = {
                    "points": shot.points,
                    "shape": codes.params.shape[0],
                    "weights": arkit_from_params(codes.params)[0],
                    "root": codes.params.root[0],
                    "neck": codes.params.neck[0],
                    "scale": codes.camera.scale[0],
                    "fov": codes.camera.fov_deg[0],
                    "albedo": codes.albedo[0],
                    "light": codes.light[0],
                }
                for name, value in values.items():
                    rows[name].append(value.numpy())
        with replacing(path.with_suffix(".npy")) as written, open(written, "wb") as file:
            np.save(file, np.stack(pictures))
        with replacing(path) as written, open(written, "wb") as file:
            np.savez(file, allow_pickle=False, **{n: np.stack(v) for n, v in rows.items()})
        log.info("rendered %d of %d pictures", first + _SHARD, count)


class People:
    """Rendered people with their codes; pictures stay on disk until they are looked at."""

    def __init__(self, folder: Path, shards: slice = slice(None)) -> None:
        paths = sorted(path for path in folder.glob("*.npz") if "tmp" not in path.name)[shards]
        if not paths:
            raise ValueError(f"{folder} has no rendered people; give --count to render some")
        self._pictures = [np.load(path.with_suffix(".npy"), mmap_mode="r") for path in paths]
        self._starts = np.cumsum([0, *(len(pictures) for pictures in self._pictures)])
        rows: dict[str, list[Tensor]] = {name: [] for name in _CODES}
        for path in paths:
            with np.load(path, allow_pickle=False) as shard:
                for name in _CODES:
                    rows[name].append(torch.from_numpy(shard[name]).float())
        self.codes = {name: torch.cat(values) for name, values in rows.items()}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def pictures(self, index: Tensor) -> Tensor:
        """RGBA pictures of these numbers [N, H, W, 4]."""
        shard = np.searchsorted(self._starts, index.numpy(), side="right") - 1
        found = [
            self._pictures[s][int(i) - int(self._starts[s])]
            for s, i in zip(shard, index, strict=True)
        ]
        return torch.from_numpy(np.stack(found))


def still_faces(weights: Float[Tensor, "N 52"]) -> Bool[Tensor, " N"]:
    """Which faces are at rest, wherever they look."""
    return torch.as_tensor(weights[:, ~gaze_weights(weights.device)].amax(1) < _STILL)


@dataclass(frozen=True, eq=False)
class Truth:
    """What the network should answer to crops."""

    points: Float[Tensor, "B L 2"]  # crop units
    is_face: Float[Tensor, " B"]
    shape: Float[Tensor, "B S"]
    weights: Float[Tensor, "B 52"]
    rotation: Float[Tensor, "B 3 3"]
    nearness: Float[Tensor, " B"]
    albedo: Float[Tensor, "B A"]
    light: Float[Tensor, "B 9 3"]


def framed_points(
    people: People, points: LandmarkPoints, *, generator: torch.Generator
) -> Float[Tensor, "N L 2"]:
    """Every person's points in a random crop."""
    return framing(people.codes["points"], _FRAMING, flip=points.flip, generator=generator)[1]


class Crops:
    """Endless training batches from rendered people."""

    def __init__(
        self,
        people: People,
        points: LandmarkPoints,
        flip: CodeFlip,
        side: int,
        seed: int,
        backgrounds: int,
        still_share: float = 0.0,
        even_share: float = 0.0,
    ) -> None:
        self.people, self._shares = people, (still_share, even_share)
        weights = people.codes["weights"]
        self._still = still_faces(weights).nonzero()[:, 0]
        moved = [(weight > _PLAIN).nonzero()[:, 0] for weight in weights.T]
        self._moved = [rows for rows in moved if len(rows)]
        self._points_flip, self._flip, self._side = points.flip, flip, side
        self._rng = np.random.default_rng(seed)
        stock = [scene.random_background(side, self._rng) for _ in range(backgrounds)]
        self._backgrounds = torch.from_numpy(np.stack(stock))
        self._fresh = 0

    def batch(
        self, size: int, face_free: float, *, generator: torch.Generator
    ) -> tuple[Float[Tensor, "B 3 K K"], Truth]:
        """Crops and what is to be said of them."""
        index = self._chosen(size, generator)
        pictures = self.people.pictures(index)
        codes = {name: values[index] for name, values in self.people.codes.items()}
        is_face = (torch.rand(size, generator=generator) >= face_free).float()
        matrix, points = framing(
            codes["points"], _FRAMING, flip=self._points_flip, generator=generator
        )
        fresh = scene.random_background(self._side, self._rng)
        self._backgrounds[self._fresh % len(self._backgrounds)] = torch.from_numpy(fresh.copy())
        self._fresh += 1
        chosen = torch.randint(len(self._backgrounds), (size,), generator=generator)
        pictures[is_face == 0] = 0
        clean = cut(pictures, self._backgrounds[chosen], matrix)
        is_mild = torch.rand(size, generator=generator) < _MILD
        crops = torch.empty_like(clean)
        crops[is_mild] = _mildly_taken(clean[is_mild], generator)
        crops[~is_mild] = degrade(clean[~is_mild], generator=generator)
        return crops, Truth(points, is_face, *self._turned(codes, matrix))

    def _chosen(self, size: int, generator: torch.Generator) -> Tensor:
        """Faces by chance, then still ones, and such as pull one shape, all shapes alike often."""
        index = torch.randint(len(self.people), (size,), generator=generator)
        still, even = self._shares
        chance = torch.rand(size, generator=generator)
        for row in (chance < still + even).nonzero()[:, 0].tolist():
            rows = self._still
            if chance[row] >= still and self._moved:
                kind = int(torch.randint(len(self._moved), (), generator=generator))
                rows = self._moved[kind]
            if len(rows):
                index[row] = rows[torch.randint(len(rows), (), generator=generator)]
        return index

    def _turned(self, codes: dict[str, Tensor], matrix: Tensor) -> tuple[Tensor, ...]:
        """Codes as the crop's own camera has them: turned with it, and mirrored where it is."""
        mirrored = torch.linalg.det(matrix[:, :, :2]) < 0
        right = torch.where(mirrored[:, None], -matrix[:, :, 0], matrix[:, :, 0])
        angle = torch.atan2(right[:, 1], right[:, 0])
        zero = torch.zeros_like(angle)
        # a crop that is turned clockwise sees the world turned counter-clockwise, y up
        turn = axis_angle_to_matrix(torch.stack([zero, zero, angle], -1))
        head = axis_angle_to_matrix(codes["root"]) @ axis_angle_to_matrix(codes["neck"])
        rotation = turn @ head
        light = torch.einsum("bij,bjc->bic", _turn_light(turn), codes["light"])
        side = torch.tensor([-1.0, 1.0, 1.0])
        nearness = codes["scale"] * torch.tan(torch.deg2rad(codes["fov"]) / 2)
        flip = self._flip
        both = mirrored[:, None]
        return (
            torch.where(both, codes["shape"] @ flip.shape.T, codes["shape"]),
            torch.where(both, codes["weights"][:, flip.weights], codes["weights"]),
            torch.where(both[..., None], rotation * side[:, None] * side, rotation),
            nearness,
            codes["albedo"],
            without_exposure(torch.where(both[..., None], light * flip.light[:, None], light)),
        )


def _mildly_taken(crops: Tensor, generator: torch.Generator) -> Tensor:
    """What a good camera makes of crops: a little exposure, white balance and noise."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(len(crops), *shape, generator=generator)

    level, tint = torch.exp(0.07 * normal(1, 1, 1)), torch.exp(0.04 * normal(3, 1, 1))
    taken: Tensor = (crops * level * tint + 0.01 * normal(*crops.shape[1:])).clamp(0, 1)
    return taken


def without_exposure(light: Float[Tensor, "B 9 3"]) -> Float[Tensor, "B 9 3"]:
    """Light over the mean of its first band."""
    return light / light[:, :1].mean(2, keepdim=True).clamp(min=1e-3)


def _turn_light(turn: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 9 9"]:
    """Matrices that turn spherical harmonics with the scene, by least squares on directions."""
    generator = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(64, 3, generator=generator), dim=1)
    matrix: Tensor = torch.linalg.pinv(sh_basis(normals)) @ sh_basis(normals @ turn)
    return matrix
