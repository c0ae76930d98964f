"""The portrait model that comes with the package: what it is drawn with, and its refiner."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.store import PACKAGE
from diffusion.prompt import plain_text
from diffusion.quiet import loading
from diffusion.recipe import Recipe
from diffusion.refiner import enlarged_draft, in_colours_of, refined, refiner_pipeline

if TYPE_CHECKING:
    from diffusion.caption_reader import CaptionReader, PromptReader

NAME = "shipped"  # what it is called where a model is asked for
# under assets/, and in its manifest
FOLDER, CONTROL = "portrait", "portrait-control"
READER, REFINER = "portrait-reader", "portrait-refiner"
SIDE = 128  # px that it draws; the refiner draws them twice as large
SKETCHED = 4  # times as large as it draws are sketches, and pictures that are drawn over them
# usual; chance in every step mends what a small model gets wrong in the step before
SAMPLER, STEPS, CFG = "Euler a", 24, 3.0
STRENGTH = 0.3  # of drawing over sketches, heads and photos: outlines stay where they are
TRIES = 4  # drawings of a prompt, of which the reader keeps one
_FINEST = 1 / 128  # of a side: what is finer than that, large pictures have of their sketches
_MODEL = PACKAGE / FOLDER
_REFINER = PACKAGE / REFINER
_CONTROL = PACKAGE / CONTROL
_READER = PACKAGE / READER / "reader.safetensors"
CONDITION = "face"  # what the ControlNet is shown


def place_of(source: Path | str) -> Path | str:
    """A model as it was named, or the shipped one's folder where the name is `shipped`."""
    if str(source) != NAME:
        return source
    if not is_installed():
        raise AssetError(f"{_MODEL} is not there; install the package again, or name a model")
    return _MODEL


def control_of(source: Path | str) -> Path | str:
    """A ControlNet as it was named, or the shipped one's folder where the name is `shipped`."""
    if str(source) != NAME:
        return source
    if not has_control():
        raise AssetError(f"{_CONTROL} is not there; install the package again, or name another")
    return _CONTROL


def has_control() -> bool:
    """Whether the ControlNet is there."""
    return (_CONTROL / "config.json").is_file()


def is_shipped(source: Path | str) -> bool:
    """Whether a model's place is that of the shipped one."""
    return Path(source) == _MODEL


def model_name(source: Path | str) -> str:
    """What recipes call a model: the shipped one by its name, others by where they are."""
    return FOLDER if is_shipped(source) else str(source)


def is_installed() -> bool:
    """Whether the model is there."""
    return (_MODEL / "model_index.json").is_file()


def usual(source: Path | str | None) -> dict[str, Any]:
    """Settings that suit the shipped model, by name of a recipe's; none of another model."""
    if source in (None, NAME) and is_installed():
        return {"sampler": SAMPLER, "steps": STEPS, "cfg": CFG, "strength": STRENGTH}
    return {}


def usual_tries(source: Path | str | None, *, plain: bool) -> int:
    """How many drawings a picture is chosen from; `plain` is a prompt and nothing else."""
    return TRIES if plain and has_reader() and usual(source) else 1


def fitted(recipe: Recipe) -> Recipe:
    """A recipe in the size that the model draws, where it names none."""
    return recipe if recipe.size is not None else recipe.change(size=(SIDE, SIDE))


def has_reader() -> bool:
    """Whether the network is there that chooses among drawings."""
    return _READER.is_file()


def tries_of(recipe: Recipe, tries: int) -> list[Recipe]:
    """Recipes of several drawings, of seeds that no other seed's drawings have."""
    first = recipe.seed * tries % 2**32
    return [recipe.change(seed=first + number) for number in range(tries)]


def prompt_fits(pictures: Float[Tensor, "B 3 H W"], prompt: str, tokenizer: Any) -> list[float]:
    """How well each drawing shows a prompt: log likelihoods, comparable among them."""
    from diffusion.caption_reader import PromptReader

    return PromptReader(_reader(), tokenizer).scores(pictures, prompt)


def open_reader() -> PromptReader:
    """The network that chooses among drawings, with the words that the model knows."""
    from transformers import CLIPTokenizer

    from diffusion.caption_reader import PromptReader

    with loading("the portrait model's words"):
        words = CLIPTokenizer.from_pretrained(_MODEL / "tokenizer", local_files_only=True)
    return PromptReader(_reader(), words)


def best_of(*scores: Sequence[float]) -> int:
    """The number of the first drawing whose scores, a list of each kind, add up to most."""
    sums = [sum(one) for one in zip(*scores, strict=True)]
    return sums.index(max(sums))


def has_refiner() -> bool:
    """Whether the network is there that draws pictures twice as large."""
    return (_REFINER / "config.json").is_file()


def networks() -> tuple[str, ...]:
    """What takes part in a drawing, by the names in the package's manifest."""
    there = {
        FOLDER: is_installed(),
        CONTROL: has_control(),
        READER: has_reader(),
        REFINER: has_refiner(),
    }
    return tuple(name for name, is_there in there.items() if is_there)


def said() -> str:
    """How pictures come to their size, for reports."""
    if not has_refiner():
        return f"drawn at {SIDE} pixels alone"
    return (
        f"drawn at {SIDE} pixels and drawn anew twice as large by the network {REFINER}; what is "
        "drawn over a sketch is then enlarged to twice that, with the sketch's finest light and "
        "shade"
    )


def enlarged(
    images: Float[Tensor, "B 3 H W"],
    recipe: Recipe,
    sketch: Float[Tensor, "B 3 H4 W4"] | None = None,
) -> Float[Tensor, "B 3 H2 W2"]:
    """The model's pictures of a recipe drawn anew, twice as large; as they are without a refiner.

    Between two prompts the nearer one is shown. `sketch` is what they were drawn over, if anything:
    they are made as large as that, four times as they were, with its finest light and shade.
    """
    if not has_refiner():
        return images
    way = recipe.toward
    prompt = recipe.prompt if way is None or way.share <= 0.5 else way.prompt
    prompts = [plain_text(prompt)] * len(images)
    shown = None if sketch is None else F.avg_pool2d(sketch, 2)
    drafts = enlarged_draft(images, shown)
    made = in_colours_of(refined(_refiner(), prompts, drafts, seed=recipe.seed), drafts)
    return made if sketch is None else enlarged_draft(made, sketch, reach=_FINEST)


@lru_cache(maxsize=1)
def _refiner() -> Any:
    from diffusers import UNet2DConditionModel

    from diffusion import load_pipeline

    with loading(REFINER):
        unet = UNet2DConditionModel.from_pretrained(
            _REFINER, use_safetensors=True, local_files_only=True, dtype=torch.float32
        )
    return refiner_pipeline(load_pipeline(_MODEL), unet.eval())


@lru_cache(maxsize=1)
def _reader() -> CaptionReader:
    from diffusion.caption_reader import load_reader

    return load_reader(_READER)
