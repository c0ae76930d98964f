"""Train the recogniser: phonemes of mels, from rendered speech whose phonemes and times are known.

CTC, as published, and the phoneme of each 25 ms, which makes the posteriors fit lips; optionally
the published attention decoder too.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from voice.asr_decoder import END
from voice.asr_net import BLANK, TOKENS, AsrConfig, AsrNet
from voice.audio import SAMPLE_RATE
from voice.corpus import Corpus
from voice.mel import MelConfig
from voice.phonemes import SILENCE
from voice.shipped import save_net
from voice.speech import Phoneme
from voice.train_crops import Batch, clip_weights, draw_crops, noisy
from voice.train_options import add_net_options
from voice.train_run import Run
from voice.training_loop import descend

_FRAME_S = MelConfig().hop_length / SAMPLE_RATE
_PADDING = -1


@dataclass(frozen=True)
class AsrTraining:
    """Settings of one run; rate as published, the network smaller."""

    steps: int = 20_000
    batch: int = 16
    frames: int = 256
    learning_rate: float = 5e-4
    warm_up: int = 100
    decay_share: float = 0.3
    weight_decay: float = 1e-4
    ctc_weight: float = 1.0
    frame_weight: float = 1.0
    attention_weight: float = 0.0  # 1 as published; costs as much again
    noisy_share: float = 0.4
    ema: float = 0.999
    seed: int = 0
    save_every: int = 250


@dataclass(frozen=True, eq=False)
class Spoken:
    """What is said in B crops."""

    tokens: Int[Tensor, "B S"]  # -1 after the last
    lengths: Int[Tensor, " B"]
    steps: Int[Tensor, "B L"]  # token of each 25 ms


def token_of(symbol: str) -> int:
    """The recogniser's token of a phoneme; of silence the blank."""
    if symbol == SILENCE:
        return BLANK
    return TOKENS.index(symbol if symbol in TOKENS else f"{symbol.rstrip('012')}0")


def spoken_in(phonemes: Sequence[Sequence[Phoneme]], starts: Sequence[int], frames: int) -> Spoken:
    """The phonemes of each crop of `frames` that begins at a clip's frame.

    A phoneme belongs to a crop if its middle does.
    """
    count = (frames + 1) // 2
    rows: list[list[int]] = []
    steps = torch.full((len(starts), count), BLANK)
    for row, (line, start) in enumerate(zip(phonemes, starts, strict=True)):
        rows.append([])
        for phoneme in line:
            first = phoneme.start_s / _FRAME_S - start
            last = phoneme.end_s / _FRAME_S - start
            if last <= 0 or first >= frames:
                continue
            token = token_of(phoneme.symbol)
            # step k is centred on frame 2 k
            low, high = (max(0, int(-(-edge // 2))) for edge in (first, last))
            steps[row, low:high] = token
            if token != BLANK and 0 <= (first + last) / 2 < frames:
                rows[-1].append(token)
    longest = max(1, *map(len, rows))
    tokens = torch.full((len(rows), longest), _PADDING)
    for filled, found in zip(tokens, rows, strict=True):
        filled[: len(found)] = torch.tensor(found, dtype=torch.int64)
    return Spoken(tokens, torch.tensor([len(line) for line in rows]), steps)


def loss_of(
    net: AsrNet,
    mel: Float[Tensor, "B M T"],
    spoken: Spoken,
    config: AsrTraining,
    *,
    generator: torch.Generator,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Training loss, and figures: losses and the share of 25 ms steps that are right."""
    answer = net(mel)
    likely = answer.ctc_logits.log_softmax(-1)
    steps = torch.full((len(mel),), likely.shape[1])
    ctc = F.ctc_loss(
        likely.transpose(0, 1),
        spoken.tokens.clamp(min=0),
        steps,
        spoken.lengths,
        blank=BLANK,
        zero_infinity=True,
    )
    frame = F.nll_loss(likely.transpose(1, 2), spoken.steps)
    right = (likely.argmax(-1) == spoken.steps).float().mean()
    loss = config.ctc_weight * ctc + config.frame_weight * frame
    figures = {"ctc": float(ctc.detach()), "frame": float(frame.detach()), "right": float(right)}
    if config.attention_weight:
        decoded = net.asr_s2s(answer.content, spoken.tokens.clamp(min=0), generator=generator)
        wanted = F.pad(spoken.tokens, (0, 1), value=_PADDING)
        wanted[torch.arange(len(wanted)), spoken.lengths] = END
        attention = F.cross_entropy(decoded.logits.transpose(1, 2), wanted, ignore_index=_PADDING)
        loss = loss + config.attention_weight * attention
        figures["attention"] = float(attention.detach())
    return loss, figures


def train(
    corpus: Corpus,
    folder: Path,
    config: AsrTraining,
    sizes: AsrConfig,
    *,
    minutes: float | None = None,
    export: Path | None = None,
) -> AsrNet:
    """The averaged network after `config.steps`, or when `minutes` of this call are over."""
    indices = [i for i in corpus.indices(held_out=False) if corpus.phonemes(i)]
    if not indices:
        raise ValueError(
            "no clip of the corpus has known phonemes; render some with: "
            "python -m voice.train corpus --render 50"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = AsrNet(sizes)
        averaged = copy.deepcopy(net).requires_grad_(False)
        optimizer = torch.optim.AdamW(
            net.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        generator = torch.Generator().manual_seed(config.seed)
        run = Run(folder, {"asr": net}, {"asr": optimizer}, {"asr": averaged}, generator)
        run.resume()
        weights = clip_weights(corpus, indices)
        net.train()

        def loss(_step: int) -> tuple[Tensor, dict[str, float]]:
            batch = draw_crops(
                corpus, indices, weights, config.frames, config.batch, generator=generator
            )
            mel = noisy(batch, config.noisy_share, generator=generator)
            return loss_of(net, mel, said(corpus, batch), config, generator=generator)

        def keep() -> None:
            if export is not None:
                save_net(averaged, export)

        descend(run, "asr", loss, config, minutes=minutes, keep=keep)
    return averaged.eval()


def said(corpus: Corpus, batch: Batch) -> Spoken:
    """The phonemes in each crop of a batch."""
    lines = [corpus.phonemes(clip) for clip in batch.clips.tolist()]
    return spoken_in(lines, batch.starts.tolist(), batch.mel.shape[-1])


@torch.no_grad()
def held_out_figures(net: AsrNet, corpus: Corpus) -> dict[str, float]:
    """On clips never trained on: phoneme errors of greedy CTC, and 25 ms steps that are right."""
    errors, total, right = 0, 0, []
    for index in corpus.indices(held_out=True):
        line = corpus.phonemes(index)
        if not line:
            continue
        batch = Batch.of(corpus.samples(index)[None], corpus.f0(index))
        spoken = spoken_in([line], [0], batch.mel.shape[-1])
        best = net(batch.mel).ctc_logits[0].argmax(-1)
        right.append((best == spoken.steps[0]).float())
        heard = [t for t in torch.unique_consecutive(best).tolist() if t != BLANK]
        errors += edits(heard, spoken.tokens[0].tolist())
        total += int(spoken.lengths[0])
    return {
        "phoneme errors": errors / max(1, total),
        "steps right": float(torch.cat(right).mean()) if right else 0.0,
    }


def edits(first: Sequence[int], second: Sequence[int]) -> int:
    """Levenshtein distance."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m voice.train asr`."""
    defaults = AsrTraining()
    add_net_options(parser, "asr", defaults)
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--hidden", type=int, default=128, help="published: 256")
    parser.add_argument("--attention", type=float, default=0.0, help="weight; 1 as published")


def run(options: argparse.Namespace) -> None:
    """Train, and ship if asked."""
    from voice.shipped import ship

    torch.set_num_threads(options.threads)
    corpus = Corpus.open(options.corpus)
    sizes = AsrConfig(hidden_dim=options.hidden, token_embedding_dim=options.hidden, n_layers=4)
    config = AsrTraining(
        steps=options.steps,
        batch=options.batch,
        attention_weight=options.attention,
        seed=options.seed,
    )
    net = train(corpus, options.run, config, sizes, minutes=options.minutes, export=options.export)
    if options.ship:
        figures = held_out_figures(net, corpus)
        ship("asr", lambda path: save_net(net, path), corpus, options.run, options.seed, figures)
