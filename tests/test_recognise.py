"""Lips from sound alone, by the shipped network; what needs an engine skips where there is none."""

from __future__ import annotations

import csv
import itertools
import json

import numpy as np
import pytest
import torch

from avatar.coarticulation import CLOSE, JAW, mouth_weights
from avatar.motion import make_motion
from avatar.viseme_files import save_visemes, viseme_cues
from avatar.visemes import VISEME_NAMES, viseme_spans
from voice import espeak, neural
from voice.align import ALIGNED, HEARD, align, recorded
from voice.audio import SAMPLE_RATE, Audio
from voice.phonemes import is_symbol
from voice.recognise import TimedViseme, heard_phonemes, recognise, viseme_track
from voice.speech import Phoneme, Speech

needs_espeak = pytest.mark.skipif(
    not espeak.is_installed(), reason="needs espeakng-loader (extra: speech)"
)
needs_neural = pytest.mark.skipif(
    not neural.is_installed(), reason="needs hibari-tts (extra: speech)"
)


def vowel(first_hz: float, second_hz: float, seconds: float, pitch_hz: float = 120.0) -> np.ndarray:
    """A steady vowel: harmonics under three resonances, -12 dB an octave otherwise."""
    at = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    wave = np.zeros(len(at))
    for harmonic in np.arange(pitch_hz, 5000.0, pitch_hz):
        gain = 100.0 / harmonic
        for formant_hz in (first_hz, second_hz, 2900.0):
            share = harmonic / formant_hz
            gain /= abs(complex(1 - share**2, 90 * harmonic / formant_hz**2))
        wave += gain * np.sin(2 * np.pi * harmonic * at)
    return wave / np.abs(wave).max() * 0.3


def sound(*parts: np.ndarray) -> Audio:
    return Audio(torch.from_numpy(np.concatenate(parts)).float()[None])


def during(shapes: tuple[TimedViseme, ...], time_s: float) -> str:
    return next(s.viseme for s in shapes if s.start_s <= time_s < s.end_s)


def said(language: str, text: str, variant: str) -> tuple[Audio, tuple[Phoneme, ...]]:
    return espeak.synthesize(
        text, language=language, variant=variant, speed=1.0, pitch_semitones=0.0
    )


REST = np.zeros(SAMPLE_RATE // 2)


def test_silence_open_vowels_and_hiss_are_told_apart_without_text(generator):
    noise = torch.randn(SAMPLE_RATE // 2, generator=generator).numpy()
    spectrum, hertz = np.fft.rfft(noise), np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE)
    hiss = 0.1 * np.fft.irfft(spectrum * ((hertz > 4_500) & (hertz < 9_000)))
    shapes = recognise(
        sound(REST, vowel(800, 1200, 0.5), REST, vowel(280, 2300, 0.5), REST, hiss, REST)
    )
    assert during(shapes, 0.75) == "aa"
    assert during(shapes, 1.75) == "I"
    assert during(shapes, 2.75) == "SS"
    assert [during(shapes, t) for t in (0.2, 1.25, 2.25, 3.3)] == ["sil"] * 4


def test_a_vowel_held_as_in_song_stays_one_shape():
    for pitch_hz in (110.0, 220.0):
        shapes = recognise(sound(REST, vowel(750, 1150, 3.0, pitch_hz), REST))
        assert {during(shapes, t) for t in np.arange(0.8, 3.3, 0.1)} == {"aa"}


def test_what_is_heard_covers_the_sound_in_order_with_known_symbols():
    audio = sound(REST, vowel(800, 1200, 0.7), vowel(300, 2200, 0.333))
    phonemes = heard_phonemes(audio)
    assert phonemes[0].start_s == 0.0 and phonemes[-1].end_s == pytest.approx(audio.duration_s)
    for earlier, later in itertools.pairwise(phonemes):
        assert earlier.end_s == later.start_s
    assert all(is_symbol(phoneme.symbol) for phoneme in phonemes)
    assert heard_phonemes(audio) == phonemes
    track = viseme_track(audio)
    torch.testing.assert_close(track.sum(0), torch.ones(track.shape[1]))


def test_a_louder_vowel_opens_further_than_a_quieter_one():
    loud, quiet = vowel(750, 1200, 0.4), 0.35 * vowel(750, 1200, 0.4)
    speech = recorded(sound(REST, loud, REST, quiet, REST))
    openness = {
        at: next(s.openness for s in viseme_spans(speech.phonemes) if s.start_s <= at < s.end_s)
        for at in (0.7, 1.6)
    }
    assert openness[0.7] > openness[1.6] > 0.0


@pytest.mark.parametrize("samples", [1, 24, 700, 12_345])
def test_a_silent_recording_is_one_silence_however_short(samples):
    audio = Audio(torch.zeros(1, samples))
    assert recorded(audio).phonemes == (Phoneme("SIL", 0.0, audio.duration_s),)
    assert recognise(Audio(torch.zeros(1, 0))) == ()


def test_a_millisecond_a_constant_and_clipping_give_shapes_and_nan_an_error():
    for row in (torch.ones(24) * 0.5, torch.full((9_000,), 0.7), torch.sign(torch.randn(9_000))):
        phonemes = heard_phonemes(Audio(row[None]))
        assert phonemes[-1].end_s == pytest.approx(len(row) / SAMPLE_RATE)
    with pytest.raises(ValueError, match="NaN or infinity"):
        recognise(Audio(torch.full((1, 9_000), torch.nan)))
    with pytest.raises(ValueError, match="of one signal, this audio has 2"):
        recognise(Audio(torch.zeros(2, 9_000)))


# Voices and languages that the network was not trained on.
UNHEARD = [
    ("en-us", "Maybe Bob may pay my mum a big bill before the summer camp.", "f4"),
    ("en-us", "Maybe Bob may pay my mum a big bill before the summer camp.", "Mario"),
    ("it", "Mamma mia, il bambino beve poca birra in compagnia.", "m3"),
    ("pl", "Moja babcia pamięta, że Bambo popijał piwo.", "f2"),
]


@needs_espeak
@pytest.mark.parametrize(("language", "text", "variant"), UNHEARD)
def test_lips_shut_on_the_closures_of_voices_never_heard(language, text, variant):
    audio, truth = said(language, text, variant)
    heard = recorded(audio)
    closed = [p for p in truth if p.symbol in ("P", "B", "M")]
    starts = [v.start_s for v in recognise(audio) if v.viseme == "PP"]
    nearest = np.array([min(abs(s - p.start_s) for s in starts) for p in closed])
    assert (nearest <= 0.04).mean() >= 0.75
    times = torch.arange(0, audio.duration_s, 1 / 60, dtype=torch.float64)
    weights = mouth_weights(list(viseme_spans(heard.phonemes)), times)
    opening = weights[:, JAW] - weights[:, CLOSE]
    shut = []
    for p in closed:
        near = (times >= p.start_s - 0.04) & (times <= max(p.start_s + 0.04, p.end_s))
        shut.append(float(opening[near].min()) < 0.01)
    assert np.mean(shut) >= 0.85


@needs_espeak
@pytest.mark.parametrize(("language", "text", "variant"), UNHEARD)
def test_openness_heard_follows_openness_read(language, text, variant):
    audio, truth = said(language, text, variant)
    times = torch.arange(0, audio.duration_s, 1 / 60, dtype=torch.float64)
    curves = []
    for phonemes in (heard_phonemes(audio), truth):
        weights = mouth_weights(list(viseme_spans(phonemes)), times)
        curves.append((weights[:, JAW] - weights[:, CLOSE]).numpy())
    assert np.corrcoef(curves)[0, 1] > 0.75


@needs_espeak
def test_a_text_gives_an_alignment_with_its_own_phonemes_near_their_times():
    audio, truth = said("en-us", "Maybe Bob may pay my mum a big bill.", "f4")
    speech = recorded(audio, "Maybe Bob may pay my mum a big bill.")
    assert speech.engine == ALIGNED and speech.text
    found = [p for p in speech.phonemes if p.symbol != "SIL"]
    wanted = [p for p in truth if p.symbol != "SIL"]
    assert [p.symbol for p in found] == [p.symbol for p in wanted]
    errors = np.abs([a.start_s - b.start_s for a, b in zip(found, wanted, strict=True)])
    assert np.median(errors) <= 0.03 and errors.max() <= 0.15
    with pytest.raises(ValueError, match=r"has 200 sounds, the recording of 0\.50 s"):
        align(Audio(torch.zeros(1, 12_000)), ["P"] * 200)


def test_a_recording_becomes_a_motion_by_the_path_of_text(generator):
    speech = recorded(sound(REST, vowel(750, 1200, 0.5), REST))
    assert speech.engine == HEARD and speech.licence
    motion = make_motion(speech, generator=generator)
    opening = motion.weights[:, JAW] - motion.weights[:, CLOSE]
    assert float(opening[round(0.7 * 60)]) > 0.2
    assert float(opening[:20].max()) < 0.02


def test_shapes_are_written_as_rhubarb_and_oculus_name_them(tmp_path):
    symbols = ["SIL", "P", "AY1", "F", "L", "UW1", "S", "SIL"]
    phonemes = [Phoneme(symbol, k / 10, (k + 1) / 10) for k, symbol in enumerate(symbols)]
    speech = Speech(Audio(torch.zeros(1, 19_200)), tuple(phonemes), engine="test")
    shapes = ["sil", "PP", "aa", "I", "FF", "nn", "U", "SS", "sil"]
    assert [cue[0] for cue in viseme_cues(speech)] == shapes
    layout = json.loads(save_visemes(speech, tmp_path / "line.json", "rhubarb").read_text())
    assert [cue["value"] for cue in layout["mouthCues"]] == list("XADBGHFBX")
    assert layout["mouthCues"][2] == {"start": 0.2, "end": 0.26, "value": "D"}
    assert layout["metadata"]["duration"] == 0.8
    with open(save_visemes(speech, tmp_path / "line.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {"start_s": "0.100", "end_s": "0.200", "shape": "PP", "phonemes": "P"}
    assert {row["shape"] for row in rows} <= set(VISEME_NAMES)
    with pytest.raises(ValueError, match="choose one of oculus, rhubarb"):
        viseme_cues(speech, "disney")
    with pytest.raises(ValueError, match=r"does not end in \.json or \.csv"):
        save_visemes(speech, tmp_path / "line.txt")
