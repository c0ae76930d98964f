"""The command `avatar`: parses, calls one function, prints its result."""

from __future__ import annotations

import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from assets.errors import AssetError
from avatar import (
    cli_album,
    cli_paint,
    cli_portrait,
    cli_reconstruct,
    cli_sing,
    cli_sliders,
    cli_track,
    cli_transfer,
    cli_voice,
)

app = typer.Typer(
    help="From a photo to a rigged, textured head that speaks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Hair(StrEnum):
    auto = "auto"
    none = "none"
    short = "short"
    bob = "bob"
    fringe = "fringe"
    long = "long"


@app.callback()
def _common(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False,
) -> None:
    # torch's idle threads spin for milliseconds after each operation unless told otherwise before
    # it is loaded, and take the cores from the rasterizer's own; asleep at once, they take longer
    # to wake than a small network's operations last
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )


@app.command()
def create(
    prompt: Annotated[
        str | None, typer.Argument(help="What the person looks like, in place of --photo.")
    ] = None,
    photo: Annotated[
        list[Path] | None,
        typer.Option(help="A portrait: JPEG, PNG, WebP, TIFF; again for more of the person."),
    ] = None,
    style: Annotated[
        str | None, typer.Option(help="Such as 'oil painting', anime, pencil, clay, neon.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A diffusers model to paint the prompt's portrait; 'shipped' is ours."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("out/avatar"),
    say: Annotated[str | None, typer.Option(help="A sentence to speak.")] = None,
    audio: Annotated[Path | None, typer.Option(help="A recording to speak.")] = None,
    sing: Annotated[Path | None, typer.Option(help="A score, or a sung take, to sing.")] = None,
    voice: Annotated[str | None, typer.Option(help="Whose voice: see `avatar voices`.")] = None,
    language: Annotated[str, typer.Option(help="Of the text or the lyrics.")] = "en-us",
    converter: Annotated[
        Path | None, typer.Option(help="A StarGANv2-VC for --voice; else the shipped one.")
    ] = None,
    vocoder: Annotated[Path | None, typer.Option(help="A vocoder for the converter.")] = None,
    hair: Annotated[Hair, typer.Option(help="auto looks at the photo.")] = Hair.auto,
    hair_color: Annotated[str | None, typer.Option(help="Such as '#5a3a22'.")] = None,
    landmarks: Annotated[
        Path | None, typer.Option(help="File of 68 points, in place of a detector.")
    ] = None,
    box: Annotated[str | None, typer.Option(help="The face in pixels: x,y,w,h.")] = None,
    fps: Annotated[int, typer.Option(help="Frames a second of the video.")] = 30,
    size: Annotated[int, typer.Option(help="Side of the video in pixels.")] = 512,
    seed: Annotated[int, typer.Option(help="The same seed gives the same avatar.")] = 0,
) -> None:
    """Make an avatar of a photo or a prompt, and have it speak."""
    from avatar.config import CreateSettings

    photos = photo or []
    if (prompt is None) == (not photos):
        raise ValueError(
            'give a prompt in quotes ("a cheerful woman with silver hair") or --photo FILE, '
            "one of them"
        )
    lines = {"--say": say, "--audio": audio, "--sing": sing}
    spoken = [option for option, line in lines.items() if line is not None]
    if len(spoken) > 1:
        raise ValueError(f"{' and '.join(spoken)} were both given; an avatar speaks one of them")
    if voice is not None and not spoken:
        raise ValueError("--voice has nothing to speak; give --say, --audio or --sing too")
    settings = CreateSettings(
        hair=hair.value,
        hair_color=hair_color,
        seed=seed,
        landmarks=landmarks,
        box=None if box is None else parse_box(box),
        fps=fps,
        size=size,
        language=language,
        voice=voice,
        converter=converter,
        vocoder=vocoder,
    )
    for given in (*photos, audio, sing, landmarks):
        if given is not None and not given.is_file():
            raise AssetError(f"{given} is not there; check the path")

    from avatar.pipeline import create as create_avatar
    from avatar.progress import Progress

    avatar = create_avatar(
        photos[0] if photos else None,
        more=photos[1:],
        prompt=prompt,
        style=style,
        model=model,
        say=say,
        audio=audio,
        sing=sing,
        out=out,
        settings=settings,
        progress=Progress(sys.stderr),
    )
    for name in avatar.manifest.files:
        print(out / name)
    if any(name.endswith(".glb") for name in avatar.manifest.files):
        print(
            "Open a .glb by dropping it into any glTF viewer (Blender: File > Import > glTF 2.0).",
            file=sys.stderr,
        )


@app.command()
def sculpt(
    masks: Annotated[Path, typer.Option(help="Folder of masks: the object white or opaque.")],
    cameras: Annotated[Path, typer.Option(help="JSON of the cameras, or a transforms.json.")],
    images: Annotated[Path | None, typer.Option(help="Folder of photos, for colours.")] = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("out/sculpt"),
    verts: Annotated[int, typer.Option(help="Vertices of the mesh, about.")] = 8000,
    steps: Annotated[int, typer.Option(help="Steps of the fit.")] = 120,
    size: Annotated[int, typer.Option(help="Longest side in pixels to work at.")] = 512,
) -> None:
    """Make a mesh of any object from masks of several views."""
    for folder in (masks, images):
        if folder is not None and not folder.is_dir():
            raise AssetError(f"{folder} is not a folder; give the one that the pictures are in")
    if not cameras.is_file():
        raise AssetError(f"{cameras} is not there; give the JSON file of the cameras")

    from avatar.progress import Progress
    from avatar.sculpt import FILES, SculptSettings, sculpt_folder
    from flame.sculpt import SculptConfig

    settings = SculptSettings(size=size, fit=SculptConfig(n_verts=verts, steps=steps))
    progress = Progress(sys.stderr)
    result = sculpt_folder(
        masks, cameras, images=images, out=out, settings=settings, progress=progress
    )
    progress.note(f"silhouettes and masks overlap by {float(result.iou.mean()):.4f} on average")
    for name in FILES:
        print(out / name)


cli_reconstruct.register(app)
cli_portrait.register(app)
cli_paint.register(app)
cli_album.register(app)
cli_transfer.register(app)
cli_track.register(app)
cli_sliders.register(app)
cli_sing.register(app)
cli_voice.register(app)


@app.command()
def doctor() -> None:
    """Say what is installed, which models are there, where missing ones go, and their licences."""
    from avatar.doctor import examine

    report = examine()
    print("\n".join(report.lines()))
    raise typer.Exit(0 if report.can_create else 1)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as version_of

    print(version_of("prompt-to-avatar"))


def main() -> None:
    """Run the command; an error that the user can mend is one line and exit status 2."""
    try:
        app()
    except (ValueError, AssetError, OSError) as error:
        logging.getLogger(__name__).debug("where it was raised", exc_info=True)
        print(f"avatar: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def parse_box(text: str) -> tuple[float, float, float, float]:
    """Four numbers with commas between them."""
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"--box {text!r} is not four numbers; write x,y,w,h in pixels") from error
    return x, y, width, height


if __name__ == "__main__":
    main()
