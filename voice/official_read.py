"""The networks in a published voice file, by content: whichever program and layout wrote them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from assets.errors import AssetError
from assets.files import replacing, sha256_of
from assets.kinds import N_START, is_pickle, is_safetensors
from assets.store import cache_folder
from assets.torch_files import is_legacy
from assets.weights import encode_tensors, read_metadata, read_tensors
from voice.paddle_files import read_paddle
from voice.weight_norm import folded

log = logging.getLogger(__name__)

FORMAT = "voice-official-1"
CONVERTER = ("generator", "mapping_network", "style_encoder")
VOCODERS = ("parallel_wavegan", "hifigan")
TITLES = {
    "generator": "a converter's generator",
    "mapping_network": "a mapping network",
    "style_encoder": "a style encoder",
    "discriminator": "a discriminator",
    "f0_model": "a pitch network",
    "asr_model": "a recogniser",
    "parallel_wavegan": "a Parallel WaveGAN vocoder",
    "hifigan": "a HiFi-GAN vocoder",
}
# One name that only this network has. Mapping network and style encoder share theirs, and are
# told apart by the group that they are in.
_SIGNATURES = (
    ("generator", "stem."),
    ("discriminator", "dis.main."),
    ("f0_model", "bilstm_classifier."),
    ("asr_model", "to_mfcc."),
    ("parallel_wavegan", "upsample_net."),
    ("hifigan", "conv_pre."),
)
# In the order of preference: a moving average sounds better than the last step.
_ROOTS = ("model_ema.", "model.", "net.", "state_dict.")
# What trainers keep for going on: states of optimisers, and the judges of vocoders.
_ASIDE = re.compile(r"(optimizer|optim_g|optim_d|scheduler|steps|epochs)\b")
_JUDGES = ("discriminator", "mpd", "msd")
_NOTES = ("speakers", "styles", "config")  # `styles` in converters that this project trained


@dataclass(frozen=True, eq=False)
class Networks:
    """Tensors of each network in a file under the published names, weight norm folded in."""

    described: str
    tensors: dict[str, dict[str, Tensor]]
    notes: dict[str, str] = field(default_factory=dict)  # settings that our own files carry


def read_networks(path: Path) -> Networks:
    """The networks of a file, from the cache if it was converted before.

    Raises AssetError for what is no voice network and for tensors that belong to none.
    """
    path = Path(path)
    if not path.is_file():
        raise AssetError(f"{path} is not there; check the path")
    with open(path, "rb") as file:
        start = file.read(N_START)
    if is_safetensors(start, path.stat().st_size):
        return _from_safetensors(path, str(path))
    checksum = sha256_of(path)
    cached = cache_folder() / "voice" / f"{checksum[:32]}.safetensors"
    if cached.is_file():
        try:
            if read_metadata(cached).get("sha256") == checksum:
                return _from_safetensors(cached, str(path))
        except AssetError as error:
            log.warning("converting again: %s", error)
    networks = Networks(str(path), split(_read(path, start), str(path)))
    try:
        write_networks(networks, cached, {"source": path.name, "sha256": checksum})
    except OSError as error:
        log.warning("the converted model cannot be kept in %s: %s", cached.parent, error)
    return networks


def write_networks(networks: Networks, path: Path, notes: Mapping[str, str] | None = None) -> None:
    """Write networks as one safetensors file, which `read_networks` takes."""
    joined = {
        f"{network}.{name}": tensor
        for network, tensors in networks.tensors.items()
        for name, tensor in tensors.items()
    }
    with replacing(path) as written:
        metadata = {"format": FORMAT, **networks.notes, **(notes or {})}
        written.write_bytes(encode_tensors(joined, metadata))


def split(tensors: Mapping[str, Tensor], described: str) -> dict[str, dict[str, Tensor]]:
    """Tensors by network; the moving average goes before the last step of the same network."""
    found: dict[str, dict[str, Tensor]] = {}
    stray: list[str] = []
    rest = {name: tensor for name, tensor in tensors.items() if not _ASIDE.match(name)}
    for root in (*_ROOTS, ""):
        part = {name: rest.pop(name) for name in list(rest) if name.startswith(root)}
        for network, content in _parts(_without(part, root), root, stray).items():
            found.setdefault(network, folded(_renamed(network, content), described))
    if not found:
        groups = sorted({name.split(".")[0] for name in tensors})
        shown = ", ".join(groups[:8]) + (", ..." if len(groups) > 8 else "")
        raise AssetError(
            f"{described} holds none of the known voice networks (StarGANv2-VC, its pitch network "
            f"and recogniser, Parallel WaveGAN, HiFi-GAN) but {shown}; check which file it is"
        )
    if stray:
        shown = ", ".join(sorted(stray)[:12]) + (", ..." if len(stray) > 12 else "")
        raise AssetError(
            f"{described} holds {', '.join(TITLES[name] for name in found)}, and unexpected "
            f"{shown}; nothing of it was loaded, check which file it is"
        )
    return found


def _parts(
    tensors: Mapping[str, Tensor], root: str, stray: list[str]
) -> dict[str, dict[str, Tensor]]:
    if not tensors:
        return {}
    if network := _kind("", tensors):
        return {network: dict(tensors)}
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, inner = name.partition(".")
        groups.setdefault(group, {})[inner] = tensor
    found = {}
    for group, content in groups.items():
        plain = _without(content, "module.") if _all_start(content, "module.") else content
        network = _kind(group, plain)
        if network is None and group in _JUDGES:
            continue
        if network is None:
            stray.extend(f"{root}{group}.{name}".rstrip(".") for name in content)
        else:
            found[network] = plain
    return found


def _kind(group: str, names: Mapping[str, Tensor]) -> str | None:
    for network, signature in _SIGNATURES:
        if any(name.startswith(signature) for name in names):
            return network
    return group if group in ("mapping_network", "style_encoder") else None


def _renamed(network: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names of our modules where publishers' versions differ."""
    if network == "parallel_wavegan":
        form = re.compile(r"^upsample_net\.(?:upsample\.)?up_layers\.")
        return {form.sub("upsample_net.upsample.up_layers.", n): t for n, t in tensors.items()}
    if network == "asr_model":  # the decoder's cell, the only one with such weights
        cell = re.compile(r"^asr_s2s\.\w+\.((?:weight|bias)_[ih]h)$")
        return {cell.sub(r"asr_s2s.decoder_rnn.\1", n): t for n, t in tensors.items()}
    return dict(tensors)


def _read(path: Path, start: bytes) -> dict[str, Tensor]:
    if is_pickle(start) and not is_legacy(start):
        tensors = read_paddle(path.read_bytes(), described=str(path))
        if tensors is not None:
            return tensors
    return read_tensors(path)


def _from_safetensors(path: Path, described: str) -> Networks:
    metadata = read_metadata(path)
    notes = {key: text for key, text in metadata.items() if key in _NOTES}
    return Networks(described, split(read_tensors(path), described), notes)


def note(networks: Networks, key: str) -> object:
    """A setting that our own file carries as JSON, None if it does not."""
    if key not in networks.notes:
        return None
    try:
        value: object = json.loads(networks.notes[key])
    except (ValueError, RecursionError) as error:
        raise AssetError(
            f"{networks.described} has a damaged note {key!r}; make it anew"
        ) from error
    return value


def _without(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _all_start(names: Mapping[str, Tensor], prefix: str) -> bool:
    return all(name.startswith(prefix) for name in names)
