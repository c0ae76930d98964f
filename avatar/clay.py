"""Heads as sculptures: one grey material, without lashes, hair and clothes."""

from __future__ import annotations

import dataclasses

import torch

from flame.head import Head
from flame.material import Material

_LEFT_OUT = ("lashes", "hair")
_GREY, _DARK = (0.70, 0.70, 0.71), (0.42, 0.42, 0.43)


def clay(head: Head) -> tuple[Head, tuple[Material, ...]]:
    """The head's bare surface and materials that show its shape alone."""
    kept = torch.tensor([name not in _LEFT_OUT for name in head.material_names])
    chosen = kept[head.material_ids]
    bare = dataclasses.replace(
        head,
        polygons=head.polygons[chosen],
        uv_polygons=head.uv_polygons[chosen],
        material_ids=head.material_ids[chosen],
    )
    return bare, tuple(
        Material(
            name,
            torch.tensor(_DARK if name == "mouth" else _GREY)[:, None, None].expand(3, 2, 2),
            roughness=0.65,
            double_sided=name in ("mouth", "shirt"),
        )
        for name in head.material_names
    )
