"""Pairs across speakers for the converter: a clip of one, and what teachers make of it.

Nobody recorded the same sentence with the same melody twice; `sound_teacher` says how it would be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from voice.converter_pairs import MARGIN, PairBatch, PairedClips, cut
from voice.mel import MEAN, N_MELS, SPREAD, MelConfig
from voice.perturb import Perturbation, through_channel
from voice.said_clips import SaidClips
from voice.sound_teacher import Said, SoundTeacher, loud_level
from voice.transpose import transposed_mel

DETAIL = 0.75  # share of what teachers leave out that is kept
_SOURCES_NAMED, _TARGETS_NAMED = 0.3, 0.75  # shares that are planned voices
_JITTER = 3.0  # semitones around the target's usual pitch, which is all that the teacher knows
_DETAIL_BANDS = 9  # that details are the mean of
_QUIETEST_DB = -8.0
_RATIOS = (0.4, 2.5)
_CHANNEL = Perturbation(colour=0.6, narrow_share=0.2, noise_share=0.2)  # of half of the sources


@dataclass(frozen=True, eq=False)
class ParallelClips:
    """The clips, what is said in them, and teachers that know all their speakers.

    What is wanted is the mean of the teachers' mels, and `details` of the sources' own, by clip.
    """

    clips: PairedClips
    said: SaidClips
    teachers: Sequence[SoundTeacher]
    details: Mapping[int, Float[Tensor, "T M"]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, clips: PairedClips, said: SaidClips, teachers: Sequence[SoundTeacher], detail: float
    ) -> ParallelClips:
        """The pairs, with this share of each source's detail added to what is wanted.

        Detail is what the teachers leave out of a clip when they say it in its own speaker's
        voice: releases of stops, hisses, a way to move. It is smooth along the bands, so that
        harmonics, which the pairs move, are not in it, and its mean in time is 0, as what stays
        is the speaker's or the microphone's.
        """
        bare = cls(clips, said, teachers)
        if not detail:
            return bare
        found = {
            clip: (detail * bare.left_out(clip, speaker)).half()
            for speaker, own in enumerate(clips.clips)
            for clip in own
        }
        return cls(clips, said, teachers, found)

    def __post_init__(self) -> None:
        for teacher in self.teachers:
            known = teacher.speaker.num_embeddings
            if known != len(self.clips.clips):
                raise ValueError(
                    f"the teacher knows {known} speakers, the corpus has {len(self.clips.clips)}; "
                    "train it on this corpus with the same --leave-out"
                )
            hears = teacher.sounds.in_features
            if hears != self.said.width:
                raise ValueError(
                    f"the teacher hears {hears} numbers a frame, here are {self.said.width}; "
                    "give the --recogniser that it was trained with, or none if it had none"
                )

    @property
    def _reach(self) -> int:
        return max(teacher.reach for teacher in self.teachers)

    def mixed(
        self,
        own: int,
        count: int,
        frames: int,
        reference_frames: int,
        latent_dim: int,
        *,
        generator: torch.Generator,
    ) -> PairBatch:
        """First `own` clips to be found again, then pairs across speakers, `count` in all."""
        sizes = (frames, reference_frames, latent_dim)
        same = self.clips.batch(own, *sizes, generator=generator)
        return joined(same, self.batch(count - own, *sizes, generator=generator))

    @torch.no_grad()
    def batch(
        self,
        count: int,
        frames: int,
        reference_frames: int,
        latent_dim: int,
        *,
        drawn_share: float = 0.2,
        generator: torch.Generator,
    ) -> PairBatch:
        """Pieces of any speaker's clips at about another speaker's pitch, and in that voice."""
        clips = self.clips
        speakers = clips.speakers(count, _TARGETS_NAMED, generator=generator)
        references = clips.clips_of(speakers, generator=generator)
        reference = clips.crops(references, reference_frames, generator=generator)
        octaves = _JITTER / 12 * (2 * torch.rand(count, generator=generator) - 1)
        heard, said, gains, detail = self._sources(
            reference.f0_hz * torch.exp2(octaves), frames, generator=generator
        )
        wanted = self._taught(said, speakers)[..., self._reach : -self._reach] + detail
        # a factor of the sound is a distance in the logarithm of its power
        moved = wanted + (2 * gains.log() / SPREAD)[:, None, None, None]
        floor = (math.log(MelConfig().floor) - MEAN) / SPREAD
        anyone = len(clips.voices)
        drawn = torch.rand(count, generator=generator) < drawn_share
        return PairBatch(
            heard,
            moved.clamp(min=floor),
            reference.mel,
            speakers.clamp(max=anyone),
            speakers,
            torch.log2(reference.f0_hz),
            torch.randn(count, latent_dim, generator=generator),
            drawn & (speakers < anyone),
            torch.tensor(references),
            self.told(said)[:, self._reach : -self._reach],
        )

    def _taught(self, said: Said, speakers: Int[Tensor, " B"]) -> Float[Tensor, "B 1 M T"]:
        return torch.stack([teacher(said, speakers) for teacher in self.teachers]).mean(dim=0)

    @torch.no_grad()
    def left_out(self, clip: int, speaker: int) -> Float[Tensor, "T M"]:
        """What teachers leave out of a clip of a speaker, smooth along the bands; its mean is 0."""
        count = len(self.said.mels[clip])
        mel, sounds, f0, level = self.said.piece(clip, 0, 0, count)
        made = self._taught(Said(sounds[None], f0[None], level[None]), torch.tensor([speaker]))
        off = mel - made[0, 0].T
        half = _DETAIL_BANDS // 2
        smooth = F.avg_pool1d(F.pad(off[:, None], (half, half), "replicate"), _DETAIL_BANDS, 1)[
            :, 0
        ]
        return smooth - smooth.mean(dim=0)

    def told(self, said: Said) -> Float[Tensor, "B T S"]:
        """What all teachers narrow the sounds to."""
        return torch.cat([teacher.sounds(said.sounds) for teacher in self.teachers], dim=2)

    def _sources(
        self, wanted_hz: Float[Tensor, " B"], frames: int, *, generator: torch.Generator
    ) -> tuple[Float[Tensor, "B 1 M T"], Said, Float[Tensor, " B"], Float[Tensor, "B 1 M T"]]:
        """Pieces as a conversion hears them, what is said in them, their gains and details."""
        hop, reach = MelConfig().hop_length, self._reach
        wide = frames + 2 * MARGIN
        rows, told, hertz, gains, details = [], [], [], [], []
        for target_hz in wanted_hz.tolist():
            clip = self._long_clip(wide * hop, generator=generator)
            samples = self.clips.corpus.samples(clip)
            room = min(len(samples) // hop, len(self.said.levels[clip])) - wide
            first = int(torch.randint(max(1, room), (1,), generator=generator))
            gain = 10 ** (_QUIETEST_DB * float(torch.rand((), generator=generator)) / 20)
            scale = gain / float(samples.abs().max().clamp(min=1e-3))
            rows.append(samples[first * hop : (first + wide) * hop] * scale)
            gains.append(gain)
            ratio = min(max(target_hz / self.clips.f0_hz[clip], _RATIOS[0]), _RATIOS[1])
            hertz.append((self.clips.f0_hz[clip], ratio))
            begin = first + MARGIN - reach
            _, sounds, f0, level = self.said.piece(clip, 0, begin, frames + 2 * reach)
            told.append((sounds, f0 * ratio, level))
            details.append(self._detail(clip, first + MARGIN, frames))
        sounds, f0, levels = (torch.stack(column) for column in zip(*told, strict=True))
        own_hz, ratios = torch.tensor(hertz).T
        heard = transposed_mel(torch.stack(rows), ratios, own_hz)
        moved = through_channel(heard, _CHANNEL, generator=generator)
        moved = moved + loud_level(heard) - loud_level(moved)
        is_moved = torch.rand(len(heard), 1, 1, generator=generator) < 0.5
        heard = torch.where(is_moved, moved, heard)
        said = Said(sounds, f0, levels)
        return cut(heard, frames), said, torch.tensor(gains), torch.stack(details)

    def _detail(self, clip: int, first: int, count: int) -> Float[Tensor, "1 M T"]:
        if clip not in self.details:
            return torch.zeros(1, N_MELS, count)
        known = self.details[clip]
        at = torch.arange(first, first + count).clamp(max=len(known) - 1)
        return known[at].float().T[None]

    def _long_clip(self, samples: int, *, generator: torch.Generator) -> int:
        """A random clip of at least so many samples, or the longest of many that were not."""
        drawn: list[int] = []
        for _ in range(20):
            speaker = self.clips.speakers(1, _SOURCES_NAMED, generator=generator)
            drawn += self.clips.clips_of(speaker, generator=generator)
            if self.clips.corpus.clips[drawn[-1]].count >= samples:
                return drawn[-1]
        raise ValueError(
            f"hardly any clip is as long as {samples / MelConfig().sample_rate:.1f} s; "
            "train on fewer frames"
        )


def joined(first: PairBatch, second: PairBatch) -> PairBatch:
    """Both batches as one; of the sounds those that are known."""
    names = [name for name in PairBatch.__dataclass_fields__ if name != "sounds"]
    both = {n: torch.cat([getattr(first, n), getattr(second, n)]) for n in names}
    return PairBatch(**both, sounds=second.sounds)
