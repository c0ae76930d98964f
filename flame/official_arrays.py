"""The arrays of a published FLAME file: read whole or not at all, converted once, then cached."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from assets.arrays import Array, Sparse, array_of, read_arrays
from assets.errors import AssetError
from assets.files import replacing, sha256_of
from assets.store import cache_folder
from assets.weights import encode_tensors, read_metadata, read_tensors

log = logging.getLogger(__name__)

N_VERTS, N_FACES, N_JOINTS = 5023, 9976, 5
N_SHAPE, N_EXPRESSION = 300, 100
PARENTS = (-1, 0, 1, 1, 1)
_FORMAT = "flame-official-1"
_NO_PARENT = 2**32 - 1  # -1 as the files have it


@dataclass(frozen=True)
class _Key:
    shape: tuple[int, ...]
    kinds: str  # of dtypes that will do


_FLOATS, _INTEGERS = "f", "iu"
KEYS = {
    "f": _Key((N_FACES, 3), _INTEGERS),
    "v_template": _Key((N_VERTS, 3), _FLOATS),
    "shapedirs": _Key((N_VERTS, 3, N_SHAPE + N_EXPRESSION), _FLOATS),
    "posedirs": _Key((N_VERTS, 3, 9 * (N_JOINTS - 1)), _FLOATS),
    "J_regressor": _Key((N_JOINTS, N_VERTS), _FLOATS),
    "weights": _Key((N_VERTS, N_JOINTS), _FLOATS),
    "kintree_table": _Key((2, N_JOINTS), _INTEGERS),
}
# Left aside: the rest joints, which follow from the regressor; names of the formulation; what the
# body models that share this layout carry from their training.
_ASIDE = {
    *("J", "bs_style", "bs_type", "J_regressor_prior", "weights_prior", "vert_sym_idxs"),
    *("pose_training_info", "vt", "ft"),
}


def load_official_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of `KEYS` in the types of the file, from the cache if it was converted before."""
    path = Path(path)
    if not path.is_file():
        raise AssetError(f"{path} is not there; `avatar doctor` says which files go where")
    checksum = sha256_of(path)
    cached = cache_folder() / "flame" / f"{checksum[:32]}.safetensors"
    found = _from_cache(cached, checksum)
    if found is not None:
        return found
    tensors = {name: torch.from_numpy(a) for name, a in read_official_arrays(path).items()}
    metadata = {"format": _FORMAT, "source": path.name, "sha256": checksum}
    try:
        with replacing(cached) as written:
            written.write_bytes(encode_tensors(tensors, metadata))
    except OSError as error:
        log.warning("the converted model cannot be kept in %s: %s", cached.parent, error)
    return tensors


def read_official_arrays(path: Path) -> dict[str, Array]:
    """The arrays of `KEYS` of a pickle, .npz, .npy or safetensors file, in C order.

    Raises AssetError that lists every missing, unexpected and misshapen key, whatever is not
    finite, and indices that lead nowhere.
    """
    given = read_arrays(path)
    faults = []
    if missing := [name for name in KEYS if name not in given]:
        faults.append(f"missing {', '.join(missing)}")
    if unexpected := sorted(given.keys() - KEYS.keys() - _ASIDE):
        faults.append(f"unexpected {', '.join(unexpected)}")
    arrays: dict[str, Array] = {}
    for name, key in KEYS.items():
        if name in given:
            found = _checked(name, key, given[name])
            if isinstance(found, str):
                faults.append(found)
            else:
                arrays[name] = found
    style = given.get("bs_style", "lbs")
    if isinstance(style, str) and style != "lbs":
        faults.append(f"blended by {style[:20]!r}, wanted 'lbs'")
    if not faults:
        faults = _wrong_values(arrays)
    if faults:
        raise AssetError(
            f"{path} is no FLAME model as published: {'; '.join(faults)}; "
            "fetch the file again, or give the one that holds the geometry"
        )
    return arrays


def _checked(name: str, key: _Key, value: object) -> Array | str:
    """The array of a key, or what is wrong with it."""
    wanted = "x".join(map(str, key.shape))
    if isinstance(value, Sparse):
        if value.shape != key.shape:
            return f"misshapen {name} {'x'.join(map(str, value.shape))}, wanted {wanted}"
        try:
            value = value.dense()
        except ValueError as error:
            return f"damaged {name} ({error})"
    array = array_of(value)
    if array is None:
        return f"misshapen {name}, a {type(value).__name__}, wanted {wanted}"
    if array.shape != key.shape:
        return f"misshapen {name} {'x'.join(map(str, array.shape))}, wanted {wanted}"
    if array.dtype.kind not in key.kinds:
        number = "floats" if key.kinds == _FLOATS else "integers"
        return f"misshapen {name} of {array.dtype}, wanted {number}"
    # PyTorch knows few unsigned types and wants memory of its own
    own = np.int64 if array.dtype.kind == "u" else array.dtype
    return np.array(array, dtype=own, order="C")


def _wrong_values(arrays: Mapping[str, Array]) -> list[str]:
    faults = [
        f"numbers in {name} that are not finite"
        for name, array in arrays.items()
        if array.dtype.kind == "f" and not np.isfinite(array).all()
    ]
    faces = arrays["f"]
    if faces.min() < 0 or faces.max() >= N_VERTS:
        faults.append(f"f leaves 0..{N_VERTS - 1}")
    parents = arrays["kintree_table"][0].astype(np.int64)
    parents[parents == _NO_PARENT] = -1
    if tuple(parents.tolist()) != PARENTS:
        faults.append(f"kintree_table has parents {parents.tolist()}, wanted {list(PARENTS)}")
    sums = arrays["weights"].sum(1)
    if np.isfinite(sums).all() and not np.allclose(sums, 1, atol=1e-3):
        faults.append("weights of vertices that do not sum to 1")
    return faults


def _from_cache(path: Path, checksum: str) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    try:
        metadata = read_metadata(path)
        if metadata.get("format") != _FORMAT or metadata.get("sha256") != checksum:
            return None
        tensors = read_tensors(path)
    except AssetError as error:
        log.warning("converting again: %s", error)
        return None
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return tensors if shapes == {name: key.shape for name, key in KEYS.items()} else None
