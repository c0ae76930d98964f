"""The command `avatar reconstruct`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Faces(StrEnum):
    largest = "largest"
    all = "all"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(reconstruct)


def reconstruct(
    paths: Annotated[
        list[Path], typer.Argument(help="Images, folders of images, lists of paths (.txt), videos.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    refine: Annotated[bool, typer.Option("--refine", help="Polish each face by fitting.")] = False,
    model: Annotated[
        str, typer.Option(help="shipped, deca, emoca, mica, smirk, or a mix: mica+emoca+deca.")
    ] = "shipped",
    faces: Annotated[Faces, typer.Option(help="Which of several faces to read.")] = Faces.largest,
    box: Annotated[str | None, typer.Option(help="The face in pixels: x,y,w,h.")] = None,
    is_crop: Annotated[
        bool, typer.Option(help="Find the face and crop it; --no-is-crop: it fills the picture.")
    ] = True,
    sample_step: Annotated[int, typer.Option(help="Every which frame of a video.")] = 1,
    save: Annotated[
        str,
        typer.Option(
            help="What else to write, with commas: vis, kpt, depth, normal, albedo, shape, detail, "
            "images, obj, glb, mat, or all."
        ),
    ] = "",
    use_tex: Annotated[
        bool, typer.Option(help="The model's albedo where the picture shows no skin.")
    ] = False,
    extract_tex: Annotated[
        bool, typer.Option(help="The picture's colours where it shows skin.")
    ] = True,
    original_size: Annotated[
        bool, typer.Option(help="Draw over the whole picture too, in its own size.")
    ] = False,
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = 224,
) -> None:
    """Read the shape, expression, pose and look of the faces in pictures."""
    from avatar.cli import parse_box
    from avatar.progress import Progress
    from avatar.reconstruct import REPORT, ReconstructSettings
    from avatar.reconstruct import reconstruct as read_faces
    from avatar.reconstruct_looks import OUTPUTS

    wanted = {name.strip().lower() for name in save.split(",") if name.strip()}
    if "all" in wanted:
        wanted = set(OUTPUTS)
    settings = ReconstructSettings(
        model=model,
        refine=refine,
        faces=faces.value,
        box=None if box is None else parse_box(box),
        cropped=not is_crop,
        sample_step=sample_step,
        save=frozenset(wanted),
        use_tex=use_tex,
        extract_tex=extract_tex,
        original_size=original_size,
        size=size,
    )
    progress = Progress(sys.stderr)
    outcomes = read_faces(paths, out, settings, progress=progress)
    done = [outcome for outcome in outcomes if outcome.status == "ok"]
    for outcome in done:
        typer.echo(out / outcome.files[0])
    counts = {status: sum(one.status == status for one in outcomes) for status in
              ("ok", "no face", "failed")}  # fmt: skip
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    progress.note(f"{told}; see {out / REPORT}")
    raise typer.Exit(0 if done else 1)
