"""Every training lowers its losses on tiny data, goes on where it stopped, and exports."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from voice import train, train_asr, train_converter, train_f0, train_vocoder
from voice.asr_net import BLANK, TOKENS, AsrConfig, AsrNet
from voice.audio import SAMPLE_RATE, Audio
from voice.corpus import Corpus, Take, write_corpus
from voice.corpus_pitch import usual_pitch
from voice.jdc import F0Config, F0Net
from voice.mel import log_mel, normalised
from voice.shipped import load_f0, load_parts, load_recogniser, load_vocoder
from voice.speech import Phoneme
from voice.stargan import StarganConfig
from voice.train_converter_step import (
    ConverterNets,
    Phase,
    Weights,
    discriminator_loss,
    generator_loss,
    learners,
)
from voice.train_crops import clip_weights, draw_crops
from voice.train_run import Run, apply_gradients, move_average
from voice.vocos import VocosConfig

F0_SIZES = F0Config((4, 8, 8, 8), 8)
ASR_SIZES = AsrConfig(hidden_dim=32, token_embedding_dim=16, n_layers=1)
VOCOS_SIZES = VocosConfig(dim=32, hidden=48, layers=3, pitch_layers=1, ahead=1)


def sung(hertz: float, seconds: float, generator: torch.Generator) -> torch.Tensor:
    """A buzz with a glide in the first two thirds, hiss in the rest [1, N]."""
    count = round(seconds * SAMPLE_RATE)
    turns = torch.cumsum(hertz * (1 + 0.2 * torch.linspace(0, 1, count)), 0) / SAMPLE_RATE
    buzz = sum(torch.cos(2 * torch.pi * k * turns) / k for k in range(1, 12)) * 0.1
    hiss = 0.03 * torch.randn(count, generator=generator)
    return torch.where(torch.arange(count) < 2 * count // 3, buzz, hiss)[None]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    generator = torch.Generator().manual_seed(0)
    said = (Phoneme("AA1", 0.0, 1.2), Phoneme("S", 1.2, 1.8))
    takes = [
        Take(
            Audio(sung(hertz, 1.8, generator)),
            style,
            "made",
            "CC0",
            style=style,
            phonemes=said,
            held_out=held,
        )
        for style, hertz in (("high", 260.0), ("low", 120.0))
        for held in (False, False, True)
    ]
    return write_corpus(takes, tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def nets() -> ConverterNets:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = StarganConfig(
            dim_in=4, max_conv_dim=16, style_dim=8, latent_dim=4, num_domains=2, F0_channel=8
        )
        return ConverterNets.fresh(config, F0Net(F0_SIZES), AsrNet(ASR_SIZES))


def column(folder: Path, name: str) -> list[float]:
    with open(folder / "loss.csv", encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def test_crops_lie_where_they_say_and_have_the_clips_own_mel(corpus, generator):
    indices = corpus.indices(held_out=False)
    batch = draw_crops(corpus, indices, clip_weights(corpus, indices), 80, 3, generator=generator)
    assert batch.samples.shape == (3, 24_000) and batch.mel.shape == (3, 80, 80)
    for row, (clip, start) in enumerate(
        zip(batch.clips.tolist(), batch.starts.tolist(), strict=True)
    ):
        whole = corpus.samples(clip)
        piece = whole[start * 300 : start * 300 + 24_000]
        gain = (batch.samples[row] @ piece) / (piece @ piece)
        torch.testing.assert_close(batch.samples[row], gain * piece, atol=1e-5, rtol=0)
        mel = normalised(log_mel(gain * whole[None]))[0, :, start : start + 80]
        torch.testing.assert_close(batch.mel[row], mel, atol=1e-3, rtol=0)
        assert torch.equal(batch.f0[row], corpus.f0(clip)[start : start + 80])


def test_the_vocoder_learns_and_goes_on_as_if_it_had_not_stopped(corpus, tmp_path):
    config = train_vocoder.VocoderTraining(
        steps=20, batch=2, frames=32, pitch_batch=4, learning_rate=2e-3, warm_up=3, decay_share=0.0
    )
    short = dataclasses.replace(config, steps=10)
    for settings in (short, config):
        parted = train_vocoder.train(corpus, tmp_path / "parted", settings, VOCOS_SIZES)
    straight = train_vocoder.train(corpus, tmp_path / "straight", config, VOCOS_SIZES)
    for one, other in zip(parted.parameters(), straight.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    indices = corpus.indices(held_out=True)
    batch = draw_crops(
        corpus, indices, clip_weights(corpus, indices), 32, 2,
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip

    def lost(net: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return train_vocoder.loss_of(
                net, batch, config, generator=torch.Generator().manual_seed(6)
            )[1]

    before, after = lost(train_vocoder.Vocos(VOCOS_SIZES)), lost(straight)
    # the untrained vocoder keeps to the mel already; its pitch is what has to be learnt
    assert after["spectral"] < before["spectral"]
    assert after["pitch"] < 0.8 * before["pitch"]


def test_what_the_vocoder_exports_makes_the_same_sound(corpus, tmp_path):
    config = train_vocoder.VocoderTraining(steps=2, batch=2, frames=48, pitch_batch=2, save_every=1)
    net = train_vocoder.train(
        corpus, tmp_path, config, VOCOS_SIZES, export=tmp_path / "net.safetensors"
    )
    again = load_vocoder(tmp_path / "net.safetensors")
    mel, f0 = torch.zeros(1, 80, 30), torch.full((1, 30), 150.0)
    with torch.no_grad():
        torch.testing.assert_close(again(mel, f0), net(mel, f0), atol=2e-3, rtol=0)


def test_the_pitch_network_learns(corpus, tmp_path, generator):
    indices = corpus.indices(held_out=False)
    weights = clip_weights(corpus, indices)
    batch = draw_crops(corpus, indices, weights, 64, 2, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = train_f0.fresh(dataclasses.replace(F0_SIZES, dropout=0.0))
        guide = train_f0.Guide(F0_SIZES)
    optimizer = torch.optim.AdamW([*learner.parameters(), *guide.parameters()], 1e-2)
    seen = []
    usual_hz = torch.tensor([usual_pitch(row.numpy()) for row in batch.f0])
    for _ in range(25):
        loss, figures = train_f0.loss_of(
            learner, guide, batch.mel, batch.f0, usual_hz, train_f0.F0Training()
        )
        loss.backward()
        apply_gradients(optimizer, None, 5.0)
        seen.append(figures)
    assert all(seen[-1][name] < 0.8 * seen[0][name] for name in ("pitch", "silence", "guide"))
    config = train_f0.F0Training(steps=2, batch=2, frames=64, save_every=1)
    net = train_f0.train(corpus, tmp_path, config, F0_SIZES, export=tmp_path / "f0.safetensors")
    figures = train_f0.held_out_figures(net, corpus)
    assert set(figures) == {
        "within 50 cents", "median cents", "voicing agreement", "log pitch correlation",
    }  # fmt: skip
    mel = torch.zeros(1, 1, 80, 40)
    with torch.no_grad():
        kept = load_f0(tmp_path / "f0.safetensors")(mel).f0
        torch.testing.assert_close(kept, net(mel).f0, rtol=2e-2, atol=0.5)


@pytest.mark.parametrize("attention", [0.0, 1.0])
def test_the_recogniser_learns(corpus, tmp_path, attention):
    config = train_asr.AsrTraining(
        steps=20, batch=2, frames=144, learning_rate=3e-3, warm_up=2, attention_weight=attention
    )
    net = train_asr.train(corpus, tmp_path, config, ASR_SIZES, export=tmp_path / "asr.safetensors")
    for name in ("ctc", "frame", *(["attention"] if attention else [])):
        values = column(tmp_path, name)
        assert values[-1] < 0.9 * values[0], name
    assert train_asr.held_out_figures(net, corpus)["steps right"] > 0.3
    mel = torch.zeros(1, 80, 40)
    with torch.no_grad():
        kept = load_recogniser(tmp_path / "asr.safetensors").content(mel)
        torch.testing.assert_close(kept, net.content(mel), rtol=2e-2, atol=2e-2)


def test_the_phonemes_of_a_crop_are_those_heard_in_it():
    line = (
        Phoneme("SIL", 0.0, 0.25), Phoneme("B", 0.25, 0.5), Phoneme("AA1", 0.5, 1.0),
        Phoneme("UW", 1.0, 1.5),
    )  # fmt: skip
    spoken = train_asr.spoken_in([line, line], [0, 64], 40)  # half a second each
    b, aa, uw = (TOKENS.index(name) for name in ("B", "AA1", "UW"))
    assert spoken.lengths.tolist() == [1, 1]
    assert spoken.tokens.tolist() == [[b], [uw]]
    assert spoken.steps[0].tolist() == [BLANK] * 10 + [b] * 10
    assert spoken.steps[1].tolist() == [aa] * 8 + [uw] * 12


def test_edits_are_counted_as_levenshtein_did():
    kitten, sitting = list(b"kitten"), list(b"sitting")
    assert train_asr.edits(kitten, sitting) == 3
    assert train_asr.edits([], sitting) == 7


def some_batch(nets: ConverterNets, corpus: Corpus) -> train_converter.ConverterBatch:
    clips = train_converter.StyledClips.of(corpus)
    generator = torch.Generator().manual_seed(3)
    return clips.batch(3, 80, nets.generator.config.latent_dim, generator=generator)


@pytest.mark.parametrize("latent", [True, False])
def test_every_published_loss_is_there_and_its_schedule_holds(nets, corpus, generator, latent):
    batch = some_batch(nets, corpus)
    batch = dataclasses.replace(
        batch, source=torch.tensor([0, 1, 0]), target=torch.tensor([1, 0, 1])
    )
    always = {"g adversarial", "style", "diversity", "cycle", "norm", "speech", "f0"}
    settings = train_converter.ConverterTraining()
    for epoch in (0, 30, 50):
        phase = settings.phase(epoch)
        _, judged = discriminator_loss(
            nets, batch, phase, Weights(), latent=latent, generator=generator
        )
        expected = {"d real", "d fake", "r1"}
        expected |= {"consistency"} if epoch >= 30 else set()
        expected |= {"d source"} if epoch >= 50 else set()
        assert set(judged) == expected
        loss, made = generator_loss(nets, batch, phase, Weights(), latent=latent)
        extra = {"g source"} if epoch >= 50 else set() if latent else {"mean f0"}
        assert set(made) == always | extra
        assert float(loss.detach()) == pytest.approx(sum(made.values()), rel=1e-4)
    assert learners(latent) == (
        ("generator", "mapping_network", "style_encoder") if latent else ("generator",)
    )


def test_frozen_networks_keep_their_weights_and_statistics(nets, corpus, generator):
    before = {k: v.clone() for k, v in nets.pitch.state_dict().items()}
    loss, _ = generator_loss(
        nets, some_batch(nets, corpus), Phase(True, True), Weights(), latent=True
    )
    loss.backward()
    assert all(torch.equal(v, before[k]) for k, v in nets.pitch.state_dict().items())
    assert all(p.grad is None for p in (*nets.pitch.parameters(), *nets.recogniser.parameters()))
    assert all(p.grad is not None for p in nets.generator.parameters())


def test_the_converter_learns_resumes_and_exports(nets, corpus, tmp_path):
    from accelerate import Accelerator

    config = train_converter.ConverterTraining(
        epochs=4, steps_per_epoch=2, batch=2, frames=80, classify_epoch=3, consistency_epoch=2,
        learning_rate=4e-3, save_every=8,
    )  # fmt: skip
    path = tmp_path / "converter.safetensors"
    for minutes in (0.0, None):
        train_converter.train(
            corpus, nets, tmp_path, config, Accelerator(cpu=True), minutes=minutes, export=path
        )
    rows = {name: column(tmp_path, name) for name in ("cycle", "speech", "style", "skipped")}
    assert rows["cycle"][-1] < rows["cycle"][0] and rows["style"][-1] < rows["style"][0]
    assert not any(rows["skipped"])
    assert (tmp_path / "preview.png").is_file()
    parts = load_parts(path)
    assert parts.styles == ("high", "low")
    mel, pitch = torch.zeros(1, 1, 80, 40), torch.zeros(1, 8, 10, 40)
    with torch.no_grad():
        assert parts.generator(mel, torch.zeros(1, 8), pitch).isfinite().all()


def test_discriminators_join_a_vocoder_that_has_begun_without_them(corpus, tmp_path):
    config = train_vocoder.VocoderTraining(steps=1, batch=2, frames=32, pitch_batch=2)
    train_vocoder.train(corpus, tmp_path, config, VOCOS_SIZES)
    joined = dataclasses.replace(config, steps=3, adversarial_from=1)
    train_vocoder.train(corpus, tmp_path, joined, VOCOS_SIZES)
    assert column(tmp_path, "judge")[0] == 0.0
    # an untrained judge answers about 0 to everything: both hinges are at 1
    assert column(tmp_path, "judge")[-1] == pytest.approx(2.0, abs=0.2)
    assert (tmp_path / "checkpoint.safetensors").is_file()


def test_judges_learn_to_tell_a_buzz_from_noise(corpus, generator):
    rival = train_vocoder.Rival.of(train_vocoder.VocoderTraining())
    buzz = sung(150.0, 0.3, generator)[:, :4000].expand(2, -1)
    noise = torch.randn(2, 4000, generator=generator) * 0.1
    for group in rival.optimizer.param_groups:
        group["lr"] = 2e-3
    losses_of_judge = [rival.learn(buzz, noise) for _ in range(12)]
    assert losses_of_judge[-1] < 0.7 * losses_of_judge[0]


def test_steps_that_are_no_numbers_are_not_taken():
    net = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(net.parameters())
    before = net.weight.detach().clone()
    (net(torch.full((1, 2), torch.inf)).sum() * 0).backward()
    assert not apply_gradients(optimizer, 1.0, 1.0)
    assert torch.equal(net.weight, before) and net.weight.grad is None


def test_averages_move_by_what_is_not_kept():
    net, averaged = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.constant_(net.weight, 1.0)
    nn.init.constant_(averaged.weight, 0.0)
    move_average(averaged, net, 0.9)
    assert float(averaged.weight.detach()) == pytest.approx(0.1)


def test_rows_written_after_the_last_checkpoint_are_dropped_on_resuming(tmp_path):
    net = nn.Linear(1, 1)
    run = Run(tmp_path, {"net": net}, {"net": torch.optim.AdamW(net.parameters())})
    run.step = 2
    run.record({"loss": 1.0})
    run.save()
    run.step = 3
    run.record({"loss": 0.5})
    assert run.resume() and run.step == 2
    assert column(tmp_path, "step") == [2.0]


def test_a_corpus_without_styles_or_phonemes_is_refused(tmp_path):
    made = Take(Audio(sung(150.0, 1.0, torch.Generator())), "a", "made", "CC0", held_out=False)
    corpus = write_corpus([made], tmp_path)
    with pytest.raises(ValueError, match="the corpus has 0 styles"):
        train_converter.StyledClips.of(corpus)
    with pytest.raises(ValueError, match="no clip of the corpus has known phonemes"):
        train_asr.train(corpus, tmp_path, train_asr.AsrTraining(steps=1), ASR_SIZES)


def test_the_command_line_prepares_trains_and_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / "ann").mkdir()
    Audio(sung(200.0, 1.5, torch.Generator())).save(tmp_path / "ann" / "one.wav")
    train.main(["corpus", "--speakers", str(tmp_path), "--out", str(tmp_path / "out")])
    run = ["--run", str(tmp_path / "run"), "--steps", "1", "--batch", "2"]
    train.main(["f0", "--corpus", str(tmp_path / "out"), "--width", "2", *run])
    assert (tmp_path / "run" / "loss.csv").is_file()
    with pytest.raises(SystemExit) as stopped:
        train.main(["asr", "--corpus", str(tmp_path / "out"), *run])
    assert stopped.value.code == 2
    assert "known phonemes" in capsys.readouterr().err
