"""Least squares within bounds, for many right sides at once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_STEPS = 60
_TURNS = 12
_SHARES = 8  # halvings of a Newton step


def solve_in_box(
    quadratic: Float[Tensor, "N N"],
    linear: Float[Tensor, "B N"],
    lower: Float[Tensor, "B N"],
    upper: Float[Tensor, "B N"],
    start: Float[Tensor, "B N"] | None = None,
) -> Float[Tensor, "B N"]:
    """The x within bounds that make x Q x / 2 - l x least; Q is symmetric and positive definite.

    Projected Newton steps (Bertsekas 1982): exact after a few of them, when the bounds that hold
    are found. Items do not depend on one another.
    """
    if not bool((lower <= upper).all()):
        raise ValueError("a lower bound is above its upper bound; give lower <= upper")
    found = (torch.zeros_like(linear) if start is None else start).clamp(lower, upper)
    size = quadratic.diagonal().sqrt()
    left = torch.arange(len(found), device=found.device)  # items that still move
    for _ in range(_STEPS):
        x = found[left]
        moved = _stepped(quadratic, linear[left], x, lower[left], upper[left])
        found[left] = moved
        change = ((moved - x) * size).abs().amax(1)
        left = left[change > 1e-9 * (1 + (x * size).abs().amax(1))]
        if len(left) == 0:
            break
    return found


def _stepped(quadratic: Tensor, linear: Tensor, x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The best of some lengths of Newton's step within the bounds that do not hold."""

    def value(at: Tensor) -> Tensor:
        return 0.5 * ((at @ quadratic) * at).sum(-1) - (at * linear).sum(-1)

    slope = x @ quadratic - linear
    held = ((x <= lower) & (slope > 0)) | ((x >= upper) & (slope < 0))
    step = torch.zeros_like(x)
    for _ in range(_TURNS):
        free = (~held).to(x)
        system = quadratic * free[:, :, None] * free[:, None, :] + torch.diag_embed(1 - free)
        step = -torch.linalg.solve(system, (slope * free)[..., None])[..., 0]
        # what stands at its bound and would be pushed out by the others' steps is held as well
        out = ((x <= lower) & (step < 0)) | ((x >= upper) & (step > 0))
        if not bool((out & ~held).any()):
            break
        held = held | out
    shares = 0.5 ** torch.arange(_SHARES).to(x)
    # a step along the slope alone always falls, where Newton's is cut by many bounds
    plain = x - slope / quadratic.diagonal().sum()
    tries = torch.cat([x + shares[:, None, None] * step, plain[None], x[None]])
    tries = torch.maximum(torch.minimum(tries, upper), lower)  # [T, B, N]
    best = value(tries).argmin(0)
    return tries[best, torch.arange(len(x), device=x.device)]
