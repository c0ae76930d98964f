"""ControlNets by name: which picture of a head each wants, and the model that they steer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from deca.conditions import (
    KINDS,
    HeadView,
    canny_condition,
    depth_condition,
    face_condition,
    landmark_condition,
    normal_condition,
    openpose_condition,
    part_condition,
    seg_condition,
)
from diffusion.recipe import Recipe
from flame.camera import Projection
from flame.head import Head
from flame.material import Material

_POINTS = ("openpose", "landmarks", "face")


@dataclass(frozen=True)
class Control:
    """A ControlNet, the kind of picture it is steered by, and how strongly."""

    kind: str  # one of deca.conditions.KINDS
    source: Path | str
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"the condition {self.kind!r} is not known; use {', '.join(KINDS)}")
        if not 0 <= self.scale <= 2:
            raise ValueError(f"the scale {self.scale} of {self.kind} must be from 0 to 2")


def parse_control(text: str) -> Control:
    """The control of `normal=PATH`, or of `normal:0.7=PATH` with a scale."""
    name, equals, source = text.partition("=")
    kind, colon, scale = name.partition(":")
    if not equals or not source.strip():
        raise ValueError(
            f"--controlnet {text!r} is not KIND=PATH; write such as normal=FOLDER or "
            f"depth:0.6=FOLDER, with a kind out of {', '.join(KINDS)}"
        )
    try:
        weight = float(scale) if colon else 1.0
    except ValueError as error:
        raise ValueError(
            f"--controlnet {text!r}: {scale!r} is no number; write depth:0.6=PATH"
        ) from error
    return Control(kind.strip().lower(), source.strip(), weight)


def condition_of(
    kind: str,
    seen: HeadView,
    camera: Projection,
    head: Head,
    materials: Sequence[Material],
    picture: Float[Tensor, "1 3 H W"],
    points: Float[Tensor, "68 2"] | None = None,
) -> Float[Tensor, "1 3 H W"]:
    """The picture that a kind of ControlNet is steered by; `picture` is the shaded render.

    Kinds of points need `points`, pixels.
    """
    size = (picture.shape[-2], picture.shape[-1])
    if kind in _POINTS:
        if points is None:
            raise ValueError(
                f"{kind} shows a face's points, which are not known of all views; use another of "
                f"{', '.join(one for one in KINDS if one not in _POINTS)}"
            )
        if kind == "face":
            return face_condition(seen, points)
        draw = openpose_condition if kind == "openpose" else landmark_condition
        return draw(points, size)
    if kind == "canny":
        return canny_condition(picture)
    if kind == "parts":
        return part_condition(head, materials, seen.verts, camera, size)
    made = {"normal": normal_condition, "depth": depth_condition, "seg": seg_condition}
    return made[kind](seen)


def open_controlled(
    model: Path | str, controls: Sequence[Control], recipe: Recipe, device: str = "auto"
) -> Any:
    """The model's pipeline with its ControlNets and the recipe's safety setting, on a device."""
    from diffusion.compute import choose_device, choose_dtype, place
    from diffusion.load import load_pipeline
    from diffusion.shipped_portrait import control_of, place_of

    dtype: torch.dtype = choose_dtype(choose_device(device))
    safety = "on" if recipe.safety_checker else "off"
    nets = [control_of(one.source) for one in controls]
    pipeline = load_pipeline(place_of(model), dtype=dtype, safety=safety, controlnets=nets)
    place(pipeline, device)
    return pipeline
