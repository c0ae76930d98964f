"""The styles of an album: named ones, and a file's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from assets.errors import AssetError
from assets.files import safe_name
from deca.prompt_words import read_prompt

PLACEHOLDER = "{style}"
PRESETS = {
    "photo": "studio portrait photo, soft window light, 85mm lens, sharp eyes",
    "oil painting": "oil painting, visible brush strokes, rich colours, canvas",
    "watercolour": "watercolour painting, wet paper, soft edges",
    "anime": "anime style, cel shading, clean lines, large expressive eyes",
    "pencil": "pencil drawing, fine hatching, white paper",
    "clay": "clay figure, claymation, soft studio light",
    "neon": "neon lights, night, magenta and cyan glow, cyberpunk",
    "comic": "comic book art, bold ink, halftone dots",
    "renaissance": "renaissance portrait, chiaroscuro, old master",
    "film noir": "film noir still, black and white, hard light, venetian blinds",
    "pop art": "pop art, flat bold colours, screen print",
    "fantasy": "fantasy portrait, ornate armour, golden light, epic",
}

ALIASES = {
    "照片": "photo",
    "油画": "oil painting",
    "水彩": "watercolour",
    "动漫": "anime",
    "铅笔": "pencil",
    "黏土": "clay",
    "霓虹": "neon",
    "漫画": "comic",
    "文艺复兴": "renaissance",
    "黑色电影": "film noir",
    "波普艺术": "pop art",
    "奇幻": "fantasy",
    "watercolor": "watercolour",
}


@dataclass(frozen=True)
class AlbumStyle:
    """A style's short name, and the words it adds to a prompt."""

    name: str
    words: str

    @property
    def file_name(self) -> str:
        """The name as part of a file's."""
        return safe_name(self.name.lower(), longest=60)


def read_styles(text: str) -> list[AlbumStyle]:
    """The styles of a text file, or of names with commas between them; "all" is every preset.

    A file's lines are `name: words`, a preset's name, or plain words; empty lines and those that
    start with # are passed over. Names that are no preset's are words of their own.
    """
    if text.strip().lower() == "all":
        return [AlbumStyle(*preset) for preset in PRESETS.items()]
    path = Path(text)
    is_file = path.suffix.lower() in (".txt", ".styles") or path.is_file()
    if is_file:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise AssetError(f"{path} cannot be read as a list of styles ({error})") from error
        except UnicodeDecodeError as error:
            raise AssetError(f"{path} is not UTF-8 text; save it as such") from error
    else:
        lines = re.split("[,，、]", text)
    found = [_style(line) for line in lines if line.strip() and not line.strip().startswith("#")]
    if not found:
        raise ValueError(f"{text!r} names no style; use such as {', '.join(list(PRESETS)[:4])}")
    return found


def read_style(text: str) -> AlbumStyle:
    """The one style of a text; ValueError where it names several."""
    found = read_styles(text)
    if len(found) > 1:
        raise ValueError(
            f"one picture has one style, {text!r} names {len(found)}; give one of them, or draw "
            "all of them with avatar album --styles"
        )
    return found[0]


def worded(prompt: str, style: AlbumStyle) -> str:
    """The prompt with the style's words in place of {style}, or after it."""
    if PLACEHOLDER in prompt:
        return prompt.replace(PLACEHOLDER, style.words)
    return f"{prompt}, {style.words}"


def draws_style(style: AlbumStyle) -> bool:
    """Whether the shipped model has learnt a style that the words mean."""
    return read_prompt(style.words).wish.style is not None


def _style(line: str) -> AlbumStyle:
    name, colon, words = line.strip().partition(":")
    if colon and words.strip():
        return AlbumStyle(name.strip(), words.strip())
    plain = line.strip().rstrip(":")
    name = ALIASES.get(plain.lower(), plain.lower())
    return AlbumStyle(plain, PRESETS.get(name, plain))
