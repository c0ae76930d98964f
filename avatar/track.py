"""`track`: from a video, or several photos of one person, to one identity and its motion."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from assets.errors import AssetError
from avatar.motion import Motion
from avatar.progress import Progress
from avatar.track_frames import Reel, Source, open_sources
from flame.arkit import ARKIT_INDEX
from flame.head import JOINT_NAMES

if TYPE_CHECKING:
    from avatar.bundle import Avatar
    from deca.multi_texture import MergedTexture
    from deca.sequence import Sequence as Solved
    from deca.sequence_follow import Trail
    from flame.model import Flame
    from flame.outfit import Outfit

log = logging.getLogger(__name__)

PHOTO_RATE_HZ = 1.0  # photos are told one a second
HEAD_SHARES = {"neck": 0.4, "head": 0.6}  # of the head's turn, about one axis
_LOOKS = ("Down", "Up"), ("Out", "In")


@dataclass(frozen=True)
class TrackSettings:
    """What is tracked of a video, and how smoothly."""

    smooth: float = 0.5  # 0 keeps every frame as it was measured, 1 is the strongest
    start_s: float = 0.0
    end_s: float | None = None  # None is the video's end
    fps: float | None = None  # frames a second; None takes the video's own
    size: int = 360  # px, height of the preview
    seed: int = 0  # of the iris's pattern

    def __post_init__(self) -> None:
        if not 0.0 <= self.smooth <= 1.0:
            raise ValueError(
                f"smooth={self.smooth} is out of range; choose 0 (off) to 1 (strongest)"
            )
        if not (math.isfinite(self.start_s) and self.start_s >= 0):
            raise ValueError(f"start={self.start_s} must be 0 or later, in seconds")
        if self.end_s is not None and not self.end_s > self.start_s:
            raise ValueError(f"end={self.end_s} must be after start={self.start_s}, in seconds")
        if self.fps is not None and not 1 <= self.fps <= 240:
            raise ValueError(f"fps={self.fps} must be from 1 to 240")
        if not 64 <= self.size <= 1080 or self.size % 2:
            raise ValueError(f"size={self.size} must be an even number from 64 to 1080")


@dataclass(frozen=True, eq=False)
class Track:
    """One person's motion, and what it was solved from."""

    motion: Motion  # at a steady rate, from time 0 on
    rotation: Float[Tensor, "T 3"]  # of the head in the picture, axis-angle in radians
    gaze: Float[Tensor, "T 2 3"]  # of the left and right eye in the head, axis-angle in radians
    times_s: Float[Tensor, " T"]  # in the source
    confidence: Float[Tensor, " T"]  # 0..1
    missing: Bool[Tensor, " T"]  # frames without the face, whose motion stands in
    solved: Solved  # frame by frame, not smoothed
    still: bool  # photos rather than a video
    files: tuple[str, ...]  # of photos, those that were taken
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.motion)


def track(
    path: Path | str | Sequence[Path | str],
    *,
    out: Path | str | None = None,
    settings: TrackSettings | None = None,
    progress: Progress | None = None,
) -> Track:
    """Follow the face in a video, or read several photos, a folder or a list of them.

    One identity is solved for all frames; frames without the face are interpolated, or rest where
    it is away for long, and are marked. With `out`, writes motion.npz, motion.csv, motion.glb,
    head.glb, preview.mp4 (photos: preview.png), identity.npz and track.json there. Files that
    cannot be read, and a source without any face, are an AssetError in one sentence.
    """
    settings, progress = settings or TrackSettings(), progress or Progress()
    paths = [path] if isinstance(path, (str, Path)) else list(path)
    source = open_sources([Path(each) for each in paths], settings)
    with progress.stage("load the models"):
        from deca.code_net import load_code_net
        from deca.sequence import FaceReader
        from flame.load import load_head

        flame = load_head()
        net = load_code_net(flame)
    with progress.stage("follow the face"):
        trail = _trail(source, FaceReader(flame, net), progress)
    for line in _notices(source, trail):
        progress.warn(line)
    if not trail.found:
        what = f"any of its {len(trail)} frames" if len(trail) > 1 else "it"
        raise AssetError(f"{source.name}: no face was found in {what}; give one that shows a face")
    with progress.stage("solve one identity"):
        from deca.sequence import solve_sequence

        solved = solve_sequence(
            trail, flame, net.landmarks.points, net.shape_sigma, net.weight_sigma,
            one_camera=not source.still, progress=progress.step,
        )  # fmt: skip
    for first, last in solved.strangers:
        progress.warn(
            f"frames {first} to {last} show somebody else; they have no part in the identity"
        )
    files = tuple(source.files)
    found = track_of(solved, settings, still=source.still, files=files)
    found = dataclasses.replace(found, warnings=progress.warnings)
    if out is not None:
        found = _written(found, source, flame, Path(out), settings, progress)
    return found


def track_of(
    solved: Solved,
    settings: TrackSettings | None = None,
    *,
    still: bool = False,
    files: tuple[str, ...] = (),
) -> Track:
    """The smooth motion, at a steady rate, of what was solved frame by frame."""
    settings = settings or TrackSettings()
    smooth = 0.0 if still else settings.smooth
    weights, turns = smoothed(solved, smooth)
    if still or len(solved) == 1:
        rate_hz = PHOTO_RATE_HZ if still else 25.0
        at = torch.arange(len(solved), dtype=torch.float64)
    else:
        rate_hz, at = _steady(solved.times_s, settings.fps)
    low = at.floor().long().clamp(0, max(len(solved) - 2, 0))
    high = (low + 1).clamp(max=len(solved) - 1)
    share = (at - low).float()
    nearest = at.round().long().clamp(0, len(solved) - 1)
    weights = torch.lerp(weights[low], weights[high], share[:, None])
    quaternions = torch.lerp(turns[low], turns[high], share[:, None].double())
    from deca.smoothing import axis_angles
    from flame.params import gaze_from_arkit

    rotation = axis_angles(quaternions).float()
    rotations = torch.zeros(len(at), len(JOINT_NAMES), 3)
    for joint, part in HEAD_SHARES.items():
        rotations[:, JOINT_NAMES.index(joint)] = part * rotation
    times = torch.lerp(solved.times_s[low], solved.times_s[high], share.double())
    return Track(
        motion=Motion(rate_hz, weights, rotations),
        rotation=rotation,
        gaze=gaze_from_arkit(weights),
        times_s=times,
        confidence=solved.confidence[nearest],
        missing=~solved.seen[nearest],
        solved=solved,
        still=still,
        files=files,
        warnings=(),
    )


def smoothed(solved: Solved, strength: float) -> tuple[Float[Tensor, "T 52"], Float[Tensor, "T 4"]]:
    """Weights and the head's turns (quaternions of one sign run), unseen frames filled.

    Nothing is smoothed across a cut. Strength 0 only fills.
    """
    from deca.sequence_gaps import fill_gaps
    from deca.smoothing import SmoothConfig, continuous, smooth, smooth_rotations
    from flame.rotation import axis_angle_to_quaternion

    times, seen = solved.times_s, solved.seen
    signed = _signed_looks(solved.weights.double())
    signed = fill_gaps(signed, times, seen, torch.zeros(signed.shape[1]).double())
    turns = axis_angle_to_quaternion(solved.rotations.double())
    rest = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    turns[~seen] = rest
    turns = torch.nn.functional.normalize(fill_gaps(continuous(turns), times, seen, rest), dim=-1)
    # frames that stand in have little say
    sigmas = torch.where(seen, 1 / solved.confidence.clamp(min=0.05), 4.0).double()
    edges = [0, *solved.cuts, len(solved)]
    config = SmoothConfig.of(strength)
    if config is not None:
        from deca.smoothing import axis_angles

        for first, last in itertools.pairwise(edges):
            part = slice(first, last)
            signed[part] = smooth(signed[part], times[part], sigmas[part], config)
            slow = SmoothConfig.of(strength, noise_cap=math.radians(1.5))
            moved = smooth_rotations(axis_angles(turns[part]), times[part], sigmas[part], slow)
            turns[part] = axis_angle_to_quaternion(moved)
    weights = _plain_looks(signed).clamp(0, 1)
    close, opening = ARKIT_INDEX["mouthClose"], ARKIT_INDEX["jawOpen"]
    weights[:, close] = torch.minimum(weights[:, close], weights[:, opening])
    return weights.float(), continuous(turns)


def _signed_looks(weights: Float[Tensor, "T 52"]) -> Float[Tensor, "T 52"]:
    """Opposite looks as one signed number, so that crossing the middle is no corner."""
    signed = weights.clone()
    for plus, minus in _look_pairs():
        signed[:, plus], signed[:, minus] = weights[:, plus] - weights[:, minus], 0.0
    return signed


def _plain_looks(signed: Float[Tensor, "T 52"]) -> Float[Tensor, "T 52"]:
    weights = signed.clone()
    for plus, minus in _look_pairs():
        weights[:, plus], weights[:, minus] = signed[:, plus].clamp(min=0), -signed[:, plus]
    return weights


def _look_pairs() -> Iterator[tuple[int, int]]:
    for side in ("Left", "Right"):
        for plus, minus in _LOOKS:
            yield ARKIT_INDEX[f"eyeLook{plus}{side}"], ARKIT_INDEX[f"eyeLook{minus}{side}"]


def _steady(times_s: Tensor, fps: float | None) -> tuple[float, Float[Tensor, " N"]]:
    """A steady rate and the fractional frame of each of its moments."""
    from avatar.livelink_times import steady

    rate_hz, rows = steady(times_s)
    if fps is None or abs(fps / rate_hz - 1) < 1e-3:
        return rate_hz, torch.arange(len(times_s)).double() if rows is None else rows
    count = int(float(times_s[-1] - times_s[0]) * fps + 1e-6) + 1
    wanted = times_s[0] + torch.arange(count, dtype=torch.float64) / fps
    after = torch.searchsorted(times_s, wanted, right=True).clamp(1, len(times_s) - 1)
    share = (wanted - times_s[after - 1]) / (times_s[after] - times_s[after - 1])
    return float(fps), (after - 1) + share.clamp(0.0, 1.0)


def _trail(source: Source, reader: object, progress: Progress) -> Trail:
    from deca.sequence import FaceReader
    from deca.sequence_follow import follow, look_at_photos

    assert isinstance(reader, FaceReader)
    if source.still:
        return look_at_photos(source.frames(), reader.encode, reader.find)
    return follow(
        source.frames(), reader.encode, reader.find, progress=progress.step, total=source.expected
    )


def _notices(source: Source, trail: Trail) -> Iterator[str]:
    """What a user should know of the source."""
    from deca.sequence_follow import runs

    yield from source.faults
    if trail.faces_at_start > 1:
        how = "the largest is read in each" if source.still else "the largest is followed"
        yield f"{trail.faces_at_start} faces were seen; {how}"
    lost = [look is None for look in trail.looks]
    if any(lost) and not all(lost):
        listed = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs(lost))
        kind = "photos" if source.still else "frames"
        yield f"no face in {kind} {listed} of {len(lost)}; they are filled in"
    if trail.cuts:
        listed = ", ".join(str(index) for index in trail.cuts)
        yield f"the scene changes at frames {listed}; nothing is smoothed across"


def _written(
    found: Track,
    source: Source,
    flame: Flame,
    out: Path,
    settings: TrackSettings,
    progress: Progress,
) -> Track:
    from avatar.track_files import write_motion, write_preview, write_track
    from flame.outfit import load_outfit

    outfit = load_outfit()
    with progress.stage("merge the views"):
        from deca.multi_texture import merge_views

        solved = found.solved
        merged = merge_views(flame, outfit.albedo, solved.shape, solved.albedo, solved.views)
    with progress.stage("dress the head"):
        avatar = dressed(found, merged, flame, outfit, settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    with progress.stage("write the motion"):
        files = write_motion(found, avatar, merged, out)
    with progress.stage("draw the preview"):
        reel = Reel(source, found.times_s)
        files.append(write_preview(found, avatar, reel, out, settings, progress.step))
    found = dataclasses.replace(found, warnings=progress.warnings)
    write_track(found, source, merged, settings, files, out, progress.stages)
    return found


def dressed(found: Track, merged: MergedTexture, flame: Flame, outfit: Outfit, seed: int) -> Avatar:
    """The head of the identity with the merged skin, and iris and hair of its best view."""
    from avatar.bundle import Avatar, Manifest
    from deca.appearance import iris_color
    from deca.hair_guess import hair_guess

    solved = found.solved
    # eyes and hair are read best from the front
    frontal = [float(v.rotation.norm()) - 0.5 * v.score for v in merged.views]
    best = frontal.index(min(frontal))
    codes, image = merged.codes(solved.shape, best), merged.views[best].image
    square = torch.nn.functional.interpolate(
        image, (320, 320), mode="bilinear", antialias=True, align_corners=False
    )
    hair = hair_guess(flame, codes, square, outfit.hair)
    head = flame.head(solved.shape)
    if hair.style is not None:
        head = outfit.wear_hair(head, hair.style)
    materials = outfit.materials(
        merged.texture.base_color,
        iris_color(flame, codes, image),
        hair=hair.style,
        hair_color=hair.color,
        generator=torch.Generator().manual_seed(seed),
    )
    named = {"shape": solved.shape[None], "albedo": merged.albedo[None]}
    return Avatar(head, materials, named, Manifest(seeds={"track": seed}))
