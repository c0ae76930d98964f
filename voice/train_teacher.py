"""Train the teacher of the converter: clips found again from their sounds, melody and loudness.

A judge of patches may sharpen its mels, as it does the converter's. They are then nearer to the
speakers, and a little noisier: the shipped converter's teacher had none.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from assets.errors import AssetError
from assets.muon import Muon
from assets.weights import load_weights, read_metadata, write_tensors
from voice.converter_pairs import PairedClips
from voice.converter_plan import planned_voices
from voice.corpus import Corpus
from voice.losses_spectral import mel_loss
from voice.patch_judge import PatchJudge, feature_loss, judge_loss
from voice.phoneme_net import load_phoneme_net
from voice.recogniser_sounds import RECOGNISER_HELP, recogniser_of
from voice.said_clips import SaidClips
from voice.sound_teacher import SoundTeacher
from voice.train_run import Run, apply_gradients
from voice.training_loop import descend


@dataclass(frozen=True)
class TeacherTraining:
    """Settings of one run."""

    steps: int = 2_000
    batch: int = 16
    frames: int = 128
    named_share: float = 0.65  # of the batch; the other speakers by their clips' length
    learning_rate: float = 2e-3
    warm_up: int = 30
    decay_share: float = 1.0
    slope: float = 0.5  # weight of the mel's differences
    noise: float = 0.1  # on the narrowed sounds
    judged_from: int | None = None  # step; None: never
    judge_rate: float = 4e-4
    features: float = 0.5  # weight of what the judge sees
    adversarial: float = 0.05
    halves: bool = False  # compute in bfloat16, on processors that have it; weights stay whole
    ema: float = 0.995
    seed: int = 0
    save_every: int = 200


def train(
    said: SaidClips, folder: Path, config: TeacherTraining,
    *, minutes: float | None = None, export: Path | None = None, start: Path | None = None,
) -> SoundTeacher:  # fmt: skip
    """The averaged teacher after `config.steps`, or when `minutes` of this call are over.

    `start` is a file that an earlier run on the same clips exported.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        teacher = SoundTeacher(len(said.clips.clips), said.width)
        judge = PatchJudge(len(said.clips.clips))
    if start is not None:
        load_weights(teacher, start)
    averaged = copy.deepcopy(teacher).requires_grad_(False)
    matrices = [
        weight
        for name, weight in teacher.named_parameters()
        if weight.ndim == 2 and not name.startswith("speaker")
    ]
    known = {id(weight) for weight in matrices}
    rest = [weight for weight in teacher.parameters() if id(weight) not in known]
    optimizer = Muon(
        [{"params": matrices, "orthogonal": True}, {"params": rest}], lr=config.learning_rate
    )
    judging = torch.optim.AdamW(judge.parameters(), config.judge_rate, (0.5, 0.99))
    generator = torch.Generator().manual_seed(config.seed)
    run = Run(
        folder,
        {"teacher": teacher, "judge": judge},
        {"teacher": optimizer, "judge": judging},
        {"teacher": averaged},
        generator,
    )
    run.resume()
    halves = torch.autocast("cpu", torch.bfloat16, enabled=config.halves)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        about, wanted, speakers = said.batch(
            config.batch, config.frames, config.named_share, generator=generator
        )
        with halves:
            made = teacher(about, speakers, config.noise)
        total = mel_loss(made, wanted, config.slope)
        figures = {"mel": float((made - wanted).abs().mean().detach())}
        if config.judged_from is not None and step >= config.judged_from:
            with halves:
                judged = judge_loss(judge(wanted, speakers), judge(made.detach(), speakers))
            judged.backward()  # type: ignore[no-untyped-call]
            apply_gradients(judging, None, 5.0)
            judge.requires_grad_(False)
            with halves:
                real, seen = judge(wanted, speakers), judge(made, speakers)
                features = feature_loss(real, seen)
            judge.requires_grad_(True)
            total = total + config.features * features
            total = total - config.adversarial * seen.logits.mean()
            figures |= {"features": float(features.detach()), "judge": float(judged.detach())}
        return total, figures

    def keep() -> None:
        if export is not None:
            save_teacher(averaged, export)

    descend(run, "teacher", loss, config, minutes=minutes, keep=keep)
    return averaged.eval()


def save_teacher(teacher: SoundTeacher, path: Path) -> list[Path]:
    """Write the network with its sizes."""
    sizes = {
        "speakers": str(teacher.speaker.num_embeddings),
        "sounds": str(teacher.sounds.in_features),
    }
    return write_tensors(teacher.state_dict(), path, sizes)


def load_teacher(path: Path) -> SoundTeacher:
    """The network of a file that this stage wrote, ready to use."""
    try:
        stored = read_metadata(path)
        teacher = SoundTeacher(int(stored["speakers"]), int(stored["sounds"]))
    except (KeyError, ValueError) as error:
        raise AssetError(
            f"{path} is no teacher ({error}); make one: python -m voice.train teacher"
        ) from error
    load_weights(teacher, path)
    return teacher.eval().requires_grad_(False)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m voice.train teacher`."""
    defaults = TeacherTraining()
    add = parser.add_argument
    add("--corpus", type=Path, required=True, help="what the stage corpus wrote")
    add("--run", type=Path, default=Path("out/teacher"), help="checkpoints")
    add("--leave-out", action="append", default=[], help="a corpus to measure with")
    add("--steps", type=int, default=defaults.steps)
    add("--batch", type=int, default=defaults.batch)
    add("--recogniser", type=Path, help=RECOGNISER_HELP)
    add("--versions", type=int, default=4, help="other voices that each clip is heard in")
    add("--start", type=Path, help="a teacher of the same clips to go on from")
    add("--judged-from", type=int, default=defaults.judged_from, help="step; never by default")
    add("--precision", choices=("no", "bf16"), default="no")
    add("--minutes", type=float, help="stop in time, whatever the step")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    add("--export", type=Path, required=True, help="file for the stage converter's --teacher")


def run(options: argparse.Namespace) -> None:
    """Train and write the file."""
    torch.set_num_threads(options.threads)
    corpus = Corpus.open(options.corpus)
    clips = PairedClips.of(corpus, planned_voices(corpus), tuple(options.leave_out))
    net = load_phoneme_net()
    generator = torch.Generator().manual_seed(options.seed)
    said = SaidClips.of(
        clips, net, options.versions, recogniser_of(options.recogniser), generator=generator
    )
    config = TeacherTraining(
        steps=options.steps,
        batch=options.batch,
        judged_from=options.judged_from,
        halves=options.precision == "bf16",
        seed=options.seed,
    )
    train(
        said, options.run, config,
        minutes=options.minutes, export=options.export, start=options.start,
    )  # fmt: skip
