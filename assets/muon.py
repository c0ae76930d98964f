"""Descent by orthogonalized momentum, which takes fewer steps than Adam where steps are few."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_DECAYS = (0.9, 0.98)  # of Adam's moments
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrix: Float[Tensor, "M N"], rounds: int = 3) -> Float[Tensor, "M N"]:
    """Toward U V^T of a matrix's U S V^T: large singular values go to between 0.7 and 1.2.

    Newton and Schulz's iteration with Jordan's coefficients (2024); singles are computed in
    bfloat16 where the device has it, which is exact enough. A matrix of zeros stays so.
    """
    a, b, c = _QUINTIC
    tall = len(matrix) > matrix.shape[1]
    found: Tensor = matrix.T if tall else matrix
    found = found / (found.norm() + 1e-7)
    if matrix.dtype == torch.float32 and _computes_halves(matrix.device.type):
        found = found.bfloat16()
    for _ in range(rounds):
        square = found @ found.T
        found = a * found + (b * square + c * square @ square) @ found
    turned: Tensor = found.T if tall else found
    return turned.to(matrix.dtype)


@lru_cache(maxsize=4)
def _computes_halves(device: str) -> bool:
    """Whether products of bfloat16 are computed by the device itself."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


class Muon(torch.optim.Optimizer):
    """Orthogonalized momentum for matrices and convolutions, Adam for the rest, weights decaying.

    A group's `orthogonal` says which. Steps of matrices are as large as Adam's (Liu et al. 2025,
    equation 4), so that one rate suits both. A convolution's matrix is [out, in * height * width].
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(groups, {**defaults, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if group["orthogonal"]:
                    moved = _turned(state, weight.grad, group["momentum"])
                else:
                    moved = _adam(state, weight.grad)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(moved, alpha=-group["lr"])


def _turned(state: dict[str, Tensor], gradient: Tensor, momentum: float) -> Tensor:
    if not state:
        state["momentum"] = torch.zeros_like(gradient)
    state["momentum"].lerp_(gradient, 1 - momentum)
    ahead = gradient.lerp(state["momentum"], momentum).flatten(1)
    moved: Tensor = orthogonalized(ahead) * (0.2 * max(ahead.shape) ** 0.5)
    return moved.reshape(gradient.shape)


def _adam(state: dict[str, Tensor], gradient: Tensor) -> Tensor:
    if not state:
        state["step"] = torch.zeros(())
        state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    first, second = _DECAYS
    state["step"] += 1
    state["mean"].lerp_(gradient, 1 - first)
    state["square"].lerp_(gradient.square(), 1 - second)
    count = float(state["step"])
    root = (state["square"] / (1 - second**count)).sqrt()
    moved: Tensor = (state["mean"] / (1 - first**count)) / (root + 1e-8)
    return moved
