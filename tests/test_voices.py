"""Voices by name, profiles with consent, and recordings brought into a voice's register."""

from __future__ import annotations

import datetime
import json
import math

import pytest
import torch
from tiny_voice import VOICES, buzz, tiny_converter, write_converter

from assets.errors import AssetError
from voice import synthetic
from voice.asr_net import AsrConfig
from voice.audio import SAMPLE_RATE, Audio
from voice.hifigan import HifiGanConfig
from voice.jdc import F0Config
from voice.parallel_wavegan import PwgConfig
from voice.profiles import (
    Consent,
    add_profile,
    find_profile,
    heard_style,
    read_profiles,
    remove_profile,
    robust_mean,
    voice_name,
    voices_folder,
)
from voice.revoice import revoice
from voice.stargan import StarganConfig
from voice.voices import ADDED, OFFICIAL, fingerprint, open_book

AGREED = Consent("Ada Berg", "our game", "2026-05-31")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_converter(tmp_path_factory.mktemp("converter"))


def semitones_between(one: float, other: float) -> float:
    return 12 * math.log2(other / one)


# The book of voices


def test_a_trained_folder_tells_its_voices_and_finds_them_in_any_case(folder):
    book = open_book(folder)
    assert book.names == ("aria", "bruno")
    found = book.find("ARIA")
    assert (found.gender, found.f0_hz, found.description) == ("female", 205.0, "Warm, clear.")
    torch.testing.assert_close(found.style, VOICES[0].style)
    assert open_book(folder / "converter.safetensors").names == book.names


def test_an_unknown_voice_is_told_the_nearest_and_all_names(folder):
    with pytest.raises(ValueError, match=r"did you mean 'bruno'\? There are aria, bruno"):
        open_book(folder).find("brunno")
    with pytest.raises(ValueError, match=r"no voice 'zzz'; there are: aria, bruno"):
        open_book(folder).find("zzz")


def test_without_a_converter_one_sentence_says_how_to_get_one(monkeypatch):
    def missing(name):
        raise AssetError(f"{name} is missing")

    monkeypatch.setattr("voice.voices.shipped", missing)
    with pytest.raises(AssetError, match="no voice converter is installed: assets/voice/conv"):
        open_book()


def test_a_published_release_speaks_as_its_speakers(tmp_path, generator):
    sizes = synthetic.Sizes(
        StarganConfig(
            dim_in=2, style_dim=3, latent_dim=5, num_domains=20, max_conv_dim=6, F0_channel=4
        ),
        F0Config((2, 2, 3, 4), 3),
        AsrConfig(hidden_dim=16, token_embedding_dim=6, n_layers=2),
        PwgConfig(layers=4, stacks=2, residual_channels=2, gate_channels=4, skip_channels=2),
        HifiGanConfig("2", (5, 5, 4, 3), (11, 11, 8, 5), 16, (3,), ((1, 2),)),
    )
    synthetic.write_release(tmp_path / "release", sizes, generator=generator)
    book = open_book(tmp_path / "release", seed=3)
    found = book.find("p226")
    assert (found.kind, found.gender, len(book.voices)) == (OFFICIAL, "male", 20)
    drawn = book.converter.random_style("p226", generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(found.style, drawn)
    made = revoice(buzz(150, 0.5), book.converter, found, generator=generator)
    assert made.audio.samples.shape == (1, 12_000)


def test_equal_networks_have_one_fingerprint_and_others_another():
    one, other = tiny_converter(), tiny_converter()
    assert fingerprint(one.generator) == fingerprint(other.generator)
    with torch.no_grad():
        next(other.generator.parameters()).add_(1e-3)
    assert fingerprint(one.generator) != fingerprint(other.generator)


# Profiles


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("yes", "does not tell who attests, for what, and when"),
        ("Ada, 2026-05-31", "does not tell"),
        (", our game, 2026-05-31", "does not tell"),
        ("Ada, our game, yesterday", "'yesterday'|no date"),
        ("Ada, our game, 2999-01-01", "is to come"),
    ],
)
def test_a_consent_without_who_scope_or_date_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        Consent.parse(text)


def test_a_scope_may_have_commas():
    today = datetime.date(2026, 6, 1)
    found = Consent.parse("Ada Berg, games, films, 2026-05-31", today=today)
    assert found == Consent("Ada Berg", "games, films", "2026-05-31")


@pytest.mark.parametrize("name", ["../evil", "a/b", "", " ", ".hidden", "con", "x" * 41, "a b"])
def test_names_that_could_leave_the_folder_or_clash_are_refused(name):
    with pytest.raises(ValueError, match="cannot be a voice's name"):
        voice_name(name)


def test_names_of_any_script_are_taken():
    assert voice_name("小美") == "小美" and voice_name("Zoë-2") == "Zoë-2"


def test_one_odd_style_does_not_move_the_mean():
    around = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)) * 0.1 + 2.0
    mean, kept = robust_mean(torch.cat([around, torch.full((1, 5), 50.0)]))
    assert kept.tolist() == [True] * 9 + [False]
    torch.testing.assert_close(mean, around.mean(0, keepdim=True))


def test_pauses_and_level_of_clips_do_not_change_their_style(tmp_path):
    converter = tiny_converter()
    spoken, pause = buzz(210, 2.8).samples, torch.zeros(1, 2 * SAMPLE_RATE)
    for name, samples in (
        ("plain", spoken),
        ("quiet", 0.05 * spoken),
        ("late", torch.cat([pause, spoken, pause], dim=1)),
    ):
        Audio(samples).save(tmp_path / f"{name}.wav")
    plain, quiet, late = (
        heard_style([tmp_path / f"{name}.wav"], converter) for name in ("plain", "quiet", "late")
    )
    assert plain.domain == "anyone"
    assert abs(semitones_between(210, plain.f0_hz)) < 0.3
    torch.testing.assert_close(quiet.style, plain.style, atol=2e-2, rtol=0)
    assert abs(late.seconds - plain.seconds) < 0.3
    assert float((late.style - plain.style).norm()) < 0.2 * float(plain.style.norm())


def test_clips_without_speech_are_refused(tmp_path):
    Audio(torch.zeros(1, 48_000)).save(tmp_path / "silence.wav")
    buzz(200, 0.4).save(tmp_path / "short.wav")
    for name in ("silence", "short"):
        with pytest.raises(ValueError, match=r"less than 1 s of speech; give 10 s or more"):
            heard_style([tmp_path / f"{name}.wav"], tiny_converter())


def test_an_added_voice_is_kept_with_its_consent_until_it_is_removed(folder, tmp_path):
    buzz(210, 3.0).save(tmp_path / "clip.wav")
    book = open_book(folder)

    def add(name):
        return add_profile(
            name, [tmp_path / "clip.wav"], AGREED,
            converter=book.converter, fingerprint=book.fingerprint, taken=book.names,
        )  # fmt: skip

    profile = add("Ada")
    assert (profile.consent, list(profile.clips)) == (AGREED, ["clip.wav"])
    added = open_book(folder).find("ada")
    assert (added.kind, added.consent) == (ADDED, AGREED)
    torch.testing.assert_close(
        added.style, heard_style([tmp_path / "clip.wav"], book.converter).style
    )
    add("ADA")  # replaces, as names differ by more than case
    assert [one.name for one in read_profiles()] == ["ADA"]
    with pytest.raises(ValueError, match="'Aria' is a voice of the converter itself"):
        add("Aria")
    gone = remove_profile("ada")
    assert not any(path.exists() for path in gone) and not list(voices_folder().iterdir())
    with pytest.raises(ValueError, match="those that were: none"):
        find_profile("ada")


def test_a_voice_of_another_converter_is_not_offered(folder, tmp_path):
    buzz(210, 3.0).save(tmp_path / "clip.wav")
    add_profile(
        "ada", [tmp_path / "clip.wav"], AGREED, converter=tiny_converter(), fingerprint="another"
    )
    book = open_book(folder)
    assert book.names == ("aria", "bruno") and book.others == ("ada",)
    with pytest.raises(ValueError, match="added for another converter; add it again"):
        book.find("ada")


@pytest.mark.parametrize("damage", ["style", "text", "name", "format"])
def test_a_damaged_profile_is_one_sentence_that_names_its_file(folder, tmp_path, damage):
    buzz(210, 3.0).save(tmp_path / "clip.wav")
    book = open_book(folder)
    profile = add_profile(
        "ada", [tmp_path / "clip.wav"], AGREED,
        converter=book.converter, fingerprint=book.fingerprint,
    )  # fmt: skip
    stored = json.loads(profile.path.read_text())
    if damage == "style":
        file = profile.path.with_suffix(".safetensors")
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    elif damage == "text":
        profile.path.write_text("{")
    elif damage == "name":
        profile.path.write_text(json.dumps({**stored, "name": "../../evil"}))
    else:
        profile.path.write_text(json.dumps({**stored, "format": "other"}))
    with pytest.raises(AssetError, match=r"ada\.(json|safetensors)"):
        open_book(folder)
