"""Corpora: pitch targets are right, folders are read whole, the split goes by speaker."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from assets.errors import AssetError
from voice import espeak
from voice.audio import SAMPLE_RATE, Audio
from voice.corpus import Corpus, Take, is_held_out, write_corpus
from voice.corpus_engines import EngineVoice, scaled
from voice.corpus_pitch import pitch_track
from voice.corpus_real import manifest_takes, speaker_takes
from voice.corpus_synth import ESPEAK, STYLES, Style, available, rendered_takes, tilted
from voice.corpus_text import SENTENCES, sentences
from voice.loudness import loudness_lufs
from voice.phonemes import is_symbol
from voice.speech import Phoneme


def hum(hertz: np.ndarray, harmonics: int = 15) -> np.ndarray:
    """A buzz whose pitch at each sample is given."""
    turns = np.cumsum(hertz) / SAMPLE_RATE
    return sum(np.cos(2 * np.pi * k * turns + k * k) / k for k in range(1, harmonics)) * 0.1


def take(speaker: str, seconds: float = 1.0, hertz: float = 150.0, **more: object) -> Take:
    row = torch.from_numpy(hum(np.full(round(seconds * SAMPLE_RATE), hertz))).float()
    return Take(Audio(row[None]), speaker, "made", "CC0", **more)


@pytest.mark.parametrize(("low", "high"), [(75.0, 110.0), (150.0, 320.0), (500.0, 900.0)])
def test_the_pitch_of_a_glide_is_found_to_a_few_cents(low, high):
    at = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    hertz = low * (high / low) ** ((1 - np.cos(2 * np.pi * at)) / 2)
    found = pitch_track(hum(hertz))
    assert len(found) == 1 + SAMPLE_RATE // 300
    cents = 1200 * np.log2(np.maximum(found[3:-3], 1) / hertz[::300][3 : len(found) - 3])
    assert np.abs(cents).max() < 20
    assert np.median(np.abs(cents)) < 3


def test_a_missing_fundamental_is_still_the_pitch():
    turns = np.arange(SAMPLE_RATE) * 120 / SAMPLE_RATE
    found = pitch_track(sum(np.cos(2 * np.pi * k * turns) for k in (3, 4, 5, 6)))
    assert np.abs(found[4:-4] - 120).max() < 0.5


def test_noise_and_silence_have_no_pitch():
    noise = np.random.default_rng(0).normal(size=SAMPLE_RATE) * 0.1
    assert (pitch_track(noise) > 0).mean() < 0.03
    assert not pitch_track(np.zeros(SAMPLE_RATE)).any()


def test_pitch_starts_and_ends_with_the_voice():
    voice = hum(np.full(12_000, 200.0))
    quiet = np.random.default_rng(0).normal(size=12_000) * 1e-3
    is_voiced = pitch_track(np.concatenate([quiet, voice, quiet])) > 0
    frames = np.flatnonzero(is_voiced)
    assert abs(frames[0] - 40) <= 2 and abs(frames[-1] - 80) <= 2
    assert is_voiced[frames[0] : frames[-1]].all()


def test_a_pitch_range_that_is_none_is_refused():
    with pytest.raises(ValueError, match="must rise within"):
        pitch_track(np.zeros(4000), 300.0, 200.0)


def test_what_is_written_is_read_again(tmp_path):
    said = (Phoneme("SIL", 0.0, 0.2), Phoneme("AA1", 0.2, 0.9))
    written = write_corpus(
        [
            take("ann", hertz=210, style="ann", phonemes=said, text="ah", held_out=False),
            take("bob", 2.0, 100, top_hz=8_000, held_out=True),
        ],
        tmp_path,
    )
    corpus = Corpus.open(tmp_path)
    assert corpus.clips == written.clips
    first, second = corpus.clips
    assert (first.speaker, first.style, first.text, first.held_out) == ("ann", "ann", "ah", False)
    assert (second.top_hz, second.seconds, second.held_out) == (8_000, 2.0, True)
    assert corpus.phonemes(0) == said and corpus.phonemes(1) == ()
    for index, hertz in ((0, 210.0), (1, 100.0)):
        clip = corpus.clips[index]
        assert len(corpus.samples(index)) == clip.count
        assert len(corpus.f0(index)) == 1 + clip.count // 300
        assert float(corpus.f0(index)[10:-10].median()) == pytest.approx(hertz, rel=1e-3)
    assert corpus.styles() == ("ann",)
    assert corpus.licences() == {"made": "CC0"}


def test_clips_come_out_equally_loud(tmp_path):
    quiet, loud = take("a"), take("b")
    quiet = Take(Audio(quiet.audio.samples * 0.01), "a", "made", "CC0")
    corpus = write_corpus([quiet, loud], tmp_path)
    levels = [loudness_lufs(Audio(corpus.samples(i)[None])) for i in (0, 1)]
    assert levels == pytest.approx([-20.0, -20.0], abs=0.2)


def test_silence_and_scraps_are_left_out_and_nothing_left_is_an_error(tmp_path):
    silent = Take(Audio(torch.zeros(1, 24_000)), "a", "made", "CC0")
    scrap = Take(Audio(torch.ones(1, 900) * 0.1), "a", "made", "CC0")
    assert len(write_corpus([silent, scrap, take("a")], tmp_path)) == 1
    with pytest.raises(ValueError, match="no clip is left"):
        write_corpus([silent, scrap], tmp_path)


def test_a_damaged_corpus_is_told_from_a_missing_one(tmp_path):
    with pytest.raises(AssetError, match="prepare the corpus with"):
        Corpus.open(tmp_path)
    write_corpus([take("a")], tmp_path)
    np.save(tmp_path / "samples.npy", np.zeros(10, dtype=np.int16))
    with pytest.raises(AssetError, match="does not hold what"):
        Corpus.open(tmp_path)


def test_the_split_goes_by_speaker_and_keeps_about_a_twelfth(tmp_path):
    held = [is_held_out("some", f"speaker-{number}") for number in range(2400)]
    assert 150 < sum(held) < 250
    corpus = write_corpus([take(f"s{n % 4}", 0.2) for n in range(8)], tmp_path)
    sides = {clip.speaker: set() for clip in corpus.clips}
    for clip in corpus.clips:
        sides[clip.speaker].add(clip.held_out)
    assert all(len(side) == 1 for side in sides.values())


def test_a_manifest_is_read_with_licences_and_original_bandwidth(tmp_path):
    take("a").audio.save(tmp_path / "one.wav")
    columns = ["path", "corpus", "speaker", "seconds", "rate", "licence", "text"]
    with open(tmp_path / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [columns, ["one.wav", "books", "7", "1.0", "16000", "CC BY 4.0", "hm"]]
        )
    (found,) = manifest_takes(tmp_path)
    assert (found.corpus, found.speaker, found.licence) == ("books", "7", "CC BY 4.0")
    assert (found.top_hz, found.text) == (8_000, "hm")
    with open(tmp_path / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns[:3], ["../one.wav", "books", "7"]])
    with pytest.raises(AssetError, match="no column licence"):
        list(manifest_takes(tmp_path))


def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path):
    columns = ["path", "corpus", "speaker", "rate", "licence", "text"]
    with open(tmp_path / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, ["../one.wav", "b", "7", "16000", "x", ""]])
    with pytest.raises(AssetError, match="leads out of"):
        list(manifest_takes(tmp_path))


def test_every_sub_folder_is_a_speaker_and_a_style(tmp_path, caplog):
    for speaker in ("ann", "bob"):
        (tmp_path / speaker).mkdir()
        take(speaker).audio.save(tmp_path / speaker / "one.wav")
    (tmp_path / "bob" / "two.wav").write_text("not a sound")
    found = list(speaker_takes(tmp_path))
    assert [(t.speaker, t.style, t.held_out) for t in found] == [
        ("ann", "ann", False),
        ("bob", "bob", False),
    ]
    assert "two.wav" in caplog.text
    (tmp_path / "empty").mkdir()
    with pytest.raises(AssetError, match="holds no sound file"):
        list(speaker_takes(tmp_path))
    with pytest.raises(AssetError, match="has no sub-folders"):
        list(speaker_takes(Path(tmp_path / "empty")))


def test_there_are_at_least_ten_styles_with_names_of_their_own():
    targets = [style.name for style in STYLES if not style.held_out]
    assert len(set(targets)) == len(targets) >= 10
    assert {"female", "male", "low", "high", "bright", "dark", "soft", "idol"} <= set(targets)


def test_sentences_do_not_end_and_follow_the_seed():
    def drawn(seed: int) -> list[str]:
        return list(sentences(200, generator=torch.Generator().manual_seed(seed)))

    assert len(drawn(0)) == 200 and drawn(0) == drawn(0) != drawn(1)
    assert sorted(drawn(0)[: len(SENTENCES)]) == sorted(SENTENCES)
    assert len(set(drawn(0))) > 190


def test_an_absent_voice_is_left_out_and_named(caplog):
    styles = (Style("nobody", EngineVoice("festival", "no_such_voice")),)
    assert available(styles) == ()
    assert "style nobody is left out: install festival" in caplog.text


def test_a_smaller_speaker_is_higher_shorter_and_says_the_same():
    hundred = Audio(torch.from_numpy(hum(np.full(24_000, 100.0))).float()[None])
    audio, phonemes = scaled((hundred, (Phoneme("AA1", 0.25, 0.75),)), 1.25)
    assert audio.duration_s == pytest.approx(0.8, abs=1e-3)
    found = pitch_track(audio.samples[0].double().numpy())
    assert np.median(found) == pytest.approx(125, rel=1e-3)
    assert phonemes == (Phoneme("AA1", 0.2, 0.6),)


def test_a_tilt_lifts_the_top_against_the_bottom():
    at = torch.arange(24_000) / 24_000
    both = torch.stack([torch.sin(2 * torch.pi * f * at) for f in (200.0, 6_000.0)])
    power = tilted(both, 6.0).square().mean(-1)
    assert float(10 * torch.log10(power[1] / power[0])) == pytest.approx(6.0, abs=0.05)


@pytest.mark.skipif(not espeak.is_installed(), reason="needs espeakng-loader")
def test_rendered_speech_knows_its_phonemes_and_splits_by_sentence():
    styles = (Style("robot", ESPEAK, size=1.1),)
    takes = list(rendered_takes(3, styles, generator=torch.Generator().manual_seed(0)))
    assert [t.held_out for t in takes] == [False, False, True]
    for spoken in takes:
        assert spoken.style == "robot" and spoken.text
        assert len([p for p in spoken.phonemes if p.symbol != "SIL"]) > 15
        assert spoken.phonemes[-1].end_s <= spoken.audio.duration_s + 0.05


@pytest.mark.skipif(not shutil.which("flite"), reason="needs flite")
def test_flite_tells_its_phonemes_and_takes_a_pitch(generator):
    voice = EngineVoice("flite", "slt", 170.0)
    audio, phonemes = voice.speak("Bob met my mum.", 5.0, 1.0, generator=generator)
    assert all(is_symbol(p.symbol) for p in phonemes)
    spoken = [p.symbol.rstrip("012") for p in phonemes if p.symbol != "SIL"]
    assert spoken == ["B", "AA", "B", "M", "EH", "T", "M", "AY", "M", "AH", "M"]
    found = pitch_track(audio.samples[0].double().numpy())
    assert np.median(found[found > 0]) == pytest.approx(170 * 2 ** (5 / 12), rel=0.08)
