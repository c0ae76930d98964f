"""What the supervised recipe ships: its networks, the styles of its voices, and their pitches."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voice.converter_grow import widened
from voice.converter_pairs import PairedClips
from voice.converter_plan import planned_voices
from voice.corpus import Corpus
from voice.shipped import ShippedVoice, load_f0, ship
from voice.stargan import StarganConfig
from voice.train_converter_paired import PairedTraining, PairNets, train_paired

_LOOKS = 8  # pieces of clips that a speaker's style is the mean of
_FRAMES = 256
_VOICE_WEIGHT = 300.0  # of a voice against another speaker in reading a style's pitch


@torch.no_grad()
def speaker_styles(
    style_encoder: nn.Module, clips: PairedClips, speakers: Sequence[int]
) -> Float[Tensor, "N S"]:
    """The mean style of pieces of each speaker's clips, read by the speaker's own head."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for speaker in speakers:
        own = clips.clips[speaker]
        looked = [own[number % len(own)] for number in range(max(_LOOKS, min(len(own), 24)))]
        mel = clips.crops(looked, _FRAMES, generator=generator).mel
        domain = torch.full((len(mel),), min(speaker, len(clips.voices)))
        rows.append(style_encoder(mel, domain).mean(dim=0))
    return torch.stack(rows)


def speaker_hz(clips: PairedClips, speaker: int) -> float:
    """The median over a speaker's clips of their median pitches."""
    return float(torch.tensor([clips.f0_hz[i] for i in clips.clips[speaker]]).median())


@torch.no_grad()
def fit_style_pitch(
    layer: nn.Linear, styles: Float[Tensor, "N S"], log2_hz: Float[Tensor, " N"], voices: int
) -> None:
    """Move a linear reader of pitch so that it is exact on the first `voices` styles.

    Elsewhere it stays near what it was: ridge regression of what it was off by.
    """
    design = torch.cat([styles, torch.ones(len(styles), 1)], dim=1).double()
    off = log2_hz.double() - layer(styles)[:, 0].double()
    weight = torch.ones(len(styles), 1, dtype=torch.float64)
    weight[:voices] = _VOICE_WEIGHT
    normal = design.T @ (weight * design) + 0.05 * torch.eye(design.shape[1], dtype=torch.float64)
    change = torch.linalg.solve(normal, design.T @ (weight[:, 0] * off)).float()
    layer.weight.add_(change[None, :-1])
    layer.bias.add_(change[-1:])


def voices_of(averaged: dict[str, nn.Module], clips: PairedClips) -> tuple[ShippedVoice, ...]:
    """The planned voices with their styles; the reader of pitch is made exact on them."""
    count = len(clips.voices)
    everyone = range(len(clips.clips))
    styles = speaker_styles(averaged["style_encoder"], clips, everyone)
    hertz = [speaker_hz(clips, speaker) for speaker in everyone]
    reader = averaged["style_pitch"]
    assert isinstance(reader, nn.Linear)
    fit_style_pitch(reader, styles, torch.tensor(hertz).log2(), count)
    return tuple(
        ShippedVoice(
            *(plan.name, plan.description, plan.gender, round(hz, 1), plan.source, style[None])
        )
        for plan, hz, style in zip(clips.voices, hertz, styles, strict=False)
    )


def run_paired(options: argparse.Namespace) -> None:
    """Train by the supervised recipe, write the networks and their voices, and ship if asked."""
    from voice.converter_parallel import DETAIL, ParallelClips
    from voice.phoneme_net import load_phoneme_net
    from voice.recogniser_sounds import recogniser_of
    from voice.said_clips import SaidClips
    from voice.train_converter import save_converter
    from voice.train_hearing import hearing_sounds
    from voice.train_speaker import knowing_speakers
    from voice.train_teacher import load_teacher

    if not options.teacher:
        raise ValueError(
            "give --teacher FILE, what python -m voice.train teacher --export FILE wrote"
        )
    if options.precision == "fp16":
        raise ValueError("the recipe paired has no --precision fp16; give bf16 or no")
    corpus = Corpus.open(options.corpus)
    clips = PairedClips.of(corpus, planned_voices(corpus), leave_out=tuple(options.leave_out))
    pitch = load_f0(options.f0)
    sizes = StarganConfig(
        dim_in=options.dim,
        max_conv_dim=options.max_dim,
        num_domains=len(clips.domains),
        F0_channel=pitch.config.channels[-1],
        residual=True,
        finish=options.finish,
    )
    config = PairedTraining(
        steps=options.steps,
        minutes=options.minutes,
        batch=options.batch,
        frames=options.frames,
        own=options.own,
        learning_rate=options.rate,
        judged_from=options.judged_from,
        seed=options.seed,
        halves=options.precision == "bf16",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        nets = PairNets.fresh(sizes, len(clips.clips), pitch)
    if options.listen:
        known = knowing_speakers(
            clips, options.run / "speakers", minutes=options.listen, seed=config.seed
        )
        nets = replace(nets, speakers=known)
    generator = torch.Generator().manual_seed(config.seed)
    recogniser = recogniser_of(options.recogniser)
    said = SaidClips.of(clips, load_phoneme_net(), 0, recogniser, generator=generator)
    teachers = [load_teacher(file) for file in options.teacher]
    detail = DETAIL if options.detail is None else options.detail
    pairs = ParallelClips.of(clips, said, teachers, detail)
    if options.heard:
        hearing = hearing_sounds(
            pairs, options.run / "hearing", minutes=options.heard, seed=config.seed
        )
        nets = replace(nets, hearing=hearing)

    def begin(converters: dict[str, nn.Module]) -> None:
        start_from(options.start, converters, sizes)

    averaged = train_paired(
        pairs, nets, options.run, config, None if options.start is None else begin
    )
    voices = voices_of(averaged, clips)

    def write(path: Path) -> list[Path]:
        return save_converter(averaged, sizes, clips.domains, path, voices)

    if options.export is not None:
        write(options.export)
    if options.ship:
        ship("converter", write, corpus, options.run, options.seed)


def start_from(file: Path, converters: dict[str, nn.Module], sizes: StarganConfig) -> None:
    """Fill the networks from a converter that this recipe wrote, no wider than they are."""
    from assets.weights import install_weights, read_metadata, read_tensors

    tensors = read_tensors(file)
    before = StarganConfig(**json.loads(read_metadata(file)["sizes"]))
    generator = torch.Generator().manual_seed(0)
    for name, net in converters.items():
        own = {
            key.removeprefix(f"{name}."): value.float()
            for key, value in tensors.items()
            if key.startswith(f"{name}.")
        }
        if before != sizes:
            own = widened(net, own, before, sizes, generator=generator)
        install_weights(net, own, described=f"{file}'s {name}")
