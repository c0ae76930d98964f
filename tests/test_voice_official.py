"""Published voice files of every layout, through the functions that users call."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
from malicious import corpus
from safetensors.torch import load_file

import voice
from assets.errors import AssetError
from assets.files import sha256_of
from assets.store import official_models
from voice import Audio
from voice.asr_net import AsrConfig
from voice.converter import RELEASED_SPEAKERS
from voice.hifigan import HifiGanConfig
from voice.jdc import F0Config
from voice.mel import log_mel, normalised
from voice.official import convert_to_safetensors
from voice.parallel_wavegan import PwgConfig
from voice.stargan import Generator, StarganConfig
from voice.synthetic import (
    Sizes,
    random_weights,
    write_checkpoint,
    write_paddle_release,
    write_pickle,
    write_pitch,
    write_recogniser,
    write_release,
)

SIZES = Sizes(
    StarganConfig(
        dim_in=2, style_dim=3, latent_dim=5, num_domains=20, max_conv_dim=6, F0_channel=4
    ),
    F0Config((2, 2, 3, 4), 3),
    AsrConfig(hidden_dim=16, token_embedding_dim=6, n_layers=2),
    PwgConfig(layers=4, stacks=2, residual_channels=2, gate_channels=4, skip_channels=2),
    HifiGanConfig("2", (5, 5, 4, 3), (11, 11, 8, 5), 16, (3,), ((1, 2),)),
)
CASES = corpus("it-ran")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    write_release(folder, SIZES, generator=torch.Generator().manual_seed(0))
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def own_cache(home, monkeypatch):
    monkeypatch.setenv("AVATAR_HOME", str(home))


@pytest.fixture
def checkpoint(release):
    return release / "Models" / "epoch_00150.pth"


@pytest.fixture
def sound(generator):
    return Audio(0.2 * torch.randn(1, 30_100, generator=generator))


def raw(path):
    """What PyTorch itself reads; the files are ours."""
    return torch.load(path, weights_only=True)


def same(network, tensors):
    state = network.state_dict()
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], tensors[name]) for name in state)


# What is loaded


def test_a_checkpoint_gives_its_moving_average_and_its_own_pitch_network(checkpoint):
    converter, content = voice.load_converter(checkpoint), raw(checkpoint)
    for name in ("generator", "mapping_network", "style_encoder"):
        same(getattr(converter, name), content["model_ema"][name])
    same(converter.pitch, content["model"]["f0_model"])
    assert converter.speakers == RELEASED_SPEAKERS
    assert converter.vocoder is None
    assert not any(module.training for module in converter.generator.modules())


def test_a_checkpoint_without_moving_average_gives_its_last_step(tmp_path, generator):
    write_checkpoint(tmp_path / "last", SIZES, generator=generator, averaged=False)
    converter = voice.load_converter(tmp_path / "last")
    same(converter.generator, raw(tmp_path / "last")["model"]["generator"])


def test_the_releases_folder_brings_pitch_network_and_vocoder(release):
    converter = voice.load_converter(release)
    same(converter.pitch, raw(release / "Utils" / "JDC" / "bst.t7")["net"])
    assert isinstance(converter.vocoder, voice.Vocoder)
    assert converter.vocoder.network.config == SIZES.pwg
    assert voice.load_vocoder(release).sample_rate_hz == 24_000


@pytest.mark.parametrize("key", ["net", "model"])
@pytest.mark.parametrize("old", [False, True])
def test_pitch_networks_of_either_key_and_format_are_read(tmp_path, generator, key, old):
    write_pitch(tmp_path / "bst.t7", SIZES, generator=generator, key=key, old=old)
    same(voice.load_pitch(tmp_path / "bst.t7"), raw(tmp_path / "bst.t7")[key])


def test_a_pitch_network_in_the_users_folder_goes_before_the_checkpoints(
    tmp_path, checkpoint, generator, monkeypatch
):
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path))
    place = tmp_path / "voice" / "starganv2vc" / "bst.t7"
    write_pitch(place, SIZES, generator=generator)
    same(voice.load_converter(checkpoint).pitch, raw(place)["net"])
    assert any("voice/starganv2vc/bst.t7" in model.files for model in official_models())


def test_the_recogniser_is_read_from_its_file_and_from_checkpoints(release, checkpoint):
    file = release / "Utils" / "ASR" / "epoch_00100.pth"
    same(voice.load_recogniser(file), raw(file)["model"])
    same(voice.load_recogniser(checkpoint), raw(checkpoint)["model"]["asr_model"])


def test_another_name_of_the_decoders_cell_will_do(tmp_path, generator):
    write_recogniser(tmp_path / "a", SIZES, generator=generator)
    model = raw(tmp_path / "a")["model"]
    renamed = {name.replace("decoder_rnn", "attention_rnn"): t for name, t in model.items()}
    torch.save({"model": renamed}, tmp_path / "b")
    same(voice.load_recogniser(tmp_path / "b"), model)


def test_the_paddle_port_is_read_without_paddle(tmp_path, generator):
    write_paddle_release(tmp_path, SIZES, generator=generator)
    converter = voice.load_converter(tmp_path)
    again = Generator(SIZES.stargan)
    again.load_state_dict(random_weights(again, torch.Generator().manual_seed(0)))
    same(converter.generator, again.state_dict())
    assert isinstance(converter.vocoder, voice.Vocoder)


def test_suffixes_mean_nothing(release, checkpoint, tmp_path):
    for number, suffix in enumerate((".pd", ".txt", "")):
        shutil.copy(checkpoint, tmp_path / f"{number}{suffix}")
        same(
            voice.load_converter(tmp_path / f"{number}{suffix}").generator,
            raw(checkpoint)["model_ema"]["generator"],
        )


def test_a_converted_file_gives_the_same_and_carries_names_and_settings(
    release, checkpoint, tmp_path
):
    names = [f"voice {number}" for number in range(20)]
    file = convert_to_safetensors(checkpoint, tmp_path / "voice.safetensors", speakers=names)
    assert any(name.startswith("generator.stem") for name in load_file(file))
    converter = voice.load_converter(file)
    assert converter.speakers == tuple(names)
    same(converter.generator, raw(checkpoint)["model_ema"]["generator"])
    source = release / "Vocoder" / "checkpoint-400000steps.pkl"
    alone = convert_to_safetensors(source, tmp_path / "elsewhere" / "vocoder.safetensors")
    assert voice.load_vocoder(alone).network.config == SIZES.pwg


def test_a_file_is_converted_once_and_a_damaged_copy_again(
    checkpoint, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path))
    first = voice.load_converter(checkpoint)
    kept = tmp_path / "cache" / "voice" / f"{sha256_of(checkpoint)[:32]}.safetensors"
    assert kept.is_file()
    monkeypatch.setattr("voice.official_read._read", None)  # would fail if it were read again
    same(voice.load_converter(checkpoint).generator, first.generator.state_dict())
    monkeypatch.undo()
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path))
    kept.write_bytes(kept.read_bytes()[:1_000])
    with caplog.at_level(logging.WARNING):
        same(voice.load_converter(checkpoint).generator, first.generator.state_dict())
    assert "converting again" in caplog.text


# What a converter does


def test_sound_keeps_its_length_and_follows_the_description(release, sound, generator):
    converter = voice.load_converter(release)
    style = converter.style_of(sound, "p226")
    out = converter.convert(sound, style, generator=torch.Generator().manual_seed(5))
    assert out.samples.shape == sound.samples.shape
    with torch.no_grad():
        mel = normalised(log_mel(sound.samples / sound.samples.abs().max()))  # 101 frames
        padded = torch.cat([mel, mel[..., -1:].expand(-1, -1, 3)], 2)[:, None]
        feature = converter.pitch(padded).feature
        made = converter.generator(padded, style, feature)[:, 0, :, :101]
        noise = torch.randn(1, 30_300, generator=torch.Generator().manual_seed(5))
        expected = converter.vocoder.network(made, noise)[:, :30_100].clamp(-1, 1)
        reference = normalised(log_mel(sound.samples))[:, None]
        encoded = converter.style_encoder(reference, torch.tensor([10]))
    torch.testing.assert_close(style, encoded)
    torch.testing.assert_close(out.samples, expected, atol=1e-4, rtol=0)


def test_a_mel_gives_a_mel_of_its_length_for_one_style_or_many(release, generator):
    converter = voice.load_converter(release)
    mel = torch.randn(2, 80, 97, generator=generator)
    styles = torch.cat([converter.random_style(i, generator=generator) for i in (0, 11)])
    both = converter.convert(mel, styles)
    assert both.shape == mel.shape
    torch.testing.assert_close(both[1:], converter.convert(mel[1:], styles[1:]), atol=1e-3, rtol=0)
    assert converter.convert(mel, styles[:1]).shape == mel.shape
    with pytest.raises(ValueError, match=r"shape \[1, 9\]; wanted is \[1, 3\] or \[2, 3\]"):
        converter.convert(mel, torch.zeros(1, 9))


def test_a_random_style_is_the_seeds(release):
    converter = voice.load_converter(release)
    seeded = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    one, same_again, other = (converter.random_style("p225", generator=g) for g in seeded)
    assert torch.equal(one, same_again)
    assert not torch.equal(one, other)


def test_an_unknown_speaker_is_told_the_known_ones(release, sound):
    with pytest.raises(ValueError, match="no speaker 'p999' in this converter; it has p225, p228"):
        voice.load_converter(release).style_of(sound, "p999")


def test_silence_is_converted_without_a_fault(release, generator):
    converter = voice.load_converter(release)
    style = converter.random_style(0, generator=generator)
    quiet = converter.convert(Audio(torch.zeros(1, 2_000)), style, generator=generator)
    assert torch.isfinite(quiet.samples).all()


def test_sound_without_a_vocoder_is_refused(checkpoint, sound, generator):
    converter = voice.load_converter(checkpoint)
    with pytest.raises(ValueError, match="came without a vocoder"):
        converter.convert(sound, torch.zeros(1, 3), generator=generator)


# What is refused


def test_the_other_file_is_named_for_what_it_is(release, checkpoint):
    pitch = release / "Utils" / "JDC" / "bst.t7"
    with pytest.raises(AssetError, match="holds a pitch network, not a converter"):
        voice.load_converter(pitch)
    with pytest.raises(AssetError, match=r"holds a converter's generator, .* not a vocoder"):
        voice.load_vocoder(checkpoint)
    with pytest.raises(AssetError, match="Models has no vocoder"):
        voice.load_vocoder(release / "Models")
    with pytest.raises(AssetError, match="is not there"):
        voice.load_converter(release / "epoch_00151.pth")


def test_every_wrong_key_of_all_networks_is_in_one_message(checkpoint, tmp_path):
    content = raw(checkpoint)
    averaged = content["model_ema"]
    del averaged["generator"]["decode.3.conv2.bias"]
    averaged["generator"]["decode.9.extra"] = torch.zeros(1)
    averaged["style_encoder"]["unshared.7.bias"] = torch.zeros(99)
    averaged["mapping_network"]["shared.2.bias"][0] = float("nan")
    torch.save(content, tmp_path / "wrong.pth")
    with pytest.raises(AssetError) as caught:
        voice.load_converter(tmp_path / "wrong.pth")
    for words in (
        "missing generator.decode.3.conv2.bias",
        "unexpected generator.decode.9.extra",
        "style_encoder.unshared.7.bias [99] where the model has [3]",
        "not a number in mapping_network.shared.2.bias",
    ):
        assert words in str(caught.value)


def test_a_network_that_belongs_to_nothing_is_named(checkpoint, tmp_path):
    content = raw(checkpoint)
    content["model_ema"]["watermark"] = {"weight": torch.zeros(2)}
    torch.save(content, tmp_path / "more.pth")
    with pytest.raises(AssetError, match=r"unexpected model_ema\.watermark\.weight"):
        voice.load_converter(tmp_path / "more.pth")


def test_a_missing_network_is_named(checkpoint, tmp_path):
    content = raw(checkpoint)
    torch.save({"model_ema": {"generator": content["model_ema"]["generator"]}}, tmp_path / "g")
    with pytest.raises(AssetError, match="but not a mapping network and a style encoder"):
        voice.load_converter(tmp_path / "g")
    del content["model"]
    torch.save(content, tmp_path / "ema.pth")
    with pytest.raises(AssetError, match="no pitch network; give its file"):
        voice.load_converter(tmp_path / "ema.pth")


def test_a_model_with_a_high_pass_is_refused(tmp_path, checkpoint):
    content = raw(checkpoint)
    generator = content["model_ema"]["generator"]
    generator |= {name.replace("encode.5", "encode.6"): t for name, t in generator.items()}
    torch.save(content, tmp_path / "hpf.pth")
    with pytest.raises(AssetError, match=r"as w_hpf other than 0 makes it.*w_hpf: 0"):
        voice.load_converter(tmp_path / "hpf.pth")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("num_domains: 20", "num_domains: 10", "num_domains 10 where the weights have 20"),
        ("hop_length: 300", "hop_length: 256", "hop_length 256 where the front end has 300"),
        ("n_repeat", "n_repeats", r"unknown keys model_params\.n_repeats; known are .*n_repeat"),
        ("loss_params", "lost_params", "unknown keys lost_params"),
        ("model_params:", "model_params: [", "is no config file"),
        ("epochs: 150", "epochs: &a [1]\nbatch_size: *a", "refers to parts of itself"),
        ("epochs: 150", "epochs: !!python/object/apply:os.system [ls]", "is no config file"),
    ],
)
def test_a_config_that_does_not_belong_is_refused(release, tmp_path, old, new, words):
    shutil.copytree(release / "Models", tmp_path, dirs_exist_ok=True)
    text = (tmp_path / "config.yml").read_text()
    assert old in text
    (tmp_path / "config.yml").write_text(text.replace(old, new))
    with pytest.raises(AssetError, match=words):
        voice.load_converter(tmp_path)


def test_a_web_page_in_the_place_of_a_model_is_named(release, tmp_path):
    page = tmp_path / "Models" / "epoch_00150.pth"
    page.parent.mkdir()
    page.write_text("<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(AssetError, match="is a web page"):
        voice.load_converter(page)
    with pytest.raises(AssetError, match=r"no converter: epoch_00150.pth is a web page"):
        voice.load_converter(tmp_path)


@pytest.mark.parametrize("share", [0.001, 0.2, 0.7, 0.999])
def test_a_file_cut_short_is_one_sentence(checkpoint, tmp_path, share):
    content = checkpoint.read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(AssetError) as caught:
        voice.load_converter(tmp_path / "cut.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_files_made_to_harm_are_refused_and_never_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "epoch_00150.pth"
    file.write_bytes(CASES[name][0])
    with pytest.raises(AssetError) as caught:
        voice.load_converter(file)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "it-ran").exists()


def test_a_harmful_pickle_that_looks_like_paddles_is_refused(tmp_path):
    write_pickle({"StructuredToParameterName@@": {}, "net": {"a": print}}, tmp_path / "bst.pd")
    with pytest.raises(AssetError, match=r"names `builtins\.print`"):
        voice.load_pitch(tmp_path / "bst.pd")
