"""Conversion of lines of any length, live or from files, in memory that does not grow.

The line is converted hop by hop on a grid of mel frames that starts with its first sample, so that
the result does not depend on how the samples were cut into blocks (`voice.stargan_stream` says
what a hop is made from). The networks want speech whose peak is 1: a whole line is divided by its
peak, a stream by the peak that it has reached, which is forgotten slowly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from voice.audio import SAMPLE_RATE, read_blocks, save_blocks
from voice.converter import Converter
from voice.expander import expanded
from voice.mel import MelConfig, denormalised, normalised
from voice.stargan_stream import GeneratorStream
from voice.stream_ends import Front, vocoding, waits_for
from voice.stream_pitch import FollowedPitch

_HOP = MelConfig().hop_length
_FRAME_S = _HOP / SAMPLE_RATE
# 50 dB under the loudest band of speech whose peak is 1; quieter frames are pauses
_PAUSE = -2.5
_PIECE = 10 * SAMPLE_RATE  # taken at once of a longer block


@dataclass(frozen=True)
class StreamConfig:
    """How far a stream goes at a time, looks ahead and looks back."""

    hop_s: float = 0.1  # converted at a time
    ahead_s: float = 0.0375  # heard beyond that before it is converted
    memory_s: float = 3.0  # over which the networks' norms fade
    peak: float | None = None  # of the whole line, where it is known; else it is followed
    first_peak: float = 0.1  # until a louder one is heard
    quietest_peak: float = 0.02  # what is quieter throughout stays quiet
    peak_half_life_s: float = 20.0

    def __post_init__(self) -> None:
        if self.hop_s < _FRAME_S or self.ahead_s < 0 or self.memory_s <= 0:
            raise ValueError(
                f"hop_s={self.hop_s} must be at least {_FRAME_S}, ahead_s={self.ahead_s} at least "
                f"0 and memory_s={self.memory_s} above 0"
            )
        if min(self.first_peak, self.quietest_peak, self.peak_half_life_s) <= 0:
            raise ValueError("first_peak, quietest_peak and peak_half_life_s must be above 0")
        if self.peak is not None and self.peak <= 0:
            raise ValueError(f"peak={self.peak} must be above 0; leave it out to have it followed")

    @property
    def ahead_frames(self) -> int:
        """Mel frames that a step waits for beyond its hop."""
        return round(self.ahead_s / _FRAME_S)

    def hop_frames(self, step: int) -> int:
        """Mel frames of a hop, a multiple of `step`."""
        return max(1, round(self.hop_s / _FRAME_S / step)) * step


LIVE = StreamConfig()
# a second ahead is all that the convolutions can see
FILE = StreamConfig(hop_s=3.0, ahead_s=1.0, memory_s=10.0)


def latency_s(converter: Converter, config: StreamConfig = LIVE) -> float:
    """The longest that a sample waits for later samples, the time to compute not counted.

    To it comes what the caller waits to fill a block.
    """
    hop = config.hop_frames(converter.generator.config.frame_step)
    frames = hop - 1 + config.ahead_frames + waits_for(converter.vocoder)
    return frames * _FRAME_S + MelConfig().win_length / 2 / SAMPLE_RATE


def convert_stream(
    converter: Converter,
    blocks: Iterable[Float[Tensor, " _"]],
    style: Float[Tensor, "1 S"],
    *,
    config: StreamConfig = LIVE,
    semitones: float | None = None,
    generator: torch.Generator,
) -> Iterator[Float[Tensor, " _"]]:
    """Blocks of a line at 24 kHz, of any sizes, in a style's voice, block by block.

    Blocks come out as soon as they can be told, in all as many samples as went in. The level is
    that of a line with a peak of 1. The pitch moves by `semitones`, or as `Converter.convert` would
    move it if the last minute of speech were the line. ValueError for a converter without a vocoder
    that can stream, and for samples that are not numbers.
    """
    stream = ConverterStream(converter, style, config, semitones=semitones, generator=generator)
    for block in blocks:
        sound = stream.push(block)
        if len(sound):
            yield sound
    yield stream.flush()


def convert_long(
    converter: Converter,
    source: Iterable[Float[Tensor, " _"]],
    style: Float[Tensor, "1 S"],
    *,
    config: StreamConfig = FILE,
    semitones: float | None = None,
    generator: torch.Generator,
) -> Iterator[Float[Tensor, " _"]]:
    """`convert_stream` as files want it: looking further ahead, so that hops agree better."""
    return convert_stream(
        converter, source, style, config=config, semitones=semitones, generator=generator
    )


def convert_file(
    converter: Converter,
    source: Path | str,
    target: Path | str,
    style: Float[Tensor, "1 S"],
    *,
    config: StreamConfig = FILE,
    semitones: float | None = None,
    generator: torch.Generator,
) -> Path:
    """A sound file of any length converted into a 16-bit WAV, without holding either in memory."""
    blocks = (block.samples[0] for block in read_blocks(source))
    sounds = convert_long(
        converter, blocks, style, config=config, semitones=semitones, generator=generator
    )
    return save_blocks(sounds, target)


class ConverterStream:
    """Feed samples of one line with `push`, then `flush`; join what they return."""

    def __init__(
        self,
        converter: Converter,
        style: Float[Tensor, "1 S"],
        config: StreamConfig = LIVE,
        *,
        semitones: float | None = None,
        generator: torch.Generator,
    ) -> None:
        converter.require_style(style, 1)
        self.config = config
        self._vocoding = vocoding(converter.vocoder, generator)
        self._keeps_pitch = converter.keeps_pitch
        self._hushes_pauses = converter.hushes_pauses
        pitch = converter.pitch if converter.generator.config.F0_channel else None
        self._converting = GeneratorStream(
            converter.generator, pitch, style, config.memory_s / _FRAME_S
        )
        self._front = Front()
        self._step = converter.generator.config.frame_step
        self._hop = config.hop_frames(self._step)
        self._missing = self._hop + config.ahead_frames  # mel frames until the next step
        self._pitch = FollowedPitch(converter, style, semitones)
        self._power = style.new_zeros(MelConfig().n_fft // 2 + 1, 0)
        self._peak = config.first_peak
        self._fresh = 0  # frames heard since the last step
        self._tail: Tensor | None = None  # the last step's guess of this step's first frames
        self._taken = self._given = 0  # samples

    @torch.no_grad()
    def push(self, samples: Float[Tensor, " N"]) -> Float[Tensor, " M"]:
        """The samples that these complete; perhaps none."""
        if not samples.isfinite().all():
            raise ValueError(
                f"the {self._taken + 1}th sample or one soon after is not a number; "
                "a stream takes finite samples, -1..1"
            )
        made = []
        for piece in torch.split(samples.to(self._power), _PIECE):
            self._taken += len(piece)
            self._front.push(piece)
            # always as many frames at a time, so that blocks do not show in the rounding either
            while self._front.frames >= self._missing:
                self._hear(self._missing)
                made.append(self._vocoding.push(*self._convert(self._hop)))
                self._missing = self._hop
        return self._cut(made)

    @torch.no_grad()
    def flush(self) -> Float[Tensor, " M"]:
        """The rest, once the line has ended."""
        if self._taken == 0:
            return self._power.new_zeros(0)
        self._front.finish()
        self._hear(self._front.frames)
        made = []
        if rest := self._power.shape[1]:
            made.append(self._vocoding.push(*self._convert(rest)))
        return self._cut([*made, self._vocoding.flush()])

    def _hear(self, frames: int) -> None:
        power, peaks = self._front.take(frames)
        self._fresh = frames
        self._power = torch.cat([self._power, power], dim=1)
        faded = 2.0 ** (-_FRAME_S / self.config.peak_half_life_s)
        for peak in peaks.tolist():
            self._peak = max(faded * self._peak, peak, self.config.quietest_peak)

    def _convert(self, frames: int) -> tuple[Tensor, Tensor | None]:
        """The next `frames` frames as converted log-mel, from all that has been heard.

        And their melody for the vocoder, where the converter leaves it as it is.
        """
        width = self._power.shape[1]
        peak = self._peak if self.config.peak is None else self.config.peak
        mel = self._pitch.moved_mel(self._power / peak**2, self._fresh)
        self._fresh = 0
        speaks = bool(mel[:, :frames].amax() > _PAUSE)
        padded = torch.cat([mel, mel[:, -1:].expand(-1, -width % self._step)], dim=1)
        # a last step has nothing after it and may be of any length
        done = min(-(-frames // self._step) * self._step, padded.shape[1])
        made = self._converting.step(normalised(padded)[None, None], done, speaks=speaks)
        made = denormalised(made[0, 0, :, :width])
        if self._hushes_pauses:
            made = expanded(made)
        if self._tail is not None and (count := min(self._tail.shape[1], width)):
            share = torch.arange(1, count + 1).to(made) / (self._tail.shape[1] + 1)
            made[:, :count] = torch.lerp(self._tail[:, :count], made[:, :count], share)
        self._tail = made[:, frames:]
        self._power = self._power[:, frames:]
        return made[None, :, :frames], mel[None, :, :frames] if self._keeps_pitch else None

    def _cut(self, made: list[Tensor]) -> Tensor:
        sound = torch.cat(made) if made else self._power.new_zeros(0)
        sound = sound[: self._taken - self._given]
        self._given += len(sound)
        return sound
