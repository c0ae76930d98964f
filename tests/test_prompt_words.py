"""Prompts written by hand against what they say, and the generator's captions read back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deca.prompt_colors import CLOTH, COLOR_WORDS, meaning
from deca.prompt_lexicon import LONGEST, NOUNS, SHAPES, lexicon
from deca.prompt_wish import (
    AGES,
    BEARDS,
    GENDERS,
    GLASSES,
    HAIRS,
    MOODS,
    SCALPS,
    SKINS,
    STYLES,
    Wish,
)
from deca.prompt_words import read_prompt
from deca.synth_dress import _cloth, _hair_color
from deca.synth_light import draw_lamp, spread_key
from deca.synth_people import draw_face, draw_lights, draw_turn
from deca.synth_scene import draw_background, random_color
from deca.synth_skin import Skins
from deca.synth_words import caption, color_word, light_word, pose_word
from flame.hair_texture import HAIR_COLORS
from flame.outfit import load_outfit
from flame.paint_eye import IRIS_COLORS

# prompt -> what is named, and the words that are not understood
TABLE = {
    "a cheerful woman with silver hair, anime style": (
        {"gender": "woman", "hair_color": "silver", "expression": "smiling", "style": "anime"}, ()
    ),
    "old bearded man, glasses, dark skin, three-quarter view, warm light": (
        {"gender": "man", "age": "old", "beard": "a beard", "glasses": "glasses",
         "skin": "dark brown", "turn": "three-quarter", "light_tint": "warm"}, ()
    ),
    "一位银发的开朗女性，动漫风格": (
        {"gender": "woman", "hair_color": "silver", "expression": "smiling", "style": "anime"}, ()
    ),
    "戴眼镜的老爷爷，白色的头发，没有胡子，油画": (
        {"gender": "man", "age": "old", "hair_color": "white", "beard": "",
         "glasses": "glasses", "style": "oil"}, ()
    ),
    "年轻男子，黑色短发，绿眼睛，穿红色衬衫，素描": (
        {"gender": "man", "age": "young", "hair": "short", "hair_color": "black",
         "eyes": "green", "clothes_color": "red", "style": "pencil"}, ()
    ),
    "bald man without beard, no glasses": (
        {"gender": "man", "hair": "none", "scalp": "no hair", "beard": "", "glasses": ""}, ()
    ),
    "no glasses or hat, blue-eyed boy": (
        {"gender": "man", "age": "child", "eyes": "blue", "glasses": "", "hat": False}, ()
    ),
    "without glasses and with blue eyes": ({"glasses": "", "eyes": "blue"}, ()),
    "no glasses and a red hat": ({"glasses": "", "hat": True, "hat_color": "red"}, ()),
    "young woman, not smiling": (
        {"gender": "woman", "age": "young", "expression": "neutral"}, ()
    ),
    "a 25-year-old blonde girl with green eyes and freckles": (
        {"gender": "woman", "age": "young", "hair_color": "blonde", "eyes": "green",
         "freckles": True}, ()
    ),
    "woman in her 40s, hair is long and pink, blue shirt, park background": (
        {"gender": "woman", "age": "middle-aged", "hair": "long", "hair_color": "pink",
         "clothes_color": "blue", "background": "park"}, ()
    ),
    "grandmothers with short gray hair and sunglasses, watercolor painting": (
        {"gender": "woman", "age": "old", "hair": "short", "hair_color": "grey",
         "glasses": "sunglasses", "style": "watercolour"}, ()
    ),
    "black man, platinum blond short hair, city at night": (
        {"gender": "man", "skin": "very dark", "hair": "short", "hair_color": "platinum",
         "background": "city"}, ()
    ),
    "auburn bob, soft light from the left, red lipstick": (
        {"hair": "bob", "hair_color": "auburn", "light_kind": "soft", "light_from": "the left",
         "lipstick": True}, ()
    ),
    "a silver bob, pink fringe": ({"hair": "fringe", "hair_color": "pink"}, ()),
    "light brown hair, light skin, warm soft light": (
        {"hair_color": "light brown", "skin": "fair", "light_tint": "warm",
         "light_kind": "soft"}, ()
    ),
    "an angry man in a navy and white striped t-shirt before a plain dark green wall": (
        {"gender": "man", "expression": "angry", "clothes_color": "dark blue",
         "stripes": "white", "background": "plain", "background_color": "dark green"}, ()
    ),
    "masterpiece, best quality, (silver hair:1.3), curly hair": (
        {"hair_color": "silver"}, ("masterpiece", "best quality", "curly")
    ),
    "a man with a long white beard": (
        {"gender": "man", "beard": "a beard", "hair_color": "white"}, ("long",)
    ),
    "woman in a leather jacket": ({"gender": "woman"}, ("leather jacket",)),
    "big nose, full lips": (
        {"sliders": (("nose width", 1.2), ("nose length", 1.2), ("nose protrusion", 1.2),
                     ("upper lip fullness", 1.8), ("lower lip fullness", 1.8))}, ()
    ),
    "a purple elephant riding a bicycle": ({}, ("purple elephant riding", "bicycle")),
    "\U0001f642 مرحبا": ({}, ("\U0001f642 مرحبا",)),
}  # fmt: skip


@pytest.mark.parametrize("prompt", TABLE)
def test_a_prompt_says_what_a_person_reads_in_it(prompt):
    named, unknown = TABLE[prompt]
    reading = read_prompt(prompt)
    assert reading.wish.named() == named
    assert reading.unknown == unknown


def test_an_empty_prompt_is_refused_and_a_long_one_read():
    with pytest.raises(ValueError, match="the prompt is empty"):
        read_prompt("  \n ")
    long = read_prompt("silver hair, " * 1000 + "blorp")
    assert long.wish == Wish(hair_color="silver") and long.unknown == ("blorp",)


@given(st.text(min_size=1, max_size=80).filter(str.strip))
def test_any_text_is_read_without_failing(text):
    read_prompt(text)


@given(
    st.lists(
        st.sampled_from(["a smiling woman", "silver hair", "no glasses", "blue eyes", "bald",
                         "a red hat", "anime style", "fair skin", "dim light"]),
        min_size=1, unique=True,
    )
)  # fmt: skip
def test_clauses_say_the_same_in_any_order(clauses):
    there, back = read_prompt(", ".join(clauses)), read_prompt(", ".join(reversed(clauses)))
    assert not there.unknown and not back.unknown
    if not {"bald", "silver hair"} <= set(clauses):
        assert there.wish == back.wish


def test_every_word_stands_for_something_the_generator_has():
    sets: dict[str, set[object]] = {}
    for phrase, said in lexicon().items():
        assert len(phrase) <= LONGEST, phrase
        for name, value in said:
            sets.setdefault(name, set()).add(value)
    known = {
        "gender": GENDERS, "age": AGES, "hair": HAIRS, "scalp": SCALPS, "beard": BEARDS,
        "glasses": GLASSES, "expression": MOODS, "style": STYLES,
    }  # fmt: skip
    for name, values in known.items():
        assert sets[name] <= set(values), name
    assert set(SHAPES) <= set(NOUNS)
    for word in COLOR_WORDS:
        assert meaning(word, "cloth") in {None, *CLOTH}
        assert meaning(word, "hair") in {None, *HAIR_COLORS}
        assert meaning(word, "eyes") in {None, *IRIS_COLORS}
        assert meaning(word, "skin") in {None, *SKINS}
        assert any(meaning(word, of) for of in ("cloth", "hair", "eyes", "skin")), word


def test_colours_of_cloth_are_called_what_they_are():
    assert {color_word(rgb) for rgb in CLOTH.values()} == set(CLOTH)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        word = color_word(random_color(rng))
        assert meaning(word, "cloth") == word


def random_attributes(skins: Skins, seed: int) -> dict[str, str | float | bool]:
    """What `deca.synth` writes of one picture, without drawing it."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    codes = skins.model.sample(1, generator)
    hair = str(rng.choice(["none", "short", "bob", "fringe", "long"]))
    lamp, lights = draw_lamp(rng), draw_lights(generator=generator)
    turn = draw_turn(generator=generator).tolist()
    glasses = bool(rng.random() < 0.4)
    hat = bool(rng.random() < 0.3)
    words = {
        **skins.words(codes), "age": "aged" if rng.random() < 0.3 else "",
        "hair": hair, "hair colour": _hair_color(rng) if hair != "none" else "none",
        "eyes": str(rng.choice(list(IRIS_COLORS))), "clothes": _cloth(rng)[1],
        "hat": hat, "glasses": glasses, "expression": draw_face(generator=generator).word,
        "pose": pose_word(*turn), "background": draw_background(16, rng)[1],
        "light": light_word(spread_key(lights, lamp), lamp.breadth, float(rng.uniform(0.8, 2))),
        "view": "seen from very near" if rng.random() < 0.2 else "",
        "grain": "grainy" if rng.random() < 0.2 else "",
    }  # fmt: skip
    if hat:
        words["hat colour"] = color_word(random_color(rng))
    if glasses:
        words["sunglasses"] = bool(rng.random() < 0.4)
    return words


def expected_of(words: dict[str, str | float | bool]) -> dict[str, object]:
    """The attributes that the caption tells, in the reader's words."""
    mood, _, lids = str(words["expression"]).partition(", ")
    found: dict[str, object] = {"skin": words["skin"], "glasses": None}
    found["age"] = "old" if words["age"] else None
    found["expression"] = None if mood == "neutral" else mood  # a caption leaves it out
    found["eyes_closed"] = True if lids else None
    hidden = words["glasses"] and words.get("sunglasses")
    found["eyes"] = None if lids or hidden else words["eyes"]
    if words["hair"] != "none":
        found["hair"], found["hair_color"] = words["hair"], words["hair colour"]
    elif not words["hat"]:
        found["hair"], found["scalp"] = "none", words["scalp"]
    for name, key in (("brows", "brows"), ("beard", "beard")):
        found[name] = words[key] or None
    found["eye_shadow"] = True if words["make-up"] else None
    found["freckles"] = True if words["freckles"] else None
    if words["glasses"]:
        found["glasses"] = "sunglasses" if words["sunglasses"] else "glasses"
    found["hat"] = True if words["hat"] else None
    found["hat_color"] = words.get("hat colour")
    first, _, second = str(words["clothes"]).removesuffix(" shirt").partition(" and ")
    found["clothes_color"], found["stripes"] = first, second.removesuffix(" striped") or None
    turn, _, rest = str(words["pose"]).partition(", ")
    found["turn"] = turn
    found["nod"] = "raised" if "raised" in rest else ("lowered" if "lowered" in rest else None)
    found["tilt"] = True if "tilted" in rest else None
    found["near"] = True if words["view"] else None
    found["grain"] = True if words["grain"] else None
    light = str(words["light"])
    for name, choices in (
        ("light_level", ("dim", "bright")), ("light_tint", ("warm", "cool")),
        ("light_kind", ("even", "soft", "hard")),
        ("light_from", ("the left", "the right", "the front", "above")),
    ):  # fmt: skip
        found[name] = next((choice for choice in choices if choice in light), None)
    scene = str(words["background"])
    found["blurred"] = True if "out of focus" in scene else None
    if "plain" in scene:
        found["background"] = "plain"
        found["background_color"] = scene.removeprefix("a plain ").removesuffix(" wall")
    else:
        names = {
            "a gradient": "gradient", "a mottled": "mottled", "coloured shapes": "shapes",
            "a brick wall": "brick", "a microscope": "microscope", "a cat": "cat",
            "a cup of": "coffee", "coins": "coins", "grass": "grass", "gravel": "gravel",
            "stars": "stars", "the moon": "moon", "a printed page": "page", "a retina": "retina",
            "a rocket": "rocket", "printed text": "text",
        }  # fmt: skip
        found["background"] = next(v for k, v in names.items() if scene.startswith(k))
    return {name: value for name, value in found.items() if value is not None}


def test_captions_are_read_back_as_the_attributes_they_were_written_of():
    skins = Skins(load_outfit().albedo)
    for seed in range(200):
        words = random_attributes(skins, seed)
        written = caption(words)
        reading = read_prompt(written)
        assert reading.unknown == (), written
        assert reading.wish.named() == expected_of(words), written
