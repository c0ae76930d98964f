"""The supervised recipe: pairs are aligned, training lowers losses, resumes and ships voices."""

from __future__ import annotations

import copy
import csv
import dataclasses
import math
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from torch import nn

from assets.errors import AssetError
from voice import train, train_f0
from voice.audio import SAMPLE_RATE, Audio
from voice.converter_pairs import ANYONE, PairedClips, voice_clips
from voice.converter_parallel import ParallelClips
from voice.converter_plan import VOICES, VoicePlan, planned_voices
from voice.corpus import Corpus, Take, write_corpus
from voice.corpus_pitch import usual_pitch
from voice.hearing_net import HearingNet
from voice.jdc import F0Config, F0Net
from voice.losses_spectral import mel_loss
from voice.patch_judge import Judged, PatchJudge, feature_loss, judge_loss
from voice.phoneme_net import PhonemeNet, PhonemeNetConfig
from voice.said_clips import SaidClips
from voice.shipped import load_parts, save_net, shipped_voices
from voice.sound_teacher import Said, SoundTeacher
from voice.speaker_net import recordings
from voice.stargan import StarganConfig
from voice.train_converter import save_converter
from voice.train_converter_paired import (
    PairedTraining,
    PairNets,
    paired_loss,
    styles,
    train_paired,
)
from voice.train_converter_voices import fit_style_pitch, start_from
from voice.train_hearing import heard, hearing_sounds
from voice.train_speaker import knowing_speakers
from voice.train_teacher import TeacherTraining, load_teacher
from voice.train_teacher import train as train_teacher
from voice.visemes import SOUNDS

F0_SIZES = F0Config((4, 8, 8, 8), 8)
PITCHES = {"high": 260.0, "low": 120.0, "passer": 180.0}
TINY = PairedTraining(
    steps=12, batch=4, frames=80, reference_frames=80, learning_rate=4e-3, warm_up=2,
    own=1, judged_from=0.5, save_every=6,
)  # fmt: skip


def glide(hertz: float, generator: torch.Generator) -> torch.Tensor:
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
            Audio(glide(hertz, generator)),
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
def hears() -> PhonemeNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PhonemeNet(PhonemeNetConfig(8, (1,), (1,))).eval()


@pytest.fixture
def pairs(clips, hears) -> ParallelClips:
    generator = torch.Generator().manual_seed(0)
    said = SaidClips.of(clips, hears, 1, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = SoundTeacher(len(clips.clips), said.width, width=8, depth=2).eval()
    return ParallelClips(clips, said, [teacher])


@pytest.fixture
def nets(clips) -> PairNets:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = StarganConfig(
            dim_in=4, max_conv_dim=16, style_dim=8, latent_dim=4, num_domains=3, F0_channel=8
        )
        return PairNets.fresh(config, len(clips.clips), F0Net(F0_SIZES))


def column(folder: Path, name: str) -> list[float]:
    with open(folder / "loss.csv", encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def test_clips_are_raised_and_lowered_as_songs_are_by_another_trackers_word(clips, generator):
    spoken = clips.crops([own[0] for own in clips.clips], 80, generator=generator)
    assert torch.equal(
        dataclasses.replace(clips, sung_share=0.0).sung(spoken, generator=generator).mel, spoken.mel
    )
    sung = dataclasses.replace(clips, sung_share=1.0).sung(spoken, generator=generator)
    ratio = sung.f0_hz / spoken.f0_hz
    assert bool((ratio > 2 ** (-7.1 / 12)).all()) and bool((ratio < 2 ** (14.1 / 12)).all())
    assert float((ratio - 1).abs().max()) > 0.1
    for row, wanted in enumerate(ratio.tolist()):
        pitch = [
            np.nanmedian(librosa.pyin(part.numpy(), fmin=60, fmax=900, sr=SAMPLE_RATE)[0])
            for part in (spoken.samples[row], sung.samples[row])
        ]
        assert pitch[1] / pitch[0] == pytest.approx(wanted, rel=0.02)


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
    # a made clip is a tone and then noise, which no perturbation hides
    heard, wanted = (x[:, 0].diff(dim=2).abs().mean(dim=1) for x in (batch.heard, batch.wanted))
    assert (heard.argmax(dim=1) - wanted.argmax(dim=1)).abs().max() <= 1
    assert (batch.domain[batch.speaker == 2] == 2).all()


class Echo(SoundTeacher):
    """Stands for a teacher: each band tells something else of what it was told."""

    def __init__(self, speakers: int) -> None:
        super().__init__(speakers, 8 + len(SOUNDS), width=8, depth=1)

    def forward(self, said: Said, speaker: torch.Tensor, noise: float = 0.0) -> torch.Tensor:
        mel = said.loudness[:, None].repeat(1, 80, 1)
        mel[:, 0] = said.f0 / 1000
        mel[:, 1] = speaker[:, None].float()
        return mel[:, None]


def test_pairs_across_speakers_are_in_time_at_the_asked_pitch_and_level(pairs):
    pairs = dataclasses.replace(pairs, teachers=[Echo(len(pairs.clips.clips))])
    batch = pairs.batch(8, 80, 80, 4, generator=torch.Generator().manual_seed(0))
    assert batch.heard.shape == batch.wanted.shape == (8, 1, 80, 80)
    heard, wanted = batch.heard[:, 0], batch.wanted[:, 0]
    level = heard[:, :64].mean(dim=1)  # over the bands that all recordings have
    # what the teacher was told of each frame's loudness is what is heard there
    off = level - wanted[:, 2]
    assert (off - off.mean(dim=1, keepdim=True)).abs().median() < 0.03
    gain = wanted[:, 1, 0] - batch.speaker
    hertz = 1000 * (wanted[:, 0] - gain[:, None])
    for row, log2_hz in zip(hertz, batch.log2_hz, strict=True):
        voiced = row[row > 30]
        assert len(voiced) == 0 or abs(12 * math.log2(voiced.median()) - 12 * log2_hz) < 4.5
    assert (gain <= 0).all() and gain.min() < -0.1


def test_a_teacher_of_another_corpus_is_refused(pairs):
    with pytest.raises(ValueError, match=r"knows 5 speakers, the corpus has 3"):
        dataclasses.replace(pairs, teachers=[*pairs.teachers, Echo(5)])
    with pytest.raises(ValueError, match=r"hears 4 numbers a frame.*--recogniser"):
        dataclasses.replace(pairs, teachers=[SoundTeacher(3, 4, width=8, depth=1)])


def test_a_teacher_learns_the_speakers_and_is_read_again(clips, hears, tmp_path):
    generator = torch.Generator().manual_seed(0)
    said = SaidClips.of(clips, hears, 1, generator=generator)
    assert {len(sounds) for sounds in said.sounds.values()} == {2}
    config = TeacherTraining(steps=40, batch=4, frames=80, warm_up=2, save_every=40)
    file = tmp_path / "teacher.safetensors"
    made = train_teacher(said, tmp_path / "run", config, export=file)
    mel = column(tmp_path / "run", "mel")
    assert mel[-1] < 0.75 * mel[0]
    about, _, speakers = said.batch(
        config.batch, config.frames, config.named_share, generator=generator
    )
    read = load_teacher(file)
    torch.testing.assert_close(read(about, speakers), made(about, speakers))
    judged = dataclasses.replace(config, steps=10, judged_from=5, save_every=10)
    train_teacher(said, tmp_path / "judged", judged, export=file, start=file)
    assert column(tmp_path / "judged", "mel")[0] < 0.8 * mel[0]
    assert 0 < column(tmp_path / "judged", "judge")[-1] < 5
    with pytest.raises(AssetError, match="is no teacher"):
        save_net(F0Net(F0_SIZES), tmp_path / "f0.safetensors")
        load_teacher(tmp_path / "f0.safetensors")


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


def test_the_reconstruction_sees_level_and_slopes():
    zero, one = torch.zeros(1, 1, 80, 8), torch.ones(1, 1, 80, 8)
    assert float(mel_loss(one, zero, 0.5)) == pytest.approx(1.0)
    stripes = one.clone()
    stripes[..., ::2] = -1.0
    assert float(mel_loss(stripes, zero, 0.5)) == pytest.approx(1.0 + 0.5 * 2.0)


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


def test_paired_training_lowers_its_losses_and_asks_a_judge_late(pairs, nets, tmp_path):
    config = dataclasses.replace(TINY, steps=40, save_every=40, judged_from=0.8)
    batch = pairs.mixed(4, 8, 80, 80, 4, generator=torch.Generator().manual_seed(5))

    def error() -> float:
        with torch.no_grad():
            return float(paired_loss(nets, batch, config)[0])

    before = error()
    train_paired(pairs, nets, tmp_path, config)
    assert error() < 0.95 * before
    assert not any(column(tmp_path, "skipped"))
    assert column(tmp_path, "judge")[:-1] == [0.0, 0.0] and column(tmp_path, "judge")[-1] > 0.1
    assert (tmp_path / "preview.png").is_file()


def test_a_network_learns_to_know_speakers_whatever_their_loudness(clips, tmp_path):
    net = knowing_speakers(clips, tmp_path / "run", minutes=0.06, seed=1)
    again = knowing_speakers(clips, tmp_path / "run", minutes=0.06, seed=2)  # it is done
    mel, speaker = recordings(clips, 24, 80, generator=torch.Generator().manual_seed(7))
    likeness = torch.stack([net.likeness(mel, torch.full((24,), k)) for k in range(3)], dim=1)
    assert float((likeness.argmax(1) == speaker).float().mean()) > 0.9
    torch.testing.assert_close(net(mel), net(mel + 0.7), atol=1e-4, rtol=0)
    torch.testing.assert_close(net(mel), again(mel))
    assert not any(p.requires_grad for p in net.parameters())
    _, known = net.loss(mel, speaker)
    assert known > 0.9


def test_conversions_grow_like_the_wanted_speaker_where_a_network_listens(
    pairs, clips, nets, tmp_path
):
    speakers = knowing_speakers(clips, tmp_path / "speakers", minutes=0.06, seed=1)
    nets = dataclasses.replace(nets, speakers=speakers)
    config = dataclasses.replace(
        TINY, steps=60, judged_from=1.0, save_every=60,
        weights=dataclasses.replace(TINY.weights, unlike=1.0),
    )  # fmt: skip
    train_paired(pairs, nets, tmp_path / "run", config)
    unlike = column(tmp_path / "run", "unlike")
    assert unlike[-1] < 0.8 * unlike[0]


def test_a_network_learns_to_hear_what_teachers_are_told(pairs, tmp_path):
    batch = heard(pairs, 80, generator=torch.Generator().manual_seed(7))
    assert [len(part) for part in batch] == [16, 16]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = float(HearingNet(48).misheard(*batch).detach())
    net = hearing_sounds(pairs, tmp_path / "run", minutes=0.08, frames=80, seed=1)
    assert float(net.misheard(*batch)) < 0.6 * before
    assert not any(p.requires_grad for p in net.parameters())
    again = hearing_sounds(pairs, tmp_path / "run", minutes=0.08, frames=80, seed=2)  # it is done
    torch.testing.assert_close(net(batch[0]), again(batch[0]))


def test_what_teachers_are_told_is_in_time_with_what_is_heard(pairs):
    told = SoundTeacher(len(pairs.clips.clips), pairs.said.width, width=8, depth=1)
    pairs = dataclasses.replace(pairs, teachers=[told, *pairs.teachers])
    batch = pairs.mixed(2, 6, 80, 80, 4, generator=torch.Generator().manual_seed(3))
    assert batch.sounds is not None and batch.sounds.shape == (4, 80, 96)
    # a made clip is a buzz and then hiss: what is said turns where what is heard does
    turns, heard_turns = (
        (x - x.mean(dim=1, keepdim=True)).diff(dim=1).abs().sum(dim=2).argmax(dim=1)
        for x in (batch.sounds, batch.heard[2:, 0].transpose(1, 2))
    )
    assert (turns - heard_turns).abs().median() <= 3


class Mute(SoundTeacher):
    """Stands for a teacher that leaves everything out."""

    def forward(self, said: Said, speaker: torch.Tensor, noise: float = 0.0) -> torch.Tensor:
        return torch.zeros(*said.f0.shape, 80).transpose(1, 2)[:, None]


def test_what_teachers_leave_out_of_a_source_stays(pairs, clips):
    mute = Mute(len(clips.clips), pairs.said.width, width=8, depth=1)
    found = ParallelClips.of(clips, pairs.said, [mute], 0.5)
    clip = clips.clips[0][0]
    mel = pairs.said.mels[clip].float().numpy()
    wide = np.pad(mel, ((0, 0), (4, 4)), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(wide, 9, axis=1).mean(axis=2)
    np.testing.assert_allclose(
        found.details[clip].float(), 0.5 * (smooth - smooth.mean(axis=0)), atol=0.01
    )
    batch, bare = (
        made.batch(4, 80, 80, 4, generator=torch.Generator().manual_seed(2))
        for made in (found, ParallelClips.of(clips, pairs.said, [mute], 0.0))
    )
    torch.testing.assert_close(batch.heard, bare.heard)
    level, heard = ((x[:, 0, 10:60]).mean(dim=1) for x in (batch.wanted, batch.heard))
    for row, other in zip(level, heard, strict=True):
        assert np.corrcoef(row, other)[0, 1] > 0.97  # each frame's detail is at its own place
    assert float((batch.wanted - bare.wanted).std()) > 0.1


def test_conversions_are_heard_more_as_they_should_be_where_sounds_count(pairs, nets, tmp_path):
    hearing = hearing_sounds(pairs, tmp_path / "hearing", minutes=0.08, frames=80, seed=1)
    config = dataclasses.replace(
        TINY, steps=60, judged_from=1.0, weights=dataclasses.replace(TINY.weights, misheard=2.0)
    )
    train_paired(pairs, dataclasses.replace(nets, hearing=hearing), tmp_path / "run", config)
    misheard = column(tmp_path / "run", "misheard")
    assert misheard[-1] < 0.9 * misheard[0]


def test_a_parted_run_equals_a_straight_one(pairs, nets, tmp_path, monkeypatch):
    from voice import train_converter_paired as module

    straight = train_paired(pairs, copy.deepcopy(nets), tmp_path / "straight", TINY)
    real_step, taken = module.step, []

    def interrupted(*arguments, **named):
        taken.append(0)
        if len(taken) > 6:
            raise KeyboardInterrupt
        return real_step(*arguments, **named)

    monkeypatch.setattr(module, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_paired(pairs, copy.deepcopy(nets), tmp_path / "parted", TINY)
    monkeypatch.setattr(module, "step", real_step)
    parted = train_paired(pairs, copy.deepcopy(nets), tmp_path / "parted", TINY)
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


def test_the_commands_train_and_write_voices(corpus, tmp_path, capsys):
    save_net(F0Net(F0_SIZES), tmp_path / "f0.safetensors")
    folder = str(Path(corpus._samples.filename).parent)
    teacher = str(tmp_path / "teacher.safetensors")
    train.main(
        ["teacher", "--corpus", folder, "--run", str(tmp_path / "teacher"), "--steps", "1",
         "--batch", "2", "--versions", "0", "--export", teacher]
    )  # fmt: skip
    command = [
        "converter", "--corpus", folder, "--run", str(tmp_path / "run"), "--steps", "1",
        "--batch", "4", "--frames", "80", "--dim", "4", "--max-dim", "8",
        "--f0", str(tmp_path / "f0.safetensors"), "--export", str(tmp_path / "c.safetensors"),
        "--heard", "0.01", "--listen", "0.01",
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        train.main(command)
    assert "give --teacher FILE" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train.main([*command, "--recipe", "published"])
    assert "the recipe published has no --heard; leave it out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train.main([*command[:-4], "--recipe", "published"])
    assert "the recipe published needs --asr FILE" in capsys.readouterr().err
    train.main([*command, "--teacher", teacher])
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


def test_a_converter_goes_on_from_a_file(corpus, nets, tmp_path):
    averaged = nets.converters()
    file = tmp_path / "converter.safetensors"
    save_converter(averaged, nets.generator.config, ("high", "low", ANYONE), file)
    other = copy.deepcopy(averaged)
    for net in other.values():
        for weight in net.parameters():
            nn.init.zeros_(weight)
    start_from(file, other, nets.generator.config)
    for name, net in averaged.items():
        for one, same in zip(net.parameters(), other[name].parameters(), strict=True):
            torch.testing.assert_close(one, same, atol=1e-3, rtol=1e-3)
