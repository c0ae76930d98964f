"""Colours by name: of hair, eyes, skin and cloth, and which everyday word stands for which."""

from __future__ import annotations

from flame.hair_texture import HAIR_COLORS
from flame.paint_eye import IRIS_COLORS

# sRGB bytes; each is what `deca.synth_words.color_word` calls by its key
CLOTH: dict[str, tuple[int, int, int]] = {
    "red": (196, 42, 44), "orange": (226, 122, 40), "yellow": (232, 200, 60),
    "green": (62, 148, 82), "teal": (42, 140, 146), "blue": (52, 98, 190),
    "purple": (122, 74, 190), "pink": (226, 112, 186), "brown": (126, 82, 50),
    "olive": (122, 122, 54), "black": (24, 24, 26), "dark grey": (66, 68, 72),
    "grey": (128, 130, 134), "light grey": (190, 192, 196), "white": (238, 238, 236),
    "dark red": (92, 22, 26), "dark green": (28, 76, 44), "dark teal": (20, 74, 80),
    "dark blue": (28, 42, 92), "dark purple": (58, 34, 92), "dark pink": (98, 34, 78),
    "pale red": (236, 184, 184), "pale orange": (240, 210, 180), "pale yellow": (242, 234, 186),
    "pale green": (190, 232, 196), "pale teal": (180, 230, 236), "pale blue": (182, 204, 240),
    "pale purple": (208, 190, 240), "pale pink": (242, 196, 228),
}  # fmt: skip

# every colour word -> (cloth, hair, eyes, skin); None where the word says nothing of that
_WORDS: dict[str, tuple[str | None, str | None, str | None, str | None]] = {
    "red": ("red", "red", None, None),
    "orange": ("orange", "red", "amber", None),
    "yellow": ("yellow", "blonde", "amber", None),
    "green": ("green", "green", "green", None),
    "teal": ("teal", "teal", "green", None),
    "turquoise": ("teal", "teal", "light blue", None),
    "cyan": ("teal", "teal", "light blue", None),
    "blue": ("blue", "blue", "blue", None),
    "navy": ("dark blue", "blue", "blue", None),
    "navy blue": ("dark blue", "blue", "blue", None),
    "purple": ("purple", "purple", "violet", None),
    "violet": ("purple", "purple", "violet", None),
    "lilac": ("pale purple", "purple", "violet", None),
    "lavender": ("pale purple", "purple", "violet", None),
    "indigo": ("dark purple", "purple", "violet", None),
    "magenta": ("pink", "pink", None, None),
    "pink": ("pink", "pink", None, "fair"),
    "rose": ("pink", "pink", None, None),
    "hot pink": ("pink", "pink", None, None),
    "brown": ("brown", "brown", "brown", "brown"),
    "chestnut": ("brown", "brown", "brown", None),
    "chocolate": ("brown", "dark brown", "dark brown", "dark brown"),
    "olive": ("olive", None, "green", "olive"),
    "khaki": ("olive", None, None, None),
    "black": ("black", "black", "black", "very dark"),
    "jet black": ("black", "black", "black", "very dark"),
    "raven": (None, "black", None, None),
    "grey": ("grey", "grey", "grey", None),
    "gray": ("grey", "grey", "grey", None),
    "salt and pepper": (None, "grey", None, None),
    "silver": ("light grey", "silver", "grey", None),
    "silvery": ("light grey", "silver", "grey", None),
    "white": ("white", "white", None, "fair"),
    "snow white": ("white", "white", None, "very fair"),
    "cream": ("pale yellow", "platinum", None, "fair"),
    "beige": ("pale orange", "blonde", None, "olive"),
    "gold": ("yellow", "blonde", "amber", None),
    "golden": ("yellow", "blonde", "amber", None),
    "maroon": ("dark red", "auburn", None, None),
    "burgundy": ("dark red", "auburn", None, None),
    "wine": ("dark red", "auburn", None, None),
    "crimson": ("red", "red", None, None),
    "scarlet": ("red", "red", None, None),
    "lime": ("green", "green", "green", None),
    "emerald": ("green", "green", "green", None),
    "hazel": (None, "light brown", "hazel", None),
    "amber": ("orange", "auburn", "amber", None),
    "caramel": ("brown", "light brown", "amber", "brown"),
    "auburn": (None, "auburn", None, None),
    "ginger": (None, "red", None, None),
    "copper": ("orange", "auburn", None, None),
    "strawberry": (None, "strawberry", None, None),
    "strawberry blonde": (None, "strawberry", None, None),
    "blonde": (None, "blonde", None, None),
    "blond": (None, "blonde", None, None),
    "dark blonde": (None, "dark blonde", None, None),
    "dirty blonde": (None, "dark blonde", None, None),
    "platinum": (None, "platinum", None, None),
    "platinum blonde": (None, "platinum", None, None),
    "brunette": (None, "brown", None, None),
    "redhead": (None, "red", None, None),
    "redheaded": (None, "red", None, None),
    "platinum blond": (None, "platinum", None, None),
    "dark blond": (None, "dark blonde", None, None),
    "dirty blond": (None, "dark blonde", None, None),
    "strawberry blond": (None, "strawberry", None, None),
    "dark brown": ("brown", "dark brown", "dark brown", "dark brown"),
    "light brown": ("brown", "light brown", "hazel", "olive"),
    "light blue": ("pale blue", "blue", "light blue", None),
    "pale blue": ("pale blue", "blue", "light blue", None),
    "ice blue": ("pale blue", "blue", "light blue", None),
}
# words that mean hair when no noun is near
HAIR_ALONE = frozenset(
    word for word, (_, hair, _, _) in _WORDS.items()
    if hair and any(part in word for part in ("blond", "brunette", "redhead", "ginger", "auburn",
                                              "platinum"))
)  # fmt: skip
_TONED = {"dark": "dark", "deep": "dark", "light": "pale", "pale": "pale", "bright": ""}
COLOR_WORDS: tuple[str, ...] = tuple(dict.fromkeys([*_WORDS, *CLOTH, *HAIR_COLORS, *IRIS_COLORS]))


def meaning(word: str, of: str) -> str | None:
    """The generator's name of a colour word said of "cloth", "hair", "eyes" or "skin"."""
    column = ("cloth", "hair", "eyes", "skin").index(of)
    known = (CLOTH, HAIR_COLORS, IRIS_COLORS, {})[column]
    if word in _WORDS and _WORDS[word][column] is not None:
        return _WORDS[word][column]
    if word in known:
        return word
    shade, _, rest = word.partition(" ")
    if shade in _TONED and rest:
        if of == "cloth":
            base = meaning(rest, of)
            toned = f"{_TONED[shade]} {base}".strip()
            return toned if toned in CLOTH else base
        return meaning(rest, of)
    return None
