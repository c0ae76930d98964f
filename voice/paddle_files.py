"""PaddlePaddle's parameter files as PyTorch tensors, read without Paddle and without running code.

Their suffix means nothing (.pd, .pdparams, .pdopt): all are pickles. A flat one is a state dict of
arrays with a table of names beside them; in a nested one each parameter is a pair of its name and
its array. Paddle's own reader unpickles what a file asks for, so it is not used here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from assets.errors import AssetError
from assets.pickled_arrays import PLAIN_KINDS, ArrayMakers, Pending
from assets.pickles import Names, unpickle

NAME_TABLE = "StructuredToParameterName@@"
_PIECES = "UnpackBigParamInfor@@"
_MAX_DEPTH, _MAX_ENTRIES = 8, 100_000
_RENAMED = (
    (re.compile(r"\._mean$"), ".running_mean"),
    (re.compile(r"\._variance$"), ".running_var"),
    (re.compile(r"\.scale$"), ".weight"),  # of instance norms
    (re.compile(r"\.0\.cell_fw\.((?:weight|bias)_[ih]h)$"), r".\1_l0"),
    (re.compile(r"\.0\.cell_bw\.((?:weight|bias)_[ih]h)$"), r".\1_l0_reverse"),
)


def read_paddle(content: bytes, *, described: str) -> dict[str, Tensor] | None:
    """Every parameter under its PyTorch name and in PyTorch's layout; None if Paddle wrote none.

    Names of nested dicts are joined by dots. Batch norms get the counter that Paddle does not keep.
    """
    makers = ArrayMakers(len(content), described)
    arrays = makers.names()
    tuples = {f"{python}.tuple": _tuple for python in ("builtins", "__builtin__")}
    names = Names({**arrays.makers, **tuples}, arrays.inert)
    value, _ = unpickle(content, names, described=described)
    leaves = list(_leaves(value, described))
    if any(name.rpartition(".")[2] == _PIECES for name, _, _ in leaves):
        raise AssetError(
            f"{described} keeps large arrays in pieces; save it again with paddle.save(protocol=4)"
        )
    by_paddle = any(named or name.rpartition(".")[2] == NAME_TABLE for name, named, _ in leaves)
    if not by_paddle:
        return None
    found: dict[str, Tensor] = {}
    for name, _, leaf in leaves:
        if not isinstance(leaf, np.ndarray):
            continue
        if leaf.dtype.kind not in PLAIN_KINDS:
            raise AssetError(f"{described} holds {name} of {leaf.dtype}, which is no number")
        makers.spend(leaf.nbytes)
        tensor = torch.from_numpy(np.array(leaf, dtype=leaf.dtype.newbyteorder("=")))
        torch_name = _torch_name(name)
        found[torch_name] = tensor.T.contiguous() if is_linear(name, tensor) else tensor
        if torch_name.endswith(".running_mean"):
            found[torch_name.replace("running_mean", "num_batches_tracked")] = torch.tensor(0)
    return found


def is_linear(name: str, tensor: Tensor) -> bool:
    """Whether this is a Linear layer's weight, which Paddle keeps as inputs by outputs.

    Told by the name, since most of these matrices are square. The other matrices are embeddings,
    recurrent weights (`weight_ih`, `weight_hh`) and the cosine transform (`dct_mat`).
    """
    return tensor.ndim == 2 and name.endswith(".weight") and not name.endswith("embedding.weight")


def _tuple(args: tuple[object, ...]) -> object:
    (items,) = args
    if not isinstance(items, (tuple, list)):
        raise TypeError("a tuple of what is no sequence")
    return tuple(items)


def _leaves(value: object, described: str) -> Iterator[tuple[str, bool, object]]:
    """Name, whether it is a named pair, and value of what the nested dicts hold."""
    waiting: list[tuple[str, object, int]] = [("", value, 0)]
    seen = 0
    while waiting:
        prefix, item, depth = waiting.pop()
        if not isinstance(item, Mapping):
            continue
        if depth > _MAX_DEPTH:
            raise AssetError(f"{described} nests dicts without end; it is no model file")
        for key, entry in item.items():
            seen += 1
            if seen > _MAX_ENTRIES:
                raise AssetError(f"{described} holds over {_MAX_ENTRIES} values; no model does")
            name = f"{prefix}{key}"
            named = (
                isinstance(entry, tuple)
                and len(entry) == 2
                and isinstance(entry[0], str)
                and isinstance(entry[1], Pending)
            )
            leaf = entry[1] if named and isinstance(entry, tuple) else entry
            if isinstance(leaf, Pending):
                leaf = leaf.value
            yield name, named, leaf
            if isinstance(leaf, Mapping) and key not in (NAME_TABLE, _PIECES):
                waiting.append((f"{name}.", leaf, depth + 1))


def _torch_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name
