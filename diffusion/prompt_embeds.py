"""Prompts as the numbers that a model of CLIP text encoders takes: weighted, and of any length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion.prompt import Span, parse_weights
from diffusion.record import Pipeline

_BACKTRACK = 20  # tokens: a clause that would be cut within so many of its comma moves on whole
_HEAVIEST = 100.0
_Token: TypeAlias = tuple[int, float]


@dataclass(frozen=True, eq=False)
class Embeds:
    """What a UNet is told of one prompt; `pooled` only for SDXL."""

    tokens: Float[Tensor, "1 N D"]
    pooled: Float[Tensor, "1 P"] | None = None


def takes_weights(pipeline: Pipeline) -> bool:
    """Whether a pipeline's text goes through CLIP into a UNet, so that `embed` speaks for it."""
    encoders = _encoders(pipeline)
    return (
        getattr(pipeline, "unet", None) is not None
        and bool(encoders)
        and all(hasattr(_inner(encoder), "final_layer_norm") for _, encoder in encoders)
    )


def embed(
    pipeline: Pipeline, text: str, *, clip_skip: int = 1, as_negative: bool = False
) -> Embeds:
    """The embeddings of a prompt in the web UI's weight grammar, 77 tokens for each 75 of its own.

    A part between two commas is not cut where it can be helped, and `BREAK` starts the next 75.
    Weights scale the vectors of their words, and each chunk keeps its mean. `clip_skip` counts as
    the web UI does: 1 is the last layer, 2 the one before; SDXL is trained on the one before the
    last, so 1 and 2 are the same there. An empty negative of SDXL is zero where the model says so.
    """
    encoders = _encoders(pipeline)
    has_pooled = getattr(pipeline, "text_encoder_2", None) is not None
    chunks = [
        _chunks(pipeline, tokenizer, parse_weights(text), _room(tokenizer))
        for tokenizer, _ in encoders
    ]
    count = max(len(each) for each in chunks)
    found: list[Tensor] = []
    pooled: Tensor | None = None
    with torch.no_grad():
        for (tokenizer, encoder), pieces in zip(encoders, chunks, strict=True):
            padded = pieces + [[]] * (count - len(pieces))
            rows = [_encode(tokenizer, encoder, piece, clip_skip, has_pooled) for piece in padded]
            found.append(torch.cat([tokens for tokens, _ in rows], dim=1))
            if rows[0][1].ndim == 2:  # a projected encoder sums up the first chunk
                pooled = rows[0][1]
    embeds = Embeds(torch.cat(found, dim=-1), pooled if has_pooled else None)
    zeroed = getattr(pipeline.config, "force_zeros_for_empty_prompt", False)
    if as_negative and not text.strip() and zeroed and embeds.pooled is not None:
        return Embeds(torch.zeros_like(embeds.tokens), torch.zeros_like(embeds.pooled))
    return embeds


def lengthen(pipeline: Pipeline, embeds: Embeds, tokens: int, *, clip_skip: int = 1) -> Embeds:
    """The same embeddings followed by those of nothing, up to a number of tokens."""
    missing = tokens - embeds.tokens.shape[1]
    if missing <= 0:
        return embeds
    empty = embed(pipeline, "", clip_skip=clip_skip).tokens
    if not embeds.tokens.any():  # a zeroed negative stays one
        empty = torch.zeros_like(empty)
    repeats = math.ceil(missing / empty.shape[1])
    padding = empty.repeat(1, repeats, 1)[:, :missing]
    return Embeds(torch.cat([embeds.tokens, padding], dim=1), embeds.pooled)


def _encoders(pipeline: Pipeline) -> list[tuple[Any, Any]]:
    pairs = [
        (getattr(pipeline, f"tokenizer{end}", None), getattr(pipeline, f"text_encoder{end}", None))
        for end in ("", "_2", "_3")
    ]
    return [(tokenizer, encoder) for tokenizer, encoder in pairs if encoder is not None]


def _inner(encoder: Any) -> Any:
    """The transformer of a text encoder, which has one more shell in some versions."""
    return getattr(encoder, "text_model", encoder)


def _room(tokenizer: Any) -> int:
    return int(min(tokenizer.model_max_length, 77)) - 2


def _chunks(
    pipeline: Pipeline, tokenizer: Any, stretches: tuple[tuple[Span, ...], ...], room: int
) -> list[list[_Token]]:
    """Tokens with weights, at most `room` in each chunk, at least one chunk."""
    comma = tokenizer.convert_tokens_to_ids(",</w>")
    convert = getattr(pipeline, "maybe_convert_prompt", None)  # textual inversions of many vectors
    done: list[list[_Token]] = []
    for stretch in stretches:
        chunk: list[_Token] = []
        last_comma = -1
        for span in stretch:
            if not abs(span.weight) <= _HEAVIEST:
                raise ValueError(
                    f"{span.text[:40]!r} has the weight {span.weight:.3g}; use one from 0 to 2"
                )
            words = span.text if convert is None else convert(span.text, tokenizer)
            ids = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(words))
            for token in ids:
                if len(chunk) == room:
                    cut = last_comma + 1
                    moved = cut if cut > 0 and room - cut <= _BACKTRACK else room
                    done.append(chunk[:moved])
                    chunk = chunk[moved:]
                    last_comma = -1
                if token == comma:
                    last_comma = len(chunk)
                chunk.append((token, span.weight))
        done.append(chunk)
    return done


def _encode(
    tokenizer: Any, encoder: Any, chunk: list[_Token], clip_skip: int, penultimate: bool
) -> tuple[Tensor, Tensor]:
    """One chunk's vectors [1, 77, D], and the encoder's first output."""
    room = _room(tokenizer)
    missing = room - len(chunk)
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    ids = [start, *(token for token, _ in chunk), end, *[end if pad is None else pad] * missing]
    weights = torch.tensor([1.0, *(weight for _, weight in chunk), *[1.0] * (missing + 1)])
    batch = torch.tensor([ids], device=encoder.device)
    used = torch.arange(len(ids), device=encoder.device)[None] < len(chunk) + 2
    masked = getattr(encoder.config, "use_attention_mask", False)
    deep = penultimate or clip_skip > 1
    output = encoder(
        batch, attention_mask=used.long() if masked else None, output_hidden_states=deep
    )
    if penultimate:
        vectors = output.hidden_states[-max(clip_skip, 2)]
    elif deep:
        layers = len(output.hidden_states) - 1
        if clip_skip > layers:
            raise ValueError(f"clip_skip={clip_skip}: the text encoder has {layers} layers")
        vectors = _inner(encoder).final_layer_norm(output.hidden_states[-clip_skip])
    else:
        vectors = output[0]
    return _weighted(vectors, weights), output[0]


def _weighted(vectors: Tensor, weights: Tensor) -> Tensor:
    if bool((weights == 1).all()):
        return vectors
    before = vectors.float().mean()
    scaled = vectors * weights.to(vectors)[:, None]
    after = scaled.float().mean()
    # A mean that is as good as zero, or has turned over, has no meaningful ratio to the other.
    spread = vectors.float().std()
    ratio = before / after if min(abs(before), abs(after)) > 1e-3 * spread else after.new_ones(())
    return (scaled * ratio).to(vectors.dtype) if ratio > 0 else scaled
