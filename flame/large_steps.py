"""Descent on a mesh's vertices in smooth steps (Nicolet et al. 2021, "Large Steps in Inverse
Rendering of Geometry").

Vertices v are written as (I + lambda L) v = u with the graph Laplacian L, and u is what is
optimised: a gradient that lives on a silhouette's rim alone moves the surface round it too, and
the mesh keeps its shape instead of growing spikes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import SuperLU, splu
from torch import Tensor

from flame.mesh_losses import Neighbours


class Preconditioner:
    """Solves (I + smoothness L) v = u for one mesh; factorised once, on the CPU."""

    def __init__(self, near: Neighbours, smoothness: float) -> None:
        count = len(near.valence)
        start, end = near.edges.cpu().numpy().T
        ones = np.ones(len(start))
        adjacency = coo_array((ones, (start, end)), shape=(count, count))
        adjacency = adjacency + adjacency.T
        diagonal = diags_array(1 + smoothness * adjacency.sum(1))
        self._matrix = (diagonal - smoothness * adjacency).tocsc()
        # symmetric and diagonally dominant, so that no pivoting is needed
        self._factors: SuperLU = splu(
            self._matrix,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )

    def encode(self, verts: Float[Tensor, "V C"]) -> Float[Tensor, "V C"]:
        """u of vertices v, or of any values on them."""
        product = self._matrix @ verts.detach().double().cpu().numpy()
        return torch.from_numpy(product).to(verts)

    def decode(self, coded: Float[Tensor, "V C"]) -> Float[Tensor, "V C"]:
        """v of u; differentiable."""
        verts: Tensor = _Solve.apply(coded, self._factors)  # type: ignore[no-untyped-call]
        return verts


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, coded: Tensor, factors: SuperLU) -> Tensor:
        ctx.factors = factors
        return _solve(factors, coded)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _solve(ctx.factors, grad), None  # the matrix is symmetric


def _solve(factors: SuperLU, right: Tensor) -> Tensor:
    return torch.from_numpy(factors.solve(right.detach().double().cpu().numpy())).to(right)


class UniformAdam:
    """Adam whose step has one size for all entries of a tensor (Nicolet et al. 2021, section 3.3).

    Adam's own division entry by entry would undo the smoothness of the steps.
    """

    def __init__(self, value: Tensor, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        self._value, self._betas = value, betas
        self._steps = 0
        self._mean, self._square = torch.zeros_like(value), torch.zeros_like(value)

    @torch.no_grad()
    def step(self, grad: Tensor, rate: float) -> None:
        """Move the value, in place, against a gradient; by `rate` where it is largest and lasts."""
        first, second = self._betas
        self._steps += 1
        self._mean.lerp_(grad, 1 - first)
        self._square.lerp_(grad.square(), 1 - second)
        mean = self._mean / (1 - first**self._steps)
        largest = (self._square / (1 - second**self._steps)).max().sqrt()
        self._value.sub_(mean * (rate / largest.clamp(min=1e-30)))
