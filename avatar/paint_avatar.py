"""An avatar's folder painted anew: by a diffusion model and a prompt, or in a style by filters."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from assets.files import replacing, sha256_of
from assets.image import write_image
from avatar.bundle import Avatar, ModelUse, shipped_use
from avatar.controls import Control, condition_of, open_controlled
from avatar.pipeline import COPYRIGHT
from avatar.progress import Progress
from avatar.source import find_style
from avatar.texture_diffusion import Painter, Painting, PaintSettings, paint_head
from avatar.texture_views import PaintView, styled_picture
from diffusion.recipe import Recipe, to_json
from diffusion.shipped_portrait import NAME, READER, networks
from diffusion.write import write_picture
from flame.head import Head
from flame.material import Material

REPORT = "paint.json"
_FIRST_STRENGTH = 0.9  # of views beside the front, under the mask: little there is worth keeping


@dataclass(frozen=True)
class PaintWish:
    """What to paint with: a prompt and a model, or a style."""

    recipe: Recipe | None = None
    model: Path | str | None = None  # None is the shipped one
    controls: tuple[Control, ...] = ()
    style: str | None = None  # in words; filters paint it, or after the model
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.recipe is None and self.style is None:
            raise ValueError("there is nothing to paint; give --prompt or --style")
        if self.recipe is None and self.model is not None:
            raise ValueError("a model needs a prompt to draw; give --prompt too")
        if self.controls and self.draws_by_shipped():
            raise ValueError(
                "ControlNets steer a diffusion model; name it with --model, and give --prompt too "
                "(the shipped model brings its own)"
            )

    def draws_by_shipped(self) -> bool:
        """Whether the shipped model draws, or none."""
        return self.model is None or str(self.model) == NAME


def paint_avatar(
    folder: Path,
    out: Path,
    wish: PaintWish,
    settings: PaintSettings | None = None,
    *,
    progress: Progress | None = None,
) -> list[Path]:
    """Paint the avatar of a folder into the folder `out`; returns what was written.

    Beside the avatar: head.glb, head.obj, preview.png, the painted views, and paint.json with what
    was measured.
    """
    settings, progress = settings or PaintSettings(), progress or Progress()
    out = Path(out)
    if out.resolve() == Path(folder).resolve():
        raise ValueError(f"{out} is the avatar to paint; give --out another folder")
    if wish.style is not None:
        find_style(wish.style)  # told before minutes are spent
    avatar = Avatar.load(folder)
    materials, models = avatar.materials, []
    painting: Painting | None = None
    if wish.recipe is not None:
        if wish.draws_by_shipped():
            materials, painting = _by_shipped(avatar, wish, settings, progress)
            models += [shipped_use(name) for name in networks() if name != READER]
        else:
            assert wish.model is not None
            with progress.stage("open the model"):
                pipeline = open_controlled(wish.model, wish.controls, wish.recipe, wish.device)
                draw = diffusion_painter(
                    pipeline, wish.recipe, avatar.head, materials, wish.controls
                )
                models.append(ModelUse(f"texture: diffusion model {Path(wish.model).name}", "", ""))
            with progress.stage("paint the views"):
                painting = paint_head(avatar.head, materials, draw, settings, on_view=progress.step)
            materials = _wearing(materials, painting)
    if wish.style is not None:
        draw = style_painter(wish.style, avatar.head, materials)
        models.append(
            ModelUse(f"texture style: {wish.style} (image filters; no trained model)", "MIT", "")
        )
        with progress.stage("paint the style"):
            painting = paint_head(avatar.head, materials, draw, settings, on_view=progress.step)
        materials = _styled(_wearing(materials, painting), wish.style)
    assert painting is not None
    with progress.stage("write"):
        return _written(avatar, materials, painting, wish, tuple(models), out, folder, progress)


def style_painter(style: str, head: Head, materials: Sequence[Material]) -> Painter:
    """Paints every view of the head as it is with the filter of a style."""
    named = find_style(style)
    # of what is painted so far the filter would make ever stronger colours, view after view
    return lambda view: styled_picture(view.seen, head, materials, named)


def diffusion_painter(
    pipeline: Any,
    recipe: Recipe,
    head: Head,
    materials: Sequence[Material],
    controls: Sequence[Control] = (),
) -> Painter:
    """Paints the front over the head as it is, and of later views what is not painted yet.

    The prompt is told where each view is taken from. All views start from one seed.
    """
    from diffusion.conditioned import conditioned

    def draw(view: PaintView) -> Float[Tensor, "1 3 H W"]:
        words = f"{recipe.prompt}, {view.plan.name}"
        conditions = [
            condition_of(one.kind, view.seen, view.camera, head, materials, view.picture)
            for one in controls
        ]
        scales = [one.scale for one in controls]
        if view.index == 0:
            first = recipe.change(prompt=words, batch=1, kind="img2img")
            return conditioned(pipeline, first, conditions, image=view.picture, scales=scales)
        strength = max(recipe.strength, _FIRST_STRENGTH)
        later = recipe.change(prompt=words, batch=1, kind="inpaint", strength=strength)
        if not bool((view.mask > 0).any()):
            return view.picture
        return conditioned(
            pipeline, later, conditions, image=view.picture, mask=view.mask, scales=scales
        )

    return draw


def _by_shipped(
    avatar: Avatar, wish: PaintWish, settings: PaintSettings, progress: Progress
) -> tuple[tuple[Material, ...], Painting]:
    """The materials as the shipped model paints them, and the painting of the skin."""
    from avatar.paint_shipped import BEYOND, CONTROL, ShippedPaint, plan_face
    from deca.prompt_words import read_prompt
    from diffusion.prompt import plain_text

    assert wish.recipe is not None
    prompt = wish.recipe.prompt
    reading = read_prompt(plain_text(prompt))
    if reading.unknown:
        progress.warn(f"not understood in the prompt: {', '.join(reading.unknown)}")
    progress.warn(BEYOND)
    with progress.stage("open the model"):
        pipeline = open_controlled(NAME, (CONTROL,), wish.recipe, wish.device)
        paint = ShippedPaint.of(avatar.head, avatar.materials, wish.recipe)
    with progress.stage("paint the views"):
        painting = paint_head(
            avatar.head, paint.materials, paint.painter(pipeline), settings,
            plans=plan_face(settings.views), frame=paint.frame, on_view=progress.step,
        )  # fmt: skip
    materials = _wearing(paint.materials, painting)
    style = reading.wish.style
    return (materials if style is None else _styled(materials, style)), painting


def _wearing(materials: Sequence[Material], painting: Painting) -> tuple[Material, ...]:
    return tuple(
        dataclasses.replace(one, base_color=painting.albedo) if one.name == "skin" else one
        for one in materials
    )


def _styled(materials: tuple[Material, ...], words: str) -> tuple[Material, ...]:
    """The rest of the head in the style too: hair, eyes, clothes."""
    from avatar.painted import painted

    style = find_style(words)
    return materials if style == "realistic" else painted(materials, style)


def _written(
    avatar: Avatar,
    materials: tuple[Material, ...],
    painting: Painting,
    wish: PaintWish,
    models: tuple[ModelUse, ...],
    out: Path,
    folder: Path,
    progress: Progress,
) -> list[Path]:
    from avatar.paint_shipped import UNDRAWN
    from flame.gltf import save_glb
    from flame.obj import save_obj

    out.mkdir(parents=True, exist_ok=True)
    recipe = wish.recipe or Recipe(prompt=wish.style or "", kind="img2img")
    paths = [out / f"view-{number}.png" for number in range(len(painting.views))]
    for path, picture, plan in zip(paths, painting.drawn, painting.views, strict=True):
        if wish.recipe is None or plan.name == UNDRAWN:
            write_image(path, picture, text={"style": wish.style or ""}, ai_generated=True)
        else:
            words = f"{recipe.prompt}, {plan.name}"
            over = path is paths[0] or wish.draws_by_shipped()
            kind = "img2img" if over else "inpaint"
            write_picture(path, picture, recipe.change(prompt=words, kind=kind))
    sheet = out / "preview.png"
    write_image(sheet, _sheet(avatar.head, materials), ai_generated=True)
    save_glb(avatar.head, materials, out / "head.glb", copyright_notice=COPYRIGHT)
    save_obj(avatar.head, materials, out / "head.obj")
    report: dict[str, Any] = {
        "avatar": str(folder),
        "recipe": None if wish.recipe is None else to_json(wish.recipe),
        "style": wish.style,
        "controlnets": [f"{one.kind}={one.source}" for one in wish.controls],
        "views": [dataclasses.asdict(plan) for plan in painting.views],
        "measured": dataclasses.asdict(painting.report),
        "warnings": list(progress.warnings),
    }
    with replacing(out / REPORT) as path:
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    names = ["head.glb", "head.obj", "head.mtl", "preview.png", REPORT]
    files = [*(out / name for name in names), *sorted(out.glob("head*.png")), *paths]
    manifest = dataclasses.replace(
        avatar.manifest,
        inputs={
            **avatar.manifest.inputs,
            "painted from": sha256_of(Path(folder) / "avatar.json"),
        },
        seeds={**avatar.manifest.seeds, "paint": recipe.seed},
        models=(*avatar.manifest.models, *models),
        stages=progress.stages,
        warnings=(*avatar.manifest.warnings, *progress.warnings),
        files={},
    ).with_files(out, files)
    painted = Avatar(avatar.head, materials, avatar.codes, manifest)
    painted.save(out)
    return [out / "avatar.json", *files]


def _sheet(head: Head, materials: tuple[Material, ...]) -> Float[Tensor, "1 3 H W"]:
    """The painted head from the front, both sides and behind."""
    from avatar.clip import Stage

    stage = Stage(head, materials, 384)
    turns = (-60.0, 0.0, 60.0, 180.0)
    frames = [torch.from_numpy(stage.photograph(head.verts[None], yaw)) for yaw in turns]
    return torch.cat(frames, dim=1).permute(2, 0, 1)[None].float() / 255
