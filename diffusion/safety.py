"""The model's own safety checker: on where there is one, off only when asked, and recorded."""

from __future__ import annotations

from typing import Any

from diffusion.record import Pipeline, add_to_record


def set_safety(pipeline: Pipeline, wanted: str) -> None:
    """Keep the pipeline's checker ("on") or take it out ("off"), and record which it is."""
    if wanted not in ("on", "off"):
        raise ValueError(f'safety={wanted!r} must be "on" or "off"')
    if getattr(pipeline, "safety_checker", None) is None:
        add_to_record(pipeline, safety="none")
        return
    if wanted == "off":
        pipeline.safety_checker = None
        # so that no pipeline made of this one asks for it again
        pipeline.register_to_config(requires_safety_checker=False)
    add_to_record(pipeline, safety=wanted)


def flagged(output: Any, count: int) -> tuple[bool, ...]:
    """For each of `count` pictures of a pipeline's output, whether its checker blacked it out."""
    found = getattr(output, "nsfw_content_detected", None)
    if found is None:
        return (False,) * count
    return tuple(bool(one) for one in found)
