"""The command `avatar track`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(track)


def track(
    inputs: Annotated[
        list[Path], typer.Argument(help="A video; or photos of one person, or a folder of them.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("out/track"),
    smooth: Annotated[float, typer.Option(help="0 (off) to 1 (strongest).")] = 0.5,
    start: Annotated[float, typer.Option(help="Seconds from which the video is tracked.")] = 0.0,
    end: Annotated[float | None, typer.Option(help="Seconds up to which it is.")] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second; the video's own by default.")
    ] = None,
    size: Annotated[int, typer.Option(help="Height of the preview in pixels.")] = 360,
    seed: Annotated[int, typer.Option(help="The same seed gives the same head.")] = 0,
) -> None:
    """Follow a face: one head, its motion as NPZ, CSV and animated GLB, and a preview."""
    from avatar.progress import Progress
    from avatar.track import TrackSettings
    from avatar.track import track as track_face

    settings = TrackSettings(smooth, start, end, fps, size, seed)
    progress = Progress(sys.stderr)
    found = track_face(list(inputs), out=out, settings=settings, progress=progress)
    missing = int(found.missing.sum())
    progress.note(
        f"{len(found)} frames at {found.motion.rate_hz:g} a second, {missing} without a face"
    )
    for name in sorted(path.name for path in out.iterdir() if path.is_file()):
        typer.echo(out / name)
