"""Prompts that a portrait would be an answer to: short and long, in many words, from its wish."""

from __future__ import annotations

import numpy as np

from deca.prompt_wish import Wish
from deca.synth_words import with_article

Rng = np.random.Generator

_WHO = {
    ("woman", False): ("woman", "woman", "woman", "lady"),
    ("man", False): ("man", "man", "man", "gentleman"),
    ("woman", True): ("little girl", "little girl", "child"),
    ("man", True): ("boy", "boy", "child"),
}
_AGES = {"young": ("young",), "middle-aged": ("middle-aged", "mature"), "old": ("old", "elderly")}
_MOODS = {
    "neutral": ("neutral", "serious", "calm"), "smiling": ("smiling", "cheerful", "happy"),
    "laughing": ("laughing", "grinning"), "speaking": ("speaking",),
    "surprised": ("surprised", "astonished"), "angry": ("angry", "furious"),
    "sad": ("sad", "unhappy"), "grimacing": ("grimacing",), "winking": ("winking",),
    "worried": ("worried",), "disgusted": ("disgusted",), "kissing": ("kissing",),
    "smirking": ("smirking",),
}  # fmt: skip
_LENGTHS = {"short": ("short",), "long": ("long",)}
_CUTS = {"bob": ("in a bob",), "fringe": ("in a fringe", "with bangs")}
_STYLES = {
    "realistic": ("", "", "photo", "realistic"),
    "anime": ("anime style", "anime", "cel-shaded anime"), "oil": ("oil painting",),
    "pencil": ("pencil drawing", "pencil sketch"),
    "watercolour": ("watercolour painting", "watercolor"), "clay": ("clay sculpture",),
    "neon": ("neon style", "neon"),
}  # fmt: skip
_COLOURLESS = ("pencil", "clay", "neon")
_PLACES = {
    "studio": "{} studio background", "plain": "plain {} background",
    "gradient": "{} gradient background", "mottled": "mottled {} backdrop",
    "park": "in a park", "city": "in a city at night", "sea": "by the sea",
    "sky": "before the sky", "sunset": "at sunset", "snow": "in the snow", "room": "in a room",
}  # fmt: skip


def draw_caption(wish: Wish, rng: Rng, keep: float | None = None) -> str:
    """A prompt for a settled wish: who it is, then some of what is known, in any order.

    What is left out is not said to be absent. The style is told wherever it is not realistic.
    `keep` is the share that is said, drawn if not given.
    """
    if keep is None:
        keep = float(rng.choice([0.12, 0.35, 0.65, 0.95], p=[0.12, 0.2, 0.33, 0.35]))
    first = _subject(wish, rng, keep)
    clauses = [clause for clause, _ in _clauses(wish, rng) if rng.random() < keep]
    hair = _hair(wish, rng)
    if hair and rng.random() < max(keep, 0.7):
        # "with silver hair" belongs to the subject
        if rng.random() < 0.5:
            first = f"{first} with {hair}"
        else:
            clauses.append(hair)
    rng.shuffle(clauses)
    style = _one(_STYLES[str(wish.style)], rng)
    if style and rng.random() < 0.7:
        clauses.append(style)
    elif style:
        kind = "photo" if style == "realistic" else style.removesuffix(" style")
        first = f"{kind} of {first}"
    return ", ".join([first, *clauses])


def left_open(asked: Wish, settled: Wish, rng: Rng) -> list[str]:
    """What a settled wish says beyond what was asked for, in the words of captions."""
    named = asked.named()
    clauses = [words for words, told in _clauses(settled, rng) if not set(told) & set(named)]
    if not {"hair", "hair_color", "scalp"} & set(named) and (hair := _hair(settled, rng)):
        clauses.insert(0, hair)
    return clauses


def _one(words: tuple[str, ...], rng: Rng) -> str:
    return words[int(rng.integers(len(words)))]


def _subject(wish: Wish, rng: Rng, keep: float) -> str:
    words = []
    if wish.age in _AGES and rng.random() < keep:
        words.append(_one(_AGES[str(wish.age)], rng))
    if rng.random() < max(keep, 0.7) and (wish.expression != "neutral" or rng.random() < 0.4):
        words.append(_one(_MOODS[str(wish.expression)], rng))
        if rng.random() < 0.5:
            words.reverse()
    words.append(_one(_WHO[str(wish.gender), wish.age == "child"], rng))
    first = with_article(" ".join(words))
    return f"portrait of {first}" if wish.style == "realistic" and rng.random() < 0.3 else first


def _hair(wish: Wish, rng: Rng) -> str:
    if wish.hair == "none":
        return "" if wish.hat else ("bald head" if wish.scalp == "no hair" else "cropped hair")
    color, cut = str(wish.hair_color), str(wish.hair)
    if wish.style in _COLOURLESS:
        return f"{_LENGTHS[cut][0]} hair" if cut in _LENGTHS else f"hair {_one(_CUTS[cut], rng)}"
    if rng.random() < 0.35:
        return f"{color} hair"
    if cut in _CUTS:
        return f"{color} hair {_one(_CUTS[cut], rng)}"
    return f"{_one(_LENGTHS[cut], rng)} {color} hair"


def _clauses(wish: Wish, rng: Rng) -> list[tuple[str, tuple[str, ...]]]:
    """What can be said of a picture, and the fields of the wish that each of it tells."""
    colours = wish.style not in _COLOURLESS
    found: list[tuple[str, tuple[str, ...]]] = [(str(wish.turn), ("turn",))]
    if colours:
        found.append((f"{wish.skin} skin", ("skin",)))
    if wish.eyes_closed:
        found.append(("eyes closed", ("eyes_closed",)))
    elif colours and wish.glasses != "sunglasses":
        found.append((f"{wish.eyes} eyes", ("eyes",)))
    for name in ("brows", "beard"):
        if trait := getattr(wish, name):
            found.append((str(trait), (name,)))
    found += [(word, (field,)) for word, field, is_so in (
        ("eye shadow", "eye_shadow", colours and wish.eye_shadow),
        ("freckles", "freckles", colours and wish.freckles),
        ("lipstick", "lipstick", colours and wish.lipstick),
        ("head tilted", "tilt", wish.tilt), (f"head {wish.nod}", "nod", wish.nod != "level"),
        (f"{wish.hat_color} hat" if colours else "hat", "hat", wish.hat),
    ) if is_so]  # fmt: skip
    if wish.glasses:
        worn = f"wearing {wish.glasses}" if rng.random() < 0.4 else str(wish.glasses)
        found.append((worn, ("glasses",)))
    shirt = f"{wish.clothes_color} shirt"
    if wish.stripes:
        shirt = f"{wish.clothes_color} and {wish.stripes} striped shirt"
    if colours:
        worn = f"wearing {with_article(shirt)}" if rng.random() < 0.3 else shirt
        found.append((worn, ("clothes_color", "stripes")))
    light = " ".join(w for w in (wish.light_level, wish.light_tint, wish.light_kind) if w)
    from_ = "" if wish.light_kind == "even" else f" from {wish.light_from}"
    if colours:
        told = ("light_level", "light_tint", "light_kind", "light_from")
        found.append((f"{light} light{from_}", told))
    if wish.style not in ("clay", "neon"):
        place = _PLACES[str(wish.background)].format(wish.background_color)
        found.append((place, ("background", "background_color")))
    return found
