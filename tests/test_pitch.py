"""The pitch tracker against tones whose pitch is known."""

from __future__ import annotations

import numpy as np
import pytest

from voice.audio import SAMPLE_RATE
from voice.pitch import PitchConfig, track_pitch


def tone(hertz: np.ndarray, n_partials: int = 12) -> np.ndarray:
    """A voice-like buzz that follows a pitch given for every sample."""
    phase = 2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE
    partials = [
        np.sin(k * phase) / k * (k * hertz < 0.45 * SAMPLE_RATE) for k in range(1, n_partials + 1)
    ]
    return 0.3 * np.sum(partials, axis=0)


def cents(found: np.ndarray, hertz: float | np.ndarray) -> np.ndarray:
    return np.abs(1200 * np.log2(np.maximum(found, 1e-3) / hertz))


@pytest.mark.parametrize("hertz", [68.0, 110.0, 233.1, 440.0, 997.3])
@pytest.mark.parametrize("n_partials", [1, 12])
def test_steady_tones_are_found_within_two_cents(hertz, n_partials):
    found = track_pitch(tone(np.full(SAMPLE_RATE // 2, hertz), n_partials))
    assert found.shape == (101,)
    assert cents(found[8:-8], hertz).max() < 2


def test_a_gliding_pitch_is_dated_where_it_is_heard():
    hertz = np.geomspace(120.0, 480.0, SAMPLE_RATE)  # two octaves a second
    found = track_pitch(tone(hertz))
    middle = slice(10, -10)
    # 5 ms off would be 12 cents
    assert np.median(cents(found[:-1], hertz[::120])[middle]) < 3


def test_a_weak_fundamental_is_found_and_not_an_octave_above():
    times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    levels = {1: 0.02, 2: 0.4, 3: 0.3, 4: 0.3, 5: 0.2}
    row = sum(v * np.sin(2 * np.pi * 150 * k * times) for k, v in levels.items())
    assert cents(track_pitch(row)[10:-10], 150.0).max() < 5


def test_noise_and_silence_have_no_pitch():
    noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE)
    assert (track_pitch(noise) > 0).mean() < 0.02
    assert not track_pitch(np.zeros(4_800)).any()
    assert track_pitch(np.zeros(0)).tolist() == [0.0]


def test_an_offset_and_a_gap_change_nothing_else():
    row = tone(np.full(SAMPLE_RATE, 200.0))
    row[10_000:14_000] = 0.0
    found = track_pitch(row + 0.5)
    assert cents(found[10:75], 200.0).max() < 5 and cents(found[125:190], 200.0).max() < 5
    assert not found[92:108].any()


def test_a_range_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="must rise within"):
        PitchConfig(floor_hz=500.0, ceiling_hz=100.0)
