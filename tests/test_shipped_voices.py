"""A converter's file tells the voices that it offers."""

from __future__ import annotations

import pytest
import torch

from assets.errors import AssetError
from voice.asr_net import AsrConfig, AsrNet
from voice.jdc import F0Config, F0Net
from voice.shipped import ShippedVoice, load_parts, shipped_voices
from voice.stargan import StarganConfig
from voice.train_converter import save_converter
from voice.train_converter_step import ConverterNets

SIZES = StarganConfig(
    dim_in=4, style_dim=6, latent_dim=3, num_domains=2, max_conv_dim=8, F0_channel=8
)


def saved(path, voices):
    nets = ConverterNets.fresh(
        SIZES,
        F0Net(F0Config((4, 4, 4, 8), 4)),
        AsrNet(AsrConfig(hidden_dim=32, token_embedding_dim=16, n_layers=1)),
    )
    averaged = {k: n for k, n in nets.trained().items() if k != "discriminator"}
    save_converter(averaged, SIZES, ("here", "anyone"), path, voices)


def test_voices_come_back_as_they_were_saved(tmp_path):
    styles = torch.tensor([[0.5, -1.0, 2.0, 0.25, 0.0, 4.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    voices = [
        ShippedVoice("zoë", "Warm.", "female", 201.5, "made", styles[:1]),
        ShippedVoice("max", "Deep, calm.", "male", 98.0, "made too", styles[1:]),
    ]
    saved(tmp_path / "c.safetensors", voices)
    first, second = shipped_voices(tmp_path / "c.safetensors")
    assert (first.name, first.description, first.gender) == ("zoë", "Warm.", "female")
    assert (second.name, second.f0_hz, second.source) == ("max", 98.0, "made too")
    torch.testing.assert_close(torch.cat([first.style, second.style]), styles, atol=0, rtol=0)
    assert load_parts(tmp_path / "c.safetensors").styles == ("here", "anyone")


def test_a_file_without_voices_says_how_to_mend_it(tmp_path):
    saved(tmp_path / "c.safetensors", ())
    with pytest.raises(AssetError, match="does not tell its voices"):
        shipped_voices(tmp_path / "c.safetensors")


@pytest.mark.parametrize("gender, f0_hz", [("robot", 100.0), ("male", 0.0)])
def test_a_voice_needs_a_known_gender_and_a_pitch(gender, f0_hz):
    with pytest.raises(ValueError, match="a voice needs a name, a gender of female, male"):
        ShippedVoice("x", "", gender, f0_hz, "", torch.zeros(1, 6))
