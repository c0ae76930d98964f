"""A vocoder as one value: the network, the rate of its sound, and how long mels go through it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from voice.audio import SAMPLE_RATE, Audio
from voice.hifigan import HifiGan
from voice.mel import MelConfig, normalised
from voice.parallel_wavegan import ParallelWaveGan

CHUNK_FRAMES = 800  # 10 s; bounds the memory of long lines, and changes nothing else


@dataclass(frozen=True, eq=False)
class Vocoder:
    """A published waveform network in evaluation mode."""

    network: ParallelWaveGan | HifiGan
    sample_rate_hz: int = SAMPLE_RATE

    @property
    def hop_length(self) -> int:
        """Samples of a frame."""
        return self.network.config.hop_length

    @torch.no_grad()
    def synthesise(
        self,
        mel: Float[Tensor, "B M T"],
        *,
        generator: torch.Generator,
        melody: Float[Tensor, "B M T"] | None = None,  # not needed
    ) -> Audio:
        """The sound of a natural-log mel (`voice.mel.log_mel`), T * hop_length samples.

        Parallel WaveGAN draws its noise from `generator`; HiFi-GAN has none. ValueError for a
        vocoder that was made for another mel than the converter's.
        """
        self.require_fit(MelConfig())
        self._require_frames(mel)
        return Audio(self._waveform(normalised(mel), generator).clamp(-1, 1))

    @torch.no_grad()
    def waveform(
        self, mel: Float[Tensor, "B M T"], *, generator: torch.Generator
    ) -> Float[Tensor, "B N"]:
        """The network's own output for a mel in the form that it was trained on, at its own rate.

        For vocoders of other projects, whose mel is theirs to compute.
        """
        self._require_frames(mel)
        return self._waveform(mel, generator)

    def require_fit(self, config: MelConfig) -> None:
        """ValueError unless the vocoder's rate and hop are those of a front end."""
        wanted = (config.sample_rate, config.hop_length)
        if (self.sample_rate_hz, self.hop_length) != wanted:
            raise ValueError(
                f"this vocoder has {self.hop_length} samples a frame at {self.sample_rate_hz} Hz, "
                f"the converter's mel has {wanted[1]} at {wanted[0]} Hz; "
                "use a vocoder that was trained on the converter's mel"
            )

    def _require_frames(self, mel: Tensor) -> None:
        if mel.shape[-1] == 0:
            raise ValueError("the mel has no frames; pass at least one")

    def _waveform(self, mel: Tensor, generator: torch.Generator) -> Tensor:
        frames, hop = mel.shape[-1], self.hop_length
        noise = None
        if isinstance(self.network, ParallelWaveGan):
            # drawn at once and where the generator lives: the same for any chunk and device
            drawn = torch.randn(len(mel), frames * hop, generator=generator, dtype=torch.float32)
            noise = drawn.to(mel)
        context = self.network.config.context_frames
        pieces = []
        for start in range(0, frames, CHUNK_FRAMES):
            stop = min(start + CHUNK_FRAMES, frames)
            first, last = max(0, start - context), min(frames, stop + context)
            part = mel[..., first:last]
            if isinstance(self.network, ParallelWaveGan):
                assert noise is not None
                sound = self.network(part, noise[:, first * hop : last * hop])
            else:
                sound = self.network(part)
            pieces.append(sound[:, (start - first) * hop : (stop - first) * hop])
        return torch.cat(pieces, dim=1)
