"""Animation clips of a GLB file."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flame.gltf_buffer import GlbBuffer, Json, float32_array
from flame.head import JOINT_NAMES, Head
from flame.rotation import axis_angle_to_quaternion


@dataclass(frozen=True, eq=False)
class Animation:
    """One clip: morph weights and local joint rotations over time, linear between keys."""

    times: Float[Tensor, " T"]  # seconds, from 0 or later, strictly rising
    weights: Float[Tensor, "T M"]  # in the order of Head.morph_names
    rotations: Float[Tensor, "T J 3"]  # axis-angle, radians, in the order of JOINT_NAMES
    name: str = "speech"

    def __post_init__(self) -> None:
        if not bool((self.times >= 0).all() and (self.times.diff() > 0).all()):
            raise ValueError("animation times must start at 0 or later and strictly rise")
        for field in ("times", "weights", "rotations"):
            if not bool(torch.isfinite(getattr(self, field)).all()):
                raise ValueError(f"animation.{field} holds NaN or infinity; give finite numbers")


def check_animation(head: Head, animation: Animation) -> None:
    """Refuse a clip of another number of morphs or joints than the head has."""
    n_keys = len(animation.times)
    wanted = {"weights": (n_keys, len(head.morphs)), "rotations": (n_keys, len(head.joints), 3)}
    for field, shape in wanted.items():
        given = tuple(getattr(animation, field).shape)
        if n_keys == 0 or given != shape:
            raise ValueError(
                f"animation.{field} is {given} for {n_keys} times; this head has "
                f"{len(head.morphs)} morphs and {len(head.joints)} joints, so give {shape} "
                "with at least one time"
            )


def add_clip(animation: Animation, moving: list[int], first_joint: int, buffer: GlbBuffer) -> Json:
    """A glTF animation of the mesh nodes `moving` and of the joint nodes from `first_joint`."""
    keys = buffer.add(float32_array(animation.times), bounds=True)
    samplers: list[Json] = []
    channels: list[Json] = []

    def add_sampler(output: int) -> int:
        samplers.append({"input": keys, "output": output, "interpolation": "LINEAR"})
        return len(samplers) - 1

    if moving:
        # one sampler serves all meshes, as they have the same targets in the same order
        weights = add_sampler(buffer.add(float32_array(animation.weights).reshape(-1)))
        channels += [
            {"sampler": weights, "target": {"node": node, "path": "weights"}} for node in moving
        ]
    turns = _continuous(axis_angle_to_quaternion(animation.rotations.detach().double().cpu()))
    for joint in range(len(JOINT_NAMES)):
        rotation = add_sampler(buffer.add(float32_array(turns[:, joint])))
        channels.append(
            {"sampler": rotation, "target": {"node": first_joint + joint, "path": "rotation"}}
        )
    return {"name": animation.name, "samplers": samplers, "channels": channels}


def _continuous(quaternions: Float[Tensor, "T J 4"]) -> Float[Tensor, "T J 4"]:
    """The same rotations with signs such that each key is the nearer one to the key before.

    q and -q are one rotation, but a player that mixes them component by component would turn
    through the long way round.
    """
    signs = (quaternions[1:] * quaternions[:-1]).sum(-1, keepdim=True).sign()
    signs = torch.where(signs == 0, torch.ones_like(signs), signs).cumprod(0)
    return torch.cat([quaternions[:1], quaternions[1:] * signs])
