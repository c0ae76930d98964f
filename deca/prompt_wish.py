"""What a prompt asks of a portrait: attributes by name, None where it says nothing."""

from __future__ import annotations

from dataclasses import dataclass, fields

GENDERS = ("woman", "man")
AGES = ("child", "young", "middle-aged", "old")
SKINS = ("very fair", "fair", "olive", "brown", "dark brown", "very dark")
HAIRS = ("none", "short", "bob", "fringe", "long")
SCALPS = ("no hair", "cropped hair")
BEARDS = ("", "stubble", "a moustache", "a beard")
GLASSES = ("", "glasses", "sunglasses")
MOODS = (
    "neutral", "smiling", "laughing", "speaking", "surprised", "angry", "sad", "grimacing",
    "winking", "worried", "disgusted", "kissing", "smirking",
)  # fmt: skip
STYLES = ("realistic", "anime", "oil", "pencil", "watercolour", "clay", "neon")


@dataclass(frozen=True)
class Wish:
    """Attributes of one portrait; words are those of the generator's captions."""

    gender: str | None = None
    age: str | None = None
    skin: str | None = None
    hair: str | None = None
    scalp: str | None = None  # of a head without hair
    hair_color: str | None = None
    eyes: str | None = None  # colour
    brows: str | None = None  # "thick brows", "thin brows"
    beard: str | None = None  # "" is none
    eye_shadow: bool | None = None
    lipstick: bool | None = None
    freckles: bool | None = None
    glasses: str | None = None  # "" is none
    hat: bool | None = None
    hat_color: str | None = None
    clothes_color: str | None = None
    stripes: str | None = None  # the second colour of striped clothes
    expression: str | None = None
    eyes_closed: bool | None = None
    turn: str | None = None  # as in pose_word; "three-quarter" leaves the side open
    nod: str | None = None  # "raised", "lowered", "level"
    tilt: bool | None = None
    near: bool | None = None  # seen from very near
    light_level: str | None = None  # "dim", "bright"
    light_tint: str | None = None  # "warm", "cool"
    light_kind: str | None = None  # "even", "soft", "hard"
    light_from: str | None = None  # "the front", "the left", "the right", "above"
    background: str | None = None
    background_color: str | None = None
    blurred: bool | None = None  # the background is out of focus
    grain: bool | None = None
    style: str | None = None
    sliders: tuple[tuple[str, float], ...] = ()  # of flame.sliders, standard deviations

    def named(self) -> dict[str, object]:
        """What is asked for, by field."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value is not None and value != ()}
