"""Who is pictured and how, by chance: wishes to train on, every value nearly as often as others."""

from __future__ import annotations

import dataclasses

import numpy as np

from deca.prompt_colors import CLOTH
from deca.prompt_wish import SKINS, Wish
from flame.hair_texture import HAIR_COLORS
from flame.paint_eye import IRIS_COLORS

PLACES = ("park", "city", "sea", "sky", "sunset", "snow", "room")
_MOODS = ("neutral", "smiling", "laughing", "surprised", "angry", "sad", "smirking", "worried",
          "kissing", "winking", "speaking", "disgusted", "grimacing")  # fmt: skip
_MOOD_SHARES = (0.18, 0.2, 0.14, 0.1, 0.1, 0.1, 0.04, 0.03, 0.03, 0.02, 0.02, 0.02, 0.02)
_TURNS = ("facing the camera", "turned slightly to the left", "turned slightly to the right",
          "turned to the left", "turned to the right")  # fmt: skip


def draw_person(rng: np.random.Generator) -> Wish:
    """Who somebody is, every attribute nearly as often as its alternatives."""

    def one_of(choices: object, p: object = None) -> str:
        return str(rng.choice(list(choices), p=p))  # type: ignore[call-overload]

    gender = one_of(("woman", "man"))
    woman = gender == "woman"
    age = one_of(("child", "young", "middle-aged", "old"), (0.1, 0.42, 0.2, 0.28))
    hair = one_of(("long", "bob", "fringe", "short"), (0.34, 0.28, 0.24, 0.14))
    if not woman:
        hair = one_of(("short", "none", "long", "bob"), (0.66, 0.2, 0.1, 0.04))
    grown_man = not woman and age != "child"
    made_up = woman and age != "child"
    return Wish(
        gender=gender,
        age=age,
        skin=one_of(SKINS),
        hair="short" if age == "child" and hair == "none" else hair,
        scalp=one_of(("no hair", "cropped hair")),
        hair_color=one_of(HAIR_COLORS),
        eyes=one_of(IRIS_COLORS),
        brows=one_of(("", "thick brows", "thin brows"), (0.8, 0.1, 0.1)),
        beard=one_of(("", "stubble", "a moustache", "a beard"), (0.45, 0.15, 0.15, 0.25))
        if grown_man
        else "",
        eye_shadow=made_up and rng.random() < 0.25,
        lipstick=made_up and rng.random() < 0.35,
        freckles=bool(rng.random() < 0.12),
    )


def draw_take(person: Wish, rng: np.random.Generator) -> Wish:
    """The person in a mood, a pose, clothes, a light and a place."""

    def one_of(choices: object, p: object = None) -> str:
        return str(rng.choice(list(choices), p=p))  # type: ignore[call-overload]

    clothes = one_of(CLOTH)
    place = one_of(("studio", "plain", "gradient", "mottled", "place"),
                   (0.28, 0.27, 0.06, 0.06, 0.33))  # fmt: skip
    return dataclasses.replace(
        person,
        glasses=one_of(("", "glasses", "sunglasses"), (0.72, 0.2, 0.08)),
        hat=False,  # drawn hats are flat: a model that learns them draws them so
        clothes_color=clothes,
        stripes=one_of([color for color in CLOTH if color != clothes])
        if rng.random() < 0.15
        else "",
        expression=one_of(_MOODS, _MOOD_SHARES),
        eyes_closed=bool(rng.random() < 0.04),
        turn=one_of(_TURNS, (0.44, 0.16, 0.16, 0.12, 0.12)),
        nod=one_of(("level", "raised", "lowered"), (0.88, 0.06, 0.06)),
        tilt=bool(rng.random() < 0.1),
        near=False,
        light_level=one_of(("", "dim", "bright"), (0.7, 0.12, 0.18)),
        light_tint=one_of(("", "warm", "cool"), (0.64, 0.18, 0.18)),
        light_kind=one_of(("even", "soft", "hard"), (0.3, 0.45, 0.25)),
        light_from=one_of(("the left", "the right", "the front", "above"), (0.34, 0.34, 0.2, 0.12)),
        background=one_of(PLACES) if place == "place" else place,
        background_color=one_of(CLOTH),
        blurred=True,
        grain=False,
    )
