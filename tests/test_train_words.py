"""A text encoder is taught words, and which belong together, before a UNet hears it."""

from __future__ import annotations

from dataclasses import replace

from tiny_portrait import TINY

from diffusion.train_shapes import portrait_text_encoder, seeded
from diffusion.train_text import read_tokenizer, token_ids, write_tokenizer
from diffusion.train_words import frequent_pairs, said_so_far, teach_words


def test_it_learns_to_hear_words_and_who_has_them(tmp_path, generator):
    colours = ("red", "green", "blue")
    captions = [f"{a} hair, {b} shirt" for a in colours for b in colours]
    tokenizer = write_tokenizer(tmp_path, captions, 600)
    ids = token_ids(read_tokenizer(tmp_path, 12), captions)
    pairs = frequent_pairs(ids.tolist(), 100)
    mine = said_so_far(ids[:2], len(tokenizer), pairs)
    red, hair = tokenizer.convert_tokens_to_ids(["red</w>", "hair</w>"])
    green_shirt = tuple(tokenizer.convert_tokens_to_ids(["green</w>", "shirt</w>"]))
    red_hair = len(tokenizer) + pairs.index((red, hair))
    # start, red, hair, comma, ...: a word is known where it stands and ever after
    assert mine[:, :4, red].tolist() == [[0, 1, 1, 1]] * 2
    assert mine[:, :4, red_hair].tolist() == [[0, 0, 1, 1]] * 2
    assert mine[:, -1, len(tokenizer) + pairs.index(green_shirt)].tolist() == [0, 1]
    with seeded(0):
        encoder = portrait_text_encoder(replace(TINY, text_tokens=12), tokenizer)
    assert teach_words(encoder, ids, 300, batch=16, generator=generator) > 0.95
