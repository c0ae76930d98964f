"""The layout of a prompted portrait: a head of ours, drawn by chance as the words have it.

A small model knows what faces look like, and not well where all of their parts go. So it draws over
a sketch of this head (SDEdit, Meng et al. 2022), its ControlNet is shown the head, and the sketch
gives its fine light and shade to what becomes of the drawing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from deca.prompt_wish import Wish
from deca.prompt_words import Reading, read_prompt
from deca.synth import open_studio
from deca.synth_captioned import CaptionedStudio
from deca.synth_captions import draw_caption, left_open
from deca.synth_wishes import draw_take
from diffusion.from_picture import resized
from diffusion.prompt import plain_text
from diffusion.shipped_portrait import SIDE, SKETCHED
from flame.outfit import load_outfit


@dataclass(frozen=True, eq=False)
class Layout:
    """What a drawing begins from and is held to."""

    sketch: Float[Tensor, "1 3 S4 S4"]  # the head as we render it, in the style that is asked for
    condition: Float[Tensor, "1 3 S S"]  # deca.conditions.face_condition, a quarter as large
    said: str  # the prompt with what it leaves open: the model learnt from full captions
    unknown: tuple[str, ...]  # words of the prompt that say nothing to the model


@lru_cache(maxsize=64)
@torch.no_grad()
def layout_of(prompt: str, seed: int, side: int) -> Layout:
    """The layout of a prompt and a seed for pictures of `side` pixels; the same gives the same.

    What the prompt leaves open depends on the seed alone.
    """
    generator = torch.Generator().manual_seed(seed)
    reading = read_prompt(plain_text(prompt))
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    wish = _somewhere(reading.wish, rng)
    taken = _studio().portrait(wish, rng, generator)
    assert taken.shown is not None
    said = _completed(prompt, reading, taken.wish, rng)
    return Layout(
        resized(taken.image, (SKETCHED * side, SKETCHED * side)),
        resized(taken.shown.condition, (side, side)),
        said,
        reading.unknown,
    )


def _somewhere(asked: Wish, rng: np.random.Generator) -> Wish:
    """The wish in a pose, clothes, a light and a place out of all that the model learnt."""
    take = draw_take(Wish(), rng)
    if take.background == "mottled":  # for those who ask for it
        take = dataclasses.replace(take, background="studio")
    if take.light_level == "dim":  # as well
        take = dataclasses.replace(take, light_level="")
    named = asked.named()
    together = (_CLOTHES, _LIGHT, _PLACE, ("turn",))
    free = [name for names in together if not set(names) & set(named) for name in names]
    return dataclasses.replace(asked, **{name: getattr(take, name) for name in free})


def _completed(prompt: str, reading: Reading, settled: Wish, rng: np.random.Generator) -> str:
    """The prompt with what it leaves open; a whole caption where it has other words than those.

    What is weighed or scheduled stays as it was written.
    """
    asked = reading.wish
    if (reading.unknown or not prompt.isascii()) and plain_text(prompt) == prompt:
        return draw_caption(settled, rng, keep=1.0)
    if "hair" not in prompt.lower():  # a blonde, a grey beard
        asked = dataclasses.replace(asked, hair=None, hair_color=None, scalp=None)
    return ", ".join([prompt.rstrip(" ,"), *left_open(asked, settled, rng)])


_CLOTHES = ("clothes_color", "stripes")
_LIGHT = ("light_level", "light_tint", "light_kind", "light_from")
_PLACE = ("background", "background_color", "blurred")


@lru_cache(maxsize=1)
def _studio() -> CaptionedStudio:
    side = SKETCHED * SIDE
    return CaptionedStudio(open_studio(side), load_outfit(), side=side, conditions=True, pool=0)
