"""Who lives in the painted population: amounts of each skin component, drawn together."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# The locus of human skin in (melanin, undertone): least squares through nine measured-like tones
# from L* 84 to L* 18. Both ends of the range are less saturated than its middle.
_UNDERTONE_OF_MELANIN = (0.82, 0.249, -0.371)
_UNDERTONE_MEAN = 0.43


def draw_amounts(
    names: tuple[str, ...], count: int, *, generator: torch.Generator
) -> Float[Tensor, "N A"]:
    """Amounts of the named components of `count` people; unnamed traits are N(0, 1)."""

    def normal() -> Tensor:
        return torch.randn(count, generator=generator)

    def uniform() -> Tensor:
        return torch.rand(count, generator=generator)

    melanin = (3.5 * (uniform() - 0.5) + 0.15 * normal()).clamp(min=-1.75)
    constant, slope, bend = _UNDERTONE_OF_MELANIN
    locus = constant + slope * melanin + bend * melanin.square() - _UNDERTONE_MEAN
    male = (uniform() < 0.5).float()
    age = uniform()
    hair = 0.5 * melanin + 0.8 * normal()  # darkness of the hair
    redness = 0.6 * normal() + 0.3 * (1 - age)  # fair or flushed skin reddens everywhere at once
    calm = 0.55 + 0.45 * torch.sigmoid(3.0 * (melanin + 1.4))  # very light skin hardly varies
    fair = torch.sigmoid(-2.5 * (melanin + 0.6))
    made_up = (1 - male) * (uniform() < 0.55).float()
    bearded = male * (uniform() < 0.75).float() * uniform() * (0.6 + 0.25 * hair.clamp(-1, 2))

    known = {
        "melanin": melanin,
        "haemoglobin": calm * (0.65 * normal() + 0.3 * redness),
        "undertone": locus + 0.3 * calm * normal(),
        "cheek blush": 0.6 * redness + 0.7 * normal() + 0.5 * made_up,
        "nose redness": 0.7 * redness + 0.7 * normal() + 0.3 * (male - 0.5),
        "ear redness": 0.6 * redness + 0.8 * normal(),
        "chin redness": 0.5 * redness + 0.6 * normal(),
        "lip darkness": 0.9 * normal() + 0.3 * melanin,
        "lip redness": 0.7 * normal() + 0.9 * made_up - 0.4 * male,
        "under-eye darkness": 0.8 * normal() + 1.2 * (age - 0.5),
        "eyelid tint": 0.9 * normal() + 0.3 * redness,
        "eye shadow": made_up * uniform() * 1.6,
        "lash line": 0.5 * normal() + 0.9 * made_up - 0.5 * male,
        "brow density": (0.8 * normal() + 0.5 * hair + 0.4 * (male - 0.5)).clamp(min=-2.2),
        "brow warmth": 0.9 * normal() - 0.3 * hair,
        "brow thickness": (0.8 * normal() + 1.0 * (male - 0.5)).clamp(min=-1.5),
        "beard shadow": bearded * 1.7,
        "moustache shadow": (bearded * (0.7 + 0.6 * uniform())).clamp(max=2) * 1.7,
        "freckles": fair * (uniform() < 0.5).float() * uniform() * 2.0,
        "moles": (uniform() < 0.6).float() * uniform() * 1.6,
        "age spots": (age - 0.55).clamp(min=0) * 3.0 * uniform(),
        "blotches": 0.8 * normal() + 0.5 * redness,
        "creases": 0.7 * normal() + 1.8 * (age - 0.5),
        "scalp tint": 0.8 * normal() + 0.6 * hair,
        "scalp warmth": 0.9 * normal() - 0.3 * hair,
    }
    return torch.stack([known[name] if name in known else normal() for name in names], dim=1)
