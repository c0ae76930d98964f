"""A network that hears in mels what the converter's teachers are told of the clips.

The teachers hear clips through a large recogniser, which takes sound and cannot say how a mel is to
change. This one can: it says how else conversions are heard than what was spoken, as a perceptual
loss does (Johnson et al. 2016).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voice.mel import N_MELS

_WIDTH, _DEPTH = 224, 6


class HearingNet(nn.Module):
    """Normalised mels of any voice to `sounds` numbers a frame; 20 frames are seen on each side."""

    def __init__(self, sounds: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(N_MELS, _WIDTH, 5, padding=2)
        self.blocks = nn.Sequential(*(_Block(_WIDTH) for _ in range(_DEPTH)))
        self.norm = nn.LayerNorm(_WIDTH)
        self.last = nn.Linear(_WIDTH, sounds)

    def forward(self, mel: Float[Tensor, "B 1 M T"]) -> Float[Tensor, "B T S"]:
        """What is heard in each frame."""
        deep = self.blocks(self.first(mel[:, 0])).transpose(1, 2)
        heard: Tensor = self.last(self.norm(deep))
        return heard

    def misheard(
        self, mel: Float[Tensor, "B 1 M T"], sounds: Float[Tensor, "B T S"]
    ) -> Float[Tensor, ""]:
        """How far what is heard is from what was said, of that.

        The mels' own difference says little of it: consonants are short and quiet.
        """
        off: Tensor = (self(mel).float() - sounds).abs().mean()
        return off / sounds.abs().mean()


class _Block(nn.Module):
    """A ConvNeXt block (Liu et al. 2022) along time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, x: Float[Tensor, "B W T"]) -> Float[Tensor, "B W T"]:
        near = self.norm(self.depthwise(x).transpose(1, 2))
        change: Tensor = self.narrow(F.gelu(self.wide(near)))
        return x + change.transpose(1, 2)
