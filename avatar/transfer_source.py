"""Where an expression comes from: a photo, an avatar, a video, a recording, or a motion file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.image import read_image
from avatar.bundle import FILE_NAME, Avatar
from avatar.frames import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from avatar.livelink import HEAD_SHARES, load_csv
from avatar.motion import Motion
from avatar.motion_files import load_npz, names_in, read_named
from avatar.progress import Progress
from flame.arkit import ARKIT_NAMES
from flame.head import JOINT_NAMES
from flame.params import Params, arkit_from_params

if TYPE_CHECKING:
    from avatar.face_models import FaceModel, FaceReading
    from flame.model import Flame

TABLES = (".csv", ".tsv")
STILLS = ("photo", "avatar", "codes")
_STILL_RATE_HZ = 30.0
_CLOSE_UP = 2.2  # side of the picture's square over that of the face's points


@dataclass(frozen=True, eq=False)
class Source:
    """A face's motion, of one frame where it is a still, and what is known of its person."""

    motion: Motion
    kind: str  # photo, avatar, codes, video, table or motion
    picture: Float[Tensor, "1 3 K K"] | None = None
    shape: Float[Tensor, "1 S"] | None = None
    sound: Path | None = None  # the video that it comes from

    @property
    def still(self) -> bool:
        """Whether it is a single face and no motion."""
        return self.kind in STILLS


class FaceReader:
    """The shipped head and encoder, loaded when they are first asked for."""

    def __init__(self, refined: bool = False) -> None:
        self._refined = refined

    @cached_property
    def flame(self) -> Flame:
        """The shipped head model."""
        from flame.load import load_head

        return load_head()

    @cached_property
    def model(self) -> FaceModel:
        """The shipped encoder."""
        from avatar.face_models import ShippedModel

        return ShippedModel(self.flame)

    def read(self, image: Float[Tensor, "1 3 H W"]) -> FaceReading:
        """The largest face of a picture; NoFaceError, a ValueError, where there is none."""
        return self.model.read(image, refined=self._refined)


def source_kind(path: Path) -> str:
    """What a path is: a photo, an avatar, codes of a face, a video, a table or a motion."""
    suffix = path.suffix.lower()
    if path.is_dir():
        if (path / FILE_NAME).is_file():
            return "avatar"
        raise AssetError(f"{path} is a folder without {FILE_NAME}; give an avatar's folder")
    if not path.is_file():
        raise AssetError(f"{path} is not there; check the path")
    for kind, suffixes in (
        ("photo", IMAGE_SUFFIXES),
        ("video", VIDEO_SUFFIXES),
        ("table", TABLES),
    ):
        if suffix in suffixes:
            return kind
    if suffix == ".npz":
        return "codes" if {"shape", "expression"} <= names_in(path) else "motion"
    raise AssetError(
        f"{path} is no source of an expression; give a photo, an avatar's folder, a video, a "
        ".csv of ARKit weights, or the .npz of a motion or of a reconstruction"
    )


def read_source(
    path: Path,
    reader: FaceReader,
    *,
    rate_hz: float | int | None = None,
    progress: Progress | None = None,
) -> Source:
    """The expression in a path; `rate_hz` is for tables that do not tell their frame rate.

    Faces and files that cannot be read are AssetErrors or ValueErrors of what reads them.
    """
    kind = source_kind(path)
    progress = progress or Progress()
    if kind == "video":
        from avatar.track import track

        return Source(track(path, progress=progress).motion, kind, sound=path)
    with progress.stage(f"read {path.name}"):
        return _read(path, kind, reader, rate_hz)


def _read(path: Path, kind: str, reader: FaceReader, rate_hz: float | int | None) -> Source:
    if kind == "photo":
        return _of_photo(path, reader)
    if kind == "avatar":
        return _of_avatar(Avatar.load(path), path)
    if kind == "codes":
        codes = read_codes(path)
        params = params_of(codes, path)
        return Source(still_motion(params, codes.get("crop_from_image")), kind, shape=params.shape)
    if kind == "table":
        return Source(load_csv(path, rate_hz=rate_hz), kind)
    return Source(load_npz(path), kind)


def still_motion(params: Params, crop_from_image: Float[Tensor, "3 3"] | None = None) -> Motion:
    """One frame: the ARKit weights of shipped-head parameters, and the head's turn in the picture.

    `crop_from_image` takes picture pixels to those of the crop that the parameters were seen in.
    """
    from deca.encode import turn_in_picture

    angles = turn_in_picture(params, crop_from_image)
    rotations = torch.zeros(len(angles), len(JOINT_NAMES), 3)
    for joint, share in HEAD_SHARES.items():
        rotations[:, JOINT_NAMES.index(joint)] = (share * angles).float()
    return Motion(_STILL_RATE_HZ, arkit_from_params(params).float(), rotations)


def _of_photo(path: Path, reader: FaceReader) -> Source:
    from deca.crop import crop_square

    image = read_image(path)
    try:
        found = reader.read(image)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    low, high = found.landmarks2d.amin(0), found.landmarks2d.amax(0)
    side = _CLOSE_UP * float((high - low).max())
    shown = crop_square(image, (low + high) / 2, side, 512)
    motion = still_motion(found.params, found.crop.matrix)
    return Source(motion, "photo", shown.image, found.params.shape)


def _of_avatar(avatar: Avatar, folder: Path) -> Source:
    params = params_of(avatar.codes, folder)
    portrait = folder / "portrait.png"
    picture = None
    if portrait.is_file():
        image = read_image(portrait)
        side = min(image.shape[-2:])
        top, left = ((length - side) // 2 for length in image.shape[-2:])
        picture = image[..., top : top + side, left : left + side]
    motion = still_motion(params, avatar.codes.get("crop_from_image"))
    return Source(motion, "avatar", picture, params.shape)


def read_codes(path: Path) -> dict[str, Tensor]:
    """The codes of one face in the .npz that `avatar reconstruct` wrote, with a batch axis."""
    single = ("crop_from_image",)
    wanted = (*Params.__dataclass_fields__, "albedo")
    stored = read_named(path, (*wanted, *single, "model"))
    model = str(stored.pop("model", "shipped"))
    if model != "shipped":
        raise AssetError(
            f"{path} holds codes of {model}; reconstruct the photo with --model shipped, or give "
            "the photo itself"
        )
    try:
        codes = {name: torch.from_numpy(value.astype("float32")) for name, value in stored.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise AssetError(f"{path} holds no plain numbers ({error}); write it again") from error
    return {name: code if name in single else code[None] for name, code in codes.items()}


def params_of(codes: Mapping[str, Tensor], path: Path) -> Params:
    """The shipped head's parameters among named codes."""
    names = tuple(Params.__dataclass_fields__)
    if missing := [name for name in names if name not in codes]:
        raise AssetError(
            f"{path} keeps no {', '.join(missing)} of a face; only avatars of photos have an "
            "expression to transfer"
        )
    params = Params(**{name: codes[name] for name in names})
    if params.expression.shape[1] != len(ARKIT_NAMES):
        raise AssetError(
            f"{path} keeps an expression of {params.expression.shape[1]} codes, the shipped head's "
            f"has {len(ARKIT_NAMES)}; create the avatar again"
        )
    return params
