"""The points of posed heads with their derivatives: what a fit over many frames steps by.

At a fixed turn of jaw and eyes the head is affine in identity and expression, so those derivatives
are exact and cost one product; only the five angles are differenced.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deca.landmark_points import LandmarkPoints
from flame.model import Flame
from flame.params import params_from_arkit
from flame.records import TensorRecord
from flame.rotation import axis_angle_to_matrix

N_WEIGHTS = 52
N_POSE = N_WEIGHTS + 6  # ARKit weights, turn (3), log scale, shift (2)
_STEP = 1e-6


@dataclass(frozen=True, eq=False)
class Poses(TensorRecord):
    """What changes from frame to frame, N frames; cameras are those of each frame's crop."""

    weights: Float[Tensor, "N 52"]
    rotation: Float[Tensor, "N 3 3"]  # of the head, in the crop's camera
    log_scale: Float[Tensor, " N"]  # of Camera.scale
    shift: Float[Tensor, "N 2"]  # metres
    tangent: Float[Tensor, " N"]  # of half the crop's vertical field of view

    def moved(self, step: Float[Tensor, "N 58"]) -> Poses:
        """The poses after a step of a fit; turns are from the left, weights stay within 0..1."""
        turn = axis_angle_to_matrix(step[:, N_WEIGHTS : N_WEIGHTS + 3])
        return Poses(
            (self.weights + step[:, :N_WEIGHTS]).clamp(0, 1),
            turn @ self.rotation,
            self.log_scale + step[:, N_WEIGHTS + 3],
            self.shift + step[:, N_WEIGHTS + 4 :],
            self.tangent,
        )


@dataclass(frozen=True, eq=False)
class Slopes:
    """Where the points fall, and how they move; units are half crops, y up."""

    seen: Float[Tensor, "N L 2"]
    by_pose: Float[Tensor, "N L 2 58"]
    by_shape: Float[Tensor, "N L 2 S"] | None
    by_log_focal: Float[Tensor, "N L 2"]  # of the tangent's logarithm, with the scale held


class PointModel:
    """A head model narrowed to the points that are seen, in float64."""

    def __init__(self, flame: Flame, carried: LandmarkPoints, n_shape: int | None = None) -> None:
        used, corners = torch.unique(carried.corners, return_inverse=True)
        small = flame.restricted(used).double()
        self.n_shape = flame.n_shape if n_shape is None else min(n_shape, flame.n_shape)
        self._count = len(used)
        self._corners: Int[Tensor, "L 3"] = corners
        self._bary = carried.bary.double()
        self._mixed = (carried.bary[:, 1:] != 0).any(1)
        self._template = small.template
        self._shape = small.shapedirs[: self.n_shape]
        self._expression = small.expressiondirs[:N_WEIGHTS].clone()
        self._posedirs = small.posedirs
        self._parts = small.lbs_weights[: self._count, 2:]  # of jaw and eyes [U, 3]
        each = params_from_arkit(torch.zeros(N_WEIGHTS, 1), torch.eye(N_WEIGHTS))
        # jawOpen is a turn of the jaw alone
        self._expression[each.jaw[:, 0] != 0] = 0
        angles = [each.jaw[:, 0], *each.eyes[:, :, :2].flatten(1).unbind(1)]
        self._angles = torch.stack(angles, 1).double()  # [52, 5]

    def on_surface(
        self, shape: Float[Tensor, " S"], weights: Float[Tensor, "N 52"]
    ) -> Float[Tensor, "N L 3"]:
        """The points of one identity before its head turns, about the root joint."""
        rest, joints = self._rest(shape, weights)
        return self._gathered(self._turned(rest, joints, weights @ self._angles)[..., None])[..., 0]

    def slopes(
        self, shape: Float[Tensor, " S"], poses: Poses, *, with_shape: bool = False
    ) -> Slopes:
        """Projections and their derivatives for one identity in many poses."""
        rest, joints = self._rest(shape, poses.weights)
        angles = poses.weights @ self._angles
        local = self._turned(rest, joints, angles)  # about the root joint [N, U, 3]
        steps = torch.eye(5, dtype=torch.float64) * _STEP
        turned = [(self._turned(rest, joints, angles + step) - local) / _STEP for step in steps]
        by_angle = torch.stack(turned, -1)  # [N, U, 3, 5]
        bend, rotations = self._bend(angles)
        by_weight = self._carried(self._expression, bend, rotations) + by_angle @ self._angles.T
        # root joint and camera shift tell the same story: the head turns about its root joint
        weight_slopes = poses.rotation[:, None] @ self._gathered(by_weight)
        points = torch.einsum(
            "nik,nlk->nli", poses.rotation, self._gathered(local[..., None])[..., 0]
        )
        turn_slopes = _minus_skew(points)
        by_space = torch.cat([weight_slopes, turn_slopes], -1)  # [N, L, 3, 55]
        projected = _Projection(points, poses)
        by_pose = torch.cat([projected.carry(by_space), projected.by_camera()], -1)
        by_shape = None
        if with_shape:
            moved = self._gathered(self._carried(self._shape, bend, rotations))
            by_shape = projected.carry(poses.rotation[:, None] @ moved)
        return Slopes(projected.seen, by_pose, by_shape, projected.by_log_focal())

    def project(self, shape: Float[Tensor, " S"], poses: Poses) -> Float[Tensor, "N L 2"]:
        """Where the points fall, half crops, y up."""
        local = self.on_surface(shape, poses.weights)
        points = torch.einsum("nik,nlk->nli", poses.rotation, local)
        return _Projection(points, poses).seen

    def root(self, shape: Float[Tensor, " S"], weights: Float[Tensor, "N 52"]) -> Tensor:
        """The root joints, metres [N, 3]."""
        return self._rest(shape, weights)[1][:, 0]

    def _rest(self, shape: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        flat = self._template + (shape[: self.n_shape] @ self._shape.flatten(1)).view_as(
            self._template
        )
        moved = (weights @ self._expression.flatten(1)).view(-1, *self._template.shape)
        placed = flat + moved
        return placed[:, : self._count], placed[:, self._count :]

    def _bend(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        """Of each vertex the linear part of jaw and eyes [N, U, 3, 3]; their R - I [N, 3, 3, 3]."""
        zero = torch.zeros_like(angles[:, :1])
        jaw = torch.cat([angles[:, :1], zero, zero], 1)
        left = torch.cat([angles[:, 1:3], zero], 1)
        right = torch.cat([angles[:, 3:5], zero], 1)
        turns = axis_angle_to_matrix(torch.stack([jaw, left, right], 1)) - torch.eye(3).double()
        bend = torch.einsum("up,npij->nuij", self._parts, turns) + torch.eye(3).double()
        return bend, turns

    def _turned(self, rest: Tensor, joints: Tensor, angles: Tensor) -> Tensor:
        """Vertices after jaw and eyes turned, about the root joint [N, U, 3]."""
        bend, turns = self._bend(angles)
        still = torch.zeros_like(turns[:, :1])  # the neck
        features = torch.cat([still, turns], 1).flatten(1)
        corrected = (features @ self._posedirs[:, : self._count].flatten(1)).view_as(rest) + rest
        held = torch.einsum("npij,npj->npi", turns, joints[:, 2:])
        moved = torch.einsum("nuij,nuj->nui", bend, corrected)
        return moved - torch.einsum("up,npi->nui", self._parts, held) - joints[:, :1]

    def _carried(self, basis: Tensor, bend: Tensor, turns: Tensor) -> Tensor:
        """Displacements per coefficient after the turns [N, U, 3, D], about the root joint."""
        verts, joints = basis[:, : self._count], basis[:, self._count :]
        moved = torch.einsum("nuij,duj->nuid", bend, verts)
        held = torch.einsum("npij,dpj->npid", turns, joints[:, 2:])
        moved = moved - torch.einsum("up,npid->nuid", self._parts, held)
        return moved - joints[:, 0].T[None, None]

    def _gathered(self, per_vertex: Float[Tensor, "N U 3 D"]) -> Float[Tensor, "N L 3 D"]:
        corners, bary = self._corners, self._bary
        points = per_vertex[:, corners[:, 0]] * bary[:, 0, None, None]
        mixed = self._mixed
        for corner in (1, 2):
            share = bary[mixed, corner, None, None]
            points[:, mixed] += per_vertex[:, corners[mixed, corner]] * share
        return points


def _minus_skew(points: Float[Tensor, "N L 3"]) -> Float[Tensor, "N L 3 3"]:
    """How points move with a small turn: d(turn) = turn x point."""
    x, y, z = points.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, z, -y, -z, zero, x, y, -x, zero]
    return torch.stack(rows, -1).reshape(*points.shape, 3)


class _Projection:
    """A crop's camera at points about the root joint, and its derivatives.

    The camera's shift is that of the root joint: the head turns there and is moved by it.
    """

    def __init__(self, points: Float[Tensor, "N L 3"], poses: Poses) -> None:
        self._scale = poses.log_scale.exp()[:, None, None]  # [N, 1, 1]
        self._near = self._scale * poses.tangent[:, None, None]
        self._w = 1 - points[..., 2:] * self._near
        self._depth = points[..., 2:]
        self.seen = self._scale * (points[..., :2] + poses.shift[:, None]) / self._w

    def carry(self, moved: Float[Tensor, "N L 3 D"]) -> Float[Tensor, "N L 2 D"]:
        """Movements in space as movements in the crop."""
        along = self.seen[..., None] * self._near[..., None] * moved[:, :, 2:]
        return (self._scale[..., None] * moved[:, :, :2] + along) / self._w[..., None]

    def by_camera(self) -> Float[Tensor, "N L 2 3"]:
        """By log scale, shift x, shift y."""
        by_scale = self.seen / self._w
        by_shift = (self._scale / self._w).expand_as(by_scale)
        zero = torch.zeros_like(by_shift[..., 0])
        first = torch.stack([by_shift[..., 0], zero], -1)
        second = torch.stack([zero, by_shift[..., 1]], -1)
        return torch.stack([by_scale, first, second], -1)

    def by_log_focal(self) -> Float[Tensor, "N L 2"]:
        return self.seen * self._depth * self._near / self._w
