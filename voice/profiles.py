"""Voices that a user adds: what is heard in clips, with the consent of who is heard."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from assets.errors import AssetError
from assets.files import check_sha256, contained, replacing, safe_name, sha256_of
from assets.store import user_folder
from assets.weights import encode_tensors, read_tensors
from voice.audio import SAMPLE_RATE, Audio
from voice.converter import Converter
from voice.effects import without_offset
from voice.loudness import loudness_lufs
from voice.pitch import PitchConfig, track_pitch

FORMAT, FORMAT_VERSION = "prompt-to-avatar-voice", 1
ANYONE = "anyone"  # the domain of converters that were trained to read unknown speakers
ENOUGH_S = 10.0  # of speech, from which more clips change a style little
_PIECE_S, _LEAST_S = 3.0, 1.0
_LEVEL_LUFS = -20.0  # of clips before their style is read
_QUIET_DB = -40.0  # below a clip's loudest 20 ms, from which on it is a pause
_MARGIN_S = 0.1
_OUTLIER = 3.0  # times the median distance to the middle
_LONGEST_NAME = 40
_FRAMES = 15  # of 10 ms that must have a pitch for a median


@dataclass(frozen=True)
class Consent:
    """Who attests that a voice may be used, for what, and when they did."""

    who: str
    scope: str
    date: str  # ISO 8601

    @classmethod
    def parse(cls, text: str, *, today: datetime.date | None = None) -> Consent:
        """The consent in "who, scope, date"; the scope may have commas of its own."""
        parts = [part.strip() for part in text.split(",")]
        if len(parts) < 3 or not all((parts[0], parts[-1], "".join(parts[1:-1]))):
            raise ValueError(
                f"--consent {text!r} does not tell who attests, for what, and when; write it as "
                "'Ada Berg, narration of our game, 2026-05-31'"
            )
        try:
            date = datetime.date.fromisoformat(parts[-1])
        except ValueError as error:
            raise ValueError(
                f"--consent ends in {parts[-1]!r}, which is no date; end it as in ', 2026-05-31'"
            ) from error
        # a day more: it is tomorrow already somewhere
        if date > (today or datetime.date.today()) + datetime.timedelta(days=1):
            raise ValueError(f"--consent is dated {date}, which is to come; give the day it was")
        return cls(parts[0], ", ".join(part for part in parts[1:-1] if part), date.isoformat())

    def __str__(self) -> str:
        return f"{self.who}, {self.scope}, {self.date}"


@dataclass(frozen=True, eq=False)
class HeardStyle:
    """What clips tell of a voice."""

    style: Float[Tensor, "1 S"]
    f0_hz: float  # median; 0 where nothing is voiced
    seconds: float  # of speech, pauses left out
    pieces: int  # that the style is the mean of
    outliers: int  # pieces that were unlike the rest, and left out
    domain: str  # the converter's, by which they were read


@dataclass(frozen=True)
class Profile:
    """An added voice as it is stored."""

    name: str
    description: str
    gender: str
    f0_hz: float
    seconds: float
    pieces: int
    outliers: int
    domain: str
    converter: str  # fingerprint of the converter that the style belongs to
    clips: Mapping[str, str]  # file name -> SHA-256
    consent: Consent
    style_sha256: str
    added: str = field(default="")  # ISO 8601, UTC

    @property
    def path(self) -> Path:
        """The JSON file of the profile; the style lies beside it."""
        return _place(self.name)

    def read_style(self) -> Float[Tensor, "1 S"]:
        """The style that is stored beside the profile."""
        file = self.path.with_suffix(".safetensors")
        if not file.is_file():
            raise AssetError(f"{file} is missing; add the voice {self.name!r} again")
        check_sha256(file, self.style_sha256)
        return read_tensors(file)["style"]


def voices_folder() -> Path:
    """Where added voices are kept."""
    return user_folder() / "voices"


def voice_name(name: str) -> str:
    """The name, if it can be one: letters, digits, `-` and `_`; ValueError otherwise."""
    if re.fullmatch(r"\w[\w-]*", name) and len(name) <= _LONGEST_NAME and safe_name(name) == name:
        return name
    try:
        near = re.sub(r"[^\w-]+", "-", safe_name(name, longest=_LONGEST_NAME)).strip("-")
    except ValueError:
        near = "anna"
    raise ValueError(
        f"{name!r} cannot be a voice's name; use up to {_LONGEST_NAME} letters, digits, - and _, "
        f"such as {near!r}"
    )


def heard_style(clips: Sequence[Path], converter: Converter) -> HeardStyle:
    """The style of who is heard in clips: a mean over pieces that leaves out the odd ones.

    ValueError where they hold less than a second of speech in all.
    """
    pieces: list[Audio] = []
    pitches: list[np.ndarray] = []
    for path in clips:
        found, hertz = _speech(Audio.read(path))
        pieces += found
        pitches.append(hertz)
    seconds = sum(piece.duration_s for piece in pieces)
    if not pieces:
        names = ", ".join(Path(path).name for path in clips)
        raise ValueError(
            f"{names} hold less than {_LEAST_S:g} s of speech; give {ENOUGH_S:g} s or more"
        )
    domain = ANYONE if ANYONE in converter.speakers else _nearest_domain(pieces[:3], converter)
    styles = torch.cat([converter.style_of(piece, domain) for piece in pieces])
    style, kept = robust_mean(styles)
    voiced = np.concatenate(pitches)
    f0_hz = float(np.median(voiced)) if len(voiced) >= _FRAMES else 0.0
    outliers = int((~kept).sum())
    return HeardStyle(style, f0_hz, seconds, len(pieces) - outliers, outliers, domain)


def robust_mean(styles: Float[Tensor, "N S"]) -> tuple[Float[Tensor, "1 S"], Bool[Tensor, " N"]]:
    """Mean of the styles without those far from the middle of all; and which were kept."""
    middle = styles.quantile(0.5, dim=0)
    distance = (styles - middle).norm(dim=1)
    kept = distance <= _OUTLIER * distance.quantile(0.5) + 1e-9
    return styles[kept].mean(dim=0, keepdim=True), kept


def median_pitch(audio: Audio) -> float:
    """Median pitch of what is voiced in one signal, Hz; 0 where hardly anything is."""
    hertz = _voiced(audio.samples[0].double().numpy())
    return float(np.median(hertz)) if len(hertz) >= _FRAMES else 0.0


def add_profile(
    name: str,
    clips: Sequence[Path],
    consent: Consent,
    *,
    converter: Converter,
    fingerprint: str,
    taken: Sequence[str] = (),
    description: str = "",
    gender: str = "",
) -> Profile:
    """Store a voice of clips under a name; `taken` names cannot be had.

    A voice of that name that was added before is replaced.
    """
    name = voice_name(name)
    if name.casefold() in (other.casefold() for other in taken):
        raise ValueError(f"{name!r} is a voice of the converter itself; choose another name")
    heard = heard_style(clips, converter)
    for other in read_profiles():
        if other.name.casefold() == name.casefold():
            remove_profile(other.name)
    style_file = contained(voices_folder(), f"{name}.safetensors")
    with replacing(style_file) as beside:
        beside.write_bytes(encode_tensors({"style": heard.style}))
    profile = Profile(
        name,
        description,
        gender,
        round(heard.f0_hz, 1),
        round(heard.seconds, 2),
        heard.pieces,
        heard.outliers,
        heard.domain,
        fingerprint,
        _named(clips),
        consent,
        sha256_of(style_file),
        datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(profile)}
    with replacing(profile.path) as beside:
        beside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return profile


def read_profiles() -> tuple[Profile, ...]:
    """The voices that were added, by name."""
    folder = voices_folder()
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return tuple(_read(file) for file in files if not file.name.startswith("."))


def find_profile(name: str) -> Profile:
    """The added voice of a name; ValueError lists those there are."""
    profiles = read_profiles()
    for profile in profiles:
        if profile.name.casefold() == name.casefold():
            return profile
    there = ", ".join(profile.name for profile in profiles) or "none"
    raise ValueError(f"no voice {name!r} was added; those that were: {there}")


def remove_profile(name: str) -> tuple[Path, ...]:
    """Delete an added voice, and return the files that are gone."""
    profile = find_profile(name)
    files = (profile.path, profile.path.with_suffix(".safetensors"))
    for file in files:
        file.unlink(missing_ok=True)
    return files


def _named(clips: Sequence[Path]) -> dict[str, str]:
    """Checksums by file name; where two clips share one, the later has a number."""
    named: dict[str, str] = {}
    for path in clips:
        name, number = path.name, 2
        while name in named:
            name, number = f"{path.stem} ({number}){path.suffix}", number + 1
        named[name] = sha256_of(path)
    return named


def _read(path: Path) -> Profile:
    again = f"delete it, and add the voice {path.stem!r} again"
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if stored.pop("format") != FORMAT or stored.pop("format_version") != FORMAT_VERSION:
            raise AssetError(f"{path} is no voice profile of this version; {again}")
        stored["consent"] = Consent(**stored["consent"])
        profile = Profile(**stored)
        if profile.name != path.stem:
            raise AssetError(f"{path} says that its voice is {profile.name!r}; {again}")
        return profile
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AssetError(f"{path} cannot be read as a voice profile ({error}); {again}") from error


def _place(name: str) -> Path:
    return contained(voices_folder(), f"{name}.json")


def _speech(audio: Audio) -> tuple[list[Audio], Float[np.ndarray, " T"]]:
    """Pieces of a clip's speech without its pauses, at one level, and its voiced pitch in Hz."""
    clean = without_offset(audio)
    lufs = loudness_lufs(clean)
    if not np.isfinite(lufs):
        return [], np.zeros(0)
    row = clean.samples[0].double().numpy() * 10.0 ** ((_LEVEL_LUFS - lufs) / 20.0)
    row = row * min(1.0, 0.98 / float(np.abs(row).max()))
    hop = round(0.02 * SAMPLE_RATE)
    levels = np.sqrt((row[: len(row) // hop * hop].reshape(-1, hop) ** 2).mean(axis=1))
    is_loud = levels > levels.max(initial=0.0) * 10.0 ** (_QUIET_DB / 20.0)
    reach = round(_MARGIN_S / 0.02)
    near = np.convolve(is_loud, np.ones(2 * reach + 1), mode="same") > 0
    spoken = row[: len(near) * hop][np.repeat(near, hop)]
    if len(spoken) < _LEAST_S * SAMPLE_RATE:
        return [], np.zeros(0)
    count = max(1, int(len(spoken) / SAMPLE_RATE / _PIECE_S))
    parts = np.array_split(spoken, count)
    return [Audio(torch.from_numpy(part).float()[None]) for part in parts], _voiced(row)


def _voiced(row: Float[np.ndarray, " N"]) -> Float[np.ndarray, " T"]:
    found = track_pitch(row, PitchConfig(ceiling_hz=800.0, hop_length=240))
    return found[found > 0]


def _nearest_domain(pieces: Sequence[Audio], converter: Converter) -> str:
    """The speaker in whose domain the pieces' style is closest to that speaker's own styles."""
    distances = []
    for name in converter.speakers:
        draws = torch.Generator().manual_seed(0)
        usual = torch.cat([converter.random_style(name, generator=draws) for _ in range(8)])
        heard = torch.cat([converter.style_of(piece, name) for piece in pieces])
        spread = usual.norm(dim=1).mean().clamp_min(1e-6)
        distances.append(float((heard.mean(0) - usual.mean(0)).norm() / spread))
    return converter.speakers[int(np.argmin(distances))]
