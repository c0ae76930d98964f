"""The supervised recipe: pairs are aligned, training lowers losses, resumes and ships voices."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from voice import train, train_f0
from voice.audio import SAMPLE_RATE, Audio
from voice.converter_pairs import ANYONE, PairedClips, voice_clips
from voice.converter_plan import VOICES, VoicePlan, planned_voices
from voice.corpus import Corpus, Take, write_corpus
from voice.corpus_pitch import usual_pitch
from voice.jdc import F0Config, F0Net
from voice.patch_judge import Judged, PatchJudge, feature_loss, judge_loss
from voice.phoneme_net import PhonemeNet, PhonemeNetConfig
from voice.shipped import load_parts, save_net, shipped_voices
from voice.stargan import StarganConfig
from voice.train_converter_paired import (
    PairedTraining,
    PairNets,
    converted_first,
    reconstruction,
    styles,
    train_paired,
)
from voice.train_converter_voices import fit_style_pitch

F0_SIZES = F0Config((4, 8, 8, 8), 8)
PITCHES = {"high": 260.0, "low": 120.0, "passer": 180.0}
TINY = PairedTraining(
    steps=12, batch=4, frames=80, reference_frames=80, learning_rate=4e-3, warm_up=2,
    judged_from=0.5, unpaired=1, save_every=6,
)  # fmt: skip


def sung(hertz: float, generator: torch.Generator) -> torch.Tensor:
    """A buzz with a glide in the first two thirds, hiss in the rest [1, N]."""
    count = round(1.8 * SAMPLE_RATE)
    turns = torch.cumsum(hertz * (1 + 0.1 * torch.linspace(0, 1, count)), 0) / SAMPLE_RATE
    buzz = sum(torch.cos(2 * torch.pi * k * turns) / k for k in range(1, 12)) * 0.1
    hiss = 0.03 * torch.randn(count, generator=generator)
    return torch.where(torch.arange(count) < 2 * count // 3, buzz, hiss)[None]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    generator = torch.Generator().manual_seed(0)
    takes = [
        Take(
            Audio(sung(hertz, generator)),
            speaker,
            "made",
            "CC0",
            style="" if speaker == "passer" else speaker,
            held_out=held,
        )
        for speaker, hertz in PITCHES.items()
        for held in (False, False, True)
    ]
    return write_corpus(takes, tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def clips(corpus) -> PairedClips:
    return PairedClips.of(corpus, planned_voices(corpus))


@pytest.fixture
def nets(clips) -> PairNets:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = StarganConfig(
            dim_in=4, max_conv_dim=16, style_dim=8, latent_dim=4, num_domains=3, F0_channel=8
        )
        sounds = PhonemeNet(PhonemeNetConfig(8, (1,), (1,)))
        return PairNets.fresh(config, len(clips.clips), F0Net(F0_SIZES), sounds)


def column(folder: Path, name: str) -> list[float]:
    with open(folder / "loss.csv", encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def test_voices_come_first_and_anyone_last(clips, corpus):
    assert clips.domains == ("high", "low", ANYONE)
    speakers = [{corpus.clips[i].speaker for i in group} for group in clips.clips]
    assert speakers == [{"high"}, {"low"}, {"passer"}]
    assert not any(corpus.clips[i].held_out for group in clips.clips for i in group)
    for group, hertz in zip(clips.clips, PITCHES.values(), strict=True):
        for clip in group:
            assert clips.f0_hz[clip] == pytest.approx(1.05 * hertz, rel=0.04)


def test_a_corpus_that_is_left_out_gives_no_one_but_voices(corpus):
    clips = PairedClips.of(corpus, planned_voices(corpus), leave_out=("made",))
    assert len(clips.clips) == 2


def test_held_back_clips_of_a_voice_are_never_trained_on(corpus):
    whole = VoicePlan("passer", "", "neutral", "made", "passer", "made")
    kept, back = (voice_clips(corpus, whole, held_out=held) for held in (False, True))
    assert len(back) == 1 and not set(kept) & set(back) and len(kept) == 2


def test_shipped_voices_have_names_of_their_own_and_are_at_least_ten():
    names = [plan.name for plan in VOICES]
    assert len(names) == len(set(names)) >= 10 and ANYONE not in names
    assert {plan.gender for plan in VOICES} == {"female", "male", "neutral"}


def test_what_is_heard_is_in_time_with_what_is_wanted(clips):
    generator = torch.Generator().manual_seed(0)
    batch = clips.batch(6, 80, 80, 4, generator=generator)
    assert batch.heard.shape == batch.wanted.shape == (6, 1, 80, 80)
    heard, wanted = (x[:, 0].mean(dim=1) for x in (batch.heard, batch.wanted))

    def centred(x):
        return x - x.mean(dim=1, keepdim=True)

    spread = centred(wanted).std(dim=1)
    likeness = nn.functional.cosine_similarity(centred(heard), centred(wanted), dim=1)
    assert (likeness[spread > 0.05] > 0.6).all() and (spread > 0.05).any()
    assert (batch.domain[batch.speaker == 2] == 2).all()


def test_sources_are_brought_to_the_asked_pitch(clips):
    from voice.mel import normalised
    from voice.transpose import transposed_mel

    generator = torch.Generator().manual_seed(2)
    plain, moved = clips.sources(torch.full((3,), math.log2(200.0)), 80, generator=generator)
    assert plain.shape == moved.shape == (3, 1, 80, 80)
    # a voice at that pitch already is left as it is
    own = clips.crops(clips.clips[2][:1], 80, generator=generator)
    same = normalised(transposed_mel(own.samples, torch.ones(1), own.f0_hz))
    torch.testing.assert_close(same[:, None, :, 4:84], own.mel, atol=1e-3, rtol=0)


def test_styles_are_drawn_for_those_items_alone(nets, clips):
    batch = clips.batch(4, 80, 80, 4, generator=torch.Generator().manual_seed(0))
    batch = dataclasses.replace(
        batch,
        is_drawn=torch.tensor([True, False, True, False]),
        domain=torch.tensor([0, 1, 1, 2]),
    )
    mixed = styles(nets, batch)
    drawn = nets.mapping_network(batch.latent, batch.domain)
    heard = nets.style_encoder(batch.reference, batch.domain)
    torch.testing.assert_close(mixed[[0, 2]], drawn[[0, 2]])
    torch.testing.assert_close(mixed[[1, 3]], heard[[1, 3]])


def test_a_share_of_what_is_heard_has_been_converted_before(nets, clips):
    batch = clips.batch(4, 80, 80, 4, generator=torch.Generator().manual_seed(0))
    style = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    mixed = converted_first(nets, batch, style, 0.5)
    with torch.no_grad():
        feature = nets.pitch.feature(batch.heard)[:2]
        expected = nets.generator(batch.heard[:2], style[[3, 0]], feature)
    torch.testing.assert_close(mixed[:2], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(mixed[2:], batch.heard[2:])
    assert converted_first(nets, batch, style, 0.0) is batch.heard


def test_the_reconstruction_sees_level_and_slopes():
    zero, one = torch.zeros(1, 1, 80, 8), torch.ones(1, 1, 80, 8)
    assert float(reconstruction(one, zero, 0.5)) == pytest.approx(1.0)
    stripes = one.clone()
    stripes[..., ::2] = -1.0
    assert float(reconstruction(stripes, zero, 0.5)) == pytest.approx(1.0 + 0.5 * 2.0)


def test_a_judge_is_asked_for_margins_of_one():
    certain = Judged(torch.full((1, 2, 2), 1.5), ())
    fooled = Judged(torch.full((1, 2, 2), -1.5), ())
    assert float(judge_loss(certain, fooled)) == 0.0
    assert float(judge_loss(fooled, certain)) == 5.0
    layers = Judged(certain.logits, (torch.ones(1, 2, 2, 2), 2 * torch.ones(1, 1, 2, 2)))
    doubled = Judged(certain.logits, (2 * torch.ones(1, 2, 2, 2), 2 * torch.ones(1, 1, 2, 2)))
    assert float(feature_loss(layers, doubled)) == pytest.approx(0.5)


def test_a_judge_knows_whose_patch_it_is_asked_about():
    judge = PatchJudge(2, dim=4)
    mel = torch.randn(1, 1, 80, 80, generator=torch.Generator().manual_seed(0)).expand(
        2, -1, -1, -1
    )
    before = judge.eval()(mel, torch.tensor([0, 1])).logits
    torch.testing.assert_close(before[0], before[1])
    nn.init.normal_(judge.speaker.weight)
    after = judge(mel, torch.tensor([0, 1])).logits
    assert (after[0] - after[1]).abs().max() > 1e-3


def test_paired_training_lowers_its_loss_and_asks_a_judge_late(clips, nets, tmp_path):
    config = dataclasses.replace(TINY, steps=40, save_every=40, judged_from=0.8)
    train_paired(clips, nets, tmp_path, config)
    mel = column(tmp_path, "mel")
    assert mel[-1] < 0.85 * mel[0] and not any(column(tmp_path, "skipped"))
    assert column(tmp_path, "judge")[:-1] == [0.0, 0.0] and column(tmp_path, "judge")[-1] > 0.1
    assert (tmp_path / "preview.png").is_file()


def test_a_parted_run_equals_a_straight_one(clips, nets, tmp_path, monkeypatch):
    import copy

    from voice import train_converter_paired as module

    straight = train_paired(clips, copy.deepcopy(nets), tmp_path / "straight", TINY)
    real_step, taken = module.step, []

    def interrupted(*arguments, **named):
        taken.append(0)
        if len(taken) > 6:
            raise KeyboardInterrupt
        return real_step(*arguments, **named)

    monkeypatch.setattr(module, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_paired(clips, copy.deepcopy(nets), tmp_path / "parted", TINY)
    monkeypatch.setattr(module, "step", real_step)
    parted = train_paired(clips, copy.deepcopy(nets), tmp_path / "parted", TINY)
    for name, net in straight.items():
        for one, other in zip(net.parameters(), parted[name].parameters(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_time_ends_a_run_and_shapes_its_rate():
    config = dataclasses.replace(TINY, steps=1000, minutes=2.0)
    assert config.progress(10, 60.0) == 0.5
    assert config.progress(900, 60.0) == 0.9


def test_a_styles_pitch_is_exact_for_voices_and_gentle_elsewhere():
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(16, 1)
    styles_of_all = torch.randn(40, 16, generator=generator)
    hertz = 100 * torch.exp2(1.5 * torch.rand(40, generator=generator))
    fit_style_pitch(layer, styles_of_all, hertz.log2(), 10)
    off = 12 * (layer(styles_of_all)[:, 0] - hertz.log2()).abs()
    assert off[:10].max() < 0.5  # semitones
    assert off[10:].median() < 6.0


def test_the_command_trains_and_writes_voices(corpus, tmp_path):
    save_net(F0Net(F0_SIZES), tmp_path / "f0.safetensors")
    folder = str(Path(corpus._samples.filename).parent)
    train.main(
        ["converter", "--corpus", folder, "--run", str(tmp_path / "run"), "--steps", "1",
         "--batch", "2", "--frames", "80", "--dim", "4", "--max-dim", "8",
         "--f0", str(tmp_path / "f0.safetensors"), "--export", str(tmp_path / "c.safetensors")]
    )  # fmt: skip
    parts = load_parts(tmp_path / "c.safetensors")
    assert parts.styles == ("high", "low", ANYONE) and parts.style_pitch is not None
    for voice, hertz in zip(shipped_voices(tmp_path / "c.safetensors"), (260, 120), strict=True):
        assert voice.f0_hz == pytest.approx(1.05 * hertz, rel=0.05)
        with torch.no_grad():
            read_hz = 2 ** float(parts.style_pitch(voice.style)[0, 0])
        assert abs(12 * math.log2(read_hz / voice.f0_hz)) < 1


def test_usual_pitch_forgives_slips_of_the_tracker():
    f0 = torch.tensor([0.0, 200.0, 210.0, 220.0, 900.0, 950.0, 980.0, 990.0]).numpy()
    assert usual_pitch(f0) == 210.0
    assert usual_pitch(f0[4:]) == 965.0 and usual_pitch(f0[:1]) == 0.0


def test_a_frozen_trunk_keeps_the_feature_while_pitch_is_learnt(corpus, tmp_path):
    config = train_f0.F0Training(steps=4, batch=2, frames=40, warm_up=1, trunk_steps=2)
    half = train_f0.train(
        corpus, tmp_path, dataclasses.replace(config, steps=2, decay_share=0.0), F0_SIZES
    )
    whole = train_f0.train(corpus, tmp_path, dataclasses.replace(config, decay_share=0.0), F0_SIZES)
    mel = torch.randn(1, 1, 80, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(whole.feature(mel), half.feature(mel), atol=1e-6, rtol=0)
        assert (whole(mel).f0 - half(mel).f0).abs().max() > 1e-4
