"""StarGANv2-VC (Li et al. 2021): generator, mapping network, style encoder and discriminator.

Mels are normalised (`voice.mel.normalised`). Attributes carry the published checkpoints' names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from voice.frame_net import FrameNet
from voice.mel import N_MELS
from voice.stargan_blocks import (
    SLOPE,
    AdaIN,
    AdainResBlk,
    ResBlk,
    conv_trunk,
    require_frames,
    scale_of,
)

COMMON_BANDS = 64  # up to 7 kHz: recordings of 16 kHz have them too


@dataclass(frozen=True)
class StarganConfig:
    """Sizes of the four networks under the published config's names; defaults are the release's."""

    dim_in: int = 64
    style_dim: int = 64
    latent_dim: int = 16
    num_domains: int = 20
    max_conv_dim: int = 512
    n_repeat: int = 4
    w_hpf: int = 0
    F0_channel: int = 256
    residual: bool = False  # the output is added to `Generator.coloured`; in no published net
    finish: int = 0  # width of a `FrameNet` behind it all; in no published net

    def __post_init__(self) -> None:
        sizes = ("dim_in", "style_dim", "latent_dim", "num_domains", "max_conv_dim")
        if small := [name for name in sizes if getattr(self, name) < 1]:
            raise ValueError(f"{', '.join(small)} must be at least 1")
        if self.w_hpf != 0:
            raise ValueError(
                f"w_hpf={self.w_hpf}: the high-pass path turns {N_MELS} bands into 64; use w_hpf=0"
            )
        if not 1 <= self.n_repeat <= 4:
            raise ValueError(f"n_repeat={self.n_repeat} must be 1..4, as {N_MELS} = 5 * 2**4 bands")
        if self.finish < 0:
            raise ValueError(f"finish={self.finish} must be 0 or the width of a network")
        if self.F0_channel < 0 or self.F0_channel % 2:
            raise ValueError(f"F0_channel={self.F0_channel} must be 0 or a positive even number")

    @property
    def frame_step(self) -> int:
        """Converted mels have a multiple of this many frames."""
        return 1 << ((self.n_repeat + 1) // 2)


class Generator(nn.Module):
    """Mel, style and pitch features to the mel of the same words in the style's voice."""

    def __init__(self, config: StarganConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or StarganConfig()
        self.stem = nn.Conv2d(1, config.dim_in, 3, padding=1)
        self.encode = nn.ModuleList()
        dim, style_dim = config.dim_in, config.style_dim
        up: list[nn.Module] = []
        for block in range(config.n_repeat):
            wider = min(2 * dim, config.max_conv_dim)
            self.encode.append(ResBlk(dim, wider, scale_of(block), normalise=True))
            up.insert(0, AdainResBlk(wider, dim, style_dim, scale_of(block)))
            dim = wider
        for _ in range(2):
            self.encode.append(ResBlk(dim, dim, normalise=True))
        pitch_dim = config.F0_channel // 2
        both = dim + pitch_dim
        middle = [AdainResBlk(both, both, style_dim) for _ in range(2)]
        if pitch_dim:
            middle.append(AdainResBlk(both, dim, style_dim))
            narrow = ResBlk(config.F0_channel, pitch_dim, "half", normalise=True)
            self.F0_conv = nn.Sequential(narrow)
        self.decode = nn.ModuleList([*middle, *up])
        self.to_out = nn.Sequential(
            nn.InstanceNorm2d(config.dim_in, affine=True),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(config.dim_in, 1, 1),
        )
        if config.residual:
            self.bands = AdaIN(config.style_dim, N_MELS)
        if config.finish:
            self.finish = FrameNet(config.dim_in, config.style_dim, config.finish)

    def coloured(
        self, mel: Float[Tensor, "B 1 M T"], style: Float[Tensor, "B S"]
    ) -> Float[Tensor, "B 1 M T"]:
        """The source's mel with each band's mean and deviation in time as the style has them.

        Loudness and liveliness over all bands stay the source's.
        """
        common = mel[:, :, :COMMON_BANDS]
        level = common.mean(dim=(2, 3), keepdim=True)
        spread = common.var(dim=3, unbiased=False, keepdim=True).add(1e-5).sqrt()
        bands = self.bands(with_loudness(mel).transpose(1, 2), style).transpose(1, 2)
        return cast(Tensor, level + spread.mean(dim=2, keepdim=True) * bands)

    def forward(
        self,
        mel: Float[Tensor, "B 1 M T"],
        style: Float[Tensor, "B S"],
        pitch: Float[Tensor, "B P R T"] | None,
    ) -> Float[Tensor, "B 1 M T2"]:
        """The converted mel; T2 is T cut to a multiple of `config.frame_step`.

        `pitch` is `F0Net`'s generator feature of the same frames, None where F0_channel is 0.
        """
        if mel.shape[-2] != N_MELS or mel.shape[-1] < self.config.frame_step:
            raise ValueError(
                f"the mel has {mel.shape[-2]} bands and {mel.shape[-1]} frames; the generator "
                f"takes {N_MELS} bands and at least {self.config.frame_step} frames"
            )
        if (pitch is None) != (self.config.F0_channel == 0):
            raise ValueError(
                f"this generator has F0_channel={self.config.F0_channel}; "
                "pass pitch features where it is not 0, and None where it is"
            )
        x = self.stem(mel)
        for block in self.encode:
            x = block(x)
        if pitch is not None:
            narrow = self.F0_conv(pitch)
            height, width = x.shape[-2:]
            x = torch.cat([x, F.adaptive_avg_pool2d(narrow, (height, width))], dim=1)
        for block in self.decode:
            x = block(x, style)
        channels = self.to_out[:2](x)
        made = cast(Tensor, self.to_out[2](channels))
        source = mel[..., : made.shape[-1]]
        if self.config.residual:
            made = made + self.coloured(mel, style)[..., : made.shape[-1]]
        if self.config.finish:
            return cast(Tensor, self.finish(channels, made, source, style))
        return made


def with_loudness(mel: Float[Tensor, "B 1 M T"]) -> Float[Tensor, "B 1 M T"]:
    """The mel with a trace of its loudness in every band.

    Bands that a recording does not have move with its loudness once they are normalised.
    """
    return mel + 0.05 * mel.mean(dim=2, keepdim=True)


class MappingNetwork(nn.Module):
    """Random latents to styles, one output head for each domain (speaker)."""

    def __init__(self, config: StarganConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or StarganConfig()
        hidden = config.max_conv_dim
        self.shared = _relu_stack(config.latent_dim, hidden, 4)
        self.unshared = nn.ModuleList(
            nn.Sequential(*_relu_stack(hidden, hidden, 3), nn.Linear(hidden, config.style_dim))
            for _ in range(config.num_domains)
        )

    def forward(
        self, latent: Float[Tensor, "B L"], domain: Int[Tensor, " B"]
    ) -> Float[Tensor, "B S"]:
        """Each latent's style in its domain; latents are drawn from the normal distribution."""
        return _picked(self.unshared, self.shared(latent), domain)


class StyleEncoder(nn.Module):
    """A reference clip's style, one output head for each domain (speaker)."""

    def __init__(self, config: StarganConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or StarganConfig()
        trunk, dim = conv_trunk(config.dim_in, config.max_conv_dim, config.n_repeat)
        self.shared = nn.Sequential(
            *trunk,
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(dim, dim, 5),
            nn.AdaptiveAvgPool2d(1),
            nn.LeakyReLU(SLOPE),
        )
        self.unshared = nn.ModuleList(
            nn.Linear(dim, config.style_dim) for _ in range(config.num_domains)
        )

    def forward(
        self, mel: Float[Tensor, "B 1 M T"], domain: Int[Tensor, " B"]
    ) -> Float[Tensor, "B S"]:
        """Style of each mel, read as its domain's; at least 80 frames (1 s) are needed."""
        require_frames(mel, self.config.n_repeat)
        return _picked(self.unshared, self.shared(mel).flatten(1), domain)


class Judge(nn.Module):
    """One convolutional network from a mel to a logit for each domain."""

    def __init__(self, config: StarganConfig) -> None:
        super().__init__()
        self.n_repeat = config.n_repeat
        trunk, dim = conv_trunk(config.dim_in, config.max_conv_dim, config.n_repeat)
        self.main = nn.Sequential(
            *trunk,
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(dim, dim, 5),
            nn.LeakyReLU(SLOPE),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(dim, config.num_domains, 1),
        )

    def forward(self, mel: Float[Tensor, "B 1 M T"]) -> Float[Tensor, "B D"]:
        """Logits of all domains; at least 80 frames (1 s) are needed."""
        require_frames(mel, self.n_repeat)
        return cast(Tensor, self.main(mel)).flatten(1)


class Discriminator(nn.Module):
    """Judge of real and converted speech, and classifier of the source speaker."""

    def __init__(self, config: StarganConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or StarganConfig()
        self.dis = Judge(config)
        self.cls = Judge(config)

    def forward(
        self, mel: Float[Tensor, "B 1 M T"], domain: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """Logit of being a real recording of the domain's speaker."""
        logits = cast(Tensor, self.dis(mel))
        return logits.gather(1, domain[:, None])[:, 0]

    def classify(self, mel: Float[Tensor, "B 1 M T"]) -> Float[Tensor, "B D"]:
        """Logits of which speaker a converted mel came from."""
        return cast(Tensor, self.cls(mel))


def _relu_stack(dim_in: int, dim_out: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(count):
        layers += [nn.Linear(dim_in if index == 0 else dim_out, dim_out), nn.ReLU()]
    return nn.Sequential(*layers)


def _picked(heads: nn.ModuleList, x: Tensor, domain: Tensor) -> Tensor:
    """Row b of head domain[b]."""
    if len(domain) == 0 or int(domain.min()) < 0 or int(domain.max()) >= len(heads):
        raise ValueError(f"domains must be 0..{len(heads) - 1}, these are {domain.tolist()}")
    rows = [(domain == index).nonzero()[:, 0] for index in range(len(heads))]
    styles = torch.cat([head(x[row]) for head, row in zip(heads, rows, strict=True) if len(row)])
    return styles[torch.cat(rows).argsort()]
