"""Joints, skinning weights and the jaw's pose corrective of the built head."""

from __future__ import annotations

import numpy as np
import torch

from flame.arkit import ARKIT_NAMES
from flame.model import PARENTS, FlameArrays, jaw_posedirs, joint_transforms, skin
from flame.remesh import Floats, Ints
from flame.rotation import axis_angle_to_matrix
from flame.statistics import Statistics


def skinning_weights(
    template: Floats, jaw_weight: Floats, eyes: tuple[slice, slice]
) -> tuple[Floats, Floats]:
    """LBS weights [V, 5] (root, neck, jaw, eyes) and the head joint's share of the neck's."""
    # planes of equal height lean with the neck: chin and skull base lie on one of them
    height = template[:, 1] + 0.32 * template[:, 2]
    neck = _smoothstep(-138.0, -70.0, height)
    head = _smoothstep(-112.0, -66.0, height)
    jaw = np.clip(jaw_weight, 0, 1) * neck
    weights = np.zeros((len(template), 5))
    weights[:, 0] = 1 - neck
    weights[:, 1] = neck - jaw
    weights[:, 2] = jaw
    for joint, where in enumerate(eyes, start=3):
        weights[where] = 0
        weights[where, joint] = 1
    share = np.divide(head, neck, out=np.zeros_like(head), where=neck > 1e-9)
    # what the jaw moves belongs to the head altogether
    share = np.maximum(share, _smoothstep(0.0, 0.3, jaw))
    return weights, np.clip(share, 0, 1)


def _smoothstep(low: float, high: float, x: Floats) -> Floats:
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def model_arrays(
    template: Floats,
    modes: Floats,
    expression: Floats,
    weights: Floats,
    head_share: Floats,
    source: Statistics,
    eyes: tuple[slice, slice],
    skin_here: slice,
) -> FlameArrays:
    skin_verts = template[skin_here]
    height = skin_verts[:, 1] + 0.32 * skin_verts[:, 2]
    ear_ring = np.abs(np.linalg.norm(skin_verts[:, 1:] - source.jaw_hinge[1:], axis=1)) < 32
    ear_ring &= np.abs(skin_verts[:, 0]) > 55
    collar = np.abs(height + 120) < 18
    low = height < -150
    rings = [
        (np.flatnonzero(low), np.array([0.0, -150.0, -20.0])),
        (np.flatnonzero(collar), np.array([0.0, -75.0, -22.0])),
        (np.flatnonzero(ear_ring), source.jaw_hinge),
        (np.arange(eyes[0].start, eyes[0].stop), source.eye_centers[0]),
        (np.arange(eyes[1].start, eyes[1].stop), source.eye_centers[1]),
    ]
    regressor = np.stack([regress(template, ring, point) for ring, point in rings])
    head_joint = regress(template, np.flatnonzero(ear_ring), np.array([0.0, -28.0, -6.0]))
    opened = ARKIT_NAMES.index("jawOpen")
    metres = 1e-3
    joints = torch.from_numpy(regressor @ template) * metres
    rest = torch.from_numpy(template) * metres
    turned = torch.zeros(1, 5, 3, dtype=torch.float64)
    turned[0, PARENTS.index(1), 0] = np.radians(source.jaw_open_deg)
    transforms = joint_transforms(axis_angle_to_matrix(turned), joints[None], PARENTS)
    swung = skin(rest[None], transforms, torch.from_numpy(weights))[0]
    full = torch.from_numpy(expression[opened]) * metres
    corrective = full - (swung - rest)
    expression = expression.copy()
    expression[opened] = 0
    return FlameArrays(
        template=rest.float(),
        shapedirs=torch.from_numpy(modes * metres).float(),
        expressiondirs=torch.from_numpy(expression * metres).float(),
        posedirs=jaw_posedirs(corrective.float(), source.jaw_open_deg),
        joint_regressor=torch.from_numpy(regressor).float(),
        lbs_weights=torch.from_numpy(weights).float(),
        head_joint_regressor=torch.from_numpy(head_joint).float(),
        head_share=torch.from_numpy(head_share).float(),
    )


def regress(template: Floats, ring: Ints, point: Floats) -> Floats:
    """The evenest weights [V] on a ring of vertices that sum to 1 and give the point."""
    conditions = np.concatenate([template[ring].T, np.ones((1, len(ring)))])
    even = np.full(len(ring), 1 / len(ring))
    wanted = np.append(point, 1.0) - conditions @ even
    result = np.zeros(len(template))
    result[ring] = even + np.linalg.pinv(conditions) @ wanted
    return result
