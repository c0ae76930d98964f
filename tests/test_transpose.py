"""Harmonics move where the ratio says, formants stay, and perturbed clips keep their melody."""

from __future__ import annotations

import math

import pytest
import torch

from voice.audio import SAMPLE_RATE
from voice.mel import MelConfig, log_mel
from voice.perturb import Perturbation, perturbed_mel
from voice.transpose import log_power, median_pitch, smoothed, stretched, transposed_mel

ONE = torch.ones(1)


def vowel(hertz: float, formant_hz: float = 1500.0, octaves: float = 1.2) -> torch.Tensor:
    """Harmonics under a wide bell around a formant [1, N]."""
    time = torch.arange(round(0.6 * SAMPLE_RATE), dtype=torch.float64) / SAMPLE_RATE
    ranks = range(1, int(11_000 / hertz))
    parts = [
        math.exp(-((math.log2(rank * hertz / formant_hz) / octaves) ** 2))
        * torch.cos(2 * torch.pi * rank * hertz * time + rank * rank)
        for rank in ranks
    ]
    return (0.05 * sum(parts)).float()[None]


def test_a_ratio_of_one_is_the_mel_itself():
    samples = vowel(140.0)
    made = transposed_mel(samples, ONE, 140 * ONE)
    torch.testing.assert_close(made, log_mel(samples), atol=1e-4, rtol=0)


@pytest.mark.parametrize("hertz, ratio", [(110.0, 1.8), (220.0, 0.55), (160.0, 1.25)])
def test_harmonics_lie_where_a_voice_of_that_pitch_has_them(hertz, ratio):
    made = transposed_mel(vowel(hertz), ratio * ONE, hertz * ONE)[0].mean(dim=1)
    real = log_mel(vowel(hertz * ratio))[0].mean(dim=1)
    other = log_mel(vowel(hertz))[0].mean(dim=1)
    low = slice(0, 16)  # bands in which harmonics are told apart

    def likeness(first, second):
        first, second = (x[low].diff() - x[low].diff().mean() for x in (first, second))
        return float(torch.nn.functional.cosine_similarity(first, second, dim=0))

    assert likeness(made, real) > 0.75 > 0.4 > likeness(other, real)


def test_the_formant_stays():
    config = MelConfig()
    samples = vowel(150.0, formant_hz=1800.0, octaves=0.7)
    made = transposed_mel(samples, 1.6 * ONE, 150 * ONE)[0].mean(dim=1)
    before = log_mel(samples)[0].mean(dim=1)
    wide = torch.ones(1, 1, 9) / 9
    peaks = [
        int(torch.nn.functional.conv1d(x[None, None], wide)[0, 0].argmax())
        for x in (made - math.log(config.floor), before - math.log(config.floor))
    ]
    assert abs(peaks[0] - peaks[1]) <= 3


def test_stretching_moves_a_line_to_the_ratio_times_its_bin():
    spectrum = torch.zeros(2, 101, 1)
    spectrum[:, 40] = 1.0
    moved = stretched(spectrum, torch.tensor([2.0, 0.5]), outside=0.0)
    assert moved[:, :, 0].argmax(dim=1).tolist() == [80, 20]


def test_the_envelope_has_no_harmonics():
    power = log_power(vowel(200.0), MelConfig())
    envelope = smoothed(power, 200 * ONE, MelConfig())
    spacing = round(200 * 2048 / SAMPLE_RATE)

    def ripple(spectrum):
        row = spectrum[0, 60:300, 20]
        around = (row[spacing:] + row[:-spacing]) / 2  # half a period away on either side
        return float((row[spacing // 2 : -(spacing - spacing // 2)] - around).std())

    assert ripple(envelope) < 0.25 * ripple(power)


def test_ratios_beyond_reason_are_refused():
    with pytest.raises(ValueError, match=r"out of range; choose 0\.2 to 5"):
        transposed_mel(vowel(140.0), 9 * ONE, 140 * ONE)


def test_the_median_is_of_voiced_frames():
    f0 = torch.tensor([[100.0, 120.0, 500.0, 10.0, 110.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    silence = torch.tensor([[-1.0, -1.0, 3.0, -1.0, -1.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    assert median_pitch(f0, silence).tolist() == [110.0, 0.0]


def test_a_perturbation_of_nothing_gives_the_clip():
    nothing = Perturbation(formants=1.0, pitch=1.0, colour=0.0, narrow_share=0.0, noise_share=0.0)
    samples = vowel(140.0)
    made = perturbed_mel(samples, 140 * ONE, nothing, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made, log_mel(samples), atol=1e-3, rtol=0)


def test_perturbed_clips_keep_their_harmonics_and_their_time():
    generator = torch.Generator().manual_seed(0)
    samples = vowel(150.0).repeat(6, 1)
    samples[:, : SAMPLE_RATE // 4] = 0.0
    made = perturbed_mel(
        samples, torch.full((6,), 150.0), Perturbation(noise_share=0.0), generator=generator
    )
    clean = log_mel(samples)
    quiet = made[:, :, 2:15].amax(dim=(1, 2))
    loud = made[:, :, 25:45].amax(dim=(1, 2))
    assert (loud - quiet > 4.0).all()
    slope, own = made[:, :14, 30].diff(dim=1), clean[:, :14, 30].diff(dim=1)
    likeness = torch.nn.functional.cosine_similarity(slope, own, dim=1)
    assert float(likeness.median()) > 0.7 and made.shape == clean.shape


def test_perturbations_differ_and_repeat_with_their_seed():
    samples = vowel(150.0).repeat(2, 1)
    f0_hz = torch.full((2,), 150.0)
    first, again = (
        perturbed_mel(samples, f0_hz, Perturbation(), generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert (first[0] - first[1]).abs().mean() > 0.2
