"""Text to speech and phonemes; what needs an engine skips where there is none."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assets import AssetError
from voice import espeak, neural
from voice.audio import SAMPLE_RATE, Audio
from voice.loudness import loudness_lufs, true_peak
from voice.phonemes import CONSONANTS, VOWELS, arpabet, is_symbol, stress_of
from voice.speak import SpeakConfig, speak, speakable
from voice.speech import Phoneme, Speech, from_ipa

needs_espeak = pytest.mark.skipif(
    not espeak.is_installed(), reason="needs espeakng-loader (extra: speech)"
)
needs_neural = pytest.mark.skipif(
    not neural.is_installed(), reason="needs hibari-tts (extra: speech)"
)
LINE = "Please bring my mum the best five violins."
ENGINES = [
    pytest.param("espeak-ng", marks=needs_espeak),
    pytest.param("hibari", marks=needs_neural),
]


def said(speech: Speech) -> list[str]:
    return [p.symbol.rstrip("012") for p in speech.phonemes if p.symbol != "SIL"]


def median_pitch_hz(audio: Audio) -> float:
    """By the highest peak of the autocorrelation of loud 50 ms frames."""
    frames = audio.samples[0].unfold(0, 1_200, 600)
    frames = frames[frames.square().mean(1) > 0.1 * frames.square().mean(1).max()]
    power = torch.fft.rfft(frames, 4_096).abs().square()
    lags = torch.fft.irfft(power)[:, 60:400] / torch.linspace(1.0, 0.72, 340)
    return SAMPLE_RATE / float((lags.argmax(1) + 60).median())


# ---------------------------------------------------------------------------------------- phonemes


@pytest.mark.parametrize(
    ("ipa", "symbols"),
    [
        ("pliːz", "P L IY0 Z"),
        ("həlˈoʊ", "HH AH0 L OW1"),
        ("həlˈO", "HH AH0 L OW1"),  # misaki's letter for the diphthong
        ("tʃˈaɪld", "CH AY1 L D"),
        ("ˌʌndɚstˈænd", "AH2 N D ER0 S T AE1 N D"),
        ("ʃˈøːnə", "SH OW1 N AH0"),  # German
        ("bɔ̃ʒˈuʁ", "B AO0 ZH UW1 HH"),  # French, nasal vowel
        ("çiː", "Y IY0"),
        ("ni2 xˈau5", "N IY0 HH AA1 UW0"),  # tones dropped
        ("", ""),
        ("123 !?", ""),
    ],
)
def test_ipa_becomes_arpabet_with_stress(ipa, symbols):
    assert arpabet(ipa) == tuple(symbols.split())


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20))
def test_whatever_an_engine_writes_only_known_symbols_come_out(ipa):
    assert all(is_symbol(symbol) for symbol in arpabet(ipa))


def test_every_english_phoneme_of_the_cmu_dictionary_is_known():
    cmu = [
        "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G",
        "HH", "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T",
        "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
    ]  # fmt: skip
    assert set(cmu) == VOWELS | CONSONANTS


def test_timed_ipa_keeps_its_edges_and_joins_silence():
    spans = [("", 0.0, 0.1), ("", 0.1, 0.2), ("ts", 0.2, 0.4), ("ʲ", 0.4, 0.5), ("", 0.5, 0.52)]
    spans += [("ˈa", 0.52, 0.6), ("", 0.6, 0.8)]
    assert [(p.symbol, p.start_s, p.end_s) for p in from_ipa(spans)] == [
        ("SIL", 0.0, 0.2),
        ("T", 0.2, pytest.approx(0.3)),
        ("S", pytest.approx(0.3), 0.52),  # with the softening sign and the short gap
        ("AA1", 0.52, 0.6),
        ("SIL", 0.6, 0.8),
    ]


def test_speech_refuses_phonemes_out_of_order_or_beyond_the_sound():
    audio = Audio(torch.zeros(1, SAMPLE_RATE))
    with pytest.raises(ValueError, match=r"starts at 0\.300 s, before"):
        Speech(audio, (Phoneme("P", 0.2, 0.4), Phoneme("AA1", 0.3, 0.5)))
    with pytest.raises(ValueError, match=r"the last phoneme ends at 2\.000 s"):
        Speech(audio, (Phoneme("AA1", 0.3, 2.0),))
    with pytest.raises(ValueError, match="no phoneme symbol"):
        Phoneme("XX", 0.0, 1.0)
    with pytest.raises(ValueError, match="end after they start"):
        Phoneme("P", 1.0, 1.0)


# -------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        ("", "en-us", "no word to say"),
        ("  \n ", "en-us", "no word to say"),
        ("😀🎉", "en-us", "no word to say"),
        ("... !", "en-us", "no word to say"),
        ("a" * 10_001, "en-us", "10001 characters, the limit is 10000"),
        ("你好世界", "en-us", "Chinese letters.*'cmn'"),
        ("Привет всем", "de", "Cyrillic letters.*'ru'"),
        ("ᚠᚢᚦᚨᚱᚲ", "en-us", "Runic letters.*Latin"),
    ],
)
def test_text_that_cannot_be_spoken_is_refused_in_one_sentence(text, language, words):
    with pytest.raises(ValueError, match=words) as caught:
        speakable(text, language)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_emoji_are_left_out_and_logged_while_money_and_accents_stay(caplog):
    with caplog.at_level(logging.WARNING):
        words = speakable("Café 👩🏽‍🚀 costs $5 ❤️ + 20 %", "en-us")
    assert words == "Café costs $5 + 20 %"
    assert "❤" in caplog.text


def test_one_greek_letter_does_not_make_a_text_greek():
    assert speakable("the angle α is small", "en-us") == "the angle α is small"
    assert speakable("Γειά σου", "el") == "Γειά σου"


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"engine": "piper"}, "choose one of auto, hibari, espeak-ng"),
        ({"speed": 3.0}, "choose 0.5 to 2"),
        ({"pitch_semitones": 12.0}, "choose -6 to 6"),
        ({"lufs": 0.0}, "choose -40 to -8"),
        ({"engine": "hibari", "language": "de"}, "engine='espeak-ng'"),
        ({"engine": "hibari", "variant": "f3"}, "engine='espeak-ng'"),
    ],
)
def test_settings_out_of_range_name_the_range(chosen, words):
    with pytest.raises(ValueError, match=words):
        SpeakConfig(**chosen)


def test_without_an_engine_the_message_names_the_command_and_the_other_way(monkeypatch, generator):
    monkeypatch.setattr(neural, "is_installed", lambda: False)
    monkeypatch.setattr(espeak, "is_installed", lambda: False)
    with pytest.raises(AssetError) as caught:
        speak("Hello.", generator=generator)
    assert "pip install 'prompt-to-avatar[speech]'" in str(caught.value)
    assert "--audio FILE" in str(caught.value)


# ----------------------------------------------------------------------------------------- engines


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sentence_is_heard_phoneme_by_phoneme(engine, generator):
    speech = speak(LINE, SpeakConfig(engine=engine), generator=generator)
    # the CMU dictionary's reading; function words may be reduced
    expected = [
        "P", "L", "IY", "Z", "B", "R", "IH", "NG", "M", "AY", "M", "AH", "M", "DH", "AH", "B",
        "EH", "S", "T", "F", "AY", "V", "V", "AY", "AH", "L", "IH", "N", "Z",
    ]  # fmt: skip
    assert said(speech) == expected
    assert speech.engine == engine and speech.text == LINE
    stressed = [p.symbol for p in speech.phonemes if stress_of(p.symbol) == 1]
    assert {"IY1", "AH1", "EH1"} <= set(stressed)
    # 31 phonemes at the usual 8 to 18 a second, a quarter second of silence before
    assert 1.7 < speech.phonemes[-1].start_s - speech.phonemes[0].end_s < 3.9
    assert speech.phonemes[0].symbol == "SIL"
    assert speech.phonemes[0].end_s == pytest.approx(0.25, abs=1e-3)
    assert speech.phonemes[-1].end_s == pytest.approx(speech.duration_s)
    for earlier, later in zip(speech.phonemes, speech.phonemes[1:], strict=False):
        assert later.start_s == pytest.approx(earlier.end_s)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_sound_is_near_the_webs_level_and_clean(engine, generator):
    speech = speak(LINE, SpeakConfig(engine=engine), generator=generator)
    assert -18.5 < loudness_lufs(speech.audio) < -15.5
    assert true_peak(speech.audio) <= 10 ** (-1 / 20) + 1e-3
    assert float(speech.audio.samples.mean().abs()) < 1e-3
    assert speech.audio.samples[0, :480].abs().max() < 0.01


@pytest.mark.parametrize("engine", ENGINES)
def test_the_hiss_of_sibilants_is_heard_when_the_times_say_so(engine, generator):
    text = "She sells sea shells. Yes, pass the sauce, please, and see the sun set."
    speech = speak(text, SpeakConfig(engine=engine), generator=generator)
    hop = SAMPLE_RATE // 200  # 5 ms
    samples = speech.audio.samples[0]
    window = torch.hann_window(360)
    spectra = torch.stft(samples, 360, hop, window=window, return_complex=True).abs().square()
    hertz = torch.fft.rfftfreq(360, 1 / SAMPLE_RATE)
    ratio = (spectra[hertz > 5000].sum(0) + 1e-7).log() - (
        spectra[(hertz > 300) & (hertz < 4000)].sum(0) + 1e-7
    ).log()
    expected = torch.zeros(spectra.shape[1])
    for phoneme in speech.phonemes:
        if phoneme.symbol in ("S", "SH", "Z"):
            expected[round(phoneme.start_s * 200) : round(phoneme.end_s * 200)] = 1.0
    scores = {}
    for shift in range(-20, 21):
        moved = torch.roll(expected, shift)
        scores[shift * 5] = float(torch.corrcoef(torch.stack([moved, ratio]))[0, 1])
    best_ms = max(scores, key=lambda shift: scores[shift])
    assert scores[best_ms] > 0.5
    assert abs(best_ms) <= 25  # ears and eyes notice from about 45 ms on


@pytest.mark.parametrize("engine", ENGINES)
def test_one_seed_gives_one_recording(engine):
    config = SpeakConfig(engine=engine)
    first, again = (
        speak("Hello there.", config, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first.audio.samples, again.audio.samples)
    assert first.phonemes == again.phonemes


@pytest.mark.parametrize("engine", ENGINES)
def test_speed_shortens_and_pitch_raises_the_voice(engine, generator):
    def line(**chosen: float) -> Speech:
        return speak(
            "Mary may marry me in May.", SpeakConfig(engine=engine, **chosen), generator=generator
        )

    plain, fast, low = line(), line(speed=1.5), line(pitch_semitones=-4.0)
    spoken = [s.phonemes[-1].start_s - s.phonemes[0].end_s for s in (plain, fast, low)]
    assert spoken[0] / spoken[1] == pytest.approx(1.5, rel=0.2)
    assert spoken[0] / spoken[2] == pytest.approx(1.0, rel=0.15)  # pitch leaves the pace alone
    heights = [median_pitch_hz(s.audio) for s in (plain, low)]
    assert 12 * np.log2(heights[1] / heights[0]) == pytest.approx(-4.0, abs=1.5)


@needs_neural
def test_the_neural_voice_uses_only_the_model_inside_its_package(monkeypatch, generator):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("tried to open a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)
    assert speak("Offline.", SpeakConfig(engine="hibari"), generator=generator).duration_s > 0.5


@needs_neural
def test_a_neural_model_without_durations_is_refused():
    graph = neural._message(1, neural._message(4, b"Add"))
    with pytest.raises(ValueError, match="0 CumSum nodes"):
        neural.with_durations(neural._message(7, graph))


@needs_espeak
@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("de", "Schöne Welt", "SH OW N AH V EH L T"),
        ("fr-fr", "bonjour", "B AO ZH UW HH"),
        ("es", "hola", "OW L AA"),
        ("en-gb", "mum", "M AH M"),
    ],
)
def test_other_languages_are_spoken_by_espeak(language, text, expected, generator):
    speech = speak(text, SpeakConfig(language=language), generator=generator)
    assert speech.engine == "espeak-ng"
    assert said(speech) == expected.split()


@needs_espeak
def test_an_unknown_language_or_variant_is_named(generator):
    with pytest.raises(ValueError, match="does not speak 'xx'"):
        speak("Hello", SpeakConfig(language="xx"), generator=generator)
    with pytest.raises(ValueError, match=r"no voice variant '\.\./\.\./nope'"):
        speak("Hello", SpeakConfig(variant="../../nope"), generator=generator)


@needs_espeak
def test_a_crash_of_the_engine_is_one_sentence(monkeypatch, tmp_path, generator):
    broken = tmp_path / "libespeak-ng.so"
    broken.write_bytes(b"not a library")
    import espeakng_loader

    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: str(broken))
    with pytest.raises(AssetError, match="espeak-ng stopped with status 1") as caught:
        speak("Hello", SpeakConfig(engine="espeak-ng"), generator=generator)
    assert "\n" not in str(caught.value)
