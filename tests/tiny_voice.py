"""Small converters with random weights, in files and in memory, and sounds to give them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from assets.weights import write_tensors
from voice.audio import SAMPLE_RATE, Audio
from voice.converter import Converter
from voice.jdc import F0Config, F0Net
from voice.shipped import FILES, ShippedVoice, save_net, voices_entry
from voice.stargan import Generator, MappingNetwork, StarganConfig, StyleEncoder
from voice.vocos import Vocos, VocosConfig

SIZES = StarganConfig(
    dim_in=4, style_dim=6, latent_dim=3, num_domains=2, max_conv_dim=8, F0_channel=4
)
VOICES = (
    ShippedVoice("aria", "Warm, clear.", "female", 205.0, "made up", torch.full((1, 6), 0.5)),
    ShippedVoice("bruno", "Deep, calm.", "male", 98.0, "made up too", torch.full((1, 6), -0.5)),
)


def parts() -> dict[str, nn.Module]:
    """The converter's networks; random, but the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = {
            "generator": Generator(SIZES),
            "mapping_network": MappingNetwork(SIZES),
            "style_encoder": StyleEncoder(SIZES),
            "f0": F0Net(F0Config((2, 2, 3, 4), 3)),
            "vocoder": Vocos(VocosConfig(dim=16, hidden=24, layers=4, pitch_layers=2)),
        }
    return {name: net.eval() for name, net in nets.items()}


def tiny_converter(kind: type[Converter] = Converter, **more: object) -> Converter:
    """A converter in memory."""
    nets = parts()
    names = ("generator", "mapping_network", "style_encoder", "f0")
    return kind(*(nets[name] for name in names), ("here", "anyone"), nets["vocoder"], **more)


def write_converter(folder: Path, domains: tuple[str, str] = ("here", "anyone")) -> Path:
    """A folder as the project's own training leaves it."""
    nets = parts()
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {
        f"{name}.{key}": tensor
        for name in ("generator", "mapping_network", "style_encoder")
        for key, tensor in nets[name].state_dict().items()
    }
    named, told = voices_entry(VOICES)
    sizes = {"sizes": json.dumps(asdict(SIZES)), "styles": json.dumps(domains)}
    place = {name: folder / Path(file).name for name, file in FILES.items()}
    write_tensors(tensors | named, place["converter"], sizes | told)
    save_net(nets["f0"], place["f0"])
    save_net(nets["vocoder"], place["vocoder"])
    return folder


def buzz(hertz: float, seconds: float, *, gain: float = 0.1, drift: float = 0.05) -> Audio:
    """A voiced sound that glides around a pitch, a breath of noise under it, in syllables."""
    count = round(seconds * SAMPLE_RATE)
    at = torch.arange(count, dtype=torch.float64) / SAMPLE_RATE
    now = hertz * 2 ** (drift * torch.sin(2 * torch.pi * 0.7 * at))
    turns = torch.cumsum(now, 0) / SAMPLE_RATE
    # phases after Schroeder: no peaks for a limiter to cut
    tone = sum(
        torch.cos(2 * torch.pi * k * turns + torch.pi * k * k / 15) / k for k in range(1, 16)
    )
    noise = torch.randn(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    syllables = 0.55 + 0.45 * torch.sin(2 * torch.pi * 3.0 * at)
    return Audio((gain * syllables * (tone + 0.01 * noise)).float()[None])
