"""The command `avatar portrait`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(portrait)


def portrait(
    prompt: Annotated[
        str | None,
        typer.Argument(help="What to draw; (weights:1.2), [a:b:0.5], <lora:name:0.8> as in A1111."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A diffusers folder, a .safetensors file or a hub id; ours if none."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The .png or .jpg to write, or a folder.")] = Path(
        "out/portrait.png"
    ),
    negative: Annotated[str | None, typer.Option(help="What not to draw.")] = None,
    style: Annotated[
        str | None, typer.Option(help="A style's words for the prompt: photo, oil painting, 油画.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="By A1111's name; 'DPM++ 2M Karras' if not given.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="25 if not given.")] = None,
    cfg: Annotated[
        float | None, typer.Option(help="How closely the prompt is followed: 3 to 15; 7.")
    ] = None,
    rescale: Annotated[
        float | None, typer.Option(help="0..1: less contrast where cfg is high.")
    ] = None,
    clip_skip: Annotated[
        int | None, typer.Option(help="1 is the last layer of the text encoder.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same picture.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT; the model's own.")] = None,
    batch: Annotated[int | None, typer.Option(help="How many, of seeds that follow.")] = None,
    tries: Annotated[
        int | None,
        typer.Option(help="Draw so many, keep the one that fits best: the shipped model's 4."),
    ] = None,
    image: Annotated[Path | None, typer.Option(help="A picture to draw over.")] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="0..1: how much of the picture, or of the sketch, changes; 0.75, and 0.5 of the "
            "shipped model's."
        ),
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="White where the picture changes.")] = None,
    extend: Annotated[
        str | None, typer.Option(help="Pixels to add to --image: left,right,top,bottom.")
    ] = None,
    hires: Annotated[
        float | None, typer.Option(help="Draw over this many times larger: 2 or 4.")
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(help="LEFT,TOP,RIGHT,BOTTOM:WORDS, the box in shares of the picture."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Dynamic thresholding, such as 0.995, for pixel models.")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="Draw this head: an avatar's folder, a reconstruction's .npz, a photo."),
    ] = None,
    controlnet: Annotated[
        list[str] | None,
        typer.Option(
            help="PICTURE=PATH or PICTURE:SCALE=PATH; with --like, in place of PICTURE: normal, "
            "depth, canny, openpose, seg, parts, landmarks or face; several at once."
        ),
    ] = None,
    t2i_adapter: Annotated[
        list[str] | None,
        typer.Option(help="PICTURE=PATH or PICTURE:SCALE=PATH; several at once."),
    ] = None,
    ip_adapter: Annotated[
        str | None, typer.Option(help="A plain IP-Adapter's file, which --ip-image goes through.")
    ] = None,
    ip_image: Annotated[
        Path | None, typer.Option(help="A picture that steers like a second prompt.")
    ] = None,
    ip_scale: Annotated[float | None, typer.Option(help="How strongly it does; 0.6.")] = None,
    ip_encoder: Annotated[
        str | None, typer.Option(help="The image_encoder folder that came with the IP-Adapter.")
    ] = None,
    embedding: Annotated[
        list[str] | None,
        typer.Option(help="A Textual Inversion file, or its name in --lora-dir; several at once."),
    ] = None,
    refiner: Annotated[
        str | None,
        typer.Option(help="A second model that goes on: SDXL's refiner, DeepFloyd's enlarger."),
    ] = None,
    variation: Annotated[
        float | None, typer.Option(help="0..1: how far the noise moves to --variation-seed's.")
    ] = None,
    variation_seed: Annotated[int | None, typer.Option(help="1 if not given.")] = None,
    toward: Annotated[
        str | None, typer.Option(help="Another prompt: draw --frames on the way to it.")
    ] = None,
    toward_seed: Annotated[int | None, typer.Option(help="The noise there; --seed's.")] = None,
    frames: Annotated[int, typer.Option(help="How many on the way, both ends among them.")] = 8,
    fuse: Annotated[
        Path | None, typer.Option(help="A second picture, to be one with --image.")
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="0..1: how much of the second picture; 0.5.")
    ] = None,
    restore: Annotated[
        Path | None,
        typer.Option(help="A face-restoring model's file, such as GFPGAN; for finished pictures."),
    ] = None,
    upscale_model: Annotated[
        Path | None,
        typer.Option(help="An enlarging model's file, such as ESRGAN; for finished pictures."),
    ] = None,
    preview: Annotated[
        Path | None, typer.Option(help="A .png that shows the picture so far, after each step.")
    ] = None,
    preview_decoder: Annotated[
        str | None, typer.Option(help="A tiny autoencoder's folder for it, such as TAESD.")
    ] = None,
    layout: Annotated[
        bool, typer.Option(help="Let the shipped model draw over a sketch of a head of ours.")
    ] = True,
    yaw: Annotated[
        float, typer.Option(help="With --like: degrees that the camera goes to the right.")
    ] = 0.0,
    lora_dir: Annotated[
        Path | None, typer.Option(help="The folder that <lora:...> tags name files of.")
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="A generated picture, or its report, to make again."),
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Only say whether a picture is marked as generated.")
    ] = None,
    safety: Annotated[
        bool, typer.Option(help="The model's own checker, if it has one; recorded if off.")
    ] = True,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the model: slow to start, then faster.")
    ] = False,
) -> None:
    """Draw portraits of a prompt, or over a picture, with a Stable Diffusion model."""
    from avatar.portrait import check_picture, make_portraits, replayed
    from avatar.portrait_draw import PortraitInputs
    from avatar.portrait_extras import PortraitExtras, parse_steering
    from avatar.progress import Progress
    from diffusion.metadata import read_record
    from diffusion.recipe import Recipe
    from diffusion.shipped_portrait import usual, usual_tries

    if check is not None:
        checked = check_picture(check)
        typer.echo("\n".join(checked.lines()))
        raise typer.Exit(0 if checked.generated else 1)
    progress = Progress(sys.stderr)
    if style is not None:
        from avatar.album_styles import read_style, worded

        if prompt is None:
            raise ValueError("--style adds its words to a prompt; give one")
        prompt = worded(prompt, read_style(style))
    given: dict[str, Any] = {
        "prompt": prompt,
        "negative": negative,
        "sampler": sampler,
        "steps": steps,
        "cfg": cfg,
        "rescale": rescale,
        "clip_skip": clip_skip,
        "seed": seed,
        "size": None if size is None else parse_size(size),
        "batch": batch,
        "strength": strength,
        "hires": hires,
        "threshold": threshold,
        "regions": None if not region else tuple(parse_region(one) for one in region),
        "variation": variation,
        "variation_seed": variation_seed,
        "margins": None if extend is None else parse_margins(extend),
        "safety_checker": None if safety else False,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    only = None
    if from_ is not None:
        recipe, only = replayed(read_record(from_), changes, progress=progress)
    elif prompt is None and image is None:
        raise ValueError("no prompt was given; say what to draw, or name a picture with --from")
    else:
        recipe = Recipe(**{"prompt": "", **usual(model), **changes})
    if cfg is not None and not 3 <= cfg <= 15:
        progress.warn(f"cfg={cfg:g} is outside 3 to 15, where pictures mostly come out well")
    for name, path in (("--mask", mask), ("--extend", extend)):
        if path is not None and image is None:
            raise ValueError(f"{name} needs the picture it belongs to; add --image")
    guide = None
    if like is not None:
        from avatar.controls import parse_control
        from avatar.portrait_like import read_guide

        if image is not None:
            raise ValueError("--like and --image both say what is drawn over; give one of them")
        controls = tuple(parse_control(one) for one in controlnet or ())
        guide = read_guide(like, controls, yaw_deg=yaw)
    steering = () if like is not None else tuple(controlnet or ())
    extras = PortraitExtras(
        embeddings=tuple(embedding or ()),
        controls=tuple(parse_steering(one, "--controlnet") for one in steering),
        t2i_adapters=tuple(parse_steering(one, "--t2i-adapter") for one in t2i_adapter or ()),
        ip_adapter=ip_adapter,
        ip_image=ip_image,
        ip_encoder=ip_encoder,
        ip_scale=ip_scale,
        refiner=refiner,
        fuse=fuse,
        share=share,
        restore=restore,
        upscale_model=upscale_model,
        preview=preview,
        preview_decoder=preview_decoder,
    )
    if tries is not None and not 1 <= tries <= 64:
        raise ValueError(f"--tries {tries} must be from 1 to 64")
    alone = (image, from_, toward, batch, hires, region)
    inputs = PortraitInputs(
        tries=tries or usual_tries(model, plain=not any(alone)),
        model=model,
        image=image,
        mask=mask,
        lora_dir=lora_dir,
        device=device,
        compiled=compiled,
        only=only,
        layout=layout,
        guide=guide,
        extras=extras,
    )
    if toward is not None:
        from avatar.portrait_frames import make_frames
        from diffusion.interpolation import way

        end = recipe.change(prompt=toward, seed=recipe.seed if toward_seed is None else toward_seed)
        for path in make_frames(way(recipe, end, frames), out, inputs, progress=progress):
            typer.echo(path)
        return
    for path in make_portraits(recipe, out, inputs, progress=progress):
        typer.echo(path)


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of `512x768`."""
    width, _, height = text.lower().replace("×", "x").partition("x")
    if not (width.strip().isdecimal() and height.strip().isdecimal()):
        raise ValueError(f"--size {text!r} is no size; write WIDTHxHEIGHT, such as 512x768")
    return int(width), int(height)


def parse_margins(text: str) -> tuple[int, int, int, int]:
    """The four numbers of `left,right,top,bottom`."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        raise ValueError(f"--extend {text!r} is not four numbers; write left,right,top,bottom")
    left, right, top, bottom = (int(part) for part in parts)
    return left, right, top, bottom


def parse_region(text: str) -> tuple[str, tuple[float, float, float, float]]:
    """The words and the box of `left,top,right,bottom:words`."""
    box, _, words = text.partition(":")
    try:
        left, top, right, bottom = (float(part) for part in box.split(","))
    except ValueError as error:
        raise ValueError(
            f"--region {text!r} has no box; write LEFT,TOP,RIGHT,BOTTOM:WORDS with shares of the "
            "picture, such as 0,0,0.5,1:a red wall"
        ) from error
    return words.strip(), (left, top, right, bottom)
