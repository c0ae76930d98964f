"""Pairs for the converter's supervised training: a clip in another voice, and the clip itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from voice.converter_plan import VoicePlan
from voice.corpus import Corpus
from voice.corpus_pitch import usual_pitch
from voice.mel import MelConfig, log_mel, normalised
from voice.perturb import Perturbation, perturbed_mel
from voice.psola import reshaped

ANYONE = "anyone"  # the last domain: reads the style of any speaker's clip
HELD_BACK = 8  # one clip in so many of each voice is never trained on
MARGIN = 4  # frames beside a crop that its mel sees
_GAIN_DB = (-10.0, 8.0)
_LEAST_VOICED_HZ = 50.0
_SUNG = (-7.0, 14.0)  # semitones from the pitch that was spoken
_SUNG_HZ = (75.0, 700.0)  # what voices sing


@dataclass(frozen=True, eq=False)
class Crops:
    """B pieces of clips."""

    samples: Float[Tensor, "B N"]  # with the margin on both sides
    f0_hz: Float[Tensor, " B"]  # median of the whole clip
    mel: Float[Tensor, "B 1 M T"]  # normalised


@dataclass(frozen=True, eq=False)
class PairBatch:
    """B clips to be found again from versions of them in other voices."""

    heard: Float[Tensor, "B 1 M T"]  # in another voice, at the clip's own pitch
    wanted: Float[Tensor, "B 1 M T"]
    reference: Float[Tensor, "B 1 M R"]  # of the same speaker
    domain: Int[Tensor, " B"]
    speaker: Int[Tensor, " B"]
    log2_hz: Float[Tensor, " B"]  # of the reference's clip
    latent: Float[Tensor, "B L"]
    is_drawn: Bool[Tensor, " B"]  # whose style comes from the latent
    reference_clip: Int[Tensor, " B"]  # of the corpus
    sounds: Float[Tensor, "C T S"] | None = None  # what teachers were told of the last C, if so


@dataclass(frozen=True, eq=False)
class PairedClips:
    """The clips of a corpus by speaker; the planned voices have domains of their own."""

    corpus: Corpus
    voices: tuple[VoicePlan, ...]
    clips: tuple[tuple[int, ...], ...]  # of each speaker; the voices come first
    f0_hz: dict[int, float] = field(repr=False)  # of each clip that is used
    perturbation: Perturbation = field(default_factory=Perturbation)
    sung_share: float = 0.4  # of the clips, which are raised or lowered as songs are

    @classmethod
    def of(
        cls, corpus: Corpus, voices: Sequence[VoicePlan], leave_out: Sequence[str] = ()
    ) -> PairedClips:
        """Training clips of every voice and of all other speakers that are not held out.

        `leave_out` names corpora that nobody but voices is taken from.
        """
        taken = {plan.key for plan in voices}
        clips = [voice_clips(corpus, plan, held_out=False) for plan in voices]
        others: dict[tuple[str, str], list[int]] = {}
        for index in corpus.indices(held_out=False):
            clip = corpus.clips[index]
            if (clip.corpus, clip.speaker) not in taken and not (
                clip.style or clip.corpus in leave_out
            ):
                others.setdefault((clip.corpus, clip.speaker), []).append(index)
        pitches = {
            index: usual_pitch(corpus.f0(index).numpy())
            for group in (*clips, *others.values())
            for index in group
        }

        def usable(group: Sequence[int]) -> tuple[int, ...]:
            return tuple(i for i in group if pitches[i] >= _LEAST_VOICED_HZ)

        kept = [usable(group) for group in clips]
        if empty := [plan.name for plan, own in zip(voices, kept, strict=True) if not own]:
            raise ValueError(f"voice {empty[0]} has no clip with speech to train on; add some")
        kept += [group for group in map(usable, others.values()) if group]
        return cls(corpus, tuple(voices), tuple(kept), pitches)

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the converter's domains."""
        return (*(plan.name for plan in self.voices), ANYONE)

    def speakers(
        self, count: int, named_share: float, *, generator: torch.Generator
    ) -> Int[Tensor, " B"]:
        """Random speakers: this share of them voices, the others by their clips' length."""
        n_voices = len(self.voices)
        weights = torch.tensor(
            [sum(self.corpus.clips[i].seconds for i in group) for group in self.clips]
        )
        weights[:n_voices] = 0.0
        if not weights.any():
            named_share, weights = 1.0, torch.ones_like(weights)
        named = torch.randint(n_voices, (count,), generator=generator)
        other = torch.multinomial(weights, count, replacement=True, generator=generator)
        is_named = torch.rand(count, generator=generator) < named_share
        return torch.where(is_named, named, other)

    def crops(self, clips: Sequence[int], frames: int, *, generator: torch.Generator) -> Crops:
        """A piece of each clip at a random loudness; short clips are repeated."""
        hop = MelConfig().hop_length
        wide = (frames + 2 * MARGIN) * hop
        rows = []
        for clip in clips:
            samples = self.corpus.samples(clip)
            samples = samples.repeat(-(-wide // len(samples)))
            first = int(torch.randint((len(samples) - wide) // hop + 1, (1,), generator=generator))
            rows.append(samples[first * hop : first * hop + wide])
        samples = torch.stack(rows)
        low, high = _GAIN_DB
        gain = 10 ** ((low + (high - low) * torch.rand(len(clips), 1, generator=generator)) / 20)
        loudest = samples.abs().amax(dim=1, keepdim=True)
        samples = samples * torch.minimum(gain, 0.98 / loudest.clamp(min=1e-3))
        f0_hz = torch.tensor([self.f0_hz[clip] for clip in clips])
        return Crops(samples, f0_hz, cut(log_mel(samples), frames))

    def sung(self, crops: Crops, *, generator: torch.Generator) -> Crops:
        """Some of the crops far from where they were spoken, each in its own voice.

        Nobody speaks an octave above the usual pitch, and a converter that never heard a voice
        there sings flat.
        """
        count, frames = len(crops.samples), crops.mel.shape[-1]
        chosen = torch.rand(count, generator=generator) < self.sung_share
        low, high = _SUNG
        ratio = torch.exp2((low + (high - low) * torch.rand(count, generator=generator)) / 12)
        ratio = (crops.f0_hz * ratio).clamp(*_SUNG_HZ) / crops.f0_hz
        ratio = torch.where(chosen, ratio, 1.0)
        samples = crops.samples.clone()
        for row in chosen.nonzero()[:, 0].tolist():
            moved = reshaped(samples[row].numpy(), pitch_ratio=float(ratio[row]))
            samples[row] = torch.from_numpy(moved).to(samples)
        return Crops(samples, crops.f0_hz * ratio, cut(log_mel(samples), frames))

    def clips_of(self, speakers: Int[Tensor, " B"], *, generator: torch.Generator) -> list[int]:
        """A random clip of each speaker."""
        chosen = []
        for speaker in speakers.tolist():
            own = self.clips[speaker]
            chosen.append(own[int(torch.randint(len(own), (1,), generator=generator))])
        return chosen

    def batch(
        self,
        count: int,
        frames: int,
        reference_frames: int,
        latent_dim: int,
        *,
        named_share: float = 0.6,
        drawn_share: float = 0.2,
        generator: torch.Generator,
    ) -> PairBatch:
        """Clips of random speakers, what is heard of them, and references of the same speakers."""
        speakers = self.speakers(count, named_share, generator=generator)
        clips = self.clips_of(speakers, generator=generator)
        own = self.crops(clips, frames, generator=generator)
        own = self.sung(own, generator=generator)
        others = self.clips_of(speakers, generator=generator)
        reference = self.crops(others, reference_frames, generator=generator)
        heard = perturbed_mel(own.samples, own.f0_hz, self.perturbation, generator=generator)
        anyone = len(self.voices)
        # some voices are read as anyone's too, so that that head knows them
        as_anyone = torch.rand(count, generator=generator) < 0.15
        domain = torch.where(as_anyone, anyone, speakers.clamp(max=anyone))
        drawn = torch.rand(count, generator=generator) < drawn_share
        return PairBatch(
            cut(heard, frames),
            own.mel,
            reference.mel,
            domain,
            speakers,
            torch.log2(reference.f0_hz),
            torch.randn(count, latent_dim, generator=generator),
            drawn & (domain < anyone),
            torch.tensor(others),
        )


def cut(mel: Float[Tensor, "B M W"], frames: int) -> Float[Tensor, "B 1 M T"]:
    """The normalised mel of a crop without its margins."""
    return normalised(mel)[:, None, :, MARGIN : MARGIN + frames]


def voice_clips(corpus: Corpus, plan: VoicePlan, *, held_out: bool) -> tuple[int, ...]:
    """The clips of a voice on one side of its own split: one in eight is held back."""
    own = [i for i, c in enumerate(corpus.clips) if (c.corpus, c.speaker) == plan.key]
    if len(own) < 2:
        return () if held_out else tuple(own)
    marked = [i for i in own if corpus.clips[i].held_out]
    if 0 < len(marked) < len(own):
        back = set(marked)
    else:
        # a speaker whom the corpus holds out, or does not, as a whole
        back = {i for number, i in enumerate(own) if number % HELD_BACK == min(7, len(own) - 1)}
    return tuple(i for i in own if (i in back) == held_out)
