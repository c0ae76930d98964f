"""The phoneme network: what it sees, hearing in pieces, its likeliest paths, its training."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assets import AssetError
from assets.store import shipped_model
from voice.align import _path
from voice.mel import MelConfig, log_mel
from voice.phoneme_corpus import Labelled, labels, read_shard, write_shard
from voice.phoneme_measure import offsets_of, spans_of
from voice.phoneme_net import (
    PhonemeNet,
    PhonemeNetConfig,
    PhonemeStream,
    load_phoneme_net,
    padded_mel,
    save_phoneme_net,
    viseme_posteriors,
)
from voice.phonemes import CONSONANTS, SILENCE, VOWELS
from voice.recognise import _CHANGE, _FAVOUR, _SHORTEST, most_likely
from voice.speech import Phoneme
from voice.train_phoneme_net import Crops, TrainConfig, spoilt, train
from voice.train_run import Run
from voice.visemes import PHONEME_VISEMES, SOUNDS, VISEME_NAMES, sounds_of

SMALL = PhonemeNetConfig(channels=8, ahead=(1, 2), behind=(1, 2))


def untrained(config: PhonemeNetConfig = SMALL) -> PhonemeNet:
    torch.manual_seed(0)
    net = PhonemeNet(config)
    for layer in net.modules():  # statistics as a trained network has them: not 0 and 1
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
        if isinstance(layer, torch.nn.Conv1d):  # what lies furthest must count
            layer.weight.data.mul_(3.0)
    return net.eval().requires_grad_(False)


# ------------------------------------------------------------------------------------- what it sees


def test_every_phoneme_is_heard_as_sounds_that_show_its_visemes():
    for phoneme in VOWELS | CONSONANTS | {SILENCE}:
        shown = tuple(PHONEME_VISEMES[sound][0] for sound in sounds_of(phoneme))
        assert shown == PHONEME_VISEMES[phoneme]


def test_visemes_are_as_likely_as_all_their_sounds_together():
    logits = torch.randn(2, len(SOUNDS), 5, generator=torch.Generator().manual_seed(1)).double()
    found = viseme_posteriors(logits)
    sounds = logits.exp() / logits.exp().sum(1, keepdim=True)
    for row, viseme in enumerate(VISEME_NAMES):
        of_it = [k for k, sound in enumerate(SOUNDS) if PHONEME_VISEMES[sound] == (viseme,)]
        torch.testing.assert_close(found[:, row], sounds[:, of_it].sum(1))
    torch.testing.assert_close(found.sum(1), torch.ones(2, 5).double())


def test_the_mel_is_that_of_the_shared_front_end_away_from_the_ends(generator):
    samples = torch.randn(1, 6_000, generator=generator) * 0.1
    found, shared = padded_mel(samples), log_mel(samples, MelConfig())
    assert found.shape == shared.shape
    torch.testing.assert_close(found[..., 4:-4], shared[..., 4:-4], atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", [SMALL, PhonemeNetConfig()])
def test_no_frame_depends_on_what_lies_beyond_the_reach_it_states(config, generator):
    net = untrained(config)
    mel = torch.randn(1, 80, 240, generator=generator)
    at = 120  # the first frame of a pair
    other = mel.clone()
    other[..., at] += 5.0
    changed = (net(mel) - net(other)).abs().amax(dim=1)[0] > 1e-6
    assert changed.nonzero().min() == at - 2 * config.pairs_ahead
    assert changed.nonzero().max() == at + 2 * config.pairs_behind + 1


def test_the_network_is_small_and_waits_less_than_150_ms():
    net = PhonemeNet()
    assert sum(weight.numel() for weight in net.parameters()) <= 1_000_000
    assert PhonemeStream(net).delay_s <= 0.15
    assert sum(path.stat().st_size for path in shipped_model("phonemes").paths()) <= 2_000_000
    assert shipped_model("phonemes").fault() is None


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 9_000), min_size=1, max_size=12),
    st.integers(0, 2**31 - 1),
)
def test_hearing_in_pieces_equals_hearing_at_once(sizes, seed):
    net = untrained()
    samples = 0.1 * torch.randn(1, sum(sizes), generator=torch.Generator().manual_seed(seed))
    stream = PhonemeStream(net)
    found = [stream.push(piece) for piece in torch.split(samples, sizes, dim=1)]
    found.append(stream.end())
    torch.testing.assert_close(torch.cat(found, dim=2), net(padded_mel(samples)), atol=1e-4, rtol=0)


def test_a_stream_gives_each_frame_within_its_delay_and_keeps_little():
    stream = PhonemeStream(untrained())
    given_frames = 0
    for second in range(1, 40):
        given_frames += stream.push(torch.zeros(1, 24_000)).shape[2]
        assert given_frames * 0.0125 >= second - stream.delay_s - 1e-9
    assert stream._samples.shape[1] < 24_000


# ----------------------------------------------------------------------------------- likeliest path


def test_the_path_is_the_best_of_all_paths_that_keep_to_the_shortest_times(generator):
    names = ("P", "AA", "S")
    columns = [SOUNDS.index(name) for name in names]
    scores = np.full((8, len(SOUNDS)), -1e6)
    scores[:, columns] = 3.0 * torch.randn(8, 3, generator=generator).double().numpy()

    def worth(path: tuple[str, ...]) -> float:
        runs = [(name, len(list(group))) for name, group in itertools.groupby(path)]
        # the last run may be cut off by the end
        if any(length < _SHORTEST.get(name, 2) for name, length in runs[:-1]):
            return -np.inf
        heard = sum(
            scores[t, SOUNDS.index(name)] + _FAVOUR.get(name, 0.0) for t, name in enumerate(path)
        )
        return heard - _CHANGE * (len(runs) - 1)

    best = max(itertools.product(names, repeat=8), key=worth)
    assert tuple(SOUNDS[k] for k in most_likely(scores)) == best


def test_an_alignment_is_the_best_of_all_that_keep_the_order(generator):
    sounds = [SOUNDS.index(name) for name in ("P", "AA", "S")]
    heard = [0, sounds[0], 0, sounds[1], 0, sounds[2], 0]
    scores = torch.randn(6, len(SOUNDS), generator=generator).double().numpy()

    def allowed(path: tuple[int, ...]) -> bool:
        steps = [b - a for a, b in itertools.pairwise(path)]
        fits = all(
            s in (0, 1) or (s == 2 and a % 2 == 1) for a, s in zip(path, steps, strict=False)
        )
        return fits and path[0] in (0, 1) and path[-1] in (5, 6)

    paths = filter(allowed, itertools.product(range(7), repeat=6))
    best = max(paths, key=lambda path: sum(scores[t, heard[s]] for t, s in enumerate(path)))
    assert _path(scores, np.array(sounds)) == list(best)


# ------------------------------------------------------------------------------ labels and training


def test_labels_are_the_sound_at_the_middle_of_each_frame_diphthongs_in_two():
    phonemes = [Phoneme("P", 0.05, 0.1), Phoneme("AY1", 0.1, 0.2), Phoneme("SIL", 0.2, 0.3)]
    found = [SOUNDS[k] for k in labels(phonemes, 20).tolist()]
    # frames 4 to 7 begin within P; the diphthong turns at 0.16 s, between frames 12 and 13
    assert found == ["SIL"] * 4 + ["P"] * 4 + ["AA"] * 5 + ["IY"] * 3 + ["SIL"] * 4


def test_offsets_are_of_the_nearest_span_and_nan_where_there_is_none():
    mask = np.array([0, 1, 1, 0, 0, 0, 1, 1, 1, 0], dtype=bool)
    assert spans_of(mask) == [(1, 3), (6, 9)]
    offsets = offsets_of([(12, 14)], [(10, 13), (40, 44)])
    assert offsets[0] == pytest.approx(0.025) and np.isnan(offsets[1])


def tone_clips(count: int) -> list[Labelled]:
    """Sounds that a child could tell: each sound is one band of the mel."""
    clips = []
    for index in range(count):
        drawn = torch.Generator().manual_seed(index)
        sounds = torch.randint(1, 4, (12,), generator=drawn).repeat_interleave(10)
        mel = torch.full((80, 120), -9.0)
        for band in range(20):
            mel[sounds * 20 + band, torch.arange(120)] = 1.0
        clips.append(Labelled(mel, sounds, "tone"))
    return clips


def test_spoilt_mels_are_finite_above_the_floor_and_the_same_for_one_seed():
    mel = torch.stack([clip.mel for clip in tone_clips(16)])
    kept = mel.clone()
    found = [spoilt(mel, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(found[0], found[1]) and torch.equal(mel, kept)
    assert found[0].isfinite().all() and float(found[0].min()) >= np.log(1e-5) - 1e-4
    assert not torch.equal(found[0], spoilt(mel, torch.Generator().manual_seed(4)))


def test_pieces_keep_sound_and_label_together():
    config = TrainConfig(batch=8, frames=64)
    clips = tone_clips(2)
    drawn = torch.Generator().manual_seed(0)
    for _ in range(20):
        mel, sounds = Crops(clips, config)._piece(clips[0], drawn)
        spoken = sounds > 0
        clear = spoken & (mel.max(0).values > 0.9)  # not between two sounds
        # the middle of the loud bands tells the sound; the tract's length moves it by 8 % at most
        loud = (mel > -4.0).float()
        middle = (loud * torch.arange(80.0)[:, None]).sum(0) / loud.sum(0).clamp_min(1.0)
        assert torch.equal(middle[clear] // 20, sounds[clear].float())
        assert torch.all(mel[:, ~spoken] < -8.9)


def test_training_learns_and_goes_on_after_a_stop_as_if_it_had_not(tmp_path, monkeypatch):
    config = TrainConfig(steps=12, batch=4, frames=64, save_every=6)
    clips = tone_clips(6)
    whole = train(clips, tmp_path / "whole", config, minutes=10.0)
    save = Run.save

    def save_and_stop(run: Run) -> None:
        save(run)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "save", save_and_stop)
        train(clips, tmp_path / "halves", config, minutes=10.0)
    again = train(clips, tmp_path / "halves", config, minutes=10.0)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=1e-5, rtol=1e-4)
    rows = (tmp_path / "halves" / "loss.csv").read_text().splitlines()
    losses = [float(row.split(",")[2]) for row in rows[1:]]
    assert len(losses) == 2 and losses[1] < losses[0]


def test_clips_come_back_from_a_shard_as_they_went_in(tmp_path):
    clips = tone_clips(3)
    write_shard(clips, tmp_path / "train-x.safetensors")
    for found, clip in zip(read_shard(tmp_path / "train-x.safetensors"), clips, strict=True):
        assert torch.equal(found.mel.float(), clip.mel) and torch.equal(found.sounds, clip.sounds)
        assert found.kind == clip.kind


def test_a_network_comes_back_from_its_file_to_half_precision(tmp_path, generator):
    net = untrained()
    save_phoneme_net(net, tmp_path / "net.safetensors")
    found = load_phoneme_net(tmp_path / "net.safetensors")
    assert found.config == SMALL
    mel = torch.randn(1, 80, 33, generator=generator)
    assert found(mel).shape == (1, len(SOUNDS), 33)
    torch.testing.assert_close(found(mel), net(mel), atol=0.02, rtol=0.02)


def test_a_file_that_is_no_phoneme_network_is_refused_in_words(tmp_path):
    write_shard(tone_clips(1), tmp_path / "other.safetensors")
    with pytest.raises(AssetError, match="is no phoneme network of ours"):
        load_phoneme_net(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="reach of every layer"):
        PhonemeNetConfig(behind=(0,))
