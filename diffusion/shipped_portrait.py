"""The portrait model that comes with the package: what it is drawn with, and its enlarging."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.store import PACKAGE
from diffusion.recipe import Recipe
from diffusion.train_upscaler_net import Upscaler, enlarge, load_upscaler

NAME = "shipped"  # what it is called where a model is asked for
# under assets/, and in its manifest
FOLDER, UPSCALER, CONTROL = "portrait", "portrait-upscaler", "portrait-control"
SIDE = 128  # px that it draws; pictures are twice as large when they are written
# usual; chance in every step mends what a small model gets wrong in the step before
SAMPLER, STEPS, CFG = "Euler a", 40, 3.0
SAID = "drawn at 128 pixels and made twice as large by the network portrait-upscaler"
_MODEL = PACKAGE / FOLDER
_ENLARGER = PACKAGE / UPSCALER / "upscaler.safetensors"
_CONTROL = PACKAGE / CONTROL
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


def is_installed() -> bool:
    """Whether the model is there."""
    return (_MODEL / "model_index.json").is_file()


def usual(source: Path | str | None) -> dict[str, Any]:
    """Settings that suit the shipped model, by name of a recipe's; none of another model."""
    if source in (None, NAME) and is_installed():
        return {"sampler": SAMPLER, "steps": STEPS, "cfg": CFG}
    return {}


def fitted(recipe: Recipe) -> Recipe:
    """A recipe in the size that the model draws, where it names none."""
    return recipe if recipe.size is not None else recipe.change(size=(SIDE, SIDE))


def draw(prompt: str, seed: int) -> Float[Tensor, "1 3 H W"]:
    """One portrait by the shipped model, with the settings that suit it, enlarged."""
    from diffusion import load_pipeline, txt2img

    recipe = fitted(Recipe(prompt=prompt, seed=seed, sampler=SAMPLER, steps=STEPS, cfg=CFG))
    return enlarged(txt2img(load_pipeline(place_of(NAME)), recipe))


def enlarged(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H2 W2"]:
    """The model's pictures twice as large; as they are where the enlarger is not installed."""
    return enlarge(_enlarger(), images) if _ENLARGER.is_file() else images


@lru_cache(maxsize=1)
def _enlarger() -> Upscaler:
    return load_upscaler(_ENLARGER)
