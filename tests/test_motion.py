"""From phonemes to a moving face, and its recording as Live Link CSV."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar.coarticulation import mouth_weights
from avatar.gestures import blinks, gaze, gaze_weights
from avatar.livelink import save_csv, timecode
from avatar.motion import Motion, MotionConfig, make_motion
from avatar.visemes import (
    PHONEME_VISEMES,
    VISEME_NAMES,
    sided,
    viseme_spans,
    viseme_weights,
)
from flame.arkit import ARKIT_INDEX, ARKIT_NAMES, mirrored_name
from flame.head import JOINT_NAMES
from flame.rotation import axis_angle_to_matrix
from voice import espeak, neural
from voice.audio import SAMPLE_RATE, Audio
from voice.phonemes import CONSONANTS, SILENCE, VOWELS
from voice.speak import speak
from voice.speech import Phoneme, Speech

needs_engine = pytest.mark.skipif(
    not (espeak.is_installed() or neural.is_installed()),
    reason="needs a speech engine (extra: speech)",
)


def line(symbols: str, each_s: float = 0.09, lead_s: float = 0.3) -> Speech:
    """Phonemes of equal length between two silences, over a hum that is louder when stressed."""
    phonemes = [Phoneme(SILENCE, 0.0, lead_s)]
    for symbol in symbols.split():
        start_s = phonemes[-1].end_s
        phonemes.append(Phoneme(symbol, start_s, start_s + each_s))
    phonemes.append(Phoneme(SILENCE, phonemes[-1].end_s, phonemes[-1].end_s + lead_s))
    at = torch.arange(round(phonemes[-1].end_s * SAMPLE_RATE)) / SAMPLE_RATE
    hum = 0.1 * torch.sin(2 * math.pi * 120 * at)
    for phoneme in phonemes:
        if phoneme.symbol.endswith("1"):
            a, b = (round(t * SAMPLE_RATE) for t in (phoneme.start_s, phoneme.end_s))
            hum[a:b] *= 4
    return Speech(Audio(hum[None]), tuple(phonemes))


def column(motion: Motion, name: str) -> torch.Tensor:
    return motion.weights[:, ARKIT_INDEX[name]]


def opening(motion: Motion) -> torch.Tensor:
    """How far the lips are apart: mouthClose takes back what jawOpen opens."""
    return column(motion, "jawOpen") - column(motion, "mouthClose")


def at(values: torch.Tensor, motion: Motion, time_s: float) -> float:
    return float(values[round(time_s * motion.rate_hz)])


def middle(phoneme: Phoneme) -> float:
    return (phoneme.start_s + phoneme.end_s) / 2


SENTENCE = "P L IY1 Z B R IH1 NG M AY1 M AH1 M DH AH0 B EH1 S T F AY1 V V AY0 AH0 L IH1 N Z"


@pytest.mark.parametrize("rate_hz", [24.0, 25.0, 30.0, 60.0, 120.0])
@pytest.mark.parametrize("each_s", [0.05, 0.09, 0.15])
def test_lips_are_shut_on_every_p_b_and_m_and_close_to_it_on_f_and_v(rate_hz, each_s, generator):
    speech = line(SENTENCE, each_s)
    motion = make_motion(speech, MotionConfig(rate_hz=rate_hz), generator=generator)
    apart = opening(motion)
    half_frame_s = 0.5 / rate_hz
    for phoneme in speech.phonemes:
        # the least opening on the frames nearest to the phoneme's middle
        near = (motion.times_s() - middle(phoneme)).abs() <= half_frame_s + 1e-9
        if phoneme.symbol in ("P", "B", "M"):
            assert apart[near].min() < 0.005, phoneme
        if phoneme.symbol in ("F", "V"):
            assert apart[near].min() < 0.06, phoneme


def test_closures_are_never_late(generator):
    speech = line("AA1 P AA1 M AA1 B AA1", 0.12)
    motion = make_motion(speech, MotionConfig(rate_hz=120.0), generator=generator)
    apart = opening(motion)
    for phoneme in speech.phonemes:
        if phoneme.symbol in ("P", "M", "B"):
            # shut as the sound starts, parting before it ends
            assert at(apart, motion, phoneme.start_s + 0.005) < 0.005
            assert at(apart, motion, phoneme.end_s + 0.06) > 0.05


def test_open_vowels_open_and_close_vowels_hardly_do(generator):
    speech = line("HH AA1 S IY1 S AA1 S UW1", 0.14)
    motion = make_motion(speech, generator=generator)
    apart = opening(motion)
    heights = [at(apart, motion, middle(p) - 0.02) for p in speech.phonemes if p.symbol[-1] == "1"]
    assert heights[0] > 0.25 and heights[2] > 0.25
    assert heights[1] < 0.2 and heights[3] < 0.2
    assert at(column(motion, "mouthPucker"), motion, middle(speech.phonemes[8])) > 0.35


def test_a_vowel_between_two_closures_still_opens(generator):
    speech = line("M AH1 M", 0.11)
    motion = make_motion(speech, generator=generator)
    inside = (motion.times_s() > speech.phonemes[2].start_s) & (
        motion.times_s() < speech.phonemes[2].end_s
    )
    assert opening(motion)[inside].max() > 0.1


def test_the_tongues_consonants_take_the_lips_of_their_vowel(generator):
    two, tea = (make_motion(line(f"T {v}1", 0.12), generator=generator) for v in ("UW", "IY"))
    time_s = 0.3 + 0.08  # within the t
    assert at(column(two, "mouthPucker"), two, time_s) > 0.15
    assert at(column(tea, "mouthPucker"), tea, time_s) < 0.02
    assert at(column(tea, "mouthSmileLeft"), tea, time_s) > at(
        column(two, "mouthSmileLeft"), two, time_s
    )


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(VOWELS | CONSONANTS | {SILENCE})), min_size=1, max_size=25),
    st.floats(0.02, 0.3),
    st.sampled_from([0.0, 1.0, 1.6]),
    st.integers(0, 3),
)
def test_any_speech_gives_weights_in_range_at_rest_at_both_ends(symbols, each_s, gain, seed):
    motion = make_motion(
        line(" ".join(symbols), each_s),
        MotionConfig(articulation=gain),
        generator=torch.Generator().manual_seed(seed),
    )
    weights = motion.weights
    assert torch.isfinite(weights).all() and torch.isfinite(motion.rotations).all()
    assert weights.min() >= 0 and weights.max() <= 1
    assert (opening(motion) >= -1e-6).all()  # mouthClose never beyond jawOpen
    for frame in (0, -1):
        assert weights[frame].abs().max() < 1e-6 and motion.rotations[frame].abs().max() < 1e-6


def test_the_motion_covers_the_sound_at_the_rate_that_was_asked_for(generator):
    speech = line("M AA1 M AA1")
    for rate_hz in (24.0, 29.97, 60.0):
        motion = make_motion(speech, MotionConfig(rate_hz=rate_hz), generator=generator)
        assert motion.rate_hz == rate_hz
        assert 0 <= motion.duration_s - speech.duration_s < 1 / rate_hz + 1e-9
        assert motion.weights.shape == (len(motion), 52)
        assert motion.rotations.shape == (len(motion), 6, 3)


def test_resampling_a_motion_keeps_its_values_at_common_times(generator):
    motion = make_motion(line(SENTENCE), MotionConfig(rate_hz=60.0), generator=generator)
    half = motion.resampled(30.0)
    torch.testing.assert_close(half.weights, motion.weights[::2][: len(half)], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        half.rotations, motion.rotations[::2][: len(half)], atol=1e-5, rtol=0
    )


def test_lips_never_jump(generator):
    motion = make_motion(line(SENTENCE, 0.08), MotionConfig(rate_hz=120.0), generator=generator)
    speed = (opening(motion)[1:] - opening(motion)[:-1]).abs() * 120
    assert speed.max() < 16  # full openings a second; a real lower lip reaches 0.3 m/s, about 8


def test_one_seed_gives_one_motion_and_another_a_different_one():
    speech = line(SENTENCE)
    first, again, other = (
        make_motion(speech, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.weights, again.weights)
    assert torch.equal(first.rotations, again.rotations)
    assert not torch.equal(first.rotations, other.rotations)


def test_silence_and_speech_without_phonemes_leave_the_mouth_shut(generator):
    audio = Audio(torch.zeros(1, SAMPLE_RATE))
    for phonemes in ((), (Phoneme(SILENCE, 0.0, 1.0),)):
        motion = make_motion(Speech(audio, phonemes), generator=generator)
        assert column(motion, "jawOpen").max() == 0


# ------------------------------------------------------------------------------------- visemes


def test_every_phoneme_has_visemes_and_every_viseme_is_used():
    assert set(PHONEME_VISEMES) == VOWELS | CONSONANTS | {SILENCE}
    assert {name for names in PHONEME_VISEMES.values() for name in names} == set(VISEME_NAMES)


def test_viseme_shapes_are_symmetric_and_silence_is_rest():
    table = viseme_weights()
    mirror = [ARKIT_INDEX[mirrored_name(name)] for name in ARKIT_NAMES]
    assert torch.equal(table, table[:, mirror])
    assert table[VISEME_NAMES.index("sil")].abs().max() == 0
    jaws = {
        name: float(row[ARKIT_INDEX["jawOpen"]])
        for name, row in zip(VISEME_NAMES, table, strict=True)
    }
    assert jaws["aa"] > jaws["O"] > jaws["E"] > jaws["I"] > jaws["SS"] >= jaws["PP"]


def test_diphthongs_become_two_shapes_that_share_the_time():
    spans = list(viseme_spans((Phoneme("AY1", 0.0, 1.0), Phoneme("AH0", 1.0, 1.1))))
    assert [(s.viseme, s.start_s, s.end_s) for s in spans] == [
        ("aa", 0.0, 0.6),
        ("I", 0.6, 1.0),
        ("aa", 1.0, 1.1),
    ]
    assert spans[0].openness == 1.0 and spans[2].openness < 0.5  # a schwa is hardly open


def test_blending_is_the_dominance_weighted_mean_far_from_closures():
    # in the middle of one long vowel nothing else is left
    spans = list(viseme_spans((Phoneme("SIL", 0.0, 1.0), Phoneme("AA1", 1.0, 3.0))))
    weights = mouth_weights(spans, torch.tensor([2.0], dtype=torch.float64))
    expected = viseme_weights()[VISEME_NAMES.index("aa")][None].double()
    torch.testing.assert_close(weights, expected, atol=1e-3, rtol=0)


# ------------------------------------------------------------------------------------ gestures


def test_blinks_are_two_to_six_seconds_apart_and_a_fifth_of_a_second_long(generator):
    times_s = torch.arange(120 * 240, dtype=torch.float64) / 240
    weights = blinks(times_s, generator=generator)
    lids = weights[:, ARKIT_INDEX["eyeBlinkLeft"]]
    assert torch.equal(lids, weights[:, ARKIT_INDEX["eyeBlinkRight"]])
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (lids > 0).int().numpy(), [0]])))
    starts, ends = edges[::2] / 240, edges[1::2] / 240
    assert len(starts) > 15
    lengths, pauses = ends - starts, starts[1:] - ends[:-1]
    assert lengths.min() > 0.14 and lengths.max() < 0.26
    assert pauses.min() > 1.9 and pauses.max() < 6.1
    assert pauses.std() > 0.5  # not a metronome
    for start_s, end_s in zip(starts, ends, strict=True):
        inside = lids[round(start_s * 240) : round(end_s * 240)]
        closing = int((inside > 0.99).nonzero()[0])
        opened = len(inside) - int((inside > 0.99).nonzero()[-1])
        assert inside.max() > 0.999 and closing < opened  # fast down, slow up
        for offset in range(10):  # shut on a frame at 24 a second, wherever frames fall
            assert inside[offset::10].max() > 0.9


def test_glances_stay_small_and_move_both_eyes_the_same_way(generator):
    times_s = torch.arange(60 * 60, dtype=torch.float64) / 60
    angles = gaze(times_s, 6.0, generator=generator)
    assert angles[:, 0].abs().max() <= 6.0 and angles[:, 1].abs().max() <= 3.0
    assert angles[:, 0].abs().max() > 2.0
    weights = gaze_weights(angles)
    left_out = weights[:, ARKIT_INDEX["eyeLookOutLeft"]]
    torch.testing.assert_close(left_out, weights[:, ARKIT_INDEX["eyeLookInRight"]])
    torch.testing.assert_close(left_out * 30, angles[:, 0].clamp_min(0.0))
    viewer = (angles.abs() < 1.0).all(dim=1).double().mean()
    assert viewer > 0.4  # mostly with the viewer


def test_head_moves_a_few_degrees_smoothly_and_nods_on_stress(generator):
    speech = line("T AA1 T IH0 T IH0 T IH0 T IH0 T IH0 T IH0 " * 6, 0.1)
    motion = make_motion(speech, MotionConfig(rate_hz=60.0), generator=generator)
    joints = {name: index for index, name in enumerate(JOINT_NAMES)}
    used = [joints["neck"], joints["head"]]
    others = [index for index in range(6) if index not in used]
    assert motion.rotations[:, others].abs().max() == 0
    degrees = torch.rad2deg(motion.rotations[:, used].sum(1))
    assert 0.5 < degrees.abs().max() < 8.0
    assert (degrees[1:] - degrees[:-1]).abs().max() * 60 < 40  # degrees a second
    nods = [
        at(degrees[:, 0], motion, p.start_s + 0.08) - at(degrees[:, 0], motion, p.start_s - 0.25)
        for p in speech.phonemes
        if p.symbol == "AA1" and p.start_s > 1.0
    ]
    assert np.mean(nods) > 0.4  # the chin goes down, which is a positive turn about x
    raised = column(motion, "browInnerUp")
    assert 0.1 < raised.max() <= 0.4


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"rate_hz": 12.0}, "rate_hz=12.0 is out of range; choose 24 to 240"),
        ({"head_deg": -1.0}, "head_deg=-1.0 is out of range; choose 0 to 15"),
        ({"articulation": 3.0}, "choose 0 to 1.6"),
        ({"settle_s": 0.0}, "settle_s=0.0"),
    ],
)
def test_motion_settings_out_of_range_name_the_range(chosen, words):
    with pytest.raises(ValueError, match=words):
        MotionConfig(**chosen)


def test_parts_that_are_switched_off_stay_still(generator):
    config = MotionConfig(head_deg=0.0, gaze_deg=0.0, brow=0.0, smile=0.0, blink=False)
    motion = make_motion(line(SENTENCE), config, generator=generator)
    assert motion.rotations.abs().max() == 0
    still = [
        i for name in ("eyeBlink", "eyeLookOut", "browInnerUp", "eyeWide") for i in sided(name)
    ]
    assert motion.weights[:, still].abs().max() == 0


# ----------------------------------------------------------------------------------- Live Link


def test_the_csv_has_61_values_a_line_under_the_apps_own_header(tmp_path, generator):
    motion = make_motion(line(SENTENCE), generator=generator)
    with open(save_csv(motion, tmp_path / "take.csv"), newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header[:2] == ["Timecode", "BlendShapeCount"] and len(header) == 2 + 61
    assert header[2] == "EyeBlinkLeft" and header[53] == "TongueOut"
    assert header[16:20] == ["JawForward", "JawRight", "JawLeft", "JawOpen"]  # the app's order
    assert header[-9:] == [
        "HeadYaw", "HeadPitch", "HeadRoll", "LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll",
        "RightEyeYaw", "RightEyePitch", "RightEyeRoll",
    ]  # fmt: skip
    assert {name[0].lower() + name[1:] for name in header[2:54]} == set(ARKIT_NAMES)
    assert len(rows) == len(motion)
    assert all(len(row) == 63 and row[1] == "61" for row in rows)
    values = np.array([[float(value) for value in row[2:]] for row in rows])
    for name in ("jawOpen", "mouthLeft", "eyeBlinkRight"):
        written = values[:, header.index(name[0].upper() + name[1:]) - 2]
        np.testing.assert_allclose(written, column(motion, name).numpy(), atol=1e-6)


def test_timecodes_count_frames_within_seconds():
    assert timecode(0, 60.0) == "00:00:00:00.000"
    assert timecode(59, 60.0) == "00:00:00:59.000"
    assert timecode(60, 60.0) == "00:00:01:00.000"
    assert timecode(60 * 3661 + 7, 60.0) == "01:01:01:07.000"
    assert timecode(30, 29.97).startswith("00:00:01:00.03")


@settings(deadline=None, max_examples=25)
@given(st.tuples(*[st.floats(-0.4, 0.4)] * 3))
def test_the_csvs_head_angles_rebuild_the_heads_rotation(tmp_path_factory, turn):
    rotations = torch.zeros(2, 6, 3)
    rotations[:, JOINT_NAMES.index("head")] = torch.tensor(turn)
    rotations[:, JOINT_NAMES.index("neck")] = torch.tensor([0.1, -0.05, 0.02])
    path = tmp_path_factory.mktemp("csv") / "take.csv"
    save_csv(Motion(60.0, torch.zeros(2, 52), rotations), path)
    row = path.read_text().splitlines()[1].split(",")
    yaw, pitch, roll = (float(value) for value in row[54:57])

    def turn_about(axis: int, angle: float) -> torch.Tensor:
        vector = torch.zeros(3, dtype=torch.float64)
        vector[axis] = angle
        return axis_angle_to_matrix(vector)

    rebuilt = turn_about(1, yaw) @ turn_about(0, pitch) @ turn_about(2, roll)
    expected = axis_angle_to_matrix(rotations[0, 1].double()) @ axis_angle_to_matrix(
        rotations[0, 2].double()
    )
    torch.testing.assert_close(rebuilt, expected, atol=1e-5, rtol=0)


# -------------------------------------------------------------------------------------- spoken


@needs_engine
def test_a_spoken_sentence_shuts_the_lips_on_all_its_closures(generator):
    speech = speak("Please bring my mum the best five violins.", generator=generator)
    motion = make_motion(speech, generator=generator)
    closures = [p for p in speech.phonemes if p.symbol in ("P", "B", "M")]
    assert len(closures) == 6
    for phoneme in closures:
        assert at(opening(motion), motion, middle(phoneme)) < 0.01
    vowels = [p for p in speech.phonemes if p.symbol.endswith("1")]
    opened = [at(opening(motion), motion, middle(p) - 0.02) for p in vowels]
    assert np.median(opened) > 0.1
