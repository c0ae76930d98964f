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
        str | None,
        typer.Option(help="The diffusion model that draws the prompt; the shipped one by default."),
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
    views: Annotated[
        int, typer.Option(help="How many sides are painted; by the shipped model at most 5.")
    ] = 8,
    side: Annotated[int, typer.Option(help="Texels a side of the texture.")] = 1024,
    size: Annotated[int, typer.Option(help="Pixels a side of each view.")] = 512,
    strength: Annotated[
        float | None,
        typer.Option(
            help="0..1: how much of the head's own look the front view loses; as suits the model."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of the model; as suits it.")] = None,
    cfg: Annotated[
        float | None, typer.Option(help="How closely the prompt is followed; as suits the model.")
    ] = None,
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
    from diffusion.shipped_portrait import FOLDER, NAME, usual

    recipe = None
    if prompt is not None:
        asked = {"strength": strength, "steps": steps, "cfg": cfg}
        given = {name: value for name, value in asked.items() if value is not None}
        suits = usual(model) or {"strength": 0.6, "steps": 25, "cfg": 7.0}
        recipe = Recipe(
            prompt,
            negative=negative,
            seed=seed,
            safety_checker=safety,
            model=FOLDER if model in (None, NAME) else str(model),
            **{**suits, **given},
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
