"""Captions as what a UNet hears, with gradients; and the words of a tokenizer of our own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTokenizer

from assets.files import replacing
from diffusion.record import Pipeline

_START, _END = "<|startoftext|>", "<|endoftext|>"


def encode_captions(
    pipeline: Pipeline, captions: Sequence[str]
) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B P"] | None]:
    """What the pipeline's own `encode_prompt` gives, keeping gradients; pooled for SDXL alone.

    Captions longer than the encoders read are cut.
    """
    found, pooled = [], None
    is_xl = getattr(pipeline, "text_encoder_2", None) is not None
    for end in ("", "_2") if is_xl else ("",):
        tokenizer = getattr(pipeline, f"tokenizer{end}")
        encoder = getattr(pipeline, f"text_encoder{end}")
        ids = token_ids(tokenizer, captions).to(encoder.device)
        output = encoder(ids, output_hidden_states=is_xl)
        # SDXL was trained on the layer before the last (Podell et al. 2023, section 2.1)
        found.append(output.hidden_states[-2] if is_xl else output[0])
        pooled = output[0] if is_xl else None
    return torch.cat(found, dim=-1), pooled


def token_ids(tokenizer: Any, captions: Sequence[str]) -> Tensor:
    """Token numbers [B, N], padded to all that the encoder reads."""
    ids: Tensor = tokenizer(
        list(captions),
        padding="max_length",
        max_length=min(tokenizer.model_max_length, 77),
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids


def learn_words(captions: Sequence[str], most: int) -> tuple[dict[str, int], list[str]]:
    """CLIP's kind of vocabulary and merges from captions, at most that many tokens.

    Byte pairs are merged by count, first in the alphabet where counts are equal (Sennrich et al.
    2016), until every word seen twice is one token. Bytes never seen are tokens too, so that any
    text can be read.
    """
    letters = byte_letters()
    words = {letter: number for number, letter in enumerate(letters)}
    words |= {f"{letter}</w>": len(words) + number for number, letter in enumerate(letters)}
    if most < len(words) + 2:
        raise ValueError(f"{most} tokens are too few; give at least {len(words) + 2}")
    split = CLIPTokenizer(vocab={**words, _START: len(words), _END: len(words) + 1}, merges=[])
    backend = split.backend_tokenizer
    counts: Counter[str] = Counter()
    for text in captions:
        plain = backend.normalizer.normalize_str(text)
        counts.update(piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(plain))
    pieces = {word: [*word[:-1], f"{word[-1]}</w>"] for word, n in counts.items() if n > 1}
    merges: list[str] = []
    while len(words) + 2 < most:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            break
        first, second = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(f"{first} {second}")
        words.setdefault(first + second, len(words))
        pieces = {word: _merged(parts, first, second) for word, parts in pieces.items()}
    return {**words, _START: len(words), _END: len(words) + 1}, merges


def write_tokenizer(folder: Path, captions: Sequence[str], most: int) -> CLIPTokenizer:
    """CLIP's vocab.json and merges.txt, learnt from captions, and the tokenizer that they make."""
    words, merges = learn_words(captions, most)
    with replacing(folder / "vocab.json") as written:
        written.write_text(json.dumps(words, ensure_ascii=False) + "\n", encoding="utf-8")
    with replacing(folder / "merges.txt") as written:
        written.write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    return read_tokenizer(folder)


def read_tokenizer(folder: Path, tokens: int = 77) -> CLIPTokenizer:
    """The tokenizer of a folder that `write_tokenizer` wrote, for prompts of so many tokens.

    Or of a model's folder, where it is one file.
    """
    if (folder / "tokenizer.json").is_file():
        found: CLIPTokenizer = CLIPTokenizer.from_pretrained(str(folder), model_max_length=tokens)
        return found
    files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    return CLIPTokenizer(*files, model_max_length=tokens)


def byte_letters() -> list[str]:
    """A letter that prints for each of the 256 bytes, in CLIP's order: those that do stay."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in kept]
    return [*map(chr, kept), *(chr(256 + number) for number in range(len(others)))]


def _merged(parts: list[str], first: str, second: str) -> list[str]:
    done: list[str] = []
    for part in parts:
        if done and done[-1] == first and part == second:
            done[-1] = first + second
        else:
            done.append(part)
    return done
