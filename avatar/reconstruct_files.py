"""Readings of faces as files of arrays: NPZ and MATLAB's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from assets.files import replacing
from avatar.face_models import FaceReading
from flame.arkit import ARKIT_NAMES


def arrays_of(reading: FaceReading, model: str) -> dict[str, NDArray[Any]]:
    """Everything a reading says, by name, as a file of arrays holds it."""
    arrays: dict[str, Tensor] = {
        "vertices": reading.vertices,
        "neutral_vertices": reading.neutral_vertices,
        "faces": reading.faces.int(),
        "landmarks": reading.landmarks,
        "landmarks2d": reading.landmarks2d,
        **reading.codes,
    }
    named = {name: value.detach().cpu().numpy() for name, value in arrays.items()}
    named["model"] = np.array(model)
    if "arkit" in named:
        named["arkit_names"] = np.array(ARKIT_NAMES)
    return named


def write_npz(reading: FaceReading, path: Path, model: str) -> Path:
    """Write a reading as NPZ without pickled objects, and return its path."""
    with replacing(path) as written:
        np.savez(written, **arrays_of(reading, model))  # type: ignore[arg-type]
    return path


def write_mat(reading: FaceReading, path: Path, model: str) -> Path:
    """Write a reading as MATLAB's file, version 5, and return its path; faces count from 0."""
    from scipy.io import savemat

    arrays = {
        # MATLAB has no arrays without axes, and texts are rows of letters
        name: str(value) if name == "model" else np.atleast_1d(value)
        for name, value in arrays_of(reading, model).items()
    }
    arrays["arkit_names"] = np.array(ARKIT_NAMES, dtype=object)
    if "arkit" not in arrays:
        del arrays["arkit_names"]
    with replacing(path) as written:
        savemat(written, arrays, do_compression=True, oned_as="row")
    return path
