"""Glasses and hats of random people: where they sit on the head, drawn as flat layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from deca import synth_scene as scene
from flame.camera import Projection

Rng = np.random.Generator


@dataclass(frozen=True, eq=False)
class Sitter:
    """A posed head before a camera."""

    verts: Float[Tensor, "V 3"]  # of the head alone
    marks: Float[Tensor, "68 3"]
    camera: Projection
    side: int  # px of the picture

    def glasses(self, yaw: float, rng: Rng) -> tuple[scene.Bytes, bool]:
        """An RGBA layer with spectacles, and whether they are dark; `yaw` in degrees."""
        marks = self.marks
        axes, apart = self._frame()
        angle = torch.linspace(0, 2 * torch.pi, 41)[:-1]
        power = float(rng.choice([1.0, 0.75, 0.55]))  # round to nearly square
        circle = torch.stack([angle.cos(), angle.sin()], -1)
        circle = circle.sign() * circle.abs() ** power
        half = apart * torch.tensor([rng.uniform(0.33, 0.43), rng.uniform(0.22, 0.38)]).float()
        drop, ahead = rng.uniform(-0.08, 0.03), rng.uniform(0.16, 0.24)
        rims = []
        for eye in (marks[36:42].mean(0), marks[42:48].mean(0)):
            middle = eye + apart * (drop * axes[1] + ahead * axes[2])
            middle = middle + (marks[27] - middle) @ axes[2] * 0.3 * axes[2]
            rims.append(middle + (circle * half) @ axes[:2])
        bridge = torch.stack([rims[0][0], marks[27] + 0.15 * apart * axes[2], rims[1][20]])
        temples = []
        for side, rim, ear, visible in (
            (20, rims[0], marks[0], yaw > -12),
            (0, rims[1], marks[16], yaw < 12),
        ):
            if visible:
                temples.append(torch.stack([rim[side], ear + 0.25 * apart * axes[1]]))
        return scene.draw_glasses(
            self.side,
            [self._pixels(path) for path in (*rims, bridge)],
            [self._pixels(path) for path in temples],
            rng,
        )

    def hat(self, rng: Rng) -> tuple[scene.Bytes, tuple[int, int, int]]:
        """An RGBA layer with a cap, with or without a brim, and its colour."""
        middle = self.marks[27]
        axes, apart = self._frame()
        local = (self.verts - middle) @ axes.T / apart
        above = (local[:, 1] > rng.uniform(0.75, 1.2)) & (local[:, 1] < 4)
        crown = local[above]
        centre = crown.mean(0)
        crown = centre + (crown - centre) * float(rng.uniform(1.06, 1.2))
        angle = torch.linspace(0, 2 * torch.pi, 32)
        low = crown[:, 1].amin()
        reach = float(rng.uniform(1.15, 1.7))
        radius = (crown.amax(0) - crown.amin(0)) / 2 * reach
        brim = torch.stack(
            [
                centre[0] + radius[0] * angle.cos(),
                low.expand(32) + 0.05 * angle.sin(),
                centre[2] + radius[2] * angle.sin(),
            ],
            -1,
        )
        if rng.random() < 0.5:  # a peak only
            brim = brim[brim[:, 2] > centre[2]]
        return scene.draw_hat(
            self.side,
            self._pixels(middle + apart * crown @ axes),
            self._pixels(middle + apart * brim @ axes),
            rng,
        )

    def _frame(self) -> tuple[Tensor, Tensor]:
        """The head's axes (rows right, up, forward) and the distance of the eyes."""
        marks = self.marks
        left, right = marks[42:48].mean(0), marks[36:42].mean(0)
        across = torch.nn.functional.normalize(left - right, dim=0)
        up = torch.nn.functional.normalize((left + right) / 2 - marks[[31, 35]].mean(0), dim=0)
        up = torch.nn.functional.normalize(up - (up @ across) * across, dim=0)
        forward = torch.linalg.cross(across, up)
        return torch.stack([across, up, forward]), (left - right).norm()

    def _pixels(self, points: Tensor) -> NDArray[np.float64]:
        pixels = self.camera.project(points[None], (self.side, self.side))[0, :, :2]
        return pixels.double().numpy()
