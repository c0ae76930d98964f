"""Prompts read as attributes of a portrait, with all words that were not understood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deca.prompt_colors import HAIR_ALONE, meaning
from deca.prompt_lexicon import SHAPES
from deca.prompt_phrases import MODIFIERS, QUIET, Item, phrases
from deca.prompt_wish import Wish

# what "no" can be said of, and what that leaves
_OPPOSITES: dict[str, Any] = {
    "glasses": "", "beard": "", "hat": False, "freckles": False, "eye_shadow": False,
    "lipstick": False, "expression": "neutral", "eyes_closed": False, "tilt": False,
    "grain": False, "blurred": False, "hair": "none",
}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """What a prompt asks for, and its words that say nothing to the generator."""

    wish: Wish
    unknown: tuple[str, ...]  # in order; neighbours are joined


def read_prompt(prompt: str) -> Reading:
    """Attributes that an English or Chinese prompt names; an empty prompt is a ValueError."""
    if not prompt.strip():
        raise ValueError("the prompt is empty; say what the portrait shows")
    reader = _Reader()
    for item in phrases(prompt):
        reader.take(item)
    reader.rest()
    return reader.reading()


class _Reader:
    """Takes phrases in turn: what they modify is the next noun, or the last one."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}
        self._sliders: dict[str, float] = {}
        self._unknown: list[tuple[int, str]] = []
        self._pending: list[Item] = []
        self._noun: str | None = None  # the clause's last
        self._after = False  # whether what follows is said of that noun: "hair is silver"
        self._denied: Item | None = None
        self._used = False  # whether that "no" has been said of something
        self._joined = False

    def reading(self) -> Reading:
        found = dict(self._found)
        implied = found.pop("beard_color", None)
        if implied and "hair_color" not in found and found.get("hair") != "none":
            found["hair_color"] = implied
        if "scalp" in found:
            found["hair"] = "none"
        wish = Wish(**found, sliders=tuple(self._sliders.items()))
        return Reading(wish, tuple(_grouped(sorted(self._unknown))))

    def rest(self) -> None:
        """The end of a clause."""
        self._settle()
        if self._denied is not None and not self._used:
            self._miss(self._denied)
        self._denied, self._used, self._noun, self._after = None, False, None, False

    def take(self, item: Item) -> None:
        if item.has("break"):
            self.rest()
        elif item.has("not"):
            self.rest()
            self._denied = item
        elif item.said and all(kind in QUIET for kind, _ in item.said):
            self._pass(item)
        elif not item.said:
            self._settle()
            self._miss(item)
        elif item.has("place"):
            self._place(item)
        elif any(item.has(kind) for kind in MODIFIERS) and not item.sets:
            self._pending.append(item)
            if self._after and self._noun is not None:
                self._settle()
        else:
            self._assert(item)
        self._joined = item.text in ("and", "&")

    def _pass(self, item: Item) -> None:
        """Words of grammar."""
        if item.text in ("is", "are", "of", "being"):
            self._after = self._noun is not None and not self._pending
        elif item.text in ("a", "an", "with", "wearing", "but", "while", "in", "has", "having"):
            if item.text in ("with", "wearing", "has", "having", "but", "while"):
                self._settle()
            self._after = False
            if self._used:
                self._denied, self._used = None, False

    def _assert(self, item: Item) -> None:
        """A phrase that sets attributes, or a noun with what was said before it."""
        denied = self._denied is not None
        if denied and self._used and self._joined and not _deniable(item):
            denied, self._denied, self._used = False, None, False
        noun = item.value("noun") or item.value("garment")
        if noun is None and any(name.startswith("light_") for name, _ in item.sets):
            noun = "light" if "light" in item.text else None
        sets = item.sets
        if denied and (sets or noun == "hair"):
            self._deny(item, sets or [("hair", "none")])
            return
        if noun is not None:
            if item.has("garment"):
                self._miss(item)
            self._say_of(noun)
        elif any(name == "gender" for name, _ in sets):
            self._say_of_person()
        for name, value in sets:
            self._set(name, value, item)
        if noun is not None:
            self._noun, self._after = noun, False

    def _set(self, name: str, value: Any, item: Item) -> None:
        if name == "make_up":
            self._found |= {"eye_shadow": value, "lipstick": value}
        elif name == "turn" and value == "profile":
            self._found["turn"] = "in profile"
        else:
            self._found[name] = value
            if name == "hair":
                self._found.pop("scalp", None)

    def _deny(self, item: Item, sets: list[tuple[str, Any]]) -> None:
        assert self._denied is not None
        self._pending, waiting = [], self._pending
        for name, _ in sets:
            if name == "make_up":
                self._found |= {"eye_shadow": False, "lipstick": False}
            elif name == "background":
                self._found["background"] = "studio"
            elif name in _OPPOSITES:
                self._found[name] = _OPPOSITES[name]
            else:
                for one in (self._denied, *waiting, item):
                    self._miss(one)
        self._used = True

    def _place(self, item: Item) -> None:
        if self._noun == "light":
            self._found["light_from"] = item.value("place")
        elif item.sets:
            for name, value in item.sets:
                if name != "place":
                    self._set(name, value, item)
        else:
            self._miss(item)

    def _settle(self) -> None:
        """Words that no noun followed are said of the last one, or of the hair."""
        if self._pending and self._noun is not None:
            self._say_of(self._noun)
        for item in self._pending:
            color = item.value("color")
            if color in HAIR_ALONE:
                self._found["hair_color"] = meaning(color, "hair")
            else:
                self._miss(item)
        self._pending = []

    def _say_of_person(self) -> None:
        left = []
        for item in self._pending:
            color, shade = item.value("color"), _shade(item)
            if color in HAIR_ALONE:
                self._found["hair_color"] = meaning(color, "hair")
            elif color in ("black", "white", "brown") or shade:
                self._found["skin"] = shade or meaning(color, "skin")
            else:
                left.append(item)
        self._pending = left
        for item in left:
            self._miss(item)
        self._pending = []

    def _say_of(self, noun: str) -> None:
        """Everything pending, said of a noun; what does not fit it is not understood."""
        pending, self._pending = self._pending, []
        colors: list[str] = []
        tone: Item | None = None
        for item in pending:
            color = item.value("color")
            if color is not None:
                colors.append(color if tone is None else f"{tone.text.split()[-1]} {color}")
                tone = None
            elif item.has("tone"):
                if tone is not None:
                    self._miss(tone)
                tone = item
            elif not self._size(noun, item.value("size"), item):
                self._miss(item)
        if tone is not None and not self._tone(noun, tone):
            self._miss(tone)
        for color in colors:
            if not self._color(noun, color, len(colors)):
                self._miss_word(color, pending)

    def _color(self, noun: str, color: str, count: int) -> bool:
        of = noun if noun in ("hair", "eyes", "skin") else "cloth"
        means = meaning(color, "hair" if noun == "beard" else of)
        if means is None:
            return False
        if noun == "clothes":
            if count > 1 and "clothes_color" in self._found and self._first_of_two:
                self._found["stripes"] = means
            else:
                self._found["clothes_color"] = means
            self._first_of_two = count > 1
            return True
        if noun == "light":
            warm = color in ("gold", "golden", "orange", "amber", "yellow")
            if not warm and means != "blue":
                return False
            self._found["light_tint"] = "warm" if warm else "cool"
            return True
        if noun == "lips":
            self._found["lipstick"] = True
            return "red" in means or "pink" in means
        name = {"hair": "hair_color", "eyes": "eyes", "skin": "skin", "hat": "hat_color",
                "background": "background_color", "beard": "beard_color"}.get(noun)  # fmt: skip
        if name is None:
            return False
        self._found[name] = means
        if noun == "background":
            self._found.setdefault("background", "plain")
        return True

    _first_of_two = False

    def _tone(self, noun: str, item: Item) -> bool:
        tone = item.text
        dark = any(word in tone for word in ("dark", "deep"))
        light = any(word in tone for word in ("light", "pale"))
        if noun == "skin":
            self._found["skin"] = _shade(item)
            return _shade(item) is not None
        if noun == "light":
            self._found["light_level"] = "bright" if tone == "bright" else "dim"
            return True
        if not (dark or light):
            return False
        values = {
            "hair": ("hair_color", "dark brown", "light brown"),
            "eyes": ("eyes", "dark brown", "light blue"),
            "clothes": ("clothes_color", "dark grey", "light grey"),
            "hat": ("hat_color", "dark grey", "light grey"),
            "background": ("background_color", "dark grey", "light grey"),
        }
        if noun not in values:
            return False
        name, when_dark, when_light = values[noun]
        self._found[name] = when_dark if dark else when_light
        if noun == "background":
            self._found.setdefault("background", "plain")
        return True

    def _size(self, noun: str, size: str, item: Item) -> bool:
        if noun == "hair" and size in ("long", "short", "medium", "fair"):
            if size == "fair":
                self._found["hair_color"] = "blonde"
            else:
                self._found["hair"] = "bob" if size == "medium" else size
            return True
        if noun == "skin" and _shade(item) is not None:
            self._found["skin"] = _shade(item)
            return True
        if noun == "clothes" and size == "striped":
            self._found.setdefault("stripes", "white")
            return True
        if noun == "light" and size in ("warm", "cool", "soft", "hard", "even", "dim"):
            name = {"warm": "light_tint", "cool": "light_tint", "dim": "light_level"}
            self._found[name.get(size, "light_kind")] = size
            return True
        if noun == "background" and size in ("plain", "blurred"):
            key, value = ("background", "plain") if size == "plain" else ("blurred", True)
            self._found.setdefault(key, value)
            return True
        if noun == "beard":
            return size in ("short", "thick", "full", "big")
        if noun == "brows" and size in ("thick", "thin"):
            self._found["brows"] = f"{size} brows"
            return True
        moves = SHAPES.get(noun, {}).get(size)
        self._sliders |= dict(moves or ())
        return moves is not None

    def _miss(self, item: Item) -> None:
        self._unknown.append((item.place, item.text))

    def _miss_word(self, color: str, pending: list[Item]) -> None:
        for item in pending:
            if item.value("color") is not None and color.endswith(item.value("color")):
                self._miss(item)
                return


def _shade(item: Item) -> str | None:
    """The skin that an adjective describes."""
    tones = {
        "dark": "dark brown", "very dark": "very dark", "deep": "very dark", "light": "fair",
        "pale": "fair", "very pale": "very fair", "very light": "very fair",
    }  # fmt: skip
    if item.has("tone"):
        return tones.get(item.text)
    sizes = {"tanned": "olive", "ebony": "very dark", "medium": "olive"}
    if item.value("size") == "fair":
        return "fair" if item.text == "fair" else "very fair"
    return sizes.get(item.value("size") or "")


def _deniable(item: Item) -> bool:
    return any((name in _OPPOSITES and name != "expression") or name == "make_up"
               for name, _ in item.sets) or item.value("noun") == "hair"  # fmt: skip


def _grouped(missed: list[tuple[int, str]]) -> list[str]:
    groups: list[str] = []
    end = -1
    for place, text in missed:
        if place == end and groups:
            groups[-1] += f" {text}"
        else:
            groups.append(text)
        end = place + len(text.split())
    return groups
