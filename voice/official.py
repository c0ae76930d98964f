"""Published voice models as ready values: told apart by content, loaded whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from assets.errors import AssetError
from assets.store import official_file
from assets.weights import install_weights
from voice.asr_net import AsrNet
from voice.converter import Converter, Synthesises, speaker_names
from voice.hifigan import HifiGan
from voice.jdc import F0Net
from voice.mel import MelConfig
from voice.official_config import (
    as_note,
    asr_config,
    check_stargan,
    f0_config,
    hifigan_config,
    pwg_config,
    stargan_config,
)
from voice.official_folder import Release, titles
from voice.official_read import (
    CONVERTER,
    TITLES,
    VOCODERS,
    Networks,
    note,
    read_networks,
    write_networks,
)
from voice.parallel_wavegan import ParallelWaveGan
from voice.stargan import Generator, MappingNetwork, StyleEncoder
from voice.vocoder import Vocoder

Module = TypeVar("Module", bound=nn.Module)
PLACES = ("voice/starganv2vc/bst.t7", "voice/starganv2vc-paddle/bst.pd")


class ConverterNetworks(nn.ModuleDict):
    """What one checkpoint brings, filled together so that one message names every fault."""


def load_converter(
    path: Path | str,
    *,
    pitch: Path | str | None = None,
    vocoder: Path | str | Synthesises | None = None,
    speakers: Sequence[str] | None = None,
) -> Converter:
    """A StarGANv2-VC of any published layout: a file, or a folder as the releases unpack to.

    Takes trainer checkpoints (the moving average before the last step), the PaddlePaddle port's
    files and safetensors. The pitch network is that of `pitch`, else of the folder, of the user's
    folder, of the checkpoint itself; the vocoder is that of `vocoder`, else of the folder, else
    none. AssetError lists every missing, unexpected and misshapen key, or says what the file
    holds instead.
    """
    release = Release(Path(path))
    found, home = release.only(("generator",), "converter")
    if absent := [TITLES[name] for name in CONVERTER if name not in found.tensors]:
        raise AssetError(
            f"{found.described} holds {titles(found)} but not {' and '.join(absent)}; "
            "give the checkpoint that holds all three"
        )
    config = stargan_config(found.tensors, found.described)
    check_stargan(config, home.parent)
    pitch_net = _pitch_network(release, pitch, found)
    parts = ConverterNetworks(
        {
            "generator": _empty(Generator, config),
            "mapping_network": _empty(MappingNetwork, config),
            "style_encoder": _empty(StyleEncoder, config),
        }
    )
    joined = {
        f"{network}.{name}": tensor
        for network in CONVERTER
        for name, tensor in found.tensors[network].items()
    }
    install_weights(parts, joined, described=found.described)
    wanted, given = config.F0_channel, pitch_net.config.channels[-1]
    if wanted not in (0, given):
        raise AssetError(
            f"{found.described} wants pitch features of {wanted} channels, the pitch network has "
            f"{given}; give the one that it was trained with as pitch="
        )
    generator, mapping, style = (parts[name].eval() for name in CONVERTER)
    assert isinstance(generator, Generator)
    assert isinstance(mapping, MappingNetwork)
    assert isinstance(style, StyleEncoder)
    noted = note(found, "speakers") or note(found, "styles")
    if speakers is None and isinstance(noted, list):
        speakers = [str(name) for name in noted]
    names = speaker_names(config.num_domains, speakers)
    return Converter(generator, mapping, style, pitch_net, names, _vocoder_for(release, vocoder))


def load_vocoder(path: Path | str) -> Vocoder:
    """A Parallel WaveGAN or HiFi-GAN of any published layout: a file, or a folder that has one.

    A config.yml or config.json beside the file is read; without one the sizes come from the
    tensors. AssetError as for `load_converter`.
    """
    found, home = Release(Path(path)).only(VOCODERS, "vocoder")
    return _vocoder_of(found, home.parent)


def load_pitch(path: Path | str) -> F0Net:
    """The pitch network of a file (bst.t7, a trainer's checkpoint, ...) or folder."""
    found, _ = Release(Path(path)).only(("f0_model",), "pitch network")
    return _pitch_of(found)


def load_recogniser(path: Path | str) -> AsrNet:
    """The recogniser of a file (epoch_00100.pth, a trainer's checkpoint, ...) or folder."""
    found, _ = Release(Path(path)).only(("asr_model",), "recogniser")
    tensors = found.tensors["asr_model"]
    return _filled(AsrNet, asr_config(tensors, found.described), tensors, found.described)


def convert_to_safetensors(
    source: Path | str, target: Path | str, *, speakers: Sequence[str] | None = None
) -> Path:
    """Write a published file's networks as one safetensors file, which every `load_` here takes.

    Settings that stood beside the source, and the names of its speakers, go into the new file.
    """
    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        raise ValueError(f"{target} must end in .safetensors")
    found = read_networks(source)
    notes = dict(found.notes)
    for network in VOCODERS:
        if network in found.tensors:
            notes["config"] = _vocoder_note(network, found, source.parent)
    if speakers is not None:
        notes["speakers"] = json.dumps(list(speakers))
    write_networks(replace(found, notes=notes), target)
    return target


def _pitch_network(release: Release, given: Path | str | None, found: Networks) -> F0Net:
    if given is not None:
        return load_pitch(given)
    for other, _ in release.having(("f0_model",)):
        if other.tensors.keys() == {"f0_model"}:
            return _pitch_of(other)
    # the trainer's own copy comes last: training moves its batch norms' statistics
    for place in PLACES:
        placed = official_file(place)
        if placed is not None:
            return load_pitch(placed)
    if "f0_model" in found.tensors:
        return _pitch_of(found)
    raise AssetError(
        f"{found.described} has no pitch network; give its file (bst.t7 or bst.pd) as pitch=, or "
        "put it where `avatar doctor` says"
    )


def _pitch_of(found: Networks) -> F0Net:
    tensors = found.tensors["f0_model"]
    return _filled(F0Net, f0_config(tensors, found.described), tensors, found.described)


def _vocoder_for(release: Release, given: Path | str | Synthesises | None) -> Synthesises | None:
    if isinstance(given, (str, Path)):
        vocoder = load_vocoder(given)
    elif given is not None:
        return given
    else:
        fitting = list(release.having(VOCODERS))
        if len(fitting) != 1:
            return None
        vocoder = _vocoder_of(fitting[0][0], fitting[0][1].parent)
    vocoder.require_fit(MelConfig())
    return vocoder


def _vocoder_of(found: Networks, folder: Path) -> Vocoder:
    noted = note(found, "config")
    if "hifigan" in found.tensors:
        tensors = found.tensors["hifigan"]
        sizes, sound = hifigan_config(tensors, found.described, folder, noted)
        vocoder = Vocoder(
            _filled(HifiGan, sizes, tensors, found.described),
            int(sound.get("sampling_rate", 22_050)),
        )
        hop = sound.get("hop_size", vocoder.hop_length)
        if hop != vocoder.hop_length:
            raise AssetError(
                f"the config beside {found.described} says hop_size {hop}, its rates multiply to "
                f"{vocoder.hop_length}; put the right config there"
            )
        return vocoder
    tensors = found.tensors["parallel_wavegan"]
    config, sound = pwg_config(tensors, found.described, folder, noted)
    network = _filled(ParallelWaveGan, config, tensors, found.described)
    return Vocoder(network, int(sound.get("sampling_rate", MelConfig().sample_rate)))


def _vocoder_note(network: str, found: Networks, folder: Path) -> str:
    tensors, noted = found.tensors[network], note(found, "config")
    read = hifigan_config if network == "hifigan" else pwg_config
    return as_note(*read(tensors, found.described, folder, noted))


def _empty(build: type[Module], config: object) -> Module:
    """A network with memory but without numbers, for weights that fill all of it."""
    with torch.device("meta"):
        network = build(config)
    return network.to_empty(device="cpu")


def _filled(
    build: type[Module], config: object, tensors: Mapping[str, Tensor], described: str
) -> Module:
    network = _empty(build, config)
    install_weights(network, tensors, described=described)
    return network.eval()
