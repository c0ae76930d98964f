"""Train the pitch network: pitch in Hz and voicing of mels."""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from voice.corpus import Corpus
from voice.corpus_pitch import usual_pitch
from voice.jdc import F0Config, F0Net
from voice.shipped import save_net
from voice.train_crops import Batch, clip_weights, draw_crops, noisy
from voice.train_options import add_net_options
from voice.train_run import Run
from voice.training_loop import descend

_HEADS = ("detector_conv", "bilstm_", "classifier", "detector")  # what the feature does not need
_BINS, _LOWEST_HZ = 112, 50.0  # of the guide: half semitones up to 1270 Hz


@dataclass(frozen=True)
class F0Training:
    """Settings of one run."""

    steps: int = 20_000
    batch: int = 16
    frames: int = 192
    learning_rate: float = 3e-4
    warm_up: int = 100
    decay_share: float = 0.5
    weight_decay: float = 1e-4
    pitch_weight: float = 0.3  # of a semitone
    guide_weight: float = 0.3
    noisy_share: float = 0.4  # crops with noise or a room
    ema: float = 0.995
    trunk_steps: int = 0  # after which the convolutions, and so the feature, stay; 0: never
    seed: int = 0
    save_every: int = 50


def fresh(sizes: F0Config) -> F0Net:
    """An untrained network whose answers are spread like voices' pitch.

    The output is in Hz: from the usual small start, its last layer would need thousands of steps.
    """
    net = F0Net(sizes)
    torch.nn.init.normal_(net.classifier.weight, std=150.0 * net.config.hidden**-0.5)
    torch.nn.init.constant_(net.classifier.bias, 150.0)
    return net


class Guide(nn.Module):
    """Bins of pitch read from the generator's feature; a training's help, not part of the product.

    Through the recurrent layers alone the convolutions learn to hear pitch very slowly.
    """

    def __init__(self, sizes: F0Config) -> None:
        super().__init__()
        self.bins = nn.Linear(10 * sizes.channels[-1], _BINS)

    def loss(
        self,
        feature: Float[Tensor, "B C 10 T"],
        f0: Float[Tensor, "B T"],
        voiced: Bool[Tensor, "B T"],
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the voiced frames' bins, half a semitone wide."""
        logits = self.bins(feature.permute(0, 3, 1, 2).flatten(2))  # [B, T, bins]
        wanted = (24 * torch.log2(f0.clamp(min=_LOWEST_HZ) / _LOWEST_HZ)).round().long()
        each = F.cross_entropy(
            logits.transpose(1, 2),
            wanted.clamp(max=_BINS - 1),
            reduction="none",
            label_smoothing=0.05,
        )
        return _mean_of(each, voiced)


def slipped(f0: Float[Tensor, "B T"], usual_hz: Float[Tensor, " B"]) -> Bool[Tensor, "B T"]:
    """Voiced frames about an octave or more from their clip's usual pitch."""
    usual = usual_hz[:, None]
    return (f0 > 2.1 * usual) | ((f0 > 0) & (f0 < 0.45 * usual))


def _mean_of(each: Tensor, counts: Tensor) -> Tensor:
    return (each * counts).sum() / counts.sum().clamp(min=1)


def loss_of(
    net: F0Net,
    guide: Guide,
    mel: Float[Tensor, "B M T"],
    f0: Float[Tensor, "B T"],
    usual_hz: Float[Tensor, " B"],
    config: F0Training,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Semitones off where voiced (smooth L1), cross-entropy of silence, and the guide's loss.

    Frames far from the clip's usual pitch are left out: there the tracker that made `f0` slipped.
    """
    doubtful = slipped(f0, usual_hz)
    voiced = (f0 > 0) & ~doubtful
    heard, silence = net.pitch_and_silence(mel[:, None])
    off = 12 * torch.log2(heard.f0.clamp(min=_LOWEST_HZ / 2) / f0.clamp(min=_LOWEST_HZ))
    pitch = _mean_of(F.smooth_l1_loss(off, torch.zeros_like(off), reduction="none"), voiced)
    silent = F.binary_cross_entropy_with_logits(silence, (f0 == 0).to(mel), reduction="none")
    silent = _mean_of(silent, ~doubtful)
    guided = guide.loss(heard.feature, f0, voiced)
    figures = {"pitch": pitch, "silence": silent, "guide": guided}
    loss = config.pitch_weight * pitch + silent + config.guide_weight * guided
    return loss, {name: float(value.detach()) for name, value in figures.items()}


def train(
    corpus: Corpus,
    folder: Path,
    config: F0Training,
    sizes: F0Config,
    *,
    minutes: float | None = None,
    export: Path | None = None,
) -> F0Net:
    """The averaged network after `config.steps`, or when `minutes` of this call are over."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = fresh(sizes)
        guide = Guide(sizes)
        averaged = copy.deepcopy(net).requires_grad_(False)
        optimizer = torch.optim.AdamW(
            [*net.parameters(), *guide.parameters()],
            config.learning_rate,
            weight_decay=config.weight_decay,
        )
        generator = torch.Generator().manual_seed(config.seed)
        run = Run(
            folder, {"f0": net, "guide": guide}, {"f0": optimizer}, {"f0": averaged}, generator
        )
        run.resume()
        indices = corpus.indices(held_out=False)
        weights = clip_weights(corpus, indices)
        usual_hz = torch.tensor([usual_pitch(corpus.f0(i).numpy()) for i in range(len(corpus))])
        net.train()
        frozen = False

        def loss(step: int) -> tuple[Tensor, dict[str, float]]:
            nonlocal frozen
            if 0 < config.trunk_steps <= step and not frozen:
                frozen = freeze_trunk(net, averaged, take=step == config.trunk_steps)
            batch = draw_crops(
                corpus, indices, weights, config.frames, config.batch, generator=generator
            )
            mel = noisy(batch, config.noisy_share, generator=generator)
            return loss_of(net, guide, mel, batch.f0, usual_hz[batch.clips], config)

        def keep() -> None:
            if export is not None:
                save_net(averaged, export)

        descend(run, "f0", loss, config, minutes=minutes, keep=keep)
    return averaged.eval()


def freeze_trunk(net: F0Net, averaged: F0Net, *, take: bool) -> bool:
    """Let the recurrent heads learn alone; `take`: on the averaged convolutions.

    A converter can then be trained on the feature while the pitch still becomes better.
    """
    for name, part in net.named_children():
        if name.startswith(_HEADS):
            continue
        if take:
            part.load_state_dict(averaged.get_submodule(name).state_dict())
        part.eval().requires_grad_(False)
    return True


@torch.no_grad()
def held_out_figures(net: F0Net, corpus: Corpus, clips: int = 40) -> dict[str, float]:
    """Errors on clips never trained on: pitch within 50 cents, voicing, correlation.

    Frames in which the tracker slipped (see `loss_of`) do not count.
    """
    cents, agree, found, wanted = [], [], [], []
    for index in corpus.indices(held_out=True)[:clips]:
        batch = Batch.of(corpus.samples(index)[None], corpus.f0(index))
        usual_hz = torch.tensor([usual_pitch(batch.f0[0].numpy())])
        sure = ~slipped(batch.f0, usual_hz)[0]
        heard, silence = net.pitch_and_silence(batch.mel[:, None])
        f0, pitch = batch.f0[0][sure], heard.f0[0][sure]
        agree.append(((silence[0][sure] < 0) == (f0 > 0)).float())
        both = (f0 > 0) & (pitch > 30)
        cents.append(1200 * torch.log2(pitch[both] / f0[both]))
        found.append(pitch[both].log())
        wanted.append(f0[both].log())
    off = torch.cat(cents).abs()
    both = torch.stack([torch.cat(found), torch.cat(wanted)])
    return {
        "within 50 cents": float((off < 50).float().mean()),
        "median cents": float(off.median()),
        "voicing agreement": float(torch.cat(agree).mean()),
        "log pitch correlation": float(torch.corrcoef(both)[0, 1]),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m voice.train f0`."""
    defaults = F0Training()
    add_net_options(parser, "f0", defaults)
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--frames", type=int, default=defaults.frames)
    parser.add_argument("--rate", type=float, default=defaults.learning_rate, help="learning rate")
    parser.add_argument(
        *("--trunk-steps",),
        type=int,
        default=defaults.trunk_steps,
        help="steps after which the generator's feature stays as it is; 0: never",
    )
    parser.add_argument("--width", type=int, default=16, help="first channels; published: 64")


def run(options: argparse.Namespace) -> None:
    """Train, and ship if asked."""
    from voice.shipped import ship

    torch.set_num_threads(options.threads)
    corpus = Corpus.open(options.corpus)
    width = options.width
    sizes = F0Config((width, 2 * width, 3 * width, 4 * width), 4 * width)
    config = F0Training(
        steps=options.steps,
        batch=options.batch,
        frames=options.frames,
        learning_rate=options.rate,
        trunk_steps=options.trunk_steps,
        seed=options.seed,
    )
    net = train(corpus, options.run, config, sizes, minutes=options.minutes, export=options.export)
    if options.ship:
        figures = held_out_figures(net, corpus)
        ship("f0", lambda path: save_net(net, path), corpus, options.run, options.seed, figures)
