"""The files that `track` writes: motion, animated head, preview, manifest."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8

from assets.errors import AssetError
from assets.files import replacing, sha256_of
from avatar.progress import Stage
from flame.arkit import ARKIT_NAMES
from flame.head import JOINT_NAMES

if TYPE_CHECKING:
    from avatar.bundle import Avatar
    from avatar.track import Track, TrackSettings
    from avatar.track_frames import Reel, Source
    from deca.multi_texture import MergedTexture
    from voice.audio import Audio

log = logging.getLogger(__name__)

_Steps = Callable[[int, int], None]
_Pixels = UInt8[np.ndarray, "_ _ 3"]


def write_motion(track: Track, avatar: Avatar, merged: MergedTexture, out: Path) -> list[Path]:
    """motion.npz, motion.csv, motion.glb (the head performing it), head.glb and identity.npz."""
    from avatar.livelink import save_csv
    from avatar.pipeline import COPYRIGHT
    from flame.gltf import Animation, save_glb

    motion = track.motion
    with replacing(out / "motion.npz") as beside:
        np.savez_compressed(
            beside,
            rate_hz=np.float64(motion.rate_hz),
            weights=motion.weights.numpy(),
            rotations=motion.rotations.numpy(),
            names=np.array(ARKIT_NAMES),
            joints=np.array(JOINT_NAMES),
            rotation=track.rotation.numpy(),
            gaze=track.gaze.numpy(),
            times=track.times_s.numpy(),
            confidence=track.confidence.numpy(),
            missing=track.missing.numpy(),
        )
    solved = track.solved
    with replacing(out / "identity.npz") as beside:
        np.savez_compressed(
            beside,
            shape=solved.shape.numpy(),
            shape_sigma=solved.shape_sigma.numpy(),
            albedo=merged.albedo.numpy(),
            keyframes=np.array(solved.keyframes),
        )
    save_csv(motion, out / "motion.csv")
    head, materials = avatar.head, avatar.materials
    clip = Animation(motion.times_s(), motion.weights, motion.rotations, name="track")
    save_glb(head, materials, out / "motion.glb", animation=clip, copyright_notice=COPYRIGHT)
    save_glb(head, materials, out / "head.glb", copyright_notice=COPYRIGHT)
    names = ("motion.npz", "identity.npz", "motion.csv", "motion.glb", "head.glb")
    return [out / name for name in names]


def write_preview(
    track: Track,
    avatar: Avatar,
    reel: Reel,
    out: Path,
    settings: TrackSettings,
    progress: _Steps | None = None,
) -> Path:
    """The source on the left, the head on the right: preview.mp4 with the source's sound, or a
    sheet, preview.png, of photos."""
    if track.still:
        return _write_sheet(track, avatar, reel, out)
    from avatar.video import write_video

    sound = read_sound(reel.source.paths[0], float(track.times_s[0]))
    frames = _side_by_side(track, avatar, reel, settings.size, progress)
    return write_video(
        out / "preview.mp4", frames, track.motion.rate_hz, sound, title="tracked head"
    )


def _side_by_side(
    track: Track, avatar: Avatar, reel: Reel, size: int, progress: _Steps | None
) -> Iterator[_Pixels]:
    from avatar.clip import Stage as Set

    stage = Set(avatar.head, avatar.materials, size, supersample=1)
    for index, pixels in enumerate(reel):
        yield np.concatenate([fitted(pixels, size), _drawn(stage, track, index)], axis=1)
        if progress is not None:
            progress(index + 1, len(track))


def _drawn(stage: Any, track: Track, index: int) -> _Pixels:
    with torch.no_grad():
        now = track.motion[index]
        pixels: _Pixels = stage.photograph(stage.head.pose(now.weights, now.rotations))
    return pixels


def fitted(pixels: _Pixels, height: int) -> _Pixels:
    """The picture at a height, with an even width; one that is very wide gets bands above it."""
    given_height, given_width = pixels.shape[:2]
    scale = min(height / given_height, 2 * height / given_width)
    rows = max(1, min(height, round(given_height * scale)))
    columns = max(2, 2 * round(given_width * scale / 2))
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    image = image.contiguous(memory_format=torch.channels_last)
    small = torch.nn.functional.interpolate(image, (rows, columns), mode="bilinear", antialias=True)
    canvas = np.zeros((height, columns, 3), np.uint8)
    top = (height - rows) // 2
    canvas[top : top + rows] = small[0].permute(1, 2, 0).numpy()
    return canvas


def _write_sheet(track: Track, avatar: Avatar, reel: Reel, out: Path) -> Path:
    from assets.image import write_image
    from avatar.clip import Stage as Set
    from avatar.sheet import Panel, lay_out

    stage = Set(avatar.head, avatar.materials, 256)
    above, below = [], []
    for index, pixels in zip(range(6), reel, strict=False):
        above.append(Panel(pixels, track.files[index][:24] if track.files else ""))
        below.append(Panel(_drawn(stage, track, index), "no face" if track.missing[index] else ""))
    sheet = torch.from_numpy(lay_out([above, below], footer="AI-generated"))
    write_image(out / "preview.png", sheet.permute(2, 0, 1)[None].float() / 255, ai_generated=True)
    return out / "preview.png"


def read_sound(path: Path, start_s: float = 0.0) -> Audio:
    """The sound of a video from `start_s` on, as the product uses sound; silence without any."""
    from voice.audio import SAMPLE_RATE, Audio, read_blocks

    pieces: list[torch.Tensor] = []
    try:
        for block in read_blocks(path):
            pieces.append(block.samples[0])
    except AssetError as error:
        # a broken sound track is no reason to do without its beginning, or the picture
        log.debug("the sound of %s: %s", path, error)
    samples = torch.cat(pieces) if pieces else torch.zeros(1)
    samples = samples[round(start_s * SAMPLE_RATE) :]
    return Audio((samples if len(samples) else torch.zeros(1))[None].clamp(-1, 1))


def write_track(
    track: Track,
    source: Source,
    merged: MergedTexture,
    settings: TrackSettings,
    files: list[Path],
    out: Path,
    stages: tuple[Stage, ...],
) -> Path:
    """track.json: what was tracked, what is missing, what to beware of, and by which models."""
    from deca.sequence_follow import runs

    solved = track.solved
    lost = (~solved.seen).tolist()
    content = {
        "format": "avatar-track",
        "format_version": 1,
        "source": {path.name: sha256_of(path) for path in source.paths if path.is_file()},
        "photos": list(track.files),
        "frames": len(track),
        "fps": track.motion.rate_hz,
        "source_frames": len(solved),
        "missing_frames": [index for index, gone in enumerate(lost) if gone],
        "missing_s": [
            [round(float(solved.times_s[a]), 3), round(float(solved.times_s[b]), 3)]
            for a, b in runs(lost)
        ],
        "cuts": list(solved.cuts),
        "strangers": [list(span) for span in solved.strangers],
        "keyframes": list(solved.keyframes),
        "texture_views": [
            {"frame": view.index, "share": round(float(share), 4)}
            for view, share in zip(merged.views, merged.weights, strict=True)
        ],
        "mean_confidence": round(float(track.confidence.mean()), 4),
        "warnings": list(track.warnings),
        "settings": dataclasses.asdict(settings),
        "models": _models(),
        "stages": [dataclasses.asdict(stage) for stage in stages],
        "files": {path.name: sha256_of(path) for path in files},
        "ai_generated": True,
    }
    with replacing(out / "track.json") as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return out / "track.json"


def _models() -> list[dict[str, str]]:
    from assets.store import shipped_models

    used = ("head", "outfit", "landmarks", "encoder")
    return [
        {"name": model.name, "licence": model.licence, "attribution": model.attribution}
        for model in shipped_models()
        if model.name in used
    ]
