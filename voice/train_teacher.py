"""Train the teacher of the converter: clips found again from their sounds, melody and loudness."""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.muon import Muon
from assets.weights import load_weights, read_metadata, write_tensors
from voice.converter_pairs import PairedClips
from voice.converter_plan import planned_voices
from voice.corpus import Corpus
from voice.mel import log_mel, normalised
from voice.perturb import Perturbation, perturbed_mel
from voice.phoneme_net import PhonemeNet, load_phoneme_net
from voice.sound_teacher import Said, SoundTeacher, heard_sounds, loudness, sounds_width
from voice.train_run import Run
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
    ema: float = 0.995
    seed: int = 0
    save_every: int = 200


@dataclass(frozen=True, eq=False)
class SaidClips:
    """What is said in each clip, heard in the clip itself and in versions in other voices."""

    clips: PairedClips
    mels: dict[int, Float[Tensor, "T M"]] = field(repr=False)  # normalised, half precision
    sounds: dict[int, Float[Tensor, "V T H"]] = field(repr=False)
    levels: dict[int, Float[Tensor, " T"]] = field(repr=False)

    @classmethod
    def of(
        cls, clips: PairedClips, net: PhonemeNet, versions: int, *, generator: torch.Generator
    ) -> SaidClips:
        """All training clips; each is heard as it is and in `versions` other voices.

        Whoever can hear the speaker in the sounds would be misled by the other voices.
        """
        change = Perturbation(narrow_share=0.3, noise_share=0.2)
        mels, sounds, levels = {}, {}, {}
        for clip in (clip for group in clips.clips for clip in group):
            samples = clips.corpus.samples(clip)[None]
            samples = samples / samples.abs().max().clamp(min=1e-3)
            mel = log_mel(samples)
            heard = [mel]
            if versions:
                f0_hz = torch.full((versions,), clips.f0_hz[clip])
                many = samples.expand(versions, -1)
                heard.append(perturbed_mel(many, f0_hz, change, generator=generator))
            count = min(mel.shape[2], len(clips.corpus.f0(clip)))
            mels[clip] = normalised(mel)[0, :, :count].T.half()
            levels[clip] = loudness(mel)[0, :count].half()
            sounds[clip] = heard_sounds(net, torch.cat(heard))[:, :count].half()
        return cls(clips, mels, sounds, levels)

    def piece(
        self, clip: int, version: int, first: int, count: int
    ) -> tuple[
        Float[Tensor, "T M"], Float[Tensor, "T H"], Float[Tensor, " T"], Float[Tensor, " T"]
    ]:
        """Mel, sounds, pitch and loudness of these frames; beyond a clip its ends are held."""
        at = torch.arange(first, first + count).clamp(0, len(self.mels[clip]) - 1)
        return (
            self.mels[clip][at].float(),
            self.sounds[clip][version][at].float(),
            self.clips.corpus.f0(clip)[at],
            self.levels[clip][at].float(),
        )

    def batch(
        self, config: TeacherTraining, *, generator: torch.Generator
    ) -> tuple[Said, Float[Tensor, "B 1 M T"], Tensor]:
        """What is said in random pieces, their mels, and their speakers."""
        speakers = self.clips.speakers(config.batch, config.named_share, generator=generator)
        rows = []
        for clip in self.clips.clips_of(speakers, generator=generator):
            room = max(1, len(self.mels[clip]) - config.frames + 1)
            first = int(torch.randint(room, (1,), generator=generator))
            version = int(torch.randint(len(self.sounds[clip]), (1,), generator=generator))
            rows.append(self.piece(clip, version, first, config.frames))
        mel, sounds, f0, level = (torch.stack(column) for column in zip(*rows, strict=True))
        # how loud a whole clip is cannot be known from a part of it
        level = level + 0.05 * torch.randn(len(level), 1, generator=generator)
        return Said(sounds, f0, level), mel.transpose(1, 2)[:, None], speakers


def train(
    said: SaidClips, net: PhonemeNet, folder: Path, config: TeacherTraining,
    *, minutes: float | None = None, export: Path | None = None,
) -> SoundTeacher:  # fmt: skip
    """The averaged teacher after `config.steps`, or when `minutes` of this call are over."""
    from voice.train_converter_paired import reconstruction

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        teacher = SoundTeacher(len(said.clips.clips), sounds_width(net))
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
    generator = torch.Generator().manual_seed(config.seed)
    run = Run(
        folder, {"teacher": teacher}, {"teacher": optimizer}, {"teacher": averaged}, generator
    )
    run.resume()

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        about, wanted, speakers = said.batch(config, generator=generator)
        made = teacher(about, speakers, config.noise)
        figures = {"mel": float((made - wanted).abs().mean().detach())}
        return reconstruction(made, wanted, config.slope), figures

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
    add("--versions", type=int, default=4, help="other voices that each clip is heard in")
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
    said = SaidClips.of(clips, net, options.versions, generator=generator)
    config = TeacherTraining(steps=options.steps, batch=options.batch, seed=options.seed)
    train(said, net, options.run, config, minutes=options.minutes, export=options.export)
