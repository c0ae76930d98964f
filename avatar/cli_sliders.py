"""The command `avatar sliders`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

_IDENTITY = "an avatar's folder, an .npz of `avatar reconstruct`, a sliders.json, or 'mean'"


def register(app: typer.Typer) -> None:
    """Add the command to the program's."""
    app.command()(sliders)


def sliders(
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Such as 'nose width=1.5', in standard deviations; repeatable."),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", help=f"Where to start: {_IDENTITY}.")
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Start at a random person, see --seed.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same person.")] = 0,
    blend: Annotated[
        tuple[str, str, float] | None,
        typer.Option(metavar="A B SHARE", help="Start between two; 0 is A, 1 is B."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("out/sliders"),
    size: Annotated[int, typer.Option(help="Side of each picture in pixels.")] = 512,
    list_: Annotated[
        bool, typer.Option("--list", help="Print all sliders and what 1 of each is; write nothing.")
    ] = False,
) -> None:
    """Sculpt an identity: move named sliders, mix two people, or meet a random one."""
    from avatar.sliders_command import SliderSettings, make_head, parse_amount, slider_lines

    if list_:
        typer.echo("\n".join(slider_lines()))
        return
    amounts: dict[str, float] = {}
    for text in set_ or []:
        name, amount = parse_amount(text)
        if name in amounts:
            raise ValueError(f"the slider {name!r} is set twice; set each once")
        amounts[name] = amount
    settings = SliderSettings(
        source=source,
        random_seed=seed if random else None,
        blend=blend,
        amounts=amounts,
        size=size,
    )
    from avatar.progress import Progress

    for path in make_head(out, settings, progress=Progress(sys.stderr)):
        typer.echo(path)
