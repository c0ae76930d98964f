"""An expression from a photo, an avatar, a video or a recording, on another head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from avatar.bundle import Avatar
from avatar.expression_gains import Gains, apply_gains, relative_to
from avatar.motion import Motion
from avatar.progress import Progress
from avatar.transfer_files import Performance, write_sequence, write_still
from avatar.transfer_source import (
    STILLS,
    FaceReader,
    Source,
    params_of,
    read_codes,
    read_source,
    source_kind,
)
from flame.arkit import ARKIT_NAMES
from flame.head import Head
from flame.material import Material
from voice.audio import SAMPLE_RATE, Audio

FIRST_FRAME = "first"
SHIPPED = "shipped"


@dataclass(frozen=True)
class TransferSettings:
    """How an expression is taken over, and how its pictures are drawn."""

    gains: Gains = Gains()  # noqa: RUF009 - frozen
    relative_to: str | None = None  # a path of the source's resting face, or "first"
    rate_hz: float | int | None = None  # of tables that do not tell theirs
    refine: bool = False  # photos' codes once more against their points
    size: int = 512  # px, of the video and of each picture
    fps: int = 30  # of the video and of the GLB's keys
    model: str = SHIPPED  # that reads photos; see avatar.face_models.open_model
    save: frozenset[str] = frozenset()  # names out of reconstruct_looks.OUTPUTS, onto FLAME heads
    use_tex: bool = False  # of FLAME heads: the model's albedo where the picture shows no skin
    extract_tex: bool = True  # and the picture's colours where it does

    def __post_init__(self) -> None:
        if self.published and self.refine:
            raise ValueError(f"refine works with the model {SHIPPED!r} only; leave one of them out")
        if self.save and not self.published:
            raise ValueError(
                f"save={', '.join(sorted(self.save))} is of published models; give model too, or "
                "use `avatar reconstruct --save`"
            )
        if not 64 <= self.size <= 2048 or self.size % 2:
            raise ValueError(f"size={self.size} must be an even number from 64 to 2048")
        if not 1 <= self.fps <= 120:
            raise ValueError(f"fps={self.fps} must be from 1 to 120")
        if self.rate_hz is not None and not 1 <= self.rate_hz <= 1000:
            raise ValueError(f"rate_hz={self.rate_hz} is out of range; choose 1 to 1000")

    @property
    def published(self) -> bool:
        """Whether another model than the shipped one reads the photos."""
        return self.model.strip().lower() != SHIPPED


@dataclass(frozen=True, eq=False)
class Target:
    """A head that receives expressions; its 52 morphs are in the order of ARKIT_NAMES."""

    head: Head
    materials: tuple[Material, ...]


def transfer(
    source: Path | str,
    onto: Path | str | None = None,
    *,
    out: Path | str,
    settings: TransferSettings | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Put the expression of `source` onto a head, in the folder `out`; returns what was written.

    Sources: a photo, an avatar's folder, a video, a CSV of ARKit weights, the .npz of a motion or
    of `avatar reconstruct`. `onto` is an avatar's folder, the .npz of a reconstruction, or a photo,
    of which an avatar is made in `out`/target; by default the shipped neutral head. Stills give
    head.glb and head.obj in the expression and animation.jpg; motions give an animated head.glb
    and animation.mp4; both give motion.npz and motion.csv.

    With a published `settings.model` the source is a photo. A photo `onto` is then read by it too
    and the result is its FLAME head, see `transfer_official.transfer_published`; other heads
    perform the ARKit weights that are nearest to the expression.
    """
    settings, progress = settings or TransferSettings(), progress or Progress()
    source, out = Path(source), Path(out)
    kind = source_kind(source)
    rest_path = None
    if settings.relative_to not in (None, FIRST_FRAME):
        rest_path = Path(str(settings.relative_to))
        source_kind(rest_path)
    if settings.relative_to == FIRST_FRAME and kind in STILLS:
        raise ValueError(
            f"{source} is one face, so its first frame is itself; give a photo of the same person "
            "at rest to count from"
        )
    reader = FaceReader(settings.refine)
    read: Callable[[Path], Source] = partial(
        read_source, reader=reader, rate_hz=settings.rate_hz, progress=progress
    )
    if settings.published:
        from avatar.transfer_official import PublishedReader, transfer_published

        published = PublishedReader(settings.model)
        if onto is not None and source_kind(Path(onto)) == "photo":
            _check_onto_flame(settings)
            return transfer_published(source, Path(onto), published, out, settings, progress)
        if settings.save:
            raise ValueError(
                "save is of FLAME heads; give the photo of a person to put the expression onto"
            )
        read = published.source
    found = read(source)
    rest = None if rest_path is None else read(rest_path).motion
    with progress.stage("prepare the head"):
        target = read_target(None if onto is None else Path(onto), reader, out)
    moved = shaped(found.motion, settings, rest)
    out.mkdir(parents=True, exist_ok=True)
    if found.still:
        return _still(found, moved, target, out, reader, settings, progress)
    return write_sequence(
        target.head,
        target.materials,
        moved,
        _sound(found),
        out,
        settings.size,
        settings.fps,
        progress,
    )


def _check_onto_flame(settings: TransferSettings) -> None:
    gains = settings.gains
    if dataclasses.replace(gains, jaw=1.0) != Gains():
        raise ValueError(
            "gains other than the jaw's are of ARKit's shapes, which FLAME's codes are not; leave "
            "them at 1, or put the expression onto an avatar"
        )
    if settings.relative_to is not None:
        raise ValueError(
            "relative_to works on avatars and on the shipped head; leave it out where the "
            "expression goes onto a photo's FLAME head"
        )


def shaped(motion: Motion, settings: TransferSettings, rest: Motion | None = None) -> Motion:
    """The motion as the target performs it: counted from the resting face, then scaled."""
    if settings.relative_to == FIRST_FRAME:
        rest = motion[0]
    if rest is not None:
        motion = relative_to(motion, rest)
    return apply_gains(motion, settings.gains)


def read_target(onto: Path | None, reader: FaceReader, out: Path) -> Target:
    """The head that receives the expression; that of a photo is made into `out`/target."""
    if onto is None:
        return neutral_target(reader)
    kind = source_kind(onto)
    if kind == "avatar":
        avatar = Avatar.load(onto)
    elif kind == "photo":
        from avatar.pipeline import create

        avatar = create(onto, out=out / "target")
    elif kind == "codes":
        codes = read_codes(onto)
        shape = params_of(codes, onto).shape[0, : reader.flame.n_shape]
        return neutral_target(reader, shape, codes.get("albedo"))
    else:
        raise AssetError(
            f"{onto} is no head; give an avatar's folder, a photo, or a reconstruction's .npz"
        )
    return Target(in_arkit_order(avatar.head), avatar.materials)


def neutral_target(
    reader: FaceReader,
    shape: Float[Tensor, " S"] | None = None,
    albedo: Float[Tensor, "1 A"] | None = None,
) -> Target:
    """A shipped head without hair: of codes where given, else the mean head with its mean skin."""
    from flame.outfit import load_outfit

    outfit = load_outfit()
    albedo = torch.zeros(1, outfit.albedo.n_codes) if albedo is None else albedo
    skin = outfit.albedo.decode(albedo, 1024)[0]
    # the fibres of the irises are drawn by chance; the seed makes them the same every time
    generator = torch.Generator().manual_seed(0)
    materials = outfit.materials(skin, "brown", hair=None, generator=generator)
    shape = torch.zeros(reader.flame.n_shape) if shape is None else shape
    return Target(reader.flame.head(shape), materials)


def in_arkit_order(head: Head) -> Head:
    """The head with exactly ARKit's morphs, in their order; those that it lacks do not move it."""
    if head.morph_names == ARKIT_NAMES:
        return head
    morphs = head.morphs.new_zeros(len(ARKIT_NAMES), *head.verts.shape)
    for index, name in enumerate(ARKIT_NAMES):
        if name in head.morph_names:
            morphs[index] = head.morphs[head.morph_names.index(name)]
    return dataclasses.replace(head, morphs=morphs, morph_names=ARKIT_NAMES)


def _still(
    found: Source,
    moved: Motion,
    target: Target,
    out: Path,
    reader: FaceReader,
    settings: TransferSettings,
    progress: Progress,
) -> list[Path]:
    assert found.shape is not None
    own = reader.flame.head(found.shape[0, : reader.flame.n_shape])
    performed = own.pose(found.motion.weights, found.motion.rotations)
    return write_still(
        target.head,
        target.materials,
        moved,
        Performance(own, performed),
        found.picture,
        out,
        settings.size,
        progress,
    )


def _sound(found: Source) -> Audio:
    """The source's sound, as long as its motion; silence where it has none."""
    count = round(len(found.motion) / found.motion.rate_hz * SAMPLE_RATE)
    samples = torch.zeros(1, count)
    if found.sound is not None:
        from avatar.track_files import read_sound

        heard = read_sound(found.sound).samples[:1, :count]
        samples[:, : heard.shape[1]] = heard
    return Audio(samples)
