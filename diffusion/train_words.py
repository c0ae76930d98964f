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


def frequent_pairs(ids: Int[Tensor, "N W"], most: int = _PAIRS) -> list[tuple[int, int]]:
    """The neighbouring tokens that captions have most often; first by number where equal."""
    counts: Counter[tuple[int, int]] = Counter()
    for row in ids.tolist():
        counts.update(set(pairwise(row)))
    ordered = sorted(counts, key=lambda pair: (-counts[pair], pair))
    return ordered[:most]


def said(
    ids: Int[Tensor, "B W"], words: int, pairs: Sequence[tuple[int, int]]
) -> Float[Tensor, "B P"]:
    """1 for each token and each pair of neighbours that a caption has, 0 for the others."""
    tokens = torch.zeros(len(ids), words).scatter_(1, ids, 1.0)
    number = torch.full((words * words,), len(pairs))
    for at, (first, second) in enumerate(pairs):
        number[first * words + second] = at
    found = number[ids[:, :-1] * words + ids[:, 1:]]
    joined = torch.zeros(len(ids), len(pairs) + 1).scatter_(1, found, 1.0)
    return torch.cat([tokens, joined[:, :-1]], dim=1)


def teach_words(
    encoder: Any,
    ids: Int[Tensor, "N W"],
    steps: int,
    *,
    batch: int = 64,
    generator: torch.Generator,
) -> float:
    """Train the encoder until its last states tell which words, and pairs, a caption has.

    The end's first state and a later one, which pads are, are asked: both hear every word. A layer
    that is thrown away reads the answer. Returns the share of what is said that is found again in
    the last tenth.
    """
    words = encoder.get_input_embeddings().num_embeddings
    pairs = frequent_pairs(ids[torch.randperm(len(ids), generator=generator)[:4000]])
    device = encoder.device
    read = nn.Linear(encoder.config.hidden_size, words + len(pairs))
    with torch.no_grad():
        read.weight.normal_(0, 0.02, generator=generator)
        read.bias.fill_(-4.0)  # most words are not said
    read.to(device)
    weights = [*encoder.parameters(), *read.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    end = encoder.config.eos_token_id
    heard: list[float] = []
    for step in range(steps):
        warm, done = min(1.0, (step + 1) / 20), step / steps
        for group in optimizer.param_groups:
            group["lr"] = _RATE * warm * min(1.0, 3 * (1 - done))
        rows = ids[torch.randint(len(ids), (batch,), generator=generator)]
        wanted = said(rows, words, pairs).to(device)
        states = encoder(rows.to(device))[0]
        ends = (rows == end).int().argmax(1).to(device)
        rest = (ids.shape[1] - ends.cpu()).float()
        later = (ends.cpu() + (torch.rand(batch, generator=generator) * rest).long()).to(device)
        every = torch.arange(batch, device=device)
        both = read(torch.stack([states[every, ends], states[every, later]]))
        loss = nn.functional.binary_cross_entropy_with_logits(both, wanted.expand_as(both))
        torch.autograd.backward(100 * loss)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found = float(((both > 0) & (wanted > 0)).sum() / (2 * wanted.sum()))
        if step >= 0.9 * steps:
            heard.append(found)
        if step % 25 == 0:
            log.info(
                "words: step %d loss %.4f, %.1f %% heard", step, float(loss.detach()), 100 * found
            )
    return sum(heard) / max(1, len(heard))
