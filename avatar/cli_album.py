"""The command `avatar album`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

_STRENGTH = 0.55  # of drawing over a photo, by models that people bring


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(album)


def album(
    prompt: Annotated[str, typer.Argument(help="'portrait of a woman, {style}'.")],
    model: Annotated[
        str | None,
        typer.Option(help="A diffusers folder, a .safetensors file or a hub id; ours if none."),
    ] = None,
    styles: Annotated[
        str,
        typer.Option(help="A text file of styles (name: words), names with commas, or 'all'."),
    ] = "photo,oil painting,watercolour,anime,pencil,neon",
    seeds: Annotated[int, typer.Option(help="How many pictures of each style.")] = 4,
    seed: Annotated[int, typer.Option(help="The first of them.")] = 0,
    photo: Annotated[
        Path | None, typer.Option(help="A person's photo, to draw over and be ranked against.")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="A CLIP model's folder, to rank by fit to the prompt.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write, or to go on with.")] = Path(
        "out/album"
    ),
    negative: Annotated[str, typer.Option(help="What not to draw.")] = "",
    strength: Annotated[
        float | None, typer.Option(help="0..1: how much of the photo changes; 0.55, ours 0.5.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of the model; 25, ours 24.")] = None,
    cfg: Annotated[
        float | None,
        typer.Option(help="How closely the prompt is followed; 7, ours 3."),
    ] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT; the model's own.")] = None,
    lora_dir: Annotated[
        Path | None, typer.Option(help="The folder that <lora:...> tags name files of.")
    ] = None,
    safety: Annotated[bool, typer.Option(help="The model's own checker, if it has one.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Draw one prompt or person in many styles, ranked; a stopped run goes on where it was."""
    from avatar.album import AlbumInputs, make_album
    from avatar.album_styles import read_styles
    from avatar.cli_portrait import parse_size
    from avatar.progress import Progress
    from diffusion.recipe import Recipe
    from diffusion.shipped_portrait import usual

    given = {"steps": steps, "cfg": cfg, "strength": strength}
    named = {name: value for name, value in given.items() if value is not None}
    recipe = Recipe(
        prompt,
        negative=negative,
        seed=seed,
        size=None if size is None else parse_size(size),
        safety_checker=safety,
        **{"strength": _STRENGTH, **usual(model), **named},
    )
    inputs = AlbumInputs(model, photo, clip, lora_dir, device)
    progress = Progress(sys.stderr)
    paths = make_album(recipe, read_styles(styles), seeds, out, inputs, progress=progress)
    for path in paths[:3]:
        typer.echo(path)
