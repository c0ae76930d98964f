"""The words that prompts are read by: English phrases and what each of them says.

Tables list phrases with commas between; the reader takes the longest phrase that fits.
"""

from __future__ import annotations

from functools import cache

Said = tuple[tuple[str, object], ...]  # (field of Wish or kind of word, value) each

# field of Wish -> value -> phrases that set it
_SETS: dict[str, dict[object, str]] = {
    "gender": {
        "woman": "woman, women, female, lady, girl, gal, feminine, she, her, mother, mum, mom, "
        "aunt, sister, daughter, queen, princess, actress, businesswoman, grandmother, grandma, "
        "granny, waitress, witch, bride, wife, schoolgirl, heroine",
        "man": "man, men, male, gentleman, gentlemen, guy, boy, masculine, he, his, him, father, "
        "dad, uncle, brother, son, king, prince, businessman, grandfather, grandpa, grandad, "
        "waiter, wizard, groom, husband, schoolboy, bloke, monk",
    },
    "age": {
        "child": "child, children, kid, toddler, boy, schoolboy, schoolgirl, little girl, "
        "little boy, childlike",
        "young": "young, youthful, teen, teenage, teenager, girl, student, youth, young adult, "
        "princess, prince",
        "middle-aged": "middle aged, middle age, mature, adult, grown up, midlife",
        "old": "old, elderly, aged, ageing, aging, senior, ancient, wrinkled, wrinkly, granny, "
        "grandmother, grandma, grandfather, grandpa, grandad, retired, wizened, pensioner, lined",
    },
    "hair": {
        "none": "bald, balding, hairless, bald head, bald headed",
        "short": "pixie cut, pixie, short back and sides, short cut",
        "bob": "bob, bob cut, bobbed, in a bob, shoulder length hair, medium hair, "
        "medium length hair, chin length hair, shoulder length, chin length",
        "fringe": "fringe, bangs, in a fringe, with bangs, fringed",
        "long": "long haired, flowing hair, waist length hair",
    },
    "scalp": {
        "no hair": "no hair, bald, hairless, bald head, bald headed",
        "cropped hair": "cropped hair, shaved head, shaven head, buzz cut, buzzcut, crew cut, "
        "shaven headed, cropped, skinhead",
    },
    "brows": {
        "thick brows": "thick brows, bushy brows, heavy brows, thick eyebrows, bushy eyebrows, "
        "heavy eyebrows, strong brows, strong eyebrows",
        "thin brows": "thin brows, thin eyebrows, plucked brows, plucked eyebrows, fine brows",
    },
    "beard": {
        "": "clean shaven, cleanshaven, beardless, smooth shaven, freshly shaven",
        "stubble": "stubble, stubbly, unshaven, five o'clock shadow, scruff, scruffy",
        "a moustache": "moustache, mustache, moustached, mustachioed, tache",
        "a beard": "beard, bearded, full beard, goatee, whiskers, bushy beard",
    },
    "eye_shadow": {True: "eye shadow, eyeshadow, smoky eyes, eyeliner, mascara"},
    "lipstick": {True: "lipstick, red lips, painted lips, lip gloss"},
    "make_up": {True: "make up, makeup, made up, cosmetics"},
    "freckles": {True: "freckles, freckled, freckle, freckly"},
    "glasses": {
        "glasses": "glasses, eyeglasses, spectacles, specs, bespectacled, eyewear, "
        "reading glasses, pair of glasses",
        "sunglasses": "sunglasses, shades, dark glasses, aviators, sun glasses",
    },
    "hat": {True: "hat, cap, beanie, beret, bonnet"},
    "expression": {
        "neutral": "neutral, expressionless, calm, serious, relaxed, serene, blank, stoic, "
        "deadpan, poker face, straight face, unsmiling, composed, peaceful, stern",
        "smiling": "smiling, smile, smiles, cheerful, happy, friendly, joyful, content, pleased, "
        "glad, merry, warm smile, kind, gentle smile, slight smile, delighted, jolly, joyous, "
        "good humoured, sunny disposition, cheery, kindly, soft smile",
        "laughing": "laughing, laugh, laughs, grinning, grin, beaming, big smile, broad smile, "
        "wide smile, toothy smile, ecstatic, overjoyed, smiling with teeth, hearty laugh",
        "speaking": "speaking, talking, singing, chatting",
        "surprised": "surprised, surprise, shocked, astonished, amazed, startled, stunned, "
        "astounded, wide eyed, gasping, shock",
        "angry": "angry, furious, mad, annoyed, enraged, cross, irritated, fierce, scowling, "
        "scowl, anger, glaring, grumpy, frowning, frown",
        "sad": "sad, unhappy, crying, gloomy, melancholy, melancholic, sorrowful, miserable, "
        "depressed, downcast, tearful, pouting, sadness, sorrow, mournful",
        "grimacing": "grimacing, grimace, making a face",
        "winking": "winking, wink, winks",
        "worried": "worried, anxious, afraid, scared, fearful, nervous, concerned, frightened, "
        "terrified, fear",
        "disgusted": "disgusted, disgust, sneering, sneer, contemptuous, revolted",
        "kissing": "kissing, kiss, duck face, puckered, puckered lips, pursed lips, blowing a kiss",
        "smirking": "smirking, smirk, half smile, crooked smile, mischievous, sly, cheeky",
    },
    "eyes_closed": {
        True: "eyes closed, closed eyes, sleeping, asleep, eyes shut, meditating, shut eyes",
        False: "eyes open, open eyes",
    },
    "turn": {
        "facing the camera": "facing the camera, facing camera, facing the viewer, frontal, "
        "facing forward, front view, frontal view, from the front, head on, straight on, "
        "looking at the camera, looking at camera, looking at viewer, looking at the viewer, "
        "looking straight ahead, full face, en face",
        "turned slightly to the left": "turned slightly to the left, turned slightly left, "
        "slightly turned to the left, looking left, looking to the left",
        "turned slightly to the right": "turned slightly to the right, turned slightly right, "
        "slightly turned to the right, looking right, looking to the right",
        "turned to the left": "turned to the left, turned left, facing left, head turned left, "
        "facing to the left, head turned to the left",
        "turned to the right": "turned to the right, turned right, facing right, "
        "head turned right, facing to the right, head turned to the right",
        "in profile to the left": "in profile to the left, left profile, profile to the left",
        "in profile to the right": "in profile to the right, right profile, profile to the right",
        "profile": "profile, in profile, side view, side on, from the side, side profile, "
        "profile view, in side view",
        "three-quarter": "three quarter view, three quarters view, 3/4 view, three quarter, "
        "three quarters, 3/4, three quarter profile, three quarter portrait, half profile, "
        "turned away, head turned, turned to the side, looking away, looking to the side",
        "seen from behind": "seen from behind, from behind, back view, from the back, rear view",
    },
    "nod": {
        "raised": "head raised, looking up, chin up, looking upward, looking upwards, gazing up, "
        "from below, low angle",
        "lowered": "head lowered, looking down, chin down, looking downward, looking downwards, "
        "gazing down, bowed head, from above, high angle",
    },
    "tilt": {True: "head tilted, tilted head, tilting head, head tilt, tilted"},
    "near": {
        True: "seen from very near, selfie, wide angle, fish eye, fisheye, from very near",
    },
    "light_level": {
        "dim": "candlelight, candlelit, moonlight, moonlit, low key, moody, at night, dimly lit, "
        "dark room, by candlelight",
        "bright": "sunlight, sunlit, sunny, high key, brightly lit, daylight, in the sun",
    },
    "light_tint": {
        "warm": "candlelight, candlelit, golden hour, sunlight, sunlit, sunny, sunset light, "
        "by candlelight, warm tones, warm colours, warm colors, firelight",
        "cool": "moonlight, moonlit, cool tones, cold tones, blue hour",
    },
    "light_kind": {
        "even": "overcast, ring light, flat lighting",
        "soft": "studio light, studio lighting, softbox, window light, diffuse light, golden hour, "
        "professional lighting",
        "hard": "dramatic light, dramatic lighting, chiaroscuro, spotlight, "
        "rembrandt lighting, in the sun, cinematic lighting",
    },
    "light_from": {
        "the left": "light from the left, lit from the left, light from left, lit from left, "
        "light on the left, side light, side lit, side lighting, rembrandt lighting, chiaroscuro",
        "the right": "light from the right, lit from the right, light from right, lit from right, "
        "light on the right",
        "the front": "light from the front, lit from the front, front light, ring light",
        "above": "light from above, lit from above, overhead light, top light",
    },
    "background": {
        "plain": "plain wall, plain backdrop",
        "studio": "studio, studio backdrop, photo studio",
        "gradient": "gradient, a gradient",
        "mottled": "mottled backdrop, mottled",
        "shapes": "coloured shapes, colored shapes, abstract shapes, geometric shapes",
        "brick": "brick wall, bricks",
        "grass": "grass", "gravel": "gravel", "coins": "coins",
        "stars": "stars, starry sky, space, outer space, galaxy, night sky",
        "microscope": "microscope's picture", "cat": "before a cat", "moon": "before the moon",
        "coffee": "cup of coffee", "page": "printed page", "text": "printed text",
        "retina": "before a retina", "rocket": "before a rocket",
        "park": "park, forest, woods, garden, nature, trees, jungle, woodland, outdoors, meadow, "
        "field, green park, in the woods, foliage",
        "city": "city at night, city lights, night city, city, street at night, street, bokeh, "
        "bokeh lights, downtown, cyberpunk city, cityscape, urban, tokyo, neon lights",
        "sea": "sea, beach, ocean, seaside, coast, shore, lake, by the sea, at the beach",
        "sky": "sky, clouds, blue sky, cloudy sky",
        "sunset": "sunset, sunrise, dusk, dawn, at sunset, evening sky",
        "snow": "snow, snowy, winter, snowfall, mountains, snowy mountains",
        "room": "room, living room, indoors, office, cafe, café, library, kitchen, interior, "
        "restaurant, bar, classroom",
    },
    "blurred": {
        True: "out of focus, blurred background, blurry background, depth of field, "
        "shallow depth of field, shallow focus, blurred",
    },
    "grain": {True: "grainy, film grain, noisy, grain"},
    "style": {
        "realistic": "realistic, photorealistic, photo realistic, photograph, photo, lifelike, "
        "hyperrealistic, photography, photographic, realistic style, cinematic",
        "anime": "anime, anime style, manga, manga style, cel shaded, cel shading, cartoon, toon, "
        "comic, comic book, cel, cell shaded, cartoon style, comic style, cartoonish, "
        "cel shaded anime, anime screenshot, ghibli style, graphic novel",
        "oil": "oil painting, oil, oil paint, oils, painting, painted, oil on canvas, painterly, "
        "impressionist, impressionism, van gogh, oil portrait, impasto, renaissance painting, "
        "acrylic, acrylic painting, old master",
        "pencil": "pencil, pencil drawing, pencil sketch, sketch, sketched, charcoal, graphite, "
        "charcoal drawing, drawing, drawn, pen and ink, line art, hand drawn, crosshatching",
        "watercolour": "watercolour, watercolor, watercolour painting, watercolor painting, "
        "aquarelle, gouache, water colour, water color",
        "clay": "clay, clay sculpture, sculpture, statue, bust, claymation, plasticine, plaster, "
        "terracotta, clay render, sculpted, stone statue, marble bust",
        "neon": "neon, neon style, synthwave, cyberpunk, vaporwave, glowing lines, tron, "
        "neon glow, cyberpunk style, retrowave",
    },
}  # fmt: skip

# what colours, sizes and shades are said of
NOUNS = {
    "hair": "bob, bob cut, fringe, bangs, pixie, pixie cut, hair, haired, locks, "
    "tresses, hairdo, haircut, hairstyle",
    "eyes": "eyes, eye, eyed, irises, iris, gaze",
    "skin": "skin, skinned, complexion, complexioned, skin tone, toned skin",
    "clothes": "shirt, t shirt, tshirt, tee, top, clothes, clothing, pullover, sweater, jumper",
    "hat": "hat, cap, beanie, beret, bonnet, hatted",
    "background": "background, backdrop, backgrounds, plain wall, wall, plain backdrop",
    "light": "light, lighting, lit, illumination, lights",
    "beard": "beard, bearded, full beard, moustache, mustache, stubble, goatee",
    "lips": "lips, lip, lipped, lipstick",
    "brows": "brows, eyebrows, brow, eyebrow",
    "nose": "nose, nosed", "face": "face, faced", "jaw": "jaw, jawed, jawline",
    "chin": "chin", "cheeks": "cheeks, cheeked", "cheekbones": "cheekbones",
    "forehead": "forehead", "ears": "ears, eared", "mouth": "mouth", "neck": "neck",
    "head": "head",
}  # fmt: skip
# garments that are drawn as a plain shirt: their colour is honoured, their cut is reported
GARMENTS = (
    "dress, jacket, suit, hoodie, coat, blouse, uniform, kimono, robe, cardigan, vest, armour, "
    "armor, turtleneck, leather jacket, polo, scarf, tie, gown, tunic, blazer"
)
TONES = "dark, light, pale, deep, bright, very dark, very light, very pale"
# (noun, adjective) -> sliders of flame.sliders
SHAPES: dict[str, dict[str, tuple[tuple[str, float], ...]]] = {
    "nose": {
        "big": (("nose width", 1.2), ("nose length", 1.2), ("nose protrusion", 1.2)),
        "small": (("nose width", -1.2), ("nose length", -1.2), ("nose protrusion", -1.0)),
        "long": (("nose length", 2.2),), "short": (("nose length", -2.2),),
        "wide": (("nose width", 2.2),), "narrow": (("nose width", -2.2),),
        "upturned": (("nose tip up", 2.2),), "hooked": (("nose hump", 2.5),),
    },
    "face": {
        "round": (("face length", -1.6), ("cheek fullness", 2.0), ("jaw width", 0.6)),
        "long": (("face length", 2.0), ("face width", -0.8)),
        "wide": (("face width", 2.0),), "narrow": (("face width", -2.0),),
        "chubby": (("cheek fullness", 2.5), ("jaw width", 1.2), ("neck width", 1.2)),
        "square": (("jaw width", 1.8), ("chin width", 1.5)),
    },
    "jaw": {
        "square": (("jaw width", 2.0), ("chin width", 1.5)), "strong": (("jaw width", 1.8),),
        "wide": (("jaw width", 2.0),), "narrow": (("jaw width", -2.0),),
    },
    "chin": {
        "pointed": (("chin width", -2.0), ("chin length", 1.0)), "long": (("chin length", 2.0),),
        "short": (("chin length", -2.0),), "strong": (("chin protrusion", 1.8),),
        "small": (("chin length", -1.4), ("chin protrusion", -1.2)),
    },
    "eyes": {
        "big": (("eye size", 2.2), ("eye opening", 1.2)), "small": (("eye size", -2.0),),
        "narrow": (("eye opening", -2.2),), "deep set": (("eye depth", 2.0),),
        "wide set": (("eye spacing", 2.0),), "close set": (("eye spacing", -2.0),),
    },
    "lips": {
        "full": (("upper lip fullness", 1.8), ("lower lip fullness", 1.8)),
        "thin": (("upper lip fullness", -1.8), ("lower lip fullness", -1.8)),
    },
    "mouth": {"wide": (("mouth width", 2.0),), "small": (("mouth width", -2.0),),
              "big": (("mouth width", 2.0),)},
    "cheeks": {"chubby": (("cheek fullness", 2.4),), "hollow": (("cheek fullness", -2.4),),
               "full": (("cheek fullness", 2.0),), "round": (("cheek fullness", 2.0),)},
    "cheekbones": {"high": (("cheekbone height", 1.6), ("cheekbone prominence", 1.4)),
                   "strong": (("cheekbone prominence", 2.0),)},
    "forehead": {"high": (("forehead height", 2.0),), "wide": (("forehead width", 2.0),),
                 "low": (("forehead height", -2.0),)},
    "ears": {"big": (("ear size", 2.2), ("ear protrusion", 1.2)), "small": (("ear size", -2.0),),
             "protruding": (("ear protrusion", 2.5),)},
    "neck": {"thick": (("neck width", 1.8),), "thin": (("neck width", -1.8),),
             "slender": (("neck width", -1.8),)},
    "head": {"big": (("head size", 2.0),), "small": (("head size", -2.0),)},
}  # fmt: skip
_SAME = {  # synonyms of the adjectives above
    "big": "big, large, huge, great", "small": "small, little, tiny, petite", "long": "long",
    "short": "short", "wide": "wide, broad, flat", "narrow": "narrow, slim", "round": "round",
    "chubby": "chubby, plump, fat, puffy", "square": "square, angular", "strong": "strong, firm, "
    "prominent, chiselled, chiseled, defined", "pointed": "pointed, pointy, sharp",
    "full": "full, plump lips, plumper", "thin": "thin", "thick": "thick, bushy", "high": "high",
    "low": "low", "hollow": "hollow, sunken", "upturned": "upturned, button, snub, turned up",
    "hooked": "hooked, aquiline, roman", "deep set": "deep set", "wide set": "wide set",
    "close set": "close set", "protruding": "protruding, sticking out", "slender": "slender",
    "striped": "striped, stripes, stripy", "warm": "warm, golden", "cool": "cool, cold, bluish",
    "soft": "soft, gentle, diffused", "hard": "hard, harsh, dramatic", "even": "even, flat",
    "dim": "dim, faint, moody", "fair": "fair, very fair, porcelain, ivory", "plain": "plain",
    "tanned": "tanned, tan, sun tanned, suntanned, bronzed", "ebony": "ebony",
    "medium": "medium", "blurred": "blurry",
}  # fmt: skip
_SKIPPED = (
    "or, nor, but, while, plus, being, &, a, an, the, of, with, and, in, on, at, is, are, "
    "has, have, having, "
    "wearing, wears, worn, who, "
    "whose, person, people, portrait, picture, image, face, headshot, "
    "head and shoulders, before, "
    "against, behind, front, very, some, style, styled, look, looks, looking, dressed, s, "
    "that, to, "
    "by, as, for, from, this, both, his own, one, somebody, someone, human, expression, colour, "
    "color, colored, coloured, rendered, render, closeup, close up, view, head shot, "
    "self portrait, "
    "year, years, featuring, shows, showing, in front of, it, its, their, be, please, "
    "make, create, draw me, give me, adult person, character, avatar, head, illustration, art, "
    "artwork, in the style of, dyed, individual, model, pair"
)
_PLACES = {  # of light; some of them are also said of the head
    "the left": "from the left, from left, on the left",
    "the right": "from the right, from right, on the right",
    "the front": "from the front",
    "above": "from above, from the top, overhead",
}
NEGATIONS = "no, not, without, non, never, minus, isn't, neither, lacking, free of, sans"


def phrases(listed: str) -> list[str]:
    """The entries of one table row."""
    return [entry.strip() for entry in listed.split(",") if entry.strip()]


@cache
def lexicon() -> dict[tuple[str, ...], Said]:
    """Every phrase, as words, and all that it says."""
    from deca.prompt_colors import COLOR_WORDS

    found: dict[tuple[str, ...], list[tuple[str, object]]] = {}

    def enter(listed: str, kind: str, value: object) -> None:
        for phrase in phrases(listed):
            found.setdefault(tuple(phrase.split()), []).append((kind, value))

    for name, values in _SETS.items():
        for value, listed in values.items():
            enter(listed, name, value)
    for noun, listed in NOUNS.items():
        enter(listed, "noun", noun)
    enter(GARMENTS, "garment", "clothes")
    enter(TONES, "tone", None)
    for word, listed in _SAME.items():
        enter(listed, "size", word)
    for word in COLOR_WORDS:
        enter(word, "color", word)
    enter(NEGATIONS, "not", None)
    for place, listed in _PLACES.items():
        enter(listed, "place", place)
    for phrase in phrases(_SKIPPED):
        found.setdefault(tuple(phrase.split()), []).append(("skip", None))
    return {phrase: tuple(said) for phrase, said in found.items()}


LONGEST = 5  # words of a phrase
