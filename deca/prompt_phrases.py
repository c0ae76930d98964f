"""Prompts as phrases of the lexicon: words, numbers, ages, English or Chinese."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from typing import Any

from deca.prompt_chinese import has_chinese, to_english
from deca.prompt_lexicon import LONGEST, Said, lexicon

_AGE = re.compile(
    r"\b(?:aged?\s+(\d{1,3})|(\d{1,3})\s*-?\s*(?:years?|yrs?|yo|y/o)\b(?:[\s-]*olds?\b)?"
    r"|in\s+(?:her|his|their)\s+(?:early\s+|mid\s+|late\s+)?(\d{1,2})0?s)"
)
_DECADES = {
    "teens": "teenage", "twenties": "young", "thirties": "young", "forties": "middle aged",
    "fifties": "middle aged", "sixties": "old", "seventies": "old", "eighties": "old",
    "nineties": "old",
}  # fmt: skip
_EMPHASIS = re.compile(r"[(\[{<]|:\s*\d*\.?\d+\s*(?=[)\]}>])|[)\]}>]")  # of diffusion prompts
_TOKEN = re.compile(r"\d/\d|[^\W_]+(?:'[^\W_]+)*|[,;.:!?\n]|&|[^\s\w]")
_BREAKS = frozenset(",;.:!?\n")
QUIET = frozenset(("skip", "not"))
MODIFIERS = frozenset(("color", "tone", "size"))


@dataclass(frozen=True)
class Item:
    """A phrase of the prompt and what it says; `place` counts words."""

    text: str
    said: Said
    place: int

    def has(self, kind: str) -> bool:
        return any(name == kind for name, _ in self.said)

    def value(self, kind: str) -> Any:
        return next((value for name, value in self.said if name == kind), None)

    @property
    def sets(self) -> list[tuple[str, Any]]:
        return [
            (name, value)
            for name, value in self.said
            if name not in QUIET | MODIFIERS | {"noun", "garment", "break"}
        ]


def phrases(prompt: str) -> list[Item]:
    """The prompt cut into the longest phrases that are known, and into single words between."""
    return _items(_words(prompt))


def _words(prompt: str) -> list[str]:
    text = unicodedata.normalize("NFKC", prompt).lower().replace("’", "'")
    if has_chinese(text):
        text = to_english(text)
    text = _EMPHASIS.sub(" ", text)
    text = _AGE.sub(_age_word, text)
    for decade, word in _DECADES.items():
        text = re.sub(rf"\bin (?:her|his|their) (?:early |mid |late )?{decade}\b", word, text)
    text = text.replace("-", " ").replace("–", " ").replace("—", " , ")
    return _TOKEN.findall(text)


def _age_word(match: re.Match[str]) -> str:
    years = int(match[1] or match[2] or 0)
    if match[3]:
        years = int(match[3]) * (1 if len(match[3]) == 2 else 10) + 4
    if years < 13:
        return " child "
    return " young " if years < 35 else (" middle aged " if years < 60 else " old ")


def _items(words: list[str]) -> list[Item]:
    """Phrases of the lexicon, the longest first, and single words that are not in it."""
    known = lexicon()
    items, at = [], 0
    while at < len(words):
        if words[at] in _BREAKS:
            items.append(Item(words[at], (("break", None),), at))
            at += 1
            continue
        for length in range(min(LONGEST, len(words) - at), 0, -1):
            phrase = tuple(words[at : at + length])
            said = known.get(phrase) or known.get((*phrase[:-1], _singular(phrase[-1])))
            if said is not None:
                items.append(Item(" ".join(phrase), said, at))
                break
        else:
            length = 1
            items.append(Item(words[at], (), at))
        at += length
    following = [*items[1:], None][: len(items)]
    return [_as_tone(item, after) for item, after in zip(items, following, strict=True)]


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _as_tone(item: Item, following: Item | None) -> Item:
    """ "light" before a colour or a noun is a shade, elsewhere it shines."""
    if item.text != "light":
        return item
    shade = following is not None and (
        following.has("color") or following.value("noun") not in (None, "light")
    )
    said = (("tone", None),) if shade else (("noun", "light"),)
    return replace(item, said=said)
