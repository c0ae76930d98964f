"""Teach a text encoder to tell captions apart before a UNet listens to it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

log = logging.getLogger(__name__)

_PAIRS = 1024  # of neighbouring tokens, the most frequent
_RATE = 2e-3


def frequent_pairs(rows: Sequence[Sequence[int]], most: int = _PAIRS) -> list[tuple[int, int]]:
    """The neighbouring tokens that captions have most often; first by number where equal."""
    counts: Counter[tuple[int, int]] = Counter()
    for row in rows:
        counts.update(set(pairwise(row)))
    ordered = sorted(counts, key=lambda pair: (-counts[pair], pair))
    return ordered[:most]


def said_so_far(
    ids: Int[Tensor, "B W"], words: int, pairs: Sequence[tuple[int, int]]
) -> Float[Tensor, "B W P"]:
    """At each place 1 for each token, and each pair of neighbours, that came up to it, else 0."""
    number = torch.full((words * words,), len(pairs))
    for at, (first, second) in enumerate(pairs):
        number[first * words + second] = at
    paired = number[ids[:, :-1] * words + ids[:, 1:]]
    paired = nn.functional.pad(paired, (1, 0), value=len(pairs))
    tokens = torch.zeros(*ids.shape, words).scatter_(2, ids[..., None], 1.0)
    joined = torch.zeros(*ids.shape, len(pairs) + 1).scatter_(2, paired[..., None], 1.0)
    return torch.cat([tokens, joined[..., :-1]], dim=2).cummax(1).values


def teach_words(
    encoder: Any,
    ids: Int[Tensor, "N W"],
    steps: int,
    *,
    batch: int = 32,
    generator: torch.Generator,
) -> float:
    """Train the encoder until its states tell which words, and pairs, a caption has.

    Every state is asked what came up to it: asked of a caption's end alone, an encoder hears words
    and not what each colour belongs to. A layer that is thrown away reads the answer. Returns the
    share of the pairs that the end finds again in the last tenth.
    """
    words = encoder.get_input_embeddings().num_embeddings
    pairs = frequent_pairs(ids[torch.randperm(len(ids), generator=generator)[:4000]].tolist())
    device = encoder.device
    read = nn.Linear(encoder.config.hidden_size, words + len(pairs))
    with torch.no_grad():
        read.weight.normal_(0, 0.02, generator=generator)
        read.bias.fill_(-4.0)  # most words are not said
    read.to(device)
    weights = [*encoder.parameters(), *read.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    heard: list[float] = []
    for step in range(steps):
        warm, done = min(1.0, (step + 1) / 20), step / steps
        for group in optimizer.param_groups:
            group["lr"] = _RATE * warm * min(1.0, 3 * (1 - done))
        rows = ids[torch.randint(len(ids), (batch,), generator=generator)]
        wanted = said_so_far(rows, words, pairs).to(device)
        found = read(encoder(rows.to(device))[0])
        loss = nn.functional.binary_cross_entropy_with_logits(found, wanted)
        torch.autograd.backward(100 * loss)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        paired = wanted[:, -1, words:] > 0
        share = float(((found[:, -1, words:] > 0) & paired).sum() / paired.sum().clamp(min=1))
        if step >= 0.9 * steps:
            heard.append(share)
        if step % 25 == 0:
            log.info(
                "words: step %d loss %.4f, %.1f %% of the pairs heard",
                *(step, float(loss.detach()), 100 * share),
            )
    return sum(heard) / max(1, len(heard))
