"""Functions compiled on the user's machine without a compiler, and kept on disk between runs.

Import this file only inside a function or from a file of kernels: numba takes a while to load.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar, cast

import numba

log = logging.getLogger(__name__)

_F = TypeVar("_F", bound=Callable[..., object])


def kernel(*signatures: str, fast: bool = False, built_on: str = "") -> Callable[[_F], _F]:
    """Compile for these argument types and keep the result on disk; `fast` is for shading.

    Without types it is compiled when first called. What is kept is found by the function's own
    file; `built_on` names the version of device functions that come from another one.
    """
    return lambda function: _compile(function, list(signatures) or None, fast, built_on)


def version_of(*modules: ModuleType) -> str:
    """Eight digits that change when the source of these files does, for `built_on`."""
    sources = "".join(inspect.getsource(module) for module in modules)
    return hashlib.sha256(sources.encode()).hexdigest()[:8]


def device(function: _F) -> _F:
    """A function that kernels call."""
    return _compile(function, None, fast=False, keep=False)


def shading(function: _F) -> _F:
    """A function that shading kernels call; its arithmetic may be fused and reordered."""
    return _compile(function, None, fast=True, keep=False)


def _compile(
    function: _F,
    signatures: list[str] | None,
    fast: bool,
    built_on: str = "",
    *,
    keep: bool = True,
) -> _F:
    # numba must see the bare function, also where an import hook wrapped it to check shapes
    bare = inspect.unwrap(function)
    if built_on and not bare.__qualname__.endswith(built_on):
        bare.__qualname__ += f"_{built_on}"  # becomes a part of the name of the kept file
    compiler = functools.partial(
        numba.jit,
        signatures,
        nopython=True,
        nogil=True,
        error_model="numpy",
        # shading may fuse and reorder, coverage may not; NaN and infinity keep their meaning
        fastmath={"contract", "arcp", "nsz", "reassoc", "afn"} if fast else False,
    )
    if not keep:
        return cast(_F, compiler()(bare))
    try:
        return cast(_F, compiler(cache=True)(bare))
    except (RuntimeError, OSError) as error:
        if isinstance(error, RuntimeError) and "cannot cache" not in str(error):
            raise
        _say_that_nothing_is_kept()
        return cast(_F, compiler()(bare))


@functools.cache  # once
def _say_that_nothing_is_kept() -> None:
    log.warning(
        "compiled kernels cannot be kept on disk, so that every start compiles them anew; "
        "set NUMBA_CACHE_DIR to a folder that can be written"
    )
