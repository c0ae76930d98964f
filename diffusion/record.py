"""What a loaded pipeline is made of, for the manifests and metadata of the pictures it makes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

Pipeline: TypeAlias = Any  # diffusers' classes share no type that has the call
_KEY = "_model_record"


@dataclass(frozen=True)
class ModelRecord:
    """A model and all that was added to it; strings and numbers only, so that it goes into JSON."""

    source: str = ""  # as it was given: a folder, a file or a hub id
    pipeline: str = ""  # diffusers' class
    safety: str = (
        "none"  # "on", "off" as the caller asked, "none" where the model brings no checker
    )
    controlnets: tuple[str, ...] = ()
    t2i_adapters: tuple[str, ...] = ()
    loras: tuple[tuple[str, float], ...] = ()  # name and weight
    embeddings: tuple[str, ...] = ()  # the words that textual inversions added
    ip_adapters: tuple[tuple[str, float], ...] = ()  # name and scale
    compute: str = ""


def record_of(pipeline: Pipeline) -> ModelRecord:
    """The record of a pipeline; of one that was not loaded here, what can be told from itself."""
    found = getattr(pipeline, _KEY, None)
    if isinstance(found, ModelRecord):
        return found
    has_checker = getattr(pipeline, "safety_checker", None) is not None
    return ModelRecord(pipeline=type(pipeline).__name__, safety="on" if has_checker else "none")


def add_to_record(model: Pipeline, **changes: Any) -> None:
    """Replace fields of a pipeline's record."""
    setattr(model, _KEY, replace(record_of(model), **changes))
