"""Stand-ins of published models that several tests read, made once; nobody may change them."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch

from deca.synthetic import write_smirk
from flame.synthetic import SyntheticFlame, synthetic_flame, write_companions, write_flame


@functools.cache
def published_flame() -> SyntheticFlame:
    """A FLAME model of the published layout, of random numbers."""
    return synthetic_flame(np.random.default_rng(0))


def write_models(folder: Path) -> Path:
    """A user's folder with FLAME's and SMIRK's files."""
    write_flame(published_flame(), folder / "flame" / "generic_model.pkl")
    write_companions(published_flame(), folder / "flame")
    write_smirk(folder / "smirk" / "SMIRK_em1.pt", generator=torch.Generator().manual_seed(0))
    return folder
