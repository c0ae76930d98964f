"""A small network that hears which sound of speech each moment is, in any language.

It sees 2 frames of 12.5 ms at a time and looks 137.5 ms ahead of what it names, half a window of
the front end included, so that it can run while somebody speaks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assets.errors import AssetError
from assets.store import shipped_model
from assets.weights import load_weights, read_metadata, write_tensors
from voice.mel import N_MELS, MelConfig, log_mel, normalised
from voice.visemes import SOUNDS, VISEME_NAMES, VISEME_OF_SOUND

MEL = MelConfig()
FRAME_S = MEL.hop_length / MEL.sample_rate  # 12.5 ms
SHIPPED = "voice/phonemes.safetensors"
_HALF = MEL.n_fft // 2
_PAIR = 2  # frames seen, and named, at a time
_LEAD_PAIRS = 1  # whose windows reach back beyond the samples that a stream keeps


@dataclass(frozen=True)
class PhonemeNetConfig:
    """Size of the network; each layer of width 3 reaches `dilations` pairs of frames to a side."""

    channels: int = 128
    ahead: tuple[int, ...] = (1, 2)  # layers that look to both sides
    behind: tuple[int, ...] = (1, 2, 4, 8, 1)  # layers that look back alone

    def __post_init__(self) -> None:
        if self.channels < 1 or min((*self.ahead, *self.behind), default=1) < 1:
            raise ValueError("channels and the reach of every layer must be at least 1")

    @property
    def pairs_ahead(self) -> int:
        """How many pairs of frames after the one that it names the network sees."""
        return 1 + sum(self.ahead)

    @property
    def pairs_behind(self) -> int:
        """How many pairs before."""
        return 1 + sum(self.ahead) + 2 * sum(self.behind)


class _Layer(nn.Module):
    """A residual convolution of width 3."""

    def __init__(self, channels: int, reach: int, is_causal: bool) -> None:
        super().__init__()
        self.padding = (2 * reach, 0) if is_causal else (reach, reach)
        self.norm = nn.BatchNorm1d(channels)
        self.conv = nn.Conv1d(channels, channels, 3, dilation=reach)

    def forward(self, x: Float[Tensor, "B C P"]) -> Float[Tensor, "B C P"]:
        inner = nn.functional.relu(self.norm(x))
        residual: Tensor = x + self.conv(nn.functional.pad(inner, self.padding))
        return residual


class PhonemeNet(nn.Module):
    """Log-mel to the logits of SOUNDS, one row a frame."""

    def __init__(self, config: PhonemeNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PhonemeNetConfig()
        width = config.channels
        self.first = nn.Conv1d(_PAIR * N_MELS, width, 3, padding=1)
        self.layers = nn.Sequential(
            *(_Layer(width, reach, is_causal=False) for reach in config.ahead),
            *(_Layer(width, reach, is_causal=True) for reach in config.behind),
        )
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Conv1d(width, _PAIR * len(SOUNDS), 1)

    def forward(self, mel: Float[Tensor, "B 80 T"]) -> Float[Tensor, "B S T"]:
        """Logits of each frame, of a mel as `padded_mel` gives it; an odd last frame is doubled."""
        count = mel.shape[2]
        logits = self.last(self.hidden(mel))
        pairs = logits.shape[2]
        logits = logits.reshape(len(mel), _PAIR, len(SOUNDS), pairs)
        unfolded: Tensor = logits.permute(0, 2, 3, 1).flatten(2)
        return unfolded[..., :count]

    def hidden(self, mel: Float[Tensor, "B 80 T"]) -> Float[Tensor, "B C P"]:
        """What the logits are read from: one column, none below 0, for each pair of frames."""
        if mel.shape[2] % _PAIR:
            mel = torch.cat([mel, mel[..., -1:]], dim=2)
        batch, bands, frames = mel.shape
        pairs = normalised(mel).reshape(batch, bands, frames // _PAIR, _PAIR)
        deep = self.layers(self.first(pairs.permute(0, 3, 1, 2).flatten(1, 2)))
        heard: Tensor = nn.functional.relu(self.norm(deep))
        return heard


def padded_mel(samples: Float[Tensor, "B N"]) -> Float[Tensor, "B M T"]:
    """The log-mel of a signal with silence before and after it: N // hop + 1 frames."""
    # zeros, where the front end mirrors, so that the start of a stream is heard as it is offline
    hop = MEL.hop_length
    before = -(-_HALF // hop) * hop
    padded = nn.functional.pad(samples, (before, before + hop))
    first = before // hop
    return log_mel(padded, MEL)[..., first : first + samples.shape[-1] // hop + 1]


def viseme_posteriors(logits: Float[Tensor, "*B S T"]) -> Float[Tensor, "*B 15 T"]:
    """Probability of each viseme: that of all sounds which show it."""
    sounds = torch.softmax(logits, dim=-2)
    summed = sounds.new_zeros(*sounds.shape[:-2], len(VISEME_NAMES), sounds.shape[-1])
    return summed.index_add(-2, torch.tensor(VISEME_OF_SOUND, device=sounds.device), sounds)


class PhonemeStream:
    """The network on a signal that comes in pieces: together the logits of the whole signal."""

    def __init__(self, net: PhonemeNet) -> None:
        self._net = net
        self._samples = torch.zeros(1, 0)  # from the first sample that is still needed
        self._first = 0  # frame of the signal that begins at it
        self._done = 0  # frames given out

    @property
    def delay_s(self) -> float:
        """The most by which a logit comes after the end of its frame's sound."""
        frames = _PAIR * (self._net.config.pairs_ahead + 1) - 1
        return frames * FRAME_S + MEL.win_length / 2 / MEL.sample_rate

    @torch.no_grad()
    def push(self, samples: Float[Tensor, "1 N"]) -> Float[Tensor, "1 S T"]:
        """Logits of the frames that are certain once these samples have come; may be none."""
        self._samples = torch.cat([self._samples, samples], dim=1)
        # a frame's window must be whole, and all frames of a pair must be there
        whole = (self._samples.shape[1] - MEL.win_length // 2) // MEL.hop_length + 1
        whole = max(0, self._first + whole) // _PAIR * _PAIR
        return self._logits(whole, whole - _PAIR * self._net.config.pairs_ahead)

    @torch.no_grad()
    def end(self) -> Float[Tensor, "1 S T"]:
        """Logits of the frames that are left."""
        last = self._first + self._samples.shape[1] // MEL.hop_length + 1
        return self._logits(last, last)

    def _logits(self, heard: int, certain: int) -> Float[Tensor, "1 S T"]:
        if certain <= self._done:
            return self._samples.new_zeros(1, len(SOUNDS), 0)
        lead = min(self._first, _PAIR * _LEAD_PAIRS)
        mel = padded_mel(self._samples)[..., lead : heard - self._first]
        start = self._first + lead
        logits: Tensor = self._net(mel)[..., self._done - start : certain - start]
        self._done = certain
        keep = certain - _PAIR * (self._net.config.pairs_behind + _LEAD_PAIRS)
        if keep > self._first:
            self._samples = self._samples[:, (keep - self._first) * MEL.hop_length :]
            self._first = keep
        return logits


def save_phoneme_net(net: PhonemeNet, path: Path) -> list[Path]:
    """Write the network at half precision, its settings beside the weights; returns the files."""
    settings = {name: str(value) for name, value in asdict(net.config).items()}
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in net.state_dict().items()
    }
    return write_tensors(weights, path, settings)


def load_phoneme_net(path: Path | None = None) -> PhonemeNet:
    """The network of a file, ready to use; the shipped one without a path."""
    if path is None:
        return _shipped()
    try:
        stored = read_metadata(path)
        reaches = {name: _integers(stored[name]) for name in ("ahead", "behind")}
        config = PhonemeNetConfig(int(stored["channels"]), **reaches)
    except (KeyError, ValueError) as error:
        raise AssetError(f"{path} is no phoneme network of ours ({error})") from error
    net = PhonemeNet(config)
    load_weights(net, path)
    return net.eval().requires_grad_(False)


@lru_cache(maxsize=1)
def _shipped() -> PhonemeNet:
    (path,) = shipped_model("phonemes").paths()
    return load_phoneme_net(path)


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.strip("()").split(",") if part.strip())
