"""The published mel front end against librosa's bank and a plain NumPy spectrogram."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from voice.mel import MelConfig, denormalised, log_mel, mel_bank, normalised


@pytest.fixture
def samples(generator):
    return 0.3 * torch.randn(2, 5_000, dtype=torch.float64, generator=generator)


def published_bank() -> np.ndarray:
    librosa = pytest.importorskip("librosa")
    # 16 kHz is the published slip: the sound has 24 kHz
    return librosa.filters.mel(
        sr=16_000, n_fft=2048, n_mels=80, fmin=0, fmax=8_000, htk=True, norm=None, dtype=np.float64
    )


def plain_log_mel(samples: np.ndarray) -> np.ndarray:
    """Frame by frame, in the words of the front end's description."""
    window = np.zeros(2048)
    window[424:1624] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1200) / 1200)
    padded = np.pad(samples, 1024, mode="reflect")
    frames = [padded[300 * t : 300 * t + 2048] for t in range(1 + len(samples) // 300)]
    power = np.abs(np.fft.rfft(np.stack(frames) * window)) ** 2
    return np.log(published_bank() @ power.T + 1e-5)


def test_the_bank_is_librosas_for_16_khz():
    np.testing.assert_allclose(mel_bank(MelConfig()).numpy().T, published_bank(), atol=1e-9)


def test_the_mel_is_that_of_a_plain_spectrogram(samples):
    expected = np.stack([plain_log_mel(row) for row in samples.numpy()])
    np.testing.assert_allclose(log_mel(samples).numpy(), expected, atol=1e-9)


def test_single_precision_keeps_four_digits(samples):
    torch.testing.assert_close(
        log_mel(samples.float()).double(), log_mel(samples), atol=1e-4, rtol=0
    )


def test_a_bank_for_24_khz_would_be_another_mel(samples):
    proper = replace(MelConfig(), bank_rate_hz=24_000)
    assert float((log_mel(samples, proper) - log_mel(samples)).abs().mean() / 4) > 0.1


def test_a_tone_is_loudest_in_the_band_one_and_a_half_times_lower():
    seconds = torch.arange(24_000, dtype=torch.float64) / 24_000
    mel = log_mel(0.5 * torch.sin(2 * math.pi * 3_000 * seconds)[None])
    centres_hz = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 82) / 2595) - 1)
    nearest = int(np.abs(1.5 * centres_hz[1:-1] - 3_000).argmin())
    assert mel[0, :, 40].argmax() == nearest


def test_silence_is_where_the_networks_expect_it():
    mel = normalised(log_mel(torch.zeros(1, 24_000)))
    torch.testing.assert_close(mel, torch.full((1, 80, 81), -1.8782), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("count", "frames"), [(1025, 4), (2399, 8), (2400, 9), (24_000, 81)])
def test_frames_are_one_more_than_whole_hops(count, frames):
    assert log_mel(torch.zeros(1, count)).shape == (1, 80, frames)


def test_normalising_is_undone(samples):
    mel = log_mel(samples)
    torch.testing.assert_close(denormalised(normalised(mel)), mel)
    torch.testing.assert_close(normalised(mel), (mel + 4) / 4)


def test_the_gradient_is_that_of_small_steps_and_finite_at_silence(generator):
    samples = torch.zeros(1, 1_300, dtype=torch.float64)
    samples[0, 600:] = 0.1 * torch.randn(700, dtype=torch.float64, generator=generator)
    weights = torch.randn(1, 80, 5, dtype=torch.float64, generator=generator)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return (log_mel(x) * weights).sum()

    leaf = samples.clone().requires_grad_()
    loss(leaf).backward()
    assert torch.isfinite(leaf.grad).all()
    for place in (700, 1_001):
        step = torch.zeros_like(samples)
        step[0, place] = 1e-6
        slope = float(loss(samples + step) - loss(samples - step)) / 2e-6
        assert slope == pytest.approx(float(leaf.grad[0, place]), rel=1e-4)
    quiet = torch.zeros(1, 1_300, requires_grad=True)
    log_mel(quiet).sum().backward()
    assert torch.isfinite(quiet.grad).all()


def test_too_short_a_signal_is_refused_with_the_length_that_will_do():
    with pytest.raises(ValueError, match=r"1024 samples are too few.*pad them to more than 1024"):
        log_mel(torch.zeros(1, 1_024))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"win_length": 4_096}, "win_length=4096"),
        ({"hop_length": 0}, "hop_length=0"),
        ({"f_max_hz": 9_000.0}, "f_max_hz=9000"),
        ({"floor": 0.0}, "positive"),
    ],
)
def test_settings_that_cannot_be_are_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        MelConfig(**wrong)
