"""The losses of StarGANv2-VC (Li et al. 2021, section 2.3), one function each; mels normalised."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from voice.jdc import Pitch
from voice.mel import denormalised
from voice.stargan import Discriminator

_LARGEST_LOGIT = 10.0
_NORM_MARGIN = 0.5  # difference of log norms that costs nothing


def adversarial(logits: Float[Tensor, " B"], *, real: bool) -> Float[Tensor, ""]:
    """Binary cross-entropy of being real; logits beyond ±10 have no gradient."""
    logits = logits.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def r1(logits: Float[Tensor, " B"], mel: Float[Tensor, "B 1 M T"]) -> Float[Tensor, ""]:
    """Half the squared gradient of the logits by the mel, mean over items (Mescheder et al. 2018).

    `mel` must require gradients.
    """
    (slope,) = torch.autograd.grad(logits.sum(), mel, create_graph=True)
    return 0.5 * slope.square().flatten(1).sum(dim=1).mean()


def classification(
    logits: Float[Tensor, "B D"], domain: Int[Tensor, " B"], counts: Bool[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Cross-entropy over the items that count; 0 where none does."""
    each = F.cross_entropy(logits, domain, reduction="none")
    return (each * counts).sum() / counts.sum().clamp(min=1)


def contour(fake: Float[Tensor, "B T"], real: Float[Tensor, "B T"]) -> Float[Tensor, ""]:
    """L1 of pitch contours, each divided by its mean in time."""
    return F.l1_loss(_relative(fake), _relative(real))


def _relative(f0: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    return f0 / f0.mean(dim=1, keepdim=True).clamp(min=1e-3)


def mean_pitch(fake: Float[Tensor, "B T"], wanted: Float[Tensor, "B T"]) -> Float[Tensor, ""]:
    """L1 of the mean pitches in Hz."""
    return F.l1_loss(fake.mean(dim=1), wanted.mean(dim=1))


def norm_consistency(
    fake: Float[Tensor, "B 1 M T"], real: Float[Tensor, "B 1 M T"]
) -> Float[Tensor, ""]:
    """Squared excess over 0.5 of the difference of the frames' log norms."""
    excess = (_log_norm(fake) - _log_norm(real)).abs() - _NORM_MARGIN
    return excess.relu().square().mean()


def _log_norm(mel: Float[Tensor, "B 1 M T"]) -> Float[Tensor, "B 1 T"]:
    # ln ||exp(a)|| = logsumexp(2 a) / 2, which silence cannot take to -inf
    return torch.logsumexp(2 * denormalised(mel), dim=2) / 2


def diversity(
    first: Float[Tensor, "B 1 M T"],
    second: Float[Tensor, "B 1 M T"],
    first_pitch: Pitch,
    second_pitch: Pitch,
) -> Float[Tensor, ""]:
    """How far two conversions of one mel with two styles are apart: to be made large."""
    features = F.smooth_l1_loss(first_pitch.feature, second_pitch.feature)
    return F.l1_loss(first, second) + features


def cycle(
    again: Float[Tensor, "B 1 M T"],
    real: Float[Tensor, "B 1 M T"],
    again_pitch: Pitch,
    real_pitch: Pitch,
    again_content: Float[Tensor, "B C L"],
    real_content: Float[Tensor, "B C L"],
) -> Float[Tensor, ""]:
    """How far the source, converted and converted back, is from itself."""
    pitch = F.smooth_l1_loss(again_pitch.pooled, real_pitch.pooled)
    content = F.smooth_l1_loss(again_content, real_content)
    return F.l1_loss(again, real) + pitch + content


def consistency(
    judge: Discriminator,
    mel: Float[Tensor, "B 1 M T"],
    domain: Int[Tensor, " B"],
    *,
    classify: bool,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Smooth L1 between the discriminator's logits of mels and of augmented mels."""
    other = augmented(mel, generator=generator)
    if classify:
        return F.smooth_l1_loss(judge.classify(mel), judge.classify(other))
    return F.smooth_l1_loss(judge(mel, domain), judge(other, domain))


def augmented(
    mel: Float[Tensor, "B 1 M T"], *, generator: torch.Generator
) -> Float[Tensor, "B 1 M T"]:
    """Three draws from {stretch in time, louder or softer, shift in time}, of one random strength.

    The published code re-seeds its shift at every step, which makes it the same four numbers over
    and over; here it is drawn anew.
    """
    strength = float(torch.rand((), generator=generator))
    frames = mel.shape[-1]
    for kind in torch.randint(3, (3,), generator=generator).tolist():
        amount = 2 * float(torch.rand((), generator=generator)) - 1
        if kind == 0:
            mel = _stretched(mel, 1 + 0.1 * strength * amount)
        elif kind == 1:
            mel = mel * (1 - 0.1 * strength * (amount + 1) / 2)
        else:
            mel = torch.roll(mel, round(amount * frames), dims=-1)
    return mel


def _stretched(mel: Float[Tensor, "B 1 M T"], ratio: float) -> Float[Tensor, "B 1 M T"]:
    """As many frames as before: the rest is cut, or filled with the beginning."""
    frames = mel.shape[-1]
    size = (mel.shape[-2], max(1, round(frames * ratio)))
    wide = F.interpolate(mel, size=size, mode="bilinear", align_corners=False)
    return torch.cat([wide, wide], dim=-1)[..., :frames]
