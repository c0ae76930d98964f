"""The way from one portrait to another: frames that can each be made again, and a video."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from assets.files import replacing, sha256_of
from assets.image import read_image
from avatar.portrait import chosen_model, prepared
from avatar.portrait_draw import PortraitInputs, drawn_in_memory, open_pipeline
from avatar.progress import Progress
from avatar.video import write_video
from diffusion.recipe import Recipe, to_json
from diffusion.shipped_portrait import enlarged, is_shipped, said
from diffusion.write import write_picture

RATE_HZ = 8.0


def make_frames(
    recipes: Sequence[Recipe], out: Path, inputs: PortraitInputs, *, progress: Progress
) -> list[Path]:
    """Draw each recipe into the folder `out` as frame-000.png and so on, with a video and a report.

    Each frame gives its own recipe back. Returns the frames, the video and the report.
    """
    from diffusion.draw import size_of
    from voice.audio import Audio

    if inputs.image is not None or inputs.guide is not None:
        raise ValueError("--toward goes from prompt to prompt; leave --image and --like out")
    if inputs.extras.steering or inputs.extras.refiner is not None:
        raise ValueError("--toward takes no conditions and no --refiner; leave them out")
    if out.suffix and not out.is_dir():
        out = out.with_suffix("")
    first, inputs = prepared(recipes[0], inputs)
    first, source = chosen_model(first, inputs)
    with progress.stage("opening the model"):
        pipeline = open_pipeline(source, first, inputs, progress)
    size = size_of(pipeline, first)
    written = []
    with progress.stage("drawing"):
        for number, each in enumerate(recipes):
            recipe = first.change(toward=each.toward, size=size)
            recipe, picture = drawn_in_memory(pipeline, recipe, inputs, progress)
            if is_shipped(source):
                picture = enlarged(picture, recipe)
            picture = inputs.extras.finished(picture, progress)
            written.append(write_picture(out / f"frame-{number:03d}.png", picture, recipe))
    silence = Audio(torch.zeros(1, round(24_000 * len(written) / RATE_HZ)))
    video = write_video(out / "way.mp4", _frames(written), RATE_HZ, silence)
    report = {
        "recipe": to_json(first.change(size=size)),
        "pictures": [{"file": path.name, "sha256": sha256_of(path)} for path in written],
        "video": video.name,
        "warnings": list(progress.warnings),
    }
    if is_shipped(source):
        report["enlarged"] = said()
    with replacing(out / "report.json") as path:
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [*written, video, out / "report.json"]


def _frames(paths: Sequence[Path]) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The pictures as they were written, marks and all, cut to the even sides of a video."""
    for path in paths:
        image = read_image(path, min_side=1)[0]
        height, width = (side // 2 * 2 for side in image.shape[-2:])
        texels = (image[:, :height, :width] * 255).round().to(torch.uint8)
        yield np.ascontiguousarray(texels.permute(1, 2, 0).numpy())
