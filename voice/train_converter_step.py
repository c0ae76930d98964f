"""One training step of the converter: discriminator, then generator, for one kind of style."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from voice import losses_converter as losses
from voice.asr_net import AsrNet
from voice.jdc import F0Net
from voice.stargan import Discriminator, Generator, MappingNetwork, StarganConfig, StyleEncoder


@dataclass(frozen=True)
class Weights:
    """Weights of the losses, as published."""

    adversarial: float = 2.0  # of the generator
    style: float = 1.0
    diversity: float = 1.0
    cycle: float = 5.0
    norm: float = 1.0
    speech: float = 10.0
    pitch: float = 5.0
    mean_pitch: float = 0.1
    classified: float = 0.5  # the generator's
    r1: float = 1.0
    source: float = 0.1  # the discriminator's classification of the source
    consistency: float = 10.0


@dataclass(frozen=True)
class Phase:
    """What the schedule has turned on."""

    classify: bool  # the source classifier
    regularise: bool  # consistency under augmentation


@dataclass(frozen=True, eq=False)
class ConverterNets:
    """The networks of a training; pitch and recogniser stay as they are."""

    generator: Generator
    mapping_network: MappingNetwork
    style_encoder: StyleEncoder
    discriminator: Discriminator
    pitch: F0Net
    recogniser: AsrNet

    @classmethod
    def fresh(cls, config: StarganConfig, pitch: F0Net, recogniser: AsrNet) -> ConverterNets:
        """Untrained networks around a trained pitch network and recogniser."""
        freeze(pitch)
        freeze(recogniser)
        nets = cls(
            Generator(config),
            MappingNetwork(config),
            StyleEncoder(config),
            Discriminator(config),
            pitch,
            recogniser,
        )
        for net in nets.trained().values():
            _scale(net)
        return nets

    def trained(self) -> dict[str, nn.Module]:
        """The networks that learn, by the published names."""
        return {
            "generator": self.generator,
            "mapping_network": self.mapping_network,
            "style_encoder": self.style_encoder,
            "discriminator": self.discriminator,
        }


@dataclass(frozen=True, eq=False)
class ConverterBatch:
    """B sources, and what they are to become."""

    mel: Float[Tensor, "B 1 M T"]
    source: Int[Tensor, " B"]  # domain
    target: Int[Tensor, " B"]
    references: tuple[Float[Tensor, "B 1 M T"], Float[Tensor, "B 1 M T"]]  # two of the target
    latents: tuple[Float[Tensor, "B L"], Float[Tensor, "B L"]]


Figures = dict[str, float]


def freeze(net: nn.Module) -> None:
    """No gradients for the weights, no dropout, batch statistics as they are.

    The published training leaves dropout on and lets the statistics drift; that makes the targets
    of the consistency losses noisy and gains nothing.
    """
    net.eval().requires_grad_(False)
    for module in net.modules():
        # cuDNN's recurrent layers have a backward pass in training mode alone; one layer deep
        # there is no dropout in them, so that the mode changes nothing else
        if isinstance(module, nn.LSTM):
            module.train()


def styles(nets: ConverterNets, batch: ConverterBatch, *, latent: bool) -> tuple[Tensor, Tensor]:
    """Two styles of the target for each item, drawn or heard."""
    if latent:
        first, second = (nets.mapping_network(z, batch.target) for z in batch.latents)
    else:
        first, second = (nets.style_encoder(mel, batch.target) for mel in batch.references)
    return first, second


def discriminator_loss(
    nets: ConverterNets,
    batch: ConverterBatch,
    phase: Phase,
    weights: Weights,
    *,
    latent: bool,
    generator: torch.Generator,
) -> tuple[Float[Tensor, ""], Figures]:
    """Real against converted, smooth at real mels, and who a converted mel came from."""
    judge = nets.discriminator
    with torch.no_grad():
        style, _ = styles(nets, batch, latent=latent)
        fake = nets.generator(batch.mel, style, nets.pitch.feature(batch.mel))
    mel = batch.mel.detach().requires_grad_()
    logits = judge(mel, batch.source)
    parts = {
        "d real": losses.adversarial(logits, real=True),
        "d fake": losses.adversarial(judge(fake, batch.target), real=False),
        "r1": weights.r1 * losses.r1(logits, mel),
    }
    if phase.classify:
        differ = batch.source != batch.target
        source = losses.classification(judge.classify(fake), batch.source, differ)
        parts["d source"] = weights.source * source
    if phase.regularise:
        terms = [
            losses.consistency(judge, m, domain, classify=False, generator=generator)
            for m, domain in ((batch.mel, batch.source), (fake, batch.target))
        ]
        if phase.classify:
            terms.append(
                losses.consistency(judge, fake, batch.source, classify=True, generator=generator)
            )
        parts["consistency"] = weights.consistency * torch.stack(terms).sum()
    return _summed(parts)


def generator_loss(
    nets: ConverterNets,
    batch: ConverterBatch,
    phase: Phase,
    weights: Weights,
    *,
    latent: bool,
) -> tuple[Float[Tensor, ""], Figures]:
    """Convincing, in the asked style, and of the same words, melody and loudness."""
    mel = batch.mel
    style, other_style = styles(nets, batch, latent=latent)
    with torch.no_grad():
        pitch, content = nets.pitch(mel), nets.recogniser.content(mel[:, 0])
        source_style = nets.style_encoder(mel, batch.source)
    fake = nets.generator(mel, style, pitch.feature)
    fake_pitch, fake_content = nets.pitch(fake), nets.recogniser.content(fake[:, 0])
    frames = fake.shape[-1]
    with torch.no_grad():
        other = nets.generator(mel, other_style, pitch.feature)
        other_pitch = nets.pitch(other)
    again = nets.generator(fake, source_style, fake_pitch.feature)
    again_pitch, again_content = nets.pitch(again), nets.recogniser.content(again[:, 0])
    # sources whose length is no multiple of the generator's step lose their last frames
    mel, f0 = mel[..., :frames], pitch.f0[:, :frames]
    content = content[..., : fake_content.shape[-1]]
    real = pitch if frames == pitch.f0.shape[1] else nets.pitch(mel)
    found = nets.style_encoder(fake, batch.target)
    parts = {
        "g adversarial": weights.adversarial
        * losses.adversarial(nets.discriminator(fake, batch.target), real=True),
        "style": weights.style * F.l1_loss(found, style),
        "diversity": -weights.diversity * losses.diversity(fake, other, fake_pitch, other_pitch),
        "cycle": weights.cycle
        * losses.cycle(again, mel, again_pitch, real, again_content, content),
        "norm": weights.norm * losses.norm_consistency(fake, mel),
        "speech": weights.speech * F.smooth_l1_loss(fake_content, content),
        "f0": weights.pitch * losses.contour(fake_pitch.f0, f0),
    }
    if phase.classify:
        logits = nets.discriminator.classify(fake)
        differ = batch.source != batch.target
        parts["g source"] = weights.classified * losses.classification(logits, batch.target, differ)
    elif not latent:
        with torch.no_grad():
            wanted = nets.pitch(batch.references[0]).f0
        parts["mean f0"] = weights.mean_pitch * losses.mean_pitch(fake_pitch.f0, wanted)
    return _summed(parts)


def learners(latent: bool) -> tuple[str, ...]:
    """Whose optimizers step after the generator's loss: with a heard style the generator alone."""
    return ("generator", "mapping_network", "style_encoder") if latent else ("generator",)


def beta1(progress: float, low: float = 0.85, high: float = 0.95) -> float:
    """First momentum of AdamW at a share of the training.

    The published settings say 0, but their schedule replaces it by this cosine from 0.85 to 0.95,
    so that this is what the published models were trained with.
    """
    import math

    return high + (low - high) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))


def _summed(parts: Mapping[str, Tensor]) -> tuple[Tensor, Figures]:
    figures = {name: float(part.detach()) for name, part in parts.items()}
    return torch.stack(list(parts.values())).sum(), figures


def _scale(net: nn.Module) -> None:
    """Weights drawn by He's rule, biases 0, as StarGAN v2 starts."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
