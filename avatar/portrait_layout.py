"""The layout of a prompted portrait: a head of ours, drawn by chance as the words have it.

A small model knows what faces look like, and not well where all of their parts go. Its ControlNet
is shown this head, and its refiner the contours.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from deca.conditions import HeadView, face_condition, landmark_condition
from deca.prompt_wish import Wish
from deca.prompt_words import Reading, read_prompt
from deca.synth_captioned import draw_take, frame
from deca.synth_captions import draw_caption, left_open
from deca.synth_portrait import turned_joints
from deca.synth_sitter import draw_sitter, gaze_at_camera
from diffusion.prompt import plain_text
from flame.hair_texture import hair_material
from flame.load import load_head
from flame.material import Material
from flame.model import Flame
from flame.outfit import Outfit, load_outfit


@dataclass(frozen=True, eq=False)
class Layout:
    """What a drawing is held to."""

    condition: Float[Tensor, "1 3 S S"]  # deca.conditions.face_condition
    lines: Float[Tensor, "1 1 S2 S2"]  # the contours of the 68 points, twice as large
    said: str  # the prompt with what it leaves open: the model learnt from full captions
    unknown: tuple[str, ...]  # words of the prompt that say nothing to the model


@lru_cache(maxsize=64)
def layout_of(prompt: str, seed: int, side: int) -> Layout:
    """The layout of a prompt and a seed for pictures of `side` pixels; the same gives the same.

    What the prompt leaves open depends on the seed alone.
    """
    flame, outfit = _parts()
    generator = torch.Generator().manual_seed(seed)
    reading = read_prompt(plain_text(prompt))
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    wish = _somewhere(reading.wish, rng)
    sitter = draw_sitter(wish, flame, outfit.albedo, generator=generator)
    head, materials = flame.head(sitter.shape), _BLANK
    hair = str(sitter.wish.hair)
    if hair != "none":
        head = outfit.wear_hair(head, hair)
        materials = (*_BLANK, hair_material(outfit.hair[hair].texture, "brown"))
    yaw, pitch, _ = sitter.turn_deg
    weights = gaze_at_camera(sitter.weights, yaw, pitch)[None]
    turn = turned_joints(sitter.turn_deg)
    rest, posed = head.pose(weights, torch.zeros_like(turn)), head.pose(weights, turn)
    count = len(flame.template)
    level, marks = (flame.landmarks68(verts[:, :count])[0] for verts in (rest, posed))
    camera = frame(level, marks, rng)
    # as in training: seen at twice the size, and made smaller
    size = (2 * side, 2 * side)
    seen = HeadView.of(head, materials, posed, camera, size, samples=1)
    points = camera.project(marks[None], size)[0, :, :2]
    lines = landmark_condition(points, size)[:, :1]
    said = _completed(prompt, reading, sitter.wish, rng)
    condition = F.avg_pool2d(face_condition(seen, points), 2)
    return Layout(condition, lines, said, reading.unknown)


def _somewhere(asked: Wish, rng: np.random.Generator) -> Wish:
    """The wish in a pose, clothes, a light and a place out of all that the model learnt."""
    take = draw_take(Wish(), rng)
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
_BLANK = tuple(
    Material(name, torch.ones(3, 2, 2)) for name in ("skin", "eyes", "mouth", "lashes", "shirt")
)


@lru_cache(maxsize=1)
def _parts() -> tuple[Flame, Outfit]:
    return load_head(), load_outfit()
