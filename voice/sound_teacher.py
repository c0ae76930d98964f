"""A teacher for the converter: what is said, its melody and its loudness, as a speaker's mel.

It hears a clip through the phoneme network and, where one is given, a recogniser's encoder, in
which little is left of who spoke it, as in conversion by phonetic posteriors (Sun et al. 2016). It
helps in the training and is not shipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from voice.frame_net import StyledMlp
from voice.mel import N_MELS, MelConfig, normalised
from voice.phoneme_net import PhonemeNet
from voice.stargan import COMMON_BANDS
from voice.vocos_pitch import combs_of

_LOWEST_HZ, _HIGHEST_HZ, _PITCHES = 60.0, 700.0, 170  # of the combs, evenly in octaves
_USUAL_HZ = 200.0
_SURE = 4.0  # how much larger probabilities are than hidden values
_COMB = 4.0  # size of a comb
_LOUD_SHARE = 0.95  # quantile of a clip's loudness that counts as 0


@dataclass(frozen=True, eq=False)
class Said:
    """What the teacher knows of B pieces of clips, frame by frame."""

    sounds: Float[Tensor, "B T H"]  # as `SaidClips` holds them, less their clip's mean
    f0: Float[Tensor, "B T"]  # Hz; 0 where unvoiced
    loudness: Float[Tensor, "B T"]  # as `loudness` gives it


class SoundTeacher(nn.Module):
    """Sounds, pitch and loudness to the normalised mel of one of the speakers."""

    def __init__(
        self, speakers: int, sounds: int, width: int = 224, depth: int = 7, style_dim: int = 64
    ) -> None:
        super().__init__()
        self.reach = 3 * depth  # frames seen on each side
        self.speaker = nn.Embedding(speakers, style_dim)
        nn.init.normal_(self.speaker.weight, std=0.3)
        self.sounds = nn.Linear(sounds, 48)  # narrow: what tells speakers apart has no room
        self.first = nn.Linear(48 + N_MELS + 3, width)
        self.blocks = nn.ModuleList(_Block(width, style_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, N_MELS)
        self.colour = nn.Linear(style_dim, N_MELS)
        hertz = torch.logspace(math.log10(_LOWEST_HZ), math.log10(_HIGHEST_HZ), _PITCHES)
        self.register_buffer("combs", combs_of(MelConfig(), hertz)[1].T.contiguous(), False)

    def forward(
        self, said: Said, speaker: Int[Tensor, " B"], noise: float = 0.0
    ) -> Float[Tensor, "B 1 M T"]:
        """The mel; `noise` is added to the sounds, in training."""
        style = self.speaker(speaker)
        sounds = self.sounds(said.sounds)
        if noise:
            sounds = sounds + noise * torch.randn_like(sounds)
        voiced = (said.f0 > 0).to(sounds)
        octaves = torch.log2(said.f0.clamp(min=_LOWEST_HZ) / _USUAL_HZ) * voiced
        told = torch.stack([voiced, octaves, 2 * said.loudness], dim=-1)
        x = self.first(torch.cat([sounds, self._comb(said.f0), told], dim=-1))
        for block in self.blocks:
            x = block(x, style)
        mel: Tensor = self.last(self.norm(x)) + self.colour(style)[:, None]
        return mel.transpose(1, 2)[:, None]

    def _comb(self, f0: Tensor) -> Tensor:
        place = torch.log2(f0.clamp(_LOWEST_HZ, _HIGHEST_HZ) / _LOWEST_HZ)
        place = place / math.log2(_HIGHEST_HZ / _LOWEST_HZ) * (_PITCHES - 1)
        combs: Tensor = self.get_buffer("combs")[place.round().long()]
        return _COMB * combs * (f0 > 0)[..., None]


class _Block(StyledMlp):
    """A ConvNeXt block (Liu et al. 2022) that a speaker's style scales and shifts."""

    def __init__(self, width: int, style_dim: int) -> None:
        super().__init__(width, style_dim)
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)

    def forward(self, x: Float[Tensor, "B T W"], style: Float[Tensor, "B S"]) -> Tensor:
        near = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + super().forward(near, style)


@torch.no_grad()
def heard_sounds(net: PhonemeNet, mel: Float[Tensor, "B M T"]) -> Float[Tensor, "B T H"]:
    """What the network hears in natural-log mels of whole clips; each clip's mean is taken away.

    Its hidden values, and its probabilities of the sounds, whose mean stays.
    """
    hidden = net.hidden(mel)
    hidden = (hidden - hidden.mean(dim=2, keepdim=True)).repeat_interleave(2, dim=2)
    probable = _SURE * net(mel).softmax(dim=1)
    return torch.cat([hidden[..., : mel.shape[2]], probable], dim=1).transpose(1, 2)


def loudness(mel: Float[Tensor, "B M T"]) -> Float[Tensor, "B T"]:
    """Each frame's level in a natural-log mel of a whole clip, relative to its loud frames."""
    even = normalised(mel)
    return even[:, :COMMON_BANDS].mean(dim=1) - loud_level(even)[:, 0]


def loud_level(mel: Float[Tensor, "B M T"]) -> Float[Tensor, "B 1 1"]:
    """How loud the loud frames of a mel are, over the bands that all recordings have."""
    level = mel[:, :COMMON_BANDS].mean(dim=1, keepdim=True)
    return level.quantile(_LOUD_SHARE, dim=2, keepdim=True)
