"""Pitch, formants, speed, gate and cross-fade of sounds whose measures are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg, signal

from voice import psola
from voice.audio import SAMPLE_RATE, Audio
from voice.corpus_pitch import pitch_track
from voice.effects import EffectConfig, cross_faded, gated, with_effects, without_offset
from voice.loudness import loudness_lufs

FORMANTS = ((700.0, 80.0), (1_220.0, 90.0), (2_600.0, 120.0))


def vowel(hertz: float, seconds: float = 1.0, formants=FORMANTS) -> np.ndarray:
    """Pulses through resonances (Hz, bandwidth)."""
    phase = 2 * np.pi * hertz * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    row = np.sum([np.cos(k * phase) / k for k in range(1, int(10_000 / hertz))], axis=0)
    for centre, width in formants:
        radius = np.exp(-np.pi * width / SAMPLE_RATE)
        turn = 2 * np.cos(2 * np.pi * centre / SAMPLE_RATE)
        row = signal.lfilter([1 - radius], [1, -radius * turn, radius**2], row)
    return 0.4 * row / np.abs(row).max()


def peaks(row: np.ndarray) -> np.ndarray:
    """Formants by linear prediction: the peaks of the least-squares all-pole spectrum."""
    low = signal.resample_poly(row, 1, 3)[400:-400]
    low = np.append(low[0], low[1:] - 0.9 * low[:-1]) * np.hanning(len(low))
    own = np.correlate(low, low, "full")[len(low) - 1 :][:13]
    poles = np.append(1.0, -linalg.solve_toeplitz(own[:-1], own[1:]))
    level = -np.log(np.abs(np.fft.rfft(poles, 8_192)))
    hertz = np.arange(len(level)) * 8_000 / 8_192
    found = hertz[signal.find_peaks(level)[0]]
    return found[(found > 300) & (found < 3_500)]


def audio(row: np.ndarray) -> Audio:
    return Audio(torch.from_numpy(row).float()[None])


def row_of(sound: Audio) -> np.ndarray:
    return sound.samples[0].double().numpy()


def cents(row: np.ndarray, hertz: float) -> float:
    """Distance of the pitch, by another tracker than the one under test uses."""
    found = pitch_track(row)[10:-10]
    return abs(1200 * np.log2(np.median(found[found > 0]) / hertz))


def decibels(row: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(row**2)))


@pytest.mark.parametrize("semitones", [-7.0, -2.5, 4.0, 9.0])
def test_pitch_moves_by_the_semitones_and_formants_length_and_energy_stay(semitones):
    row = vowel(110.0)
    moved = row_of(with_effects(audio(row), EffectConfig(pitch_semitones=semitones)))
    assert len(moved) == len(row)
    assert cents(moved, 110.0 * 2 ** (semitones / 12)) < 5
    assert abs(decibels(moved) - decibels(row)) < 0.5


@pytest.mark.parametrize("semitones", [-4.0, 3.0])
def test_formants_stay_when_the_pitch_moves(semitones):
    # linear prediction is drawn to the nearest harmonics: the mean over three pitches is not
    found = [
        peaks(row_of(with_effects(audio(vowel(hertz)), EffectConfig(pitch_semitones=semitones))))
        for hertz in (93.0, 100.0, 107.0)
    ]
    np.testing.assert_allclose(np.mean(found, 0), [centre for centre, _ in FORMANTS], rtol=0.03)


@pytest.mark.parametrize("semitones", [-3.0, 3.0])
def test_formants_move_by_the_semitones_and_the_pitch_stays(semitones):
    row = vowel(110.0)
    moved = row_of(with_effects(audio(row), EffectConfig(formant_semitones=semitones)))
    wanted = [centre * 2 ** (semitones / 12) for centre, _ in FORMANTS]
    np.testing.assert_allclose(peaks(moved), wanted, rtol=0.03)
    assert cents(moved, 110.0) < 5
    assert abs(decibels(moved) - decibels(row)) < 0.5


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.7])
def test_speed_changes_the_length_alone(speed):
    row = vowel(180.0, 1.5)
    moved = row_of(with_effects(audio(row), EffectConfig(speed=speed)))
    assert abs(len(moved) / SAMPLE_RATE - 1.5 / speed) < 0.005
    assert cents(moved, 180.0) < 5
    assert abs(decibels(moved) - decibels(row)) < 0.5


def test_a_pure_tone_is_shifted_too():
    row = 0.3 * np.sin(2 * np.pi * 300 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    for semitones in (-5.0, 7.0, 12.0):
        moved = row_of(with_effects(audio(row), EffectConfig(pitch_semitones=semitones)))
        assert cents(moved, 300 * 2 ** (semitones / 12)) < 5
        assert abs(decibels(moved) - decibels(row)) < 1


def test_words_stay_where_they_were_and_pauses_stay_silent():
    row = np.concatenate([np.zeros(12_000), vowel(150.0, 0.5), np.zeros(12_000)])
    moved = row_of(with_effects(audio(row), EffectConfig(pitch_semitones=4.0)))
    level = np.sqrt(signal.convolve(moved**2, np.ones(240) / 240, "same"))
    heard = np.flatnonzero(level > 0.05 * level.max())
    assert abs(heard[0] - 12_000) < 240 and abs(heard[-1] - 24_000) < 360
    assert np.abs(moved[:10_000]).max() < 1e-3


def test_long_sounds_are_worked_on_in_pieces_of_exact_length(monkeypatch):
    monkeypatch.setattr(psola, "_PIECE_S", 1.0)
    monkeypatch.setattr(psola, "_SLACK_S", 0.9)
    row = np.tile(np.concatenate([vowel(150.0, 0.8), np.zeros(4_801)]), 4)
    moved = row_of(with_effects(audio(row), EffectConfig(pitch_semitones=3.0, speed=0.9)))
    assert len(moved) == round(len(row) / 0.9)
    assert cents(moved, 150 * 2**0.25) < 5


def test_no_effect_leaves_every_sample_and_loudness_comes_last():
    row = vowel(150.0, 2.0)
    plain = with_effects(audio(row), EffectConfig())
    assert torch.equal(plain.samples, audio(row).samples)
    loud = with_effects(audio(row), EffectConfig(pitch_semitones=2.0, lufs=-16.0))
    assert loudness_lufs(loud) == pytest.approx(-16.0, abs=0.3)


def test_silence_and_a_single_sample_pass():
    for row in (np.zeros(24_000), np.zeros(1), np.ones(1) * 0.5, np.full(100, 0.1)):
        moved = row_of(with_effects(audio(row), EffectConfig(pitch_semitones=5.0, speed=0.5)))
        assert len(moved) == 2 * len(row) and np.isfinite(moved).all()


def test_the_gate_silences_what_is_soft_and_leaves_what_is_loud():
    noise = 10 ** (-60 / 20) * np.random.default_rng(0).standard_normal(48_000)
    row = noise.copy()
    row[20_000:30_000] += vowel(150.0)[:10_000]
    out = gated(row, -45.0)
    np.testing.assert_array_equal(out[20_000:30_000], row[20_000:30_000])
    assert not out[:18_000].any() and not out[35_000:].any()


@pytest.mark.parametrize("alike", [True, False])
def test_a_cross_fade_keeps_the_level_of_alike_and_of_unlike_sounds(alike):
    random = np.random.default_rng(0)
    first = random.standard_normal(24_000) * 0.1
    second = first.copy() if alike else random.standard_normal(24_000) * 0.1
    if alike:
        second = np.concatenate([first[-12_000:], first[:12_000]])
    joined = row_of(cross_faded(audio(first), audio(second), 0.5))
    assert len(joined) == 36_000
    for begin in range(12_000, 24_000, 3_000):
        assert abs(decibels(joined[begin : begin + 3_000]) + 20) < 0.5
    with pytest.raises(ValueError, match="must be from 0"):
        cross_faded(audio(first), audio(second), 1.5)


def test_an_offset_is_taken_away_and_the_voice_is_left():
    row = vowel(150.0)
    freed = row_of(without_offset(audio(row + 0.3)))
    middle = slice(2_400, -2_400)
    np.testing.assert_allclose(freed[middle], (row - row.mean())[middle], atol=2e-3)


def test_settings_out_of_range_are_refused():
    for wrong in ({"pitch_semitones": 30.0}, {"speed": 0.1}, {"gate_db": 3.0}, {"lufs": 0.0}):
        with pytest.raises(ValueError, match="out of range"):
            EffectConfig(**wrong)
