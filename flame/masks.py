"""Named regions of FLAME's mesh, read from the published file of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from assets.arrays import array_of, read_arrays
from assets.errors import AssetError

MASK_NAMES = (
    "face",
    "eye_region",
    "left_ear",
    "right_ear",
    "left_eyeball",
    "right_eyeball",
    "scalp",
    "nose",
    "left_eye_region",
    "right_eye_region",
    "lips",
    "neck",
    "forehead",
    "boundary",
)


def read_masks(path: Path, n_verts: int) -> dict[str, Tensor]:
    """Vertex indices of each region of `FLAME_masks.pkl`, sorted.

    Raises AssetError that lists all missing, unexpected and misshapen regions.
    """
    given = read_arrays(path)
    faults = []
    if missing := [name for name in MASK_NAMES if name not in given]:
        faults.append(f"missing {', '.join(missing)}")
    if unexpected := sorted(given.keys() - {*MASK_NAMES}):
        faults.append(f"unexpected {', '.join(unexpected)}")
    masks: dict[str, Tensor] = {}
    for name in MASK_NAMES:
        if name not in given:
            continue
        verts = array_of(given[name])
        if verts is None or verts.ndim != 1 or verts.dtype.kind not in "iu" or not len(verts):
            faults.append(f"misshapen {name}, wanted a list of vertices")
        elif verts.min() < 0 or verts.max() >= n_verts:
            faults.append(f"{name} leaves 0..{n_verts - 1}, the vertices of this model")
        else:
            masks[name] = torch.from_numpy(np.unique(verts).astype(np.int64))
    if faults:
        raise AssetError(f"{path} is no set of FLAME's masks: {'; '.join(faults)}; fetch it again")
    return masks
