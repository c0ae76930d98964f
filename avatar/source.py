"""The picture an avatar is made of: a photo, or a portrait drawn by a prompt, and its style."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from avatar.bundle import ModelUse, shipped_use
from avatar.progress import Progress
from deca.portrait import Portrait
from deca.prompt_wish import STYLES, Wish
from deca.prompt_words import Reading, read_prompt
from deca.texture import SkinTexture
from flame.srgb import linear_to_srgb, srgb_to_linear

GENERATOR = "portrait: this project's synthetic-people generator (rendered; no diffusion model)"


@dataclass(frozen=True, eq=False)
class Source:
    """What the face is read from, what is shown, and what is known without looking."""

    portrait: Portrait  # without style, and without what is worn on the face
    shown: Float[Tensor, "1 3 H W"]  # in its style; pixel for pixel the portrait's
    style: str = "realistic"
    reading: Reading | None = None
    settled: Wish = field(default_factory=Wish)  # what is known of the person
    inputs: Mapping[str, str] = field(default_factory=dict)  # what was given -> its SHA-256
    models: tuple[ModelUse, ...] = ()
    beard: Float[Tensor, "3 K K"] | None = None  # ln of linear albedo, with over without

    def bearded(self, texture: SkinTexture) -> SkinTexture:
        """The texture with the beard going on where the picture did not show it."""
        assert self.beard is not None
        side = texture.base_color.shape[-1]
        change = torch.nn.functional.interpolate(
            self.beard[None], (side, side), mode="bilinear", align_corners=False
        )[0]
        grown = srgb_to_linear(texture.base_color) * ((1 - texture.coverage) * change).exp()
        return SkinTexture(linear_to_srgb(grown).clamp(0, 1), texture.coverage)

    @property
    def shirt_color(self) -> tuple[float, float, float]:
        """sRGB of the clothes, where they are known, else the usual shirt's."""
        from deca.prompt_colors import CLOTH
        from flame.outfit import SHIRT_COLOR

        if self.settled.clothes_color is None:
            return SHIRT_COLOR
        red, green, blue = CLOTH[self.settled.clothes_color]
        return red / 255, green / 255, blue / 255

    def told(self, prompt: str | None, seed: int) -> dict[str, str]:
        """Named metadata of the shown picture."""
        if prompt is None:
            return {"style": self.style}
        unknown = self.reading.unknown if self.reading is not None else ()
        asked = self.reading.wish.named() if self.reading is not None else {}
        return {
            "prompt": prompt,
            "understood": json.dumps(asked, ensure_ascii=False),
            "not understood": json.dumps(unknown, ensure_ascii=False),
            "attributes": json.dumps(self.settled.named(), ensure_ascii=False),
            "made by": self.models[0].name if self.models else "",
            "style": self.style,
            "seed": str(seed),
        }


def find_style(words: str) -> str:
    """The one of STYLES that some words name; ValueError where they name none."""
    found = read_prompt(words).wish.style if words.strip() else None
    if found is None:
        raise ValueError(
            f"the style {words!r} is not known; use one of {', '.join(STYLES)}, or words such as "
            "'oil painting'"
        )
    return found


def source_of(
    photo: Path | None,
    prompt: str | None,
    *,
    style: str | None = None,
    model: Path | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Source:
    """A photo's source, or a prompt's; `style` is in words and goes before the prompt's own.

    Without `model` prompts are drawn by the project's own generator of people; with one, a
    diffusers pipeline paints the portrait, and words choose only hair and eyes. The model that
    comes with the package is called `shipped`.
    """
    progress = progress or Progress()
    if (photo is None) == (prompt is None):
        raise ValueError("give a photo or a prompt, one of them")
    if model is not None and prompt is None:
        raise ValueError("a model paints portraits of prompts; give a prompt with it")
    named = None if style is None else find_style(style)
    if photo is not None:
        return _photographed(Portrait.read(photo), named or "realistic")
    assert prompt is not None
    reading = read_prompt(prompt)
    if model is not None:
        return _painted(prompt, reading, named, model, seed)
    if reading.unknown:
        listed = "; ".join(reading.unknown[:12])
        progress.warn(f"not understood in the prompt, and left to chance: {listed}")
    return _drawn(prompt, reading, named, seed, progress)


def _photographed(portrait: Portrait, style: str) -> Source:
    from deca.synth_styles import stylize

    return Source(
        portrait,
        stylize(portrait.image, style),
        style,
        inputs={"photo": portrait.sha256},
        models=style_use(style),
    )


def _drawn(
    prompt: str, reading: Reading, style: str | None, seed: int, progress: Progress
) -> Source:
    from deca.synth_portrait import PortraitStudio
    from flame.load import load_head
    from flame.outfit import load_outfit

    wish = reading.wish if style is None else dataclasses.replace(reading.wish, style=style)
    generator = torch.Generator().manual_seed(seed)
    layers = PortraitStudio(load_head(), load_outfit()).shoot(wish, generator=generator)
    settled = layers.sitter.wish
    if wish.turn == "seen from behind":
        progress.warn("a face is needed, so the portrait is not taken from behind")
    digest = hashlib.sha256(prompt.encode()).hexdigest()
    return Source(
        Portrait(layers.bare, "portrait", digest),
        layers.styled(),
        str(settled.style),
        reading,
        settled,
        {"prompt": digest},
        (ModelUse(GENERATOR, "MIT", ""), *style_use(str(settled.style))),
        layers.beard,
    )


def _painted(
    prompt: str, reading: Reading, style: str | None, model: Path | str, seed: int
) -> Source:
    from avatar.portrait import shipped_portrait
    from deca.synth_styles import stylize
    from diffusion import Recipe, load_pipeline, txt2img
    from diffusion.shipped_portrait import NAME, networks

    if str(model) == NAME:
        image = shipped_portrait(prompt, seed)
        used = tuple(
            dataclasses.replace(shipped_use(name), name=f"portrait: the shipped model {name}")
            for name in networks()
        )
    else:
        image = txt2img(load_pipeline(model), Recipe(prompt=prompt, seed=seed))
        used = (ModelUse(f"portrait: diffusion model {Path(model).name}", "", ""),)
    chosen = style or "realistic"  # the prompt's own style is the model's to paint
    wish = reading.wish
    known = Wish(gender=wish.gender, hair=wish.hair, hair_color=wish.hair_color, eyes=wish.eyes)
    digest = hashlib.sha256(prompt.encode()).hexdigest()
    return Source(
        Portrait(image, "portrait", digest),
        stylize(image, chosen),
        chosen,
        dataclasses.replace(reading, unknown=()),
        known,
        {"prompt": digest},
        (*used, *style_use(chosen)),
    )


def style_use(style: str) -> tuple[ModelUse, ...]:
    """How a style is told in a manifest."""
    if style == "realistic":
        return ()
    return (ModelUse(f"style: {style} (image filters; no trained model)", "MIT", ""),)


def matching_voice(gender: str | None) -> str | None:
    """The first shipped voice of a man; None for a woman, whose voice the engine has by itself.

    Also None where no voice is shipped. Conversion costs quality, so it is done only where needed.
    """
    from assets.errors import AssetError
    from voice.shipped import shipped_voices

    try:
        voices = shipped_voices()
    except (AssetError, OSError):
        return None
    if gender != "man":
        return None
    return next((voice.name for voice in voices if voice.gender == "male"), None)
