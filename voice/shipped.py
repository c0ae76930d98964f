"""The voice's networks that this project trained itself: where they are, reading, shipping."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assets.errors import AssetError
from assets.store import PACKAGE, register, shipped
from assets.weights import install_weights, read_metadata, read_tensors, write_tensors
from voice.asr_net import AsrConfig, AsrNet
from voice.converter import Converter
from voice.corpus import Corpus
from voice.jdc import F0Config, F0Net
from voice.stargan import Generator, MappingNetwork, StarganConfig, StyleEncoder
from voice.vocos import Vocos, VocosConfig

FILES = {
    "f0": "voice/f0.safetensors",
    "asr": "voice/asr.safetensors",
    "converter": "voice/converter.safetensors",
    "vocoder": "voice/vocoder.safetensors",
}
_PURPOSES = {
    "f0": "pitch and voicing of a mel, and the converter's pitch feature",
    "asr": "phonemes of a mel, and content features that conversion must keep",
    "converter": "a mel in another voice: generator, styles of named voices, style of a clip",
    "vocoder": "sound from mels: filters for pulses and noise, inverse STFT",
}
_Net = TypeVar("_Net", bound=nn.Module)
GENDERS = ("female", "male", "neutral")


@dataclass(frozen=True, eq=False)
class ConverterParts:
    """The converter's networks and the names of its domains."""

    generator: Generator
    mapping_network: MappingNetwork
    style_encoder: StyleEncoder
    styles: tuple[str, ...]
    style_pitch: nn.Linear | None = None  # style to log2 Hz


@dataclass(frozen=True, eq=False)
class ShippedVoice:
    """A named voice of a converter's file, and the style that makes it."""

    name: str
    description: str  # one line for people
    gender: str  # one of GENDERS
    f0_hz: float  # median pitch of its speech
    source: str  # the recordings or the synthesiser that it was learnt from
    style: Float[Tensor, "1 S"]

    def __post_init__(self) -> None:
        if not self.name or self.gender not in GENDERS or not self.f0_hz > 0:
            raise ValueError(
                f"a voice needs a name, a gender of {', '.join(GENDERS)} and a pitch above 0 Hz; "
                f"this is {self.name!r}, {self.gender!r}, {self.f0_hz}"
            )


def shipped_voices(path: Path | None = None) -> tuple[ShippedVoice, ...]:
    """The voices of a file that the stage converter wrote; without a path the shipped ones."""
    tensors, _ = _read("converter", path)
    place = _place("converter", path)
    try:
        rows = json.loads(read_metadata(place)["voices"])
        styles = [style[None] for style in tensors["voice_styles"]]
        return tuple(
            ShippedVoice(**row, style=style) for row, style in zip(rows, styles, strict=True)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise AssetError(
            f"{place} does not tell its voices ({error}); "
            "export it again with: python -m voice.train converter"
        ) from error


def voices_entry(voices: Sequence[ShippedVoice]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata from which `shipped_voices` reads these voices again."""
    if not voices:
        return {}, {}
    rows = [{k: v for k, v in vars(voice).items() if k != "style"} for voice in voices]
    styles = torch.cat([voice.style.detach() for voice in voices])
    return {"voice_styles": styles}, {"voices": json.dumps(rows, ensure_ascii=False)}


def load_f0(path: Path | None = None) -> F0Net:
    """A pitch network that the stage f0 wrote; without a path the shipped one."""
    tensors, sizes = _read("f0", path)
    return _filled(F0Net(F0Config(**sizes)), tensors, "f0", path)


def load_recogniser(path: Path | None = None) -> AsrNet:
    """A recogniser that the stage asr wrote; without a path the shipped one."""
    tensors, sizes = _read("asr", path)
    return _filled(AsrNet(AsrConfig(**sizes)), tensors, "asr", path)


def load_vocoder(path: Path | None = None) -> Vocos:
    """A vocoder that the stage vocoder wrote; without a path the shipped one."""
    tensors, sizes = _read("vocoder", path)
    return _filled(Vocos(VocosConfig(**sizes)), tensors, "vocoder", path)


def load_converter(
    path: Path | None = None, f0: Path | None = None, vocoder: Path | None = None
) -> Converter:
    """The whole chain from sound to sound; shipped networks stand where no path is given."""
    parts = load_parts(path)
    return Converter(
        parts.generator,
        parts.mapping_network,
        parts.style_encoder,
        load_f0(f0),
        parts.styles,
        load_vocoder(vocoder),
        parts.style_pitch,
        keeps_pitch=parts.style_pitch is not None,
        hushes_pauses=True,
    )


def load_parts(path: Path | None = None) -> ConverterParts:
    """The networks that the stage converter wrote; without a path the shipped ones."""
    tensors, sizes = _read("converter", path)
    config = StarganConfig(**sizes)
    styles = tuple(json.loads(read_metadata(_place("converter", path))["styles"]))

    has_pitch = any(key.startswith("style_pitch.") for key in tensors)

    def filled(part: _Net, name: str) -> _Net:
        prefix = f"{name}."
        own = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        return _filled(part, own, "converter", path)

    return ConverterParts(
        filled(Generator(config), "generator"),
        filled(MappingNetwork(config), "mapping_network"),
        filled(StyleEncoder(config), "style_encoder"),
        styles,
        filled(nn.Linear(config.style_dim, 1), "style_pitch") if has_pitch else None,
    )


def save_net(
    net: F0Net | AsrNet | Vocos, path: Path, metadata: dict[str, str] | None = None
) -> list[Path]:
    """Write a network in half precision with its sizes."""
    tensors = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in net.state_dict().items()
    }
    return write_tensors(
        tensors, path, {"sizes": json.dumps(asdict(net.config)), **(metadata or {})}
    )


def ship(
    name: str,
    write: Callable[[Path], list[Path]],
    corpus: Corpus,
    run: Path,
    seed: int,
    figures: dict[str, float] | None = None,
    recipe: str = "",
) -> None:
    """Write a network under `assets/` and enter it into the manifest with its last losses.

    The run's loss curve is put beside the network.
    """
    target = PACKAGE / FILES[name]
    files = write(target)
    with open(run / "loss.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    curve = target.with_name(f"{name}-loss.csv")
    curve.write_bytes((run / "loss.csv").read_bytes())
    last = {key: float(value) for key, value in rows[-1].items() if key != "step"}
    licences = "; ".join(f"{corpus} ({terms})" for corpus, terms in corpus.licences().items())
    register(
        name=f"voice-{name}",
        purpose=_PURPOSES[name],
        licence="MIT",
        attribution=f"trained on {licences}",
        recipe=recipe or f"python -m voice.train {name} --corpus out/corpus --ship",
        files=[*files, curve],
        seed=seed,
        steps=int(rows[-1]["step"]),
        figures=figures or last,
    )


def _place(name: str, path: Path | None) -> Path:
    return shipped(FILES[name]) if path is None else Path(path)


def _read(name: str, path: Path | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    place = _place(name, path)
    tensors = {
        key: t.float() if t.is_floating_point() else t for key, t in read_tensors(place).items()
    }
    try:
        return tensors, _tuples(json.loads(read_metadata(place)["sizes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise AssetError(
            f"{place} does not say its sizes ({error}); "
            f"export it again with: python -m voice.train {name}"
        ) from error


def _tuples(sizes: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where settings have tuples."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in sizes.items()}


def _filled(net: _Net, tensors: dict[str, Tensor], name: str, path: Path | None) -> _Net:
    install_weights(net, tensors, described=str(_place(name, path)))
    return net.eval()
