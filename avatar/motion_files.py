"""Motion as arrays in an .npz file, which keeps every number."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assets.errors import AssetError
from assets.files import replacing
from avatar.motion import Motion
from flame.arkit import ARKIT_NAMES
from flame.head import JOINT_NAMES

_LARGEST = 2**30  # bytes of one array, unpacked: a day at 60 frames a second


def save_npz(motion: Motion, path: Path | str) -> Path:
    """Write rate_hz, weights [T, 52], rotations [T, 6, 3] and the names of both; returns the path.

    Rotations are axis-angle in radians, local to each joint.
    """
    path = Path(path)
    if path.suffix.lower() != ".npz":
        raise ValueError(f"{path} does not end in .npz, the format that is written")
    with replacing(path) as beside:
        np.savez_compressed(
            beside,
            rate_hz=np.float64(motion.rate_hz),
            weights=motion.weights.detach().cpu().numpy(),
            rotations=motion.rotations.detach().cpu().numpy(),
            names=np.array(ARKIT_NAMES),
            joints=np.array(JOINT_NAMES),
        )
    return path


def load_npz(path: Path | str) -> Motion:
    """The motion of a file with the arrays of `save_npz`; names, where given, may be reordered."""
    path = Path(path)
    if not path.is_file():
        raise AssetError(f"{path} is not there; give the .npz of a motion")
    stored = read_named(path, ("rate_hz", "weights", "rotations", "names", "joints"))
    if missing := [name for name in ("rate_hz", "weights", "rotations") if name not in stored]:
        raise AssetError(
            f"{path} is no motion: it lacks {', '.join(missing)}; "
            "give an .npz that `avatar transfer` or `avatar track` wrote"
        )
    try:
        rate_hz = float(np.asarray(stored["rate_hz"], dtype=np.float64).reshape(()))
        weights = np.asarray(stored["weights"], dtype=np.float32)
        rotations = np.asarray(stored["rotations"], dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise AssetError(f"{path} holds no plain numbers ({error}); write it again") from error
    frames = len(weights) if weights.ndim else 0
    wanted = ((frames, len(ARKIT_NAMES)), (frames, len(JOINT_NAMES), 3))
    if frames == 0 or (weights.shape, rotations.shape) != wanted:
        raise AssetError(
            f"{path} holds weights {weights.shape} and rotations {rotations.shape}; a motion of T "
            f"frames has (T, {len(ARKIT_NAMES)}) and (T, {len(JOINT_NAMES)}, 3)"
        )
    if not (np.isfinite(weights).all() and np.isfinite(rotations).all()):
        raise AssetError(f"{path} holds NaN or infinity; write it again from its source")
    if not (np.isfinite(rate_hz) and rate_hz > 0):
        raise AssetError(f"{path} has rate_hz={rate_hz}; give frames a second, above 0")
    weights = _ordered(weights, stored.get("names"), ARKIT_NAMES, path)
    rotations = _ordered(rotations, stored.get("joints"), JOINT_NAMES, path)
    return Motion(
        rate_hz, torch.from_numpy(weights).clamp(0.0, 1.0), torch.from_numpy(rotations.copy())
    )


def names_in(path: Path) -> frozenset[str]:
    """The names of the arrays in an .npz file."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise AssetError(f"{path} is no readable .npz ({error}); write it again") from error
    return frozenset(entry.removesuffix(".npy") for entry in entries)


def read_named(path: Path, wanted: tuple[str, ...]) -> dict[str, Any]:
    """Those of the wanted arrays that the .npz file has, text among them; objects are refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            large = [entry for entry in archive.infolist() if entry.file_size > _LARGEST]
        if large:
            raise AssetError(f"{path} unpacks to {large[0].file_size:,} bytes; no motion does")
        # text needs NumPy's own reader, which without pickles runs nothing
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in wanted if name in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
        raise AssetError(f"{path} is no readable .npz ({error}); write it again") from error


def _ordered(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    names: object,
    wanted: tuple[str, ...],
    path: Path,
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Columns in the order of `wanted`, from that of the names in the file."""
    if names is None:
        return values
    given = [str(name) for name in np.asarray(names).reshape(-1).tolist()]
    if sorted(given) != sorted(wanted):
        odd = sorted(set(given) ^ set(wanted))
        raise AssetError(f"{path} names other columns than a motion has: {', '.join(odd[:5])}")
    return values[:, [given.index(name) for name in wanted]]
