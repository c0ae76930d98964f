"""A vocoder in the frequency domain: mels to sound by an inverse STFT of predicted spectra.

The backbone and the head are those of Vocos (Siuzdak 2023). Instead of a free phase the head
predicts filters, with phases of their own, for two excitations: pulses at the pitch and noise
(as in neural source-filter models). Pitch is then kept to the cent and can be given from outside,
and a small network trained without adversaries does not buzz. The spectra are then fitted to the
mel (`vocos_fit`), so that the network need not learn what the mel says already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from voice.audio import SAMPLE_RATE, Audio
from voice.mel import MelConfig, denormalised, mel_bank, normalised
from voice.vocos_fit import bank_of_frames, pooling_of_bands, refined
from voice.vocos_pitch import combs_of, salience
from voice.vocos_source import excitations, frame_phases, overlap_add, spectra

# Nepers that noise stays under the envelope at low frequencies, where voices have little; the fit
# to the mel raises it where there are no pulses. The network decides how loud pulses are beside
# it. Noise that is itself learnt by comparing spectra comes out too loud, standing in for all that
# cannot be known, and speech sounds hoarse.
_NOISE_BELOW = 2.5
# Nepers that pulses are at most above the noise at low frequencies, falling to 0 from 1 to 5.5 kHz:
# comparing spectra alone would have them everywhere, and high frequencies would buzz.
_CLEAREST = 2.5
# How much earlier in a period high frequencies come than low ones: pulses whose harmonics all meet
# would have twice the peaks of a voice.
_DISPERSION_S = 0.002
_POOL_HZ = 500.0  # wider apart than harmonics of most voices
# How much a melody's likeness weighs beside the mel's own: converted mels are smoother than
# recorded ones, and their low pitches are easily taken for an octave below. Of the high notes of
# songs they show faint harmonics; those of the melody are far apart and clear there.
_MELODY, _HIGH_MELODY = 2.0, 6.0
_HIGH_HZ = (400.0, 500.0)  # from one weight to the other
# Logits of voicing for each unit that a melody's best likeness is above that of frames which may be
# either: recorded voiced frames have .58 in the middle, unvoiced ones .26. The harmonics of high
# notes are faint once converted, and the notes would break off.
_VOICED, _EITHER = 8.0, 0.38


@dataclass(frozen=True)
class VocosConfig:
    """Sizes of the vocoder; 1 frame is 12.5 ms."""

    dim: int = 256
    hidden: int = 512
    layers: int = 8
    kernel: int = 7
    embed_ahead: int = 1  # frames that the first layer looks ahead
    ahead: int = 1  # further layers that look one frame ahead each
    pitch_layers: int = 3  # of the layers; the pitch is read after them
    pitch_bins: int = 224
    lowest_hz: float = 50.0
    bin_cents: float = 25.0
    n_fft: int = 1200
    hop_length: int = 300
    refinements: int = 4  # rounds of fitting the sound to the mel
    refine_ahead: int = 2  # of the rounds; each looks one frame ahead

    def __post_init__(self) -> None:
        if not 0 < self.pitch_layers < self.layers:
            raise ValueError(f"pitch_layers={self.pitch_layers} must be 1..{self.layers - 1}")
        if not 0 <= self.ahead <= self.layers or not 0 <= self.embed_ahead < self.kernel:
            raise ValueError(
                f"ahead={self.ahead} must be 0..{self.layers} and "
                f"embed_ahead={self.embed_ahead} 0..{self.kernel - 1}"
            )
        if not 0 <= self.refine_ahead <= self.refinements:
            raise ValueError(f"refine_ahead={self.refine_ahead} must be 0..{self.refinements}")
        if self.n_fft != 4 * self.hop_length:
            raise ValueError(f"n_fft={self.n_fft} must be 4 * hop_length={4 * self.hop_length}")

    @property
    def look_ahead(self) -> int:
        """Mel frames after a frame that its 300 samples depend on; the source needs 4 of them."""
        return self.embed_ahead + self.ahead + self.refine_ahead + 4


@dataclass(frozen=True, eq=False)
class Filters:
    """What the network says of B mels, per frame."""

    pitch_logits: Float[Tensor, "B T P"]
    voicing_logit: Float[Tensor, "B T"]
    log_harmonic: Float[Tensor, "B T K"]  # gain of the pulses
    phase: Float[Tensor, "B T K"]  # rad; what the filter adds to the pulses' phase
    log_noise: Float[Tensor, "B T K"]  # gain of the noise
    log_power: Float[Tensor, "B T M"]  # natural-log mel that the sound is fitted to


class Vocos(nn.Module):
    """Normalised mels of 80 bands to sound at 24 kHz, 300 samples a frame."""

    interpolation: Tensor
    offset: Tensor
    breath: Tensor
    clearest: Tensor
    dispersion: Tensor
    bank: Tensor
    pooling: Tensor
    melody_weights: Tensor
    surroundings: Tensor
    combs: Tensor

    def __init__(self, config: VocosConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VocosConfig()
        mel = MelConfig()
        bins = config.n_fft // 2 + 1
        self.embed = FrameConv(mel.n_mels, config.dim, config.kernel, config.embed_ahead)
        self.embed_norm = nn.LayerNorm(config.dim)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config, ahead=int(layer < config.ahead)) for layer in range(config.layers)
        )
        self.salience_embed = nn.Linear(config.pitch_bins, config.dim)
        self.salience_scale = nn.Parameter(torch.tensor(10.0))
        self.pitch_norm = nn.LayerNorm(config.dim)
        self.pitch_head = nn.Linear(config.dim, config.pitch_bins + 1)
        self.pitch_embed = nn.Linear(3, config.dim)
        self.head_norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, 2 * bins + mel.n_mels)
        self.strengths = nn.Parameter(torch.full((config.refinements,), 1.3))
        interpolation, offset = _envelope_of_mel(mel, config.n_fft)
        self.register_buffer("interpolation", interpolation, persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        hertz = torch.linspace(0, mel.sample_rate / 2, bins)
        quieter = _NOISE_BELOW * (1 - ((hertz - 1_500) / 5_000).clamp(0, 1))
        self.register_buffer("breath", -quieter, persistent=False)
        clearest = _CLEAREST * (1 - ((hertz - 1_000) / 4_500).clamp(0, 1))
        self.register_buffer("clearest", clearest, persistent=False)
        delay_s = -_DISPERSION_S * (hertz / 2_500).clamp(0, 1)
        turns = -(delay_s * hertz[1]).cumsum(0)
        self.register_buffer("dispersion", 2 * math.pi * turns, persistent=False)
        self.register_buffer("bank", bank_of_frames(mel, config.n_fft), persistent=False)
        self.register_buffer("pooling", pooling_of_bands(mel, _POOL_HZ), persistent=False)
        index = torch.arange(config.pitch_bins)
        pitches_hz = config.lowest_hz * torch.exp2(index * config.bin_cents / 1200)
        surroundings, combs = combs_of(mel, pitches_hz)
        low_hz, high_hz = _HIGH_HZ
        high = ((pitches_hz - low_hz) / (high_hz - low_hz)).clamp(0, 1)
        weights = _MELODY + (_HIGH_MELODY - _MELODY) * high
        self.register_buffer("melody_weights", weights, persistent=False)
        self.register_buffer("surroundings", surroundings, persistent=False)
        self.register_buffer("combs", combs, persistent=False)
        self._begin_as_a_classical_vocoder()

    def forward(
        self,
        mel: Float[Tensor, "B 80 T"],
        f0: Float[Tensor, "B T"] | None = None,
        melody: Float[Tensor, "B 80 T"] | None = None,
    ) -> Float[Tensor, "B N"]:
        """The sound of each mel, 300 samples a frame; frame t is centred on sample 300 t.

        `melody` is a clearer mel of the same pitch, such as the one that `mel` was converted from.
        `f0`, in Hz, 0 where unvoiced, replaces the pitch that the network hears. With either, of
        `mel` only the envelope is kept to, as its own harmonics may lie elsewhere: a converted
        high note's are up to a semitone flat. The noise depends on the position alone, so the same
        mel always gives the same samples.
        """
        filters = self.filters(mel, f0, melody)
        pitch_hz, voiced = self.pitch(filters) if f0 is None else filled(f0)
        frames = torch.arange(mel.shape[-1], device=mel.device)
        phases = frame_phases(pitch_hz, self.config.hop_length)
        pulses, noise = excitations(pitch_hz, voiced, phases, frames, self.config.hop_length)
        n_fft, hop = self.config.n_fft, self.config.hop_length
        out = self.spectrum(filters, spectra(pulses, n_fft, hop), spectra(noise, n_fft, hop))
        pooled = f0 is not None or melody is not None
        return overlap_add(self.refined(out, filters, pooled=pooled), n_fft, hop)

    @torch.no_grad()
    def synthesise(
        self,
        mel: Float[Tensor, "B M T"],
        *,
        generator: torch.Generator,
        melody: Float[Tensor, "B M T"] | None = None,
    ) -> Audio:
        """The sound of a natural-log mel, 300 samples a frame, as every vocoder here gives it.

        Nothing is drawn from the generator: the noise is a function of the position. The pitch is
        looked for in a natural-log `melody` too.
        """
        return Audio(self(normalised(mel), melody=None if melody is None else normalised(melody)))

    def filters(
        self,
        mel: Float[Tensor, "B 80 T"],
        f0: Float[Tensor, "B T"] | None = None,
        melody: Float[Tensor, "B 80 T"] | None = None,
    ) -> Filters:
        """The network's answer; with `f0` the later layers are told that pitch, not their own."""
        x, logits, voicing = self.heard(mel, melody)
        x = x + self.described(logits, voicing, f0)
        for block in self.blocks[self.config.pitch_layers :]:
            x = block(x)
        return self.read(mel, self.head(self.head_norm(x)), logits, voicing)

    def heard(
        self, mel: Float[Tensor, "B 80 T"], melody: Float[Tensor, "B 80 T"] | None = None
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B T P"], Float[Tensor, "B T"]]:
        """The first layers' answer, logits of the pitch and of voicing."""
        likeness = self.likeness(mel)
        x = self.embedded(self.embed(mel).transpose(1, 2), likeness)
        for block in self.blocks[: self.config.pitch_layers]:
            x = block(x)
        return x, *self.pitch_logits(x, likeness, None if melody is None else self.likeness(melody))

    def likeness(self, mel: Float[Tensor, "B 80 T"]) -> Float[Tensor, "B T P"]:
        """How well each pitch explains each frame, -1..1."""
        return salience(denormalised(mel).transpose(1, 2), self.surroundings, self.combs)

    def embedded(
        self, x: Float[Tensor, "B T C"], likeness: Float[Tensor, "B T P"]
    ) -> Float[Tensor, "B T C"]:
        """What goes into the first layer, of the convolved mel."""
        return cast(Tensor, self.embed_norm(x) + self.salience_embed(likeness))

    def pitch_logits(
        self,
        x: Float[Tensor, "B T C"],
        likeness: Float[Tensor, "B T P"],
        melody: Float[Tensor, "B T P"] | None = None,
    ) -> tuple[Float[Tensor, "B T P"], Float[Tensor, "B T"]]:
        """Logits of the pitch and of voicing, of the first layers' answer.

        `likeness` is the mel's, `melody` that of the clearer mel.
        """
        pitch = self.pitch_head(self.pitch_norm(x))
        voicing = pitch[..., -1]
        if melody is not None:
            short = melody - melody.amax(-1, keepdim=True)  # 0 at its best, whatever the weight
            likeness = likeness + self.melody_weights * short
            voicing = voicing + _VOICED * (melody.amax(-1) - _EITHER)
        return pitch[..., :-1] + self.salience_scale * likeness, voicing

    def pitch(self, filters: Filters) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        """Pitch in Hz, guessed also where unvoiced, and 1 where voiced."""
        return self._heard(filters.pitch_logits, filters.voicing_logit)

    def spectrum(
        self,
        filters: Filters,
        pulses: Float[Tensor, "B T K 2"],
        noise: Float[Tensor, "B T K 2"],
    ) -> Float[Tensor, "B T K 2"]:
        """Filtered pulses plus filtered noise, not refined; real and imaginary parts."""
        return self.harmonic(filters, pulses) + filters.log_noise.exp()[..., None] * noise

    def harmonic(
        self, filters: Filters, pulses: Float[Tensor, "B T K 2"]
    ) -> Float[Tensor, "B T K 2"]:
        """The filtered pulses alone."""
        gain = filters.log_harmonic.exp()
        real, imaginary = gain * filters.phase.cos(), gain * filters.phase.sin()
        along = real * pulses[..., 0] - imaginary * pulses[..., 1]
        across = real * pulses[..., 1] + imaginary * pulses[..., 0]
        return torch.stack([along, across], dim=-1)

    def refined(
        self, spectrum: Float[Tensor, "B T K 2"], filters: Filters, *, pooled: bool = False
    ) -> Float[Tensor, "B T K 2"]:
        """Spectra whose sound agrees with itself and with the mel that the filters name.

        Pooled, it agrees with the mel's envelope alone.
        """
        return refined(
            spectrum,
            filters.log_power,
            self.bank,
            self.interpolation,
            self.strengths,
            self.config.refine_ahead,
            self.pooling if pooled else None,
        )

    def _begin_as_a_classical_vocoder(self) -> None:
        """Pulses below, noise above and where unvoiced, in the mel's envelope."""
        bins = self.config.n_fft // 2 + 1
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)
        hertz = torch.linspace(0, SAMPLE_RATE / 2, bins)
        with torch.no_grad():
            self.head.bias[:bins] = -1.5 * ((hertz - 3_000) / 5_000).clamp(0, 1)

    def _heard(self, logits: Tensor, voicing: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the likeliest bin and its neighbours, on the logarithmic scale."""
        likelihood = logits.detach().softmax(-1)
        middle = likelihood.argmax(-1, keepdim=True)
        index = torch.arange(self.config.pitch_bins, device=logits.device)
        near = likelihood * ((index - middle).abs() <= 3)
        centre = (near * index).sum(-1) / near.sum(-1)
        hertz = self.config.lowest_hz * torch.exp2(centre * self.config.bin_cents / 1200)
        return hertz, (voicing.detach() > 0).to(hertz)

    def described(
        self,
        logits: Float[Tensor, "B T P"],
        voicing: Float[Tensor, "B T"],
        f0: Float[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T C"]:
        """What the later layers are told of the pitch: of `f0`, else of the network's own."""
        pitch_hz, voiced = self._heard(logits, voicing) if f0 is None else filled(f0)
        octave = torch.log2(pitch_hz / 200.0) * voiced
        described = torch.stack([octave, octave.square(), voiced], dim=-1)
        return cast(Tensor, self.pitch_embed(described))

    def read(
        self,
        mel: Float[Tensor, "B 80 T"],
        answer: Float[Tensor, "B T A"],
        logits: Float[Tensor, "B T P"],
        voicing: Float[Tensor, "B T"],
    ) -> Filters:
        """Filters of the head's answer, which is what to add to the mel's own envelope."""
        bins = self.config.n_fft // 2 + 1
        harmonic, phase, change = torch.split(answer, [bins, bins, mel.shape[1]], dim=-1)
        log_power = denormalised(mel).transpose(1, 2)
        envelope = log_power @ self.interpolation / 2 - self.offset
        harmonic = torch.minimum(harmonic, self.breath + self.clearest)
        return Filters(
            logits,
            voicing,
            (envelope + harmonic).clamp(max=4.0),
            phase + self.dispersion,
            (envelope + self.breath).clamp(max=4.0),
            (log_power + change).clamp(max=12.0),
        )


class FrameConv(nn.Module):
    """A convolution over frames that looks `ahead` frames ahead and the rest of its kernel back."""

    def __init__(self, dim_in: int, dim_out: int, kernel: int, ahead: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim_in, dim_out, kernel, groups=groups)
        self.back, self.ahead = kernel - 1 - ahead, ahead

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B D T"]:
        """As many frames as come in; zeros stand for what lies outside."""
        return cast(Tensor, self.conv(F.pad(x, (self.back, self.ahead))))


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, then a perceptron on each frame, around a residual."""

    def __init__(self, config: VocosConfig, ahead: int) -> None:
        super().__init__()
        self.depthwise = FrameConv(config.dim, config.dim, config.kernel, ahead, config.dim)
        self.norm = nn.LayerNorm(config.dim)
        self.widen = nn.Linear(config.dim, config.hidden)
        self.narrow = nn.Linear(config.hidden, config.dim)
        self.scale = nn.Parameter(torch.full((config.dim,), 1.0 / config.layers))

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Frames of the same number."""
        return x + self.perceptron(self.depthwise(x.transpose(1, 2)).transpose(1, 2))

    def perceptron(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """What is added to the residual, of the convolved frames."""
        return cast(Tensor, self.scale * self.narrow(F.gelu(self.widen(self.norm(x)))))


def filled(f0: Float[Tensor, "B T"]) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Pitch with the last one kept, or 150 Hz before any, where unvoiced; and 1 where voiced."""
    is_voiced: Bool[Tensor, "B T"] = f0 > 0
    index = torch.arange(f0.shape[1], device=f0.device)
    last = torch.where(is_voiced, index, -1).cummax(dim=1).values
    kept = f0.gather(1, last.clamp(min=0))
    return torch.where(last >= 0, kept, torch.full_like(f0, 150.0)), is_voiced.to(f0)


def _envelope_of_mel(mel: MelConfig, n_fft: int) -> tuple[Tensor, Tensor]:
    """From mel bands to bins [M, K], and what to take off half the log-mel to get the log gain.

    A gain of 1 on excitations of unit power density gives each bin the window's energy.
    """
    bank = mel_bank(mel)  # [bins of the mel's FFT, M]
    rate = mel.sample_rate
    centres_hz = (bank * torch.arange(len(bank))[:, None]).sum(0) / bank.sum(0) * rate / mel.n_fft
    bins = n_fft // 2 + 1
    interpolation = _interpolation(centres_hz * n_fft / rate, bins)
    energy = 3 / 8 * mel.win_length
    offset = (bank.sum(0) * energy).log() / 2
    return interpolation, (offset.float() @ interpolation)


def _interpolation(positions: Tensor, count: int) -> Tensor:
    """Matrix [P, count] of linear interpolation between rising positions, constant outside."""
    at = torch.arange(count, dtype=positions.dtype).clamp(positions[0], positions[-1])
    right = torch.searchsorted(positions.contiguous(), at).clamp(1, len(positions) - 1)
    share = (at - positions[right - 1]) / (positions[right] - positions[right - 1])
    matrix = torch.zeros(len(positions), count, dtype=positions.dtype)
    columns = torch.arange(count)
    matrix[right - 1, columns] = 1 - share
    matrix[right, columns] = share
    return matrix.float()


def gaussian_targets(f0: Float[Tensor, "B T"], config: VocosConfig) -> Float[Tensor, "B T P"]:
    """Soft labels of the pitch bins, one bin wide, summing to 1; any where f0 is 0."""
    cents = 1200 * torch.log2(f0.clamp(min=config.lowest_hz) / config.lowest_hz)
    index = torch.arange(config.pitch_bins, device=f0.device)
    off = index - cents[..., None] / config.bin_cents
    weights = torch.exp(-off.square() / 2)
    return weights / weights.sum(-1, keepdim=True).clamp(min=math.exp(-50))
