"""The two ends of streamed conversion: samples to spectra, and mels to samples."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from voice.mel import MelConfig, normalised
from voice.parallel_wavegan import ParallelWaveGan
from voice.vocoder import Vocoder
from voice.vocos import Vocos
from voice.vocos_stream import VocosStream


class Front:
    """Spectra of a line at the frames of `log_mel`, from samples that arrive in blocks.

    Lines under 1025 samples, too short for `log_mel`, are measured with silence after them.
    """

    def __init__(self, config: MelConfig | None = None) -> None:
        self.config = config = config or MelConfig()
        self._half = config.win_length // 2
        self._window = torch.hann_window(config.win_length)
        self._waiting: list[Tensor] = []
        self._held = torch.zeros(0)  # from half a window before the next frame's centre
        self._length = 0  # samples held or waiting
        self._started = False  # with the line's beginning mirrored before it

    @property
    def frames(self) -> int:
        """Frames that can be taken."""
        if not self._started:
            return 0
        return max(0, 1 + (self._length - 2 * self._half) // self.config.hop_length)

    def push(self, samples: Float[Tensor, " N"]) -> None:
        """Add what follows in the line."""
        self._waiting.append(samples)
        self._length += len(samples)
        if not self._started and self._length > self.config.n_fft // 2:
            self._join()
            self._mirror(self._held[1 : self._half + 1].flip(0), self._held)
            self._started = True

    def finish(self) -> None:
        """Mirror the line's end over its last frames; nothing follows."""
        if not self._started:
            self.push(self._held.new_zeros(self.config.n_fft // 2 + 1 - self._length))
        self._join()
        self._mirror(self._held, self._held[-self._half - 1 : -1].flip(0))

    def take(self, count: int) -> tuple[Float[Tensor, "K T"], Float[Tensor, " T"]]:
        """Power of all bins and peak of each of the next `count` frames."""
        if count == 0:
            return self._held.new_zeros(self.config.n_fft // 2 + 1, 0), self._held.new_zeros(0)
        self._join()
        hop = self.config.hop_length
        frames = self._held.unfold(0, 2 * self._half, hop)[:count]  # [T, N]
        spectrum = torch.fft.rfft(frames * self._window, self.config.n_fft)
        power = spectrum.real.square() + spectrum.imag.square()
        peaks = frames[:, self._half : self._half + hop].abs().amax(dim=1)
        self._held = self._held[count * hop :]
        self._length -= count * hop
        return power.T, peaks

    def _join(self) -> None:
        self._held, self._waiting = torch.cat([self._held, *self._waiting]), []

    def _mirror(self, *parts: Tensor) -> None:
        self._held = torch.cat(parts)
        self._length = len(self._held)


@runtime_checkable
class Vocoding(Protocol):
    """A vocoder on mels that arrive in pieces."""

    def push(
        self, mel: Float[Tensor, "1 M T"], melody: Float[Tensor, "1 M T"] | None = None
    ) -> Float[Tensor, " N"]:
        """The samples that this piece of natural-log mel completes.

        `melody` is as in `voice.converter.Synthesises`; with every piece of a line or with none.
        """
        ...

    def flush(self) -> Float[Tensor, " N"]:
        """The rest, once the mel has ended."""
        ...


class _WithMemory:
    """The vocoder that has a streaming twin."""

    def __init__(self, net: Vocos) -> None:
        self._stream = VocosStream(net)

    def push(self, mel: Tensor, melody: Tensor | None = None) -> Tensor:
        clear = None if melody is None else normalised(melody)
        return self._stream.push(normalised(mel), clear)[0]

    def flush(self) -> Tensor:
        return self._stream.flush()[0]


class _WithContext:
    """A convolutional vocoder, run again over all that acts on the frames it is to give."""

    def __init__(self, vocoder: Vocoder, generator: torch.Generator) -> None:
        vocoder.require_fit(MelConfig())
        self._net, self._generator = vocoder.network, generator
        self._context = vocoder.network.config.context_frames
        self._hop = vocoder.hop_length
        self._mel = torch.zeros(1, MelConfig().n_mels, 0)
        self._noise = torch.zeros(1, 0)
        self._before = 0  # frames held that have been given

    def push(self, mel: Tensor, melody: Tensor | None = None) -> Tensor:
        self._mel = torch.cat([self._mel.to(mel), mel], dim=-1)
        if isinstance(self._net, ParallelWaveGan):
            # drawn frame by frame, so that pieces of other lengths draw the same
            drawn = [torch.randn(1, self._hop, generator=self._generator) for _ in mel[0, 0]]
            self._noise = torch.cat([self._noise.to(mel), *(row.to(mel) for row in drawn)], dim=-1)
        return self._sound(self._mel.shape[-1] - self._context)

    def flush(self) -> Tensor:
        return self._sound(self._mel.shape[-1])

    def _sound(self, end: int) -> Tensor:
        if end <= self._before:
            return self._mel.new_zeros(0)
        if isinstance(self._net, ParallelWaveGan):
            sound = self._net(self._mel_normalised(), self._noise)
        else:
            sound = self._net(self._mel_normalised())
        made = sound[0, self._before * self._hop : end * self._hop].clamp(-1, 1)
        dropped = max(0, end - self._context)
        self._mel, self._noise = self._mel[..., dropped:], self._noise[:, dropped * self._hop :]
        self._before = end - dropped
        return torch.as_tensor(made)

    def _mel_normalised(self) -> Tensor:
        return normalised(self._mel)


def vocoding(vocoder: object, generator: torch.Generator) -> Vocoding:
    """A vocoder ready for one line; ValueError for none, and for one that cannot stream."""
    if isinstance(vocoder, Vocos):
        return _WithMemory(vocoder)
    if isinstance(vocoder, Vocoder):
        return _WithContext(vocoder, generator)
    raise ValueError(_cannot(vocoder))


def can_stream(vocoder: object) -> bool:
    """Whether `vocoding` takes a vocoder."""
    return isinstance(vocoder, (Vocos, Vocoder))


def waits_for(vocoder: object) -> int:
    """Mel frames after a frame that the vocoder waits for."""
    if isinstance(vocoder, Vocos):
        return vocoder.config.look_ahead
    if isinstance(vocoder, Vocoder):
        return vocoder.network.config.context_frames
    raise ValueError(_cannot(vocoder))


def _cannot(vocoder: object) -> str:
    if vocoder is None:
        return "this converter came without a vocoder; pass one to load_converter(vocoder=...)"
    return (
        f"{type(vocoder).__name__} cannot stream; "
        "use a Vocos, Parallel WaveGAN or HiFi-GAN vocoder, or convert the line whole"
    )
