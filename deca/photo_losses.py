"""What DECA's encoder is trained on without labels: points, lids, lips, pixels, identity, priors.

Feng et al. 2021, section 4.1. Points are in half crops from the crop's middle, x to the right and
y down, so that the crop is -1..1.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deca.landmark_points import N_LANDMARKS

# pairs of the 68 points whose distances say how far lids and lips are open
EYE_PAIRS = ((37, 41), (38, 40), (43, 47), (44, 46))
LIP_PAIRS = ((61, 67), (62, 66), (63, 65))


def landmark_weights() -> Float[Tensor, " 68"]:
    """How much each of the 68 points counts: corners of nose and mouth most, the jaw line least."""
    weights = torch.ones(N_LANDMARKS)
    weights[[5, 6, 10, 11]] = 2
    weights[27:36] = 1.5
    weights[48:68] = 1.5
    weights[[30, 31, 35, 48, 54]] = 3
    return weights


def landmark_loss(
    points: Float[Tensor, "B L 2"],
    truth: Float[Tensor, "B L 2"],
    visibility: Float[Tensor, "B L"],
    weights: Float[Tensor, " L"],
) -> Float[Tensor, ""]:
    """Mean absolute difference of coordinates, weighted; 0 where nothing is visible."""
    trust = visibility * weights
    off = (points - truth).abs().sum(-1)
    loss: Tensor = (off * trust).sum() / (2 * trust.sum()).clamp(min=1e-8)
    return loss


def closure_loss(
    points: Float[Tensor, "B 68 2"],
    truth: Float[Tensor, "B 68 2"],
    visibility: Float[Tensor, "B 68"],
    pairs: tuple[tuple[int, int], ...],
) -> Float[Tensor, ""]:
    """Mean absolute difference of the distances of pairs of points: a shift costs nothing."""
    first, second = (list(side) for side in zip(*pairs, strict=True))
    trust = visibility[:, first] * visibility[:, second]
    opened = (points[:, first] - points[:, second]).norm(dim=-1)
    wanted = (truth[:, first] - truth[:, second]).norm(dim=-1)
    loss: Tensor = ((opened - wanted).abs() * trust).sum() / trust.sum().clamp(min=1e-8)
    return loss


def photometric_loss(
    rendered: Float[Tensor, "B 3 H W"],
    images: Float[Tensor, "B 3 H W"],
    mask: Float[Tensor, "B 1 H W"],
) -> Float[Tensor, ""]:
    """Mean over all pixels and channels of absolute differences under the mask.

    The mean is over the whole crop, so that a head cannot win by showing less of itself than the
    mask that it is compared under; pass the mask without gradients.
    """
    return ((rendered - images).abs() * mask).mean()


def identity_loss(features: Float[Tensor, "B N"], truth: Float[Tensor, "B N"]) -> Float[Tensor, ""]:
    """Mean of 1 - cos of the angle between identity features; 0..2."""
    cosine: Tensor = torch.nn.functional.cosine_similarity(features, truth, dim=1)
    return 1 - cosine.mean()


def code_prior(codes: Float[Tensor, "B N"]) -> Float[Tensor, ""]:
    """Half the sum of squared codes, over the batch too, as the published weights were meant."""
    return codes.square().sum() / 2


def beyond(codes: Float[Tensor, "B N"], low: float, high: float) -> Float[Tensor, ""]:
    """Sum of squared distances from the range low..high, where codes mean something."""
    return (low - codes).clamp(min=0).square().sum() + (codes - high).clamp(min=0).square().sum()


def light_prior(light: Float[Tensor, "B 9 3"]) -> Float[Tensor, ""]:
    """Mean squared colour of the light: its difference from its own grey."""
    return (light.mean(-1, keepdim=True) - light).square().mean()


def partners(subjects: int, pictures: int, *, generator: torch.Generator) -> Int[Tensor, " N"]:
    """For each of `subjects` x `pictures` pictures, another one of the same subject.

    With one picture a subject it is that one.
    """
    shift = 0
    if pictures > 1:
        shift = int(torch.randint(1, pictures, (), generator=generator))
    place = (torch.arange(pictures) + shift) % pictures
    return (torch.arange(subjects)[:, None] * pictures + place).reshape(-1)
