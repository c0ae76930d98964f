"""A wider converter that begins with what a narrower one knows.

Channels that are there several times, with their outgoing weights shared out among the copies,
compute the same function (Chen et al. 2016, "Net2Net"). The shares are random, so that copies part.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor, nn

from voice.mel import N_MELS
from voice.stargan import StarganConfig
from voice.stargan_blocks import AdaIN

_LEAST_SHARE = 0.25  # of a weight that a copy gets, before they are made to add up


def widened(
    net: nn.Module,
    given: Mapping[str, Tensor],
    old: StarganConfig,
    new: StarganConfig,
    *,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Tensors for `net`, of the sizes `new`, from those of the same network of the sizes `old`."""
    sources = _sources(old, new)
    styled = {f"{name}.fc" for name, part in net.named_modules() if isinstance(part, AdaIN)}
    made = {}
    for name, wanted in net.state_dict().items():
        if name.startswith("finish.") and not old.finish:
            made[name] = wanted  # a fresh one changes nothing
            continue
        value = given[name].float()
        if name.rpartition(".")[0] in styled:  # gains, then offsets
            rows = [_spread(half, wanted.shape[0] // 2, sources) for half in value.chunk(2)]
            value = torch.cat(rows)
        else:
            value = _spread(value, wanted.shape[0], sources) if value.ndim else value
        if value.ndim > 1 and value.shape[1] != wanted.shape[1]:
            value = _shared(value, sources[value.shape[1]], generator=generator)
        made[name] = value
    return made


def _sources(old: StarganConfig, new: StarganConfig) -> dict[int, Int[Tensor, " W"]]:
    """By each width of the narrower network: which of its channels each wider one copies."""

    def levels(config: StarganConfig) -> list[int]:
        widths = [config.dim_in << number for number in range(config.n_repeat + 1)]
        return [min(width, config.max_conv_dim) for width in widths]

    kept = {"style_dim", "latent_dim", "num_domains", "n_repeat", "F0_channel", "residual"}
    if other := [name for name in sorted(kept) if getattr(old, name) != getattr(new, name)]:
        raise ValueError(f"{', '.join(other)} must be those of the converter to start from")
    pairs = dict(zip(levels(old), levels(new), strict=True))
    if old.finish not in (0, new.finish):
        raise ValueError(f"finish must be {old.finish}, as in the converter to start from")
    same = [len(set(levels(config))) for config in (old, new)]
    if same != [old.n_repeat + 1] * 2 or any(wide < narrow for narrow, wide in pairs.items()):
        raise ValueError(
            f"a converter of widths {levels(old)} cannot start one of {levels(new)}; choose "
            "--dim and --max-dim that are no smaller, and max-dim above eight times dim"
        )
    found = {narrow: torch.arange(wide) % narrow for narrow, wide in pairs.items()}
    last = found[old.dim_in]  # in whole frames, every channel has all bands
    found[old.dim_in * N_MELS] = (last[:, None] * N_MELS + torch.arange(N_MELS)).flatten()
    deepest, pitch = levels(old)[-1], old.F0_channel // 2
    if pitch:  # the pitch's channels lie behind the deepest ones
        both = torch.cat([found[deepest], deepest + torch.arange(pitch)])
        if found.setdefault(deepest + pitch, both) is not both:
            raise ValueError("--max-dim and the pitch's channels give a width that is there twice")
    return found


def _spread(value: Tensor, wanted: int, sources: Mapping[int, Tensor]) -> Tensor:
    return value if len(value) == wanted else value[sources[len(value)]]


def _shared(value: Tensor, source: Int[Tensor, " W"], *, generator: torch.Generator) -> Tensor:
    """Weights of inputs that are there several times, which add up to what they were."""
    draws = _LEAST_SHARE + torch.rand(len(value), len(source), generator=generator)
    sums = torch.zeros(len(value), value.shape[1]).index_add_(1, source, draws)
    share = draws / sums[:, source]
    return value[:, source] * share.view(*share.shape, *([1] * (value.ndim - 2)))
