"""From a prompt, a picture or an earlier result to portraits on disk, with a report of them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.files import replacing, sha256_of
from assets.image import read_image
from assets.store import PACKAGE
from avatar.portrait_draw import (
    ENLARGER,
    LAYOUT,
    PortraitInputs,
    drawn_best,
    drawn_in_memory,
    enlarged_drawings,
    head_of,
    layouts,
    open_pipeline,
    record_in_json,
    shipped_extras,
    takes_prompts,
)
from avatar.portrait_extras import check_extras
from avatar.portrait_photo import with_cut
from avatar.progress import Progress
from avatar.sheet import Panel, SheetConfig, lay_out
from avatar.transfer_source import FaceReader
from diffusion.fingerprint import model_hash
from diffusion.mark import THRESHOLD, MarkReading, read_mark
from diffusion.metadata import Record
from diffusion.recipe import Extra, Recipe, to_json
from diffusion.shipped_portrait import (
    FOLDER,
    NAME,
    fitted,
    has_control,
    has_reader,
    is_installed,
    is_shipped,
    model_name,
    place_of,
    said,
    usual,
    usual_tries,
)
from diffusion.write import says_generated, write_picture

log = logging.getLogger(__name__)

PICTURES = (".png", ".jpg", ".jpeg")
LAID_OUT = (
    "over a sketch, our render of a head that the prompt's words ask for, in the broad colours of "
    "that, and held to the head by the network portrait-control"
)


@dataclass(frozen=True)
class Checked:
    """What a picture says of itself, and what is hidden in it."""

    mark: MarkReading
    says_generated: bool

    @property
    def generated(self) -> bool:
        """Whether either shows that the picture is generated."""
        return self.mark.marked or self.says_generated

    def lines(self) -> list[str]:
        """The findings in words."""
        found = "found" if self.mark.marked else "not found"
        return [
            f"invisible mark: {found} (score {self.mark.score:.1f}, threshold {THRESHOLD})",
            f"metadata: {'say' if self.says_generated else 'do not say'} that it is generated",
        ]


def check_picture(path: Path) -> Checked:
    """Whether a picture carries the invisible mark or the metadata of a generated one."""
    return Checked(read_mark(read_image(path, min_side=1)), says_generated(path))


def make_portraits(
    recipe: Recipe, out: Path, inputs: PortraitInputs, *, progress: Progress | None = None
) -> list[Path]:
    """Draw a recipe's pictures and write them, a contact sheet if there are several, and a report.

    `out` is a picture's name, or a folder for `portrait-0.png` and so on. The first path returned
    is the first picture's.
    """
    progress = progress or Progress()
    start = time.perf_counter()
    names = _names(out, recipe.batch)
    recipe, inputs = prepared(recipe, inputs)
    if inputs.guide is not None:
        for line in inputs.guide.unworn(recipe.prompt):
            progress.warn(line)
    model: dict[str, Any] = {}
    if _is_finishing_only(recipe, inputs) and inputs.image is not None:
        recipe = recipe.change(kind="restore", batch=1, model="", model_hash="")
        pictures = read_image(inputs.image, min_side=1)
    else:
        recipe, source = chosen_model(recipe, inputs)
        with progress.stage("opening the model"):
            pipeline = open_pipeline(source, recipe, inputs, progress)
        cut = ""
        if is_shipped(source):
            recipe = fitted(recipe)
            if inputs.image is not None and inputs.mask is None and recipe.margins is None:
                inputs, cut = with_cut(inputs, recipe.prompt, FaceReader(), progress)
        elif recipe.size is None and inputs.image is None and takes_prompts(pipeline):
            from diffusion.draw import size_of

            recipe = recipe.change(size=size_of(pipeline, recipe))
        recipe, pictures, model = _drawn(pipeline, source, recipe, inputs, progress)
        if cut:
            model["image"] = cut
    if inputs.extras.finishes:
        with progress.stage("restoring and enlarging"):
            pictures = inputs.extras.finished(pictures, progress)
    chosen = range(recipe.batch) if inputs.only is None else [inputs.only]
    written = [
        write_picture(names.picture(k), pictures[k : k + 1], recipe, index=k) for k in chosen
    ]
    report: dict[str, Any] = {
        "recipe": to_json(recipe),
        "model": model,
        "seconds": round(time.perf_counter() - start, 3),
        "pictures": [
            {"file": path.name, "seed": recipe.seed + k, "sha256": sha256_of(path)}
            for path, k in zip(written, chosen, strict=True)
        ],
        "warnings": list(progress.warnings),
    }
    if len(written) > 1:
        sheet = _sheet(pictures, recipe)
        written.append(write_picture(names.sheet, sheet, recipe))
        report["sheet"] = names.sheet.name
    if inputs.guide is not None:
        report["like"] = inputs.guide.report(pictures)
        side = pictures.shape[-1]
        written += inputs.guide.write_conditions(names.folder, names.stem, side)
    with replacing(names.report) as path:
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [*written, names.report]


def shipped_portrait(
    prompt: str, seed: int, *, tries: int | None = None, layout: bool = True, **changes: Any
) -> Float[Tensor, "1 3 H W"]:
    """One portrait of a prompt by the shipped model, as `avatar portrait` draws it.

    `changes` are of the recipe that suits the model.
    """
    recipe = fitted(Recipe(**{"prompt": prompt, "seed": seed, **usual(NAME), **changes}))
    several = usual_tries(NAME, plain=True) if tries is None else tries
    inputs = PortraitInputs(model=NAME, tries=several, layout=layout)
    recipe, inputs = prepared(recipe, inputs)
    pipeline = _shipped_pipeline(inputs.layout)
    return _drawn(pipeline, place_of(NAME), recipe, inputs, Progress())[1]


@lru_cache(maxsize=1)
def _shipped_pipeline(layout: bool) -> Any:
    inputs = PortraitInputs(layout=layout)
    return open_pipeline(place_of(NAME), Recipe(""), inputs, Progress())


def _drawn(
    pipeline: Any,
    source: Path | str,
    recipe: Recipe,
    inputs: PortraitInputs,
    progress: Progress,
) -> tuple[Recipe, Float[Tensor, "B 3 H W"], dict[str, Any]]:
    """The pictures before any finishing, their recipe, and what the model did, for the report."""
    chosen_by: dict[str, Any] = {}
    with progress.stage("drawing"):
        if inputs.tries > 1:
            check_tries(recipe, inputs, source)
            recipe, pictures, chosen_by = drawn_best(pipeline, recipe, inputs, progress)
        else:
            recipe, pictures = drawn_in_memory(pipeline, recipe, inputs, progress)
    model = record_in_json(pipeline)
    if chosen_by:
        model["chosen"] = chosen_by
    if inputs.layout:
        model["layout"] = LAID_OUT
        held = layouts(recipe)
        model["heard"] = [one.prompt for one, _ in held]
        if unknown := held[0][1].unknown:
            progress.warn(f"not understood in the prompt, and left to chance: {', '.join(unknown)}")
    if is_shipped(source):
        with progress.stage("enlarging"):
            pictures = enlarged_drawings(pictures, recipe, inputs)
        model["enlarged"] = said()
    return recipe, pictures, model


def prepared(recipe: Recipe, inputs: PortraitInputs) -> tuple[Recipe, PortraitInputs]:
    """The recipe with the checksums of all that goes in, and the inputs with what it remembers.

    Raises ValueError if the recipe was made with something that is not given.
    """
    inputs = replace(inputs, extras=inputs.extras.completed(recipe))
    if inputs.guide is not None and is_shipped(_model(recipe, inputs)):
        inputs = replace(inputs, guide=inputs.guide.for_shipped(recipe.prompt))
    inputs = replace(inputs, layout=_is_laid_out(recipe, inputs))
    extras = inputs.extras.records(inputs.lora_dir)
    if (guide := inputs.guide) is not None:
        extras += (Extra("head", f"{guide.source}, --yaw {guide.yaw_deg:g}"),)
        extras += tuple(
            Extra("controlnet", str(one.source), "", one.scale) for one in guide.controls
        )
    before = recipe.extras
    if not _is_finishing_only(recipe, inputs):
        if is_shipped(_model(recipe, inputs)):
            head = head_of(recipe.extras)  # of a picture that is made again
            head = recipe.seed if head is None else head
            extras += shipped_extras(head=head if inputs.layout else None)
        else:  # another model has no need of what belongs to the shipped one
            before = tuple(one for one in before if one.kind not in (LAYOUT, ENLARGER))
    check_extras(before, extras)
    return _with_checksums(recipe.change(extras=extras), inputs), inputs


def _is_laid_out(recipe: Recipe, inputs: PortraitInputs) -> bool:
    """Whether a head of ours stands behind the drawing: a prompt's by the shipped model alone.

    A picture that is made again has one if it had one.
    """
    if not recipe.prompt.strip() or not has_control():
        return False
    if not is_shipped(_model(recipe, inputs)):
        return False
    if recipe.model:
        return any(one.kind == LAYOUT for one in recipe.extras)
    extras = inputs.extras
    more = (inputs.image, inputs.guide, recipe.toward, recipe.regions, extras.steering)
    if not inputs.layout or any(more) or extras.fuse is not None or recipe.hires > 1:
        return False
    # words that a model was taught are the user's to choose
    if recipe.all_loras() or extras.embeddings or extras.ip_adapter is not None:
        return False
    return recipe.size is None or recipe.size[0] == recipe.size[1]


def check_tries(recipe: Recipe, inputs: PortraitInputs, source: Path | str) -> None:
    """Raise ValueError where there is nothing to choose from, or nobody who chooses."""
    if not (is_shipped(source) and has_reader()):
        raise ValueError(
            f"--tries {inputs.tries} is for the shipped model, whose drawings the network "
            "portrait-reader chooses from; leave --tries out, or --model"
        )
    if recipe.batch > 1 or inputs.image is not None:
        raise ValueError(
            f"--tries {inputs.tries} is for one picture of a prompt; leave out --batch and "
            "--image, or --tries"
        )


def chosen_model(recipe: Recipe, inputs: PortraitInputs) -> tuple[Recipe, Path | str]:
    """The model that a recipe is drawn with, and the recipe that names it."""
    source = _model(recipe, inputs)
    return recipe.change(model=model_name(source), model_hash=model_hash(source)), source


def replayed(
    record: Record, changes: Mapping[str, Any], *, progress: Progress
) -> tuple[Recipe, int | None]:
    """A picture's recipe with the changes asked for, and which of its batch is wanted again."""
    if not record.exact:
        progress.warn(
            "the picture is another program's, whose noise and samplers differ in detail: "
            "expect a relative of it, not the same"
        )
    for name, value in record.rest.items():
        if name not in ("Version", "Hires steps", "Hires upscaler", "Lora hashes"):
            progress.note(f"not used: {name}: {value}")
    same_batch = not {"batch", "seed"} & set(changes)
    return record.recipe.change(**changes), record.index if same_batch else None


@dataclass(frozen=True)
class _Names:
    folder: Path
    stem: str
    suffix: str
    alone: bool
    in_folder: bool

    def picture(self, index: int) -> Path:
        number = "" if self.alone else f"-{index}"
        return self.folder / f"{self.stem}{number}{self.suffix}"

    @property
    def sheet(self) -> Path:
        return self.folder / ("sheet.png" if self.in_folder else f"{self.stem}-sheet.png")

    @property
    def report(self) -> Path:
        return self.folder / ("report.json" if self.in_folder else f"{self.stem}.json")


def _names(out: Path, batch: int) -> _Names:
    if out.suffix.lower() in PICTURES and not out.is_dir():
        return _Names(out.parent, out.stem, out.suffix, alone=batch == 1, in_folder=False)
    if out.suffix and not out.is_dir():
        raise ValueError(f"{out} must end in .png or .jpg, or be a folder's name without a dot")
    return _Names(out, "portrait", ".png", alone=False, in_folder=True)


def _model(recipe: Recipe, inputs: PortraitInputs) -> Path | str:
    if inputs.model is not None:
        return place_of(inputs.model)
    shipped = PACKAGE / FOLDER
    if recipe.model and recipe.model != shipped.name:
        if Path(recipe.model).exists():
            return Path(recipe.model)
        raise AssetError(
            f"the picture was made by the model {recipe.model!r}, which is not there; "
            "name its folder or file with --model"
        )
    if is_installed():
        return shipped
    raise AssetError(
        "no portrait model is installed; fetch one, such as with `hf download "
        "stable-diffusion-v1-5/stable-diffusion-v1-5`, and name it with --model: a diffusers "
        "folder, a .safetensors file, or the name it was fetched by"
    )


def _with_checksums(recipe: Recipe, inputs: PortraitInputs) -> Recipe:
    changes = {}
    for name, path in (("image_sha256", inputs.image), ("mask_sha256", inputs.mask)):
        before = getattr(recipe, name)
        if path is None:
            if before and (name == "image_sha256" or recipe.kind == "inpaint"):
                what = "--image" if name == "image_sha256" else "--mask"
                raise ValueError(f"the picture was made over another one; name it with {what}")
            continue
        if not path.is_file():
            raise AssetError(f"{path} is not there; check the path")
        checksum = sha256_of(path)
        if before and before != checksum:
            log.warning("%s is not the file that the first picture was made of", path)
        changes[name] = checksum
    return recipe.change(**changes)


def _is_finishing_only(recipe: Recipe, inputs: PortraitInputs) -> bool:
    """Whether a given picture only goes through the finishing models, and nothing is drawn."""
    return inputs.extras.finishes and not recipe.prompt.strip() and inputs.model is None


def _sheet(pictures: Float[Tensor, "B 3 H W"], recipe: Recipe) -> Float[Tensor, "1 3 h w"]:
    arrays = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    panels = [
        Panel(np.ascontiguousarray(array), f"seed {recipe.seed + k}")
        for k, array in enumerate(arrays)
    ]
    columns = min(4, len(panels))
    rows = [panels[k : k + columns] for k in range(0, len(panels), columns)]
    sheet = lay_out(rows, SheetConfig(width=min(1600, 120 + columns * 380)))
    return torch.from_numpy(sheet).permute(2, 0, 1)[None].float() / 255
