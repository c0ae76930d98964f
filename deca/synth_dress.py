"""What one random person looks like before a camera is there: skin, eyes, hair, shirt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from deca import synth_scene as scene
from deca.synth_skin import Skins
from deca.synth_wardrobe import Wardrobe
from deca.synth_words import Attributes, color_word
from flame.hair_texture import HAIR_COLORS, hair_material
from flame.material import Material

_DYED = ("blue", "pink", "purple", "violet", "teal", "green", "turquoise", "crimson")


@dataclass(frozen=True, eq=False)
class Dressed:
    """One person's materials, and what to call them."""

    materials: list[Material]
    words: Attributes
    tone: tuple[int, int, int]  # sRGB of bare skin
    albedo: Float[Tensor, "1 A"]
    brows: NDArray[np.bool_]  # texels


def dress(
    wardrobe: Wardrobe, skins: Skins, rng: np.random.Generator, generator: torch.Generator
) -> Dressed:
    """A random person; `generator` draws the skin, `rng` all else."""
    codes = wardrobe.albedo.sample(1, generator)
    with torch.no_grad():
        tone = wardrobe.albedo.tone(codes)[0]
    words: Attributes = {
        **skins.words(codes),
        "hat": bool(rng.random() < 0.06),
        "glasses": bool(rng.random() < 0.22),
    }
    style = str(rng.choice(["none", *wardrobe.hair]))
    materials = [Material("skin", skins.decode(codes), roughness=float(rng.uniform(0.35, 0.8)))]
    color = str(rng.choice(list(wardrobe.eyes)))
    eyes = wardrobe.eyes[color]
    materials.append(Material("eyes", eyes[int(rng.integers(len(eyes)))], roughness=0.15))
    lash = wardrobe.lashes[int(rng.integers(len(wardrobe.lashes)))]
    materials.append(Material("lashes", lash, alpha_mode="BLEND", double_sided=True))
    materials.append(Material("mouth", wardrobe.mouth * float(rng.uniform(0.7, 1.0))))
    cloth, clothes = _cloth(rng)
    materials.append(Material("shirt", cloth))
    words |= {"hair": style, "hair colour": "none", "eyes": color, "clothes": clothes}
    if style != "none":
        words["hair colour"] = _hair_color(rng)
        base = np.array(HAIR_COLORS[str(words["hair colour"])])
        r, g, b = np.clip(base * rng.uniform(0.8, 1.2) + rng.normal(0, 0.02, 3), 0, 1)
        materials.append(
            hair_material(wardrobe.hair[style].texture, (float(r), float(g), float(b)))
        )
    red, green, blue = (int(255 * float(channel)) for channel in tone)
    return Dressed(materials, words, (red, green, blue), codes, skins.brows(codes))


def _hair_color(rng: np.random.Generator) -> str:
    """A natural colour, seldom a dyed one."""
    dyed = [name for name in HAIR_COLORS if name in _DYED]
    natural = [name for name in HAIR_COLORS if name not in _DYED]
    return str(rng.choice(dyed if dyed and rng.random() < 0.07 else natural))


def _cloth(rng: np.random.Generator) -> tuple[Float[Tensor, "3 K K"], str]:
    """A shirt texture, plain or stripes of two colours, and what to call it."""
    colors = [scene.random_color(rng) for _ in range(2)]
    first, second = (np.array(color) / 255 for color in colors)
    stripes = np.zeros((32, 32, 1))
    name = f"{color_word(colors[0])} shirt"
    if rng.random() < 0.3:
        period = int(rng.choice([2, 4, 8]))
        lines = (np.arange(32) // period % 2)[:, None]
        stripes[:] = (lines if rng.random() < 0.5 else lines.T)[..., None]
        if color_word(colors[1]) != color_word(colors[0]):
            name = f"{color_word(colors[0])} and {color_word(colors[1])} striped shirt"
    pixels = first * (1 - stripes) + second * stripes
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32).copy()), name
