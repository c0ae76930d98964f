"""What is said in the clips of a corpus: sounds, melody and loudness, without who says it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from voice.converter_pairs import PairedClips
from voice.mel import log_mel, normalised
from voice.perturb import Perturbation, perturbed_mel
from voice.phoneme_net import PhonemeNet
from voice.recogniser_sounds import Recogniser
from voice.sound_teacher import Said, heard_sounds, loudness


@dataclass(frozen=True, eq=False)
class SaidClips:
    """What is said in each clip, heard in the clip itself and in versions in other voices."""

    clips: PairedClips
    mels: dict[int, Float[Tensor, "T M"]] = field(repr=False)  # normalised, half precision
    sounds: dict[int, Float[Tensor, "V T H"]] = field(repr=False)
    levels: dict[int, Float[Tensor, " T"]] = field(repr=False)

    @classmethod
    def of(
        cls,
        clips: PairedClips,
        net: PhonemeNet,
        versions: int,
        recogniser: Recogniser | None = None,
        *,
        generator: torch.Generator,
    ) -> SaidClips:
        """All training clips; each is heard as it is and in `versions` other voices.

        Whoever can hear the speaker in the sounds would be misled by the other voices. What a
        `recogniser` hears is put beside what the network does, in other voices of its own.
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
            sound = heard_sounds(net, torch.cat(heard))[:, :count]
            if recogniser is not None:
                more = [recogniser.hear(samples[0], count)]
                more += [
                    recogniser.hear_other(samples[0], clips.f0_hz[clip], count, generator=generator)
                    for _ in range(versions)
                ]
                sound = torch.cat([sound, torch.stack(more)], dim=2)
            sounds[clip] = sound.half()
        return cls(clips, mels, sounds, levels)

    @property
    def width(self) -> int:
        """How many numbers are heard in each frame."""
        return next(iter(self.sounds.values())).shape[2]

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
        self, count: int, frames: int, named_share: float, *, generator: torch.Generator
    ) -> tuple[Said, Float[Tensor, "B 1 M T"], Tensor]:
        """What is said in random pieces, their mels, and their speakers.

        `named_share` of these are planned voices.
        """
        speakers = self.clips.speakers(count, named_share, generator=generator)
        rows = []
        for clip in self.clips.clips_of(speakers, generator=generator):
            room = max(1, len(self.mels[clip]) - frames + 1)
            first = int(torch.randint(room, (1,), generator=generator))
            version = int(torch.randint(len(self.sounds[clip]), (1,), generator=generator))
            rows.append(self.piece(clip, version, first, frames))
        mel, sounds, f0, level = (torch.stack(column) for column in zip(*rows, strict=True))
        # how loud a whole clip is cannot be known from a part of it
        level = level + 0.05 * torch.randn(len(level), 1, generator=generator)
        return Said(sounds, f0, level), mel.transpose(1, 2)[:, None], speakers
