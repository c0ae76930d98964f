"""The colour of voices: each mel band's mean and deviation, as a style's first few numbers.

Found from the clips in closed form, so that a training need not find them by small steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voice.converter_pairs import PairedClips
from voice.stargan import (
    COMMON_BANDS,
    Generator,
    MappingNetwork,
    StyleEncoder,
    with_loudness,
)

_FRAMES = 512
_BLOCK = 64  # clips at once
_REST = 0.3  # of the other style entries' usual first weight in the colour


@dataclass(frozen=True, eq=False)
class Colours:
    """Clips' colours by their principal components."""

    mean: Float[Tensor, " C"]  # deviations of all bands minus 1, then their means
    basis: Float[Tensor, "C P"]  # colour of a component of 1
    components: Float[Tensor, "N P"]  # of each clip of the corpus; 0 where it is not used
    voices: Float[Tensor, "V P"]  # mean of each voice's clips


@torch.no_grad()
def colour(mel: Float[Tensor, "B 1 M T"]) -> Float[Tensor, "B C"]:
    """Each band's deviation in time minus 1 and mean, in units of the bands' usual deviation."""
    spread = with_loudness(mel).std(dim=3)[:, 0]
    mean = mel.mean(dim=3)[:, 0]
    usual = mel.std(dim=3)[:, 0, :COMMON_BANDS].mean(dim=1, keepdim=True)
    level = mean[:, :COMMON_BANDS].mean(dim=1, keepdim=True)
    return torch.cat([spread / usual - 1, (mean - level) / usual], dim=1)


@torch.no_grad()
def find_colours(clips: PairedClips, count: int, *, generator: torch.Generator) -> Colours:
    """Colours of all clips that are trained on, by their first `count` components of unit size."""
    used = [clip for group in clips.clips for clip in group]
    rows = torch.cat(
        [
            colour(clips.crops(used[at : at + _BLOCK], _FRAMES, generator=generator).mel)
            for at in range(0, len(used), _BLOCK)
        ]
    )
    mean = rows.mean(dim=0)
    _, sizes, axes = torch.linalg.svd(rows - mean, full_matrices=False)
    count = min(count, len(sizes))
    scale = (sizes[:count] / len(rows) ** 0.5).clamp(min=1e-4)
    basis = axes[:count].T * scale  # [C, P]
    found = (rows - mean) @ axes[:count].T / scale
    components = torch.zeros(len(clips.corpus), count)
    components[used] = found
    voices = [components[list(group)].mean(dim=0) for group in clips.clips[: len(clips.voices)]]
    return Colours(mean, basis, components, torch.stack(voices))


@torch.no_grad()
def begin_with(
    colours: Colours,
    generator: Generator,
    style_encoder: StyleEncoder,
    mapping_network: MappingNetwork,
) -> None:
    """Give fresh networks styles whose first entries are colours, right for every voice."""
    count = colours.basis.shape[1]
    fc = generator.bands.fc
    fc.weight *= _REST
    fc.weight[:, :count] = colours.basis
    fc.bias.copy_(colours.mean)
    for number in range(len(style_encoder.unshared)):
        drawn = mapping_network.unshared[number]
        assert isinstance(drawn, nn.Sequential)
        for layer in (style_encoder.unshared[number], drawn[-1]):
            assert isinstance(layer, nn.Linear)
            is_voice = number < len(colours.voices)
            layer.bias[:count] = colours.voices[number] if is_voice else 0.0
            if is_voice:
                layer.weight[:count] *= 0.1
