"""The losses of the trainings say what their papers say, and so do their schedules."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from voice import losses_converter as losses
from voice.losses_adversarial import convincing_loss, feature_loss, judge_loss
from voice.stargan import Discriminator, StarganConfig
from voice.train_converter_step import beta1
from voice.train_run import learning_rate


def test_the_judges_hinges_and_features_are_as_written():
    real = [(torch.tensor([[2.0, 0.5]]), [torch.tensor([1.0, -3.0])])]
    fake = [(torch.tensor([[-2.0, 0.5]]), [torch.tensor([2.0, -3.0])])]
    assert float(judge_loss(real, fake)) == pytest.approx(0.25 + 0.75)
    assert float(convincing_loss(fake)) == pytest.approx((3.0 + 0.5) / 2)
    assert float(feature_loss(real, fake)) == pytest.approx(0.5 / 2)


def test_r1_is_half_the_squared_slope():
    mel = torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.arange(20.0).view(4, 5)
    logits = (mel[:, 0] * weights).sum(dim=(1, 2))
    expected = 0.5 * float(weights.square().sum())
    assert float(losses.r1(logits, mel)) == pytest.approx(expected)


def test_adversarial_losses_are_those_of_the_logistic():
    logits = torch.tensor([0.0, 2.0, 50.0])
    clamped = torch.tensor([0.0, 2.0, 10.0])
    assert float(losses.adversarial(logits, real=True)) == pytest.approx(
        float(-torch.log(torch.sigmoid(clamped)).mean()), rel=1e-4
    )
    assert float(losses.adversarial(logits, real=False)) == pytest.approx(
        float(F.softplus(clamped).mean())
    )


def test_pitch_losses_take_the_contour_apart_from_the_mean():
    f0 = torch.tensor([[100.0, 150.0, 200.0]])
    assert float(losses.contour(1.7 * f0, f0)) == pytest.approx(0.0, abs=1e-6)
    assert float(losses.mean_pitch(1.7 * f0, f0)) == pytest.approx(0.7 * 150)
    assert losses.contour(torch.zeros(1, 3), f0).isfinite()


def test_the_norm_may_move_by_half_a_neper_for_free():
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(2, 1, 80, 6, generator=generator)
    # adding d to a normalised mel adds 4 d to its logarithm
    for step, expected in ((0.12, 0.0), (0.25, 0.25), (-0.25, 0.25)):
        moved = losses.norm_consistency(mel + step, mel)
        assert float(moved) == pytest.approx(expected, abs=1e-4)
    norm = torch.exp(4 * mel[0, 0, :, 0] - 4).norm().log()
    assert float(losses._log_norm(mel)[0, 0, 0]) == pytest.approx(float(norm), rel=1e-4)


def test_classification_counts_only_what_counts():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    domain = torch.tensor([0, 0, 1])
    some = losses.classification(logits, domain, torch.tensor([True, False, True]))
    expected = (F.softplus(torch.tensor(-2.0)) + F.softplus(torch.tensor(3.0))) / 2
    assert float(some) == pytest.approx(float(expected))
    none = losses.classification(logits, domain, torch.zeros(3, dtype=torch.bool))
    assert float(none) == 0.0


def test_augmented_mels_keep_their_size_and_differ(generator):
    mel = torch.randn(2, 1, 80, 96, generator=generator)
    seen = [losses.augmented(mel, generator=generator) for _ in range(6)]
    assert all(other.shape == mel.shape for other in seen)
    assert len({round(float(other.mean() + other[0, 0, 0, 0]), 6) for other in seen}) > 3


def test_consistency_is_nothing_for_a_judge_who_ignores_the_mel(generator):
    judge = Discriminator(StarganConfig(dim_in=4, max_conv_dim=8, num_domains=2))
    nn.init.zeros_(judge.dis.main[-1].weight)
    mel = torch.randn(2, 1, 80, 96, generator=generator)
    found = losses.consistency(
        judge, mel, torch.tensor([0, 1]), classify=False, generator=generator
    )
    assert float(found.detach()) == 0.0


def test_momentum_follows_the_published_cycle():
    assert [round(beta1(p), 3) for p in (0.0, 0.5, 1.0)] == [0.85, 0.9, 0.95]


def test_the_rate_rises_stays_and_falls():
    rates = [
        learning_rate(step, 100, peak=1.0, warm_up=10, decay_share=0.5)
        for step in (0, 9, 10, 50, 75, 100)
    ]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 1.0, 0.5, 0.01])
