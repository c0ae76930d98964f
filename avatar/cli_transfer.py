"""The commands `avatar transfer` and `avatar turntable`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

_GAIN = "0 leaves it at rest, 1 takes it over, up to 4."


def register(app: typer.Typer) -> None:
    """Add the commands to the program's."""
    app.command()(transfer)
    app.command()(turntable)


def transfer(
    source: Annotated[
        Path, typer.Argument(help="A photo, avatar folder, video, ARKit .csv, or motion .npz.")
    ],
    onto: Annotated[
        Path | None, typer.Option(help="An avatar folder or a photo; a neutral head by default.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("out/transfer"),
    brows: Annotated[float, typer.Option(help=f"Gain of the brows. {_GAIN}")] = 1.0,
    blinks: Annotated[float, typer.Option(help="Gain of blinks, squints and wide eyes.")] = 1.0,
    mouth: Annotated[float, typer.Option(help="Gain of lips, cheeks, nose and tongue.")] = 1.0,
    jaw: Annotated[float, typer.Option(help="Gain of the jaw.")] = 1.0,
    gaze: Annotated[float, typer.Option(help="Gain of where the eyes look.")] = 1.0,
    head: Annotated[float, typer.Option(help="Gain of the head's turns.")] = 1.0,
    relative_to: Annotated[
        str | None,
        typer.Option(help="The source's resting face: a photo, or 'first' for the first frame."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Frames a second of a .csv that does not tell.")
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Fit photos to their points after the first reading.")
    ] = False,
    model: Annotated[
        str, typer.Option(help="Reads photos: shipped, deca, emoca, smirk, or a mix: mica+emoca.")
    ] = "shipped",
    save: Annotated[
        str,
        typer.Option(
            help="What else to write of a photo's FLAME head (--model), with commas: vis, kpt, "
            "depth, normal, albedo, shape, detail, images, mat, or all."
        ),
    ] = "",
    use_tex: Annotated[
        bool, typer.Option(help="The FLAME model's albedo where the photo shows no skin.")
    ] = False,
    extract_tex: Annotated[
        bool, typer.Option(help="The photo's colours where it shows skin.")
    ] = True,
    size: Annotated[int, typer.Option(help="Side of each picture in pixels.")] = 512,
    fps: Annotated[int, typer.Option(help="Frames a second of the video.")] = 30,
) -> None:
    """Put the expression of a photo, avatar, video or recording onto a head."""
    from avatar.expression_gains import Gains
    from avatar.progress import Progress
    from avatar.transfer import TransferSettings
    from avatar.transfer import transfer as transfer_expression

    gains = Gains(brows=brows, blinks=blinks, mouth=mouth, jaw=jaw, gaze=gaze, head=head)
    wanted = {name.strip().lower() for name in save.split(",") if name.strip()}
    if wanted:
        from avatar.reconstruct_looks import OUTPUTS

        wanted = set(OUTPUTS) if "all" in wanted else wanted
    settings = TransferSettings(
        gains=gains,
        relative_to=relative_to,
        rate_hz=rate,
        refine=refine,
        size=size,
        fps=fps,
        model=model,
        save=frozenset(wanted),
        use_tex=use_tex,
        extract_tex=extract_tex,
    )
    paths = transfer_expression(
        source, onto, out=out, settings=settings, progress=Progress(sys.stderr)
    )
    for path in paths:
        typer.echo(path)


def turntable(
    subject: Annotated[
        Path, typer.Argument(help="An avatar folder, a photo, or the .npz of a reconstruction.")
    ],
    out: Annotated[Path, typer.Option(help="A .gif, an .mp4, or a folder for PNG files.")] = Path(
        "out/turntable.gif"
    ),
    expressions: Annotated[
        Path | None, typer.Option(help="Folder of photos whose expressions are put on in turn.")
    ] = None,
    turn: Annotated[float, typer.Option(help="Degrees of a turn at the end: 360.")] = 0.0,
    step: Annotated[float, typer.Option(help="Degrees between frames of that turn.")] = 5.0,
    sweep: Annotated[bool, typer.Option(help="30 degrees to both sides and back.")] = True,
    jaw: Annotated[bool, typer.Option(help="The jaw opening by 30 degrees.")] = True,
    look: Annotated[str, typer.Option(help="textured, shape or both.")] = "both",
    size: Annotated[int, typer.Option(help="Side of each picture in pixels.")] = 384,
    fps: Annotated[float, typer.Option(help="Frames a second.")] = 15.0,
) -> None:
    """Show a head from all sides, with its jaw opening and expressions of your photos."""
    from avatar.progress import Progress
    from avatar.turntable import TurntableSettings
    from avatar.turntable import turntable as film

    settings = TurntableSettings(
        sweep=sweep,
        jaw=jaw,
        turn_deg=turn,
        step_deg=step,
        look=look,
        size=size,
        fps=fps,
    )
    paths = film(
        subject, out, expressions=expressions, settings=settings, progress=Progress(sys.stderr)
    )
    for path in paths:
        typer.echo(path)
