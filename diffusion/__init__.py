"""Image in, image out: Stable Diffusion and its relatives, run by diffusers. Names load on use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusion.pipelines import load_pipeline, txt2img

__all__ = ["load_pipeline", "txt2img"]


def __getattr__(name: str) -> object:
    # diffusers takes seconds to import, so it waits until a pipeline is asked for
    if name not in __all__:
        raise AttributeError(f"module 'diffusion' has no attribute {name!r}")
    return getattr(importlib.import_module("diffusion.pipelines"), name)
