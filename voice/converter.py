"""A voice converter as one value: speech in, the same words in another speaker's voice out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast, overload, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voice.audio import Audio
from voice.expander import expanded
from voice.jdc import F0Net
from voice.mel import MelConfig, denormalised, log_mel, normalised
from voice.stargan import Generator, MappingNetwork, StyleEncoder
from voice.stream_ends import can_stream
from voice.transpose import median_pitch, transposed_mel

RELEASED_SPEAKERS = (  # of VCTK; the first ten are women, the others men
    *("p225", "p228", "p229", "p230", "p231", "p233", "p236", "p239", "p240", "p244"),
    *("p226", "p227", "p232", "p243", "p254", "p256", "p258", "p259", "p270", "p273"),
)
LONGEST_WHOLE_S = 60.0  # beyond, the networks' memory for one line takes gigabytes


@runtime_checkable
class Synthesises(Protocol):
    """What a converter needs of a vocoder."""

    def synthesise(
        self,
        mel: Float[Tensor, "B M T"],
        *,
        generator: torch.Generator,
        melody: Float[Tensor, "B M T"] | None = None,
    ) -> Audio:
        """The sound of a natural-log mel, at least T - 1 hops long.

        `melody` is a clearer mel of the same pitch, for those that look for the pitch.
        """
        ...


@dataclass(frozen=True, eq=False)
class Converter:
    """The networks of StarGANv2-VC in evaluation mode, with the names of its speakers."""

    generator: Generator
    mapping_network: MappingNetwork
    style_encoder: StyleEncoder
    pitch: F0Net
    speakers: tuple[str, ...]
    vocoder: Synthesises | None = None
    style_pitch: nn.Linear | None = None  # style to log2 Hz; None: the generator moves the pitch
    keeps_pitch: bool = False  # the generator's mels have the pitch of those that it is given
    hushes_pauses: bool = False  # by `voice.expander`, what the generator leaves in them

    def __post_init__(self) -> None:
        domains = self.mapping_network.config.num_domains
        if len(self.speakers) != domains or len(set(self.speakers)) != domains:
            raise ValueError(
                f"this converter has {domains} speakers, {len(self.speakers)} names were given"
            )

    @overload
    def convert(
        self,
        source: Audio,
        style: Tensor,
        *,
        generator: torch.Generator | None = None,
        semitones: float | None = None,
    ) -> Audio: ...

    @overload
    def convert(
        self,
        source: Tensor,
        style: Tensor,
        *,
        generator: torch.Generator | None = None,
        semitones: float | None = None,
    ) -> Tensor: ...

    @torch.no_grad()
    def convert(
        self,
        source: Audio | Float[Tensor, "B M T"],
        style: Float[Tensor, "Y S"],
        *,
        generator: torch.Generator | None = None,
        semitones: float | None = None,
    ) -> Audio | Float[Tensor, "B M T"]:
        """The source's words in a style: sound for sound, or natural-log mel for mel.

        Lengths stay. Y is 1, for the whole batch, or B. Sound needs a vocoder, and a generator for
        its noise. The melody follows the source; its mean moves to where the style's speaker is,
        or by `semitones`; a mel is taken to be at the wanted pitch if there is a `style_pitch`.
        Sound may pass -1..1; `voice.revoice` levels and limits it.
        Sound of more than a minute is converted as `voice.stream.convert_long` does it, in bounded
        memory, where the vocoder can stream.
        """
        if isinstance(source, Tensor):
            if semitones is not None:
                raise ValueError("a mel cannot be moved by semitones; pass the sound itself")
            return self._convert_mel(source, style)
        if self.vocoder is None:
            raise ValueError(
                "this converter came without a vocoder; pass one to load_converter(vocoder=...)"
            )
        if generator is None:
            raise ValueError("sound needs generator=torch.Generator(), for the vocoder's noise")
        samples = source.samples
        if source.duration_s > LONGEST_WHOLE_S and can_stream(self.vocoder):
            return self._convert_long(samples, style, generator, semitones)
        self.require_style(style, len(samples))
        loudest = samples.abs().amax(dim=1, keepdim=True)
        mel = self._source_mel(samples / loudest.clamp_min(1e-8), style, semitones)
        converted = self._convert_mel(mel, style)
        melody = mel if self.keeps_pitch else None
        sound = self.vocoder.synthesise(converted, generator=generator, melody=melody)
        missing = max(0, samples.shape[1] - sound.samples.shape[1])
        return Audio(F.pad(sound.samples, (0, missing))[:, : samples.shape[1]])

    @torch.no_grad()
    def semitones_to(
        self, source: Audio, style: Float[Tensor, "Y S"], limit: float = 18.0
    ) -> Float[Tensor, " B"]:
        """How far `convert` moves each signal's pitch; 0 where nothing is voiced.

        At most `limit` up or down, and 0 for a converter whose generator moves the pitch.
        """
        loudest = source.samples.abs().amax(dim=1, keepdim=True)
        mel = log_mel(source.samples / loudest.clamp_min(1e-8), MelConfig())
        return self._move(self._median_hz(mel), style, limit)

    @torch.no_grad()
    def style_of(
        self, reference: Audio | Float[Tensor, "B M T"], speaker: str | int
    ) -> Float[Tensor, "B S"]:
        """The style of reference sound, or of its natural-log mel, read as a speaker's.

        At least one second. The reference's own speaker is meant; another name shifts the style.
        """
        mel = log_mel(reference.samples, MelConfig()) if isinstance(reference, Audio) else reference
        domain = torch.full((len(mel),), self.label(speaker), device=mel.device)
        return cast(Tensor, self.style_encoder(normalised(mel)[:, None], domain))

    @torch.no_grad()
    def random_style(
        self, speaker: str | int, *, generator: torch.Generator
    ) -> Float[Tensor, "1 S"]:
        """A style of a speaker from the mapping network; each draw is another way of speaking."""
        weight = self.mapping_network.shared[0].weight
        assert isinstance(weight, Tensor)
        latent = torch.randn(1, self.mapping_network.config.latent_dim, generator=generator)
        domain = torch.tensor([self.label(speaker)], device=weight.device)
        return cast(Tensor, self.mapping_network(latent.to(weight), domain))

    def label(self, speaker: str | int) -> int:
        """A speaker's number; ValueError lists the names."""
        if isinstance(speaker, int) and 0 <= speaker < len(self.speakers):
            return speaker
        if speaker in self.speakers:
            return self.speakers.index(str(speaker))
        raise ValueError(
            f"no speaker {speaker!r} in this converter; it has {', '.join(self.speakers)}"
        )

    def _convert_long(
        self, samples: Tensor, style: Tensor, generator: torch.Generator, semitones: float | None
    ) -> Audio:
        from voice.stream import convert_long  # which imports this module

        self.require_style(style, len(samples))
        rows = []
        for row, row_style in zip(samples, style.expand(len(samples), -1), strict=True):
            made = convert_long(
                self, [row], row_style[None], semitones=semitones, generator=generator
            )
            rows.append(torch.cat(list(made)))
        return Audio(torch.stack(rows))

    def _source_mel(self, samples: Tensor, style: Tensor, semitones: float | None) -> Tensor:
        mel = log_mel(samples, MelConfig())
        if semitones is None and self.style_pitch is None:
            return mel
        heard_hz = self._median_hz(mel)
        if semitones is None:
            move = self._move(heard_hz, style, 18.0)
        else:
            move = torch.full_like(heard_hz, semitones)
        if not bool(move.any()):
            return mel
        usual_hz = torch.where(heard_hz > 0, heard_hz, 150.0)
        return transposed_mel(samples, torch.exp2(move / 12), usual_hz)

    def _median_hz(self, mel: Tensor) -> Tensor:
        pitch, silence = self.pitch.pitch_and_silence(normalised(mel)[:, None])
        return median_pitch(pitch.f0, silence)

    def _move(self, heard_hz: Tensor, style: Tensor, limit: float) -> Tensor:
        if self.style_pitch is None:
            return torch.zeros_like(heard_hz)
        wanted = self.style_pitch(style)[:, 0].expand(len(heard_hz))
        move = 12 * (wanted - torch.log2(heard_hz.clamp(min=1.0)))
        return torch.where(heard_hz > 0, move.clamp(-limit, limit), 0.0)

    def _convert_mel(self, mel: Tensor, style: Tensor) -> Tensor:
        self.require_style(style, len(mel))
        frames, step = mel.shape[-1], self.generator.config.frame_step
        padded = F.pad(normalised(mel), (0, -frames % step), mode="replicate")[:, None]
        pitch = self.pitch.feature(padded) if self.generator.config.F0_channel else None
        converted = self.generator(padded, style.expand(len(mel), -1), pitch)
        made = denormalised(converted[:, 0, :, :frames])
        return expanded(made) if self.hushes_pauses else made

    def require_style(self, style: Tensor, count: int) -> None:
        """ValueError unless a style, or one of each of `count` lines, fits the generator."""
        wanted = self.generator.config.style_dim
        if style.ndim != 2 or style.shape[1] != wanted or len(style) not in (1, count):
            raise ValueError(
                f"the style has the shape {list(style.shape)}; wanted is [1, {wanted}] "
                f"or [{count}, {wanted}], as style_of returns it"
            )


def speaker_names(count: int, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names of a converter's speakers: those given, the release's for twenty, else numbers."""
    if given is not None:
        return tuple(given)
    if count == len(RELEASED_SPEAKERS):
        return RELEASED_SPEAKERS
    return tuple(str(number) for number in range(count))
