"""Words for pictures of random people: colours, poses, light, and captions made of them."""

from __future__ import annotations

import colorsys
import math

from flame.light import SH_CONSTANTS, Lights

Attributes = dict[str, str | float | bool]

# hue in degrees from which a word holds, until the next
_HUES = (
    (0, "red"),
    (15, "orange"),
    (45, "yellow"),
    (70, "green"),
    (165, "teal"),
    (195, "blue"),
    (255, "purple"),
    (295, "pink"),
    (340, "red"),
)
_GREYS = ((0.12, "black"), (0.35, "dark grey"), (0.62, "grey"), (0.85, "light grey"))
# styles of deca.synth_styles as captions tell them; what looks real is not told
STYLE_WORDS = {
    "anime": "cel-shaded anime", "oil": "oil painting", "pencil": "pencil drawing",
    "watercolour": "watercolour painting", "clay": "clay sculpture", "neon": "neon style",
}  # fmt: skip


def color_word(rgb: tuple[int, int, int]) -> str:
    """An everyday name of an sRGB colour, 0..255."""
    red, green, blue = (min(max(channel / 255, 0.0), 1.0) for channel in rgb)
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    if saturation < 0.16 or value < 0.12:
        return next((word for most, word in _GREYS if value < most), "white")
    degrees = 360 * hue
    word = next(name for least, name in reversed(_HUES) if degrees >= least)
    if value < 0.65 and word in ("orange", "yellow"):
        return "brown" if word == "orange" else "olive"
    if saturation < 0.35 and value > 0.8:
        return f"pale {word}"
    return f"dark {word}" if value < 0.4 else word


def pose_word(yaw: float, pitch: float, roll: float) -> str:
    """How a head is turned, degrees; left and right are the viewer's."""
    side = "right" if yaw > 0 else "left"
    turn = abs(yaw)
    if turn < 10:
        word = "facing the camera"
    elif turn < 30:
        word = f"turned slightly to the {side}"
    elif turn < 60:
        word = f"turned to the {side}"
    elif turn < 110:
        word = f"in profile to the {side}"
    else:
        word = "seen from behind"
    if abs(pitch) > 12 and turn < 110:
        word += ", head raised" if pitch > 0 else ", head lowered"
    if abs(roll) > 12 and turn < 60:
        word += ", head tilted"
    return word


def light_word(lights: Lights, softness: float, exposure: float) -> str:
    """How one scene is lit; `softness` is the tangent of half the key light's breadth."""
    sky = float(lights.sh[0, 0].mean()) * SH_CONSTANTS[0]
    # directional lights but the last, the rim, are the key light
    strength = lights.colours[0, :-1].sum(0)
    key, toward = float(strength.mean()), lights.directions[0, 0]
    level = exposure * (sky + key)
    mood = "dim " if level < 0.7 else ("bright " if level > 2.6 else "")
    colour = strength + lights.sh[0, 0] * SH_CONSTANTS[0]
    ratio = float(colour[0] / colour[2].clamp(min=1e-6))
    mood += "warm " if ratio > 1.25 else ("cool " if ratio < 0.8 else "")
    if key < 0.6 * sky:
        return f"{mood}even light"
    kind = "soft" if softness > 0.15 or key < sky else "hard"
    azimuth = math.degrees(math.atan2(float(toward[0]), float(toward[2])))
    if float(toward[1]) > 0.8:
        place = "above"
    elif abs(azimuth) < 20:
        place = "the front"
    else:
        place = "the right" if azimuth > 0 else "the left"
    return f"{mood}{kind} light from {place}"


def with_article(words: str) -> str:
    """The words after "a" or "an"."""
    return f"{'an' if words[:1] in 'aeiou' else 'a'} {words}"


def caption(attributes: Attributes) -> str:
    """One English sentence about a picture; says nothing of what is not known or not seen."""
    seen = attributes.get("visible")

    def is_seen(part: str) -> bool:
        return seen is None or part in str(seen).split()

    mood, _, lids = str(attributes["expression"]).partition(", ")
    who = " ".join(str(word) for word in (attributes.get("age"), mood) if word)
    who = with_article(f"{who} person".replace("neutral ", ""))
    words = f"{who} with {attributes['skin']} skin"
    hair = attributes["hair"]
    if hair == "none":
        words += f", {attributes.get('scalp', 'no hair')}" if not attributes["hat"] else ""
    elif is_seen("hair"):
        colour = attributes["hair colour"]
        cut = hair in ("bob", "fringe")
        words += f", {colour} hair in a {hair}" if cut else f", {hair} {colour} hair"
    if lids:
        words += f", {lids}"
    elif is_seen("eyes") and not attributes.get("sunglasses"):
        words += f", {attributes['eyes']} eyes"
    for trait in ("brows", "beard", "make-up", "freckles"):
        if attributes.get(trait):
            words += f", {attributes[trait]}"
    worn = []
    if attributes["glasses"] and is_seen("glasses"):
        worn.append("sunglasses" if attributes.get("sunglasses") else "glasses")
    if attributes["hat"] and is_seen("hat"):
        hat = f"{attributes['hat colour']} hat" if attributes.get("hat colour") else "hat"
        worn.append(with_article(hat))
    if attributes.get("clothes") and is_seen("clothes"):
        worn.append(with_article(str(attributes["clothes"])))
    if worn:
        words += ", wearing " + " and ".join([*filter(None, [", ".join(worn[:-1])]), worn[-1]])
    for name, before in (
        ("pose", ""), ("occluder", "partly covered by "), ("view", ""), ("light", "in "),
        ("background", "before "), ("grain", ""),
    ):  # fmt: skip
        if attributes.get(name):
            words += f", {before}{attributes[name]}"
    style = str(attributes.get("style", ""))
    return f"{words}, {STYLE_WORDS[style]}" if style in STYLE_WORDS else words
