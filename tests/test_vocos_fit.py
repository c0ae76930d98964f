"""Spectra fitted to a mel measure as it says, agree with a sound, and show its pitch."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch

from voice.losses_spectral import mel_distance
from voice.mel import MelConfig, denormalised, log_mel, normalised
from voice.train_crops import blurred
from voice.vocos import Vocos, VocosConfig
from voice.vocos_fit import agreeing, bank_of_frames, fitted, pooling_of_bands
from voice.vocos_pitch import combs_of, salience
from voice.vocos_source import overlap_add, spectra

SMALL = VocosConfig(dim=32, hidden=48, layers=4, pitch_layers=2)


def voice_like(hertz: float, generator: torch.Generator, seconds: float = 0.6) -> torch.Tensor:
    """Harmonics that fall by 6 dB an octave, with a little noise, as loud as speech [1, N]."""
    time_s = torch.arange(round(seconds * 24_000)) / 24_000
    numbers = torch.arange(1, math.floor(8_000 / hertz) + 1)[:, None]
    buzz = (torch.cos(2 * torch.pi * hertz * numbers * time_s) / numbers).sum(0) * 0.05
    return (buzz + 0.002 * torch.randn(len(time_s), generator=generator))[None]


def test_the_frames_bank_measures_the_published_mel(generator):
    """Its bins are 20 Hz apart where the mel's are 12, so narrow bands are near, not equal."""
    sound = torch.randn(1, 24_000, generator=generator)
    power = spectra(sound, 1200, 300).square().sum(-1) @ bank_of_frames(MelConfig(), 1200)
    found = power[0, 3:-3].T
    expected = log_mel(sound)[0, :, 3 : len(power[0]) - 3].exp()
    torch.testing.assert_close(found.sum(1), expected.sum(1), rtol=0.05, atol=0)
    torch.testing.assert_close(found[40:], expected[40:], rtol=0.05, atol=0)


def test_the_spectra_of_a_sound_agree_already(generator):
    own = spectra(torch.randn(2, 9_000, generator=generator).double(), 1200, 300)
    for back, ahead in ((3, 3), (3, 1)):
        inside = own[:, back : own.shape[1] - ahead]
        torch.testing.assert_close(agreeing(own, ahead, back), inside, atol=1e-6, rtol=0)
    # without the next frame the window's last quarter rests on one frame's edge alone
    none = agreeing(own, 0)
    assert float((none - own[:, 3:]).norm() / own.norm()) < 1e-3


def test_spectra_that_no_sound_has_become_those_of_their_sum(generator):
    made = torch.randn(1, 24, 601, 2, generator=generator).double()
    made[..., [0, -1], 1] = 0  # of real signals
    expected = spectra(overlap_add(made, 1200, 300), 1200, 300)
    torch.testing.assert_close(
        agreeing(made, 3)[:, 3:-3], expected[:, 6:-6], atol=1e-6, rtol=0
    )  # fmt: skip


def test_a_fit_leaves_what_fits_and_doubles_what_is_half(generator):
    net = Vocos(SMALL)
    spectrum = spectra(voice_like(180.0, generator) * 4, 1200, 300)
    power = spectrum.square().sum(-1) @ net.bank
    wanted = (power + MelConfig().floor).log()
    same = fitted(spectrum, wanted, net.bank, net.interpolation)
    torch.testing.assert_close(same, spectrum, rtol=1e-2, atol=1e-3)
    louder = fitted(spectrum, (4 * power + MelConfig().floor).log(), net.bank, net.interpolation)
    torch.testing.assert_close(louder, 2 * spectrum, rtol=1e-2, atol=1e-3)


def test_silence_stays_silent():
    quiet = torch.full((1, 80, 30), -1.8782)
    with torch.no_grad():
        sound = Vocos(SMALL)(quiet)
    assert float(sound.abs().max()) < 1e-3


def test_refining_brings_another_noise_to_a_recordings_mel(generator):
    """Fitting each frame alone is not enough: frames that disagree cancel in their sum."""
    sound = 0.1 * torch.randn(1, 18_000, generator=generator)
    given = normalised(log_mel(sound))[..., :60]
    noise = spectra(torch.randn(1, 18_000, generator=generator), 1200, 300)
    off = {}
    for rounds in (0, 1, 4):
        sizes = {**asdict(SMALL), "refinements": rounds, "refine_ahead": rounds}
        net = Vocos(VocosConfig(**sizes))
        with torch.no_grad():
            filters = net.filters(given, torch.zeros(1, 60))
            made = net.refined(net.spectrum(filters, torch.zeros_like(noise), noise), filters)
            off[rounds] = mel_distance(sound, overlap_add(made, 1200, 300))
    assert off[1] < 0.8 * off[0]
    assert off[4] < 0.6 * off[0]


@pytest.mark.parametrize("hertz", [70.0, 105.0, 183.0, 262.0, 440.0, 700.0])
def test_the_likeliest_pitch_of_a_steady_voice_is_its_own(hertz, generator):
    pitches = 50 * 2 ** (torch.arange(224) / 48)
    surroundings, combs = combs_of(MelConfig(), pitches)
    mel = log_mel(voice_like(hertz, generator))[0, :, 6:-6].T
    found = pitches[salience(mel, surroundings, combs).argmax(-1)]
    assert float((1200 * torch.log2(found / hertz)).abs().max()) < 50


def test_likeness_does_not_depend_on_loudness(generator):
    surroundings, combs = combs_of(MelConfig(), torch.tensor([100.0, 200.0]))
    mel = denormalised(torch.randn(5, 80, generator=generator) * 0.2)
    one, other = (salience(m, surroundings, combs) for m in (mel, mel + 3.0))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    assert float(one.abs().max()) <= 1.0


def test_pooled_bands_hide_harmonics_and_keep_levels():
    pooling = pooling_of_bands(MelConfig(), 500.0)
    level = torch.full((1, 80), 0.7)
    torch.testing.assert_close(level @ pooling, level)
    comb = 1.0 + torch.cos(torch.arange(80) * 2 * torch.pi / 5)[None]  # 170 Hz apart below
    flat = (comb @ pooling)[:, 5:30]
    assert float(flat.std() / comb[:, 5:30].std()) < 0.1


def test_blurred_mels_keep_their_mean_and_lose_their_detail(generator):
    mel = torch.randn(64, 80, 60, generator=generator)
    same = blurred(mel, 0.0, generator=generator)
    assert same is mel or torch.equal(same, mel)
    smooth = blurred(mel, 1.0, generator=generator)
    rough = [x.diff(dim=-1).square().mean(dim=(1, 2)) for x in (mel, smooth)]
    assert float((rough[1] / rough[0]).median()) < 0.6
    level = blurred(torch.full((8, 80, 30), 0.5), 1.0, generator=generator)
    assert float((level.mean(dim=(1, 2)) - 0.5).abs().max()) < 0.02
    some = blurred(mel, 0.5, generator=generator)
    kept = [torch.equal(a, b) for a, b in zip(some, mel, strict=True)]
    assert 20 <= sum(kept) <= 44
