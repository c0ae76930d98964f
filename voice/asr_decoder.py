"""The recogniser's second head, for training: text by attention over the content features.

Location-sensitive attention is that of Chorowski et al. 2015, as in Tacotron 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

START, END, UNKNOWN = 1, 2, 3
MASKED = 0.1  # share of the given tokens that are hidden, so that the sound must be listened to
_FILTERS, _WIDTH = 32, 63


@dataclass(frozen=True, eq=False)
class Decoded:
    """Logits of each token and of the end, and where the decoder looked."""

    logits: Float[Tensor, "B S N"]  # step s foretells token s; the last step the end
    attention: Float[Tensor, "B S L"]


class AttentionDecoder(nn.Module):
    """An LSTM cell that spells the text, looking at one place of the content at a time."""

    def __init__(self, hidden: int, embedding_dim: int, n_token: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_token, embedding_dim)
        self.attention_layer = LocationAttention(hidden)
        self.decoder_rnn = nn.LSTMCell(hidden + embedding_dim, hidden)
        self.project_to_hidden = nn.Sequential(_Dense(2 * hidden, hidden), nn.Tanh())
        self.project_to_n_symbols = nn.Linear(hidden, n_token)

    def forward(
        self,
        content: Float[Tensor, "B C L"],
        text: Int[Tensor, "B S"],
        padding: Bool[Tensor, "B L"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Decoded:
        """The text foretold step by step from the true tokens before, S + 1 steps.

        `padding` is true where a clip has ended. With a generator a tenth of the tokens is hidden
        (training); without one none is.
        """
        if generator is not None:
            hide = torch.rand(text.shape, generator=generator).to(text.device) < MASKED
            text = text.masked_fill(hide, UNKNOWN)
        start = text.new_full((len(text), 1), START)
        steps = self.embedding(torch.cat([start, text], dim=1))  # [B, S + 1, E]
        memory = content.transpose(1, 2)
        keys = self.attention_layer.memory_layer(memory)
        hidden = memory.new_zeros(memory.shape[0], memory.shape[2])
        cell, context = hidden, hidden
        weights = memory.new_zeros(memory.shape[:2])
        total = weights
        logits, looked = [], []
        for embedded in steps.unbind(dim=1):
            hidden, cell = self.decoder_rnn(torch.cat([embedded, context], dim=1), (hidden, cell))
            past = torch.stack([weights, total], dim=1)
            weights = self.attention_layer(hidden, keys, past, padding)
            context = torch.einsum("bl,blc->bc", weights, memory)
            total = total + weights
            spoken = self.project_to_hidden(torch.cat([hidden, context], dim=1))
            logits.append(self.project_to_n_symbols(spoken))
            looked.append(weights)
        return Decoded(torch.stack(logits, dim=1), torch.stack(looked, dim=1))


class LocationAttention(nn.Module):
    """Weights over the content from the decoder's state and from where it looked before."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.query_layer = _Dense(hidden, hidden, bias=False)
        self.memory_layer = _Dense(hidden, hidden, bias=False)
        self.v = _Dense(hidden, 1, bias=False)
        self.location_layer = _Location(hidden)

    def forward(
        self,
        query: Float[Tensor, "B C"],
        keys: Float[Tensor, "B L C"],
        past: Float[Tensor, "B 2 L"],
        padding: Bool[Tensor, "B L"] | None,
    ) -> Float[Tensor, "B L"]:
        """Weights that sum to one; `past` are the last weights and the sum of all before."""
        place = self.location_layer(past)
        energy = self.v(torch.tanh(self.query_layer(query)[:, None] + place + keys))[..., 0]
        if padding is not None:
            energy = energy.masked_fill(padding, -torch.inf)
        return torch.softmax(energy, dim=1)


class _Location(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.location_conv = _Conv()
        self.location_dense = _Dense(_FILTERS, hidden, bias=False)

    def forward(self, past: Tensor) -> Tensor:
        return cast(Tensor, self.location_dense(self.location_conv(past).transpose(1, 2)))


class _Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, _FILTERS, _WIDTH, padding=_WIDTH // 2, bias=False)

    def forward(self, past: Tensor) -> Tensor:
        return cast(Tensor, self.conv(past))


class _Dense(nn.Module):
    def __init__(self, dim_in: int, dim_out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.linear_layer = nn.Linear(dim_in, dim_out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.linear_layer(x))
