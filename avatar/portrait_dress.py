"""A head's own skin, hair, eyes and clothes as a prompt names them, before the place it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from deca.prompt_colors import CLOTH
from deca.prompt_wish import Wish
from deca.synth_backdrop import draw_backdrop
from deca.synth_complexion import HAIRS, creased, dyed
from deca.synth_portrait import striped
from deca.synth_sitter import Sitter, draw_sitter, settle
from flame.hair_texture import hair_material
from flame.head import Head
from flame.material import Material
from flame.model import Flame
from flame.outfit import Outfit, load_outfit
from flame.paint_cloth import paint_shirt
from flame.paint_eye import paint_eye
from flame.srgb import linear_to_srgb, srgb_to_linear

# of a wish, what a skin shows
_SKIN = ("age", "skin", "brows", "beard", "eye_shadow", "lipstick", "freckles")
_LUMA = (0.2126, 0.7152, 0.0722)
_THIN = 0.5  # alpha of hair that hardly counts
_DARKEST = 1e-3


def has_our_skin(head: Head, flame: Flame) -> bool:
    """Whether a head's skin is laid out as the shipped head's is."""
    ours = flame.topology.uv
    return torch.equal(head.uv[: len(ours)], ours)


def dressed(
    head: Head, materials: Sequence[Material], wish: Wish, flame: Flame, *, seed: int = 0
) -> tuple[Material, ...]:
    """The materials as the wish names them; what it does not name stays.

    Hair, eyes and clothes take the named colours. The skin of a head of ours changes by what sets
    two synthetic people apart, of whom one is as the wish names it and the other is not.
    """
    made = recoloured(materials, wish)
    named = {name: value for name, value in wish.named().items() if name in _SKIN}
    if not named or not has_our_skin(head, flame):
        return made
    man = wish.gender == "man" or (wish.gender is None and bool(wish.beard))
    usual = Wish(gender="man" if man else "woman", age="young", skin=wish.skin or "fair", brows="",
                 beard="", eye_shadow=False, lipstick=False, freckles=False, hair="short",
                 hair_color=wish.hair_color or "brown")  # fmt: skip
    asked = replace(usual, **named)  # type: ignore[arg-type]
    skins = _Skins(flame, load_outfit(), seed)
    return tuple(
        skins.changed(one, usual, asked, tone=wish.skin is not None) if one.name == "skin" else one
        for one in made
    )


@dataclass(frozen=True, eq=False)
class _Skins:
    """Skins of the synthetic people of one seed."""

    flame: Flame
    outfit: Outfit
    seed: int

    def changed(self, skin: Material, usual: Wish, asked: Wish, *, tone: bool) -> Material:
        """A skin times what sets two wishes' apart; with `tone` as light as the second's."""
        side = skin.base_color.shape[-1]
        own = _log(skin.base_color[:3])
        before, after = (self._log_skin(wish, side) for wish in (usual, asked))
        change = after - before
        if tone:
            change = change + (before - own).flatten(1).median(1).values[:, None, None]
        color = linear_to_srgb((own + change).exp().clamp(0, 1))
        made = replace(skin, base_color=torch.cat([color, skin.base_color[3:]]))
        if made.normal is None:
            return made
        return creased(made, self._sitter(asked), self.flame, generator=self._chance())

    def _log_skin(self, wish: Wish, side: int) -> Float[Tensor, "3 K K"]:
        albedo = self.outfit.albedo

        def decode(codes: Float[Tensor, "1 A"]) -> Float[Tensor, "3 K K"]:
            return albedo.decode(codes, side)[0]

        return _log(dyed(self._sitter(wish), albedo, HAIRS, decode)[0])

    def _sitter(self, wish: Wish) -> Sitter:
        return draw_sitter(wish, self.flame, self.outfit.albedo, generator=self._chance())

    def _chance(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def unworn(materials: Sequence[Material], wish: Wish) -> list[str]:
    """What of a wish a given head cannot wear, in words."""
    hair = any(material.name == "hair" for material in materials)
    found = []
    if wish.hair_color is not None and not hair:
        found.append("the head has no hair that could be coloured")
    if wish.hair is not None and (hair or wish.hair != "none"):
        found.append("the head keeps the cut of its own hair" if hair else "the head stays bald")
    return found


def recoloured(materials: Sequence[Material], wish: Wish) -> tuple[Material, ...]:
    """The materials with those that the wish names a colour for in it; locks and stitches stay."""
    made = {material.name: material for material in materials}
    if wish.hair_color is not None and "hair" in made:
        made["hair"] = hair_material(_shades(made["hair"].base_color), wish.hair_color)
    if wish.eyes is not None and "eyes" in made:
        iris = paint_eye(wish.eyes, generator=torch.Generator().manual_seed(0))
        made["eyes"] = replace(made["eyes"], base_color=iris)
    if wish.clothes_color is not None and "shirt" in made:
        red, green, blue = (value / 255 for value in CLOTH[wish.clothes_color])
        cloth, knit = paint_shirt((red, green, blue))
        made["shirt"] = replace(made["shirt"], base_color=cloth, normal=knit)
        if wish.stripes:
            made["shirt"] = striped(made["shirt"], CLOTH[wish.stripes])
    return tuple(made.values())


def place_of(wish: Wish, size: int) -> Float[Tensor, "3 S S"] | None:
    """The background that the wish names, sRGB; None where it names none."""
    if wish.background is None and wish.background_color is None:
        return None
    rng = np.random.default_rng(0)
    return draw_backdrop(settle(wish, rng), size, rng)


def _log(color: Float[Tensor, "3 K K"]) -> Float[Tensor, "3 K K"]:
    return srgb_to_linear(color).clamp(min=_DARKEST).log()


def _shades(base_color: Float[Tensor, "4 H W"]) -> Float[Tensor, "2 H W"]:
    """Shade and alpha of dyed hair: 0.5 is the colour itself, in linear light."""
    light = torch.tensordot(torch.tensor(_LUMA), srgb_to_linear(base_color[:3]), dims=1)
    alpha = base_color[3]
    hair = light[alpha > _THIN]
    usual = hair.mean() if len(hair) else light.mean()
    return torch.stack([(0.5 * light / usual.clamp(min=_DARKEST)).clamp(0, 1), alpha])
