"""Frames as an animated GIF, a silent video, or numbered pictures."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from assets.files import replacing
from assets.image import write_image
from avatar.clip import Frames
from avatar.video import AI_COMMENT, write_video
from voice.audio import SAMPLE_RATE, Audio

_SHADES = 256  # colours of a GIF
_SAMPLES = 8  # frames that its palette is taken from
_FEWEST = 20  # ms; players slow shorter delays down to a tenth of a second


def kind_of_output(out: Path) -> str:
    """gif, mp4 or folder; another suffix is a ValueError."""
    suffix = out.suffix.lower()
    if suffix in (".gif", ".mp4"):
        return suffix[1:]
    if suffix and not out.is_dir():
        raise ValueError(f"{out} is none of .gif, .mp4 or a folder for PNG files")
    if out.is_file():
        raise ValueError(f"{out} is a file; give a .gif, an .mp4 or a folder")
    return "folder"


def write_turntable(frames: Frames, out: Path, fps: float | int) -> list[Path]:
    """Write the frames as the name of `out` asks, and return the files."""
    kind = kind_of_output(out)
    if kind == "mp4":
        silence = Audio(torch.zeros(1, round(len(frames) / fps * SAMPLE_RATE)))
        return [write_video(out, frames, float(fps), silence, title=out.stem)]
    if kind == "gif":
        return [write_gif(out, frames, fps)]
    paths = []
    digits = max(3, len(str(len(frames) - 1)))
    for index, frame in enumerate(frames):
        paths.append(out / f"frame-{index:0{digits}d}.png")
        image = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
        out.mkdir(parents=True, exist_ok=True)
        write_image(paths[-1], image, ai_generated=True)
    return paths


def write_gif(path: Path, frames: Frames, fps: float | int) -> Path:
    """Write a GIF that loops; one palette serves all frames, so that still parts do not shimmer.

    Delays are whole hundredths of a second, the format's own.
    """
    pictures = [Image.fromarray(frame) for frame in frames]
    if not pictures:
        raise ValueError("there is no frame to write; give at least one")
    palette = _palette(pictures)
    indexed = [
        picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        for picture in pictures
    ]
    delay = max(_FEWEST, 10 * round(100 / fps))
    with replacing(path) as beside:
        indexed[0].save(
            beside,
            "GIF",
            save_all=True,
            append_images=indexed[1:],
            duration=delay,
            loop=0,
            optimize=False,
            comment=AI_COMMENT.encode("ascii"),
        )
    return path


def _palette(pictures: list[Image.Image]) -> Image.Image:
    """The colours of a few frames spread over all."""
    step = max(1, len(pictures) // _SAMPLES)
    chosen: list[NDArray[np.uint8]] = [
        np.asarray(picture) for picture in islice(pictures, 0, None, step)
    ]
    return Image.fromarray(np.concatenate(chosen)).quantize(
        _SHADES, method=Image.Quantize.MEDIANCUT
    )
