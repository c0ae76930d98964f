"""Photos or video frames in folders, one a subject, as training batches.

Landmarks are found once and kept in small files. Skin masks come from files where there are any,
else from the landmarks: the face's outline up to the forehead, without eyes and the inside of the
mouth, and without pixels whose colour is not that of the face's middle (hair, hands, glasses).
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from assets.errors import AssetError
from assets.files import replacing, sha256_of
from assets.image import read_image, read_texture
from deca.crop import crop_square
from deca.detect import detect
from deca.landmark_points import N_LANDMARKS
from deca.landmarks import LandmarkNet, crop_of
from deca.photo_skin import skin_mask
from flame.records import TensorRecord

log = logging.getLogger(__name__)

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
CACHE = ".landmarks"
_SURE = 0.03  # of the face's side: points with larger deviations count less
_FORMAT = "1"


@dataclass(frozen=True, eq=False)
class FacePoints:
    """Points of one face in picture pixels, the 68 first; `outline`: its jaw line is a 2D one."""

    points: Float[Tensor, "L 2"]
    sigmas: Float[Tensor, " L"]  # px
    outline: bool = False

    def visibility(self) -> Float[Tensor, " L"]:
        """1 for points as sure as they can be, less for those that are not."""
        first = self.points[:N_LANDMARKS]
        side = (first.amax(0) - first.amin(0)).max()
        return (_SURE * side / self.sigmas.clamp(min=1e-6)).clamp(max=1)


# what finds the face of a picture, or says in words why there is none
Labeller = Callable[[Float[Tensor, "1 3 H W"]], FacePoints | str]


@dataclass(frozen=True, eq=False)
class Photo:
    """One picture of one subject."""

    path: Path
    subject: str
    face: FacePoints
    mask: Path | None


@dataclass(frozen=True, eq=False)
class PhotoBatch(TensorRecord):
    """Crops of `subjects` x `pictures` photos, subject by subject; points are -1..1, y down."""

    images: Float[Tensor, "B 3 K K"]
    points: Float[Tensor, "B 68 2"]
    visibility: Float[Tensor, "B 68"]
    dense: Float[Tensor, "B D 2"]
    dense_visibility: Float[Tensor, "B D"]
    masks: Float[Tensor, "B 1 K K"]
    outline: Bool[Tensor, " B"]


@dataclass(frozen=True)
class CropDraw:
    """How photos become crops."""

    side: int  # px
    upright: bool  # turned so that the eyes are level
    scale: tuple[float, float] = (1.4, 1.8)  # of the crop over the face's points, drawn evenly

    def __post_init__(self) -> None:
        if not 1 <= self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale={self.scale} must be two numbers from 1, the lower first")


def landmark_labeller(net: LandmarkNet) -> Labeller:
    """Faces found by `deca.detect`, their points by the landmark network."""

    def label(image: Tensor) -> FacePoints | str:
        try:
            found = net.predict(image, detect(image, net=net).box)
        except ValueError as error:
            return str(error)
        if not found.is_face():
            return "what was found is not surely a face"
        points = torch.cat([found.points68, found.points], dim=1)[0]
        return FacePoints(points, torch.cat([found.sigmas68, found.sigmas], dim=1)[0])

    return label


def open_photos(
    folder: Path,
    label: Labeller,
    *,
    labeller_name: str,
    cache: Path | None = None,
    masks: Path | None = None,
    skipped: Path | None = None,
) -> list[Photo]:
    """The usable pictures under `folder`, in order; each folder that holds pictures is a subject.

    Points are kept under `cache` (`.landmarks` in the folder by default) and found again when a
    picture or `labeller_name` changes. STEM.txt beside a picture, 68 lines of x and y, goes before
    the labeller. `masks` mirrors the folder with pictures whose white is skin. What cannot be used
    is listed in `skipped`, with the reason. Pictures right in `folder` are a subject each.
    """
    paths = pictures_in(folder)
    cache = folder / CACHE if cache is None else cache
    photos, faults = [], []
    for number, path in enumerate(paths):
        relative = path.relative_to(folder)
        found = _cached(path, cache / relative.with_suffix(".npz"), label, labeller_name)
        if number % 200 == 199:
            log.info("landmarks of %d of %d pictures", number + 1, len(paths))
        if isinstance(found, str):
            faults.append((str(relative), found))
            continue
        subject = relative.stem if path.parent == folder else relative.parent.as_posix()
        photos.append(Photo(path, subject, found, _mask_of(relative, masks)))
    if skipped is not None:
        with (
            replacing(skipped) as written,
            open(written, "w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerows([("picture", "reason"), *faults])
    if not photos:
        raise AssetError(
            f"none of the {len(paths)} pictures in {folder} can be used, the first because: "
            f"{faults[0][1]}"
        )
    if faults:
        log.warning("%d of %d pictures are left out", len(faults), len(paths))
    return photos


class PhotoSet:
    """Batches of photos: step n of a seed is the same whatever ran before it."""

    def __init__(self, photos: list[Photo], draw: CropDraw, *, seed: int) -> None:
        self.draw, self._seed = draw, seed
        self.subjects: dict[str, list[Photo]] = {}
        for photo in photos:
            self.subjects.setdefault(photo.subject, []).append(photo)
        self._names = sorted(self.subjects)
        self._n_points = max(len(photo.face.points) for photo in photos)

    def require_pairs(self, folder: Path) -> None:
        """Raise AssetError unless some subject has two pictures."""
        if all(len(photos) < 2 for photos in self.subjects.values()):
            raise AssetError(
                f"every subject in {folder} has one usable picture, and a person's pictures teach "
                "each other; put two or more of each person into a folder of their own, or train "
                "with --pretrain or consistency = false"
            )

    def steps_an_epoch(self, subjects: int) -> int:
        """How many batches show every subject once."""
        return max(1, -(-len(self._names) // subjects))

    def choose(self, step: int, subjects: int, pictures: int) -> list[tuple[Photo, float]]:
        """The photos of a step and their crops' scales."""
        per_epoch = self.steps_an_epoch(subjects)
        epoch, place = divmod(step, per_epoch)
        order = self._order(epoch) + self._order(epoch + 1)
        while len(order) < (place + 1) * subjects:
            order += order
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        low, high = self.draw.scale
        chosen = []
        for name in order[place * subjects : (place + 1) * subjects]:
            photos = self.subjects[name]
            rounds = -(-pictures // len(photos))
            order_in = [
                int(index)
                for _ in range(rounds)
                for index in torch.randperm(len(photos), generator=generator)
            ]
            for index in order_in[:pictures]:
                scale = low + (high - low) * float(torch.rand((), generator=generator))
                chosen.append((photos[index], scale))
        return chosen

    def batch(self, step: int, subjects: int, pictures: int) -> PhotoBatch:
        """The batch of a step, counted from 0."""
        items = [self._crop(photo, scale) for photo, scale in self.choose(step, subjects, pictures)]
        return PhotoBatch(*(torch.stack(column) for column in zip(*items, strict=True)))

    def _order(self, epoch: int) -> list[str]:
        generator = torch.Generator().manual_seed(self._seed * 7_919 + epoch)
        order = torch.randperm(len(self._names), generator=generator)
        return [self._names[int(index)] for index in order]

    def _crop(self, photo: Photo, scale: float) -> tuple[Tensor, ...]:
        image, face = read_image(photo.path), photo.face
        size = self.draw.side
        if self.draw.upright:
            center, side, roll = crop_of(face.points)
        else:
            low, high = (f(face.points[:N_LANDMARKS], 0) for f in (torch.amin, torch.amax))
            center, side, roll = (low + high) / 2, float((high - low).mean()), 0.0
        crop = crop_square(image, center, scale * side, size, roll)
        points = crop.points(face.points)
        if photo.mask is None:
            mask = skin_mask(crop.image[0], points[:N_LANDMARKS])
        else:
            stored = read_texture(photo.mask)[:1].expand(3, -1, -1)[None]
            if stored.shape != image.shape:
                raise AssetError(
                    f"{photo.mask} has {stored.shape[3]}x{stored.shape[2]} pixels and its picture "
                    f"{image.shape[3]}x{image.shape[2]}; masks are as large as their pictures"
                )
            mask = crop_square(stored, center, scale * side, size, roll).image[0, :1]
        # beyond the picture crop_square repeats its border, which is no face
        inside = crop.picture_points(_pixel_centres(size))
        limit = inside.new_tensor([image.shape[3], image.shape[2]])
        mask = mask * ((inside >= 0) & (inside <= limit)).all(-1)
        points = points / size * 2 - 1
        # points that the crop cuts off are as invisible as those that nobody is sure of
        visibility = face.visibility() * (points.abs() <= 1).all(-1)
        missing = self._n_points - len(points)  # where points were given by hand
        points = torch.cat([points, points.new_zeros(missing, 2)])
        visibility = torch.cat([visibility, visibility.new_zeros(missing)])
        return (
            crop.image[0],
            points[:N_LANDMARKS],
            visibility[:N_LANDMARKS],
            points[N_LANDMARKS:],
            visibility[N_LANDMARKS:],
            mask,
            torch.tensor(face.outline),
        )


def _pixel_centres(size: int) -> Float[Tensor, "K K 2"]:
    place = torch.arange(size) + 0.5
    y, x = torch.meshgrid(place, place, indexing="ij")
    return torch.stack([x, y], dim=-1)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures under a folder, in order; hidden folders are passed over."""
    if not folder.is_dir():
        raise AssetError(f"{folder} is no folder; give one that holds a folder of photos a person")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise AssetError(
            f"{folder} holds no pictures ({', '.join(PICTURES)}); of videos, save the frames first"
        )
    return paths


def _mask_of(relative: Path, masks: Path | None) -> Path | None:
    if masks is None:
        return None
    path = masks / relative.with_suffix(".png")
    if not path.is_file():
        raise AssetError(f"{path} is not there; every picture needs its mask, or give no --masks")
    return path


def _cached(path: Path, kept: Path, label: Labeller, name: str) -> FacePoints | str:
    by_hand = path.with_suffix(".txt")
    if by_hand.is_file():
        return _by_hand(by_hand)
    state = path.stat()
    stamp = json.dumps([_FORMAT, name, state.st_size, state.st_mtime_ns])
    if kept.is_file():
        try:
            with np.load(kept, allow_pickle=False) as stored:
                if str(stored["stamp"]) == stamp:
                    if reason := str(stored["reason"]):
                        return reason
                    return FacePoints(
                        torch.from_numpy(stored["points"]), torch.from_numpy(stored["sigmas"])
                    )
        except (OSError, ValueError, KeyError, EOFError) as error:
            log.warning("%s cannot be read (%s); its points are found again", kept, error)
    try:
        found = label(read_image(path))
    except AssetError as error:
        found = str(error)
    told = isinstance(found, str)
    rows = {
        "stamp": np.array(stamp),
        "reason": np.array(found if told else ""),
        "points": np.zeros((0, 2), np.float32) if isinstance(found, str) else found.points.numpy(),
        "sigmas": np.zeros(0, np.float32) if isinstance(found, str) else found.sigmas.numpy(),
    }
    with replacing(kept) as written, open(written, "wb") as file:
        np.savez(file, allow_pickle=False, **rows)
    return found


def _by_hand(path: Path) -> FacePoints:
    """68 points that the user or another detector gave; their jaw line is that of the outline."""
    try:
        values = np.loadtxt(path, dtype=np.float32, ndmin=2)
    except ValueError as error:
        raise AssetError(f"{path} is no list of 68 points ({error}); mend or remove it") from error
    if values.shape[0] != N_LANDMARKS or values.shape[1] < 2 or not np.isfinite(values).all():
        raise AssetError(f"{path} must hold 68 lines of x and y in pixels; mend or remove it")
    points = torch.from_numpy(np.ascontiguousarray(values[:, :2]))
    return FacePoints(points, torch.full((N_LANDMARKS,), 1e-3), outline=True)


def labeller_name(path: Path) -> str:
    """What stands for a landmark network in the cache: its file's checksum."""
    return sha256_of(path)[:16]
