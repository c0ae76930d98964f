"""What a picture says about how it was made: our recipe as JSON, and the web UI's own text."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from assets.errors import AssetError
from diffusion.prompt import read_prompt
from diffusion.recipe import Recipe, from_json, to_json

RECIPE_KEY, PARAMETERS_KEY = "prompt-to-avatar", "parameters"
_FORMAT = 1
_EXIF, _USER_COMMENT = 0x8769, 0x9286

_FIELD = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d+)\s*x\s*(\d+)")
_NEGATIVE = "Negative prompt:"
# Names of the web UI's text that are read into a recipe: the field, and how to read its value.
_NUMBERS = {
    "Steps": ("steps", int),
    "CFG scale": ("cfg", float),
    "CFG Rescale phi": ("rescale", float),
    "CFG Rescale φ": ("rescale", float),
    "Seed": ("seed", int),
    "Clip skip": ("clip_skip", int),
    "Batch size": ("batch", int),
    "Hires upscale": ("hires", float),
    "Variation seed": ("variation_seed", int),
    "Variation seed strength": ("variation", float),
    "Dynamic thresholding percentile": ("threshold", float),
}

# What finished pictures went through, by the web UI's names.
_EXTRAS = {"restore": "Face restoration", "upscale-model": "Postprocess upscaler"}


@dataclass(frozen=True)
class Record:
    """A recipe read from a picture: which picture of its batch, and what was not understood."""

    recipe: Recipe
    index: int = 0
    rest: dict[str, str] = field(default_factory=dict)
    exact: bool = True  # False for other programs' pictures, whose noise is not ours


def texts(recipe: Recipe, index: int) -> dict[str, str]:
    """The named texts of picture `index` of a batch: all of the recipe, and the web UI's form."""
    stored = {"format": _FORMAT, "index": index, "recipe": to_json(recipe)}
    return {
        PARAMETERS_KEY: write_parameters(recipe, index),
        RECIPE_KEY: json.dumps(stored, ensure_ascii=False),
    }


def read_record(path: Path) -> Record:
    """How the picture of a file was made, from our own text or else from the web UI's.

    A .json file is a report of ours, or a recipe's settings by name. What says nothing of it is an
    AssetError.
    """
    path = Path(path)
    found = {} if path.suffix.lower() == ".json" else _texts_of(path)
    try:
        if path.suffix.lower() == ".json":
            return _of_json(path)
        if RECIPE_KEY in found:
            return _own(found[RECIPE_KEY])
        if PARAMETERS_KEY in found:
            return read_parameters(found[PARAMETERS_KEY])
    except ValueError as error:
        raise AssetError(f"{path} does not say how it was made: {error}") from error
    raise AssetError(
        f"{path} does not say how it was made; give a PNG that this program or the web UI wrote"
    )


def write_parameters(recipe: Recipe, index: int = 0) -> str:
    """The text that the web UI writes as `parameters`, and that other programs read."""
    in_prompt = {(tag.name, tag.weight) for tag in read_prompt(recipe.prompt).loras}
    tags = "".join(
        f" <lora:{name}:{weight:g}>" for name, weight in recipe.loras
        if (name, weight) not in in_prompt
    )  # fmt: skip
    values: dict[str, object] = {
        "Steps": recipe.steps,
        "Sampler": recipe.sampler,
        "CFG scale": f"{recipe.cfg:g}",
        "Seed": recipe.seed + index,
    }
    if recipe.size is not None:
        values["Size"] = f"{recipe.size[0]}x{recipe.size[1]}"
    if recipe.model_hash:
        values["Model hash"] = recipe.model_hash[:10]
    if recipe.model:
        values["Model"] = recipe.model
    if recipe.variation:
        values["Variation seed"] = recipe.variation_seed + index
        values["Variation seed strength"] = f"{recipe.variation:g}"
    if recipe.hires > 1:
        values["Denoising strength"] = f"{recipe.hires_strength:g}"
        values["Hires upscale"] = f"{recipe.hires:g}"
    elif recipe.kind != "txt2img":
        values["Denoising strength"] = f"{recipe.strength:g}"
    if recipe.clip_skip > 1:
        values["Clip skip"] = recipe.clip_skip
    if recipe.rescale:
        values["CFG Rescale phi"] = f"{recipe.rescale:g}"
    if recipe.threshold is not None:
        values["Dynamic thresholding percentile"] = f"{recipe.threshold:g}"
    for extra in recipe.extras:
        if extra.kind in _EXTRAS:
            values[_EXTRAS[extra.kind]] = extra.name
    if recipe.batch > 1:
        values |= {"Batch size": recipe.batch, "Batch pos": index}
    lines = [recipe.prompt + tags]
    if recipe.negative:
        lines.append(f"{_NEGATIVE} {recipe.negative}")
    lines.append(", ".join(f"{name}: {_quoted(str(value))}" for name, value in values.items()))
    return "\n".join(lines)


def read_parameters(text: str) -> Record:
    """The recipe in the web UI's text; what has no place in a recipe is in `rest`, by its name.

    A last line of fewer than three settings is part of the prompt, as in the web UI.
    """
    lines = text.strip().split("\n")
    settings = _FIELD.findall(lines[-1])
    if len(settings) < 3:
        settings = []
    else:
        lines.pop()
    prompt, negative = _prompts(lines)
    rest = {name.strip(): _unquoted(value.strip()) for name, value in settings}
    given: dict[str, object] = {"prompt": prompt, "negative": negative}
    for name, (target, kind) in _NUMBERS.items():
        if name in rest:
            given[target] = _number(name, rest.pop(name), kind)
    if "Sampler" in rest:
        given["sampler"] = _sampler(rest.pop("Sampler"), rest.pop("Schedule type", ""))
    size = _SIZE.fullmatch(rest.pop("Size", ""))
    if size is not None:
        given["size"] = (int(size[1]), int(size[2]))
    if "Denoising strength" in rest:
        strength = _number("Denoising strength", rest.pop("Denoising strength"), float)
        if float(str(given.get("hires", 1.0))) > 1:
            given["hires_strength"] = strength
        else:
            given |= {"strength": strength, "kind": "img2img"}
    given["model"] = rest.pop("Model", "")
    given["model_hash"] = rest.pop("Model hash", "")
    index = int(_number("Batch pos", rest.pop("Batch pos", "0"), int))
    if index:  # the seeds there are those of each picture
        given["seed"] = max(0, int(str(given.get("seed", 0))) - index)
    return Record(from_json(given), index, rest, exact=False)


def _of_json(path: Path) -> Record:
    if not path.is_file():
        raise AssetError(f"{path} is not there; give a recipe's or report's file")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({error})") from error
    inner = stored.get("recipe", stored) if isinstance(stored, dict) else None
    if not isinstance(inner, dict):
        raise ValueError("it holds no recipe")
    return Record(from_json(inner))


def _own(text: str) -> Record:
    try:
        stored = json.loads(text)
    except ValueError as error:
        raise ValueError("its recipe is damaged") from error
    if not isinstance(stored, dict) or not isinstance(stored.get("recipe"), dict):
        raise ValueError("its recipe is damaged")
    index = stored.get("index", 0)
    if stored.get("format") != _FORMAT or not isinstance(index, int):
        raise ValueError(f"its recipe is of format {stored.get('format')}, not {_FORMAT}")
    return Record(from_json(stored["recipe"]), index)


def _prompts(lines: list[str]) -> tuple[str, str]:
    prompt: list[str] = []
    negative: list[str] = []
    into = prompt
    for line in lines:
        if line.strip().startswith(_NEGATIVE):
            into = negative
            line = line.strip().removeprefix(_NEGATIVE)
        into.append(line.strip())
    return "\n".join(prompt), "\n".join(negative)


def _sampler(name: str, schedule: str) -> str:
    """Newer web UIs name the noise levels apart from the sampler."""
    known = schedule if schedule in ("Karras", "Exponential") else ""
    return f"{name} {known}" if known and not name.endswith(known) else name


def _number(name: str, text: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"its {name!r} is {text!r}, which is no number") from error


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n\"]", text) else text


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return str(json.loads(text))
        except ValueError:
            return text[1:-1]
    return text


def _texts_of(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise AssetError(f"{path} is not there; give the path of a generated picture")
    try:
        with open(path, "rb") as file:
            image = Image.open(file, formats=("PNG", "JPEG", "WEBP"))
            found = {key: str(value) for key, value in getattr(image, "text", {}).items()}
            comment = image.getexif().get_ifd(_EXIF).get(_USER_COMMENT, b"")
            if not found and isinstance(image.info.get("comment"), bytes):
                found = _json_comment(image.info["comment"])
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise AssetError(f"{path} is no PNG, JPEG or WebP that can be read ({error})") from error
    if PARAMETERS_KEY not in found and isinstance(comment, bytes) and len(comment) > 8:
        found[PARAMETERS_KEY] = _user_comment(comment)
    return found


def _user_comment(comment: bytes) -> str:
    """EXIF's comment: eight bytes name the encoding, and UTF-16 has either order of bytes."""
    head, body = comment[:8], comment[8:]
    if head.startswith(b"UNICODE"):
        order = "utf-16-be" if body[:1] == b"\0" else "utf-16-le"
        return body.decode(order, errors="replace")
    return body.decode("utf-8", errors="replace")


def _json_comment(comment: bytes) -> dict[str, str]:
    try:
        stored = json.loads(comment)
    except ValueError:
        return {}
    return (
        {str(key): str(value) for key, value in stored.items()} if isinstance(stored, dict) else {}
    )
