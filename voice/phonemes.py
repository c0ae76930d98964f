"""IPA, as speech engines write it, to ARPAbet-like symbols with stress.

ARPAbet names English phonemes; sounds of other languages take the symbol that looks most alike on
the lips, which is what they are used for here: front rounded vowels become UW, ER or OW, uvular
and velar fricatives HH, ejectives and clicks their plain stop.
"""

from __future__ import annotations

import unicodedata

SILENCE = "SIL"
VOWELS = frozenset({
    "AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW",
})  # fmt: skip
CONSONANTS = frozenset({
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T",
    "TH", "V", "W", "Y", "Z", "ZH",
})  # fmt: skip

# longest match first; a space parts the symbols that one IPA string stands for
_IPA = {
    # diphthongs, as eSpeak NG and (capitals) misaki write them
    "aɪ": "AY", "aɪə": "AY AH", "aɪɚ": "AY ER", "aʊ": "AW", "aʊə": "AW AH", "eɪ": "EY", "ɛɪ": "EY",
    "oʊ": "OW", "əʊ": "OW", "ɔɪ": "OY", "ɔø": "OY", "ɔʏ": "OY", "ʊə": "UH AH", "ɪə": "IH AH",
    "iə": "IY AH", "eə": "EH AH", "œy": "EY", "ʌy": "AY", "A": "EY", "I": "AY", "W": "AW",
    "Y": "OY", "O": "OW", "Q": "OW", "ᵊ": "AH", "ᵻ": "IH", "T": "D",
    # vowels: close, mid, open
    "i": "IY", "ɪ": "IH", "y": "UW", "ʏ": "UH", "ɨ": "IH", "ʉ": "UW", "ɯ": "IH", "u": "UW",
    "ʊ": "UH", "e": "EY", "ø": "OW", "ɘ": "IH", "ɵ": "UH", "ɤ": "AH", "o": "OW", "ə": "AH",
    "ɚ": "ER", "ɜ": "ER", "ɝ": "ER", "ɛ": "EH", "œ": "ER", "ʌ": "AH", "ɔ": "AO", "æ": "AE",
    "ɐ": "AH", "a": "AA", "ɶ": "AA", "ɑ": "AA", "ɒ": "AO", "ɞ": "ER",
    # consonants by place, from the lips inwards
    "p": "P", "b": "B", "m": "M", "ɸ": "F", "β": "V", "ɓ": "B", "ʘ": "P", "ʙ": "B", "pf": "P F",
    "ɱ": "M", "f": "F", "v": "V", "ʋ": "V", "ⱱ": "V", "w": "W", "ʍ": "W", "ɥ": "W",
    "θ": "TH", "ð": "DH", "t": "T", "d": "D", "ɾ": "D", "ʈ": "T", "ɖ": "D", "ɗ": "D", "ǀ": "T",
    "ts": "T S", "dz": "D Z", "ʦ": "T S", "ʣ": "D Z", "s": "S", "z": "Z", "ɬ": "L", "ɮ": "L",
    "n": "N", "ɳ": "N", "l": "L", "ɫ": "L", "ɭ": "L", "ʎ": "L", "ɺ": "L", "r": "R", "ɹ": "R",
    "ɻ": "R", "ɽ": "R", "ʁ": "HH", "ʀ": "HH", "ʃ": "SH", "ʒ": "ZH", "ʂ": "SH", "ʐ": "ZH",
    "ɕ": "SH", "ʑ": "ZH", "tʃ": "CH", "dʒ": "JH", "ʧ": "CH", "ʤ": "JH", "tɕ": "CH", "dʑ": "JH",
    "ʨ": "CH", "ʥ": "JH", "tʂ": "CH", "dʐ": "JH", "ꭧ": "CH", "ç": "Y", "ʝ": "Y", "j": "Y",
    "ɲ": "N Y", "c": "K", "ɟ": "G", "k": "K", "g": "G", "ɡ": "G", "ɠ": "G", "x": "HH", "ɣ": "G",
    "ŋ": "NG", "q": "K", "ɢ": "G", "ʛ": "G", "ɴ": "NG", "χ": "HH", "ħ": "HH", "ʕ": "HH",
    "h": "HH", "ɦ": "HH", "ɰ": "G",
}  # fmt: skip
_LONGEST = max(map(len, _IPA))
_PRIMARY, _SECONDARY = "ˈ", "ˌ"


def is_symbol(symbol: str) -> bool:
    """Whether this is SIL, a consonant, or a vowel with or without a stress of 0, 1 or 2."""
    if symbol == SILENCE or symbol in CONSONANTS or symbol in VOWELS:
        return True
    return symbol[-1:] in "012" and symbol[:-1] in VOWELS


def without_stress(symbol: str) -> str:
    """AA1 -> AA."""
    return symbol.rstrip("012")


def stress_of(symbol: str) -> int:
    """0 for consonants and unstressed vowels, 1 for primary, 2 for secondary stress."""
    return int(symbol[-1]) if symbol[-1:] in "12" else 0


def is_vowel(symbol: str) -> bool:
    """Whether the symbol is a vowel, stressed or not."""
    return without_stress(symbol) in VOWELS


def arpabet(ipa: str) -> tuple[str, ...]:
    """The symbols of an IPA string; length marks, tones, diacritics and unknown signs are dropped.

    A stress mark counts for the next vowel.
    """
    # decomposed, so that a nasal vowel is its plain vowel and a tilde; but ç is a letter
    plain = "".join(
        letter if letter == "ç" else unicodedata.normalize("NFD", letter) for letter in ipa
    )
    plain = "".join(
        letter for letter in plain if letter not in "ːˑ͜͡" and not unicodedata.combining(letter)
    )
    symbols: list[str] = []
    stress, at = 0, 0
    while at < len(plain):
        if plain[at] in (_PRIMARY, _SECONDARY):
            stress = 1 if plain[at] == _PRIMARY else 2
            at += 1
            continue
        for length in range(min(_LONGEST, len(plain) - at), 0, -1):
            found = _IPA.get(plain[at : at + length])
            if found is None:
                continue
            for symbol in found.split():
                if symbol in VOWELS:
                    symbol = f"{symbol}{stress}"
                    stress = 0
                symbols.append(symbol)
            break
        else:
            length = 1
        at += length
    return tuple(symbols)
