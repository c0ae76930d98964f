"""Weight norm (Salimans and Kingma 2016) folded out of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from assets.errors import AssetError

_FORMS = (  # direction and length, as the two generations of PyTorch name them
    ("weight_v", "weight_g"),
    ("parametrizations.weight.original1", "parametrizations.weight.original0"),
)


def folded(tensors: Mapping[str, Tensor], described: str) -> dict[str, Tensor]:
    """The tensors with g * v / |v| in the place of each pair, the norm over all axes but the first.

    Tensors without weight norm pass as they are. AssetError where half of a pair is missing or
    its shapes do not fit.
    """
    plain = dict(tensors)
    for direction, length in _FORMS:
        for name in [name for name in tensors if name.endswith(f".{direction}")]:
            layer = name.removesuffix(direction)
            v, g = plain.pop(name), plain.pop(layer + length, None)
            if g is None or g.numel() != v.shape[0] or f"{layer}weight" in plain:
                raise AssetError(
                    f"{described} has no {layer}{length} that fits {name}; fetch the file again"
                )
            size = v.flatten(1).norm(dim=1).clamp_min(1e-30)  # an all-zero filter stays zero
            scale = (g.flatten() / size).reshape(-1, *[1] * (v.ndim - 1))
            plain[f"{layer}weight"] = v * scale
    return plain
