"""A person as wished for: what is named is honoured, everything else is drawn by chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from deca.prompt_colors import CLOTH
from deca.prompt_wish import Wish
from deca.synth_people import draw_shape
from flame.albedo import AlbedoModel
from flame.arkit import ARKIT_INDEX, ARKIT_NAMES
from flame.model import Flame
from flame.params import LOOK_DEG
from flame.shoulders import WIDTH
from flame.sliders import Sliders, sliders

Rgb = tuple[float, float, float]
_LIKENESS = 0.72  # of a random identity's deviation: rarer faces look odd under a wish

# Where the sexes and ages differ on average, standard deviations of flame.sliders' measures.
_WOMAN = {
    "jaw width": -1.0, "brow ridge": -1.3, "nose width": -0.7, "lower lip fullness": 0.3,
    "upper lip fullness": 0.4, "eye size": 0.7, "neck width": -1.9, "chin width": -0.9,
    "brow height": 0.6, "face length": -0.3, "head size": -0.4, "forehead slope": 0.5,
    "cheekbone prominence": 0.4, "nose tip up": 0.6, "face width": -0.4, "nose length": -0.4,
}  # fmt: skip
_BY_AGE: dict[str, dict[str, float]] = {
    "child": {
        "face length": -1.6, "cheek fullness": 1.6, "nose length": -1.6, "nose protrusion": -1.2,
        "nose bridge height": -1.2, "eye size": 1.6, "jaw width": -1.2, "chin length": -1.2,
        "neck width": -1.4, "brow ridge": -1.2, "forehead height": 0.8, "nose width": -0.6,
        "head size": -0.8, "mouth width": -1.4, "lower lip fullness": -0.4,
    },
    "young": {"cheek fullness": 0.4, "eye size": 0.3},
    "middle-aged": {"nose length": 0.6, "upper lip fullness": -0.7, "eye opening": -0.7,
                    "lower lip fullness": -0.3, "neck width": 0.8, "jaw width": 0.7,
                    "cheek fullness": 0.5},
    "old": {
        "nose length": 1.1, "ear size": 1.6, "upper lip fullness": -1.4, "eye opening": -1.2,
        "lower lip fullness": -0.9, "cheek fullness": -1.5, "philtrum length": 0.8,
        "eye depth": 0.7,
    },
}  # fmt: skip
# What drawings of that kind do to a face.
_BY_STYLE: dict[str, dict[str, float]] = {
    "anime": {"eye size": 2.2, "eye opening": 0.5, "nose width": -1.6, "nose protrusion": -0.8,
              "chin width": -1.0, "mouth width": -1.0, "jaw width": -0.6},
}  # fmt: skip
# amounts of the albedo model's tone components
_SKINS = {"very fair": -1.87, "fair": -1.5, "olive": -0.95, "brown": -0.32, "dark brown": 0.68,
          "very dark": 1.5}  # fmt: skip
_OLIVE = {"undertone": 0.35, "haemoglobin": -0.2}  # yellower and less red than tanned skin
_TIRED = {"child": -1.0, "young": -0.6, "middle-aged": 0.7, "old": 1.6}  # below the eyes
_CREASES = {"old": 1.0, "middle-aged": 0.66, "young": 0.04}  # strength of wrinkles
_MOODS: dict[str, dict[str, float]] = {
    "neutral": {"mouthSmile": 0.10},
    "smiling": {"mouthSmile": 0.85, "cheekSquint": 0.5, "eyeSquint": 0.22, "mouthDimple": 0.2,
                "mouthUpperUp": 0.15, "jawOpen": 0.03},
    "laughing": {"mouthSmile": 0.9, "cheekSquint": 0.65, "eyeSquint": 0.4, "mouthDimple": 0.2,
                 "mouthUpperUp": 0.55, "mouthLowerDown": 0.45, "jawOpen": 0.26,
                 "browInnerUp": 0.15},
    "speaking": {"jawOpen": 0.28, "mouthFunnel": 0.2, "mouthUpperUp": 0.15, "browInnerUp": 0.2,
                 "mouthLowerDown": 0.2},
    "surprised": {"browInnerUp": 0.85, "browOuterUp": 0.8, "eyeWide": 0.8, "jawOpen": 0.42,
                  "mouthFunnel": 0.25},
    "angry": {"browDown": 1.0, "noseSneer": 1.0, "eyeSquint": 0.55, "mouthFrown": 0.35,
              "mouthUpperUp": 0.35, "mouthLowerDown": 0.5, "mouthStretch": 0.35,
              "jawForward": 0.4, "jawOpen": 0.06},
    "sad": {"browInnerUp": 1.0, "mouthFrown": 1.0, "mouthShrugLower": 0.7, "eyeBlink": 0.28},
    "grimacing": {"mouthStretch": 0.8, "mouthLowerDown": 0.6, "mouthUpperUp": 0.5,
                  "eyeSquint": 0.5, "browDown": 0.4, "jawOpen": 0.05},
    "winking": {"mouthSmileLeft": 0.75, "mouthSmileRight": 0.45, "eyeBlinkLeft": 1.0,
                "cheekSquintLeft": 0.7, "browDownLeft": 0.35, "browOuterUpRight": 0.4},
    "worried": {"browInnerUp": 1.0, "eyeWide": 0.5, "mouthStretch": 0.6, "mouthFrown": 0.5,
                "mouthPress": 0.3},
    "disgusted": {"noseSneer": 0.95, "mouthUpperUp": 0.5, "browDown": 0.6, "mouthFrown": 0.4,
                  "eyeSquint": 0.5},
    "kissing": {"mouthPucker": 0.95, "mouthFunnel": 0.15, "browInnerUp": 0.25, "eyeSquint": 0.15},
    "smirking": {"mouthSmileLeft": 0.75, "mouthSmileRight": 0.15, "cheekSquintLeft": 0.4,
                 "browOuterUpRight": 0.4, "eyeSquint": 0.25},
}  # fmt: skip
_DRAWN_MOODS = ("neutral", "neutral", "smiling", "smiling", "laughing")
_NATURAL_HAIR = ("black", "dark brown", "dark brown", "brown", "brown", "light brown",
                 "dark blonde", "blonde", "auburn", "red")  # fmt: skip
_EYES = ("dark brown", "brown", "brown", "hazel", "green", "blue", "light blue", "grey")
_CLOTHES = ("dark blue", "black", "white", "grey", "dark green", "dark red", "teal", "light grey",
            "olive", "blue", "red", "pale blue")  # fmt: skip
_TURNS = {
    "facing the camera": 0.0, "turned slightly to the left": -20.0,
    "turned slightly to the right": 20.0, "turned to the left": -38.0,
    "turned to the right": 38.0, "in profile to the left": -68.0, "in profile to the right": 68.0,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Sitter:
    """A person ready to be photographed: every field of `wish` is settled."""

    wish: Wish
    shape: Float[Tensor, " S"]
    albedo: Float[Tensor, "1 A"]
    weights: Float[Tensor, " 52"]
    turn_deg: tuple[float, float, float]  # yaw to the viewer's right, pitch up, roll
    creases: float  # strength of wrinkles, 0 to 1


def draw_sitter(
    wish: Wish, flame: Flame, albedo: AlbedoModel, *, generator: torch.Generator
) -> Sitter:
    """The person of a wish; the same generator state draws the same one.

    Looks that nothing is said of go with the sex and the age. Heads turn to 68 degrees at most,
    so that a face can be found in the picture.
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    settled = settle(wish, rng)
    shape = draw_shape(1, flame.n_shape, generator=generator) * _LIKENESS
    amounts = {name: value * float(rng.uniform(0.7, 1.1)) for name, value in _sexed(settled)}
    for table, key in ((_BY_AGE, settled.age), (_BY_STYLE, settled.style)):
        for name, value in table.get(str(key), {}).items():
            amounts[name] = amounts.get(name, 0.0) + value
    for name, value in wish.sliders:
        amounts[name] = amounts.get(name, 0.0) + value
    shape = _moulded(flame).apply(shape, amounts)[0]
    creases = _CREASES.get(str(settled.age), 0.0)
    if settled.style == "anime":
        creases *= 0.5  # cel shading makes a black line of every one
    return Sitter(
        settled,
        shape,
        _skin_codes(settled, albedo, rng, generator),
        _face(settled, rng),
        _turned(settled, rng),
        creases * float(rng.uniform(0.85, 1.1)),
    )


@lru_cache(maxsize=1)
def _moulded(flame: Flame) -> Sliders:
    return sliders(flame)


def settle(wish: Wish, rng: np.random.Generator) -> Wish:
    """The wish with everything that is left open drawn, each choice from its own number."""
    chances = iter(rng.random(40))

    def one_of(*choices: str) -> str:
        return choices[int(next(chances) * len(choices))]

    def chance(share: float) -> bool:
        return bool(next(chances) < share)

    gender = wish.gender or ("man" if wish.beard else one_of("woman", "man"))
    age = wish.age or one_of("young", "young", "young", "middle-aged")
    if wish.style == "anime" and not wish.age:
        age = "young"  # as anime's people are
    woman, child = gender == "woman", (wish.age or age) == "child"
    skin = wish.skin or one_of("very fair", "fair", "fair", "olive", "brown", "dark brown")
    hair = one_of("long", "bob", "fringe", "long") if woman else one_of("short", "short", "short")
    # whoever names the hair's colour means there to be some
    if not woman and age == "old" and wish.hair_color is None and chance(0.3):
        hair = "none"
    dark = ("black", "dark brown", "black", "dark brown")
    color = one_of(*(dark if skin in ("brown", "dark brown", "very dark") else _NATURAL_HAIR))
    grey = one_of("grey", "silver", "white", "grey")
    color = grey if age == "old" else color
    eyes = one_of(*(("dark brown", "brown", "dark brown") if skin in
                    ("brown", "dark brown", "very dark") else _EYES))  # fmt: skip
    beard = one_of("", "", "stubble", "a beard") if not (woman or child) else ""
    mood = one_of(*_DRAWN_MOODS)
    turn = one_of("facing the camera", "turned slightly to the left",
                  "turned slightly to the right", "facing the camera")  # fmt: skip
    shirt = one_of(*_CLOTHES)
    scene = one_of("studio", "studio", "park", "room", "city")
    drawn = {
        "gender": gender, "age": age, "skin": skin, "hair": hair, "scalp": one_of(
            "cropped hair", "no hair"), "hair_color": color, "eyes": eyes, "brows": "",
        "beard": beard, "eye_shadow": woman and not child and chance(0.25),
        "lipstick": woman and not child and chance(0.35), "freckles": chance(0.1),
        "glasses": "", "hat": False, "hat_color": one_of(*CLOTH), "clothes_color": shirt,
        "stripes": "", "expression": mood, "eyes_closed": False, "turn": turn, "nod": "level",
        "tilt": False, "near": False, "light_level": "", "light_tint": "",
        "light_kind": one_of("soft", "soft", "hard"), "light_from": one_of(
            "the left", "the right", "the left"), "background": scene,
        "background_color": one_of("grey", "dark blue", "teal", "light grey", "brown"),
        "blurred": True, "grain": False, "style": "realistic",
    }  # fmt: skip
    named = wish.named()
    turned = str(named.get("turn", ""))
    if turned in ("three-quarter", "in profile"):
        side = one_of("left", "right")
        named["turn"] = (
            f"turned to the {side}" if turned == "three-quarter" else f"in profile to the {side}"
        )
    elif turned == "seen from behind":
        named["turn"] = "facing the camera"
    return dataclasses.replace(Wish(), **{**drawn, **named})  # type: ignore[arg-type]


def body_width(wish: Wish) -> float:
    """Half the width of a person's shoulders, m (`flame.shoulders`)."""
    return WIDTH["child" if wish.age == "child" else wish.gender or ""]


def _sexed(wish: Wish) -> list[tuple[str, float]]:
    share = 1.0 if wish.gender == "woman" else -0.95
    if wish.age == "child":
        share *= 0.35
    return [(name, share * value) for name, value in _WOMAN.items()]


def _skin_codes(
    wish: Wish, model: AlbedoModel, rng: np.random.Generator, generator: torch.Generator
) -> Float[Tensor, "1 A"]:
    """Codes of the albedo model, from amounts by name."""
    codes = model.sample(1, generator).clamp(-1.6, 1.6)
    amounts = dict(zip(model.names, (codes[0] * model.deviations).tolist(), strict=True))
    known = set(amounts)
    melanin = _SKINS[str(wish.skin)] + float(rng.uniform(-0.06, 0.06))
    old, young = wish.age == "old", wish.age in ("child", "young")
    woman = wish.gender == "woman"
    # the locus of human skin in (melanin, undertone), as in flame.paint_population
    undertone = max(0.82 + 0.249 * melanin - 0.371 * melanin**2 - 0.43, -1.0)
    tinge = _OLIVE if wish.skin == "olive" else dict.fromkeys(_OLIVE, 0.0)
    bearded = {"a beard": 1.9, "stubble": 0.65}.get(str(wish.beard), 0.0)
    amounts |= {
        "melanin": melanin,
        "undertone": undertone + float(rng.uniform(-0.15, 0.15)) + tinge["undertone"],
        "haemoglobin": float(rng.uniform(0.0, 0.3)) + tinge["haemoglobin"],
        "beard shadow": bearded, "age spots": 1.4 if old else 0.0,
        "moustache shadow": 1.9 if wish.beard == "a moustache" else bearded * 0.95,
        "freckles": float(rng.uniform(0.85, 1.2)) if wish.freckles else 0.0,
        "eye shadow": float(rng.uniform(0.8, 1.2)) if wish.eye_shadow else 0.0,
        "lip redness": 3.4 if wish.lipstick else amounts.get("lip redness", 0.0) * 0.6,
        "lip darkness": 1.0 if wish.lipstick else amounts.get("lip darkness", 0.0) * 0.6,
        "creases": 2.0 if old else (-1.2 if young else 1.3),
        "under-eye darkness": _TIRED[str(wish.age)],
        "moles": 0.2, "blotches": 0.8 if old else -0.5,
        "lash line": 1.0 if woman else -0.4,
        "brow thickness": {"thick brows": 2.2, "thin brows": -1.5}.get(
            str(wish.brows), -0.3 if woman else 0.8),
        "brow density": {"thick brows": 1.2, "thin brows": -1.2}.get(
            str(wish.brows), 0.1 if woman else 0.5),
        "scalp tint": 2.6 if wish.hair == "none" and wish.scalp == "cropped hair" else (
            -2.4 if wish.hair == "none" else 1.0),
    }  # fmt: skip
    values = torch.tensor([amounts[name] for name in model.names if name in known])
    return (values / model.deviations)[None].float()


def mixed_weights(mix: Mapping[str, float]) -> Float[Tensor, " 52"]:
    """ARKit weights of names; one without Left and Right stands for both sides."""
    weights = torch.zeros(len(ARKIT_NAMES))
    for name, weight in mix.items():
        for each in (name,) if name in ARKIT_INDEX else (f"{name}Left", f"{name}Right"):
            weights[ARKIT_INDEX[each]] = weight
    return weights


def _face(wish: Wish, rng: np.random.Generator) -> Float[Tensor, " 52"]:
    weights = mixed_weights(_MOODS[str(wish.expression)]) * float(rng.uniform(0.9, 1.1))
    weights[ARKIT_INDEX["browOuterUpLeft"]] += float(rng.uniform(0, 0.12))
    for side in ("Left", "Right"):
        if wish.eyes_closed:
            weights[ARKIT_INDEX[f"eyeBlink{side}"]] = 1.0
    return weights.clamp(0, 1)


def _turned(wish: Wish, rng: np.random.Generator) -> tuple[float, float, float]:
    yaw = _TURNS[str(wish.turn)] + float(rng.normal(0, 3.0))
    pitch = {"raised": 15.0, "lowered": -14.0}.get(str(wish.nod), 0.0) + float(rng.normal(0, 2.5))
    roll = float(rng.choice([-13.0, 13.0])) if wish.tilt else float(rng.normal(0, 3.0))
    return yaw, pitch, roll


def gaze_at_camera(
    weights: Float[Tensor, " 52"], yaw_deg: float, pitch_deg: float
) -> Float[Tensor, " 52"]:
    """Weights with the eyes turned back by what the head turned away, as far as eyes go."""
    looking = weights.clone()
    away = max(-26.0, min(26.0, 0.85 * yaw_deg))
    for side, outward in (("Left", 1.0), ("Right", -1.0)):
        turn = -outward * away  # the subject's left is at +x
        looking[ARKIT_INDEX[f"eyeLookOut{side}"]] = max(turn, 0.0) / LOOK_DEG["Out"]
        looking[ARKIT_INDEX[f"eyeLookIn{side}"]] = max(-turn, 0.0) / LOOK_DEG["In"]
        way, other = ("Down", "Up") if pitch_deg > 0 else ("Up", "Down")
        looking[ARKIT_INDEX[f"eyeLook{way}{side}"]] = min(0.6 * abs(pitch_deg) / LOOK_DEG[way], 0.6)
        looking[ARKIT_INDEX[f"eyeLook{other}{side}"]] = 0.0
    return looking
