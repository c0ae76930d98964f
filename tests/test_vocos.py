"""The vocoder: its excitations and transforms are exact, it streams, it keeps a given pitch."""

from __future__ import annotations

import copy
import math
import time

import numpy as np
import pytest
import torch

from voice.corpus_pitch import pitch_track
from voice.losses_spectral import magnitudes, mel_distance, peak_excess, sound_distance
from voice.mel import log_mel, normalised
from voice.shipped import load_vocoder
from voice.vocos import Vocos, VocosConfig, filled, gaussian_targets
from voice.vocos_source import (
    excitations,
    frame_phases,
    overlap_add,
    position_noise,
    spectra,
)
from voice.vocos_stream import VocosStream, stream

SMALL = VocosConfig(dim=32, hidden=48, layers=4, pitch_layers=2)


@pytest.fixture(scope="module")
def net() -> Vocos:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = Vocos(SMALL)
        # an untrained head answers almost nothing, which would hide mistakes of timing
        torch.nn.init.normal_(built.head.weight, std=0.1)
        torch.nn.init.normal_(built.pitch_head.weight, std=0.5)
    return built.eval()


@pytest.fixture(scope="module")
def mel() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 80, 61, generator=generator).clamp(-1.8, 2.5)


def glide() -> torch.Tensor:
    """A pitch that rises and falls [1, T]."""
    return 180 + 60 * torch.sin(torch.arange(80) / 12)[None]


def test_the_inverse_transform_gives_back_every_sample(generator):
    signal = torch.randn(2, 12_000, generator=generator)
    again = overlap_add(spectra(signal, 1200, 300), 1200, 300)
    torch.testing.assert_close(again, signal, atol=1e-5, rtol=0)


def test_pulses_are_the_sum_of_all_harmonics_of_the_integrated_pitch():
    f0 = glide()
    phases = frame_phases(f0, 300)
    pulses, _ = excitations(f0, torch.ones_like(f0), phases, torch.arange(80), 300)
    # the pitch between frames is a straight line; its sum gives the turns
    at = np.minimum(np.arange(80 * 300) / 300, 79)
    hertz = np.interp(at, np.arange(80), f0[0].double().numpy())
    turns = np.concatenate([[0.0], np.cumsum(hertz)[:-1] / 24_000])
    expected = np.zeros(80 * 300)
    held = np.repeat(f0[0].double().numpy(), 300)
    for k in range(1, 100):
        expected += np.cos(2 * np.pi * k * turns) * (k <= np.floor(11_800 / held))
    expected *= np.sqrt(held / 6_000)
    np.testing.assert_allclose(pulses[0].numpy(), expected, atol=2e-2)


def test_pulses_and_noise_have_unit_power_density():
    f0 = torch.full((1, 400), 100.0)
    both = excitations(f0, torch.ones_like(f0), frame_phases(f0, 300), torch.arange(400), 300)
    for signal in both:
        assert float(signal.square().mean()) == pytest.approx(1.0, rel=0.03)


def test_noise_is_white_and_the_same_at_the_same_place():
    whole = position_noise(torch.arange(60_000))
    torch.testing.assert_close(position_noise(torch.arange(500, 900)), whole[500:900])
    centred = whole - whole.mean()
    for lag in (1, 2, 17, 300):
        assert abs(float((centred[lag:] * centred[:-lag]).mean())) < 0.02
    power = magnitudes(whole[None], (256,))[0].square().mean(-1)[0, 1:-1]
    assert float(power.max() / power.min()) < 1.6


def test_a_frame_is_centred_where_its_mel_frame_is(net):
    """A mel of one loud frame gives sound around 300 times its number."""
    quiet = torch.full((1, 80, 40), -1.878)
    quiet[..., 20] = 1.0
    with torch.no_grad():
        sound = Vocos(SMALL)(quiet, torch.zeros(1, 40))[0]
    centre = (sound.square() * torch.arange(12_000)).sum() / sound.square().sum()
    assert float(centre) == pytest.approx(20 * 300, abs=60)


def test_the_untrained_vocoder_starts_at_the_mels_envelope():
    """Noise coloured by a filter comes out coloured by it."""
    generator = torch.Generator().manual_seed(2)
    white = torch.randn(1, 24_000, generator=generator) * 0.1
    coloured = torch.nn.functional.conv1d(white[None], torch.tensor([[[1.0, 0.7, 0.3]]]))[0]
    given = normalised(log_mel(coloured))
    with torch.no_grad():
        sound = Vocos(VocosConfig())(given, torch.zeros(1, given.shape[-1]))
    wanted = log_mel(coloured)[..., 4:-4].mean(-1)
    found = log_mel(sound)[..., 4:-5].mean(-1)
    assert float((found - wanted).abs().max()) < 0.3


def test_a_given_pitch_is_sung_to_the_cent():
    f0 = glide()
    loud = torch.linspace(1.5, -1.0, 80)[None, :, None].expand(1, 80, 80)
    with torch.no_grad():
        sound = Vocos(SMALL)(loud, f0)[0]
    found = torch.from_numpy(pitch_track(sound.double().numpy()))[:80]
    cents = 1200 * torch.log2(found[4:-4] / f0[0, 4:-4])
    assert (found[4:-4] > 0).all()
    assert float(cents.abs().median()) < 5
    assert float(cents.abs().max()) < 30


@pytest.mark.parametrize("pieces", [[61], [1] * 61, [7, 20, 3, 31], [2, 59]])
def test_pieces_of_a_mel_give_the_samples_of_the_whole(net, mel, pieces):
    net, mel = copy.deepcopy(net).double(), mel.double()
    with torch.no_grad():
        whole = net(mel)
    joined = torch.cat(list(stream(net, mel.split(pieces, dim=-1))), dim=1)
    assert joined.shape == whole.shape == (1, 61 * 300)
    torch.testing.assert_close(joined, whole, atol=1e-6, rtol=0)


def test_pieces_with_their_melody_give_the_samples_of_the_whole(net, mel):
    net, mel = copy.deepcopy(net).double(), mel.double()
    melody = mel.flip(1)
    state = VocosStream(net)
    both = zip(mel.split([7, 1, 53], dim=-1), melody.split([7, 1, 53], dim=-1), strict=True)
    joined = torch.cat([*(state.push(*pair) for pair in both), state.flush()], dim=1)
    with torch.no_grad():
        whole, alone = net(mel, melody=melody), net(mel)
    torch.testing.assert_close(joined, whole, atol=2e-5, rtol=0)
    assert float((whole - alone).abs().max()) > 1e-3


def test_a_frame_depends_on_no_later_frame_than_it_says(net, mel):
    ahead = net.config.look_ahead
    other = mel.clone()
    other[..., 30:] = 0.3
    with torch.no_grad():
        first, second = net(mel), net(other)
    same = (30 - ahead) * 300
    torch.testing.assert_close(first[:, :same], second[:, :same], atol=1e-6, rtol=0)
    assert float((first - second)[:, same : 30 * 300].abs().max()) > 1e-3


def test_the_distance_of_sounds_counts_low_frequencies_as_the_ear_does(generator):
    """The same ratio is as far in any octave's worth of the mel scale, not in any hertz."""
    real = 0.1 * torch.randn(2, 12_000, generator=generator)
    assert float(sound_distance(real, real)) == 0.0
    spectrum = torch.fft.rfft(real)
    hertz = torch.fft.rfftfreq(12_000, 1 / 24_000)
    off = []
    for low, high in ((500, 1_000), (9_000, 9_500)):
        inside = (hertz >= low) & (hertz < high)
        other = torch.fft.irfft(torch.where(inside, 0.5 * spectrum, spectrum), 12_000)
        off.append(float(sound_distance(real, other)))
    mels = 1_127 * np.log((700 + np.array([[500, 1_000], [9_000, 9_500]])) / 700)
    expected = np.diff(mels[0])[0] / np.diff(mels[1])[0]
    assert off[0] / off[1] == pytest.approx(expected, rel=0.25)


def test_the_distance_of_sounds_knows_loudness_and_time(generator):
    real = 0.1 * torch.randn(1, 12_000, generator=generator)
    off = {gain: float(sound_distance(real, gain * real)) for gain in (0.5, 0.8, 1.25, 2.0)}
    assert off[0.8] < off[0.5] and off[1.25] < off[2.0]
    # ln 2 by the logarithms, half the mean magnitude by the difference
    assert off[0.5] == pytest.approx(math.log(2) + 0.5, rel=0.03)


def test_peaks_count_where_a_sound_goes_further_than_the_recording(generator):
    real = 0.1 * torch.randn(3, 6_000, generator=generator)
    assert float(peak_excess(real, 2 * real)) == pytest.approx(1.0, rel=0.02)
    assert float(peak_excess(real, 0.9 * real)) == 0.0
    # the same power in one sample of a hundred
    rare = torch.where(torch.arange(6_000) % 100 == 0, 1.0, 0.0)[None].expand(3, -1)
    assert float(peak_excess(real, rare)) > 1.0


def test_filtered_pulses_have_the_peaks_of_a_voice_not_of_a_click_train():
    f0 = torch.full((1, 60), 120.0)
    pulses, _ = excitations(f0, torch.ones_like(f0), frame_phases(f0, 300), torch.arange(60), 300)
    net = Vocos(SMALL)
    with torch.no_grad():
        filters = net.filters(torch.full((1, 80, 60), 0.5), f0)
        made = overlap_add(net.harmonic(filters, spectra(pulses, 1200, 300)), 1200, 300)
    inside = slice(3_000, -3_000)

    def crest(sound: torch.Tensor) -> float:
        part = sound[0, inside]
        return float(part.abs().max() / part.square().mean().sqrt())

    assert crest(made) < 0.6 * crest(pulses)


def test_unvoiced_frames_keep_the_last_pitch():
    hertz, voiced = filled(torch.tensor([[0.0, 100.0, 0.0, 0.0, 200.0]]))
    assert hertz.tolist() == [[150.0, 100.0, 100.0, 100.0, 200.0]]
    assert voiced.tolist() == [[0, 1, 0, 0, 1]]


def test_pitch_labels_have_their_mean_at_the_pitch():
    config = VocosConfig()
    f0 = torch.tensor([[60.0, 123.4, 440.0, 900.0]])
    labels = gaussian_targets(f0, config)
    bins = (labels * torch.arange(config.pitch_bins)).sum(-1)
    again = config.lowest_hz * 2 ** (bins * config.bin_cents / 1200)
    torch.testing.assert_close(again, f0, rtol=1e-4, atol=0)


def test_the_full_size_fits_the_budgets_of_size_and_time():
    built = Vocos().eval()
    assert 2 * sum(p.numel() for p in built.parameters()) < 6e6  # bytes in half precision
    mel = torch.zeros(1, 80, 160)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        spent = math.inf
        with torch.no_grad():
            for _ in range(4):
                before = time.thread_time()
                built(mel)
                spent = min(spent, time.thread_time() - before)
    finally:
        torch.set_num_threads(threads)
    assert spent / 2.0 < 0.05


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match=r"pitch_layers=9 must be 1\.\.7"):
        VocosConfig(pitch_layers=9)
    with pytest.raises(ValueError, match="n_fft=1024 must be 4"):
        VocosConfig(n_fft=1024)


def test_the_shipped_vocoder_gives_back_a_voice_it_never_heard(generator):
    """A buzz with vibrato, hiss and a pause, none of which any recording has."""
    count = 36_000
    time_s = torch.arange(count) / 24_000
    hertz = 170 * (1 + 0.03 * torch.sin(2 * torch.pi * 5 * time_s))
    turns = torch.cumsum(hertz, 0) / 24_000
    buzz = sum(torch.cos(2 * torch.pi * k * turns + k * k / 5) / k for k in range(1, 40)) * 0.05
    hiss = 0.02 * torch.randn(count, generator=generator)
    part = torch.arange(count) // 12_000
    sound = torch.where(part == 0, buzz, torch.where(part == 1, hiss * 1e-3, hiss))[None]
    net = load_vocoder()
    with torch.no_grad():
        given = normalised(log_mel(sound))[..., :120]
        made = net(given)
        pitch_hz, voiced = net.pitch(net.filters(given))
    assert mel_distance(sound[:, 600:-600], made[:, 600 : sound.shape[1] - 600]) < 1.5
    inside = slice(4, 36)
    assert voiced[0, inside].mean() > 0.95 and voiced[0, 44:].mean() < 0.1
    cents = 1200 * torch.log2(pitch_hz[0, inside] / hertz[::300][inside])
    assert float(cents.abs().median()) < 20
    assert float(made[0, 14_000:22_000].abs().max()) < 1e-3
    assert net.config.look_ahead <= 8  # 100 ms, what a live stream can spare


def test_a_blurred_mel_is_sung_at_the_pitch_of_its_melody():
    """Harmonics of 131 Hz that hardly show any more, with and without a mel that shows them."""
    turns = torch.arange(24_000) * 131 / 24_000
    buzz = sum(torch.cos(2 * torch.pi * k * turns + k * k / 5) / k for k in range(1, 40)) * 0.05
    net = load_vocoder()
    clear = normalised(log_mel(buzz[None]))
    around = torch.nn.functional.pad(clear.transpose(1, 2), (2, 2), mode="replicate")
    blurred = torch.nn.functional.avg_pool1d(around, 5, 1).transpose(1, 2)

    def off(melody):
        hertz, _ = net.pitch(net.filters(blurred, melody=melody))
        return float((12 * torch.log2(hertz[0, 10:-10] / 131)).abs().median())

    assert off(None) > 1.0
    assert off(clear) < 0.3


def test_a_note_that_hardly_shows_is_voiced_where_its_melody_is():
    turns = torch.arange(24_000) * 523 / 24_000
    buzz = sum(torch.cos(2 * torch.pi * k * turns + k * k / 5) / k for k in range(1, 12)) * 0.05
    hiss = 0.02 * torch.randn(1, 24_000, generator=torch.Generator().manual_seed(0))
    note, breath = (normalised(log_mel(sound)) for sound in (buzz[None], hiss))
    faint = 0.4 * note + 0.6 * breath
    net = load_vocoder()

    def voiced(mel, melody):
        return float(net.pitch(net.filters(mel, melody=melody))[1][0, 10:-10].mean())

    assert voiced(faint, None) < 0.1 and voiced(faint, note) > 0.9
    assert voiced(faint, breath) < 0.1 and voiced(breath, breath) < 0.05


def test_compiled_excitations_are_those_of_the_formula():
    from voice.vocos_source import excitations, frame_phases
    from voice.vocos_stream import _excitations

    generator = torch.Generator().manual_seed(0)
    f0 = 80 + 400 * torch.rand(1, 40, generator=generator)
    voiced = (torch.rand(1, 40, generator=generator) < 0.7).float()
    phases = frame_phases(f0, 300)
    wanted = excitations(f0, voiced, phases, torch.arange(7, 47), 300)
    for one, other in zip(_excitations(f0, voiced, phases, 7, 300), wanted, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-4)
