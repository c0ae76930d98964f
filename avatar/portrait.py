"""From a prompt, a picture or an earlier result to portraits on disk, with a report of them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.files import replacing, sha256_of
from assets.image import read_image
from assets.store import PACKAGE
from avatar.progress import Progress
from avatar.sheet import Panel, SheetConfig, lay_out
from diffusion.fingerprint import model_hash
from diffusion.mark import THRESHOLD, MarkReading, read_mark
from diffusion.metadata import Record
from diffusion.recipe import Recipe, to_json
from diffusion.write import says_generated, write_picture

if TYPE_CHECKING:
    from avatar.portrait_like import HeadGuide
    from diffusion.outpainting import Margins

log = logging.getLogger(__name__)

PICTURES = (".png", ".jpg", ".jpeg")
_SMALLEST = 16  # px a side of a picture that is drawn over


@dataclass(frozen=True)
class PortraitInputs:
    """What goes in beside the recipe."""

    model: Path | str | None = None  # None is the recipe's, else the shipped one
    image: Path | None = None
    mask: Path | None = None
    margins: Margins | None = None
    lora_dir: Path | None = None
    device: str = "auto"
    only: int | None = None  # of the batch, the one picture that is written
    guide: HeadGuide | None = None  # the head that the pictures are of


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
    source = _model(recipe, inputs)
    names = _names(out, recipe.batch)
    recipe = recipe.change(model=_model_name(source), model_hash=model_hash(source))
    recipe = _with_checksums(recipe, inputs)
    with progress.stage("opening the model"):
        pipeline = _opened(source, recipe, inputs)
    if recipe.size is None and inputs.image is None and _takes_prompts(pipeline):
        from diffusion.draw import size_of

        recipe = recipe.change(size=size_of(pipeline, recipe))
    with progress.stage("drawing"):
        recipe, pictures = _drawn(pipeline, recipe, inputs, progress)
    chosen = range(recipe.batch) if inputs.only is None else [inputs.only]
    written = [
        write_picture(names.picture(k), pictures[k : k + 1], recipe, index=k) for k in chosen
    ]
    report: dict[str, Any] = {
        "recipe": to_json(recipe),
        "model": vars(_record(pipeline)),
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
        return inputs.model
    shipped = PACKAGE / "portrait"
    if recipe.model and recipe.model != shipped.name:
        if Path(recipe.model).exists():
            return Path(recipe.model)
        raise AssetError(
            f"the picture was made by the model {recipe.model!r}, which is not there; "
            "name its folder or file with --model"
        )
    if (shipped / "model_index.json").is_file():
        return shipped
    raise AssetError(
        "no portrait model is installed; fetch one, such as with `hf download "
        "stable-diffusion-v1-5/stable-diffusion-v1-5`, and name it with --model: a diffusers "
        "folder, a .safetensors file, or the name it was fetched by"
    )


def _model_name(source: Path | str) -> str:
    path = Path(source)
    return path.name if path == PACKAGE / "portrait" else str(source)


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


def _opened(source: Path | str, recipe: Recipe, inputs: PortraitInputs) -> Any:
    from diffusion.adapters import use_loras
    from diffusion.compute import choose_device, choose_dtype, place
    from diffusion.load import load_pipeline

    dtype = choose_dtype(choose_device(inputs.device))
    safety = "on" if recipe.safety_checker else "off"
    nets = () if inputs.guide is None else tuple(one.source for one in inputs.guide.controls)
    pipeline = load_pipeline(source, dtype=dtype, safety=safety, controlnets=nets)
    if recipe.all_loras():
        use_loras(pipeline, list(recipe.all_loras()), inputs.lora_dir)
    place(pipeline, inputs.device)
    return pipeline


def _takes_prompts(pipeline: Any) -> bool:
    return getattr(pipeline, "text_encoder", None) is not None


def _record(pipeline: Any) -> Any:
    from diffusion.record import record_of

    return record_of(pipeline)


def _drawn(
    pipeline: Any, recipe: Recipe, inputs: PortraitInputs, progress: Progress
) -> tuple[Recipe, Float[Tensor, "B 3 H W"]]:
    """The pictures, and the recipe saying which way they were made."""
    import diffusion

    def on_step(step: int, total: int, latents: Tensor) -> None:
        progress.step(step, total)

    if inputs.guide is not None:
        return inputs.guide.draw(pipeline, recipe, on_step)
    image = None if inputs.image is None else read_image(inputs.image, min_side=_SMALLEST)
    if not _takes_prompts(pipeline):
        if getattr(pipeline, "transformer", None) is not None:
            recipe = recipe.change(kind="class")
            label = recipe.prompt.strip()
            number = int(label) if label.isdecimal() else label
            return recipe, diffusion.class_conditional(pipeline, recipe, number)
        recipe = recipe.change(kind="unconditional")
        return recipe, diffusion.unconditional(pipeline, recipe)
    if image is None:
        recipe = recipe.change(kind="txt2img")
        return recipe, diffusion.txt2img(pipeline, recipe, on_step=on_step)
    if inputs.margins is not None:
        recipe = recipe.change(kind="outpaint")
        return recipe, diffusion.outpaint(pipeline, recipe, image, inputs.margins, on_step=on_step)
    if inputs.mask is not None:
        recipe = recipe.change(kind="inpaint")
        mask = read_image(inputs.mask, min_side=1).mean(dim=1, keepdim=True)
        return recipe, diffusion.inpaint(pipeline, recipe, image, mask, on_step=on_step)
    if recipe.hires > 1 or "Upscale" in type(pipeline).__name__:
        recipe = recipe.change(kind="upscale", batch=1)
        return recipe, diffusion.upscale(pipeline, recipe, image, on_step=on_step)
    recipe = recipe.change(kind="img2img")
    return recipe, diffusion.img2img(pipeline, recipe, image, on_step=on_step)


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
