"""An album: one prompt or person in many styles and seeds, ranked, on a sheet and as a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.files import replacing, sha256_of
from assets.image import read_image
from avatar.album_page import write_page
from avatar.album_rank import Judge, Scores, places
from avatar.album_styles import AlbumStyle, draws_style, worded
from avatar.portrait_draw import LAYOUT, shipped_extras
from avatar.progress import Progress
from avatar.sheet import Panel, SheetConfig, lay_out
from diffusion.fingerprint import model_hash
from diffusion.metadata import read_record
from diffusion.recipe import Extra, Recipe, to_json
from diffusion.shipped_portrait import (
    NAME,
    fitted,
    has_control,
    is_shipped,
    model_name,
    place_of,
    said,
)
from diffusion.write import write_picture

ALBUM, SHEET, PAGE = "album.json", "sheet.png", "index.html"
_FOLDER = "pictures"
_COLUMNS = 8  # of the sheet; more seeds go on in further rows


@dataclass(frozen=True)
class AlbumInputs:
    """What goes in beside the prompt and the styles."""

    model: Path | str | None = None  # None is the shipped one
    photo: Path | None = None  # that every picture is drawn over, and is to look like
    clip: Path | str | None = None  # None is the model's own, if it brings one
    lora_dir: Path | None = None
    device: str = "auto"

    @property
    def source(self) -> Path | str:
        """Where the model is."""
        return place_of(NAME if self.model is None else self.model)


@dataclass(frozen=True)
class Entry:
    """One picture of an album."""

    style: str
    recipe: Recipe
    file: str  # relative to the album
    sha256: str = ""
    scores: Scores = Scores()  # noqa: RUF009 - frozen
    place: int | None = None  # 1 is the best; None where nothing ranks


def make_album(
    recipe: Recipe,
    styles: Sequence[AlbumStyle],
    seeds: int,
    out: Path,
    inputs: AlbumInputs,
    *,
    progress: Progress | None = None,
) -> list[Path]:
    """Draw each style with `seeds` seeds from the recipe's on, and write the album to `out`.

    The prompt's {style} is where a style's words go; without it they follow it. Pictures that are
    there already, of the very same recipe, stay as they are, so that a run which was stopped goes
    on. Returns the page, the sheet, album.json and the pictures.
    """
    progress, out = progress or Progress(), Path(out)
    recipe.needs_words()
    if not 1 <= seeds <= 100:
        raise ValueError(f"seeds={seeds} must be from 1 to 100")
    if not styles:
        raise ValueError("no style is left; give at least one, such as --styles 'oil painting'")
    if is_shipped(inputs.source):
        for style in styles:
            if not draws_style(style):
                progress.warn(f"the shipped model does not know {style.name!r}: it draws photos")
    entries = plan(recipe, styles, seeds, inputs)
    missing = [one for one in entries if not is_finished(out / one.file, one.recipe)]
    if len(missing) < len(entries):
        progress.note(f"{len(entries) - len(missing)} of {len(entries)} pictures are there already")
    if missing:
        _draw(missing, out, inputs, progress)
    entries = [
        replace(one, recipe=read_record(out / one.file).recipe, sha256=sha256_of(out / one.file))
        for one in entries
    ]
    known = _known_scores(out / ALBUM)
    judge = Judge.open(inputs.source, inputs.clip, inputs.photo)
    with progress.stage("rank"):
        scored = []
        for number, one in enumerate(entries):
            scores = known.get((one.sha256, judge.name))
            if scores is None:
                scores = judge.scores(read_image(out / one.file, min_side=1), one.recipe.prompt)
            scored.append(replace(one, scores=scores))
            progress.step(number + 1, len(entries))
    ranks = places([one.scores for one in scored])
    scored = [replace(one, place=place) for one, place in zip(scored, ranks, strict=True)]
    if is_shipped(inputs.source):
        progress.note(f"the shipped model's pictures are {said()}")
    for reason in judge.missing:
        progress.note(reason)
    with progress.stage("write the album"):
        write_picture(out / SHEET, _sheet(scored, out, seeds), recipe.change(kind="txt2img"))
        _write_index(out, recipe, scored, judge, inputs)
        write_page(out / PAGE, recipe.prompt, [_told(one) for one in scored], judge.missing)
    return [out / PAGE, out / SHEET, out / ALBUM, *(out / one.file for one in scored)]


def plan(
    recipe: Recipe, styles: Sequence[AlbumStyle], seeds: int, inputs: AlbumInputs
) -> list[Entry]:
    """The pictures that belong into the album, a style after the other."""
    source = inputs.source
    changes: dict[str, Any] = {"model": model_name(source), "model_hash": model_hash(source)}
    changes |= {"batch": 1, "kind": "txt2img"}
    if is_shipped(source):
        recipe = fitted(recipe)
    if inputs.photo is not None:
        if not inputs.photo.is_file():
            raise AssetError(f"{inputs.photo} is not there; check the path of the photo")
        changes |= {"kind": "img2img", "image_sha256": sha256_of(inputs.photo)}
    names = [style.file_name for style in styles]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two styles are called {double!r}; give each a name of its own")
    held = inputs.photo is None and has_control()

    def own(seed: int) -> tuple[Extra, ...]:
        return shipped_extras(head=seed if held else None) if is_shipped(source) else ()

    return [
        Entry(
            style.name,
            recipe.change(
                prompt=worded(recipe.prompt, style),
                seed=recipe.seed + number,
                extras=own(recipe.seed + number),
                **changes,
            ),
            f"{_FOLDER}/{style.file_name}-{recipe.seed + number}.png",
        )
        for style in styles
        for number in range(seeds)
    ]


def is_finished(path: Path, recipe: Recipe) -> bool:
    """Whether a file is the picture of a recipe; one without a size takes any."""
    if not path.is_file():
        return False
    try:
        found = read_record(path).recipe
    except AssetError:
        return False
    return found == (recipe if recipe.size is not None else recipe.change(size=found.size))


def _draw(entries: Sequence[Entry], out: Path, inputs: AlbumInputs, progress: Progress) -> None:
    from avatar.portrait_draw import PortraitInputs, drawn, enlarged_drawings, open_pipeline
    from avatar.portrait_photo import with_cut
    from avatar.transfer_source import FaceReader
    from diffusion.compute import memory_in_words
    from diffusion.draw import size_of

    first = entries[0].recipe
    given = PortraitInputs(
        image=inputs.photo,
        lora_dir=inputs.lora_dir,
        device=inputs.device,
        layout=any(one.kind == LAYOUT for one in first.extras),
    )
    with progress.stage("open the model"):
        pipeline = open_pipeline(inputs.source, first, given, progress)
    reader = FaceReader() if is_shipped(inputs.source) and inputs.photo is not None else None
    with progress.stage("draw"):
        for number, one in enumerate(entries):
            if reader is not None:  # anew for every style; a warning is given once
                hears = progress if number == 0 else Progress()
                given, _ = with_cut(given, one.recipe.prompt, reader, hears)
            recipe = one.recipe.change(size=size_of(pipeline, one.recipe))
            with memory_in_words("at one picture", "ask for a smaller --size, or --device cpu"):
                recipe, picture = drawn(pipeline, recipe, given, Progress())
                if is_shipped(inputs.source):
                    picture = enlarged_drawings(picture, recipe, given)
            write_picture(out / one.file, picture, recipe)
            progress.step(number + 1, len(entries))


def _known_scores(path: Path) -> dict[tuple[str, str], Scores]:
    """Scores of an earlier run by picture and judge; none where the file is not readable."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        judge = str(stored["judge"])
        return {(str(row["sha256"]), judge): Scores(**row["scores"]) for row in stored["pictures"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_index(
    out: Path, recipe: Recipe, entries: Sequence[Entry], judge: Judge, inputs: AlbumInputs
) -> None:
    index = {
        "prompt": recipe.prompt,
        "model": model_name(inputs.source),
        "enlarged": said() if is_shipped(inputs.source) else None,
        "photo": None if inputs.photo is None else inputs.photo.name,
        "judge": judge.name,
        "not_ranked_by": list(judge.missing),
        "ai_generated": True,
        "pictures": [_told(one) for one in entries],
    }
    with replacing(out / ALBUM) as path:
        path.write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _told(entry: Entry) -> dict[str, Any]:
    return {
        "file": entry.file,
        "style": entry.style,
        "seed": entry.recipe.seed,
        "place": entry.place,
        "scores": asdict(entry.scores),
        "sha256": entry.sha256,
        "recipe": to_json(entry.recipe),
    }


def _sheet(entries: Sequence[Entry], out: Path, seeds: int) -> Float[Tensor, "1 3 H W"]:
    columns = min(seeds, _COLUMNS)
    rows: list[list[Panel]] = []
    for start in range(0, len(entries), seeds):
        panels = [_panel(one, out) for one in entries[start : start + seeds]]
        for begin in range(0, seeds, columns):
            row = panels[begin : begin + columns]
            # rows fill the sheet's width, so that shorter ones would be drawn larger
            blank = Panel(np.full_like(panels[0].picture, 24), "")
            rows.append([*row, *[blank] * (columns - len(row))])
    config = SheetConfig(width=min(2400, 160 + columns * 340), caption=17)
    sheet = lay_out(rows, config, footer="generated by a model")
    return torch.from_numpy(sheet).permute(2, 0, 1)[None].float() / 255


def _panel(entry: Entry, out: Path) -> Panel:
    image = read_image(out / entry.file, min_side=1)[0]
    picture = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    place = "" if entry.place is None else f"  #{entry.place}"
    return Panel(np.ascontiguousarray(picture), f"{entry.style}, {entry.recipe.seed}{place}")
