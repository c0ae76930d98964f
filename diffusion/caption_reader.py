"""A small network that reads pictures: which words a caption of one would have, and who drew it.

Of several pictures of one prompt it tells which shows most of what was asked. It is trained on
captioned pictures and on a model's own drawings of their captions (`diffusion.train_reader`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from assets.errors import AssetError
from assets.weights import load_weights, read_metadata, write_tensors
from diffusion.prompt import plain_text

WIDTHS = (24, 48, 96, 160, 224)
_FORMAT = "caption-reader-1"


@dataclass(frozen=True)
class ReaderConfig:
    """Size of the network, and what it looks for."""

    words: int  # tokens of the tokenizer
    pairs: tuple[tuple[int, int], ...]  # of neighbouring tokens
    side: int = 128  # px of the pictures
    widths: tuple[int, ...] = WIDTHS  # at 1/2, 1/4, ... of them
    hidden: int = 320

    def __post_init__(self) -> None:
        if self.side % (1 << len(self.widths)):
            raise ValueError(
                f"side={self.side} must be a multiple of {1 << len(self.widths)}, by which "
                f"{len(self.widths)} widths divide it"
            )

    @staticmethod
    def of(settings: dict[str, Any]) -> ReaderConfig:
        """Settings as JSON keeps them, where tuples are lists."""
        pairs = tuple((int(one), int(two)) for one, two in settings["pairs"])
        return ReaderConfig(**{**settings, "pairs": pairs, "widths": tuple(settings["widths"])})


class CaptionReader(nn.Module):
    """Pictures -> log odds that a caption has each token and pair, and that it is no drawing."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        for number, (given, width) in enumerate(pairwise((3, *config.widths))):
            layers.append(_convolution(given, width, 2))
            if 2 <= number < 4:
                layers.append(_Residual(width))
        cells = config.side >> len(config.widths)
        self.body = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(cells * cells * config.widths[-1], config.hidden),
            nn.LayerNorm(config.hidden),
            nn.ReLU(),
        )
        self.said = nn.Linear(config.hidden, config.words + len(config.pairs))
        self.real = nn.Linear(config.hidden, 1)
        nn.init.constant_(self.said.bias, -3.0)  # most words are not said

    def forward(
        self, pictures: Float[Tensor, "B 3 S S"]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, " B"]]:
        """Log odds of tokens, then pairs, and of being one of the pictures learnt from; 0..1 in."""
        found = self.body(2 * pictures - 1)
        return self.said(found), self.real(found)[:, 0]

    @torch.no_grad()
    def scores(
        self, pictures: Float[Tensor, "B 3 H W"], tokens: Sequence[int]
    ) -> Float[Tensor, " B"]:
        """How well each picture shows a caption's tokens: log likelihoods, comparable among them.

        Tokens come alone and in pairs, so both count half.
        """
        side = self.config.side
        if pictures.shape[-2:] != (side, side):
            pictures = F.interpolate(pictures, (side, side), mode="area")
        said, real = self(pictures.to(self.said.weight))
        asked = said_items([tokens], self.config)[0]
        known = F.logsigmoid(said) * asked
        return 0.5 * known.sum(1) + F.logsigmoid(real)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width, 1)
        self.second = _convolution(width, width, 1)[:2]

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(self.first(x)))


def _convolution(given: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(given, width, 3, stride, 1, bias=False),
        nn.GroupNorm(8, width),
        nn.ReLU(inplace=True),
    )


def said_items(rows: Sequence[Sequence[int]], config: ReaderConfig) -> Float[Tensor, "B K"]:
    """1 for each token, and each known pair of neighbours, that a row of tokens has, else 0."""
    numbers = {pair: config.words + k for k, pair in enumerate(config.pairs)}
    found = torch.zeros(len(rows), config.words + len(config.pairs))
    for row, tokens in enumerate(rows):
        paired = [numbers[pair] for pair in pairwise(tokens) if pair in numbers]
        found[row, [*tokens, *paired]] = 1.0
    return found


@dataclass(frozen=True, eq=False)
class PromptReader:
    """A reader with the tokenizer whose words it knows."""

    net: CaptionReader
    tokenizer: Any

    def scores(self, pictures: Float[Tensor, "B 3 H W"], prompt: str) -> list[float]:
        """How well each picture shows a prompt; log likelihoods, comparable among them."""
        words = plain_text(prompt)
        tokens = self.tokenizer(words, truncation=True).input_ids
        return [float(score) for score in self.net.scores(pictures, tokens)]


def save_reader(net: CaptionReader, path: Path) -> list[Path]:
    """Write the network as safetensors, in halves."""
    tensors = {name: value.half() for name, value in net.state_dict().items()}
    told = {"format": _FORMAT, "config": json.dumps(asdict(net.config))}
    return write_tensors(tensors, path, told)


def load_reader(path: Path) -> CaptionReader:
    """A trained one, ready to use."""
    told = read_metadata(path)
    if told.get("format") != _FORMAT:
        raise AssetError(
            f"{path} is no caption reader of this version (format {told.get('format')!r}, wanted "
            f"{_FORMAT!r}); train one with `python -m diffusion.train reader`"
        )
    net = CaptionReader(ReaderConfig.of(json.loads(told["config"])))
    load_weights(net, path)
    return net.eval().requires_grad_(False)
