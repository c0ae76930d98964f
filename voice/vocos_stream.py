"""The vocoder on mels that arrive in pieces; the sound is that of the whole mel at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from voice.audio import SAMPLE_RATE
from voice.mel import N_MELS
from voice.vocos import ConvNeXtBlock, Filters, FrameConv, Vocos
from voice.vocos_fit import BACK, agreeing, fitted
from voice.vocos_source import TOP_HZ, excitations, frame_phases, overlap_add, spectra

_BESIDE = 2  # frames beside a frame that share samples with it


class VocosStream:
    """Feed mels of one signal with `push`, then `flush`; join what they return.

    The sound comes `config.look_ahead` frames late and memory does not grow.
    """

    def __init__(self, net: Vocos) -> None:
        self.net = net
        self._layers = [_Conv(net.embed)]
        self._layers += [_Conv(block.depthwise) for block in _blocks(net)]
        self._perceptrons = [_Perceptron(block) for block in _blocks(net)]
        self._head = _by_columns(net.head.weight), net.head.bias.detach()
        self._residuals = [_Queue() for _ in net.blocks]
        self._mels, self._pitched = _Queue(), _Queue()
        self._likeness = (_Queue(), _Queue())  # for the first layer, and for the pitch
        self._melody: _Queue | None = None  # likeness of the melody, where there is one
        self._ready: list[Filters] = []
        self._pitch = torch.zeros(1, 0)
        self._voiced = torch.zeros(1, 0)
        self._phase = torch.zeros(1, 1, dtype=torch.float64)
        self._first = 0  # number of the first frame whose pitch and filters are kept
        self._excited = 0  # frames that have a spectrum
        ahead = net.config.refine_ahead
        self._rounds = [
            _Round(net, strength, int(number < ahead))
            for number, strength in enumerate(net.strengths.detach().unbind())
        ]
        self._refined = torch.zeros(1, 0, net.config.n_fft // 2 + 1, 2)
        self._before = 0  # refined frames kept whose samples have been given out

    @torch.no_grad()
    def push(
        self, mel: Float[Tensor, "1 80 T"], melody: Float[Tensor, "1 80 T"] | None = None
    ) -> Float[Tensor, "1 N"]:
        """The samples that this piece completes; perhaps none.

        A `melody` is that of `Vocos.forward`; it comes with every piece of a line or with none.
        """
        if mel.shape[-1] == 0:
            return mel.new_zeros(1, 0)
        frames = mel.transpose(1, 2)
        self._mels.put(frames)
        likeness = self.net.likeness(mel)
        for queue in self._likeness:
            queue.put(likeness)
        if melody is not None:
            self._melody = self._melody or _Queue()
            self._melody.put(self.net.likeness(melody))
        return self._forward(frames, last=False)

    @torch.no_grad()
    def flush(self) -> Float[Tensor, "1 N"]:
        """The rest, once the mel has ended."""
        weight = self.net.embed.conv.weight
        empty = weight.new_zeros(1, 0, self.net.embed.conv.in_channels)
        return self._forward(empty, last=True)

    def _forward(self, mel: Tensor, *, last: bool) -> Tensor:
        net = self.net
        x = self._layers[0].step(mel, last=last)
        if x.shape[1]:
            x = net.embedded(x, self._likeness[0].take(x.shape[1], x))
        for number, perceptron in enumerate(self._perceptrons):
            if number == net.config.pitch_layers:
                x = self._told(x)
            self._residuals[number].put(x)
            wide = self._layers[number + 1].step(x, last=last)
            x = self._residuals[number].take(wide.shape[1], wide) + perceptron.of(wide)
        if x.shape[1]:
            answer = self._pitched.take(x.shape[1], x)
            logits, voicing = answer[..., :-1], answer[..., -1]
            mels = self._mels.take(x.shape[1], x).transpose(1, 2)
            found = net.read(mels, F.linear(net.head_norm(x), *self._head), logits, voicing)
            self._ready.append(found)
            pitch, voiced = net.pitch(found)
            self._pitch = torch.cat([self._pitch, pitch], dim=1)
            self._voiced = torch.cat([self._voiced, voiced], dim=1)
        return self._sound(last=last)

    def _told(self, x: Tensor) -> Tensor:
        if not x.shape[1]:
            return x
        melody = None if self._melody is None else self._melody.take(x.shape[1], x)
        logits, voicing = self.net.pitch_logits(x, self._likeness[1].take(x.shape[1], x), melody)
        self._pitched.put(torch.cat([logits, voicing[..., None]], dim=-1))
        return x + self.net.described(logits, voicing)

    def _sound(self, *, last: bool) -> Tensor:
        """Samples of the frames whose refined neighbours on both sides are there."""
        spectrum, log_power = self._excite(last=last)
        config = self.net.config
        # beside a melody the mel's own harmonics are not kept to
        pooling = None if self._melody is None else self.net.pooling
        if spectrum.shape[1]:
            spectrum = fitted(
                spectrum, log_power, self.net.bank, self.net.interpolation, 1.0, pooling
            )
        for one in self._rounds:
            spectrum, log_power = one.step(spectrum, log_power, pooling, last=last)
        self._refined = torch.cat([self._refined.to(spectrum), spectrum], dim=1)
        end = self._refined.shape[1] - (0 if last else _BESIDE)
        if end <= self._before:
            return self._pitch[:, :0]
        sound = overlap_add(self._refined, config.n_fft, config.hop_length)
        sound = sound[:, self._before * config.hop_length : end * config.hop_length]
        # the next sample lies in the frame before its own too
        drop = max(0, end - 1)
        self._refined, self._before = self._refined[:, drop:], end - drop
        return sound

    def _excite(self, *, last: bool) -> tuple[Tensor, Tensor]:
        """Unrefined spectra, and what to fit them to, of the frames that can be told by now."""
        config = self.net.config
        known = self._first + self._pitch.shape[1]
        # a frame's spectrum needs the pitch of two frames more
        end = known if last else known - _BESIDE
        if end <= self._excited:
            bins = config.n_fft // 2 + 1
            return self._pitch.new_zeros(1, 0, bins, 2), self._pitch.new_zeros(1, 0, N_MELS)
        phases = frame_phases(self._pitch, config.hop_length)
        phases = (phases + self._phase) % 1.0
        signals = _excitations(self._pitch, self._voiced, phases, self._first, config.hop_length)
        filters = _joined(self._ready)
        begins, count = self._first == 0, end - self._excited
        skipped = self._excited if begins else 0
        both = (
            spectra(signal, config.n_fft, config.hop_length, first=begins, last=last)
            for signal in signals
        )
        new = _cut(filters, self._excited - self._first, end - self._first)
        out = self.net.spectrum(new, *(one[:, skipped : skipped + count] for one in both))
        # two frames of pulses before the next spectrum stay
        drop = max(0, end - _BESIDE - self._first)
        self._ready = [_cut(filters, drop)]
        self._phase = phases[:, drop : drop + 1]
        self._pitch, self._voiced = self._pitch[:, drop:], self._voiced[:, drop:]
        self._first, self._excited = self._first + drop, end
        return out, new.log_power


def stream(net: Vocos, mels: Iterable[Float[Tensor, "1 80 _"]]) -> Iterator[Float[Tensor, "1 _"]]:
    """The sound of mels that arrive in pieces, in pieces."""
    state = VocosStream(net)
    for mel in mels:
        sound = state.push(mel)
        if sound.shape[1]:
            yield sound
    yield state.flush()


class _Conv:
    """A convolution over frames [1, T, C] that keeps what it needs of the past."""

    def __init__(self, layer: FrameConv) -> None:
        conv = layer.conv
        self.ahead, self.width = layer.ahead, layer.back + layer.ahead
        self.is_depthwise = conv.groups > 1
        weight = conv.weight.detach()
        # for few frames, sums over the kernel take a tenth of the time of a grouped convolution
        self.weight = weight[:, 0] if self.is_depthwise else weight.flatten(1)
        assert conv.bias is not None
        self.bias = conv.bias.detach()
        self.kept = weight.new_zeros(1, layer.back, conv.in_channels)

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        """The frames that can be told by now."""
        x = torch.cat([self.kept, x], dim=1)
        if last:
            x = F.pad(x, (0, 0, 0, self.ahead))
        if x.shape[1] <= self.width:
            self.kept = x
            return x.new_zeros(1, 0, len(self.bias))
        self.kept = x[:, x.shape[1] - self.width :]
        seen = x.unfold(1, self.width + 1, 1)  # [1, T, C, width of the kernel]
        if self.is_depthwise:
            return (seen * self.weight).sum(-1).add_(self.bias)
        return F.linear(seen.flatten(2), self.weight, self.bias)


class _Perceptron:
    """`ConvNeXtBlock.perceptron` with its scale in its weights."""

    def __init__(self, block: ConvNeXtBlock) -> None:
        self.norm = block.norm
        self.widen = _by_columns(block.widen.weight), block.widen.bias.detach()
        self.narrow = (
            _by_columns(block.scale[:, None] * block.narrow.weight),
            (block.scale * block.narrow.bias).detach(),
        )

    def of(self, x: Tensor) -> Tensor:
        return F.linear(F.gelu(F.linear(self.norm(x), *self.widen)), *self.narrow)


def _excitations(
    f0: Tensor, voiced: Tensor, phases: Tensor, first: int, hop: int
) -> tuple[Tensor, Tensor]:
    """`vocos_source.excitations` of one line, in one call where it is on the processor."""
    if f0.device.type != "cpu":
        numbers = torch.arange(first, first + f0.shape[1])
        return excitations(f0, voiced, phases, numbers, hop)
    from voice.excitation_kernels import excited

    made = np.empty((2, 1, f0.shape[1] * hop), np.float32)
    lines = f0[0].float().numpy(), voiced[0].float().numpy(), phases[0].double().numpy()
    excited(*lines, first, hop, float(SAMPLE_RATE), TOP_HZ, made[0, 0], made[1, 0])
    pulses, noise = torch.from_numpy(made).to(f0)
    return pulses, noise


def _by_columns(weight: Tensor) -> Tensor:
    """The same weights laid out as is quickest for a few frames."""
    return weight.detach().T.contiguous().T


class _Round:
    """One round of refinement that keeps what it needs of the past."""

    def __init__(self, net: Vocos, strength: Tensor, ahead: int) -> None:
        self.net, self.strength, self.ahead = net, strength, ahead
        self.kept = torch.zeros(1, BACK, net.config.n_fft // 2 + 1, 2)
        self.waiting = torch.zeros(1, 0, N_MELS)

    def step(
        self, x: Tensor, log_power: Tensor, pooling: Tensor | None, *, last: bool
    ) -> tuple[Tensor, Tensor]:
        """The frames that can be told by now, and what they were fitted to."""
        x = torch.cat([self.kept.to(x), x], dim=1)
        log_power = torch.cat([self.waiting.to(x), log_power], dim=1)
        if last:
            x = F.pad(x, (0, 0, 0, 0, 0, self.ahead))
        count = max(0, x.shape[1] - BACK - self.ahead)
        self.kept, self.waiting = x[:, count:], log_power[:, count:]
        log_power = log_power[:, :count]
        if not count:
            return x[:, :0], log_power
        net = self.net
        x = agreeing(x, self.ahead)
        bank, interpolation = net.bank, net.interpolation
        return fitted(x, log_power, bank, interpolation, self.strength, pooling), log_power


class _Queue:
    """Frames [1, T, C] that wait for others computed from later ones."""

    def __init__(self) -> None:
        self.waiting: Tensor | None = None

    def put(self, x: Tensor) -> None:
        self.waiting = x if self.waiting is None else torch.cat([self.waiting, x], dim=1)

    def take(self, count: int, like: Tensor) -> Tensor:
        if self.waiting is None:
            return like[:, :0]
        taken, self.waiting = self.waiting[:, :count], self.waiting[:, count:]
        return taken


def _blocks(net: Vocos) -> list[ConvNeXtBlock]:
    return [block for block in net.blocks if isinstance(block, ConvNeXtBlock)]


def _joined(parts: list[Filters]) -> Filters:
    return Filters(
        *(
            torch.cat([getattr(part, name) for part in parts], dim=1)
            for name in Filters.__dataclass_fields__
        )
    )


def _cut(filters: Filters, begin: int, end: int | None = None) -> Filters:
    names = Filters.__dataclass_fields__
    return Filters(*(getattr(filters, name)[:, begin:end] for name in names))
