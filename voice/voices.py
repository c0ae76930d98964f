"""Voices by name: those that a converter brings, and those that its user added."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assets.errors import AssetError
from assets.store import shipped
from assets.weights import read_metadata
from voice import official
from voice import shipped as own
from voice.converter import RELEASED_SPEAKERS, Converter
from voice.mel import MelConfig
from voice.profiles import Consent, heard_style, read_profiles
from voice.vocoder import Vocoder

SHIPPED, ADDED, OFFICIAL, REFERENCE = "shipped", "added", "official", "reference"
_WOMEN = RELEASED_SPEAKERS[:10]
_FILES = {name: Path(place).name for name, place in own.FILES.items()}


@dataclass(frozen=True, eq=False)
class Voice:
    """A voice to speak in."""

    name: str
    description: str
    gender: str  # female, male, neutral; empty where nobody said
    f0_hz: float  # median pitch of its speech; 0 where it is not known
    source: str
    style: Float[Tensor, "1 S"]
    kind: str = SHIPPED  # or added, official, reference
    consent: Consent | None = None  # of those that were added


@dataclass(frozen=True, eq=False)
class VoiceBook:
    """A converter and the voices that it speaks in."""

    converter: Converter
    voices: tuple[Voice, ...]
    fingerprint: str  # of the converter, to which styles belong
    origins: tuple[tuple[str, str], ...]  # part of the chain -> path, empty where shipped
    others: tuple[str, ...] = ()  # voices that were added for another converter

    def find(self, name: str) -> Voice:
        """The voice of a name, whatever its case; ValueError lists the names, the nearest first."""
        for voice in self.voices:
            if voice.name.casefold() == name.casefold():
                return voice
        if name.casefold() in (other.casefold() for other in self.others):
            raise ValueError(
                f"the voice {name!r} was added for another converter; add it again from its clips, "
                "or give that converter with --converter"
            )
        if not self.voices:
            raise ValueError(f"there is no voice {name!r}: this converter has none; add one first")
        folded = {voice.name.casefold(): voice.name for voice in self.voices}
        near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
        if near:
            raise ValueError(
                f"there is no voice {name!r}; did you mean {folded[near[0]]!r}? "
                f"There are {', '.join(self.names)}"
            )
        raise ValueError(f"there is no voice {name!r}; there are: {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order of the table."""
        return tuple(voice.name for voice in self.voices)

    def like(self, clips: Sequence[Path]) -> Voice:
        """The voice that is heard in recordings, for this once."""
        heard = heard_style(clips, self.converter)
        names = ", ".join(path.name for path in clips)
        return Voice(
            clips[0].stem, "as in the reference", "", heard.f0_hz, names, heard.style, REFERENCE
        )


def open_book(path: Path | None = None, *, vocoder: Path | None = None, seed: int = 0) -> VoiceBook:
    """The voices of the shipped converter, or of the one at a path, and those the user added.

    The path is a file or folder that the project's own training wrote, or a StarGANv2-VC release;
    where such brings no vocoder, the shipped one speaks. The style of a release's speaker is drawn
    from `seed`. AssetError where no converter is installed.
    """
    if path is None:
        _require_installed()
        converter, voices, origins = _own(None, vocoder)
    elif not Path(path).exists() and not _sharded(Path(path)):
        raise AssetError(f"there is no converter at {path}; check the path")
    elif (place := _own_file(Path(path))) is not None:
        converter, voices, origins = _own(place, vocoder)
    else:
        converter, voices, origins = _official(Path(path), vocoder, seed)
    mark = fingerprint(converter.generator, converter.style_encoder)
    added, others = [], []
    for profile in read_profiles():
        if profile.converter == mark:
            added.append(
                Voice(
                    profile.name,
                    profile.description,
                    profile.gender,
                    profile.f0_hz,
                    ", ".join(profile.clips),
                    profile.read_style(),
                    ADDED,
                    profile.consent,
                )
            )
        else:
            others.append(profile.name)
    return VoiceBook(converter, (*voices, *added), mark, origins, tuple(others))


def fingerprint(*networks: nn.Module) -> str:
    """A SHA-256 of all that networks hold: equal for equal networks, whichever file they are of."""
    digest = hashlib.sha256()
    for network in networks:
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _require_installed() -> None:
    for name in ("converter", "f0", "vocoder"):
        try:
            shipped(own.FILES[name])
        except AssetError as error:
            raise AssetError(
                f"no voice converter is installed: assets/{own.FILES[name]} is missing; upgrade "
                "with pip install -U prompt-to-avatar, or give a StarGANv2-VC with --converter PATH"
            ) from error


_Found = tuple[Converter, list[Voice], tuple[tuple[str, str], ...]]


def _own(place: Path | None, vocoder: Path | None) -> _Found:
    """A converter that this project trained: the shipped one, or a file beside its helpers."""

    def beside(name: str) -> Path | None:
        if place is None:
            return None
        other = place.with_name(_FILES[name])
        return other if other.is_file() or _sharded(other) else None

    pitch, sound = beside("f0"), beside("vocoder")
    if vocoder is None or _tells_sizes(vocoder):
        converter = own.load_converter(place, pitch, vocoder or sound)
    else:
        converter = own.load_converter(place, pitch, sound)
        converter = dataclasses.replace(converter, vocoder=_foreign_vocoder(vocoder))
    voices = [
        Voice(v.name, v.description, v.gender, v.f0_hz, v.source, v.style)
        for v in own.shipped_voices(place)
    ]
    places = {"converter": place, "f0": pitch, "vocoder": vocoder or sound}
    return converter, voices, tuple((k, "" if v is None else str(v)) for k, v in places.items())


def _official(path: Path, vocoder: Path | None, seed: int) -> _Found:
    """A published release; its voices are its speakers."""
    given = own.load_vocoder(vocoder) if vocoder is not None and _tells_sizes(vocoder) else vocoder
    converter = official.load_converter(path, vocoder=given)
    sound = str(vocoder or path)
    if converter.vocoder is None:
        try:
            shipped(own.FILES["vocoder"])
        except AssetError as error:
            raise AssetError(
                f"{path} brings no vocoder; give its folder, or a vocoder with --vocoder PATH"
            ) from error
        converter, sound = dataclasses.replace(converter, vocoder=own.load_vocoder()), ""
    voices = []
    for name in converter.speakers:
        style = converter.random_style(name, generator=torch.Generator().manual_seed(seed))
        gender = ("female" if name in _WOMEN else "male") if name in RELEASED_SPEAKERS else ""
        told = f"speaker {name}" + (" of VCTK" if gender else "")
        voices.append(Voice(name, told, gender, 0.0, path.name, style, OFFICIAL))
    return converter, voices, (("converter", str(path)), ("f0", str(path)), ("vocoder", sound))


def _foreign_vocoder(path: Path) -> Vocoder:
    vocoder = official.load_vocoder(path)
    vocoder.require_fit(MelConfig())
    return vocoder


def _own_file(path: Path) -> Path | None:
    """The converter's file where the path is one that the project's own training wrote."""
    place = path / _FILES["converter"] if path.is_dir() else path
    if place.is_file() or _sharded(place):
        return place if _tells_sizes(place) else None
    return None


def _tells_sizes(path: Path) -> bool:
    if path.suffix != ".safetensors" or not (path.is_file() or _sharded(path)):
        return False
    try:
        return isinstance(json.loads(read_metadata(path).get("sizes", "")), dict)
    except ValueError:
        return False


def _sharded(path: Path) -> bool:
    return path.with_name(path.name + ".index.json").is_file()
