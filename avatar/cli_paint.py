"""The command `avatar paint`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(paint)


def paint(
    avatar: Annotated[Path, typer.Argument(help="The folder that `avatar create` wrote.")],
    prompt: Annotated[str | None, typer.Option(help="What the head is to look like.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The diffusion model that draws the prompt.")
    ] = None,
    style: Annotated[
        str | None,
        typer.Option(help="Paint by filters: 'oil painting', anime, pencil, clay, neon."),
    ] = None,
    controlnet: Annotated[
        list[str] | None,
        typer.Option(help="KIND=PATH or KIND:SCALE=PATH; normal, depth, canny, seg, parts."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("out/painted"),
    views: Annotated[int, typer.Option(help="How many sides of the head are painted.")] = 8,
    side: Annotated[int, typer.Option(help="Texels a side of the texture.")] = 1024,
    size: Annotated[int, typer.Option(help="Pixels a side of each view.")] = 512,
    strength: Annotated[
        float, typer.Option(help="0..1: how much of the head's own look the front view loses.")
    ] = 0.6,
    steps: Annotated[int, typer.Option(help="Of the model.")] = 25,
    cfg: Annotated[float, typer.Option(help="How closely the prompt is followed.")] = 7.0,
    negative: Annotated[str, typer.Option(help="What not to draw.")] = "",
    seed: Annotated[int, typer.Option(help="The same seed paints the same.")] = 0,
    safety: Annotated[bool, typer.Option(help="The model's own checker, if it has one.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Paint an avatar's whole head by a prompt or in a style, from views all round it."""
    from avatar.controls import parse_control
    from avatar.paint_avatar import PaintWish, paint_avatar
    from avatar.progress import Progress
    from avatar.texture_diffusion import PaintSettings
    from diffusion.recipe import Recipe

    recipe = None
    if prompt is not None:
        recipe = Recipe(
            prompt,
            negative=negative,
            steps=steps,
            cfg=cfg,
            strength=strength,
            seed=seed,
            safety_checker=safety,
            model="" if model is None else model,
        ).needs_words()
    wish = PaintWish(
        recipe=recipe,
        model=model,
        controls=tuple(parse_control(one) for one in controlnet or ()),
        style=style,
        device=device,
    )
    settings = PaintSettings(views=views, side=side, size=size)
    for path in paint_avatar(avatar, out, wish, settings, progress=Progress(sys.stderr)):
        typer.echo(path)
